//! How the API server is reached, which cluster it is of, and what it means when it says no.

use super::decode::Item;
use super::retry::Patience;
use crate::decide::pace::Pace;
use crate::text::api_error;
use anyhow::anyhow;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PartialObjectMeta;
use kube::client::{ClientBuilder, ConfigExt};
use kube::{Api, Client, Config, ResourceExt};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// Requests that wait for their turn to be sent before others wait to be taken on; as many as the library's own.
const REQUESTS: usize = 1024;
/// Longest read buffer of a connection, bytes. A long answer waits in it until there is room for the rest, and many such
/// answers may come at the same time.
const BUFFER: usize = 64 * 1024;

/// The cluster that the process runs in, otherwise that of the current kubeconfig.
pub async fn infer() -> anyhow::Result<Config> {
    let mut config = Config::infer().await.map_err(|_| {
        anyhow!("no cluster: this is no pod, and there is no usable kubeconfig at $KUBECONFIG or ~/.kube/config")
    })?;
    // The variables are about the way to Astro; the way to the API server is the cluster's own.
    config.proxy_url = None;
    Ok(config)
}

/// A client for single calls: with timeouts.
pub fn for_calls(mut config: Config, pace: &Pace, patience: Patience) -> anyhow::Result<Client> {
    config.connect_timeout = Some(pace.api_timeout);
    config.read_timeout = Some(pace.api_timeout);
    config.write_timeout = Some(pace.api_timeout);
    for_watches(config, patience)
}

/// A client without timeouts for what is read, since a watch may be silent for long.
///
/// It is put together here because the library's own client has connections with large buffers, and retries that can take
/// minutes and are not reported.
pub fn for_watches(config: Config, patience: Patience) -> anyhow::Result<Client> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(http)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    // Otherwise the time for which a connection was idle counts, and a request on it may fail at once.
    connector.set_reset_reader_on_write(true);
    let connections = legacy::Client::builder(TokioExecutor::new())
        .http1_max_buf_size(BUFFER)
        .build(connector);
    let requests = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(connections);
    let builder = ClientBuilder::new(requests, config.default_namespace)
        .with_layer(&BufferLayer::new(REQUESTS))
        .with_layer(&RetryLayer::new(patience));
    Ok(builder.build())
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
