//! The operator as a library, so that tests can reach in.
//!
//! ```text
//! watch event or wake-up
//!   controller::reconcile       the clock is read once
//!     observe (cached)          Secret metadata from the watch, the token from the Workspace's shared list
//!     plan                      evidence -> plan, pure
//!     observe (live), plan      where the plan asks for it: only fresh evidence may rotate
//!     rotate                    rehearse, record the intent, call, store
//!     status, store             evidence and plan -> status, pure; written when it differs
//!   come back when something can have changed
//! ```

pub mod access;
pub mod api;
pub mod astro;
pub mod cli;
pub mod config;
pub mod controller;
pub mod credential;
pub mod evidence;
pub mod leader;
pub mod listing;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod operator;
pub mod ownership;
pub mod plan;
pub mod reason;
pub mod rivals;
pub mod rotate;
pub mod schedule;
pub mod scrub;
pub mod secret;
pub mod server;
pub mod status;
pub mod store;
pub mod telemetry;
pub mod validate;
pub mod watch;
