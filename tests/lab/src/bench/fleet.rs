//! Many tokens with a resource each, alike in everything but their names.

use std::collections::BTreeMap;

use anyhow::ensure;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::astro::{Astro, NewToken};
use crate::resource::kind;

/// Key of the value in every Secret.
pub const KEY: &str = "token";

const NAMESPACES: usize = 5;
const LABEL: &str = "bench";
/// Secret with the credential, in each namespace.
const CREDENTIAL: &str = "owner";
/// Requests at a time while things are set up.
const CONCURRENCY: usize = 32;

/// Tokens, resources and Secrets of one name.
pub struct Fleet {
    /// Each of them.
    pub members: Vec<Member>,
    /// Value of the credential that may rotate them all.
    pub credential: String,
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
}

impl Fleet {
    /// Creates `number` resources with this schedule, spread over a few namespaces of the fleet's own.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub async fn create(
        client: &Client,
        astro: &Astro,
        name: &str,
        number: usize,
        schedule: Value,
    ) -> anyhow::Result<Self> {
        let credential = astro.create(NewToken::owner(format!("{name}-owner"), astro.workspace()));
        for n in 0..NAMESPACES.min(number) {
            make_namespace(client, &namespace(name, n), &credential.value).await?;
        }
        let member = |n: usize| {
            let token_name = format!("{name}-{n:05}");
            let token = NewToken::workspace(&token_name, astro.workspace());
            Member {
                namespace: namespace(name, n % NAMESPACES),
                name: token_name,
                token_id: astro.create(token).id,
            }
        };
        let fleet = Self {
            members: (0..number).map(member).collect(),
            credential: credential.value,
            client: client.clone(),
            name: name.to_owned(),
        };
        let workspace = astro.workspace();
        fleet
            .each(async |member, api| {
                let resource = serde_json::from_value(json!({
                    "apiVersion": kind().api_version,
                    "kind": kind().kind,
                    "metadata": { "name": member.name, "labels": { LABEL: name } },
                    "spec": {
                        "workspaceId": workspace,
                        "token": { "name": member.name },
                        "schedule": schedule,
                        "credentials": { "secretRef": { "name": CREDENTIAL } },
                        "target": { "name": member.name, "key": KEY },
                    },
                }))?;
                api.create(&PostParams::default(), &resource).await?;
                Ok(())
            })
            .await?;
        Ok(fleet)
    }

    /// Selects the fleet's resources.
    pub fn label(&self) -> String {
        format!("{LABEL}={}", self.name)
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
        let ours = ListParams::default().labels(&self.label());
        Ok(api.list(&ours).await?.items)
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

    /// Checks that every Secret holds its token's live value.
    ///
    /// # Errors
    /// How many do not.
    pub async fn check_secrets(&self, astro: &Astro) -> anyhow::Result<()> {
        let mut values = BTreeMap::new();
        for n in 0..NAMESPACES.min(self.members.len()) {
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace(&self.name, n));
            for secret in api.list(&ListParams::default()).await? {
                let name = secret.name_any();
                let value = secret.data.and_then(|mut data| data.remove(KEY));
                values.insert(name, value);
            }
        }
        let holds_live = |member: &&Member| {
            let Some(Some(ByteString(value))) = values.get(&member.name) else {
                return false;
            };
            let live = astro.live_value(&member.token_id);
            live.is_some_and(|live| live.as_bytes() == value)
        };
        let live = self.members.iter().filter(holds_live).count();
        let all = self.members.len();
        ensure!(live == all, "{live} of {all} Secrets hold the live value");
        Ok(())
    }

    async fn each(
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

fn namespace(fleet: &str, n: usize) -> String {
    format!("{fleet}-{n}")
}

async fn make_namespace(client: &Client, name: &str, credential: &str) -> anyhow::Result<()> {
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
