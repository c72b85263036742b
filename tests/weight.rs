//! What one object weighs in the stores: bytes of the heap. A process of its own, so that nothing else is counted.

use astro_token_operator::api::{Key, WorkspaceTokenRotation};
use astro_token_operator::cluster::decode::{Decode, Item};
use astro_token_operator::cluster::store::{Kept, Store};
use astro_token_operator::decide::managed::Metadata;
use cap::Cap;
use serde_json::{Value, json};
use std::alloc::System;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// So many of each kind.
const OBJECTS: usize = 1000;
/// Resources and their Secrets without the data, as an API server had them.
const WRITTEN: &str = include_str!("../src/operator/observe/tests/first.json");

/// Letters and digits of which each object has others, as it has of real ids.
struct Random(fastrand::Rng);

impl Random {
    fn id(&mut self) -> String {
        let rest = (0..24).map(|_| self.0.char('a'..='z'));
        format!("c{}", rest.collect::<String>())
    }

    fn uuid(&mut self) -> String {
        let hex = format!("{:032x}", self.0.u128(..));
        format!(
            "{}-{}-7{}-8{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..]
        )
    }

    /// Of the last years.
    fn time(&mut self) -> String {
        let seconds = std::time::Duration::from_secs(1_700_000_000 + self.0.u64(0..90_000_000));
        (jiff::Timestamp::UNIX_EPOCH + seconds).to_string()
    }
}

fn written(what: &str) -> Value {
    let all: Value = serde_json::from_str(WRITTEN).unwrap_or_default();
    all["every"][what].clone()
}

/// With ten rotations in its history.
fn resource(number: usize, random: &mut Random) -> Value {
    let mut resource = written("resource");
    let (name, token) = (format!("team-rotation-{number:05}"), random.id());
    let secret = format!("{name}-secret");
    resource["metadata"]["name"] = name.clone().into();
    resource["metadata"]["uid"] = random.uuid().into();
    resource["metadata"]["resourceVersion"] = (10_000_000 + number).to_string().into();
    resource["metadata"]["creationTimestamp"] = random.time().into();
    resource["spec"]["target"]["name"] = secret.clone().into();
    resource["spec"]["token"]["name"] = format!("{name} ci").into();
    resource["spec"]["workspaceId"] = random.id().into();
    let entry = |random: &mut Random| {
        json!({
            "id": random.uuid(), "reason": "Scheduled", "at": random.time(), "tokenId": token, "outcome": "Stored",
        })
    };
    let history: Vec<_> = (0..10).map(|_| entry(random)).collect();
    let status = &mut resource["status"];
    status["lastRotation"] =
        json!({"id": history[0]["id"], "reason": "Scheduled", "at": history[0]["at"]});
    status["history"] = history.into();
    status["binding"]["name"] = secret.clone().into();
    let (rotated, next) = (random.time(), random.time());
    status["token"] = json!({
        "id": token, "name": format!("{name} ci"), "shortToken": &random.id()[..10], "rotatedAt": rotated,
    });
    status["nextRotation"] = next.clone().into();
    let message = format!(
        "Secret {secret} holds the live value, rotated at {rotated}; next rotation at {next}"
    );
    status["conditions"][0]["message"] = message.into();
    status["conditions"][0]["lastTransitionTime"] = random.time().into();
    resource
}

fn secret(number: usize, random: &mut Random) -> Value {
    let mut secret = written("secret");
    let name = format!("team-rotation-{number:05}");
    let metadata = &mut secret["metadata"];
    metadata["name"] = format!("{name}-secret").into();
    metadata["uid"] = random.uuid().into();
    metadata["resourceVersion"] = (10_000_000 + number).to_string().into();
    let mut annotate = |key: &str, text: String| {
        let key = format!("astro-token-operator.io/{key}");
        metadata["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"]
            [format!("f:{key}")] = json!({});
        metadata["annotations"][key] = text.into();
    };
    annotate("owned-by", name);
    annotate("rotated-at", random.time());
    annotate("rotation-id", random.uuid());
    annotate("short-token", random.id()[..10].into());
    annotate("replaced-short-token", random.id()[..10].into());
    annotate("token-id", random.id());
    annotate("adopted", String::new());
    secret
}

/// Bytes of the heap of each object in a store, and of what is left when all are removed.
fn weight<K: Kept + Decode>(make: impl Fn(usize, &mut Random) -> Value) -> (usize, usize) {
    let mut random = Random(fastrand::Rng::with_seed(7));
    let texts: Vec<_> = (0..OBJECTS)
        .map(|number| make(number, &mut random).to_string())
        .collect();
    let before = HEAP.allocated();
    let store = Store::<K>::default();
    for text in &texts {
        let item = serde_json::from_str::<Item<K>>(text);
        store.put(&item.expect("JSON").read().expect("an object"));
    }
    assert_eq!(store.len(), OBJECTS);
    let each = (HEAP.allocated() - before) / OBJECTS;
    for key in store.keys(None) {
        let Key { namespace, .. } = &key;
        assert!(!namespace.is_empty());
        assert!(store.remove(&key).is_some());
    }
    (each, HEAP.allocated() - before)
}

#[test]
fn ten_thousand_of_each_fit_and_nothing_is_left_of_those_that_are_gone() {
    let (resource, rest) = weight::<WorkspaceTokenRotation>(resource);
    println!("a resource: {resource} bytes; left: {rest}");
    let (secret, left) = weight::<Metadata>(secret);
    println!("a Secret: {secret} bytes; left: {left}");
    assert!(resource <= 1434, "{resource} bytes for a resource");
    assert!(secret <= 819, "{secret} bytes for a Secret");
    assert!(rest + left < 2048, "{rest} and {left} bytes are left");
}
