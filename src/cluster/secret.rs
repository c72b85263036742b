//! The target Secret: its rehearsal, and its write.

use super::decode::{Decode, Item};
use super::error::{Error, LONGEST_MESSAGE};
use crate::api::{WorkspaceTokenRotation, request};
use crate::decide::evidence::{Drift, Held, compare};
use crate::decide::managed::{MANAGER, Metadata};
use crate::decide::ownership::held;
use crate::decide::pace::Pace;
use crate::decide::stamp::Stamp;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ByteString, NamespaceResourceScope};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

/// Characters of the rehearsal's stand-in for the value; vendor values have about a thousand.
const DUMMY_LENGTH: usize = 1200;

/// Everything that goes into a Secret but its value.
pub struct Draft<'a> {
    /// The resource it is for.
    pub owner: &'a WorkspaceTokenRotation,
    /// Name of the Secret.
    pub name: String,
    /// What to write on it.
    pub stamp: Stamp,
    /// The resourceVersion of the Secret that it replaces; `None`: there must be none.
    pub resource_version: Option<String>,
    /// Take the key even from another manager: there is consent, or the value is already in hand.
    pub force: bool,
}

/// A Secret to apply. Holds a value, so its `Debug` shows nothing.
#[derive(Serialize)]
#[serde(transparent)]
struct Body(Secret);

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Whether the new value could land at all: a dry run with a changed dummy, same verb, same manager.
///
/// # Errors
/// What stands in the way, before anything is rotated.
pub async fn rehearse(client: &Client, draft: &Draft<'_>) -> Result<(), Error> {
    // Random, because a value equal to a foreign one would pass as co-owned; of data, because an
    // immutable Secret lets a change of metadata pass.
    let dummy = std::iter::repeat_with(|| uuid::Uuid::new_v4().simple().to_string())
        .take(DUMMY_LENGTH / 32 + 1)
        .collect::<String>();
    let params = PatchParams {
        dry_run: true,
        ..params(draft)
    };
    apply(client, draft, &dummy.into(), &params).await.map(drop)
}

/// Stores the value; returns the evidence as stored.
///
/// # Errors
/// See [`Error`].
pub async fn write(
    client: &Client,
    draft: &Draft<'_>,
    value: &SecretString,
) -> Result<Held, Error> {
    let written = apply(client, draft, value, &params(draft)).await?;
    held(&written, draft.owner).ok_or(Error::Raced)
}

/// How a value was got rid of.
pub enum Landed {
    /// It is in the Secret.
    Stored(Box<Held>),
    /// The Secret already holds a newer one: another process went on without us, and ours is no longer valid.
    Superseded,
    /// The namespace is gone, and with it all that could use the value.
    NoPlace,
}

