//! One rotation: the one ordered sequence of effects, the same for a resource of the cluster and for one token by hand.

use super::grant::Grant;
use crate::api::{Cause, Status, Version, WorkspaceTokenRotation};
use crate::astro::client::{Astro, Rotated};
use crate::astro::credential::Credential;
use crate::astro::error::Error as VendorError;
use crate::clock::now;
use crate::cluster::secret::{self, Draft};
use crate::decide::evidence::{Held, Observed, Stored, Token};
use crate::decide::plan::rules::{is_refusal, rotation};
use crate::decide::plan::{Rotation, Setback};
use crate::decide::stamp::{Stamp, rotation_id};
use crate::decide::status;
use crate::id::is_same;
use crate::reason::{Blocked, Reason};
use kube::{Client, ResourceExt};
use secrecy::ExposeSecret;
use std::time::Instant;
use uuid::Uuid;

/// What differs from one kind of rotation to another: where the intent is recorded, and where the value goes.
pub(crate) trait Hands {
    /// What is known once the value was handed over.
    type Done;

    /// Who works on it, by the name that its intent carries.
    fn holder(&self) -> String;

    /// Whether the value can be handed over at all, found out while there is none yet.
    async fn rehearse(&mut self, draft: &Draft<'_>) -> Result<(), Setback>;

    /// Whether nothing may be begun any more.
    fn is_stopping(&self) -> bool;

    /// Takes an intent back after which no call was made.
    async fn take_back(&mut self, recorded: &WorkspaceTokenRotation);

    /// Records that a call is about to be made; returns the resource with that in its status.
    async fn record(&mut self, intent: &Status) -> Result<WorkspaceTokenRotation, Setback>;

    /// Takes note of a call that failed.
    fn failed(&mut self, error: &VendorError, rotation_id: &str);

    /// Hands over a value that exists nowhere else.
    async fn hand_over(&mut self, issued: Issued) -> Result<Self::Done, Setback>;
}

/// A value that was just issued. It holds the value, so it has no `Debug`.
pub(crate) struct Issued {
    /// The resource with the intent in its status.
    pub(crate) resource: WorkspaceTokenRotation,
    /// The rotation.
    pub(crate) rotation_id: String,
    /// What to write on the Secret.
    pub(crate) stamp: Stamp,
    /// The resourceVersion of the Secret as it was read before the call.
    pub(crate) secret_version: Option<String>,
    /// What was written on that Secret, where it is ours.
    pub(crate) replaces: Option<Stamp>,
    /// The vendor's record of the token, as far as its answer carried it.
    pub(crate) token: Token,
    /// The vendor's answer.
    pub(crate) answer: Rotated,
    /// When the recording of the intent began, which is after the Secret was read.
    pub(crate) begun: Instant,
}

/// Rehearses, records the intent, calls, hands over.
///
/// # Errors
/// What kept it from being done, and whether the vendor may have rotated all the same.
pub(crate) async fn rotate<H: Hands>(
    hands: &mut H,
    astro: &Astro,
    grant: &Grant,
    seen: &Observed,
    rotation: &Rotation,
) -> Result<H::Done, Setback> {
    let new_id = |now| rotation_id(now, Uuid::new_v4().as_u128());
    let draft = rehearsal(seen, rotation, new_id(seen.now));
    let (mut stamp, secret_version) = (draft.stamp.clone(), draft.resource_version.clone());
    hands.rehearse(&draft).await?;
    if hands.is_stopping() {
        return Err(Setback::Raced);
    }

    let begun = Instant::now();
    // The evidence may be as old as a slow answer of the vendor's: others count from here.
    let now = now();
    let id = new_id(now);
    stamp.rotation_id = Some(id.clone());
    let intent = status::begin(seen, rotation, id.clone(), hands.holder(), now);
    let resource = hands.record(&intent).await?;
    if hands.is_stopping() {
        hands.take_back(&resource).await;
        return Err(Setback::Raced);
    }
    // A process that was paused must not call late: another one may have gone on without it.
    if begun.elapsed() > seen.pace().latest_call {
        return Err(Setback::InDoubt(Blocked::new(
            Reason::RotationInDoubt,
            format!(
                "rotation {id} was held up for {:?} before the call, which was not made",
                begun.elapsed()
            ),
        )));
    }

    let (organization, token_id) = (&grant.organization, &rotation.token.id);
    let answer = astro.rotate(&grant.credential, organization, token_id);
    let answer = answer.await.map_err(|error| {
        hands.failed(&error, &id);
        setback(&error, &id)
    })?;

    // From here on the value exists nowhere else.
    let mut token = issued_for(&answer, &rotation.token);
    // An old record in the answer is of the value before; the version is completed from a later one.
    if token.version == rotation.token.version {
        token.version = Version::default();
    }
    stamp.token_id.clone_from(&token.id);
    stamp.version = token.version.clone();
    stamp.expires = token.ends;
    let issued = Issued {
        resource,
        rotation_id: id,
        stamp,
        secret_version,
        replaces: planned(seen),
        token,
        answer,
        begun,
    };
    hands.hand_over(issued).await
}

/// Why the target Secret could not be written now, asked before anything else is. What else stands in the way is found out
/// by a look.
pub(crate) async fn rehearse_first(client: &Client, seen: &Observed) -> Option<Setback> {
    let token = seen.known_token();
    let rotation = rotation(seen, &token, Cause::Initial, 1);
    let draft = rehearsal(
        seen,
        &rotation,
        rotation_id(seen.now, Uuid::new_v4().as_u128()),
    );
    let setback = Setback::from(secret::rehearse(client, &draft).await.err()?);
    is_refusal(&setback).then_some(setback)
}

/// What a rotation of this id will write, as far as it is known before the call: enough to rehearse the write.
pub(crate) fn rehearsal<'a>(seen: &'a Observed, rotation: &Rotation, id: String) -> Draft<'a> {
    let target = &seen.resource.spec.target;
    let other = seen.other_id(&rotation.token.id);
    Draft {
        owner: &seen.resource,
        name: target.name.clone(),
        stamp: Stamp {
            owner: seen.resource.name_any(),
            key: target.key().into(),
            token_id: rotation.token.id.clone(),
            previous: before(seen, &rotation.token.id, other.as_ref()),
            other,
            fence: seen.held().and_then(|held| held.stamp.fence.clone()),
            revokes: revokes(seen, &rotation.token.id),
            version: rotation.token.version.clone(),
            replaced: rotation.token.version.short_token.clone(),
            expires: rotation.token.ends,
            rotation_id: Some(id),
            adopted_at: None,
            requests: rotation.requests.clone(),
            adopted: seen.stored.used(),
            cluster: seen.settings.cluster.clone(),
        },
        resource_version: rotation.secret_version.clone(),
        replaces: planned(seen),
        // A Secret that is there was judged as of its version, which the write is fenced by: what a backup or a
        // person wrote on it may be taken back. One that was not there may be another party's by now.
        force: rotation.secret_version.is_some(),
    }
}

