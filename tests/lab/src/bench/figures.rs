//! What the runs say, as rows of the table and as the lists above it.

use std::time::Duration;

use super::herd::Herd;
use super::memory::SHIPPED_LIMIT;
use super::report::{Figure, Report, exponent, quantile};
use super::runs::{FloorRun, Options, Runs, Size};
use super::shape::Shape;
use crate::operator;

const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// From one look at everything to the next, as shipped.
const AUDIT: Duration = Duration::from_secs(600);
/// What counts as no growth, where times are measured.
const LEVEL: f64 = 0.05;

/// The table.
///
/// # Errors
/// When the operator's binary cannot be looked at.
pub fn report(runs: &Runs, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::default();
    add_waits(&mut report, runs);
    for &tokens in &options.sizes {
        let size = runs.sizes.iter().find(|size| size.tokens == tokens);
        let herd = size.and_then(|size| size.herd.as_ref());
        let floor = size.and_then(|size| size.floor.iter().min_by_key(|run| run.elapsed));
        add_speed(&mut report, tokens, herd, floor);
        add_counts(&mut report, (tokens, size), herd, floor);
        add_memory(&mut report, (tokens, size));
        add_start(&mut report, (tokens, size));
    }
    add_growth(&mut report, runs);
    add_shapes(&mut report, runs);
    add_idle(&mut report, runs);
    add_limited(&mut report, runs);
    add_attacks(&mut report, runs);
    add_peer(&mut report, runs);
    add_binary(&mut report)?;
    Ok(report)
}

fn add_waits(report: &mut Report, runs: &Runs) {
    for (what, which) in [("requested", 0), ("due", 1)] {
        let figure = runs.waits.as_ref().map(|waits| {
            let times = [&waits.requested, &waits.scheduled][which];
            wait_figure(times)
        });
        report.goal(
            format!("one resource, {what} → stored, median / worst"),
            "< 1 s",
            figure,
        );
    }
}

fn wait_figure(times: &[Duration]) -> Figure {
    let [median, worst] = [0.5, 1.0].map(|share| quantile(times, share));
    let measured = format!("{} / {} ms", median.as_millis(), worst.as_millis());
    Figure::new(measured, worst < Duration::from_secs(1))
}

/// How fast many at once are rotated, and at whose expense.
fn add_speed(report: &mut Report, tokens: usize, herd: Option<&Herd>, floor: Option<&FloorRun>) {
    let both = herd.zip(floor);
    if let Some(herd) = herd {
        let least = floor.map(|floor| format!("{:.1} s", floor.elapsed.as_secs_f64()));
        report.figure(
            format!("{tokens} due at once, all rotated"),
            format!("{:.1} s", herd.elapsed.as_secs_f64()),
            least.unwrap_or_default(),
        );
    }
    let speed = both.map(|(herd, floor)| {
        let rate = |elapsed: Duration| tokens as f64 / elapsed.as_secs_f64();
        let (own, least) = (rate(herd.elapsed), rate(floor.elapsed));
        let measured = format!("{own:.0}: {:.2} of it", own / least);
        Figure::new(measured, own >= 0.9 * least).floor(format!("{least:.0}"))
    });
    report.goal(
        format!("{tokens}: rotations per second"),
        "≥ 0.9 of the bare client's",
        speed,
    );
    let server = both.map(|(herd, floor)| {
        let own = 1000.0 * herd.cost.cpu_seconds / herd.rotations as f64;
        let least = 1000.0 * floor.cost.cpu_seconds / tokens as f64;
        let measured = format!("{own:.2} ms: {:.2} of it", own / least);
        Figure::new(measured, own <= 1.1 * least).floor(format!("{least:.2} ms"))
    });
    report.goal(
        format!("{tokens}: API server's processor time per rotation"),
        "≤ 1.1 of the bare client's",
        server,
    );
    let own = herd.map(|herd| {
        let own = cpu(herd);
        Figure::new(format!("{own:.2} ms"), own <= 2.0)
    });
    report.goal(
        format!("{tokens}: operator's processor time per rotation"),
        "≤ 2 ms",
        own,
    );
    let stored = herd.map(|herd| {
        let shares = [0.5, 0.99, 1.0];
        let bound = |share| herd.stored.quantile(share).unwrap_or(f64::INFINITY);
        let [p50, p99, worst] = shares.map(|share| 1000.0 * bound(share));
        let measured = format!("≤ {p50:.0} / {p99:.0} / {worst:.0} ms");
        let least = floor.map(|floor| {
            let [p50, p99, worst] = shares.map(|share| quantile(&floor.stored, share).as_millis());
            format!("{p50} / {p99} / {worst} ms")
        });
        Figure::new(measured, p99 <= 100.0).floor(least.unwrap_or_default())
    });
    report.goal(
        format!("{tokens}: answer → stored, p50 / p99 / worst"),
        "p99 < 100 ms",
        stored,
    );
    let neighbours = herd.filter(|herd| !herd.neighbours.is_empty());
    report.goal(
        format!("{tokens}: a neighbour's request → stored meanwhile, median / worst"),
        "< 1 s",
        neighbours.map(|herd| wait_figure(&herd.neighbours)),
    );
}

