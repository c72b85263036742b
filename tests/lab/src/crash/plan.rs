//! What is to happen to one resource: something to do for the operator, something wrong at the vendor, and deaths.

use std::fmt;
use std::time::Duration;

use super::site::Trap;
use crate::astro::{Fault, Operation, Reply, Step};

/// What the operator has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// The first rotation of a new resource.
    First,
    /// A rotation that a person asked for.
    Requested,
    /// The same, and the resource is deleted in the middle and created again afterwards.
    Deleted,
    /// Somebody else rotated the token.
    Reclaimed,
    /// A Secret with the live value is given to a new resource.
    Adopted,
    /// The target gets another name.
    Moved,
    /// A rotation that a person asked for, of the token that the Secret does not hold.
    Turn,
    /// The same, and the value in the Secret is the credential that the other token is rotated with.
    SelfTurn,
    /// Of two tokens somebody else rotated the one that the Secret holds.
    TurnReclaimed,
}

/// What is wrong at the vendor, with the first rotate call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Nothing.
    None,
    /// The connection is closed before the call takes effect.
    LostBefore,
    /// It takes effect, and the connection is closed without an answer.
    LostAfter,
    /// It takes effect after its caller has given up waiting.
    Slow,
    /// It is refused with a 500.
    Broken,
    /// It takes effect, and a gateway answers 502.
    DoneAndBroken,
    /// It is one too many: 429.
    TooMany,
    /// Nothing; but the vendor's record shows each rotation only much later.
    Stale,
}

/// What is to happen to one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is to be done.
    pub task: Task,
    /// What goes wrong.
    pub trouble: Trouble,
    /// Where each life of the operator ends, but for the last, which heals.
    pub traps: Vec<Trap>,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::First,
        Self::Requested,
        Self::Deleted,
        Self::Reclaimed,
        Self::Adopted,
        Self::Moved,
        Self::Turn,
        Self::SelfTurn,
        Self::TurnReclaimed,
    ];

    /// Whether two tokens take turns.
    pub(super) fn takes_turns(self) -> bool {
        matches!(self, Self::Turn | Self::SelfTurn | Self::TurnReclaimed)
    }

    /// Whether a person asks for a rotation.
    pub(super) fn is_requested(self) -> bool {
        matches!(self, Self::Requested | Self::Turn | Self::SelfTurn)
    }

    /// Whether the Secret holds no dead value at any moment.
    pub(super) fn is_always_live(self) -> bool {
        matches!(self, Self::Turn | Self::SelfTurn)
    }

    /// Whether somebody else rotates the token that the Secret holds.
    pub(super) fn is_reclaimed(self) -> bool {
        matches!(self, Self::Reclaimed | Self::TurnReclaimed)
    }

    /// Whether the resource has been there, and its Secret holds the live value, when it begins.
    pub(super) fn needs_a_past(self) -> bool {
        !matches!(self, Self::First | Self::Adopted)
    }

    /// How many rotations there is a cause for, from the token's creation on; the loss of a value is a further one.
    pub(super) fn causes(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Adopted => 0..=0,
            // The first value is given.
            Self::First | Self::Moved | Self::SelfTurn => 1..=1,
            Self::Requested | Self::Reclaimed | Self::Turn | Self::TurnReclaimed => 2..=2,
            // The request goes with the resource.
            Self::Deleted => 1..=2,
        }
    }
}

impl Plan {
    /// Whether the token is a Deployment's and not a Workspace's, as half of those are that rotate no other token.
    pub(super) fn is_for_a_deployment(&self) -> bool {
        self.task != Task::SelfTurn && (self.task as usize + self.trouble as usize) % 2 == 1
    }
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::LostBefore,
        Self::LostAfter,
        Self::Slow,
        Self::Broken,
        Self::DoneAndBroken,
        Self::TooMany,
        Self::Stale,
    ];

    /// As a fault of the simulator, for one call about this token.
    pub(super) fn fault(self, token_id: &str, vendor_timeout: Duration) -> Option<Fault> {
        let fault = Fault::on(Operation::Rotate).token(token_id).once();
        Some(match self {
            Self::None | Self::Stale => return None,
            Self::LostBefore => fault.before(Step::Close),
            Self::LostAfter => fault.after(Step::Close),
            Self::Slow => fault.before(Step::Delay(vendor_timeout + Duration::from_secs(1))),
            Self::Broken => fault.before(Step::Answer(Reply::json(500))),
            Self::DoneAndBroken => fault.after(Step::Answer(Reply::html(502))),
            Self::TooMany => {
                let reply = Reply::text(429).header("retry-after", "1");
                fault.before(Step::Answer(reply))
            }
        })
    }

    /// How many values its answer can cost, where it is waited for.
    pub(super) fn loses(self) -> usize {
        usize::from(matches!(self, Self::LostAfter | Self::DoneAndBroken))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.task)?;
        if self.trouble != Trouble::None {
            write!(f, " with {:?}", self.trouble)?;
        }
        for (number, trap) in self.traps.iter().enumerate() {
            let word = if number == 0 { "killed" } else { "then" };
            write!(f, ", {word} {trap}")?;
        }
        Ok(())
    }
}
