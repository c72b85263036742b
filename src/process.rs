//! This process as others see it.

pub mod host;
pub mod memory;
pub mod metrics;
pub mod server;
pub mod telemetry;
