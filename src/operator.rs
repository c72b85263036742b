//! The `run` command: from an event to a rotated token.

pub(crate) mod controller;
pub(crate) mod grant;
pub(crate) mod handles;
pub(crate) mod observe;
pub(crate) mod rewrite;
pub(crate) mod rotate;
pub mod run;
pub(crate) mod samples;
pub(crate) mod task;
pub(crate) mod teller;
pub(crate) mod works;
