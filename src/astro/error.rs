//! Why a call to the vendor brought nothing, and whether it may have done something all the same.

use crate::astro::credential::Credential;
use crate::astro::wire::ErrorBody;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use jiff::SignedDuration;
use reqwest::StatusCode;
use std::time::Duration;

/// Longest text of the vendor's that is shown, characters.
const LONGEST_MESSAGE: usize = 200;
/// Longest request id that is shown, characters.
const LONGEST_ID: usize = 64;

/// Why a call brought nothing.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The vendor answered with another status than 200.
    #[error("Astro answered {status}{}{}", separated(": ", .message), request(.request_id))]
    Status {
        /// HTTP status.
        status: u16,
        /// The vendor's text, bounded and scrubbed.
        message: String,
        /// To quote to the vendor's support.
        request_id: Option<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The request was never sent.
    #[error("Astro cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and no proper answer came.
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
    /// Whether it is certain that nothing happened at the vendor.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // A gateway's 408 may stand for a request that went through.
            Self::Status { status, .. } => (300..500).contains(status) && *status != 408,
            Self::Broken(_) => false,
        }
    }

    /// The vendor's own word on when to come back.
    pub fn retry_after(&self) -> Option<SignedDuration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.and_then(|d| d.try_into().ok()),
            _ => None,
        }
    }

    /// The kind of failure, on which callers branch.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Status { status: 401, .. } => Kind::CredentialRejected,
            Self::Status { status: 403, .. } => Kind::Forbidden,
            Self::Status { status: 404, .. } => Kind::NotFound,
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
            (
                Kind::Unavailable,
                Self::Status {
                    status: 300..=399, ..
                },
            ) => (Reason::VendorUnavailable, "check the operator's --api-url"),
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

pub(super) fn refusal(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
    credential: &Credential,
) -> Error {
    let parsed = serde_json::from_slice::<ErrorBody>(body).unwrap_or_default();
    // A body that is not the vendor's JSON is a gateway's page: its status says enough.
    let message = parsed.message.unwrap_or_default();
    Error::Status {
        status: status.as_u16(),
        message: scrub(&credential.redact(&message), LONGEST_MESSAGE),
        request_id: parsed.request_id.filter(|id| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
            id.chars().all(allowed) && scrub(&credential.redact(id), LONGEST_ID) == *id
        }),
        retry_after,
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
        let status = |status| Error::Status {
            status,
            message: String::new(),
            request_id: None,
            retry_after: None,
        };
        for code in [301, 307, 400, 401, 403, 404, 409, 429] {
            assert!(status(code).is_definite(), "{code}");
        }
        for code in [201, 204, 408, 500, 502, 503, 504] {
            assert!(!status(code).is_definite(), "{code}");
        }
        assert!(Error::Unreachable(String::new()).is_definite());
        assert!(!Error::Broken(String::new()).is_definite());
    }
}
