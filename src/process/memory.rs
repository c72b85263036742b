//! Keeps what this process holds in memory out of core dumps and out of the reach of debuggers.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use std::io;

/// Lets this process leave no core dump, and lets no one but root read its memory or environment.
///
/// # Errors
/// When the system refuses either; the other is done all the same.
pub fn forbid_dumps() -> io::Result<()> {
    // A limit alone does not count where the system pipes core dumps into a program.
    let hidden = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let nothing = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let limited = setrlimit(Resource::Core, nothing);
    Ok(hidden.and(limited)?)
}
