//! The same in some namespaces, with a Role in each and no ClusterRole; and where a namespace has none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::duplicate_mod,
    reason = "the same tests once for each mode, by a constant of the module around them"
)]

mod get;
mod scope;
#[path = "../stage/mod.rs"]
mod stage;
mod watch;
