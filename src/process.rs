//! This process as others see it.

pub(crate) mod host;
pub mod memory;
pub mod metrics;
pub mod server;
pub mod telemetry;
