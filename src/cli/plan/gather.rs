//! Which resources are planned for, out of a cluster or of files, and which others are known beside them.

use super::args::Args;
use super::checks::{Check, LONGEST, PRESENT};
use super::files::{Document, applied};
use crate::api::WorkspaceTokenRotation;
use crate::cli::cluster::Cluster;
use crate::clock::now;
use crate::text::api_error;
use anyhow::{anyhow, bail};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};

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

/// Resources as a cluster lets one see them.
#[derive(Default)]
struct Listed {
    all: Vec<WorkspaceTokenRotation>,
    /// Why these are not all.
    unseen: Option<String>,
    checks: Vec<Check>,
}

/// All resources; where that is not allowed, those of some namespaces.
async fn list(cluster: &Cluster, namespaces: &BTreeSet<String>) -> kube::Result<Listed> {
    let params = ListParams::default();
    let everywhere: Api<WorkspaceTokenRotation> = Api::all(cluster.client.clone());
    let refused = match everywhere.list(&params).await {
        Ok(list) => {
            return Ok(Listed {
                all: list.items,
                ..Listed::default()
            });
        }
        Err(kube::Error::Api(status)) if status.code == 403 => kube::Error::Api(status),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for namespace in namespaces {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(cluster.client.clone(), namespace);
        all.extend(api.list(&params).await?.items);
    }
    let why = format!(
        "of other namespaces nothing is known: {}",
        api_error(&refused, LONGEST)
    );
    Ok(Listed {
        all,
        unseen: Some(why),
        checks: Vec::new(),
    })
}

/// Each by its name, where they may not be listed.
async fn get(
    cluster: &Cluster,
    refused: &kube::Error,
    names: impl IntoIterator<Item = (String, String)>,
) -> kube::Result<Listed> {
    let mut all = Vec::new();
    for (namespace, name) in names {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(cluster.client.clone(), &namespace);
        all.extend(api.get_opt(&name).await?);
    }
    let why = format!(
        "of other resources nothing is known: {}",
        api_error(refused, LONGEST)
    );
    Ok(Listed {
        all,
        unseen: Some(why),
        checks: Vec::new(),
    })
}

fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn of_cluster(args: &Args, cluster: &Cluster) -> Result<Gathered, Unreached> {
    let namespaces = match args.all_namespaces {
        true => BTreeSet::new(),
        false => [cluster.namespace.clone()].into(),
    };
    let listed = match list(cluster, &namespaces).await {
        Err(error) if is_refusal(&error) && !args.names.is_empty() => {
            let names = args
                .names
                .iter()
                .map(|name| (cluster.namespace.clone(), name.clone()));
            get(cluster, &error, names)
                .await
                .map_err(|error| unreached(cluster, &error))?
        }
        listed => listed.map_err(|error| unreached(cluster, &error))?,
    };
    if let Some(why) = listed.unseen.as_ref().filter(|_| args.all_namespaces) {
        return Err(Unreached::Failed(anyhow!("{why}")));
    }
    let is_asked_for = |resource: &&WorkspaceTokenRotation| {
        let here = args.all_namespaces || resource.namespace().as_ref() == Some(&cluster.namespace);
        here && (args.names.is_empty() || args.names.contains(&resource.name_any()))
    };
    let chosen: Vec<_> = listed.all.iter().filter(is_asked_for).cloned().collect();
    for name in &args.names {
        if !chosen.iter().any(|it| it.name_any() == *name) {
            let place = match args.all_namespaces {
                true => "any namespace".to_owned(),
                false => format!("the namespace {}", cluster.namespace),
            };
            return Err(Unreached::Failed(anyhow!(
                "there is no WorkspaceTokenRotation {name} in {place}"
            )));
        }
    }
    let chosen = chosen.into_iter().map(|resource| Chosen {
        resource,
        file: None,
        is_new: false,
    });
    let mut chosen: Vec<_> = chosen.collect();
    chosen.sort_by_key(|it| (it.resource.namespace(), it.resource.name_any()));
    Ok(Gathered {
        chosen,
        all: listed.all,
        unseen: listed.unseen,
        checks: listed.checks,
    })
}

async fn of_files(
    args: &Args,
    cluster: &Cluster,
    documents: &[Document],
) -> Result<Gathered, Unreached> {
    let documents = placed(args, documents, &cluster.namespace).map_err(Unreached::Failed)?;
    let place = |it: &Document| {
        (
            it.resource.namespace().unwrap_or_default(),
            it.resource.name_any(),
        )
    };
    let namespaces = documents.iter().map(|it| place(it).0).collect();
    let listed = match list(cluster, &namespaces).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Listed {
            checks: vec![Check::no(
                "the cluster knows WorkspaceTokenRotations",
                "the CustomResourceDefinition is missing",
                "install it with: astro-token-operator crd | kubectl apply -f -",
            )],
            ..Listed::default()
        },
        Err(error) if is_refusal(&error) => {
            match get(cluster, &error, documents.iter().map(place)).await {
                Err(refused) if is_refusal(&refused) => {
                    let why = api_error(&refused, LONGEST);
                    Listed {
                        checks: vec![Check::not(PRESENT, &why)],
                        unseen: Some(why),
                        ..Listed::default()
                    }
                }
                listed => listed.map_err(|error| unreached(cluster, &error))?,
            }
        }
        listed => listed.map_err(|error| unreached(cluster, &error))?,
    };
    let present: BTreeMap<_, _> = listed
        .all
        .iter()
        .map(|it| ((it.namespace().unwrap_or_default(), it.name_any()), it))
        .collect();
    let chosen = chosen(documents, &present);
    let mut all: BTreeMap<_, _> = present
        .into_iter()
        .map(|(key, it)| (key, it.clone()))
        .collect();
    for it in &chosen {
        let key = (
            it.resource.namespace().unwrap_or_default(),
            it.resource.name_any(),
        );
        all.insert(key, it.resource.clone());
    }
    Ok(Gathered {
        chosen,
        all: all.into_values().collect(),
        unseen: listed.unseen,
        checks: listed.checks,
    })
}

/// Documents as they would be once they were applied to what is `present`.
pub fn chosen(
    documents: Vec<Document>,
    present: &BTreeMap<(String, String), &WorkspaceTokenRotation>,
) -> Vec<Chosen> {
    let now = now();
    let chosen = documents.into_iter().enumerate().map(|(index, document)| {
        let key = (
            document.resource.namespace().unwrap_or_default(),
            document.resource.name_any(),
        );
        let present = present.get(&key).copied();
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
        let key = (namespace.clone(), resource.name_any());
        if let Some(before) = seen.insert(key, place) {
            bail!("{place}: metadata.name: the same resource as in {before}");
        }
        resource.metadata.namespace = Some(namespace);
        placed.push(Document {
            place: place.clone(),
            resource,
        });
    }
    Ok(placed)
}
