//! The gatherer: fills in the evidence, decides nothing.

mod secrets;
#[cfg(test)]
mod tests;
mod token;

use self::secrets::Secrets;
use self::token::Finder;
pub(super) use self::token::list_key;
use super::grant::Grant;
use super::handles::Handles;
use super::works::Works;
use crate::api::{Key, WorkspaceTokenRotation};
use crate::astro::listing::{Failure, Listing, Listings};
use crate::clock;
use crate::cluster::error::Error;
use crate::cluster::store::Store;
use crate::cluster::watch::Wake;
use crate::decide::entity::Entity;
use crate::decide::evidence::{Access, Held, Live, Observed, Stored, Work};
use crate::decide::managed::Metadata;
use crate::decide::ownership::{answered, recalled};
use crate::decide::plan::brake::tries::doubted;
use crate::decide::plan::rules::{asks_value, is_old_record};
use crate::decide::plan::wake::reading_not_before;
use crate::decide::rivals::{Claims, is_able};
use crate::decide::validate::is_workable;
use crate::decide::version::Drift;
use crate::reason::Reason;
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which list of tokens is good enough.
#[derive(Clone, Copy)]
pub enum List {
    /// One that is not due for an audit.
    Young,
    /// One that was read since it was asked for, too: it would never be young where lists take long.
    Since(Instant),
    /// Any: the vendor is asked in any case.
    Any,
}

/// What is known without asking the vendor.
pub enum Known {
    /// All that can be.
    Seen(Box<Observed>),
    /// The list of the Workspace's tokens has to be read first, so that it begins at or after this time; `None`: any.
    Lacks(Option<Instant>),
}

/// Where evidence comes from.
pub struct Observer {
    /// What it is read with.
    pub handles: Handles,
    secrets: Secrets,
    listings: Listings,
    claims: Arc<Mutex<Claims>>,
    wake: Wake,
    works: Works,
    /// When this process began to observe.
    started: Timestamp,
}

impl Observer {
    /// Gathers evidence about `resources`; `secrets` are the metadata of all Secrets of ours, as watched, and `None` where
    /// each is read when it is needed. Who may work on what is in `claims`, and who has to look again is sent to `wake`.
    pub fn new(
        handles: Handles,
        resources: Store<WorkspaceTokenRotation>,
        secrets: Option<Store<Metadata>>,
        claims: Arc<Mutex<Claims>>,
        wake: Wake,
        works: Works,
    ) -> Self {
        Self {
            secrets: Secrets {
                client: handles.client.clone(),
                watched: secrets,
                resources,
            },
            listings: Listings::new(&handles.settings.pace),
            handles,
            claims,
            wake,
            works,
            started: clock::now(),
        }
    }

