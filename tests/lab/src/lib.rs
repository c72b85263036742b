//! Development only: the local control plane, the Astro simulator and the demo.

pub mod astro;
pub mod control_plane;
pub mod gate;
