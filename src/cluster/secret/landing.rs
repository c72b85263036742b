//! Stores a value that exists nowhere else.

use super::write::{Draft, metadata, write};
use crate::api::{WorkspaceTokenRotation, evidence};
use crate::cluster::error::Error;
use crate::cluster::store::Store;
use crate::decide::evidence::{Held, Stored};
use crate::decide::managed::Metadata;
use crate::decide::names::is_object_name;
use crate::decide::ownership;
use crate::decide::pace::Pace;
use crate::decide::version::Drift;
use kube::{Api, Client, ResourceExt};
use secrecy::SecretString;
use std::time::Duration;
use uuid::Uuid;

/// So many tries that another party's write came before are nothing to tell of.
const QUIET_RACES: u32 = 3;

/// How a value was got rid of.
pub enum Landed {
    /// It is in the Secret.
    Stored(Box<Held>),
    /// The Secret already holds another one, which is not older: another process went on without us, and the vendor's
    /// record tells which one is live.
    Superseded,
    /// The namespace is gone, and with it all that could use the value.
    NoPlace,
}

/// Stores a value that exists nowhere else: tries for as long as the process lives.
///
/// `fresh` says that the draft's resourceVersion was read just now; otherwise the Secret is read again first, so that a
/// process that was paused does not overwrite the work of the one that took over. A Secret that was not there is read
/// again in any case: it may be another party's by now.
pub async fn land(
    (client, known): (&Client, &Store<Metadata>),
    mut draft: Draft<'_>,
    value: &SecretString,
    mut fresh: bool,
    pace: &Pace,
    mut failing: impl FnMut(&Error),
) -> Landed {
    let namespace = draft.owner.namespace().unwrap_or_default();
    let name = draft.name.clone();
    let mut failures: u32 = 0;
    loop {
        failures = failures.saturating_add(1);
        let place = match fresh && draft.resource_version.is_some() {
            true => Place::Free,
            false => match metadata(client, &namespace, &name).await {
                Ok(found) => {
                    draft.force = found.is_some();
                    draft.resource_version = found.as_ref().and_then(ResourceExt::resource_version);
                    match &found {
                        Some(found) => {
                            place(found, &draft, is_left_behind(client, found, &draft).await)
                        }
                        None => Place::Free,
                    }
                }
                // The write itself will tell.
                Err(_) => Place::Free,
            },
        };
        fresh = false;
        let outcome = match place {
            Place::Free => write((client, known), &draft, value).await,
            Place::Foreign(error) => Err(error),
            Place::Taken => return Landed::Superseded,
        };
        let error = match outcome {
            Ok(held) => return Landed::Stored(Box::new(held)),
            Err(Error::Unavailable(kube::Error::Api(status)))
                if status.code == 404 && draft.resource_version.is_none() =>
            {
                return Landed::NoPlace;
            }
            Err(error) => error,
        };
        if !matches!(error, Error::Raced) || failures > QUIET_RACES {
            failing(&error);
        }
        tokio::time::sleep(pause(&error, failures, pace)).await;
    }
}

/// How long to wait after the try of this number has failed.
fn pause(error: &Error, failures: u32, pace: &Pace) -> Duration {
    let is_refused = matches!(error, Error::Refused(_) | Error::Changed(_));
    // Up to a quarter less: after an outage not all values are tried in step.
    let spread = f64::from(Uuid::new_v4().as_bytes()[0]) / 1024.0;
    let pause = pace
        .after_writes(failures, is_refused)
        .mul_f64(1.0 - spread);
    let asked = match error {
        Error::Unavailable(kube::Error::Api(status)) if status.code == 429 => {
            let details = status.details.as_ref();
            details.map_or(0, |details| details.retry_after_seconds)
        }
        _ => 0,
    };
    pause.max(Duration::from_secs(asked.into()).min(pace.refused_longest_retry))
}

/// What a Secret that was read again is to a value in hand.
enum Place {
    /// The value may be written there.
    Free,
    /// It holds a value that is not known to be older.
    Taken,
    /// It is another party's.
    Foreign(Error),
}

/// Whether a resource wrote this Secret that does not exist any more. Where that is not known, it does exist.
async fn is_left_behind(client: &Client, secret: &Metadata, draft: &Draft<'_>) -> bool {
    let owner = secret.annotations().get(evidence::OWNED_BY);
    let Some(owner) = owner.filter(|owner| **owner != draft.stamp.owner) else {
        return false;
    };
    let namespace = draft.owner.namespace().unwrap_or_default();
    let resources: Api<WorkspaceTokenRotation> = Api::namespaced(client.clone(), &namespace);
    // Anybody who may write Secrets can put any text there, and no resource has a name that is none.
    !is_object_name(owner) || matches!(resources.get_metadata_opt(owner).await, Ok(None))
}

