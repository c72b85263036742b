//! The vendor: its API v1 as far as tokens are read and rotated.

mod answer;
pub mod client;
pub mod credential;
pub mod error;
pub(crate) mod limits;
pub(crate) mod listing;
mod liveness;
pub mod record;
pub(crate) mod shared;
mod wire;
