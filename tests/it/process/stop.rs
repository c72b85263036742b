//! Nothing is begun once the process has to end, however much waits; what was begun is brought to its end.

use super::*;
use astro_token_operator::api::{RotationOutcome, Status};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use lab::astro::{Issued, Request};
use lab::crash::{End, Gate, Site, Trap, What};
use lab::wait::poll;
use std::collections::HashMap;

/// Resources whose first rotation is due at once.
const MANY: usize = 400;
/// Rotations of one credential that the operator has in flight at once.
const IN_FLIGHT: usize = 8;
/// So many of them are begun when the process has to end.
const BEGUN: usize = 40;
/// The name of the operator's Lease.
const LEASE: &str = "astro-token-operator";

/// A place with a queue before it.
struct Queue {
    place: Place,
    tokens: Vec<Issued>,
}

impl Queue {
    async fn start() -> Self {
        let place = Place::start().await;
        let names = (0..MANY).map(name);
        let tokens = names.clone().map(|name| place.stage.token(&name)).collect();
        let created = names.map(async |name| drop(place.stage.create(&name, json!({})).await));
        let created = stream::iter(created).buffer_unordered(IN_FLIGHT);
        created.collect::<()>().await;
        Self { place, tokens }
    }

    /// A leader that begins 20 rotations a second.
    fn leader(&self, pod: &str) -> Process {
        let pod = format!("--pod-name={pod}");
        let flags = [
            "--leader-election",
            &pod,
            "--rotations-per-second=20",
            "--vendor-timeout=60s",
            // Hundreds that are audited each second keep the machine busy.
            "--audit-interval=1h",
        ];
        let namespace = self.place.stage.namespace.as_str();
        self.place
            .operator_in(&flags, &[("POD_NAMESPACE", namespace)])
    }

    /// Rotate calls that have reached the vendor, in their order.
    fn calls(&self) -> Vec<Request> {
        let mut calls = self.place.stage.astro.requests();
        calls.retain(|request| request.operation == Operation::Rotate);
        calls
    }

    async fn until_called(&self, times: usize) {
        let is_rotate = |request: &Request| request.operation == Operation::Rotate;
        let astro = &self.place.stage.astro;
        astro
            .until(|it| it.count_requests(is_rotate) >= times)
            .await;
    }

    /// The statuses by the id of the token, of those that have one.
    async fn statuses(&self) -> HashMap<String, Status> {
        let all = self.place.stage.resources();
        let all = all.list(&ListParams::default()).await.unwrap();
        let id = |name: &str| {
            let index: usize = name.strip_prefix("due-").unwrap().parse().unwrap();
            self.tokens[index].id.clone()
        };
        let all = all.into_iter();
        all.filter_map(|it| Some((id(it.metadata.name.as_deref()?), it.status?)))
            .collect()
    }

    /// What was called for is stored and known to be, and nothing else was begun.
    async fn assert_in_order(&self, calls: usize) {
        assert_eq!(self.calls().len(), calls);
        let statuses = self.statuses().await;
        let pending = statuses.values().filter(|it| it.pending.is_some());
        assert_eq!(pending.count(), 0);
        let history = statuses.values().flat_map(|status| &status.history);
        let outcomes: Vec<_> = history.map(|entry| entry.outcome).collect();
        assert_eq!(outcomes, vec![RotationOutcome::Stored; calls]);
    }
}

fn name(index: usize) -> String {
    format!("due-{index}")
}

