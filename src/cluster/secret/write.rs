//! What is written into a Secret, and how it is read back.

use crate::api::{GROUP, MANAGED_BY, WorkspaceTokenRotation, request};
use crate::cluster::answer::Answer;
use crate::cluster::decode::{Item, shallow};
use crate::cluster::error::{Error, LONGEST_MESSAGE};
use crate::cluster::store::Store;
use crate::decide::evidence::Held;
use crate::decide::managed::{MANAGER, Metadata};
use crate::decide::ownership::held;
use crate::decide::stamp::Stamp;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{GetParams, Patch, PatchParams, Request};
use kube::{Client, Resource, ResourceExt};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Length of the longest value that this process has stored, in bytes.
pub(super) static LONGEST_VALUE: AtomicUsize = AtomicUsize::new(0);

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
    /// What is written on that Secret, where it is ours.
    pub replaces: Option<Stamp>,
    /// Take the key even from another manager: there is consent, or the value is already in hand.
    pub force: bool,
}

/// A Secret to apply. Holds a value, so its `Debug` shows nothing.
#[derive(Serialize)]
#[serde(transparent)]
struct Body<'a>(&'a Secret);

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Stores the value; returns the evidence as stored. `known` learns of it before the watch tells.
///
/// # Errors
/// See [`Error`].
pub async fn write(
    (client, known): (&Client, &Store<Metadata>),
    draft: &Draft<'_>,
    value: &SecretString,
) -> Result<Held, Error> {
    LONGEST_VALUE.fetch_max(value.expose_secret().len(), Ordering::Relaxed);
    let written = apply(client, draft, value, &params(draft)).await?;
    let metadata = Item::<Metadata>::deserialize(written);
    let metadata = metadata
        .map_err(drop)
        .and_then(|it| it.object.map_err(drop));
    let metadata = metadata.ok();
    if let Some(metadata) = &metadata {
        known.update(metadata);
    }
    let held = metadata.and_then(|metadata| held(&metadata, draft.owner));
    held.ok_or_else(|| {
        Error::Changed(Blocked::new(
            Reason::TargetRefused,
            format!("the metadata of Secret {} cannot be read", draft.name),
        ))
    })
}

/// The bytes under `key` of a Secret whose JSON has at most `longest` bytes, with the resourceVersion it was read at.
///
/// # Errors
/// See [`Error`].
pub async fn value(
    client: &Client,
    owner: &WorkspaceTokenRotation,
    name: &str,
    key: &str,
    longest: usize,
) -> Result<Option<(SecretSlice<u8>, Option<String>)>, Error> {
    let namespace = owner.namespace();
    let request = Request::new(Secret::url_path(&(), namespace.as_deref()));
    let request = request.get(name, &GetParams::default());
    let answer = Answer::within(client, request, longest).await;
    let secret = match answer.and_then(|it| it.map(|it| decode(&it)).transpose()) {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Err(Error::Refused(Blocked::new(
                Reason::TargetRefused,
                format!("it is larger than {} KiB, and is not read", longest / 1024),
            )));
        }
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        Err(error) => return Err(verdict(name, error)),
    };
    let version = secret.pointer("/metadata/resourceVersion");
    let version = version.and_then(Value::as_str).map(str::to_owned);
    let content = content(&secret, key).filter(|content| !content.0.is_empty());
    Ok(content.map(|content| (content.0.into(), version)))
}

/// The metadata of a Secret; `None`: there is none.
///
/// # Errors
/// What the API server says, or that the metadata cannot be read.
pub async fn metadata(
    client: &Client,
    namespace: &str,
    name: &str,
) -> kube::Result<Option<Metadata>> {
    let request = Request::new(Secret::url_path(&(), Some(namespace)));
    let answer = Answer::to(client, request.get_metadata(name, &GetParams::default()));
    match answer.await {
        Ok(answer) => {
            let item: Item<Metadata> =
                serde_json::from_str(answer.text()?).map_err(kube::Error::SerdeError)?;
            item.read().map(Some)
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn params(draft: &Draft) -> PatchParams {
    let params = PatchParams::apply(MANAGER);
    if draft.force { params.force() } else { params }
}

fn decode(answer: &Answer) -> kube::Result<Value> {
    shallow(answer.text()?).map_err(kube::Error::SerdeError)
}

/// Applies; returns the Secret as it is then, which is what was sent, or nothing was.
pub(super) async fn apply(
    client: &Client,
    draft: &Draft<'_>,
    value: &SecretString,
    params: &PatchParams,
) -> Result<Value, Error> {
    let sent = build(draft, value);
    let namespace = draft.owner.namespace();
    let request = Request::new(Secret::url_path(&(), namespace.as_deref()));
    let request = request.patch(&draft.name, params, &Patch::Apply(Body(&sent)));
    let answer = Answer::to(client, request).await;
    let answer = answer.and_then(|it| decode(&it));
    let answer = answer.map_err(|error| verdict(&draft.name, error))?;
    match altered(&sent, &answer) {
        Some(field) => Err(Error::Changed(Blocked::new(
            Reason::TargetRefused,
            format!(
                "{field} of Secret {} is not stored as the operator writes it: an admission policy or another \
                 controller changes it; exempt this Secret from that, or choose another target.name",
                draft.name
            ),
        ))),
        None => Ok(answer),
    }
}

/// The first field that came back other than it was sent, of those that the operator depends on.
fn altered(sent: &Secret, answer: &Value) -> Option<String> {
    let ours = format!("{GROUP}/");
    let labels = sent.labels().iter();
    let labels = labels.filter(|(key, _)| *key == MANAGED_BY.0);
    let annotations = sent.annotations().iter();
    let annotations = annotations.filter(|(key, _)| key.starts_with(&ours));
    let texts = labels.map(|it| ("labels", it));
    let texts = texts.chain(annotations.map(|it| ("annotations", it)));
    let text = |kind: &str, key: &str| answer.get("metadata")?.get(kind)?.get(key)?.as_str();
    for (kind, (key, wanted)) in texts {
        if text(kind, key) != Some(wanted) {
            return Some(format!("metadata.{kind}[{key}]"));
        }
    }
    let data = sent.data.iter().flatten();
    let mut differing =
        data.filter(|(key, bytes)| content(answer, key) != Some(ByteString(bytes.0.clone())));
    differing.next().map(|(key, _)| format!("data[{key}]"))
}

/// The bytes under a key of a Secret, if they are what a Secret may hold.
fn content(secret: &Value, key: &str) -> Option<ByteString> {
    ByteString::deserialize(secret.get("data")?.get(key)?).ok()
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
