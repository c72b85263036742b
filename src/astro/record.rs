//! What the vendor's record of a token tells people, beside what decisions are made on.

use crate::decide::evidence::Token;
use jiff::Timestamp;

/// What people want to know of a token, beside what decisions are made on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The record.
    pub token: Token,
    /// As its maker described it; may be empty.
    pub description: String,
    /// What it may do where.
    pub roles: Vec<Role>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Who created it: a person's or a token's name.
    pub created_by: Option<String>,
}

/// What a token may do where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    /// `WORKSPACE`, `ORGANIZATION` or other.
    pub entity_type: String,
    /// Id of that entity.
    pub entity_id: String,
    /// `WORKSPACE_OWNER` or other.
    pub role: String,
}