#[tokio::test]
async fn of_a_long_queue_nothing_is_begun_after_the_signal_or_the_loss_of_the_lease() {
    let queue = Queue::start().await;
    let (place, stage) = (&queue.place, &queue.place.stage);

    // As many as may be in flight are held at the vendor, so that no further one is under way.
    let mut first = queue.leader("first");
    queue.until_called(BEGUN).await;
    let held = Fault::on(Operation::Rotate).after(Step::Hold);
    let held = stage.astro.fault(held);
    held.reached_times(IN_FLIGHT).await;
    let begun = queue.calls().len();
    assert!(begun < MANY / 2, "{begun} are no queue");
    first.signal("TERM").await;
    first.until("stopping", SOON).await;
    held.clear();
    let (code, log) = first.end(SOON).await;
    assert_eq!(code, Some(0), "{log:#?}");
    queue.assert_in_order(begun).await;

    // Those that are between their turn and their call when the lease is taken are held by nothing.
    let mut second = queue.leader("second");
    queue.until_called(begun + BEGUN).await;
    let leases: Api<Lease> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let another = Patch::Merge(json!({"spec": {"holderIdentity": "another"}}));
    let params = PatchParams::default();
    leases.patch(LEASE, &params, &another).await.unwrap();
    second.until("finishing what is in flight", SOON).await;
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator has this clock too"
    )]
    let lost = Timestamp::now();
    let (code, log) = second.end(SOON).await;
    assert_eq!(code, Some(1), "{log:#?}");
    let calls = queue.calls();
    assert!(calls.len() < MANY, "all were begun");
    queue.assert_in_order(calls.len()).await;
    let statuses = queue.statuses().await;
    let late = calls.iter().filter(|call| call.at > lost);
    for call in late {
        let status = &statuses[call.token_id.as_ref().unwrap()];
        assert!(
            status.history[0].at.0 <= lost,
            "{call:?} was begun after {lost}"
        );
    }

    let third = place.operator(&[
        "--rotations-per-second=1000",
        "--reads-per-second=1000",
        "--concurrent-rotations=100",
        "--audit-interval=1h",
    ]);
    queue.until_called(MANY).await;
    let done = |status: &&Status| stage::is_ready(status) && status.pending.is_none();
    let ended = poll("all are done", SOON, async || {
        let count = queue.statuses().await.values().filter(done).count();
        Ok((count == MANY).then_some(()).ok_or(count.to_string()))
    });
    ended.await.unwrap();
    stop(third).await;
    queue.assert_in_order(MANY).await;
    for (index, token) in queue.tokens.iter().enumerate() {
        assert_eq!(stage.astro.rotations(&token.id), 1, "{}", name(index));
    }
    let secrets = stage.secrets().list(&ListParams::default()).await.unwrap();
    let values = secrets
        .iter()
        .filter_map(|it| it.data.as_ref()?.get("token"));
    let live = values.filter(|it| stage.astro.is_live(&String::from_utf8_lossy(&it.0)));
    // And the credential.
    assert_eq!(live.count(), MANY + 1);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_signal_between_intent_and_call_takes_the_intent_back_and_makes_no_call() {
    let mut place = Place::start().await;
    let account = plane().await.service_account(HOME, MODE.account());
    let (account, vendor) = (account.await.unwrap(), place.stage.astro.url());
    let gate = Gate::open(account, &vendor).await.unwrap();
    place.kubeconfig = place.stage.dir().join("gate.kubeconfig");
    gate.write_kubeconfig(&place.kubeconfig).unwrap();
    let stage = &place.stage;
    let token = place.create("ci", json!({})).await;
    let intent = Trap {
        site: Site {
            rotates: 0,
            what: What::RecordIntent,
            nth: 0,
        },
        end: End::Held,
    };
    let status = async || stage.resources().get("ci").await.unwrap().status;
    for times in 0..2 {
        let before = status().await.unwrap_or_default();
        gate.arm([("ci".to_owned(), intent)]);
        let mut operator = place.operator(&[]);
        operator.until("watching", SOON).await;
        // The first rotation is due already, and an edit during its intent would make that a conflict.
        if times > 0 {
            stage.request("ci", "now").await;
        }
        let has_intent = |_: &_, status: &Status| status.pending.is_some();
        stage.until("ci", "begun", has_intent).await;
        operator.signal("TERM").await;
        operator.until("stopping", SOON).await;
        gate.release();
        let (code, log) = operator.end(QUICK).await;
        assert_eq!(code, Some(0), "{log:#?}");
        assert_eq!(status().await.unwrap(), before, "{log:#?}");
        assert_eq!(stage.astro.rotations(&token), times);

        gate.arm([]);
        let next = place.operator(&[]);
        stage.until_rotated("ci", times + 1).await;
        stop(next).await;
        assert_eq!(stage.astro.rotations(&token), times + 1);
    }
    let calls = stage
        .astro
        .count_requests(|it| it.operation == Operation::Rotate);
    assert_eq!(calls, 2);
    stage.assert_no_leak().await;
}
