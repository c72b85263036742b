//! Decisions: pure functions from evidence to a plan and a status.

pub mod evidence;
pub mod identity;
pub mod ownership;
pub mod pace;
pub mod plan;
pub mod rivals;
pub mod schedule;
pub mod status;
pub mod validate;
