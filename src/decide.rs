//! Decisions: pure functions from evidence to a plan and a status.

pub mod allowed;
pub(crate) mod consent;
pub mod entity;
pub mod evidence;
pub mod identity;
pub mod managed;
pub(crate) mod names;
pub(crate) mod notice;
pub(crate) mod ownership;
pub mod pace;
pub(crate) mod plan;
pub mod requests;
pub mod rivals;
pub mod schedule;
pub mod stamp;
pub(crate) mod status;
pub mod token;
pub mod tries;
pub(crate) mod turn;
pub(crate) mod upcoming;
pub mod validate;
pub(crate) mod version;
