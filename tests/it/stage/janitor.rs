//! Removes what tests leave: operators that are shared look at every resource again and again.

use astro_token_operator::api::WorkspaceTokenRotation;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, Config};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Longest time for one namespace: its server may have been stopped for good.
const PATIENCE: Duration = Duration::from_secs(20);

/// Removes all resources of a namespace some time soon, if it and its server are still there.
pub fn clear(config: Config, namespace: String) {
    /// The runtimes of tests end with them.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(1)
            .thread_name("janitor")
            .enable_all();
        builder.build().unwrap()
    });
    RUNTIME.spawn(async move {
        let Ok(client) = Client::try_from(config) else {
            return;
        };
        let resources: Api<WorkspaceTokenRotation> = Api::namespaced(client, &namespace);
        let (one, all) = (DeleteParams::default(), ListParams::default());
        let removed = resources.delete_collection(&one, &all);
        // A test has had its verdict by now.
        let _ = timeout(PATIENCE, removed).await;
    });
}
