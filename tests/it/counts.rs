//! What a rotation costs, in numbers that are the same on every machine: requests, passes and refusals, as the API server and
//! the operator count them while many resources are rotated at once. Times are not tested.
//!
//! Whoever makes it cheaper lowers the numbers in [`TODAY`].

use lab::bench::herd::{self, Herd};
use lab::bench::settle::{self, make_model};
use lab::bench::shape::Shape;
use lab::bench::site::{Pace, Site};
use std::collections::BTreeMap;
use std::time::Duration;

/// Due at one instant, in one namespace with one credential.
const RESOURCES: usize = 40;
/// From the last preparation to the due time: the operator has to start meanwhile.
const LEAD: Duration = Duration::from_secs(10);

/// What is expected of the operator as it is.
struct Expected {
    /// Requests to the API server for each rotation, by kind: exactly so many. Reads of the credential are counted apart.
    requests: &'static [(&'static str, u64)],
    /// Reads of a credential in each second, however many rotations need it: at most so many.
    credential_reads: u64,
    /// Writes that were refused because what they were decided on was old, of all rotations together.
    refused: u64,
    /// Passes for each rotation beside the one that begins it: at most so many. Our own writes ask for none.
    further_passes: u64,
}

const TODAY: Expected = Expected {
    requests: &[
        ("APPLY secrets", 1),
        ("APPLY secrets (dry run)", 1),
        ("APPLY workspacetokenrotations/status", 2),
        // Metadata of the target.
        ("GET secrets", 1),
        ("POST events", 1),
    ],
    credential_reads: 1,
    refused: 0,
    // The watch may tell of a write before its answer comes, and asks for a pass then.
    further_passes: 1,
};

#[tokio::test]
async fn a_rotation_takes_no_request_and_no_pass_in_vain() {
    let site = Site::start().await.unwrap();
    let model = make_model(&site).await.unwrap();
    let kind = (RESOURCES, Shape::OneWorkspace);
    let created = settle::create(&site, &model, "counted", kind, LEAD).await;
    let (fleet, due) = created.unwrap();
    let operator = site.operator(Pace::Unlimited, None, &[]).await.unwrap();
    let herd = herd::measure(&site, &fleet, due, &operator, None).await;
    let herd = herd.unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log_tail()));

    assert_eq!(herd.faults, [""; 0]);
    println!(
        "{} refused, {} writes, {} passes, {} reads of the credential in {:?}",
        herd.cost.requests.conflicts(),
        herd.cost.requests.writes(),
        herd.own.passes,
        herd.credential_reads,
        herd.elapsed
    );
    assert_eq!(herd.own.turned_away, 0, "answers 429");
    assert_eq!(herd.vendor.all, 2 * RESOURCES, "calls of the vendor");
    assert_eq!(herd.vendor.rotations, RESOURCES);
    let expected = TODAY.requests.iter();
    let expected: BTreeMap<_, _> = expected
        .map(|&(kind, each)| (kind.to_owned(), each * RESOURCES as u64))
        .collect();
    assert_eq!(accepted(&herd), expected);
    let refused = herd.cost.requests.conflicts();
    assert_eq!(refused, TODAY.refused, "refused writes");
    let passes = herd.own.passes;
    let most = RESOURCES as u64 * (1 + TODAY.further_passes);
    assert!(passes <= most, "{passes} passes for {RESOURCES} rotations");
    // The second in which it begins and the one in which it ends count too.
    let seconds = herd.elapsed.as_secs() + 2;
    let most = TODAY.credential_reads * fleet.namespaces() as u64 * seconds;
    let reads = herd.credential_reads as u64;
    assert!(
        reads <= most,
        "a credential was read {reads} times in {seconds} s"
    );
}

/// Requests by kind, without those of leadership, and without reads of the credential and refused ones, which are asserted by
/// themselves.
fn accepted(herd: &Herd) -> BTreeMap<String, u64> {
    let requests = herd.cost.requests.0.iter();
    let requests = requests.filter(|(kind, _)| {
        let of_controllers = matches!(kind.verb.as_str(), "LIST" | "WATCH");
        kind.refusal.is_empty() && kind.resource != "leases" && !of_controllers
    });
    let mut requests: BTreeMap<_, _> = requests.map(|(kind, n)| (kind.to_string(), *n)).collect();
    if let Some(reads) = requests.get_mut("GET secrets") {
        *reads -= herd.credential_reads as u64;
    }
    requests
}