/// How many requests a rotation takes: the same on every machine.
fn add_counts(
    report: &mut Report,
    (tokens, size): (usize, Option<&Size>),
    herd: Option<&Herd>,
    floor: Option<&FloorRun>,
) {
    type Count = fn(&Herd) -> u64;
    type Least = fn(&FloorRun) -> u64;
    let counts: [(&str, Count, Least, u64); 3] = [
        (
            "API server writes",
            |herd| herd.cost.requests.writes(),
            |floor| floor.cost.requests.writes(),
            4,
        ),
        (
            "events",
            |herd| herd.cost.requests.events(),
            |floor| floor.cost.requests.events(),
            1,
        ),
        (
            "vendor calls",
            |herd| herd.vendor.all as u64,
            |floor| floor.vendor_calls as u64,
            2,
        ),
    ];
    for (what, own, least, most) in counts {
        let figure = herd.map(|herd| {
            let own = own(herd);
            let each = format!("{:.2}", own as f64 / herd.rotations as f64);
            let least = floor.map(|floor| format!("{:.2}", least(floor) as f64 / tokens as f64));
            let met = own <= most * herd.rotations as u64;
            Figure::new(each, met).floor(least.unwrap_or_default())
        });
        let what = format!("{tokens}: {what} per rotation");
        report.goal(what, format!("≤ {most}"), figure);
    }
    let zeros: [(&str, Count); 2] = [
        ("writes refused (409)", |herd| {
            herd.cost.requests.conflicts()
        }),
        ("requests turned away (429)", |herd| herd.own.turned_away),
    ];
    for (what, count) in zeros {
        let figure = herd.map(|herd| Figure::new(count(herd), count(herd) == 0));
        report.goal(format!("{tokens}: {what}"), "0", figure);
    }
    let reads = herd.zip(size).map(|(herd, size)| {
        // The neighbours are in a namespace of their own.
        let namespaces = size.namespaces + usize::from(!herd.neighbours.is_empty());
        let seconds = herd.elapsed.as_secs_f64().ceil() + 1.0;
        let each = herd.credential_reads as f64 / namespaces as f64 / seconds;
        let all = herd.credential_reads;
        Figure::new(format!("{each:.2} ({all} in all)"), each <= 1.0)
    });
    report.goal(
        format!("{tokens}: reads of a credential per namespace and second"),
        "≤ 1",
        reads,
    );
    if let Some(herd) = herd {
        let each = herd.own.passes as f64 / herd.rotations as f64;
        report.figure(
            format!("{tokens}: passes per rotation"),
            format!("{each:.2}"),
            "",
        );
        let what = format!("{tokens}: open files right after");
        report.figure(what, herd.open_files, "");
    }
}

