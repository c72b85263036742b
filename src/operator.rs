//! The `run` command: from an event to a rotated token.

mod admission;
pub(crate) mod controller;
pub(crate) mod grant;
pub(crate) mod handles;
pub(crate) mod observe;
mod pass;
mod places;
pub(crate) mod rewrite;
pub(crate) mod rotate;
pub mod run;
mod runner;
pub(crate) mod samples;
pub(crate) mod task;
pub(crate) mod teller;
mod turns;
mod waiting;
pub(crate) mod works;
