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

pub mod api;
pub(crate) mod args;
pub mod astro;
pub mod cli;
pub(crate) mod clock;
pub mod cluster;
pub mod decide;
pub(crate) mod id;
pub mod operator;
pub mod process;
pub mod reason;
pub(crate) mod text;
