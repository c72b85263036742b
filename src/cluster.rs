//! Kubernetes: what is read from and written to the API server.

pub mod client;
pub mod error;
pub mod lease;
pub mod permissions;
pub mod secret;
pub mod status;
pub mod watch;
