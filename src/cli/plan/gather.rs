//! Which resources are planned for, out of a cluster or of files, and which others are known beside them.

use super::args::Args;
use super::checks::{Check, LONGEST, PRESENT};
use super::files::{Document, applied};
use crate::api::{Key, WorkspaceTokenRotation};
use crate::cli::cluster::Cluster;
use crate::clock::now;
use crate::cluster::reading::{self, Known, is_refusal};
use crate::text::api_error;
use anyhow::{anyhow, bail};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// A resource to plan for.
pub struct Chosen {
    /// As it is, or would be once it was applied.
    pub resource: WorkspaceTokenRotation,
    /// File and document it is from; `None`: the cluster.
    pub file: Option<String>,
    /// The cluster does not have it yet.
    pub is_new: bool,
}

/// What there is to plan with.
#[derive(Default)]
pub struct Gathered {
    /// As they are chosen, in the order they are told in.
    pub chosen: Vec<Chosen>,
    /// All that are known, the chosen ones among them.
    pub all: Vec<WorkspaceTokenRotation>,
    /// Why these are not all that there are.
    pub unseen: Option<String>,
    /// What was found out about all of them.
    pub checks: Vec<Check>,
}

/// The documents of these names; of all where none is given.
pub fn named(args: &Args, mut documents: Vec<Document>) -> anyhow::Result<Vec<Document>> {
    if args.files.is_empty() || args.names.is_empty() {
        return Ok(documents);
    }
    for name in &args.names {
        if !documents.iter().any(|it| it.resource.name_any() == *name) {
            bail!("no file has a WorkspaceTokenRotation named {name}");
        }
    }
    documents.retain(|it| args.names.contains(&it.resource.name_any()));
    Ok(documents)
}

/// Why no cluster was asked.
pub enum Unreached {
    /// There is none, or it does not answer.
    Offline(anyhow::Error),
    /// It says no, or what was asked for is not there.
    Failed(anyhow::Error),
}

/// The cluster, and what it has.
pub async fn reach(args: &Args, documents: &[Document]) -> Result<(Cluster, Gathered), Unreached> {
    let cluster = Cluster::connect(&args.cluster).await.map_err(|error| {
        match args.cluster.kubeconfig.is_some() || args.cluster.context.is_some() {
            true => Unreached::Failed(error),
            false => Unreached::Offline(error),
        }
    })?;
    let gathered = match args.files.is_empty() {
        true => of_cluster(args, &cluster).await?,
        false => of_files(args, &cluster, documents).await?,
    };
    Ok((cluster, gathered))
}

fn unreached(cluster: &Cluster, error: &kube::Error) -> Unreached {
    let said = cluster.error(error);
    match error {
        kube::Error::Api(_) => Unreached::Failed(said),
        _ => Unreached::Offline(said),
    }
}

async fn of_cluster(args: &Args, cluster: &Cluster) -> Result<Gathered, Unreached> {
    let (namespaces, names) = match args.all_namespaces {
        true => (None, Vec::new()),
        false => {
            let key = |name: &String| Key {
                namespace: cluster.namespace.clone(),
                name: name.clone(),
            };
            let names = args.names.iter().map(key).collect();
            (Some(cluster.namespace.clone()), names)
        }
    };
    let known = reading::resources(&cluster.client, namespaces, names).await;
    let known = known.map_err(|error| unreached(cluster, &error))?;
    if let Some(why) = known.unseen.as_ref().filter(|_| args.all_namespaces) {
        return Err(Unreached::Failed(anyhow!("{why}")));
    }
    let is_asked_for = |key: &Key| {
        let here = args.all_namespaces || key.namespace == cluster.namespace;
        here && (args.names.is_empty() || args.names.contains(&key.name))
    };
    let chosen = known.all.iter().filter(|it| is_asked_for(&Key::from(*it)));
    let chosen = chosen.map(|it| Chosen {
        resource: it.clone(),
        file: None,
        is_new: false,
    });
    let mut chosen: Vec<_> = chosen.collect();
    chosen.sort_by_key(|it| Key::from(&it.resource));
    let unreadable = known.unreadable.iter();
    let unreadable = unreadable.filter(|(key, _)| is_asked_for(key));
    let checks: Vec<_> = unreadable
        .map(|(key, why)| {
            let what = format!("{}/{} can be read", key.namespace, key.name);
            Check::no(
                what,
                why,
                "correct the field; until then the operator leaves the resource out",
            )
        })
        .collect();
    let is_known = |name: &String| {
        chosen.iter().any(|it| it.resource.name_any() == *name)
            || known
                .unreadable
                .iter()
                .any(|(key, _)| is_asked_for(key) && key.name == *name)
    };
    let is_missing = |name: &&String| !is_known(name);
    if let Some(name) = args.names.iter().find(is_missing) {
        let place = match args.all_namespaces {
            true => "any namespace".to_owned(),
            false => format!("the namespace {}", cluster.namespace),
        };
        return Err(Unreached::Failed(anyhow!(
            "there is no WorkspaceTokenRotation {name} in {place}"
        )));
    }
    Ok(Gathered {
        chosen,
        all: known.all,
        unseen: known.unseen,
        checks,
    })
}

