//! What `status` says of one resource: facts, which decide whether something changed, and how they are shown. Pure.

use crate::api::{Key, Status, WorkspaceTokenRotation};
use crate::cli::terminal::{BAD, BOLD, GOOD, paragraph, short};
use crate::cluster::decode::Item;
use crate::text::line;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use serde::Serialize;

/// Longest text of a condition that is shown; the operator writes none that is longer.
const LONGEST: usize = 1024;
/// Of what is not there.
const NOTHING: &str = "-";
/// What blocks a resource that cannot be read; nothing is written into its status.
const UNREADABLE: &str = "Unreadable";

/// One resource; as JSON the object of `--output json`.
#[derive(Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(Debug))]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `None`: the operator has said nothing yet.
    pub ready: Option<bool>,
    /// Why.
    pub reason: Option<String>,
    /// The facts of the case.
    pub message: Option<String>,
    /// Why the next rotation cannot happen before a person acts.
    pub blocked: Option<String>,
    /// The facts of that.
    pub blocked_message: Option<String>,
    /// The token's name, otherwise its id.
    pub token: String,
    /// Since when the stored value is there.
    pub rotated_at: Option<Timestamp>,
    /// When the next rotation is due.
    pub next_rotation: Option<Timestamp>,
    /// Nothing is rotated.
    pub suspended: bool,
    /// It is no more; only said while following.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl Row {
    /// Of one that may not be readable.
    pub fn of(item: &Item<WorkspaceTokenRotation>) -> Self {
        let Key { namespace, name } = item.key();
        match &item.object {
            Ok(resource) => Self::new(resource),
            Err(why) => Self {
                namespace,
                name,
                ready: None,
                reason: None,
                message: None,
                blocked: Some(UNREADABLE.into()),
                blocked_message: Some(format!(
                    "the operator leaves it out until it can be read: {}",
                    line(why, LONGEST)
                )),
                token: NOTHING.into(),
                rotated_at: None,
                next_rotation: None,
                suspended: false,
                deleted: false,
            },
        }
    }

    /// Names, reasons and messages come from tenants and the vendor: nothing in them may move a terminal's cursor.
    pub fn new(resource: &WorkspaceTokenRotation) -> Self {
        let (spec, status) = (&resource.spec, resource.status.as_ref());
        let ready = status.and_then(Status::ready);
        let stalled = status.and_then(|status| status.present("Stalled"));
        let token = status.and_then(|status| status.token.as_ref());
        let known = token.map(|token| &token.name).filter(|it| !it.is_empty());
        let name = known
            .or(spec.token.name.as_ref())
            .or(spec.token.id.as_ref());
        let last = status.and_then(|status| status.last_rotation.as_ref());
        let rotated_at = token.and_then(|token| token.rotated_at.as_ref());
        let next = status.and_then(|status| status.next_rotation.as_ref());
        let shown = |text: &String| line(text, LONGEST);
        Self {
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
            ready: ready.map(|ready| ready.status == "True"),
            reason: ready.map(|ready| shown(&ready.reason)),
            message: ready.map(|ready| shown(&ready.message)),
            blocked: stalled.map(|stalled| shown(&stalled.reason)),
            blocked_message: stalled.map(|stalled| shown(&stalled.message)),
            token: name.map(shown).unwrap_or_default(),
            rotated_at: rotated_at.or(last.map(|last| &last.at)).map(|time| time.0),
            next_rotation: next.map(|time| time.0),
            suspended: spec.suspend == Some(true),
            deleted: false,
        }
    }

    /// It as it is said to be gone.
    pub fn deleted(self) -> Self {
        Self {
            deleted: true,
            ..self
        }
    }

    /// Whether its cells are those of the other, whatever the time is.
    pub fn looks_like(&self, other: &Self) -> bool {
        let facts = |row: &Self| Self {
            message: None,
            blocked_message: None,
            ..row.clone()
        };
        facts(self) == facts(other)
    }

    /// The cells under [`header`].
    pub fn cells(&self, with_namespace: bool, now: Timestamp) -> Vec<String> {
        let namespace = with_namespace.then(|| self.namespace.clone());
        let rest = match self.deleted {
            true => [NOTHING, "Deleted", NOTHING, &self.token, NOTHING, NOTHING].map(str::to_owned),
            false => [
                match self.ready {
                    Some(true) => format!("{GOOD}True{GOOD:#}"),
                    Some(false) => format!("{BAD}False{BAD:#}"),
                    None => NOTHING.into(),
                },
                self.reason.clone().unwrap_or_else(|| NOTHING.into()),
                self.blocked.clone().unwrap_or_else(|| NOTHING.into()),
                self.token.clone(),
                self.rotated_at.map_or(NOTHING.into(), |at| age(at, now)),
                self.next(now),
            ],
        };
        let named = namespace.into_iter().chain([self.name.clone()]);
        named.chain(rest).collect()
    }

    /// The messages of one that is not ready or blocked, below the table; cells are too narrow for them.
    pub fn explanation(&self, with_namespace: bool) -> Option<String> {
        let message = self.message.as_ref().filter(|_| self.ready == Some(false));
        let blocked = self.blocked_message.as_ref();
        let blocked = blocked.filter(|blocked| Some(*blocked) != message);
        let messages: Vec<_> = message.into_iter().chain(blocked).collect();
        if messages.is_empty() {
            return None;
        }
        let namespace = match with_namespace {
            true => format!("{}/", self.namespace),
            false => String::new(),
        };
        let name = &self.name;
        let text: String = messages.iter().map(|it| paragraph("  ", it)).collect();
        Some(format!("{BOLD}{namespace}{name}{BOLD:#}\n{text}"))
    }

    fn next(&self, now: Timestamp) -> String {
        let Some(next) = self.next_rotation.filter(|_| !self.suspended) else {
            let text = if self.suspended { "suspended" } else { NOTHING };
            return text.into();
        };
        let left = next.duration_since(now);
        match left.as_secs() {
            1.. => format!("in {}", short(left)),
            0 => "now".into(),
            _ => format!("overdue {}", short(left)),
        }
    }
}