    /// Evidence from the watches and the shared list: no request when nothing is due for an audit, but for the
    /// Secret's metadata where Secrets are not watched. `list` says which one is good enough.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn cached(
        &self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        work: Option<Work>,
        list: List,
    ) -> Result<Known, Error> {
        let mut seen = self.begin(resource, now, work);
        let stored = self.secrets.cached(resource, self.cluster(), now).await?;
        let since = now - self.handles.settings.pace.audit;
        let stored = match self.works.proven(uid(resource), since) {
            Some(held) => recalled(stored, held, self.secrets.watched.is_some()),
            None => stored,
        };
        let stored = doubted(&seen, stored);
        seen.found(stored);
        // First by what is known: a resource that has to wait for another makes no call.
        self.find_rival(&mut seen);
        if seen.rival.is_none() && is_workable(&seen) {
            let age = seen.now.duration_since(reading_not_before(&seen));
            let age = Duration::try_from(age).unwrap_or_default();
            // A process younger than the interval has no list that is too old.
            let not_before = Instant::now().checked_sub(age);
            let not_before = match list {
                List::Young => not_before,
                List::Since(asked) => not_before.map(|it| asked.min(it)),
                List::Any => None,
            };
            let listing = self.listings.known(&token::list_key(resource), not_before);
            let Some(listing) = listing else {
                return Ok(Known::Lacks(not_before));
            };
            // One without a value looks in any case, and so does one that has its turn.
            let may_look_later = match list {
                List::Young => true,
                List::Since(asked) => listing.began() < asked,
                List::Any => false,
            };
            let has_none =
                matches!(&seen.stored, Stored::Absent { elsewhere, .. } if elsewhere.is_none());
            if may_look_later && !has_none && token::lacks(&listing, resource) {
                return Ok(Known::Lacks(Some(Instant::now())));
            }
            find_in_list(&mut seen, &listing)?;
            self.find_rival(&mut seen);
        }
        Ok(Known::Seen(Box::new(seen)))
    }

    /// Reads the list that is lacking, for this resource and all others that need it. What keeps it from being read is known
    /// then too.
    pub async fn fetch_list(&self, resource: &WorkspaceTokenRotation, not_before: Option<Instant>) {
        let finder = self.finder();
        let listing = token::listing(&finder, resource, not_before);
        let _ = listing.await;
    }

    /// Fresh evidence: Secret and vendor are read now. The grant is for a rotation decided on it.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn live(
        &self,
        cached: &Observed,
        now: impl Fn() -> Timestamp,
    ) -> Result<(Observed, Option<Grant>), Error> {
        let resource = &cached.resource;
        let first = self.look(cached, now()).await?;
        let is_shared = first.1.as_ref().is_some_and(|grant| grant.is_shared);
        if !is_shared || !is_credential_refused(&first.0) {
            return Ok(first);
        }
        // It may have been replaced since it was read.
        self.handles.grants.forget(resource);
        self.look(cached, now()).await
    }

    async fn look(
        &self,
        cached: &Observed,
        now: Timestamp,
    ) -> Result<(Observed, Option<Grant>), Error> {
        let handles = &self.handles;
        let grant = match handles.grants.of(&cached.resource).await {
            Ok(grant) => grant,
            Err(Error::Refused(blocked)) => {
                let mut seen = cached.clone();
                seen.access = Access::Denied(blocked);
                return Ok((seen, None));
            }
            Err(error) => return Err(error),
        };
        let resource = &cached.resource;
        let mut seen = self.begin(resource, now, cached.work.clone());
        seen.access = Access::Granted(grant.credential.claims());
        self.works.prove(uid(resource), None);
        let stored = self.secrets.read(resource, self.cluster(), seen.now);
        let stored = doubted(&seen, stored.await?);
        seen.found(stored);
        seen.records = cached.records.clone();
        token::read_all(&self.finder(), &mut seen, &grant).await?;
        // Without an answer it is asked again soon, and not only at the next audit: the look had a reason.
        let is_unavailable = |live: &Live| matches!(live, Live::Unavailable { .. });
        let answered = !seen.records.all().into_iter().any(is_unavailable);
        seen.asked_at = answered.then_some(seen.now);
        seen.token_is_gone = token::is_gone(&self.finder(), &seen, &grant).await?;
        seen.vendor_time = handles.astro.time().filter(|_| answered);
        let ids = seen.records.all().into_iter().filter_map(Live::id);
        let begun = ids.map(|id| (id.clone(), self.works.begun(id)));
        seen.begun = begun.collect();
        if is_old_record(&seen) {
            handles.metrics.vendor_stale_read();
        }
        if let Err(unavailable) = self.ask_value(&mut seen, &grant).await {
            for (role, _) in resource.spec.references() {
                *seen.records.of_mut(role) = unavailable.clone();
            }
        }
        if matches!(seen.drift(), Some((Drift::LiveNewer, ..))) {
            let elsewhere = self.secrets.elsewhere(resource, self.cluster(), seen.now);
            seen.elsewhere = elsewhere.await?;
        }
        self.find_rival(&mut seen);
        Ok((seen, Some(grant)))
    }

    /// Remembers whether a resource can work on its token, on the last evidence of a pass.
    pub fn judge(&self, seen: &Observed) {
        if let Some(able) = is_able(seen) {
            self.wake.send(self.claims().judge(&seen.resource, able));
        }
    }

    /// Takes note of a status that was just written: nobody waits for the watch to tell of it.
    ///
    /// The answer to the write can have an edit in it that the watch has not told of yet and will tell of no more, so the
    /// resource is woken for that.
    pub fn book(&self, resource: &WorkspaceTokenRotation) {
        // The watch holds the claims while it changes the store: what it has taken out gets no claims again.
        let mut claims = self.claims();
        match self.secrets.resources.update(resource) {
            Some(is_edited) => {
                self.wake.send(is_edited.then(|| Key::from(resource)));
                self.wake.send(claims.apply(resource, clock::now()));
            }
            None => self.wake.send(claims.book(resource)),
        }
    }

    /// Forgets lists that no resource has asked for in three audits.
    pub fn forget_idle(&self) {
        let idle = (self.handles.settings.pace.audit * 3).unsigned_abs();
        self.listings.forget_older_than(idle);
        self.handles.astro.forget_idle();
    }

    /// Who may work on what.
    pub fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        &self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        work: Option<Work>,
    ) -> Observed {
        let identity = &self.handles.identity;
        let uid = uid(resource);
        let pending = resource.status.as_ref().and_then(|s| s.pending.as_ref());
        let holder_done_at = pending.and_then(|pending| {
            if identity.succeeds(&pending.holder) {
                return Some(self.started);
            }
            let is_ours = pending.holder == identity.to_string();
            self.works.ended(uid).filter(|_| is_ours && work.is_none())
        });
        Observed {
            work,
            holder_done_at,
            tries: self.works.tries(uid),
            ..Observed::begin(resource, now, &self.handles.settings)
        }
    }

    fn finder(&self) -> Finder<'_> {
        Finder {
            handles: &self.handles,
            listings: &self.listings,
            claims: &self.claims,
        }
    }

    fn cluster(&self) -> &str {
        &self.handles.settings.cluster
    }

    /// Asks a stored value itself whether it is live, where nothing else tells; otherwise why that is not known.
    async fn ask_value(&self, seen: &mut Observed, grant: &Grant) -> Result<(), Live> {
        let (handles, resource) = (&self.handles, &seen.resource);
        let asked = asks_value(seen);
        let place = |held: &Held| (held.secret.clone(), held.stamp.key.clone());
        let of = |held: &Held| seen.record(&held.stamp.token_id).map(|it| it.0.clone());
        let ((secret, key), tokens) = match &seen.stored {
            Stored::Consented { .. } => {
                let target = &resource.spec.target;
                let tokens = seen.records.all().into_iter().filter_map(Live::token);
                let place = (target.name.clone(), target.key().to_owned());
                (place, tokens.cloned().collect())
            }
            Stored::Unread(held) => (place(held), Vec::from_iter(of(held))),
            stored => match stored.value().filter(|_| asked) {
                Some(held) => (place(held), Vec::from_iter(of(held))),
                None => return Ok(()),
            },
        };
        if tokens.is_empty() {
            return Ok(());
        }
        let of = token::is_live(handles, resource, grant, &tokens, (&secret, &key)).await?;
        seen.value_of = of.clone().flatten();
        seen.stored = answered(seen.stored.clone(), of.map(|of| of.is_some()));
        // Ours, as its value shows, though its evidence is not whole; what a person gives away is taken over by a rule.
        let ours = |held: &Held| held.stamp.adopted_at.is_none();
        if let Some(held) = seen.taken_over().filter(ours) {
            self.works.prove(uid(resource), Some(held.clone()));
            seen.stored = Stored::Holds(held);
        }
        Ok(())
    }

    /// Remembers which tokens a resource means, and looks for others with a better claim to the same.
    fn find_rival(&self, seen: &mut Observed) {
        let mut claims = self.claims();
        for (role, _) in seen.resource.spec.references() {
            if let Some(token) = seen.records.of(role).token() {
                self.wake.send(claims.learn(&seen.resource, role, token));
            }
        }
        let rivals = claims.rivals(&seen.resource, seen.now, seen.pace());
        (seen.rival, seen.taken) = (rivals.whole, rivals.taken);
        seen.is_in_ring = claims.is_in_ring(&seen.resource);
    }
}

