//! The lab is as real as the tests of the operator take it for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

// The simulator as its clients see it: the vendor's contract, every fault, every switch.
mod astro;
// The local control plane: definitions, permissions, controllers, an end without remains.
mod control_plane;