/// The names of the columns.
pub fn header(with_namespace: bool) -> Vec<String> {
    let namespace = with_namespace.then_some("NAMESPACE");
    let rest = ["NAME", "READY", "REASON", "BLOCKED", "TOKEN", "AGE", "NEXT"];
    let names = namespace.into_iter().chain(rest);
    names.map(str::to_owned).collect()
}

/// A clock that is behind the vendor's makes nothing older than it is.
fn age(at: Timestamp, now: Timestamp) -> String {
    short(now.duration_since(at).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-03-10T12:00:00Z".parse().unwrap()
    }

    fn row(spec: Value, status: Value) -> Row {
        let mut resource = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"namespace": "data", "name": "ci"},
            "spec": {
                "workspaceId": "w", "token": {"name": "of the spec"}, "schedule": {"every": "1d"},
                "target": {"name": "s"},
            },
            "status": status,
        });
        let into = resource["spec"].as_object_mut().unwrap();
        into.extend(spec.as_object().unwrap().clone());
        Row::new(&serde_json::from_value(resource).unwrap())
    }

    fn cells(spec: Value, status: Value) -> Vec<String> {
        row(spec, status).cells(false, now())
    }

    fn ready(status: &str, reason: &str, message: &str) -> Value {
        json!([{
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-03-01T00:00:00Z",
        }])
    }

    #[test]
    fn a_ready_one_shows_how_old_its_value_is_and_when_it_is_replaced() {
        let status = json!({
            "conditions": ready("True", "Live", "fine"),
            "token": {"id": "t1", "name": "CI deployer", "rotatedAt": "2026-03-08T09:00:00Z"},
            "lastRotation": {"id": "r", "reason": "Initial", "at": "2026-01-01T00:00:00Z"},
            "nextRotation": "2026-03-13T16:30:00Z",
        });
        let row = row(json!({}), status);
        let cells = row.cells(true, now());
        assert_eq!(cells[..2], ["data", "ci"]);
        assert_eq!(cells[2], format!("{GOOD}True{GOOD:#}"));
        assert_eq!(
            cells[3..],
            ["Live", "-", "CI deployer", "2d 3h", "in 3d 4h"]
        );
        assert_eq!(row.explanation(true), None);
    }

    #[test]
    fn one_that_nobody_looked_at_has_its_name_and_the_spec_s_token() {
        let nothing = cells(json!({}), Value::Null);
        assert_eq!(nothing, ["ci", "-", "-", "-", "of the spec", "-", "-"]);
        let by_id = cells(json!({"token": {"id": "t9"}}), Value::Null);
        assert_eq!(by_id[4], "t9");
        // The vendor's record was not seen yet.
        let unnamed = json!({"token": {"id": "t1", "name": ""}});
        assert_eq!(cells(json!({}), unnamed)[4], "of the spec");
    }

    #[test]
    fn the_age_is_by_the_last_rotation_where_the_value_has_no_time_and_never_negative() {
        let last = |at: &str| {
            let last = json!({"id": "r", "reason": "Initial", "at": at});
            let token = json!({"id": "t1", "name": "x"});
            cells(json!({}), json!({"token": token, "lastRotation": last}))[5].clone()
        };
        assert_eq!(last("2026-03-10T11:54:50Z"), "5m 10s");
        assert_eq!(last("2026-03-10T12:00:03Z"), "0s");
    }

    #[test]
    fn what_is_due_what_is_late_and_what_is_suspended_are_told_apart() {
        let next = |spec: Value, at: &str| cells(spec, json!({"nextRotation": at}))[6].clone();
        assert_eq!(next(json!({}), "2026-03-10T12:00:01Z"), "in 1s");
        assert_eq!(next(json!({}), "2026-03-10T12:00:00Z"), "now");
        assert_eq!(next(json!({}), "2026-03-10T11:54:50Z"), "overdue 5m 10s");
        let suspended = json!({"suspend": true});
        assert_eq!(next(suspended, "2026-03-10T11:54:50Z"), "suspended");
        assert_eq!(cells(json!({"suspend": false}), json!({}))[6], "-");
    }

    #[test]
    fn one_that_is_not_ready_is_explained_below_the_table_in_harmless_text() {
        let hostile = "no token\u{1b}[2J named\n\u{202e}\"x\"";
        let row = row(
            json!({}),
            json!({"conditions": ready("False", "Token\u{1b}NotFound", hostile)}),
        );
        let cells = row.cells(false, now());
        assert_eq!(cells[1], format!("{BAD}False{BAD:#}"));
        assert_eq!(cells[2], "TokenNotFound");
        let text = row.explanation(false).unwrap();
        let wanted = format!("{BOLD}ci{BOLD:#}\n  no token[2J named \"x\"\n");
        assert_eq!(text, wanted);
        assert!(row.explanation(true).unwrap().contains("data/ci"));
    }

    #[test]
    fn a_live_value_whose_next_rotation_is_blocked_stays_ready_and_says_so() {
        let mut conditions = ready("True", "Live", "fine");
        let stalled = json!({
            "type": "Stalled", "status": "True", "reason": "CredentialsRejected", "message": "it has expired",
            "lastTransitionTime": "2026-03-01T00:00:00Z",
        });
        conditions.as_array_mut().unwrap().push(stalled);
        let row = row(json!({}), json!({"conditions": conditions}));
        let cells = row.cells(false, now());
        assert_eq!(cells[1], format!("{GOOD}True{GOOD:#}"));
        assert_eq!(cells[2..4], ["Live", "CredentialsRejected"]);
        let text = row.explanation(false).unwrap();
        assert!(
            text.contains("it has expired") && !text.contains("fine"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_in_a_column_counts_as_a_change() {
        let status = |message: &str, next: &str| json!({"conditions": ready("True", "Live", message), "nextRotation": next});
        let base = row(json!({}), status("one", "2026-03-11T00:00:00Z"));
        let other = row(json!({}), status("two", "2026-03-11T00:00:00Z"));
        assert!(base.looks_like(&other) && base != other);
        assert!(!base.looks_like(&row(json!({}), status("one", "2026-03-12T00:00:00Z"))));
        assert!(!base.looks_like(&base.clone().deleted()));
    }

    #[test]
    fn as_json_it_is_flat_with_full_times() {
        let status = json!({
            "conditions": ready("False", "Contested", "twice"),
            "token": {"id": "t1", "name": "CI", "rotatedAt": "2026-03-08T09:00:00Z"},
        });
        let row = row(json!({"suspend": true}), status);
        let wanted = json!({
            "namespace": "data", "name": "ci", "ready": false, "reason": "Contested", "message": "twice",
            "blocked": null, "blockedMessage": null, "token": "CI", "rotatedAt": "2026-03-08T09:00:00Z", "nextRotation": null, "suspended": true,
        });
        assert_eq!(serde_json::to_value(&row).unwrap(), wanted);
        let gone = serde_json::to_value(row.deleted()).unwrap();
        assert_eq!(gone["deleted"], true);
    }
}