fn uid(resource: &WorkspaceTokenRotation) -> &str {
    resource.metadata.uid.as_deref().unwrap_or_default()
}

/// What the shared list says of the token.
fn find_in_list(seen: &mut Observed, listing: &Listing) -> Result<(), Error> {
    seen.access = match &listing.value {
        (Err(Failure::Unread { message }), _) => {
            return Err(kube::Error::Service(message.clone().into()).into());
        }
        (Err(Failure::Denied(blocked)), _) => Access::Denied(blocked.clone()),
        (_, Some(credential)) => Access::Granted(credential.clone()),
        (_, None) => Access::Unknown,
    };
    let entity = Entity::of(&seen.resource.spec);
    for (role, asked) in seen.resource.spec.references() {
        match token::in_listing(&entity, asked, listing, false) {
            // A failure that is shared is no evidence: a rule that needs to know asks again.
            Live::Unavailable { .. } => {}
            known => {
                *seen.records.of_mut(role) = known;
                let age = SignedDuration::try_from(listing.age()).unwrap_or_default();
                seen.asked_at = seen.now.checked_sub(age).ok();
            }
        }
    }
    let held = seen.held().filter(|_| seen.takes_turns());
    let former = held.map(|held| held.stamp.token_id.clone());
    if let Some(id) = former.filter(|id| seen.record(id).is_none()) {
        seen.records.former = token::with_id(&id, listing);
    }
    Ok(())
}

fn is_credential_refused(seen: &Observed) -> bool {
    let is_refused = |live: &Live| matches!(live, Live::Refused { blocked, .. } if blocked.reason == Reason::CredentialsRejected);
    seen.records.all().into_iter().any(is_refused)
}
