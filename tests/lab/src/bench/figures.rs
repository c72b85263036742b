//! What the runs say, as rows of the table and as the lists above it.

mod herd;

use std::time::Duration;

use self::herd::{add_counts, add_speed};
use super::herd::Herd;
use super::memory::SHIPPED_LIMIT;
use super::report::{Figure, Report, exponent, quantile};
use super::runs::{Options, Runs, Size};
use super::shape::Shape;
use super::start::Idle;
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
    add_encrypted(&mut report, runs);
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
            let measured = format!(
                "{seconds:.2} s, {:.2} s of processor time; a bare client's lists {:.2} s",
                start.cpu,
                start.listed.as_secs_f64()
            );
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
        "nothing due: API server requests but watches, lease and credentials",
        "0",
        idle.map(|(_, idle)| {
            let reads = idle.credential_reads as u64;
            let number = idle.requests.at_work().saturating_sub(reads);
            let seconds = idle.watched.as_secs();
            Figure::new(format!("{number} in {seconds} s"), number == 0)
        }),
    );
    // Each of these is for a list, and nothing is kept of a credential from one audit to the next.
    let figures = [
        (
            "reads of credentials",
            (|idle| idle.credential_reads) as fn(&Idle) -> usize,
        ),
        ("vendor calls", |idle| idle.vendor.all),
    ];
    for (what, number) in figures {
        report.goal(
            format!("nothing due: {what}"),
            "≤ 1 per Workspace and audit",
            idle.map(|(size, idle)| {
                let audits = idle.watched.as_secs_f64() / AUDIT.as_secs_f64();
                // The neighbours have one of their own, where there are any.
                let most = (size.workspaces + 1) * audits.ceil() as usize;
                Figure::new(number(idle), number(idle) <= most)
            }),
        );
    }
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

fn add_encrypted(report: &mut Report, runs: &Runs) {
    if let Some((tokens, herd)) = &runs.encrypted {
        let figure = cpu(herd);
        report.figure(
            format!("{tokens}: operator's processor time per rotation, Astro over TLS"),
            format!("{figure:.2} ms"),
            "",
        );
    }
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
