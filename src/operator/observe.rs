//! The gatherer: fills in the evidence, decides nothing.

use crate::api::{WorkspaceTokenRotation, evidence};
use crate::astro::credential::Credential;
use crate::astro::listing::{Failure, Key, Listing, Listings};
use crate::astro::{Astro, Turn};
use crate::cluster::secret;
use crate::cluster::watch::Wake;
use crate::decide::evidence::{Access, Held, Live, Observed, Settings, Stored, Token, Work};
use crate::decide::identity::Identity;
use crate::decide::ownership::{self, Metadata};
use crate::decide::plan::reading_not_before;
use crate::decide::rivals::{Claims, is_able};
use crate::decide::validate::is_workable;
use crate::operator::grant::{self, DefaultCredential, Grant};
use crate::reason::{Blocked, Reason};
use crate::text::api_error;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};
use secrecy::ExposeSecret;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where evidence comes from.
pub struct Observer {
    /// For single calls.
    pub client: Client,
    /// The vendor.
    pub astro: Astro,
    /// The operator's own credential.
    pub own_credential: DefaultCredential,
    /// The operator's `--organization-id`.
    pub organization: Option<String>,
    /// Settings that decisions depend on.
    pub settings: Arc<Settings>,
    /// This process.
    pub identity: Identity,
    /// All resources, as watched.
    pub resources: Store<WorkspaceTokenRotation>,
    /// Metadata of all Secrets of ours, as watched; `None`: each is read when it is needed.
    pub secrets: Option<Store<Metadata>>,
    /// Lists of tokens, shared.
    pub listings: Listings,
    /// Who may work on what.
    pub claims: Arc<Mutex<Claims>>,
    /// Brings a resource back to be looked at.
    pub wake: Wake,
}

