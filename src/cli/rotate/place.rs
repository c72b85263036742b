//! The Secret that `--into-secret` names: how it is written on the command line, and whether it may be written to.

use crate::api::{DEFAULT_KEY, WorkspaceTokenRotation};
use crate::cli::cluster::Cluster;
use crate::cluster::client::cluster_id;
use crate::cluster::decode::Item;
use crate::cluster::reading::{self, Known, is_refusal};
use crate::decide::entity::Entity;
use crate::decide::evidence::{Stored, Token};
use crate::decide::managed::Metadata;
use crate::decide::ownership;
use crate::decide::token::is_meant;
use anyhow::{Context, bail};
use kube::{Api, Client, ResourceExt};
use std::fmt;
use std::str::FromStr;

/// `[NAMESPACE/]NAME[:KEY]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Namespace; by default that of the context.
    pub namespace: Option<String>,
    /// Name of the Secret.
    pub name: String,
    /// Key of the value.
    pub key: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, rest) = match text.split_once('/') {
            Some((namespace, rest)) => (Some(namespace.to_owned()), rest),
            None => (None, text),
        };
        let (name, key) = rest.split_once(':').unwrap_or((rest, DEFAULT_KEY));
        if [namespace.as_deref(), Some(name), Some(key)].contains(&Some("")) {
            return Err("expected NAME, NAMESPACE/NAME or NAMESPACE/NAME:KEY".into());
        }
        Ok(Self {
            namespace,
            name: name.into(),
            key: key.into(),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.iter().map(|it| format!("{it}/"));
        let namespace: String = namespace.collect();
        write!(f, "{namespace}{}:{}", self.name, self.key)
    }
}

/// The Secret's surroundings, as they were when the command began.
pub(super) struct Site {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// Uid of `kube-system`.
    pub(super) cluster: String,
    /// Resources in the namespace, by name.
    neighbours: Vec<String>,
}

impl Site {
    /// Looks around, and refuses what belongs to the operator.
    pub(super) async fn of(
        place: &Place,
        at: Cluster,
        entity: &Entity,
        token: &Token,
    ) -> anyhow::Result<Self> {
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| at.namespace.clone());
        // The operator leaves those out that cannot be read: nothing is rotated for them.
        let Known {
            all: resources,
            unreadable,
            ..
        } = resources(&at, &namespace).await?;
        let is_here = |it: &&WorkspaceTokenRotation| it.namespace().as_ref() == Some(&namespace);
        let has_token = |it: &&WorkspaceTokenRotation| is_meant(it, entity, token);
        if let Some(owner) = resources.iter().find(has_token) {
            let (owner, its) = (owner.name_any(), owner.namespace().unwrap_or_default());
            bail!(
                "nothing was rotated: the WorkspaceTokenRotation {its}/{owner} owns this token; let the operator rotate it: \
                 astro-token-operator trigger --namespace {its} {owner}"
            );
        }
        let here: Vec<_> = resources.iter().filter(is_here).collect();
        if let Some(owner) = here.iter().find(|it| it.spec.target.name == place.name) {
            bail!(
                "nothing was rotated: Secret {} is the target of the WorkspaceTokenRotation {}; name another Secret",
                place.name,
                owner.name_any()
            );
        }
        let unreadable = unreadable.into_iter().map(|(key, _)| key);
        let unreadable = unreadable.filter(|key| key.namespace == namespace);
        let neighbours = here.iter().map(|it| it.name_any());
        let neighbours = neighbours.chain(unreadable.map(|key| key.name)).collect();
        let cluster = cluster_id(&at.client).await;
        let cluster = cluster.map_err(|error| at.error(&error)).context(
            "nothing was rotated: the namespace kube-system has to be read, whose uid the Secret will carry",
        )?;
        Ok(Self {
            client: at.client,
            namespace,
            cluster,
            neighbours,
        })
    }

    /// What the Secret holds.
    pub(super) async fn stored(&self, owner: &WorkspaceTokenRotation) -> kube::Result<Stored> {
        let secrets: Api<Item<Metadata>> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = secrets.get_opt(&owner.spec.target.name).await?;
        let found = found.map(Item::read).transpose()?;
        let exists = |name: &str| self.neighbours.iter().any(|it| it == name);
        Ok(
            match found.map(|it| ownership::read(&it, owner, &self.cluster, exists)) {
                None => Stored::Absent {
                    elsewhere: None,
                    resource_version: None,
                },
                // Live or not: a new value is what was asked for.
                Some(Stored::Consented {
                    lacks,
                    used,
                    resource_version,
                    ..
                }) => Stored::Consented {
                    lacks,
                    used,
                    value_is_live: Some(false),
                    resource_version,
                },
                Some(Stored::Unread(held)) => Stored::Holds(held),
                Some(stored) => stored,
            },
        )
    }
}

/// The resources that may own the token or the Secret, as far as they may be listed; none where there is no such kind.
async fn resources(at: &Cluster, namespace: &str) -> anyhow::Result<Known> {
    match reading::resources(&at.client, [namespace.to_owned()], []).await {
        Ok(known) => Ok(known),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Known::default()),
        Err(error) if is_refusal(&error) => bail!(
            "nothing was rotated: you may not list WorkspaceTokenRotations in namespace {namespace}, one of which might own the token"
        ),
        Err(error) => Err(at.error(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_and_written_alike() {
        for (text, shown) in [
            ("ci", "ci:token"),
            ("data/ci", "data/ci:token"),
            ("data/ci:value", "data/ci:value"),
            ("ci:a.b_c-d", "ci:a.b_c-d"),
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), shown);
        }
        for text in ["", "/", "/ci", "data/", "ci:", "data/:key"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
