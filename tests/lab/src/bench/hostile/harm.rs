//! What the tenant does: objects that are there, and work that is made.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::astro::NewToken;
use crate::bench::fleet::{CREDENTIAL, KEY, Member, make_namespace};
use crate::bench::site::Site;
use crate::resource::kind;

const NAMESPACE: &str = "hostile";
const WORKSPACE: &str = "clhostile0000000000000000";
/// Another credential, as large as a Secret may be.
const BIG: &str = "big";
/// Requests at a time, and of more than a megabyte: each keeps the API server busy for a while.
const CONCURRENCY: usize = 16;
const CONCURRENCY_OF_LARGE: usize = 2;
/// How many of each.
const WIDE_SECRETS: usize = 20;
const KEYS: usize = 30_000;
const FAT_RESOURCES: usize = 60;
const NAMING_BIG: usize = 200;
const LISTED: usize = 20_000;
const CLAIMS: usize = 1_000;
const COMING_AND_GOING: usize = 10_000;

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Harm {
    /// Secrets with our label and many keys
    WideSecrets,
    /// Resources of more than a megabyte
    FatResources,
    /// A credential of one megabyte that many resources name
    BigCredential,
    /// A Workspace with many tokens
    LongList,
    /// Resources that come and go
    ComingAndGoing,
    /// Claims on a neighbour's token
    Claims,
    /// Scrapers of metrics that read slowly
    Scrapers,
}

/// One namespace and one Workspace, and what is done there.
pub struct Tenant {
    client: Client,
    /// Whether its Workspace has its many tokens: they stay.
    has_tokens: AtomicBool,
}

impl Harm {
    /// How the names of its objects begin.
    fn prefix(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WideSecrets => write!(f, "{WIDE_SECRETS} Secrets of {KEYS} keys"),
            Self::FatResources => write!(f, "{FAT_RESOURCES} resources of 1.2 MB"),
            Self::BigCredential => write!(f, "a 1 MiB credential named by {NAMING_BIG} resources"),
            Self::LongList => write!(f, "a vendor list of {LISTED} tokens"),
            Self::ComingAndGoing => {
                write!(f, "{COMING_AND_GOING} resources created and deleted")
            }
            Self::Claims => write!(f, "{CLAIMS} claims on a neighbour's token"),
            Self::Scrapers => f.write_str("16 slow scrapers of /metrics"),
        }
    }
}

impl Tenant {
    /// With a namespace, a Workspace and a credential.
    ///
    /// # Errors
    /// When the API server refuses something.
    pub async fn create(site: &Site) -> anyhow::Result<Self> {
        let owner = site
            .astro
            .create(NewToken::owner("hostile-owner", WORKSPACE));
        make_namespace(&site.client, NAMESPACE, &owner.value).await?;
        Ok(Self {
            client: site.client.clone(),
            has_tokens: AtomicBool::new(false),
        })
    }

    /// Creates the objects of one kind of harm. Returns what the API server refuses of it, which is something else then.
    ///
    /// # Errors
    /// When it refuses what it should not.
    pub async fn plant(
        &self,
        site: &Site,
        harm: Harm,
        victim: &Member,
    ) -> anyhow::Result<Option<String>> {
        match harm {
            Harm::WideSecrets => self.secrets().await?,
            Harm::FatResources => return self.fat_resources().await,
            Harm::BigCredential => {
                // With its key it is as large as is allowed.
                let value = "x".repeat(1024 * 1024 - 64);
                let secret = json!({
                    "metadata": { "name": BIG },
                    "stringData": { KEY: value },
                });
                let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
                api.create(&PostParams::default(), &serde_json::from_value(secret)?)
                    .await?;
                let edit = json!({ "credentials": { "secretRef": { "name": BIG } } });
                self.resources(harm, NAMING_BIG, &edit).await?;
            }
            Harm::LongList => {
                let missing = match self.has_tokens.swap(true, Ordering::Relaxed) {
                    false => LISTED,
                    true => 0,
                };
                for n in 0..missing {
                    let name = format!("{}-{n}", harm.prefix());
                    site.astro.create(NewToken::workspace(name, WORKSPACE));
                }
                self.resources(harm, 10, &json!({})).await?;
            }
            Harm::Claims => {
                let edit = json!({
                    "workspaceId": victim.workspace,
                    "token": { "id": victim.token_id },
                });
                self.resources(harm, CLAIMS, &edit).await?;
            }
            Harm::ComingAndGoing | Harm::Scrapers => {}
        }
        Ok(None)
    }

