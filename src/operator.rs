//! The `run` command.

pub mod controller;
pub mod grant;
pub mod observe;
pub mod rotate;
pub mod run;
