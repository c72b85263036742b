//! One rotation: the one ordered sequence of effects, in a task of its own that nothing aborts.

use crate::api::{Cause, Version, WorkspaceTokenRotation};
use crate::astro::{Astro, Turn};
use crate::cluster;
use crate::cluster::secret::{self, Draft, Landed};
use crate::decide::evidence::{Held, Observed, Token, Work, rotation_id};
use crate::decide::identity::Identity;
use crate::decide::plan::{Rotation, Setback};
use crate::decide::status;
use crate::operator::grant::Grant;
use crate::process::metrics::Metrics;
use crate::reason::{Blocked, Reason};
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tracing::{error, warn};
use uuid::Uuid;

/// What a rotation needs.
#[derive(Clone)]
pub struct Rotator {
    /// For single calls.
    pub client: Client,
    /// The vendor.
    pub astro: Astro,
    /// This process.
    pub identity: Identity,
    /// Counters.
    pub metrics: Metrics,
    /// What this process is doing right now.
    pub works: Works,
}

/// A rotation that was stored.
pub struct Done {
    /// The resource with the intent in its status, as last written.
    pub resource: WorkspaceTokenRotation,
    /// The evidence on the Secret.
    pub held: Held,
    /// The vendor's record of the token, as far as its answer carried it.
    pub token: Token,
}

/// What this process is doing for which resource, by uid.
#[derive(Clone, Default)]
pub struct Works(Arc<Mutex<HashMap<String, Work>>>);

impl Works {
    /// What is being done for a resource.
    pub fn get(&self, uid: &str) -> Option<Work> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid).cloned()
    }

    /// Begins work; `None` while there is some already.
    fn begin(&self, uid: &str) -> Option<WorkGuard> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(uid) {
            return None;
        }
        all.insert(uid.to_owned(), Work::Calling);
        Some(WorkGuard {
            works: self.clone(),
            uid: uid.to_owned(),
        })
    }
}

/// Work that ends when this is dropped.
struct WorkGuard {
    works: Works,
    uid: String,
}

impl WorkGuard {
    fn storing(&self, error: String) {
        let mut all = self.works.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(self.uid.clone(), Work::Storing { error });
    }
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        let mut all = self.works.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.uid);
    }
}

