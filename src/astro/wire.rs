//! The vendor's JSON (`astro/openapi.yaml`), read leniently. Pure.

use crate::api::Version;
use crate::evidence::Token;
use jiff::{Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Deserializer};

/// `ApiTokensPaginated` (`astro/openapi.yaml`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    pub(super) tokens: Vec<TokenRecord>,
    pub(super) total_count: usize,
}

/// `ApiToken` as far as it is used; unknown fields are ignored, absent and null are the same.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenRecord {
    id: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    scope: String,
    kind: Option<String>,
    short_token: Option<String>,
    last_rotated_at: Option<String>,
    start_at: Option<String>,
    end_at: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Role {
    #[serde(default)]
    entity_type: String,
    #[serde(default)]
    entity_id: String,
}

/// The value alone, borrowed from the body where it can be.
#[derive(Deserialize)]
pub(super) struct Issued<'a> {
    #[serde(borrow)]
    pub(super) token: Option<std::borrow::Cow<'a, str>>,
}

/// `Error` (`astro/openapi.yaml`).
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ErrorBody {
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
}

impl From<TokenRecord> for Token {
    fn from(record: TokenRecord) -> Self {
        let in_workspace = |role: Role| (role.entity_type == "WORKSPACE").then_some(role.entity_id);
        Self {
            id: record.id,
            name: record.name,
            scope: record.scope,
            kind: record.kind.unwrap_or_else(|| "STANDARD".into()),
            workspaces: record.roles.into_iter().filter_map(in_workspace).collect(),
            version: Version {
                rotated_at: record
                    .last_rotated_at
                    .as_deref()
                    .and_then(seconds)
                    .map(Time),
                short_token: record.short_token.filter(|short| !short.is_empty()),
            },
            starts: record.start_at.as_deref().and_then(seconds),
            ends: record.end_at.as_deref().and_then(seconds),
        }
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A vendor time in whole seconds, cut, never rounded up.
pub(super) fn seconds(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    let floor = jiff::TimestampRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Floor);
    time.round(floor).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendor_times_are_cut_to_seconds() {
        let time = seconds("2026-11-01T09:00:00.999Z").map(|time| time.to_string());
        assert_eq!(time.as_deref(), Some("2026-11-01T09:00:00Z"));
    }

    proptest::proptest! {
        #[test]
        fn no_body_makes_reading_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), text in ".*") {
            let _ = serde_json::from_slice::<TokenRecord>(&body).map(Token::from);
            let _ = serde_json::from_slice::<Issued>(&body);
            let _ = seconds(&text);
        }
    }
}