    /// Removes them.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn uproot(&self, harm: Harm) -> anyhow::Result<()> {
        let ours = ListParams::default().labels(&format!("harm={}", harm.prefix()));
        let one = DeleteParams::default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        secrets.delete_collection(&one, &ours).await?;
        self.api().delete_collection(&one, &ours).await?;
        if harm == Harm::BigCredential {
            secrets.delete(BIG, &one).await?;
        }
        Ok(())
    }

    /// Does what has to be done while the operator runs.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn act(&self, set: &[Harm]) -> anyhow::Result<()> {
        if !set.contains(&Harm::ComingAndGoing) {
            return Ok(());
        }
        let (api, harm) = (self.api(), Harm::ComingAndGoing);
        let acts = (0..COMING_AND_GOING).map(async |n| {
            let resource = resource(harm, n, &json!({}));
            api.create(&PostParams::default(), &serde_json::from_value(resource)?)
                .await?;
            let name = format!("{}-{n}", harm.prefix());
            api.delete(&name, &DeleteParams::default()).await?;
            anyhow::Ok(())
        });
        all(harm, acts).await
    }

    async fn secrets(&self) -> anyhow::Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        let keys: Map<String, Value> = (0..KEYS).map(|n| (format!("k{n:05}"), "".into())).collect();
        let harm = Harm::WideSecrets;
        let prefix = harm.prefix();
        let acts = (0..WIDE_SECRETS).map(async |n| {
            let secret = json!({
                "metadata": {
                    "name": format!("{prefix}-{n}"),
                    "labels": {
                        "app.kubernetes.io/managed-by": "astro-token-operator",
                        "harm": prefix,
                    },
                },
                "data": keys,
            });
            api.create(&PostParams::default(), &serde_json::from_value(secret)?)
                .await?;
            anyhow::Ok(())
        });
        all(harm, acts).await
    }

    /// With annotations for their Secrets; where the schema bounds those, with as many of their own as there may be.
    async fn fat_resources(&self) -> anyhow::Result<Option<String>> {
        let harm = Harm::FatResources;
        let texts = |number: usize, length: usize| -> Map<String, Value> {
            let text = |n: usize| (format!("example.com/a{n}"), "x".repeat(length).into());
            (0..number).map(text).collect()
        };
        let target = json!({ "name": "fat", "annotations": texts(60, 20_000) });
        let planted = self
            .resources(harm, FAT_RESOURCES, &json!({ "target": target }))
            .await;
        let Err(refused) = planted else {
            return Ok(None);
        };
        if !matches!(refused.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 422) {
            return Err(refused);
        }
        let api = self.api();
        let acts = (0..FAT_RESOURCES).map(async |n| {
            let mut resource = resource(harm, n, &json!({}));
            resource["metadata"]["annotations"] = texts(12, 20_000).into();
            api.create(&PostParams::default(), &serde_json::from_value(resource)?)
                .await?;
            anyhow::Ok(())
        });
        all(harm, acts).await?;
        Ok(Some("refused by the schema; 240 KB instead".into()))
    }

    async fn resources(&self, harm: Harm, number: usize, edit: &Value) -> anyhow::Result<()> {
        let api = self.api();
        let acts = (0..number).map(async |n| {
            let resource = resource(harm, n, edit);
            api.create(&PostParams::default(), &serde_json::from_value(resource)?)
                .await?;
            anyhow::Ok(())
        });
        all(harm, acts).await
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), NAMESPACE, &kind())
    }
}

/// A resource with `edit` in its spec.
fn resource(harm: Harm, n: usize, edit: &Value) -> Value {
    let name = format!("{}-{n}", harm.prefix());
    let mut spec = json!({
        "workspaceId": WORKSPACE,
        "token": { "name": name },
        "schedule": { "every": "30d" },
        "credentials": { "secretRef": { "name": CREDENTIAL } },
        "target": { "name": name, "key": KEY },
    });
    for (field, value) in edit.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({
        "apiVersion": kind().api_version,
        "kind": kind().kind,
        "metadata": { "name": name, "labels": { "harm": harm.prefix() } },
        "spec": spec,
    })
}

async fn all(
    harm: Harm,
    acts: impl Iterator<Item = impl Future<Output = anyhow::Result<()>>>,
) -> anyhow::Result<()> {
    let at_a_time = match harm {
        Harm::WideSecrets | Harm::FatResources => CONCURRENCY_OF_LARGE,
        _ => CONCURRENCY,
    };
    stream::iter(acts)
        .buffer_unordered(at_a_time)
        .try_collect()
        .await
        .context("a tenant's request")
}
