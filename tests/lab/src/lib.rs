//! Development only: the local control plane, the Astro simulator, the demo and the benchmark.

pub mod astro;
pub mod bench;
pub mod control_plane;
pub mod demo;
pub mod gate;
pub mod operator;
