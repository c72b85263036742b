//! What is taken of an object, and how much of it: anybody who may write one can make it as long as the API server allows.

use crate::api::{MANAGED_BY, evidence, request};
use crate::decide::managed::{MANAGER, as_kept};
use crate::decide::requests::short;
use crate::decide::validate::{MOST_TEXT, TOO_LONG};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// Longest text of an annotation that is taken as it is, bytes.
const LONGEST: usize = 1024;
/// Most past rotations; the operator records ten.
const HISTORY: usize = 32;
/// Most labels and annotations of a Secret that are taken beside our own.
const MOST_NAMES: usize = 64;
/// The label and the annotations that the operator reads on a Secret, regardless of who wrote them.
const EVIDENCE: [&str; 20] = [
    MANAGED_BY.0,
    request::ADOPT,
    evidence::OWNED_BY,
    evidence::KEY,
    evidence::TOKEN_ID,
    evidence::OTHER_ID,
    evidence::PREVIOUS_AT,
    evidence::PREVIOUS_SHORT,
    evidence::FENCE,
    evidence::REVOKE_PREVIOUS,
    evidence::ROTATED_AT,
    evidence::SHORT_TOKEN,
    evidence::REPLACED,
    evidence::ROTATION_ID,
    evidence::EXPIRES_AT,
    evidence::ADOPTED_AT,
    evidence::REQUEST,
    evidence::REVOKE,
    evidence::ADOPTED,
    evidence::CLUSTER,
];
/// Most owners.
const MOST_OWNERS: usize = 16;
/// Most fields that are ours, and that are another party's.
const MOST_OURS: usize = 256;
const MOST_OF_OTHERS: usize = 64;

/// Takes of a resource what is read somewhere.
///
/// What cannot be bounded without a change of its meaning is marked, so that the spec counts as invalid.
pub(super) fn resource(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        keep(
            metadata,
            &[
                "name",
                "namespace",
                "uid",
                "resourceVersion",
                "generation",
                "creationTimestamp",
                "deletionTimestamp",
                "annotations",
            ],
        );
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            keep(annotations, &[request::ROTATE, request::REVOKE]);
            let texts = annotations.values_mut();
            for text in texts.filter(|text| text.as_str().is_some_and(|it| it.len() > LONGEST)) {
                *text = short(text.as_str().unwrap_or_default()).into();
            }
        }
    }
    if let Some(Value::Array(history)) = object.pointer_mut("/status/history") {
        history.truncate(HISTORY);
    }
    let Some(Value::Object(target)) = object.pointer_mut("/spec/target") else {
        return;
    };
    let maps = ["labels", "annotations"];
    let length = |name: &&str| target.get(*name).map_or(0, length);
    let length: usize = maps.iter().map(length).sum();
    if length > MOST_TEXT {
        target.remove("labels");
        target.insert("annotations".into(), json!({TOO_LONG: length.to_string()}));
    }
}

/// Takes of the metadata of a Secret what tells whose it is, and what may have to be brought in line with a spec.
pub(super) fn metadata(object: &mut Value) {
    if let Value::Object(object) = object {
        keep(object, &["metadata"]);
    }
    let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
        return;
    };
    keep(
        metadata,
        &[
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "deletionTimestamp",
            "ownerReferences",
            "labels",
            "annotations",
            "managedFields",
        ],
    );
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        let is_resource = |owner: &Value| owner["kind"] == "WorkspaceTokenRotation";
        owners.sort_by_key(|owner| !is_resource(owner));
        owners.truncate(MOST_OWNERS);
    }
    let key = metadata
        .get("annotations")
        .and_then(|it| it.get(evidence::KEY));
    let key = key.and_then(Value::as_str).unwrap_or_default().to_owned();
    for kind in ["labels", "annotations"] {
        let ours = ours(metadata.get("managedFields"), kind);
        if let Some(Value::Object(texts)) = metadata.get_mut(kind) {
            bound_texts(texts, &ours);
        }
    }
    if let Some(Value::Array(managers)) = metadata.get_mut("managedFields") {
        let mut left = Left {
            key: format!("f:{key}"),
            ours: MOST_OURS,
            others: MOST_OF_OTHERS,
        };
        managers.retain_mut(|manager| left.bound(manager));
    }
}