impl Issued {
    /// The Secret to write it into.
    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft {
            owner: &self.resource,
            name: self.resource.spec.target.name.clone(),
            stamp: self.stamp.clone(),
            resource_version: self.secret_version.clone(),
            replaces: self.replaces.clone(),
            force: true,
        }
    }
}

/// The request that ends the value of the other token too, once the Secret holds a value of this token.
fn revokes(seen: &Observed, token_id: &str) -> Option<String> {
    let is_turn = |held: &&Held| held.stamp.token_id != token_id;
    match seen.held().filter(is_turn) {
        Some(_) => seen.revokes(),
        // In place: the other one is as it was.
        None => seen.held()?.stamp.revokes.clone(),
    }
}

/// The version of the value of the `other` token that the Secret held before it holds one of this token.
fn before(seen: &Observed, token_id: &str, other: Option<&String>) -> Option<Version> {
    let stamp = &seen.held()?.stamp;
    let is_other = |id: Option<&String>| other.is_some() && id == other;
    match stamp.token_id == token_id {
        true => stamp
            .previous
            .clone()
            .filter(|_| is_other(stamp.other.as_ref())),
        false => Some(stamp.version.clone()).filter(|_| is_other(Some(&stamp.token_id))),
    }
}

/// What is written on the target Secret that a rotation was planned on.
fn planned(seen: &Observed) -> Option<Stamp> {
    match &seen.stored {
        Stored::Holds(held) => Some(held.stamp.clone()),
        _ => None,
    }
}

/// The record of the token that a value was issued for. A record of another id counts where the value itself names that
/// one too.
fn issued_for(answer: &Rotated, asked: &Token) -> Token {
    let Some(told) = answer.token.clone() else {
        return Token {
            version: Version::default(),
            ..asked.clone()
        };
    };
    let value = Credential::parse(answer.value.expose_secret()).ok();
    let claim = value.as_ref().and_then(Credential::own_token_id);
    match claim.is_some_and(|id| is_same(id, &told.id)) {
        true => told,
        false => Token {
            id: asked.id.clone(),
            ..told
        },
    }
}

fn setback(error: &VendorError, id: &str) -> Setback {
    if error.is_definite() {
        return Setback::Definite {
            blocked: error.blocked(),
            retry_after: error.retry_after(),
        };
    }
    Setback::InDoubt(Blocked::new(
        Reason::RotationInDoubt,
        format!(
            "rotation {id}: {error}; the vendor is asked what happened before anything else is done"
        ),
    ))
}
