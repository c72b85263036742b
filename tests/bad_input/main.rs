//! Bad input and bad luck, on a real API server with the permissions for a whole cluster.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../stage/mod.rs"]
mod stage;
mod suite;

const MODE: stage::Mode = stage::Mode::CLUSTER;
