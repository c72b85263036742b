//! What `plan` tells of tokens.

use crate::decide::evidence::{Observed, Token};
use crate::decide::turn::subject;
use crate::text::line;
use jiff::Timestamp;
use serde::Serialize;

/// Longest text of the vendor's that is shown.
const LONGEST: usize = 256;

/// The token, as Astro has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenFacts {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

impl TokenFacts {
    /// In one line.
    pub fn text(&self) -> String {
        let mut text = match self.name.is_empty() {
            true => self.id.clone(),
            false => format!("{} ({})", self.name, self.id),
        };
        text += &match self.rotated_at {
            Some(at) => format!(", rotated {}", plain(at)),
            None => ", never rotated".into(),
        };
        text += &match self.expires_at {
            Some(at) => format!(", expires {}", plain(at)),
            None => ", never expires".into(),
        };
        text
    }
}

impl From<&Token> for TokenFacts {
    fn from(token: &Token) -> Self {
        Self {
            id: line(&token.id, LONGEST),
            name: line(&token.name, LONGEST),
            rotated_at: token.version.rotated_at.as_ref().map(|at| at.0),
            expires_at: token.ends,
        }
    }
}

/// The one whose value the Secret holds, or else that of the spec.
pub fn token(seen: &Observed) -> Option<TokenFacts> {
    let held = seen.stored.value().map(|held| &held.stamp.token_id);
    let of_held = held.and_then(|id| seen.record(id)).map(|(token, _)| token);
    if let Some(token) = of_held.or(seen.records.token.token()) {
        return Some(token.into());
    }
    let held = seen.stored.value()?;
    Some(TokenFacts {
        id: line(&held.stamp.token_id, LONGEST),
        name: String::new(),
        rotated_at: held.stamp.version.rotated_at.as_ref().map(|at| at.0),
        expires_at: held.stamp.expires,
    })
}

/// Of two tokens that take turns, the one that the next rotation takes.
pub fn next_token(seen: &Observed) -> Option<TokenFacts> {
    let next = subject(seen).filter(|_| seen.takes_turns())?;
    next.token().map(TokenFacts::from)
}

/// With seconds, UTC.
pub fn plain(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
