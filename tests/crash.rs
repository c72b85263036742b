//! The operator is killed at every request of everything it does, and the next one heals what it left.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use lab::crash::{Count, Range, Report, What, learn, sample};
use std::io::Write as _;
use std::time::Instant;

/// What one rotation asks of the API server and of the vendor, from the operator's start on.
const ROTATION: [What; 10] = [
    What::ReadCredential,
    What::ListTokens,
    What::ReadSecret,
    What::ReadToken,
    What::Rehearse,
    What::RecordIntent,
    What::Rotate,
    What::WriteSecret,
    What::WriteStatus,
    What::PublishEvent,
];
/// Resources that live and die together, at most.
const BATCH: usize = 100;
/// Runs of what was not reached at the first try: a busy machine may let another request come first, and events are published
/// a few at a time, so of those that are to die at one only a few get there.
const TRIES: usize = 12;
/// Resources that die twice, each at places of its own.
const SAMPLES: usize = 120;

fn assert_healed(reports: &[Report]) {
    let unhealed = reports.iter().filter_map(|report| {
        let broken = report.broken.as_ref()?;
        Some(format!("{}: {broken}", report.plan))
    });
    let unhealed: Vec<_> = unhealed.collect();
    let (number, all) = (unhealed.len(), reports.len());
    assert!(
        unhealed.is_empty(),
        "{number} of {all} not healed:\n{}",
        unhealed.join("\n")
    );
}

/// Into the output of the test run, where a print of a test that passes is not shown.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_request_it_heals() {
    let begun = Instant::now();
    let mut range = Range::start().await.unwrap();
    let learned = learn(&mut range).await.unwrap();
    assert_healed(&learned);
    let whats = learned[1].trace.iter().map(|site| site.what);
    assert_eq!(whats.collect::<Vec<_>>(), ROTATION);

    // Every site of every subject, with every end.
    let plans = learned.iter().flat_map(Report::cuts).collect::<Vec<_>>();
    let number = plans.len();
    let (mut left, mut count) = (plans, Count::default());
    for _ in 0..TRIES {
        if left.is_empty() {
            break;
        }
        let reports = range.run_all(left, BATCH).await.unwrap();
        assert_healed(&reports);
        let (done, missed): (Vec<_>, Vec<_>) =
            reports.into_iter().partition(|it| it.was_cut_everywhere());
        count.add(&done);
        left = missed.into_iter().map(|it| it.plan).collect();
    }
    let missed: Vec<_> = left.iter().map(ToString::to_string).collect();
    assert!(missed.is_empty(), "never got there: {missed:#?}");
    tell(&format!(
        "{number} cuts, each site in each way, in {:.0?}, all healed:\n{count}",
        begun.elapsed()
    ));

    // And where a death is followed by another in the recovery from it.
    let seed = fastrand::u64(..);
    let plans = sample(&learned, SAMPLES, seed);
    let reports = range.run_all(plans, BATCH).await.unwrap();
    let mut count = Count::default();
    count.add(&reports);
    tell(&format!(
        "{SAMPLES} samples of a death in the recovery from a death, seed {seed}:\n{count}"
    ));
    assert_healed(&reports);
}
