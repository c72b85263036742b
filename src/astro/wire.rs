//! The vendor's JSON, read leniently: field by field, so that one that is not as documented costs no other.

use crate::api::Version;
use crate::astro::record::{Details, Role};
use crate::decide::evidence::Token;
use crate::id::canonical;
use jiff::{Timestamp, Unit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::time::Duration;

/// `ApiTokensPaginated` of its OpenAPI description.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<'a> {
    #[serde(borrow)]
    pub(super) tokens: Vec<&'a RawValue>,
    pub(super) total_count: usize,
}

/// The value in the answer to a rotation, whatever else the answer holds and whatever follows it; one that can be no
/// header is none.
pub(super) fn value(body: &[u8]) -> Option<SecretString> {
    #[derive(Deserialize)]
    struct Issued {
        token: Option<String>,
    }
    let mut body = serde_json::Deserializer::from_slice(without_bom(body));
    let token = SecretString::from(Issued::deserialize(&mut body).ok()?.token?);
    let text = token.expose_secret();
    (!text.is_empty() && HeaderValue::from_str(text).is_ok()).then_some(token)
}

/// A body without the mark that some programs put before UTF-8.
pub(super) fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// `ApiToken` as far as it is used; unknown fields are ignored, absent and null are the same. A field that is not as
/// documented is absent, and named in [`Token::odd`] where a decision depends on it.
pub(super) fn token(record: &Value) -> Token {
    let mut odd = None;
    let mut text = |field: &'static str| match record.get(field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            odd.get_or_insert(field);
            None
        }
    };
    let (id, name, scope, kind) = (text("id"), text("name"), text("scope"), text("kind"));
    let (short_token, rotated) = (text("shortToken"), text("lastRotatedAt"));
    let rotated_at = rotated.as_deref().and_then(seconds);
    let roles = match record.get("roles") {
        None | Some(Value::Null) => Some(&[][..]),
        Some(roles) => roles.as_array().map(Vec::as_slice),
    };
    for (field, is_odd) in [
        ("id", id.as_ref().is_none_or(String::is_empty)),
        ("scope", scope.as_ref().is_none_or(String::is_empty)),
        ("lastRotatedAt", rotated.is_some() && rotated_at.is_none()),
        ("roles", roles.is_none()),
    ] {
        if is_odd {
            odd.get_or_insert(field);
        }
    }
    let role = |role: &Value| {
        let is_of_scope = role.get("entityType")?.as_str() == scope.as_deref();
        let id = role.get("entityId")?.as_str();
        id.filter(|_| is_of_scope).map(|id| canonical(id.into()))
    };
    let entities = roles.into_iter().flatten().filter_map(role).collect();
    let time = |field: &str| record.get(field)?.as_str().and_then(seconds);
    Token {
        id: id.map(canonical).unwrap_or_default(),
        name: name.unwrap_or_default(),
        scope: scope.unwrap_or_default(),
        kind: kind.unwrap_or_else(|| "STANDARD".into()),
        entities,
        version: Version {
            rotated_at: rotated_at.map(Time),
            short_token: short_token.filter(|short| !short.is_empty()),
        },
        starts: time("startAt"),
        ends: time("endAt"),
        // It is nothing to insist on.
        last_used: record
            .get("lastUsedAt")
            .and_then(Value::as_str)
            .and_then(seconds),
        odd,
    }
}

