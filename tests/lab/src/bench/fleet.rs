//! Many tokens with a resource each, alike in everything but their names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::shape::Shape;
use super::site::Site;
use crate::astro::{Astro, NewToken};
use crate::resource::kind;

/// Key of the value in every Secret.
pub const KEY: &str = "token";
/// Secret with the credential, in each namespace.
pub const CREDENTIAL: &str = "owner";

const LABEL: &str = "bench";
/// Selects the Secrets that the operator has written.
pub const WRITTEN: &str = "app.kubernetes.io/managed-by=astro-token-operator";
/// Requests at a time while things are set up.
const CONCURRENCY: usize = 32;
/// Objects of a page while all are read.
const PAGE: u32 = 500;

/// Tokens, resources and Secrets of one name.
pub struct Fleet {
    /// Each of them.
    pub members: Vec<Member>,
    client: Client,
    name: String,
}

/// One token. Its resource and its Secret have the name of the token.
#[derive(Clone)]
pub struct Member {
    /// Namespace of both.
    pub namespace: String,
    /// Name of all three.
    pub name: String,
    /// The token's id.
    pub token_id: String,
    /// Value of the credential in its namespace.
    pub credential: Arc<str>,
    /// The token's Workspace.
    pub workspace: String,
}

impl Fleet {
    /// Creates tokens and namespaces of a fleet's own with a credential each, for `number` resources of this shape; and the
    /// resources too.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub async fn create(
        site: &Site,
        name: &str,
        (number, shape): (usize, Shape),
        schedule: Value,
    ) -> anyhow::Result<Self> {
        let fleet = Self::prepare(site, name, (number, shape)).await?;
        fleet
            .each(async |member, api| {
                let resource = member.resource(name, &schedule);
                api.create(&PostParams::default(), &serde_json::from_value(resource)?)
                    .await?;
                Ok(())
            })
            .await?;
        Ok(fleet)
    }

    async fn prepare(
        site: &Site,
        name: &str,
        (number, shape): (usize, Shape),
    ) -> anyhow::Result<Self> {
        let mut workspaces = BTreeMap::<usize, BTreeSet<usize>>::new();
        for (namespace, workspace) in (0..number).map(|n| shape.place(n)) {
            workspaces.entry(namespace).or_default().insert(workspace);
        }
        let mut credentials = HashMap::new();
        for (namespace, workspaces) in workspaces {
            let owner = owner(name, namespace, &workspaces);
            let credential = site.astro.create(owner).value;
            let namespace_name = namespace_of(name, namespace);
            make_namespace(&site.client, &namespace_name, &credential).await?;
            credentials.insert(namespace, Arc::<str>::from(credential));
        }
        let member = |n: usize| {
            let (namespace, workspace) = shape.place(n);
            let token_name = format!("{name}-{n:05}");
            let workspace = workspace_of(name, workspace);
            let token = NewToken::workspace(&token_name, &workspace);
            Member {
                namespace: namespace_of(name, namespace),
                name: token_name,
                token_id: site.astro.create(token).id,
                credential: credentials[&namespace].clone(),
                workspace,
            }
        };
        Ok(Self {
            members: (0..number).map(member).collect(),
            client: site.client.clone(),
            name: name.to_owned(),
        })
    }

    /// Selects the fleet's resources.
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.name)
    }

    /// How many namespaces it is in.
    pub fn namespaces(&self) -> usize {
        let all = self.members.iter().map(|member| &member.namespace);
        all.collect::<BTreeSet<_>>().len()
    }

    /// How many Workspaces its tokens are in.
    pub fn workspaces(&self) -> usize {
        let all = self.members.iter().map(|member| &member.workspace);
        all.collect::<BTreeSet<_>>().len()
    }

    /// Merges `edit` into every resource.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn edit(&self, edit: Value) -> anyhow::Result<()> {
        let (params, patch) = (PatchParams::default(), Patch::Merge(&edit));
        self.each(async |member, api| {
            api.patch(&member.name, &params, &patch).await?;
            Ok(())
        })
        .await
    }

    /// Every resource as it is now.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn resources(&self) -> anyhow::Result<Vec<DynamicObject>> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind());
        let mut ours = ListParams::default().labels(&self.label()).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = api.list(&ours).await?;
            all.extend(page.items);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => ours.continue_token = Some(next),
                _ => return Ok(all),
            }
        }
    }

    /// Deletes every resource; the Secrets stay.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn delete(&self) -> anyhow::Result<()> {
        self.each(async |member, api| {
            api.delete(&member.name, &DeleteParams::default()).await?;
            Ok(())
        })
        .await
    }

    /// How often the fleet's tokens were rotated over HTTP, all together.
    pub fn rotations(&self, astro: &Astro) -> usize {
        let rotations = self.members.iter().map(|m| astro.rotations(&m.token_id));
        rotations.sum()
    }

    /// What is wrong with the Secrets: how many do not hold their token's live value.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn dead_secrets(&self, astro: &Astro) -> anyhow::Result<usize> {
        let api: Api<Secret> = Api::all(self.client.clone());
        let mut ours = ListParams::default().labels(WRITTEN).limit(PAGE);
        let mut values = HashMap::new();
        loop {
            let page = api.list(&ours).await?;
            for secret in page.items {
                let name = secret.name_any();
                let value = secret.data.and_then(|mut data| data.remove(KEY));
                values.insert((secret.metadata.namespace.unwrap_or_default(), name), value);
            }
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => ours.continue_token = Some(next),
                _ => break,
            }
        }
        let holds_live = |member: &&Member| {
            let place = (member.namespace.clone(), member.name.clone());
            let Some(Some(ByteString(value))) = values.get(&place) else {
                return false;
            };
            let live = astro.live_value(&member.token_id);
            live.is_some_and(|live| live.as_bytes() == value)
        };
        let live = self.members.iter().filter(holds_live).count();
        Ok(self.members.len() - live)
    }

    /// Does something for each member, many at a time.
    ///
    /// # Errors
    /// The first that is met.
    pub async fn each(
        &self,
        act: impl AsyncFn(&Member, Api<DynamicObject>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let kind = kind();
        let acts = self.members.iter().map(|member| {
            let api = Api::namespaced_with(self.client.clone(), &member.namespace, &kind);
            act(member, api)
        });
        stream::iter(acts)
            .buffer_unordered(CONCURRENCY)
            .try_collect()
            .await
    }
}

