//! From a resource to a live value in a Secret in a whole cluster, without list and watch of Secrets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "rotation/suite.rs"]
mod rotation;
mod stage;

const MODE: stage::Mode = stage::Mode::CLUSTER_GET;
