//! What `status --watch` prints: from the events of a watch, which may break off and begin anew. Pure.

use super::row::Row;
use crate::api::WorkspaceTokenRotation;
use crate::cluster::decode::Item;
use kube::runtime::watcher::Event;
use std::collections::{BTreeMap, BTreeSet};

type Key = (String, String);

/// What to print.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub enum Update {
    /// All there is, once, at the beginning.
    All(Vec<Row>),
    /// One that is new, or another than before, or gone.
    One(Row),
}

/// What was printed of which resource.
pub struct Known {
    names: Vec<String>,
    /// The message counts as well as the columns.
    in_full: bool,
    rows: BTreeMap<Key, Row>,
    /// Those that a listing which is not over has named so far.
    listed: BTreeSet<Key>,
    begun: bool,
}

impl Known {
    /// Nothing yet of the resources of these names, or of all where there are none.
    pub fn new(names: &[String], in_full: bool) -> Self {
        Self {
            names: names.to_vec(),
            in_full,
            rows: BTreeMap::new(),
            listed: BTreeSet::new(),
            begun: false,
        }
    }

    /// Whether everything was printed once.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// What an event gives to print.
    pub fn take(&mut self, event: &Event<Item<WorkspaceTokenRotation>>) -> Vec<Update> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(resource) => {
                let row = Row::of(resource);
                self.listed.insert(key(&row));
                let change = self.put(row);
                change.filter(|_| self.begun).into_iter().collect()
            }
            Event::InitDone if !self.begun => {
                self.begun = true;
                vec![Update::All(self.rows.values().cloned().collect())]
            }
            Event::InitDone => {
                // They were deleted while the watch was interrupted.
                let listed = std::mem::take(&mut self.listed);
                let rows = std::mem::take(&mut self.rows).into_iter();
                let (there, gone): (_, BTreeMap<_, _>) =
                    rows.partition(|(key, _)| listed.contains(key));
                self.rows = there;
                let gone = gone.into_values().map(Row::deleted);
                gone.map(Update::One).collect()
            }
            Event::Apply(resource) => self.put(Row::of(resource)).into_iter().collect(),
            Event::Delete(resource) => {
                let gone = self.rows.remove(&key(&Row::of(resource)));
                let gone = gone.map(|row| Update::One(row.deleted()));
                gone.into_iter().collect()
            }
        }
    }

    fn put(&mut self, row: Row) -> Option<Update> {
        if !self.names.is_empty() && !self.names.contains(&row.name) {
            return None;
        }
        let before = self.rows.insert(key(&row), row.clone());
        let same = |before: Row| match self.in_full {
            true => before == row,
            false => before.looks_like(&row),
        };
        (!before.is_some_and(same)).then_some(Update::One(row))
    }
}

fn key(row: &Row) -> Key {
    (row.namespace.clone(), row.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(name: &str, reason: &str, message: &str) -> Item<WorkspaceTokenRotation> {
        serde_json::from_value(json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"namespace": "data", "name": name},
            "spec": {"workspaceId": "w", "token": {"id": "t"}, "schedule": {}, "target": {"name": "s"}},
            "status": {"conditions": [{
                "type": "Ready", "status": "False", "reason": reason, "message": message,
                "lastTransitionTime": "2026-03-01T00:00:00Z",
            }]},
        }))
        .unwrap()
    }

    /// Names and reasons of what is printed.
    fn said(known: &mut Known, events: Vec<Event<Item<WorkspaceTokenRotation>>>) -> Vec<String> {
        let changes = events.iter().flat_map(|event| known.take(event));
        let text = |row: &Row| match row.deleted {
            true => format!("{} deleted", row.name),
            false => format!("{} {}", row.name, row.reason.as_deref().unwrap_or("-")),
        };
        let text = |change| match change {
            Update::All(rows) => rows.iter().map(text).collect::<Vec<_>>().join(", "),
            Update::One(row) => text(&row),
        };
        changes.map(text).collect()
    }

    fn begun(names: &[String], in_full: bool) -> Known {
        let mut known = Known::new(names, in_full);
        let (b, a) = (resource("b", "X", "1"), resource("a", "X", "1"));
        let first = vec![Event::Init, Event::InitApply(b), Event::InitApply(a)];
        assert_eq!(said(&mut known, first), [""; 0]);
        assert!(!known.begun());
        let all = said(&mut known, vec![Event::InitDone]);
        let expected = if names.is_empty() { "a X, b X" } else { "b X" };
        assert_eq!(all, [expected]);
        known
    }

    #[test]
    fn what_changes_after_the_beginning_is_said_once() {
        let mut known = begun(&[], false);
        let events = vec![
            Event::Apply(resource("a", "X", "another message")),
            Event::Apply(resource("a", "Y", "2")),
            Event::Apply(resource("a", "Y", "2")),
            Event::Apply(resource("c", "X", "1")),
            Event::Delete(resource("c", "X", "1")),
        ];
        assert_eq!(said(&mut known, events), ["a Y", "c X", "c deleted"]);
    }

    #[test]
    fn in_full_a_message_is_a_change_too() {
        let events = vec![Event::Apply(resource("a", "X", "another message"))];
        assert_eq!(said(&mut begun(&[], true), events), ["a X"]);
    }

    #[test]
    fn a_watch_that_begins_anew_says_only_what_happened_meanwhile() {
        let mut known = begun(&[], false);
        let events = vec![
            Event::Init,
            Event::InitApply(resource("a", "X", "1")),
            Event::InitApply(resource("c", "X", "1")),
            Event::InitDone,
        ];
        assert_eq!(said(&mut known, events), ["c X", "b deleted"]);
    }

    #[test]
    fn one_that_cannot_be_read_is_named_beside_the_others() {
        let mut known = begun(&[], false);
        let spoilt =
            json!({"metadata": {"namespace": "data", "name": "c"}, "spec": {"workspaceId": 5}});
        let spoilt: Item<WorkspaceTokenRotation> = serde_json::from_value(spoilt).unwrap();
        let Some(Update::One(row)) = known.take(&Event::Apply(spoilt.clone())).pop() else {
            panic!("nothing is said");
        };
        let text = row.explanation(true).unwrap();
        let place = "spec.workspaceId";
        assert!(text.contains("data/c") && text.contains(place), "{text}");
        assert_eq!(said(&mut known, vec![Event::Delete(spoilt)]), ["c deleted"]);
    }

    #[test]
    fn of_names_only_they_are_followed() {
        let mut known = begun(&["b".to_owned()], false);
        let events = vec![
            Event::Apply(resource("a", "Y", "1")),
            Event::Delete(resource("a", "Y", "1")),
            Event::Delete(resource("b", "Y", "1")),
        ];
        assert_eq!(said(&mut known, events), ["b deleted"]);
    }
}
