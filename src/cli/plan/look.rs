//! Looks at resources as the operator does, live, and remembers what is shared between them.

use crate::api::{Key, WorkspaceTokenRotation, evidence};
use crate::astro::record::Details;
use crate::clock::now;
use crate::cluster::decode::Item;
use crate::cluster::error::Error;
use crate::cluster::permissions::may_read_secrets;
use crate::cluster::store::Store;
use crate::cluster::watch::Wake;
use crate::decide::evidence::{Access, Observed, Settings};
use crate::decide::managed::Metadata;
use crate::decide::rivals::Claims;
use crate::decide::validate::is_workable;
use crate::operator::grant::Grant;
use crate::operator::handles::Handles;
use crate::operator::observe::Observer;
use crate::operator::works::Works;
use crate::text::line;
use kube::{Api, ResourceExt};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// What looking needs.
pub struct Looker {
    observer: Observer,
    knows_cluster: bool,
    all: Vec<WorkspaceTokenRotation>,
    looked_at: HashSet<String>,
    readable: HashMap<String, bool>,
    details: HashMap<(u128, String), Result<Details, String>>,
}

/// What a look brought.
pub struct Look {
    /// The evidence.
    pub seen: Observed,
    /// The credential it was read with.
    pub grant: Option<Grant>,
}

impl Looker {
    /// Knows of all resources, and has looked at none. `knows_cluster`: the cluster's id in the settings is the cluster's.
    pub fn new(handles: Handles, knows_cluster: bool, all: Vec<WorkspaceTokenRotation>) -> Self {
        let store = Store::default();
        let mut claims = Claims::default();
        for resource in &all {
            store.put(resource);
            claims.apply(resource, now());
        }
        // Every resource that is woken is looked at in any case.
        let (wake, _) = Wake::channel();
        let claims = Arc::new(Mutex::new(claims));
        Self {
            observer: Observer::new(handles, store, None, claims, wake, Works::default()),
            knows_cluster,
            all,
            looked_at: HashSet::new(),
            readable: HashMap::new(),
            details: HashMap::new(),
        }
    }

    /// Fresh evidence about a resource.
    ///
    /// # Errors
    /// When the API server gives none.
    pub async fn look(&mut self, resource: &WorkspaceTokenRotation) -> Result<Look, Error> {
        let mut begun = Observed::begin(resource, now(), &self.observer.handles.settings);
        if !is_workable(&begun) {
            return Ok(Look {
                seen: begun,
                grant: None,
            });
        }
        if !self.knows_cluster {
            self.observer.handles.settings = Arc::new(Settings {
                cluster: self.written_in(resource).await?,
                ..(*self.observer.handles.settings).clone()
            });
        }
        self.find_rivals(&mut begun);
        let (seen, grant) = self.observer.live(&begun, now).await?;
        self.observer.judge(&seen);
        self.looked_at.extend(resource.uid());
        Ok(Look { seen, grant })
    }

    /// The cluster that the Secret says it was written in: where the real one is not known it passes for that.
    async fn written_in(&self, resource: &WorkspaceTokenRotation) -> Result<String, kube::Error> {
        let namespace = resource.namespace().unwrap_or_default();
        let secrets: Api<Item<Metadata>> =
            Api::namespaced(self.observer.handles.client.clone(), &namespace);
        let former = resource.status.iter().filter_map(|s| s.binding.as_ref());
        let names = former.map(|it| &it.name);
        for name in std::iter::once(&resource.spec.target.name).chain(names) {
            let found = secrets.get_opt(name).await?;
            let found = found.map(Item::read).transpose()?;
            let cluster = found.and_then(|it| it.annotations().get(evidence::CLUSTER).cloned());
            if let Some(cluster) = cluster {
                return Ok(cluster);
            }
        }
        Ok(String::new())
    }

    /// Looks at the older resources with a claim to the same token that have not been looked at yet: whether they can work
    /// decides whether this one waits.
    pub async fn look_at_rivals(&mut self, seen: &mut Observed) {
        if seen
            .rival
            .as_ref()
            .is_some_and(|rival| rival.until.is_some())
        {
            self.look_at_rivals_of(seen).await;
        }
        // The operator does not even look for the credential of one that has to wait.
        if seen.rival.is_some() && matches!(seen.access, Access::Denied(_)) {
            seen.access = Access::Unknown;
        }
    }

    async fn look_at_rivals_of(&mut self, seen: &mut Observed) {
        let older = self.observer.claims().older(&seen.resource);
        let is_older = |other: &&WorkspaceTokenRotation| older.contains(&Key::from(*other));
        let rivals: Vec<_> = self.all.iter().filter(is_older).cloned().collect();
        for rival in rivals {
            let is_known = rival.uid().is_some_and(|uid| self.looked_at.contains(&uid));
            // One whose credential only the operator can read is not to be called unable.
            if !is_known && self.can_read(&rival).await {
                let _ = self.look(&rival).await;
            }
        }
        self.find_rivals(seen);
    }

    fn find_rivals(&self, seen: &mut Observed) {
        let pace = &self.observer.handles.settings.pace;
        let rivals = (self.observer.claims()).rivals(&seen.resource, now(), pace);
        (seen.rival, seen.taken) = (rivals.whole, rivals.taken);
        seen.is_in_ring = self.observer.claims().is_in_ring(&seen.resource);
    }

    async fn can_read(&mut self, resource: &WorkspaceTokenRotation) -> bool {
        let namespace = resource.namespace().unwrap_or_default();
        if let Some(known) = self.readable.get(&namespace) {
            return *known;
        }
        let can = may_read_secrets(&self.observer.handles.client, &namespace).await;
        self.readable.insert(namespace, can);
        can
    }

    /// The record of the credential itself; otherwise why there is none.
    pub async fn credential(&mut self, grant: &Grant) -> Result<&Details, &str> {
        let credential = &grant.credential;
        let key = (credential.fingerprint(), grant.organization.clone());
        if !self.details.contains_key(&key) {
            let read = match credential.own_token_id() {
                None => Err("the credential does not say which token it is".into()),
                Some(id) => {
                    let astro = &self.observer.handles.astro;
                    let read = astro.details(credential, &grant.organization, id).await;
                    read.map_err(|error| line(&error.to_string(), 200))
                }
            };
            self.details.insert(key.clone(), read);
        }
        self.details[&key].as_ref().map_err(String::as_str)
    }
}

/// What the API server said, when it said no; otherwise it did not answer.
pub fn refusal(error: &Error) -> Option<String> {
    match error {
        Error::Unavailable(kube::Error::Api(_))
        | Error::Refused(_)
        | Error::Changed(_)
        | Error::Raced => Some(format!("the API server gives no evidence: {error}")),
        Error::Unavailable(_) => None,
    }
}
