//! The same in some namespaces, with a Role in each and no ClusterRole; and where a namespace has none.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod get;
mod scope;
#[path = "../stage/mod.rs"]
mod stage;
mod watch;
