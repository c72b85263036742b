//! Why the API server did not do what it was asked for.

use super::retry::HeldBack;
use crate::decide::plan::Setback;
use crate::reason::{Blocked, Reason};
use crate::text::api_error;
use jiff::SignedDuration;

/// Longest text of the API server's that is shown, characters.
pub const LONGEST_MESSAGE: usize = 400;

/// Why something was not read or not written.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The object is not what it was when this was decided, or it is gone.
    #[error("the object changed or was deleted meanwhile")]
    Raced,
    /// A person has to fix something first.
    #[error("{}", .0.message)]
    Refused(Blocked),
    /// It was written, and came back other than it was sent.
    #[error("{}", .0.message)]
    Changed(Blocked),
    /// No verdict: the API server did not answer, or with something that says nothing of the request.
    #[error("{}", api_error(.0, LONGEST_MESSAGE))]
    Unavailable(#[from] kube::Error),
}

impl Error {
    /// The same, for another one who wanted to know.
    pub fn shared(&self) -> Self {
        match self {
            Self::Raced => Self::Raced,
            Self::Refused(blocked) => Self::Refused(blocked.clone()),
            Self::Changed(blocked) => Self::Changed(blocked.clone()),
            Self::Unavailable(error) => {
                Self::Unavailable(kube::Error::Service(match HeldBack::of(error) {
                    Some(held) => held.clone().into(),
                    None => api_error(error, LONGEST_MESSAGE).into(),
                }))
            }
        }
    }
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        match error {
            Error::Raced => Self::Raced,
            Error::Refused(blocked) | Error::Changed(blocked) => Self::Refused(blocked),
            Error::Unavailable(error) => Self::Unavailable {
                retry_after: HeldBack::of(&error)
                    .and_then(|held| SignedDuration::try_from(held.after).ok()),
                blocked: Blocked::new(
                    Reason::KubernetesUnavailable,
                    format!(
                        "the API server gives no verdict: {}; it is retried",
                        api_error(&error, LONGEST_MESSAGE)
                    ),
                ),
            },
        }
    }
}