impl Rotator {
    /// Rehearse, record the intent, rotate, store. To be run in a task of its own.
    ///
    /// It notifies `stuck` when the value is in hand and cannot be stored for now.
    ///
    /// # Errors
    /// What kept it from being done, and whether the vendor may have rotated all the same.
    pub async fn run(
        &self,
        seen: &Observed,
        rotation: &Rotation,
        grant: &Grant,
        turn: Turn,
        stuck: &Notify,
    ) -> Result<Done, Setback> {
        let (resource, pace) = (&seen.resource, seen.pace());
        let uid = resource.uid().unwrap_or_default();
        let work = self.works.begin(&uid).ok_or(Setback::Raced)?;
        let id = rotation_id(seen.now, Uuid::new_v4().as_u128());
        let rehearsal = rehearsal(seen, rotation, id.clone());
        let mut held = rehearsal.held.clone();
        secret::rehearse(&self.client, &rehearsal).await?;

        let holder = self.identity.to_string();
        let begun = Instant::now();
        let intent = status::begin(seen, rotation, id.clone(), holder);
        let resource = cluster::status::write(&self.client, resource, &intent)
            .await
            .map_err(not_recorded)?;
        if begun.elapsed() > pace.latest_call {
            return Err(Setback::InDoubt(Blocked::new(
                Reason::RotationInDoubt,
                format!(
                    "rotation {id} was held up for {:?} before the call, which was not made",
                    begun.elapsed()
                ),
            )));
        }
        if rotation.cause == Cause::Lost {
            self.metrics.value_lost();
        }

        let (organization, token_id) = (&grant.organization, &rotation.token.id);
        let answer = self.astro.rotate(&grant.credential, organization, token_id);
        let rotated = answer.await.map_err(|error| {
            let namespace = resource.namespace().unwrap_or_default();
            let (name, definite) = (resource.name_any(), error.is_definite());
            warn!(namespace, name, rotation_id = id, definite, %error, "rotation failed");
            let outcome = if definite { "refused" } else { "in_doubt" };
            self.metrics.rotation(&rotation.cause.to_string(), outcome);
            setback(&error, &id)
        })?;

        // From here on the value exists nowhere else.
        let mut turn = Some(turn);
        let unsaved = self.metrics.unsaved();
        let token = rotated.token.unwrap_or_else(|| Token {
            version: Version::default(),
            ..rotation.token.clone()
        });
        held.token_id.clone_from(&token.id);
        held.version = token.version.clone();
        held.expires = token.ends;
        let draft = Draft {
            owner: &resource,
            held,
            force: true,
        };
        let fresh = rotated.answered.duration_since(begun) < pace.fresh_write
            && rotated.answered.elapsed() < pace.fresh_write;
        let landed = secret::land(
            &self.client,
            draft,
            &rotated.value,
            fresh,
            pace,
            |problem| {
                if self.works.get(&uid) == Some(Work::Calling) {
                    let (namespace, name) = (resource.namespace(), resource.name_any());
                    error!(namespace, name, rotation_id = id, error = %problem, "the new value cannot be stored; trying until it can");
                }
                work.storing(problem.to_string());
                // What cannot be stored for long must not keep others waiting.
                turn.take();
                if rotated.answered.elapsed() > pace.late_write {
                    stuck.notify_one();
                }
            },
        );
        let held = match landed.await {
            Landed::Stored(held) => *held,
            dropped @ (Landed::Superseded | Landed::NoPlace) => {
                drop(unsaved);
                let why = match dropped {
                    Landed::NoPlace => "the namespace is gone",
                    _ => "the Secret holds a newer one",
                };
                let (namespace, name) = (resource.namespace(), resource.name_any());
                warn!(
                    namespace,
                    name,
                    rotation_id = id,
                    why,
                    "the new value was dropped"
                );
                self.metrics.rotation(&rotation.cause.to_string(), "lost");
                return Err(Setback::Raced);
            }
        };
        drop(unsaved);
        self.metrics.stored(rotated.answered.elapsed());
        self.metrics.rotation(&rotation.cause.to_string(), "stored");
        if token.id != rotation.token.id {
            let (namespace, name) = (resource.namespace(), resource.name_any());
            let (token_id, expected) = (&token.id, &rotation.token.id);
            warn!(
                namespace,
                name,
                token_id,
                expected,
                "the vendor changed the token's id; name the new one in spec.token.id"
            );
        }
        Ok(Done {
            resource,
            held,
            token,
        })
    }
}

/// What a rotation of this id will write, as far as it is known before the call: enough to rehearse the write.
pub fn rehearsal<'a>(seen: &'a Observed, rotation: &Rotation, id: String) -> Draft<'a> {
    let target = &seen.resource.spec.target;
    Draft {
        owner: &seen.resource,
        held: Held {
            secret: target.name.clone(),
            key: target.key().into(),
            token_id: rotation.token.id.clone(),
            version: rotation.token.version.clone(),
            expires: rotation.token.ends,
            rotation_id: Some(id),
            request: rotation.request.clone(),
            cluster: seen.settings.cluster.clone(),
            resource_version: rotation.secret_version.clone(),
            ..Held::default()
        },
        // A Secret that is there was judged as of its version, which the write is fenced by: what a backup or a
        // person wrote on it may be taken back. One that was not there may be somebody's by now.
        force: rotation.secret_version.is_some(),
    }
}

fn not_recorded(error: cluster::status::Error) -> Setback {
    match error {
        cluster::status::Error::Raced => Setback::Raced,
        cluster::status::Error::Api(_) => Setback::Unavailable(error.to_string()),
        cluster::status::Error::OldCrd(_) => Setback::Refused(Blocked::new(
            Reason::TargetRefused,
            format!("the intent to rotate cannot be recorded, so nothing was rotated: {error}"),
        )),
    }
}

fn setback(error: &crate::astro::Error, id: &str) -> Setback {
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
