//! Decisions: pure functions from evidence to a plan and a status.

pub mod evidence;
pub mod identity;
pub mod managed;
pub mod names;
pub mod notice;
pub mod ownership;
pub mod pace;
pub mod plan;
pub mod rivals;
pub mod schedule;
pub mod stamp;
pub mod status;
pub mod token;
pub mod upcoming;
pub mod validate;
