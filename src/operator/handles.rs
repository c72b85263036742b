//! What everything in this room is done with: made once, handed down.

use super::grant::Grants;
use crate::astro::client::Astro;
use crate::cluster::store::Store;
use crate::decide::evidence::Settings;
use crate::decide::identity::Identity;
use crate::decide::managed::Metadata;
use crate::process::metrics::Metrics;
use kube::Client;
use std::sync::Arc;

/// The ways to the API server and to Astro, who uses them, and by what settings.
#[derive(Clone)]
pub struct Handles {
    /// For single calls to the API server.
    pub client: Client,
    /// The vendor.
    pub astro: Astro,
    /// Credential and Organization of each resource.
    pub grants: Grants,
    /// Settings that decisions depend on.
    pub settings: Arc<Settings>,
    /// This process.
    pub identity: Identity,
    /// Counters.
    pub metrics: Metrics,
    /// Metadata of all Secrets of ours, as far as they are watched.
    pub secrets: Store<Metadata>,
}