/// No evidence could be had, and no verdict either.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The API server does not answer.
    #[error("the API server gives no evidence: {}", api_error(.0, 400))]
    Api(#[from] kube::Error),
    /// The credential could not be read.
    #[error("the API server gives no evidence: {0}")]
    Secret(#[from] secret::Error),
}

impl Observer {
    /// Evidence from the watches and the shared list: no request when nothing is due for an audit, but for the
    /// Secret's metadata where Secrets are not watched.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cached(
        &self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        work: Option<Work>,
    ) -> Result<Observed, Error> {
        let mut seen = self.begin(resource, now, work);
        seen.stored = match &self.secrets {
            Some(watched) => self.watched(watched, resource),
            None => self.read_secret(resource).await?,
        };
        // First by what is known: whoever waits for an older one makes no call.
        self.find_rival(&mut seen);
        if seen.rival.is_none() && is_workable(&seen) {
            let age = seen.now.duration_since(reading_not_before(&seen));
            let age = Duration::try_from(age).unwrap_or_default();
            // A process younger than the interval has no list that is too old.
            let not_before = Instant::now().checked_sub(age);
            let listing = self.listing(resource, not_before).await?;
            seen.access = match &listing.tokens {
                Err(Failure::Denied(blocked)) => Access::Denied(blocked.clone()),
                _ => Access::Granted {
                    own_token_id: listing.own_token_id.clone(),
                },
            };
            match of_listing(&seen, &listing, false) {
                // A failure that is shared is no evidence: who needs to know asks for himself.
                Live::Unavailable { .. } => {}
                known => {
                    seen.live = known;
                    let age = SignedDuration::try_from(listing.age()).unwrap_or_default();
                    seen.asked_at = seen.now.checked_sub(age).ok();
                }
            }
            self.find_rival(&mut seen);
        }
        Ok(seen)
    }

    /// Fresh evidence: Secret and vendor are read now. Grant and turn are for a rotation decided on it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn live(
        &self,
        cached: &Observed,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<(Observed, Option<(Grant, Turn)>), Error> {
        let resource = &cached.resource;
        let organization = self.organization.as_deref();
        let granted =
            grant::grant(&self.client, resource, &self.own_credential, organization).await;
        let grant = match granted {
            Ok(grant) => grant,
            Err(grant::Error::Denied(blocked)) => {
                let mut seen = cached.clone();
                seen.access = Access::Denied(blocked);
                return Ok((seen, None));
            }
            Err(grant::Error::Secret(error)) => return Err(error.into()),
        };
        // Wait first and read afterwards: what is read has to be fresh when it is acted on.
        let turn = self.astro.turn(&grant.credential).await;
        let newest = self.resources.get(&ObjectRef::from(resource));
        let resource = newest.as_deref().unwrap_or(resource);
        let mut seen = self.begin(resource, now(), cached.work.clone());
        seen.access = Access::Granted {
            own_token_id: grant.credential.own_token_id().map(str::to_owned),
        };
        seen.stored = self.read_secret(resource).await?;
        seen.live = self.read_token(&seen, &grant).await?;
        // Without an answer it is asked again soon, and not only at the next audit: the look had a reason.
        let answered = !matches!(seen.live, Live::Unavailable { .. });
        seen.asked_at = answered.then_some(seen.now);
        if let Stored::Consented { value_is_live, .. } = &mut seen.stored
            && let Live::Token { token, .. } = &seen.live
        {
            match self.is_live(resource, &grant, token).await {
                Ok(verdict) => *value_is_live = Some(verdict),
                Err(unavailable) => seen.live = unavailable,
            }
        }
        self.find_rival(&mut seen);
        Ok((seen, Some((grant, turn))))
    }

    fn begin(
        &self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        work: Option<Work>,
    ) -> Observed {
        let pending = resource.status.as_ref().and_then(|s| s.pending.as_ref());
        let holder_is_done = pending.is_some_and(|pending| {
            self.identity.succeeds(&pending.holder)
                || work.is_none() && pending.holder == self.identity.to_string()
        });
        Observed {
            work,
            holder_is_done,
            ..Observed::begin(resource, now, &self.settings)
        }
    }

    fn stored(&self, secret: &Metadata, resource: &WorkspaceTokenRotation) -> Stored {
        let namespace = resource.namespace().unwrap_or_default();
        let exists = |name: &str| {
            let reference = ObjectRef::new(name).within(&namespace);
            self.resources.get(&reference).is_some()
        };
        ownership::read(secret, resource, &self.settings.cluster, exists)
    }

    fn watched(&self, secrets: &Store<Metadata>, resource: &WorkspaceTokenRotation) -> Stored {
        let namespace = resource.namespace().unwrap_or_default();
        let reference = ObjectRef::new(&resource.spec.target.name).within(&namespace);
        match secrets.get(&reference) {
            Some(secret) => self.stored(&secret, resource),
            None => Stored::Absent {
                elsewhere: self.elsewhere(secrets, resource),
                resource_version: None,
            },
        }
    }

    /// The value under the target's former name, among all Secrets of ours.
    fn elsewhere(
        &self,
        secrets: &Store<Metadata>,
        resource: &WorkspaceTokenRotation,
    ) -> Option<Held> {
        let all = secrets.state();
        let held = all
            .iter()
            .filter_map(|secret| self.intact(secret, resource));
        held.max_by_key(Held::obtained_at)
    }

    /// The value under the target's former name, which status knows.
    async fn former(
        &self,
        secrets: &Api<Secret>,
        resource: &WorkspaceTokenRotation,
    ) -> Result<Option<Held>, Error> {
        let status = resource.status.as_ref();
        let binding = status.and_then(|status| status.binding.as_ref());
        let Some(former) = binding.filter(|it| it.name != resource.spec.target.name) else {
            return Ok(None);
        };
        let found = secrets.get_metadata_opt(&former.name).await?;
        Ok(found.and_then(|secret| self.intact(&secret, resource)))
    }

    /// The evidence on a Secret of this very resource, unless somebody else has had his hands in it.
    fn intact(&self, secret: &Metadata, resource: &WorkspaceTokenRotation) -> Option<Held> {
        // First what is cheap: of all Secrets few are of the resource, and managed fields are long.
        let owner = secret.annotations().get(evidence::OWNED_BY);
        if owner != Some(&resource.name_any()) || secret.namespace() != resource.namespace() {
            return None;
        }
        let held = ownership::held(secret, resource)?;
        (held.key_written_by.is_none() && held.cluster == self.settings.cluster).then_some(held)
    }

    async fn read_secret(&self, resource: &WorkspaceTokenRotation) -> Result<Stored, Error> {
        let namespace = resource.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let found = api.get_metadata_opt(&resource.spec.target.name).await?;
        if let Some(secret) = found {
            return Ok(self.stored(&secret, resource));
        }
        let watched = self.secrets.as_ref();
        let elsewhere = watched.and_then(|secrets| self.elsewhere(secrets, resource));
        Ok(Stored::Absent {
            elsewhere: match elsewhere {
                Some(held) => Some(held),
                None => self.former(&api, resource).await?,
            },
            resource_version: None,
        })
    }

    /// By id where the id is known; by list where only a name is.
    async fn read_token(&self, seen: &Observed, grant: &Grant) -> Result<Live, Error> {
        let spec = &seen.resource.spec.token;
        let known = match (&spec.id, &seen.stored) {
            (Some(id), _) => Some(id.clone()),
            (None, Stored::Holds(held)) => Some(held.token_id.clone()),
            (None, _) => None,
        };
        if let Some(id) = known {
            let read = self.astro.get(&grant.credential, &grant.organization, &id);
            match read.await {
                // A name that moved to another token is looked up again.
                Ok(token) if spec.name.as_ref().is_none_or(|name| *name == token.name) => {
                    return Ok(Live::Token { token, fresh: true });
                }
                Ok(_) => {}
                Err(crate::astro::Error::Status { status: 404, .. }) if spec.id.is_none() => {}
                Err(error) => return Ok(of_failure(&failure(&error), true)),
            }
        }
        let not_before = Instant::now().checked_sub(self.settings.pace.list_fresh);
        let listing = self.listing(&seen.resource, not_before).await?;
        let token = match of_listing(seen, &listing, true) {
            Live::Token { token, .. } => token,
            unknown => return Ok(unknown),
        };
        // The list tells which token has the name; it may be older than our own last rotation.
        let read = self
            .astro
            .get(&grant.credential, &grant.organization, &token.id);
        Ok(match read.await {
            Ok(token) => Live::Token { token, fresh: true },
            Err(error) => of_failure(&failure(&error), true),
        })
    }

    async fn listing(
        &self,
        resource: &WorkspaceTokenRotation,
        not_before: Option<Instant>,
    ) -> Result<Listing, Error> {
        let spec = &resource.spec;
        let credentials = spec.credentials.as_ref();
        let key = Key {
            namespace: resource.namespace().unwrap_or_default(),
            credential: credentials.map(|it| it.secret_ref.clone()),
            organization: spec.organization_id.clone(),
            workspace: spec.workspace_id.clone(),
        };
        let mut broken = None;
        let listing = self
            .listings
            .get(&key, not_before, async || {
                let organization = self.organization.as_deref();
                let own = &self.own_credential;
                match grant::grant(&self.client, resource, own, organization).await {
                    Ok(grant) => {
                        let own_token_id = grant.credential.own_token_id().map(str::to_owned);
                        let list = self.astro.list(
                            &grant.credential,
                            &grant.organization,
                            &spec.workspace_id,
                        );
                        (list.await.map_err(|error| failure(&error)), own_token_id)
                    }
                    Err(grant::Error::Denied(blocked)) => (Err(Failure::Denied(blocked)), None),
                    Err(grant::Error::Secret(error)) => {
                        let message = error.to_string();
                        broken = Some(error);
                        let retry_after = None;
                        (
                            Err(Failure::Unavailable {
                                message,
                                retry_after,
                            }),
                            None,
                        )
                    }
                }
            })
            .await;
        match broken {
            Some(error) => Err(error.into()),
            None => Ok(listing),
        }
    }

    /// Whether the value in a Secret that was given to us is the token's live one.
    async fn is_live(
        &self,
        resource: &WorkspaceTokenRotation,
        grant: &Grant,
        token: &Token,
    ) -> Result<bool, Live> {
        let target = &resource.spec.target;
        let found = secret::value(&self.client, resource, &target.name, target.key()).await;
        let value = match found {
            Ok(Some((value, _))) => value,
            Ok(None) => return Ok(false),
            Err(error) => {
                return Err(Live::Unavailable {
                    message: error.to_string(),
                    retry_after: None,
                });
            }
        };
        let Ok(candidate) = Credential::parse(value.expose_secret()) else {
            return Ok(false);
        };
        if candidate.own_token_id() != Some(&token.id) {
            return Ok(false);
        }
        let verdict = self
            .astro
            .accepts(&candidate, &grant.organization, &token.id);
        verdict
            .await
            .map_err(|error| of_failure(&failure(&error), true))
    }

    /// Remembers which token a resource means, and looks for an older one that means the same.
    fn find_rival(&self, seen: &mut Observed) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if let Live::Token { token, .. } = &seen.live {
            self.wake.send(claims.learn(&seen.resource, token));
        }
        seen.rival = claims.rival(&seen.resource);
    }

    /// Remembers whether a resource can work on its token, on the last evidence of a pass.
    pub fn judge(&self, seen: &Observed) {
        if let Some(able) = is_able(seen) {
            let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.send(claims.judge(&seen.resource, able));
        }
    }
}

