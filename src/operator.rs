//! The `run` command: from an event to a rotated token.

pub mod controller;
pub mod grant;
pub mod handles;
pub mod observe;
pub mod rewrite;
pub mod rotate;
pub mod run;
pub mod task;
pub mod works;