fn place(found: &Metadata, draft: &Draft<'_>, is_left_behind: bool) -> Place {
    let cluster = &draft.stamp.cluster;
    match ownership::read(found, draft.owner, cluster, |_| !is_left_behind) {
        Stored::Foreign(blocked) => Place::Foreign(Error::Refused(blocked)),
        Stored::Absent { .. } | Stored::Consented { .. } => Place::Free,
        Stored::Holds(held) | Stored::Unread(held) => {
            // Nobody waits for what is in a Secret that was left behind.
            let is_of_another = held.stamp.owner != draft.stamp.owner;
            let (theirs, ours) = (&held.stamp, &draft.stamp);
            let is_planned = draft.replaces.as_ref() == Some(theirs);
            // An earlier try was stored, and its answer was lost, or the value came back changed.
            let is_ours = theirs.rotation_id.is_some() && theirs.rotation_id == ours.rotation_id;
            let is_older = theirs.token_id == ours.token_id
                && ours.compare(&theirs.version) == Drift::StoredNewer;
            match is_of_another || is_planned || is_ours || is_older {
                true => Place::Free,
                false => Place::Taken,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Version, WorkspaceTokenRotation};
    use crate::decide::managed::MANAGER;
    use crate::decide::stamp::{Stamp, rotation_id};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
    use serde_json::json;

    fn stamp(second: i64) -> Stamp {
        let at = Timestamp::from_second(1_800_000_000 + second).unwrap();
        Stamp {
            owner: "ci".into(),
            key: "token".into(),
            token_id: "tok".into(),
            cluster: "here".into(),
            rotation_id: Some(rotation_id(at, 1)),
            version: Version {
                rotated_at: Some(Time(at)),
                short_token: Some(format!("short{second}")),
            },
            ..Stamp::default()
        }
    }

    fn secret(stamp: Option<&Stamp>) -> Metadata {
        let mut metadata = ObjectMeta {
            name: Some("s".into()),
            ..ObjectMeta::default()
        };
        let manager = match stamp {
            Some(stamp) => {
                stamp.write(&mut metadata);
                MANAGER
            }
            None => "another",
        };
        let texts = metadata.annotations.iter().flatten();
        let texts: serde_json::Map<_, _> = texts
            .map(|(key, _)| (format!("f:{key}"), json!({})))
            .collect();
        let mut secret: Metadata = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        secret.metadata.managed_fields = serde_json::from_value(json!([{
            "manager": manager, "operation": "Apply",
            "fieldsV1": {"f:data": {"f:token": {}}, "f:metadata": {"f:annotations": texts}},
        }]))
        .unwrap();
        secret
    }

    #[test]
    fn a_429_that_says_for_how_long_is_kept_to_up_to_a_minute() {
        let error = |code: u16, seconds: u32| {
            let status = json!({
                "kind": "Status", "status": "Failure", "code": code, "details": {"retryAfterSeconds": seconds},
            });
            Error::Unavailable(kube::Error::Api(serde_json::from_value(status).unwrap()))
        };
        let waits = |code, seconds| pause(&error(code, seconds), 1, &Pace::SHIPPED);
        assert_eq!(waits(429, 7), Duration::from_secs(7));
        assert_eq!(waits(429, 7_000), Duration::from_secs(60));
        for short in [waits(429, 0), waits(503, 7)] {
            assert!(short <= Pace::SHIPPED.write_retry, "{short:?}");
        }
    }

    #[test]
    fn a_value_in_hand_is_written_over_what_is_known_to_be_older_and_over_nothing_else() {
        let owner = json!({
            "metadata": {"name": "ci", "namespace": "ns"},
            "spec": {"workspaceId": "w", "token": {"id": "tok"}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
        });
        let owner: WorkspaceTokenRotation = serde_json::from_value(owner).unwrap();
        let draft = |replaces: Option<Stamp>| Draft {
            owner: &owner,
            name: "s".into(),
            stamp: stamp(5),
            resource_version: None,
            replaces,
            force: true,
        };
        let told = |found: &Metadata, draft: &Draft<'_>, is_left| match place(found, draft, is_left)
        {
            Place::Free => "free",
            Place::Taken => "taken",
            Place::Foreign(_) => "foreign",
        };
        let other_token = |second| Stamp {
            token_id: "other".into(),
            ..stamp(second)
        };
        for (what, found, replaces, expected) in [
            ("older", Some(stamp(1)), None, "free"),
            ("newer", Some(stamp(9)), None, "taken"),
            (
                "our own, whose answer was lost",
                Some(stamp(5)),
                None,
                "free",
            ),
            ("of another token", Some(other_token(1)), None, "taken"),
            (
                "as planned",
                Some(other_token(1)),
                Some(other_token(1)),
                "free",
            ),
            ("of another party", None, None, "foreign"),
        ] {
            let secret = secret(found.as_ref());
            assert_eq!(told(&secret, &draft(replaces), false), expected, "{what}");
        }
        let of_another = secret(Some(&Stamp {
            owner: "another".into(),
            ..other_token(1)
        }));
        for (is_left, expected) in [(false, "foreign"), (true, "free")] {
            assert_eq!(told(&of_another, &draft(None), is_left), expected);
        }
    }
}