/// The same with what is only shown, whose shape is nothing to insist on.
pub(super) fn details(record: &Value) -> Details {
    let text = |from: &Value, path: &str| {
        let text = from.pointer(path).and_then(Value::as_str);
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let time = |path: &str| text(record, path).as_deref().and_then(seconds);
    let names = ["fullName", "apiTokenName", "username", "id"].map(|it| format!("/createdBy/{it}"));
    let role = |role: &Value| Role {
        entity_type: text(role, "/entityType").unwrap_or_default(),
        entity_id: text(role, "/entityId").unwrap_or_default(),
        role: text(role, "/role").unwrap_or_default(),
    };
    let roles = record.get("roles").and_then(Value::as_array);
    Details {
        description: text(record, "/description").unwrap_or_default(),
        roles: roles.into_iter().flatten().map(role).collect(),
        created: time("/createdAt"),
        created_by: names.iter().find_map(|path| text(record, path)),
        token: token(record),
    }
}

/// A vendor time in whole seconds, cut, never rounded up.
pub(super) fn seconds(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    let floor = jiff::TimestampRound::new()
        .smallest(Unit::Second)
        .mode(jiff::RoundMode::Floor);
    time.round(floor).ok()
}

/// `Date`: a time as HTTP writes it.
pub(super) fn date(text: &str) -> Option<Timestamp> {
    Some(jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp())
}

/// `Retry-After`: seconds, or an HTTP date, which is held against the answer's own.
pub(super) fn pause(text: &str, answered: Option<Timestamp>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    Duration::try_from(date(text)?.duration_since(answered?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::select;
    use secrecy::ExposeSecret;
    use serde_json::json;

    #[test]
    fn vendor_times_are_cut_to_seconds() {
        let time = seconds("2026-11-01T09:00:00.999Z").map(|time| time.to_string());
        assert_eq!(time.as_deref(), Some("2026-11-01T09:00:00Z"));
    }

    #[test]
    fn a_pause_is_a_number_of_seconds_or_a_date_after_the_answer_s_own() {
        let at = |second| format!("Sun, 01 Nov 2026 09:00:{second} GMT");
        let seconds = |text: &str, answered: Option<&str>| {
            Some(pause(text, answered.and_then(date))?.as_secs())
        };
        assert_eq!(seconds(" 7 ", None), Some(7));
        assert_eq!(seconds(&at("30"), Some(&at("10"))), Some(20));
        for (text, from) in [
            ("-1", None),
            ("soon", None),
            (&at("30"), None),
            (&at("10"), Some(&*at("30"))),
        ] {
            assert_eq!(seconds(text, from), None, "{text}");
        }
    }

    /// JSON of any shape, a few levels deep.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    /// A record as the vendor documents it.
    fn record() -> Value {
        json!({
            "id": "clm1", "name": "CI", "scope": "WORKSPACE", "kind": "STANDARD", "shortToken": "abc",
            "lastRotatedAt": "2026-11-01T09:00:00.5Z", "startAt": "2026-01-01T00:00:00Z",
            "endAt": "2027-01-01T00:00:00Z", "description": "", "expiryPeriodInDays": 30,
            "roles": [{"entityType": "WORKSPACE", "entityId": "w", "role": "WORKSPACE_OWNER"}],
            "createdBy": {"id": "u", "fullName": "A Person"},
        })
    }

    /// A record with some fields of another shape, and some that are unknown.
    fn odd_record() -> impl Strategy<Value = Value> {
        let names: Vec<String> = record().as_object().unwrap().keys().cloned().collect();
        let fields = btree_map(select(names), any_json(), 0..4);
        let unknown = btree_map("[a-z]{1,8}", any_json(), 0..3);
        (fields, unknown).prop_map(|(fields, unknown)| {
            let mut odd = record();
            for (name, value) in fields.into_iter().chain(unknown) {
                if name != "token" {
                    odd[name] = value;
                }
            }
            odd
        })
    }

    /// The fields that decisions depend on.
    const NEEDED: [&str; 7] = [
        "id",
        "name",
        "scope",
        "kind",
        "shortToken",
        "lastRotatedAt",
        "roles",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_header_makes_reading_a_pause_panic(
            text in r"\PC*|[0-9]{1,30}|[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{0,9} (GMT|[+-][0-9]{4})",
            answered in proptest::option::of(r"\PC*|[A-Z][a-z]{2}, [0-9]{1,2} Nov [0-9]{1,6} [0-9:]{8} GMT"),
        ) {
            let _ = pause(&text, answered.as_deref().and_then(date));
        }

        #[test]
        fn no_bytes_make_reading_panic(body in vec(any::<u8>(), 0..200), text in ".*") {
            let _ = serde_json::from_slice::<Value>(&body).map(|record| (token(&record), details(&record)));
            let _ = serde_json::from_slice::<Page>(&body);
            let _ = value(&body);
            let _ = seconds(&text);
        }

        #[test]
        fn what_is_odd_in_a_record_is_named_and_costs_no_other_field(odd in odd_record()) {
            let (read, whole) = (token(&odd), token(&record()));
            let is_odd = |field: &str| odd[field] != record()[field];
            prop_assert_eq!(read.id, odd["id"].as_str().unwrap_or_default());
            prop_assert_eq!(read.name, odd["name"].as_str().unwrap_or_default());
            prop_assert_eq!(read.scope, odd["scope"].as_str().unwrap_or_default());
            prop_assert_eq!(read.version.rotated_at.is_some(), odd["lastRotatedAt"].as_str().and_then(seconds).is_some());
            if !is_odd("roles") && !is_odd("scope") {
                prop_assert_eq!(read.entities, whole.entities);
            }
            if !is_odd("endAt") {
                prop_assert_eq!(read.ends, whole.ends);
            }
            match read.odd {
                Some(field) => prop_assert!(is_odd(field), "{field} is as documented"),
                None => for field in NEEDED {
                    let (there, documented) = (&odd[field], &record()[field]);
                    let is_null = there.is_null() && !matches!(field, "id" | "scope");
                    prop_assert!(is_null || there.is_string() == documented.is_string(), "{field} was taken");
                }
            }
        }

        #[test]
        fn null_is_the_same_as_absent(name in select(record().as_object().unwrap().keys().cloned().collect::<Vec<_>>())) {
            let (mut null, mut absent) = (record(), record());
            null[&name] = Value::Null;
            absent.as_object_mut().unwrap().remove(&name);
            prop_assert_eq!(token(&null), token(&absent));
            prop_assert_eq!(token(&null).odd.is_some(), matches!(name.as_str(), "id" | "scope"));
        }

        #[test]
        fn a_rotation_s_value_is_kept_whatever_else_is_answered(
            odd in odd_record(), token in "[ -~]+", escaped in any::<bool>(), last in any::<bool>(), after in "(\n.*)?",
        ) {
            let units = token.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            let text = match escaped {
                true => format!("\"{}\"", units.collect::<String>()),
                false => json!(token).to_string(),
            };
            let rest = odd.to_string();
            let rest = &rest[1..rest.len() - 1];
            let body = match last {
                true => format!("{{{rest},\"token\":{text}}}{after}"),
                false => format!("{{\"token\":{text},{rest}}}{after}"),
            };
            let kept = value(body.as_bytes());
            prop_assert_eq!(kept.as_ref().map(ExposeSecret::expose_secret), Some(token.as_str()));
        }

        #[test]
        fn a_page_is_read_whole_or_not_at_all(records in vec(odd_record(), 0..4), total in any_json()) {
            let page = json!({"tokens": records, "totalCount": total, "limit": 1000, "offset": 0});
            if let Ok(page) = serde_json::from_str::<Page>(&page.to_string()) {
                prop_assert_eq!(page.tokens.len(), records.len());
                prop_assert_eq!(Some(page.total_count as u64), total.as_u64());
            }
        }
    }

    #[test]
    fn what_is_only_shown_is_read_where_it_has_the_expected_shape() {
        let mut odd = record();
        odd["createdBy"] = json!({"fullName": "", "username": "jo@example.com"});
        odd["roles"] =
            json!([{"entityType": "WORKSPACE", "entityId": "w", "role": "WORKSPACE_OWNER"}]);
        let shown = details(&odd);
        assert_eq!(shown.created_by.as_deref(), Some("jo@example.com"));
        assert_eq!(shown.roles[0].role, "WORKSPACE_OWNER");
        assert_eq!(shown.token.entities, ["w"]);
        for field in ["createdBy", "createdAt", "lastUsedAt", "description"] {
            odd[field] = json!([7]);
        }
        let shown = details(&odd);
        assert_eq!((shown.created_by, shown.created), (None, None));
    }

    #[test]
    fn roles_without_a_kind_do_not_hide_the_others() {
        let mut odd = record();
        odd["roles"] = json!([{"entityType": null, "entityId": null}, {}, {"entityType": "WORKSPACE", "entityId": "w"}]);
        assert_eq!(token(&odd).entities, ["w"]);
        assert_eq!(token(&odd).odd, None);
    }

    #[test]
    fn a_value_is_kept_from_an_answer_of_any_depth() {
        let depth = 100_000;
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let body = format!(r#"{{"more":{deep},"id":{deep},"token":"the-value"}}"#);
        let kept = value(body.as_bytes());
        let kept = kept.as_ref().map(ExposeSecret::expose_secret);
        assert_eq!(kept, Some("the-value"));
        assert!(serde_json::from_str::<Value>(&body).is_err());
    }

    #[test]
    fn a_value_that_can_be_no_header_is_none() {
        for token in ["", "two\nlines", "nul\0", "\u{7f}"] {
            assert!(
                value(json!({"token": token}).to_string().as_bytes()).is_none(),
                "{token:?}"
            );
        }
        assert!(value(b"\xef\xbb\xbf{\"token\": \"a-value\"}").is_some());
    }
}
