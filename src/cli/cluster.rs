//! The cluster that a command asks, and what it says when it gets no answer.

use crate::api::WorkspaceTokenRotation;
use crate::args::ClusterArgs;
use crate::cluster::client;
use crate::cluster::decode::Item;
use crate::cluster::retry::Patience;
use crate::decide::pace::Pace;
use crate::text::scrub;
use anyhow::{Context, anyhow};
use http::Uri;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use std::sync::{Arc, Once};

/// A cluster to ask.
pub struct Cluster {
    /// For single calls.
    pub client: Client,
    /// For watches, which are silent while nothing happens.
    pub watch_client: Client,
    server: Uri,
    /// The namespace that was asked for, by default the context's.
    pub namespace: String,
}

/// How requests are retried that the API server holds back; the caller, who waits for the answer, is told once.
fn patience() -> Patience {
    let told = Once::new();
    let pace = Pace::SHIPPED;
    let left = pace.held_back_by_hand;
    Patience {
        left,
        pause: pace.held_back_retry,
        tell: Arc::new(move |held| {
            told.call_once(|| {
                let seconds = left.as_secs();
                anstream::eprintln!(
                    "The API server answered {}, which asks to retry later; retrying for up to {seconds} s.",
                    held.status
                );
            });
        }),
    }
}

impl Cluster {
    /// The cluster that the flags name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(args: &ClusterArgs) -> anyhow::Result<Self> {
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match (&args.kubeconfig, &args.context) {
            (None, None) => client::infer().await?,
            (file, _) => {
                let kubeconfig = match file {
                    Some(file) => Kubeconfig::read_from(file),
                    None => Kubeconfig::read(),
                };
                let kubeconfig = kubeconfig.context("the kubeconfig cannot be used")?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.context("the kubeconfig cannot be used")?
            }
        };
        config.proxy_url = None;
        config.auth_info.impersonate = args.as_user.clone().or(config.auth_info.impersonate);
        let (namespace, patience) = (args.namespace.clone(), patience());
        Ok(Self {
            client: client::for_calls(config.clone(), &Pace::SHIPPED, patience.clone())?,
            namespace: namespace.unwrap_or_else(|| config.default_namespace.clone()),
            server: config.cluster_url.clone(),
            watch_client: client::for_watches(config, patience)?,
        })
    }

    /// What it said, with its address.
    pub fn error(&self, error: &kube::Error) -> anyhow::Error {
        let server = &self.server;
        anyhow!("the API server at {server}: {}", client::explain(error))
    }

    /// The same of a watch.
    pub fn watch_error(&self, error: &watcher::Error) -> anyhow::Error {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        match error {
            InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
                self.error(error)
            }
            error => {
                let (server, error) = (&self.server, scrub(&error.to_string(), 400));
                anyhow!("the API server at {server}: {error}")
            }
        }
    }

    /// A resource, whether or not it can be read; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the API server does not say so.
    pub async fn get(
        &self,
        api: &Api<Item<WorkspaceTokenRotation>>,
        name: &str,
    ) -> anyhow::Result<Option<Item<WorkspaceTokenRotation>>> {
        match api.get(name).await {
            Ok(item) => Ok(Some(item)),
            // By its reason: without the CustomResourceDefinition the code is the same.
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// What is said of resources that are not there.
    pub fn missing(&self, names: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        anyhow!("no WorkspaceTokenRotation {names} in namespace {namespace}")
    }
}