/// How many fields are still taken.
struct Left {
    /// Field of the key that the evidence is about.
    key: String,
    ours: usize,
    others: usize,
}

impl Left {
    /// Takes out what is too much; whether anything is left of it.
    fn bound(&mut self, manager: &mut Value) -> bool {
        let (key, left) = match is_ours(manager) {
            true => (&self.key, &mut self.ours),
            false => (&self.key, &mut self.others),
        };
        let mut is_any = false;
        for path in [
            "/fieldsV1/f:data",
            "/fieldsV1/f:metadata/f:labels",
            "/fieldsV1/f:metadata/f:annotations",
        ] {
            let Some(Value::Object(names)) = manager.pointer_mut(path) else {
                continue;
            };
            names.retain(|name, _| {
                let is_left = *left > 0;
                *left = left.saturating_sub(1);
                is_left || name == key || field(name).is_some_and(|it| EVIDENCE.contains(&it))
            });
            is_any |= !names.is_empty();
        }
        is_any
    }
}

fn is_ours(manager: &Value) -> bool {
    manager["manager"] == MANAGER && manager["operation"] == "Apply"
}

/// Names of the labels, or of the annotations, that are ours.
fn ours(managers: Option<&Value>, kind: &str) -> BTreeSet<String> {
    let managers = managers.and_then(Value::as_array).into_iter().flatten();
    let ours = managers.filter(|manager| is_ours(manager));
    let names = ours
        .filter_map(|manager| manager["fieldsV1"]["f:metadata"][format!("f:{kind}")].as_object());
    let names = names.flatten().filter_map(|(name, _)| field(name));
    names.map(str::to_owned).collect()
}

/// The name in a managed field.
fn field(name: &str) -> Option<&str> {
    name.strip_prefix("f:")
}

fn keep(fields: &mut Map<String, Value>, names: &[&str]) {
    fields.retain(|name, _| names.contains(&name.as_str()));
}

/// Texts of our own are short; of others it is only asked whether they are what a spec wants.
fn bound_texts(texts: &mut Map<String, Value>, ours: &BTreeSet<String>) {
    let mut left = MOST_NAMES;
    texts.retain(|name, text| {
        let long = text.as_str().map_or(0, str::len);
        if EVIDENCE.contains(&name.as_str()) {
            return long <= LONGEST;
        }
        if let Some(Cow::Owned(hash)) = text.as_str().map(as_kept) {
            *text = hash.into();
        }
        let is_left = left > 0;
        left = left.saturating_sub(1);
        is_left || ours.contains(name)
    });
}

