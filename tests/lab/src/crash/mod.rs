//! Kills the operator wherever it can die, lets the next one heal what it left, and holds the result against the promises.
//!
//! The operator is its own binary and is killed by SIGKILL, while hundreds of resources have each reached a place of
//! their own: a gate stops every resource's requests where its trap is, and the kill ends them all at once. So
//! one death is as many crash-injected rotations as there are resources.

mod gate;
mod lane;
mod ledger;
mod plan;
mod range;
mod report;
mod site;
mod storm;

pub use gate::Gate;
pub use ledger::{Account, Cause, Ledger};
pub use plan::{Plan, Task, Trouble};
pub use range::Range;
pub use report::{Count, Report, learn, sample};
pub use site::{End, Site, Trap, What};
pub use storm::{Aftermath, Storm};
