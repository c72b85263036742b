//! Kubernetes: what is read from and written to the API server.

pub mod client;
pub mod lease;
pub mod secret;
pub mod status;
pub mod watch;