impl Member {
    fn resource(&self, label: &str, schedule: &Value) -> Value {
        json!({
            "apiVersion": kind().api_version,
            "kind": kind().kind,
            "metadata": { "name": self.name, "labels": { LABEL: label } },
            "spec": {
                "workspaceId": self.workspace,
                "token": { "name": self.name },
                "schedule": schedule,
                "credentials": { "secretRef": { "name": CREDENTIAL } },
                "target": { "name": self.name, "key": KEY },
            },
        })
    }
}

fn namespace_of(fleet: &str, n: usize) -> String {
    format!("{fleet}-{n}")
}

/// As long as the vendor's own ids.
fn workspace_of(fleet: &str, n: usize) -> String {
    format!("cl{fleet:x<14.14}{n:09}")
}

/// A credential for all Workspaces of a namespace.
fn owner(fleet: &str, namespace: usize, workspaces: &BTreeSet<usize>) -> NewToken {
    let mut workspaces = workspaces.iter().map(|&n| workspace_of(fleet, n));
    let first = workspaces.next().unwrap_or_default();
    let owner = NewToken::owner(format!("{fleet}-{namespace}-owner"), first);
    workspaces.fold(owner, |owner, workspace| {
        owner.also(workspace, "WORKSPACE_OWNER")
    })
}

/// A namespace with a credential in it.
///
/// # Errors
/// When the API server refuses something.
pub async fn make_namespace(client: &Client, name: &str, credential: &str) -> anyhow::Result<()> {
    let post = PostParams::default();
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&post, &namespace).await?;
    let secret = serde_json::from_value(json!({
        "metadata": { "name": CREDENTIAL },
        "stringData": { KEY: credential },
    }))?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), name);
    secrets.create(&post, &secret).await?;
    Ok(())
}
