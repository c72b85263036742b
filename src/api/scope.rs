//! What a token may be for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the token is for; `Workspace` when absent.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
pub enum Scope {
    /// A Workspace.
    #[default]
    Workspace,
    /// A Deployment.
    Deployment,
    /// The Organization.
    Organization,
}

impl Scope {
    /// As the vendor's records have it.
    pub fn of_record(self) -> &'static str {
        match self {
            Self::Workspace => "WORKSPACE",
            Self::Deployment => "DEPLOYMENT",
            Self::Organization => "ORGANIZATION",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workspace => "Workspace",
            Self::Deployment => "Deployment",
            Self::Organization => "Organization",
        })
    }
}
