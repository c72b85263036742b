//! Kubernetes: what is read from and written to the API server.

pub mod client;
pub(crate) mod error;
pub mod lease;
pub(crate) mod permissions;
pub(crate) mod reading;
pub(crate) mod secret;
pub(crate) mod status;
pub mod watch;