fn failure(error: &crate::astro::Error) -> Failure {
    let blocked = error.blocked();
    match blocked.reason {
        Reason::VendorUnavailable => Failure::Unavailable {
            message: blocked.message,
            retry_after: error.retry_after(),
        },
        _ => Failure::Refused(blocked),
    }
}

fn of_failure(failure: &Failure, fresh: bool) -> Live {
    match failure.clone() {
        Failure::Denied(blocked) | Failure::Refused(blocked) => Live::Refused { blocked, fresh },
        Failure::Unavailable {
            message,
            retry_after,
        } => Live::Unavailable {
            message,
            retry_after,
        },
    }
}

/// The spec's token in a list: by id, or by name among the Workspace tokens, exactly one.
fn of_listing(seen: &Observed, listing: &Listing, fresh: bool) -> Live {
    let tokens = match &listing.tokens {
        Ok(tokens) => tokens,
        Err(failure) => return of_failure(failure, fresh),
    };
    let spec = &seen.resource.spec;
    let not_found = |what: &str| {
        let message = format!(
            "no token {what} in Workspace {}; check token, workspaceId and the credential's role",
            spec.workspace_id
        );
        Blocked::new(Reason::TokenNotFound, message)
    };
    let refused = |blocked| Live::Refused { blocked, fresh };
    let known = |token: &Token| Live::Token {
        token: token.clone(),
        fresh,
    };
    let (Some(name), None) = (&spec.token.name, &spec.token.id) else {
        let id = spec.token.id.as_deref().unwrap_or_default();
        let found = tokens.iter().find(|token| token.id == id);
        return found.map_or_else(|| refused(not_found(&format!("with id {id}"))), known);
    };
    let of_name = || tokens.iter().filter(|token| token.name == *name);
    let matching: Vec<_> = of_name()
        .filter(|token| token.scope == "WORKSPACE")
        .collect();
    match matching[..] {
        [token] => known(token),
        [] => match of_name().next() {
            // Says by its own rule that the scope is wrong.
            Some(other) => known(other),
            None => refused(not_found(&format!("named {name:?}"))),
        },
        _ => {
            let ids: Vec<_> = matching.iter().take(10).map(|t| t.id.as_str()).collect();
            refused(Blocked::new(
                Reason::TokenAmbiguous,
                format!(
                    "{} Workspace tokens are named {name:?}; use token.id, one of {}",
                    matching.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}
