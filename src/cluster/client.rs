//! How the API server is reached, which cluster it is of, and what it means when it says no.

use super::decode::Item;
use crate::decide::pace::Pace;
use crate::text::api_error;
use anyhow::anyhow;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::{Api, Client, Config, ResourceExt};

/// The cluster that the process runs in, otherwise that of the current kubeconfig.
pub async fn infer() -> anyhow::Result<Config> {
    let mut config = Config::infer().await.map_err(|_| {
        anyhow!("no cluster: this is no pod, and there is no usable kubeconfig at $KUBECONFIG or ~/.kube/config")
    })?;
    // The variables are about the way to Astro; the way to the API server is the cluster's own.
    config.proxy_url = None;
    Ok(config)
}

/// A client for single calls: with timeouts, and without the library's own retries.
pub fn for_calls(mut config: Config, pace: &Pace) -> anyhow::Result<Client> {
    config.connect_timeout = Some(pace.api_timeout);
    config.read_timeout = Some(pace.api_timeout);
    config.write_timeout = Some(pace.api_timeout);
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Uid of the `kube-system` namespace: the cluster's identity.
///
/// # Errors
/// When it cannot be read.
pub async fn cluster_id(client: &Client) -> Result<String, kube::Error> {
    let api: Api<Item<PartialObjectMeta<Namespace>>> = Api::all(client.clone());
    let namespace = api.get("kube-system").await?;
    Ok(namespace.uid().unwrap_or_default())
}

/// What the API server said, with the remedy where it is known.
pub fn explain(error: &kube::Error) -> String {
    match error {
        // By its code: the answer for an unknown path is plain text, without a reason.
        kube::Error::Api(status) if status.code == 404 => {
            "the CustomResourceDefinition is missing; install it with: astro-token-operator crd | kubectl apply -f -".into()
        }
        error => api_error(error, 400),
    }
}
