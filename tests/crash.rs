//! The operator is killed at every request of a rotation, and the next one heals what it left.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod stage;

use lab::astro::{Astro, Fault, Operation, Step};
use lab::gate::{End, Gate};
use serde_json::json;
use stage::{Operator, Stage};
use std::time::{Duration, Instant};

/// Flags of an operator that knows that its predecessor in the same pod is dead, and that makes no
/// request beside those of the rotation.
const FLAGS: [&str; 3] = [
    "--leader-election=false",
    "--pod-name=pod",
    "--audit-interval=1h",
];

/// Where one rotation can be cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// At the nth request to the API server.
    Cluster(usize, End),
    /// At the call to the vendor.
    Vendor(End),
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_request_of_a_rotation_it_heals() {
    let astro = Astro::start().await.unwrap();
    let account = stage::service_account().await;
    let gate = Gate::open(account).await.unwrap();
    let stage = Stage::new(&astro).await;

    // Without a cut, to learn how many requests a rotation has.
    let requests = rotate_undisturbed(&stage, &gate).await;
    println!(
        "one rotation, {} requests to the API server:",
        requests.len()
    );
    for request in &requests {
        println!("  {request}");
    }
    let writes = requests.iter().filter(|it| !it.starts_with("GET"));
    assert_eq!(writes.count(), 5, "four writes and an event");
    let ends = [End::Before, End::After];
    let cluster = (0..requests.len()).flat_map(|n| ends.map(|end| Cut::Cluster(n, end)));
    let cuts: Vec<_> = cluster.chain(ends.map(Cut::Vendor)).collect();
    let mut lost = 0;
    for (number, cut) in cuts.iter().enumerate() {
        let (held, calls) = heal(&stage, &gate, number, *cut).await;
        let (expected, dead) = match *cut {
            Cut::Cluster(n, end) => {
                let same = requests[n].replace("calm", &format!("cut-{number}"));
                let write = format!("PATCH {}", secret_path(&stage, number));
                (same, held == write && end == End::Before)
            }
            Cut::Vendor(_) => (held.clone(), true),
        };
        assert_eq!(held, expected, "{cut:?}");
        assert_eq!(calls, if dead { 3 } else { 2 }, "{cut:?}: rotations");
        lost += calls - 2;
    }
    println!(
        "{} cuts, all healed, {lost} values lost and replaced",
        cuts.len()
    );
    stage.assert_no_leak().await;
}

fn secret_path(stage: &Stage, number: usize) -> String {
    format!(
        "/api/v1/namespaces/{}/secrets/cut-{number}-secret",
        stage.namespace
    )
}

/// The requests of a requested rotation, from the look at the Secret to the event.
async fn rotate_undisturbed(stage: &Stage, gate: &Gate) -> Vec<String> {
    let operator = Operator::start(gate.config(), &stage.astro, &FLAGS);
    stage.token("calm");
    stage.create("calm", json!({})).await;
    stage.until_rotated("calm", 1).await;
    stage.until_event("calm", 1).await;
    gate.disarm();
    stage.request("calm", "now").await;
    stage.until_rotated("calm", 2).await;
    stage.until_event("calm", 2).await;
    let seen = gate.seen();
    operator.stop().await.unwrap();
    stage.delete("calm").await;
    seen
}

/// Kills an operator at `cut` of a rotation, lets another one heal it; returns the request it died at
/// and how many rotations there were.
async fn heal(stage: &Stage, gate: &Gate, number: usize, cut: Cut) -> (String, usize) {
    let name = format!("cut-{number}");
    let token = stage.token(&name);
    gate.disarm();
    let victim = Operator::start(gate.config(), &stage.astro, &FLAGS);
    stage.create(&name, json!({})).await;
    stage.until_rotated(&name, 1).await;
    stage.until_event(&name, 1).await;

    let reached = tokio::time::timeout(stage::DEADLINE, async {
        match cut {
            Cut::Cluster(n, end) => {
                gate.trap(n, end);
                stage.request(&name, "now").await;
                gate.sprung().await;
            }
            Cut::Vendor(end) => {
                let fault = Fault::on(Operation::Rotate).token(&token.id).once();
                let fault = stage.astro.fault(match end {
                    End::Before => fault.before(Step::Hold),
                    End::After => fault.after(Step::Hold),
                });
                stage.request(&name, "now").await;
                fault.reached().await;
                return Some(fault);
            }
        }
        None
    });
    let held = reached
        .await
        .unwrap_or_else(|_| panic!("{cut:?}: never got there: {:?}", gate.seen()));
    let at = match cut {
        Cut::Cluster(..) => gate.seen().pop().unwrap_or_default(),
        Cut::Vendor(_) => "POST …/rotate".into(),
    };
    victim.kill().await;
    if let (Some(fault), Cut::Vendor(End::Before)) = (&held, cut) {
        // The call is still on its way: it lands after its caller has died.
        fault.release();
    }
    let dead_since = (!stage.holds_live(&name).await).then(Instant::now);

    gate.disarm();
    let healer = Operator::start(gate.config(), &stage.astro, &FLAGS);
    let rested = |_: &_, status: &astro_token_operator::api::Status| {
        stage::is_ready(status)
            && status.pending.is_none()
            && status.handled_request.as_deref() == Some("now")
    };
    stage
        .until(&name, &format!("healed after {cut:?}"), rested)
        .await;
    assert!(
        stage.holds_live(&name).await,
        "{cut:?}: a dead value and Ready=True"
    );
    let calls = stage.astro.rotations(&token.id);
    assert!(
        (2..=3).contains(&calls),
        "{cut:?}: {calls} rotations for two causes"
    );
    let dead = dead_since.map_or(Duration::ZERO, |since| since.elapsed());
    println!("{cut:?}: {calls} rotations, dead for {dead:?}, at {at}");
    healer.stop().await.unwrap();
    stage.delete(&name).await;
    (at, calls)
}
