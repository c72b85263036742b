//! The target Secret: its rehearsal, its write, and the landing of a value that exists nowhere else.

mod landing;
mod rehearsal;
#[cfg(test)]
mod tests;
mod write;

pub use self::landing::{Landed, land};
pub use self::rehearsal::rehearse;
pub use self::write::{Draft, metadata, value, write};
pub use super::answer::LONGEST;