fn add_memory(report: &mut Report, (tokens, size): (usize, Option<&Size>)) {
    let start = size.and_then(|size| size.start.as_ref());
    let herd = size.and_then(|size| size.herd.as_ref());
    let below =
        |most: f64| move |bytes: u64| Figure::new(mib(bytes), bytes as f64 / MEBIBYTE < most);
    report.goal(
        format!("{tokens}: resident at rest after a start, full history"),
        "< 64 MiB",
        start.map(|start| below(64.0)(start.resident)),
    );
    report.goal(
        format!("{tokens}: resident at most while all are due"),
        "< 96 MiB",
        herd.map(|herd| below(96.0)(herd.most_resident)),
    );
    if let Some(start) = start {
        let what = format!("{tokens}: resident at most during the start");
        report.figure(what, mib(start.most_resident), "");
        let charged = match &start.charged {
            Ok(bytes) => mib(*bytes),
            Err(why) => format!("skipped: {why}"),
        };
        let what = format!("{tokens}: peak of the control group after the start");
        report.figure(what, charged, "");
    }
    if let Some(bytes) = size.and_then(|size| size.charged) {
        let what = format!("{tokens}: peak of the control group after the herd");
        report.figure(what, mib(bytes), "");
    }
    if let Some(bytes) = size.and_then(|size| size.afterwards) {
        report.figure(
            format!("{tokens}: resident a minute after the herd"),
            mib(bytes),
            "",
        );
    }
}

fn add_start(report: &mut Report, (tokens, size): (usize, Option<&Size>)) {
    let start = size.and_then(|size| Some((size, size.start.as_ref()?)));
    report.goal(
        format!("{tokens}: start, nothing due, all evaluated"),
        "≤ 2.5 s",
        start.map(|(_, start)| {
            let seconds = start.evaluated.as_secs_f64();
            let measured = format!("{seconds:.2} s, {:.2} s of processor time", start.cpu);
            Figure::new(measured, seconds <= 2.5)
        }),
    );
    report.goal(
        format!("{tokens}: start, lists of the vendor"),
        "≤ 1 per Workspace",
        start.map(|(size, start)| {
            // The neighbours have one of their own, where there are any.
            let most = size.workspaces + 1;
            let pages = tokens
                .div_ceil(size.workspaces.max(1))
                .div_ceil(1000)
                .max(1);
            Figure::new(start.vendor.lists, start.vendor.lists <= most * pages)
        }),
    );
    report.goal(
        format!("{tokens}: start, writes and rotations"),
        "0",
        start.map(|(_, start)| {
            let number = start.requests.writes() + start.vendor.rotations as u64;
            Figure::new(number, number == 0)
        }),
    );
}

/// How the operator's processor time per rotation grows with the number that is due at once.
fn add_growth(report: &mut Report, runs: &Runs) {
    let herds = runs.sizes.iter();
    let herds = herds.filter_map(|size| Some((size.tokens as f64, cpu(size.herd.as_ref()?))));
    let figure = exponent(&herds.collect::<Vec<_>>())
        .map(|found| Figure::new(format!("N^{found:.2}"), found <= LEVEL));
    report.goal(
        "operator's processor time per rotation grows with",
        format!("≤ N^{LEVEL}"),
        figure,
    );
}

fn add_shapes(report: &mut Report, runs: &Runs) {
    for shape in Shape::ALL {
        let most = if shape == Shape::Namespaces {
            80.0
        } else {
            64.0
        };
        let found = runs.shapes.iter().find(|(it, _)| *it == shape);
        let figure = found.map(|(_, start)| {
            let bytes = start.resident;
            let lists = start.vendor.lists;
            let measured = format!("{}, {lists} lists", mib(bytes));
            Figure::new(measured, (bytes as f64) < most * MEBIBYTE)
        });
        let goal = format!("< {most} MiB");
        report.goal(format!("resident at rest: {shape}"), goal, figure);
    }
}

fn add_idle(report: &mut Report, runs: &Runs) {
    let idle = runs
        .sizes
        .iter()
        .find_map(|size| Some((size, size.idle.as_ref()?)));
    report.goal(
        "nothing due: API server requests but watches and lease",
        "0",
        idle.map(|(_, idle)| {
            let number = idle.requests.at_work();
            let seconds = idle.watched.as_secs();
            Figure::new(format!("{number} in {seconds} s"), number == 0)
        }),
    );
    report.goal(
        "nothing due: vendor calls",
        "≤ 1 per Workspace and audit",
        idle.map(|(size, idle)| {
            let audits = (idle.watched.as_secs_f64() / AUDIT.as_secs_f64()).ceil() as usize;
            // The neighbours have one of their own, where there are any.
            let most = (size.workspaces + 1) * audits;
            Figure::new(idle.vendor.all, idle.vendor.all <= most)
        }),
    );
    if let Some((_, idle)) = idle {
        let measured = format!("{:.2} s in {} s", idle.cpu, idle.watched.as_secs());
        report.figure("nothing due: operator's processor time", measured, "");
    }
}