/// Bytes of all names and texts.
fn length(texts: &Value) -> usize {
    let texts = texts.as_object().into_iter().flatten();
    texts
        .map(|(name, text)| name.len() + text.as_str().map_or(0, str::len))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkspaceTokenRotation;
    use crate::cluster::decode::{Decode, Item};
    use crate::decide::managed::{Managed, Metadata};
    use crate::decide::validate::check_spec;
    use kube::ResourceExt;

    fn read<T: Decode>(object: &Value) -> T {
        let item: Item<T> = serde_json::from_str(&object.to_string()).unwrap();
        item.read().unwrap()
    }

    fn resource(edit: impl FnOnce(&mut Value)) -> WorkspaceTokenRotation {
        let mut resource = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": "7", "generation": 3},
            "spec": {"workspaceId": "ws", "token": {"name": "t"}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
            "status": {"token": {"id": "tok", "name": "t"}},
        });
        edit(&mut resource);
        read(&resource)
    }

    #[test]
    fn a_target_with_too_much_text_is_invalid_and_still_claims_what_it_names() {
        let with = |long: usize| {
            resource(|r| {
                let texts = json!({"a": "x".repeat(long / 2 - 1), "b": "x".repeat(long / 2 - 1)});
                r["spec"]["target"]["annotations"] = texts;
            })
        };
        let most = with(MOST_TEXT);
        assert_eq!(most.spec.target.annotations.len(), 2);
        assert_eq!(check_spec(&most.spec), Ok(()));
        let much = with(MOST_TEXT + 2);
        let why = check_spec(&much.spec).unwrap_err().message;
        assert!(why.contains("4098 bytes") && why.contains("4096"), "{why}");
        assert_eq!(
            (
                much.spec.target.name.as_str(),
                much.spec.token.name.as_deref()
            ),
            ("s", Some("t"))
        );
        assert_eq!(much.status.unwrap().token.unwrap().id, "tok");
        // Whoever writes the mark themselves gets no text of theirs shown.
        let marked = resource(|r| r["spec"]["target"]["annotations"] = json!({TOO_LONG: "buy"}));
        let why = check_spec(&marked.spec).unwrap_err().message;
        assert!(why.contains("may not set") && !why.contains("buy"), "{why}");
    }

    #[test]
    fn of_a_resource_stays_what_is_read_somewhere() {
        let much = json!({"x": "y".repeat(100_000)});
        let resource = resource(|r| {
            r["metadata"]["labels"] = much.clone();
            r["metadata"]["finalizers"] = json!(["a/b"]);
            r["metadata"]["annotations"] = much.clone();
            r["metadata"]["annotations"][request::ROTATE] = "now".into();
            r["metadata"]["annotations"][request::REVOKE] = "z".repeat(100_000).into();
            r["metadata"]["managedFields"] = json!([much]);
            r["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        });
        let metadata = &resource.metadata;
        assert_eq!(
            (metadata.generation, metadata.uid.as_deref()),
            (Some(3), Some("u"))
        );
        assert!(metadata.deletion_timestamp.is_some());
        assert_eq!(resource.annotations()[request::ROTATE], "now");
        // A request is the same one afterwards.
        assert_eq!(
            resource.annotations()[request::REVOKE],
            short(&"z".repeat(100_000))
        );
        assert!(json!(resource).to_string().len() < 1000);
    }

    #[test]
    fn of_a_secret_full_of_fields_stays_what_tells_whose_it_is() {
        let many = |prefix: &str, count: usize| -> Map<String, Value> {
            let names = (0..count).map(|number| (format!("{prefix}{number:05}"), json!({})));
            names.collect()
        };
        let mut others = many("f:a", 50_000);
        others.insert("f:the-key".into(), json!({}));
        let texts = |count: usize| -> Map<String, Value> {
            let texts = (0..count).map(|number| (format!("a{number:05}"), json!("t".repeat(1000))));
            texts.collect()
        };
        let mut annotations = texts(2000);
        annotations.insert(evidence::KEY.into(), "the-key".into());
        annotations.insert(evidence::OWNED_BY.into(), "x".into());
        annotations.insert("zz".into(), "w".repeat(2000).into());
        annotations.insert(request::ADOPT.into(), "x".repeat(2000).into());
        let secret: Metadata = read(&json!({"metadata": {
            "name": "s", "namespace": "ns", "uid": "u", "annotations": annotations, "labels": texts(2000),
            "managedFields": [
                {"manager": "flood", "operation": "Update", "fieldsV1": {"f:data": many("f:a", 50_000)}},
                {"manager": "edit", "operation": "Update", "fieldsV1": {"f:data": {"f:the-key": {}}, "f:type": {}}},
                {"manager": MANAGER, "operation": "Apply", "fieldsV1": {
                    "f:metadata": {"f:annotations": {"f:zz": {}, format!("f:{}", evidence::KEY): {}}},
                }},
            ],
        }}));
        let managed = Managed::of(&secret);
        let writer = |path: &str| managed.writer(path).map(String::as_str);
        assert_eq!(writer("data.the-key"), Some("edit"));
        assert!(managed.is_ours("annotations.zz"));
        assert_eq!(secret.annotations()[evidence::OWNED_BY], "x");
        // Of what is ours it is still known what it says.
        assert_eq!(secret.annotations()["zz"], as_kept(&"w".repeat(2000)));
        // Consent that is cut off could be given to another.
        assert!(!secret.annotations().contains_key(request::ADOPT));
        let long = json!(secret).to_string().len();
        assert!(long < 30_000, "{long} bytes are kept");
    }
}
