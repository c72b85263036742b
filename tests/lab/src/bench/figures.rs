//! What the runs say, as rows of the report and as the lists below it.

use std::time::Duration;

use super::one::Waits;
use super::report::{Report, Row, quantile};
use super::runs::{FloorRun, Idle, Runs};
use crate::operator;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// The table.
///
/// # Errors
/// When the operator's binary cannot be looked at.
pub fn report(runs: &Runs) -> anyhow::Result<Report> {
    let mut report = Report::default();
    add_waits(&mut report, &runs.waits);
    if let Some(best) = runs.floor.iter().min_by_key(|run| run.elapsed) {
        add_speed(&mut report, runs, best);
        add_counts(&mut report, runs, best);
        add_storing(&mut report, runs, best);
    }
    if let Some(idle) = &runs.idle {
        add_idle(&mut report, idle);
    }
    add_size(&mut report, runs.resident)?;
    Ok(report)
}

/// What the API server was asked, and where the time went.
pub fn requests(runs: &Runs) -> String {
    let herd = &runs.herd;
    let mut text =
        "Requests to the API server while all were rotated, as it counted them:\n".to_owned();
    for (kind, number) in &herd.cost.requests.0 {
        let (kind, each) = (kind.to_string(), *number as f64 / runs.tokens as f64);
        text += &format!("  {kind:<45} {number:>7} {each:>7.2} per rotation\n");
    }
    let elapsed = herd.elapsed.as_secs_f64();
    let (server, operator) = (herd.cost.cpu_seconds / elapsed, herd.operator_cpu / elapsed);
    text + &format!(
        "Processors in use meanwhile: API server {server:.2}, operator {operator:.2}.\n"
    )
}

/// The bare client by concurrency.
pub fn floor(runs: &Runs) -> String {
    let mut text =
        "The bare client, by rotations at a time; the fastest is in the table:\n".to_owned();
    for run in &runs.floor {
        let tokens = runs.tokens as f64;
        text += &format!(
            "  {:>4}: {:>4.0} per second, {:>4.1} ms of the API server each, answer → stored p99 {} ms\n",
            run.concurrency,
            tokens / run.elapsed.as_secs_f64(),
            1000.0 * run.cost.cpu_seconds / tokens,
            quantile(&run.stored, 0.99).as_millis()
        );
    }
    text
}

fn add_waits(report: &mut Report, waits: &Waits) {
    let second = Duration::from_secs(1);
    for (what, times) in [("requested", &waits.requested), ("due", &waits.scheduled)] {
        let [median, worst] = [0.5, 1.0].map(|share| quantile(times, share));
        let what = format!("one resource, {what} → stored, median / worst");
        let measured = format!("{} / {} ms", median.as_millis(), worst.as_millis());
        report.add(Row::new(what, measured).goal("< 1 s", worst < second));
    }
}

/// How fast many at once are rotated, and at whose expense.
fn add_speed(report: &mut Report, runs: &Runs, best: &FloorRun) {
    let (herd, tokens) = (&runs.herd, runs.tokens as f64);
    let [own, least] = [herd.elapsed, best.elapsed].map(|elapsed| elapsed.as_secs_f64());
    let what = format!("{tokens} due at once, all rotated");
    report.add(Row::new(what, format!("{own:.1} s")).floor(format!("{least:.1} s")));

    let (own, least) = (tokens / own, tokens / least);
    let goal = format!("≥ 0.8 of it: {:.2}", own / least);
    let row = Row::new("rotations per second", format!("{own:.0}"));
    report.add(
        row.floor(format!("{least:.0}"))
            .goal(goal, own >= 0.8 * least),
    );

    let [own, least] = [&herd.cost, &best.cost].map(|cost| 1000.0 * cost.cpu_seconds / tokens);
    let goal = format!("≤ 1.15 of it: {:.2}", own / least);
    let row = Row::new(
        "API server's processor time per rotation",
        format!("{own:.1} ms"),
    );
    report.add(
        row.floor(format!("{least:.1} ms"))
            .goal(goal, own <= 1.15 * least),
    );

    let own = format!("{:.1} ms", 1000.0 * herd.operator_cpu / tokens);
    report.add(Row::new("operator's processor time per rotation", own));
    report.add(Row::new(
        "operator's open files right after",
        herd.open_files,
    ));
}

/// How many requests a rotation takes: the same on every machine.
fn add_counts(report: &mut Report, runs: &Runs, best: &FloorRun) {
    let (own, least) = (&runs.herd.cost.requests, &best.cost.requests);
    let calls = [runs.herd.vendor_calls, best.vendor_calls].map(|calls| calls as u64);
    for (what, (own, least), most) in [
        ("API server writes", (own.writes(), least.writes()), 4),
        ("events", (own.events(), least.events()), 1),
        ("vendor calls", calls.into(), 2),
    ] {
        let each = |number| format!("{:.2}", number as f64 / runs.tokens as f64);
        let met = own <= most * runs.tokens as u64;
        let row = Row::new(format!("{what} per rotation"), each(own)).floor(each(least));
        report.add(row.goal(format!("≤ {most}"), met).required());
    }
}

/// How long a new value exists nowhere but in the operator.
fn add_storing(report: &mut Report, runs: &Runs, best: &FloorRun) {
    let shares = [0.5, 0.99, 1.0];
    let bound = |share| runs.herd.stored.quantile(share).unwrap_or(f64::INFINITY);
    let [p50, p99, worst] = shares.map(|share| 1000.0 * bound(share));
    let what = "vendor's answer → stored, p50 / p99 / worst";
    let row = Row::new(what, format!("≤ {p50} / {p99} / {worst} ms"));
    let row = row.goal("p99 < 100 ms", p99 < 100.0);
    let [p50, p99, worst] = shares.map(|share| quantile(&best.stored, share).as_millis());
    report.add(row.floor(format!("{p50} / {p99} / {worst} ms")));
}

fn add_idle(report: &mut Report, idle: &Idle) {
    let seconds = idle.watched.as_secs();
    for (what, number, goal) in [
        ("vendor calls", idle.vendor_calls as u64, "0"),
        (
            "API server requests",
            idle.requests.at_work(),
            "0 but watches, lease",
        ),
    ] {
        let what = format!("nothing due for {seconds} s: {what}");
        report.add(Row::new(what, number).goal(goal, number == 0).required());
    }
}

fn add_size(report: &mut Report, resident: u64) -> anyhow::Result<()> {
    let binary = std::fs::metadata(operator::binary()?)?.len();
    for (what, bytes, most, of) in [
        ("operator's resident memory", resident, 64.0, "with 10,000"),
        ("operator's binary", binary, 15.0, "as an image"),
    ] {
        let size = bytes as f64 / MEBIBYTE;
        let goal = format!("< {most} MiB {of}");
        report.add(Row::new(what, format!("{size:.1} MiB")).goal(goal, size < most));
    }
    Ok(())
}
