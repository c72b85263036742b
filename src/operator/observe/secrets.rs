//! What the target Secret holds: from the watch, or read now.

use crate::api::{Key, WorkspaceTokenRotation, evidence};
use crate::cluster::secret::metadata;
use crate::cluster::store::Store;
use crate::decide::evidence::{Held, Stored};
use crate::decide::managed::Metadata;
use crate::decide::ownership;
use jiff::Timestamp;
use kube::{Client, ResourceExt};

/// Where the evidence on Secrets comes from.
pub struct Secrets {
    /// For single calls.
    pub client: Client,
    /// Metadata of all Secrets of ours, as watched; `None`: each is read when it is needed.
    pub watched: Option<Store<Metadata>>,
    /// All resources, as watched.
    pub resources: Store<WorkspaceTokenRotation>,
}

impl Secrets {
    /// From the watch where there is one; otherwise read now. `cluster`: uid of `kube-system`.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn cached(
        &self,
        resource: &WorkspaceTokenRotation,
        cluster: &str,
        now: Timestamp,
    ) -> kube::Result<Stored> {
        let Some(watched) = &self.watched else {
            return self.read(resource, cluster, now).await;
        };
        let target = Key {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.spec.target.name.clone(),
        };
        Ok(match watched.get(&target) {
            Some(secret) => self.stored(&secret, resource, cluster),
            None => Stored::Absent {
                elsewhere: elsewhere(watched, resource, cluster, now),
                resource_version: None,
            },
        })
    }

    /// Read now.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn read(
        &self,
        resource: &WorkspaceTokenRotation,
        cluster: &str,
        now: Timestamp,
    ) -> kube::Result<Stored> {
        let namespace = resource.namespace().unwrap_or_default();
        let name = &resource.spec.target.name;
        if let Some(secret) = metadata(&self.client, &namespace, name).await? {
            return Ok(self.stored(&secret, resource, cluster));
        }
        Ok(Stored::Absent {
            elsewhere: self.elsewhere(resource, cluster, now).await?,
            resource_version: None,
        })
    }

    /// The newest value of the resource in a Secret other than its target.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn elsewhere(
        &self,
        resource: &WorkspaceTokenRotation,
        cluster: &str,
        now: Timestamp,
    ) -> kube::Result<Option<Held>> {
        let watched = self.watched.as_ref();
        if let Some(held) = watched.and_then(|all| elsewhere(all, resource, cluster, now)) {
            return Ok(Some(held));
        }
        former(&self.client, resource, cluster).await
    }

    fn stored(
        &self,
        secret: &Metadata,
        resource: &WorkspaceTokenRotation,
        cluster: &str,
    ) -> Stored {
        let namespace = resource.namespace().unwrap_or_default();
        let exists = |name: &str| {
            let (namespace, name) = (namespace.clone(), name.to_owned());
            self.resources.contains(&Key { namespace, name })
        };
        ownership::read(secret, resource, cluster, exists)
    }
}

/// The value under the target's former name, among the Secrets of the resource.
fn elsewhere(
    secrets: &Store<Metadata>,
    resource: &WorkspaceTokenRotation,
    cluster: &str,
    now: Timestamp,
) -> Option<Held> {
    // The store may be behind: what it has under the target's own name is no predecessor.
    let all = secrets.owned_by(&Key::from(resource));
    let held = all
        .iter()
        .filter(|secret| secret.name_any() != resource.spec.target.name)
        .filter_map(|secret| intact(secret, resource, cluster));
    // Of two values of one second the one that the status knows is the later one.
    let bound = bound(resource);
    held.max_by_key(|held| (held.stamp.obtained_at(now), bound == Some(&held.secret)))
}

/// The value under the target's former name, which status knows.
async fn former(
    client: &Client,
    resource: &WorkspaceTokenRotation,
    cluster: &str,
) -> kube::Result<Option<Held>> {
    let Some(former) = bound(resource).filter(|it| **it != resource.spec.target.name) else {
        return Ok(None);
    };
    let namespace = resource.namespace().unwrap_or_default();
    let found = metadata(client, &namespace, former).await?;
    Ok(found.and_then(|secret| intact(&secret, resource, cluster)))
}

/// Name of the Secret that the status knows to hold the value.
fn bound(resource: &WorkspaceTokenRotation) -> Option<&String> {
    let binding = resource.status.as_ref()?.binding.as_ref()?;
    Some(&binding.name)
}

/// The evidence on a Secret of this very resource, unless another party has changed it.
fn intact(secret: &Metadata, resource: &WorkspaceTokenRotation, cluster: &str) -> Option<Held> {
    let owner = secret.annotations().get(evidence::OWNED_BY);
    if owner != Some(&resource.name_any()) || secret.namespace() != resource.namespace() {
        return None;
    }
    let held = ownership::held(secret, resource)?;
    (held.key_written_by.is_none() && held.stamp.cluster == cluster).then_some(held)
}