/// Stores a value that exists nowhere else: tries for as long as the process lives.
///
/// `fresh` says that the draft's resourceVersion was read just now; otherwise it is read again first, so that
/// a process that was paused does not overwrite the work of the one that took over.
pub async fn land(
    client: &Client,
    mut draft: Draft<'_>,
    value: &SecretString,
    mut fresh: bool,
    pace: &Pace,
    mut failing: impl FnMut(&Error),
) -> Landed {
    let api: Api<Item<Metadata>> = api(client, draft.owner);
    let name = draft.name.clone();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(pace.write_retry)
        .with_max_delay(pace.write_longest_retry)
        .without_max_times()
        .with_jitter()
        .build();
    draft.force = true;
    loop {
        if !fresh {
            match api.get_opt(&name).await.and_then(read) {
                Ok(Some(secret)) => {
                    let theirs = held(&secret, draft.owner);
                    if theirs.is_some_and(|theirs| is_newer(&theirs.stamp, &draft.stamp)) {
                        return Landed::Superseded;
                    }
                    draft.resource_version = secret.resource_version();
                }
                Ok(None) => draft.resource_version = None,
                // The write itself will tell.
                Err(_) => {}
            }
        }
        fresh = false;
        match write(client, &draft, value).await {
            Ok(held) => return Landed::Stored(Box::new(held)),
            Err(Error::Raced) => {}
            Err(Error::Unavailable(kube::Error::Api(status)))
                if status.code == 404 && draft.resource_version.is_none() =>
            {
                return Landed::NoPlace;
            }
            Err(error) => {
                failing(&error);
                let pause = pauses.next().unwrap_or(pace.write_longest_retry);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn is_newer(theirs: &Stamp, ours: &Stamp) -> bool {
    let both = (&theirs.version.rotated_at, &ours.version.rotated_at);
    theirs.token_id == ours.token_id
        && both.0 > both.1
        && compare(&ours.version, &theirs.version) == Drift::LiveNewer
}

/// The value under `key` of a Secret, with the resourceVersion it was read at.
///
/// # Errors
/// See [`Error`].
pub async fn value(
    client: &Client,
    owner: &WorkspaceTokenRotation,
    name: &str,
    key: &str,
) -> Result<Option<(SecretString, Option<String>)>, Error> {
    let api: Api<Item<Secret>> = api(client, owner);
    let found = api.get_opt(name).await.and_then(read);
    let Some(mut secret) = found.map_err(|e| verdict(name, e))? else {
        return Ok(None);
    };
    let version = secret.resource_version();
    let bytes = secret.data.as_mut().and_then(|data| data.remove(key));
    let text = bytes.and_then(|bytes| String::from_utf8(bytes.0).ok());
    Ok(text
        .filter(|text| !text.is_empty())
        .map(|text| (text.into(), version)))
}

fn read<T>(found: Option<Item<T>>) -> kube::Result<Option<T>> {
    found.map(Item::read).transpose()
}

fn api<T>(client: &Client, owner: &WorkspaceTokenRotation) -> Api<Item<T>>
where
    T: Decode + Resource<Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), &owner.namespace().unwrap_or_default())
}

fn params(draft: &Draft) -> PatchParams {
    let params = PatchParams::apply(MANAGER);
    if draft.force { params.force() } else { params }
}

async fn apply(
    client: &Client,
    draft: &Draft<'_>,
    value: &SecretString,
    params: &PatchParams,
) -> Result<Metadata, Error> {
    let name = &draft.name;
    let body = Patch::Apply(Body(build(draft, value)));
    api(client, draft.owner)
        .patch(name, params, &body)
        .await
        .and_then(Item::read)
        .map_err(|error| verdict(name, error))
}

/// The Secret as it is applied. `data`, not `stringData`: only then does a conflict show.
fn build(draft: &Draft, value: &SecretString) -> Secret {
    let (owner, target) = (draft.owner, &draft.owner.spec.target);
    let bytes = ByteString(value.expose_secret().as_bytes().to_vec());
    let mut metadata = ObjectMeta {
        name: Some(draft.name.clone()),
        namespace: owner.namespace(),
        resource_version: draft.resource_version.clone(),
        labels: Some(target.labels.clone()),
        annotations: Some(target.annotations.clone()),
        owner_references: target
            .is_deleted_with_owner()
            .then(|| owner.owner_ref(&()).into_iter().collect()),
        ..ObjectMeta::default()
    };
    draft.stamp.write(&mut metadata);
    Secret {
        metadata,
        type_: target.type_.clone(),
        data: Some([(target.key().to_owned(), bytes)].into()),
        ..Secret::default()
    }
}

/// The API server's answer as a verdict (`design` facts: four causes share 403, so the message is kept).
fn verdict(name: &str, error: kube::Error) -> Error {
    let kube::Error::Api(status) = error else {
        return Error::Unavailable(error);
    };
    let message = scrub(&status.message, LONGEST_MESSAGE);
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let has = |reason: &str, field: &str| {
        causes
            .clone()
            .any(|cause| cause.reason == reason && cause.field.ends_with(field))
    };
    let refused = |reason, text: String| Error::Refused(Blocked::new(reason, text));
    match status.code {
        409 if causes
            .clone()
            .any(|cause| cause.reason == "FieldManagerConflict") =>
        {
            refused(
                Reason::SecretNotOurs,
                format!(
                    "a field of Secret {name} belongs to another manager; choose another target.name, or annotate the Secret with {}=<resource name>: {message}",
                    request::ADOPT
                ),
            )
        }
        409 => Error::Raced,
        422 if message.contains("immutable when `immutable` is set") => refused(
            Reason::TargetImmutable,
            format!("Secret {name} is immutable; delete it or choose another target.name"),
        ),
        422 if has("FieldValueInvalid", "type") => refused(
            Reason::TargetTypeDiffers,
            format!(
                "Secret {name} has another type; set target.type to it or delete the Secret: {message}"
            ),
        ),
        400 | 403 | 405..=499 if status.code != 429 => refused(
            Reason::TargetRefused,
            format!("the API server would not store Secret {name}: {message}"),
        ),
        _ => Error::Unavailable(kube::Error::Api(status)),
    }
}
