//! The rows of a herd: speed, cost and counts beside the bare client's.

use std::time::Duration;

use super::{cpu, wait_figure};
use crate::bench::herd::Herd;
use crate::bench::report::{Figure, Report, quantile};
use crate::bench::runs::{FloorRun, Size};

/// How fast many at once are rotated, and at whose expense.
pub(super) fn add_speed(
    report: &mut Report,
    tokens: usize,
    herd: Option<&Herd>,
    floor: Option<&FloorRun>,
) {
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
pub(super) fn add_counts(
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
