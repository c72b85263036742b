//! Why a call to the vendor brought nothing, and whether it may have done something all the same.

use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use jiff::SignedDuration;
use std::time::Duration;

/// Longest text of a transport's that is shown, characters.
const LONGEST_MESSAGE: usize = 200;

/// Why a call brought nothing.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// Astro itself refused.
    #[error("Astro answered {status}{}{}", separated(": ", .message), request(.request_id))]
    Refused {
        /// HTTP status.
        status: u16,
        /// The vendor's text, bounded and scrubbed.
        message: String,
        /// To quote to the vendor's support.
        request_id: Option<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// An answer came that is in no shape of Astro's: something between has made it, or changed it.
    #[error(
        "the answer {status} is in no form of Astro's, so a proxy or gateway may have sent it: {what}"
    )]
    Between {
        /// HTTP status.
        status: u16,
        /// What shows it.
        what: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// Nothing was sent, because the vendor wants a pause.
    #[error("pausing for {} s, as Astro asked for", .0.as_secs_f64().ceil())]
    Pausing(Duration),
    /// The request was never sent.
    #[error("Astro cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and no complete answer came.
    #[error("Astro did not answer properly: {0}")]
    Broken(String),
}

/// What a failed call is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The vendor does not accept the credential.
    CredentialRejected,
    /// The credential may not do this.
    Forbidden,
    /// There is no such token, or the credential cannot see it.
    NotFound,
    /// No usable answer.
    Unavailable,
}

impl Error {
    /// Whether it is certain that nothing happened at the vendor: Astro itself said so, or nothing was sent.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Pausing(_) => true,
            Self::Refused { status, .. } => {
                matches!(status, 400 | 401 | 403 | 404 | 409 | 410 | 422 | 429)
            }
            Self::Between { .. } | Self::Broken(_) => false,
        }
    }

    /// When to come back, where the answer says so.
    pub fn retry_after(&self) -> Option<SignedDuration> {
        match self {
            Self::Refused { retry_after, .. } | Self::Between { retry_after, .. } => {
                retry_after.and_then(|it| it.try_into().ok())
            }
            Self::Pausing(left) => (*left).try_into().ok(),
            Self::Unreachable(_) | Self::Broken(_) => None,
        }
    }

    /// The pause that a 429 answer asks for, whoever sent it; the inner value is its length, where the answer gives one.
    pub(super) fn pause(&self) -> Option<Option<Duration>> {
        match self {
            Self::Refused {
                status: 429,
                retry_after,
                ..
            }
            | Self::Between {
                status: 429,
                retry_after,
                ..
            } => Some(*retry_after),
            _ => None,
        }
    }

    /// The kind of failure, on which callers branch.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused { status: 401, .. } => Kind::CredentialRejected,
            Self::Refused { status: 403, .. } => Kind::Forbidden,
            Self::Refused { status: 404, .. } => Kind::NotFound,
            _ => Kind::Unavailable,
        }
    }

    /// As a reason with its remedy.
    pub fn blocked(&self) -> Blocked {
        let (reason, remedy) = match (self.kind(), self) {
            (Kind::CredentialRejected, _) => (
                Reason::CredentialsRejected,
                "put a valid API token into the credentials Secret",
            ),
            (Kind::Forbidden, _) => (
                Reason::Forbidden,
                "use a credential with the role Workspace Owner in the token's Workspace",
            ),
            (Kind::NotFound, _) => (
                Reason::TokenNotFound,
                "check token, workspaceId and organizationId",
            ),
            (Kind::Unavailable, Self::Between { .. }) => (
                Reason::VendorUnavailable,
                "check the operator's --api-url and what stands between it and Astro; it is retried",
            ),
            (Kind::Unavailable, _) => (Reason::VendorUnavailable, "it is retried"),
        };
        Blocked::new(reason, format!("{self}; {remedy}"))
    }
}

/// A failure without a status: only one to connect proves that nothing was sent.
pub(super) fn transport(error: reqwest::Error) -> Error {
    let unsent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let text = scrub(&text, LONGEST_MESSAGE);
    if unsent {
        Error::Unreachable(text)
    } else {
        Error::Broken(text)
    }
}

fn separated(separator: &str, text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{separator}{text}")
    }
}

fn request(id: &Option<String>) -> String {
    id.as_ref()
        .map_or_else(String::new, |id| format!(" (request {id})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_happened_is_definite() {
        let refused = |status| Error::Refused {
            status,
            message: String::new(),
            request_id: None,
            retry_after: None,
        };
        let between = |status| Error::Between {
            status,
            what: String::new(),
            retry_after: None,
        };
        for code in [400, 401, 403, 404, 409, 410, 422, 429] {
            assert!(refused(code).is_definite(), "{code}");
            assert!(!between(code).is_definite(), "{code}");
        }
        for code in [402, 408, 425, 499, 500, 502, 503, 504] {
            assert!(!refused(code).is_definite(), "{code}");
        }
        assert!(Error::Unreachable(String::new()).is_definite());
        assert!(Error::Pausing(Duration::ZERO).is_definite());
        assert!(!Error::Broken(String::new()).is_definite());
        let kinds = [401, 403, 404].map(|code| (refused(code).kind(), between(code).kind()));
        let expected = [Kind::CredentialRejected, Kind::Forbidden, Kind::NotFound];
        assert_eq!(kinds, expected.map(|kind| (kind, Kind::Unavailable)));
    }
}