async fn of_files(
    args: &Args,
    cluster: &Cluster,
    documents: &[Document],
) -> Result<Gathered, Unreached> {
    let documents = placed(args, documents, &cluster.namespace).map_err(Unreached::Failed)?;
    let names: Vec<_> = documents.iter().map(|it| Key::from(&it.resource)).collect();
    let namespaces = names.iter().map(|key| key.namespace.clone());
    let mut checks = Vec::new();
    let known = match reading::resources(&cluster.client, namespaces, names.clone()).await {
        Ok(known) => known,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            checks.push(Check::no(
                "the cluster knows WorkspaceTokenRotations",
                "the CustomResourceDefinition is missing",
                "install it with: astro-token-operator crd | kubectl apply -f -",
            ));
            Known::default()
        }
        Err(refused) if is_refusal(&refused) => {
            let why = api_error(&refused, LONGEST);
            checks.push(Check::not(PRESENT, &why));
            Known {
                unseen: Some(why),
                ..Known::default()
            }
        }
        Err(error) => return Err(unreached(cluster, &error)),
    };
    let mut all: BTreeMap<_, _> = known
        .all
        .iter()
        .map(|it| (Key::from(it), it.clone()))
        .collect();
    let chosen = chosen(documents, &all);
    all.extend(
        chosen
            .iter()
            .map(|it| (Key::from(&it.resource), it.resource.clone())),
    );
    Ok(Gathered {
        chosen,
        all: all.into_values().collect(),
        unseen: known.unseen,
        checks,
    })
}

/// Documents as they would be once they were applied to what is `present`.
pub fn chosen(
    documents: Vec<Document>,
    present: &BTreeMap<Key, WorkspaceTokenRotation>,
) -> Vec<Chosen> {
    let now = now();
    let chosen = documents.into_iter().enumerate().map(|(index, document)| {
        let present = present.get(&Key::from(&document.resource));
        Chosen {
            resource: applied(&document.resource, present, now, index),
            file: Some(document.place),
            is_new: present.is_none(),
        }
    });
    chosen.collect()
}

/// The documents, each in its namespace.
pub fn placed(args: &Args, documents: &[Document], default: &str) -> anyhow::Result<Vec<Document>> {
    let mut seen = BTreeMap::new();
    let mut placed = Vec::new();
    for Document { place, resource } in documents {
        let mut resource = resource.clone();
        let namespace = resource.namespace().unwrap_or_else(|| default.to_owned());
        if args
            .cluster
            .namespace
            .as_ref()
            .is_some_and(|asked| *asked != namespace)
        {
            bail!("{place}: metadata.namespace: it is {namespace}, and not the one of --namespace");
        }
        resource.metadata.namespace = Some(namespace);
        if let Some(before) = seen.insert(Key::from(&resource), place) {
            bail!("{place}: metadata.name: the same resource as in {before}");
        }
        placed.push(Document {
            place: place.clone(),
            resource,
        });
    }
    Ok(placed)
}
