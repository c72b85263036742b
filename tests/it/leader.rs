//! Leadership on a real API server: one leads, hands over, is succeeded, and steps down before another one can start.

use std::time::Duration;

use crate::stage::plane;
use astro_token_operator::cluster::lease::{Candidate, Leadership, Timing};
use astro_token_operator::decide::identity::Identity;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LEASE: &str = "operator";
const TIMING: Timing = Timing {
    lease: Duration::from_secs(6),
    renew_deadline: Duration::from_secs(4),
    retry: Duration::from_millis(300),
};
/// What a busy machine may add to any wait.
const SLACK: Duration = Duration::from_secs(4);

/// A client of the administrator, and a namespace of its own for the test.
async fn start() -> (Client, String) {
    let client = plane().await.client();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("leader-".into());
    let namespace = namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .unwrap();
    (client, namespace.name_any())
}

fn candidate(client: &Client, namespace: &str, pod: &str) -> Candidate {
    Candidate {
        client: client.clone(),
        namespace: namespace.into(),
        name: LEASE.into(),
        identity: Identity::new(Some(pod.into()), String::new(), Uuid::new_v4()),
        timing: TIMING,
    }
}

async fn lead(client: &Client, namespace: &str, pod: &str) -> Leadership {
    timeout(SLACK, candidate(client, namespace, pod).acquire())
        .await
        .expect("a free lease is taken at once")
}

/// A second candidate that waits, and when it began to lead.
fn stand_by(client: &Client, namespace: &str) -> JoinHandle<(Leadership, Instant)> {
    let candidate = candidate(client, namespace, "standby");
    tokio::spawn(async { (candidate.acquire().await, Instant::now()) })
}

/// A client whose connections go silent, without an error, when they are unplugged.
async fn behind(mut config: Config, unplugged: CancellationToken) -> Client {
    let server = config.cluster_url.authority().unwrap().to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = config.cluster_url.host().unwrap().to_owned();
    let scheme = config.cluster_url.scheme().unwrap().clone();
    config.cluster_url = format!("{scheme}://{host}:{port}").parse().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(&server).await.unwrap();
            let unplugged = unplugged.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = unplugged.cancelled() => std::future::pending().await,
                }
            });
        }
    });
    Client::try_from(config).unwrap()
}

async fn lease(client: &Client, namespace: &str) -> Lease {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    leases.get(LEASE).await.unwrap()
}

#[tokio::test]
async fn one_leads_until_it_releases_and_the_other_follows_at_once() {
    let (client, namespace) = start().await;
    let mut first = lead(&client, &namespace, "first").await;
    let mut standby = stand_by(&client, &namespace);
    tokio::select! {
        _ = &mut standby => panic!("two lead"),
        () = first.lost() => panic!("lost although it renews"),
        () = tokio::time::sleep(TIMING.lease * 2) => {}
    }

    let released = Instant::now();
    first.release().await;
    let (_standby, led) = timeout(TIMING.lease, standby).await.unwrap().unwrap();
    let waited = led - released;
    assert!(waited < TIMING.lease - Duration::from_secs(1), "{waited:?}");

    let spec = lease(&client, &namespace).await.spec.unwrap();
    assert!(spec.holder_identity.unwrap().starts_with("standby/"));
    assert_eq!(spec.lease_duration_seconds, Some(6));
    assert_eq!(spec.lease_transitions, Some(1));
    assert!(spec.acquire_time.is_some() && spec.renew_time.is_some());
}

#[tokio::test]
async fn a_silent_leader_is_followed_after_the_lease_and_not_before() {
    let (client, namespace) = start().await;
    drop(lead(&client, &namespace, "first").await);
    let seen = Instant::now();
    let (_standby, led) = timeout(TIMING.lease + SLACK, stand_by(&client, &namespace))
        .await
        .expect("nobody leads")
        .unwrap();
    assert!(led - seen >= TIMING.lease, "{:?}", led - seen);
}

#[tokio::test]
async fn a_restarted_pod_succeeds_itself_at_once() {
    let (client, namespace) = start().await;
    drop(lead(&client, &namespace, "first").await);
    lead(&client, &namespace, "first").await;
}

#[tokio::test]
async fn a_lease_with_times_that_cannot_be_read_is_taken_once_it_has_expired() {
    let (client, namespace) = start().await;
    // The API server takes them; they are later than any that can be represented here.
    let late = "9999-12-31T23:59:59.000000Z";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE},
        "spec": {"holderIdentity": "another", "acquireTime": late, "renewTime": late, "leaseDurationSeconds": 1},
    });
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let request = axum::http::Request::post(path).header("content-type", "application/json");
    let request = request.body(lease.to_string().into_bytes()).unwrap();
    client.request_text(request).await.unwrap();

    let mut leader = lead(&client, &namespace, "first").await;
    let kept = timeout(TIMING.lease, leader.lost()).await;
    assert!(kept.is_err(), "lost although it renews");
    let spec = self::lease(&client, &namespace).await.spec.unwrap();
    assert!(spec.holder_identity.unwrap().starts_with("first/"));
}

#[tokio::test]
async fn an_edit_of_the_lease_does_not_end_leadership_but_another_holder_does() {
    let (client, namespace) = start().await;
    // Long enough that a busy machine does not pass for a leader that waits for its end.
    let timing = Timing {
        lease: Duration::from_secs(45),
        renew_deadline: Duration::from_secs(30),
        ..TIMING
    };
    let first = Candidate {
        timing,
        ..candidate(&client, &namespace, "first")
    };
    let mut leader = timeout(SLACK, first.acquire()).await.expect("nobody leads");
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let edit = |patch: serde_json::Value| {
        let leases = leases.clone();
        async move {
            let params = PatchParams::default();
            leases
                .patch(LEASE, &params, &Patch::Merge(patch))
                .await
                .unwrap();
        }
    };

    edit(json!({"metadata": {"annotations": {"note": "by hand"}}})).await;
    let kept = timeout(TIMING.lease, leader.lost()).await;
    assert!(kept.is_err(), "an annotation ended leadership");

    edit(json!({"spec": {"holderIdentity": "another"}})).await;
    // By what it read, not only by the time that passed without a renewal.
    let soon = timing.renew_deadline - timing.retry * 2;
    timeout(soon, leader.lost()).await.expect("two lead");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_steps_down_before_another_starts() {
    let (client, namespace) = start().await;
    let config = plane().await.config();
    let unplugged = CancellationToken::new();
    let remote = behind(config, unplugged.clone()).await;
    let mut leader = lead(&remote, &namespace, "first").await;
    let standby = stand_by(&client, &namespace);
    unplugged.cancel();

    timeout(TIMING.renew_deadline + SLACK, leader.lost())
        .await
        .expect("it still believes that it leads");
    let stepped_down = Instant::now();
    let (_standby, led) = timeout(TIMING.lease + SLACK, standby)
        .await
        .unwrap()
        .unwrap();
    assert!(stepped_down < led, "two led for {:?}", stepped_down - led);
}
