//! Kubernetes: what is read from and written to the API server.

pub(crate) mod answer;
pub mod client;
pub mod decode;
pub(crate) mod error;
pub(crate) mod events;
pub mod lease;
pub(crate) mod permissions;
pub(crate) mod reading;
pub mod retry;
pub(crate) mod secret;
pub(crate) mod status;
pub mod store;
pub mod watch;
