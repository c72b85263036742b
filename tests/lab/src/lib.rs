//! Development only: the local control plane, the Astro simulator, the demo, the benchmarks and the crash tests.

pub mod astro;
pub mod bench;
pub mod control_plane;
pub mod crash;
pub mod demo;
pub mod downtime;
pub mod leak;
pub mod link;
pub mod manifests;
pub mod operator;
mod resource;
pub mod tls;
pub mod wait;