fn add_limited(report: &mut Report, runs: &Runs) {
    let limited = runs.limited.as_ref();
    if let Some(limited) = limited {
        report.figure(
            format!(
                "{} with one credential at the vendor's pace",
                limited.tokens
            ),
            format!("{:.1} s", limited.herd.elapsed.as_secs_f64()),
            format!("at least {} s", limited.least.as_secs()),
        );
    }
    report.goal(
        "calls that the vendor turned away (429) at its own limits",
        "0",
        limited.map(|limited| {
            let number = limited.herd.vendor.turned_away;
            Figure::new(number, number == 0)
        }),
    );
}

fn add_attacks(report: &mut Report, runs: &Runs) {
    for attack in &runs.attacks {
        let killed = if attack.killed {
            ", KILLED for its memory"
        } else {
            ""
        };
        let waits = wait_text(&attack.neighbours);
        let measured = format!("{}{killed}", mib(attack.most_resident));
        report.figure(
            format!("hostile, {}: resident at most", attack.what),
            measured,
            "",
        );
        report.figure(
            format!("hostile, {}: a neighbour's wait", attack.what),
            waits,
            "",
        );
    }
    let is_measured = !runs.attacks.is_empty();
    report.goal(
        "hostile objects, each and all: resident at most",
        "< 128 MiB, none killed",
        is_measured.then(|| {
            let most = runs.attacks.iter().map(|it| it.most_resident).max();
            let most = most.unwrap_or_default();
            let killed = runs.attacks.iter().filter(|it| it.killed).count();
            let measured = format!("{}, {killed} killed", mib(most));
            Figure::new(measured, most < SHIPPED_LIMIT && killed == 0)
        }),
    );
    report.goal(
        "hostile objects: a neighbour's request → stored, median / worst",
        "< 1 s",
        is_measured.then(|| {
            let all = runs.attacks.iter().flat_map(|it| it.neighbours.clone());
            wait_figure(&all.collect::<Vec<_>>())
        }),
    );
}

fn wait_text(times: &[Duration]) -> String {
    let [median, worst] = [0.5, 1.0].map(|share| quantile(times, share).as_millis());
    format!("{median} / {worst} ms")
}

fn add_peer(report: &mut Report, runs: &Runs) {
    let largest = runs.sizes.iter().max_by_key(|size| size.tokens);
    let own = largest.and_then(|size| Some(size.start.as_ref()?.resident));
    let figure = match &runs.peer {
        Some(Ok(peer)) => own
            .filter(|_| largest.is_some_and(|size| size.tokens == peer.tokens))
            .map(|own| {
                let share = own as f64 / peer.resident as f64;
                let measured = format!("{share:.2} of {}", mib(peer.resident));
                Figure::new(measured, share <= 0.5)
            }),
        _ => None,
    };
    report.goal(
        "resident at rest beside kube-controller-manager",
        "≤ 1/2",
        figure,
    );
    if let Some(Err(why)) = &runs.peer {
        report.figure(
            "kube-controller-manager",
            format!("not measured: {why}"),
            "",
        );
    }
}

fn add_binary(report: &mut Report) -> anyhow::Result<()> {
    let bytes = std::fs::metadata(operator::binary()?)?.len();
    let figure = Figure::new(mib(bytes), bytes < 15_000_000);
    report.goal("operator's binary, as an image", "< 15 MB", Some(figure));
    Ok(())
}

/// The operator's milliseconds of processor time per rotation.
fn cpu(herd: &Herd) -> f64 {
    1000.0 * herd.operator_cpu / herd.rotations as f64
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MEBIBYTE)
}
