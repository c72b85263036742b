//! Whose a Secret is and what it holds, by its metadata alone. Pure.

use crate::api::{MANAGED_BY, WorkspaceTokenRotation, evidence, request};
use crate::decide::consent::{Used, given};
use crate::decide::evidence::{Held, Stored};
use crate::decide::managed::{Managed, Metadata, as_kept};
use crate::decide::stamp::{Stamp, VERSION};
use crate::reason::{Blocked, Reason};
use kube::{Resource, ResourceExt};
use std::collections::BTreeSet;

/// What `secret` is to `owner`: decided by its metadata alone.
///
/// `exists` tells whether a resource of a name is still in the namespace: what a deleted one has left
/// behind may be taken over, what a living one writes may not.
pub fn read(
    secret: &Metadata,
    owner: &WorkspaceTokenRotation,
    cluster: &str,
    exists: impl Fn(&str) -> bool,
) -> Stored {
    let name = owner.name_any();
    let resource_version = secret.resource_version();
    let used = used(secret, owner);
    let consent = given(secret, &name).filter(|text| !used.has(text));
    if let Some(text) = consent
        && !is_ours(secret, &name, cluster)
    {
        return Stored::Consented {
            lacks: None,
            used: used.with(text),
            value_is_live: None,
            resource_version,
        };
    }
    let owned = Managed::of(secret);
    let Some(held) = held(secret, owner).filter(|held| held.stamp.tells_version()) else {
        if is_our_value(secret, owner, &owned, cluster, exists) {
            return Stored::Consented {
                lacks: Some(lacks(secret, &owned)),
                used,
                value_is_live: None,
                resource_version,
            };
        }
        return Stored::Foreign(Blocked::new(
            Reason::SecretNotOurs,
            format!(
                "Secret {} exists and is not managed by the operator; choose another target.name, or annotate it with {}={}",
                secret.name_any(),
                request::ADOPT,
                used.unused(&name)
            ),
        ));
    };
    if held.stamp.owner != name && exists(&held.stamp.owner) {
        return Stored::Foreign(Blocked::new(
            Reason::TargetConflict,
            format!(
                "Secret {} is written by the resource {}; choose another target.name",
                held.secret, held.stamp.owner
            ),
        ));
    }
    if !owned.has(&format!("data.{}", held.stamp.key)) {
        return Stored::Unread(held);
    }
    Stored::Holds(held)
}

/// What is stored once the value itself was read and asked: whether it is live, and `None` where there is none.
pub fn answered(stored: Stored, is_live: Option<bool>) -> Stored {
    let is_yes = is_live == Some(true);
    match stored {
        Stored::Consented {
            lacks,
            used,
            resource_version,
            ..
        } => Stored::Consented {
            lacks,
            used,
            value_is_live: Some(is_yes),
            resource_version,
        },
        Stored::Unread(held) if is_live.is_none() => Stored::Absent {
            elsewhere: None,
            resource_version: held.resource_version,
        },
        Stored::Unread(held) if is_yes => Stored::Holds(Held { is_live, ..held }),
        Stored::Unread(held) => Stored::Foreign(Blocked::new(
            Reason::SecretNotOurs,
            format!(
                "Secret {} does not say who wrote its key {}, and the value there is not the live one; delete the Secret, \
                 or annotate it with {}={}, to have the value replaced",
                held.secret,
                held.stamp.key,
                request::ADOPT,
                held.stamp.adopted.unused(&held.stamp.owner)
            ),
        )),
        Stored::Holds(held) => Stored::Holds(Held {
            is_live: Some(is_yes),
            ..held
        }),
        Stored::Absent {
            elsewhere,
            resource_version,
        } => Stored::Absent {
            elsewhere: elsewhere.map(|held| Held {
                is_live: Some(is_yes),
                ..held
            }),
            resource_version,
        },
        foreign @ Stored::Foreign(_) => foreign,
    }
}

/// What is stored by the metadata alone, after a look has proven not long ago that the value is live though the metadata
/// does not show it. `is_watched`: a Secret without our label is not among those that are known.
pub fn recalled(stored: Stored, proven: Held, is_watched: bool) -> Stored {
    let is_proven = match &stored {
        Stored::Absent {
            elsewhere: None, ..
        } => is_watched,
        Stored::Consented {
            lacks: Some(_),
            resource_version,
            ..
        } => *resource_version == proven.resource_version,
        _ => false,
    };
    match is_proven {
        true => Stored::Holds(proven),
        false => stored,
    }
}

/// The evidence on `secret`; `None` when it carries none.
pub fn held(secret: &Metadata, owner: &WorkspaceTokenRotation) -> Option<Held> {
    let managed = Managed::of(secret);
    let mut stamp = Stamp::read(secret, &managed)?;
    stamp.adopted = used(secret, owner);
    if let Some(text) = given(secret, &owner.name_any()) {
        // One that is not needed is used up too, or it would wait for a clone.
        stamp.adopted = stamp.adopted.with(text);
    }
    Some(Held {
        secret: secret.name_any(),
        key_written_by: edited(&managed, &stamp.key),
        is_live: None,
        terminating: secret.metadata.deletion_timestamp.is_some(),
        outdated: outdated(secret, owner, &managed, &stamp.key),
        resource_version: secret.resource_version(),
        stamp,
    })
}

/// The consents to `owner` that were used for this Secret, or for an earlier one of it. What an older version has written does not
/// say: there the name alone counts as used.
fn used(secret: &Metadata, owner: &WorkspaceTokenRotation) -> Used {
    let name = owner.name_any();
    let is_stamped = secret.annotations().get(evidence::OWNED_BY) == Some(&name);
    let used = match Used::on(secret) {
        Some(used) => used,
        None if is_stamped => Used::default().with(&name),
        None => Used::default(),
    };
    used.and(owner.status.iter().flat_map(|status| &status.used_consents))
}

/// Who wrote the key after us: its writer, unless the stamp is theirs as well (a restore).
fn edited(managed: &Managed, key: &str) -> Option<String> {
    let writer = managed.writer(&format!("data.{key}"))?;
    let is_theirs = |name: &&str| managed.is_of(&format!("annotations.{name}"), writer);
    let restored = VERSION.iter().any(is_theirs);
    (!restored).then(|| writer.clone())
}

/// Whether we stamped it, for this resource and in this cluster: an older consent has been used up.
fn is_ours(secret: &Metadata, owner: &str, cluster: &str) -> bool {
    let says = |key: &str, text: &str| secret.annotations().get(key).is_some_and(|t| t == text);
    let key = secret.annotations().get(evidence::KEY);
    says(evidence::OWNED_BY, owner)
        && says(evidence::CLUSTER, cluster)
        && key.is_some_and(|key| Managed::of(secret).is_ours(&format!("data.{key}")))
}

/// Whether the value is still the one we wrote, though its evidence is gone: then the value itself is asked, as one
/// that is given to us.
fn is_our_value(
    secret: &Metadata,
    owner: &WorkspaceTokenRotation,
    owned: &Managed,
    cluster: &str,
    exists: impl Fn(&str) -> bool,
) -> bool {
    let says = |key: &str| secret.annotations().get(key);
    let name = owner.name_any();
    owned.is_ours(&format!("data.{}", owner.spec.target.key()))
        && says(evidence::CLUSTER).is_none_or(|it| it == cluster)
        && says(evidence::OWNED_BY).is_none_or(|it| *it == name || !exists(it))
}

/// The first thing that is missing of our evidence on a value of ours, and who changed it.
fn lacks(secret: &Metadata, owned: &Managed) -> String {
    let (label, value) = MANAGED_BY;
    if secret.labels().get(label).map(String::as_str) != Some(value) {
        return field(owned, "labels", label);
    }
    let needed = [
        evidence::OWNED_BY,
        evidence::CLUSTER,
        evidence::KEY,
        evidence::TOKEN_ID,
    ];
    let is_there = |key: &&str| {
        secret.annotations().contains_key(*key) && owned.is_ours(&format!("annotations.{key}"))
    };
    let missing = needed.into_iter().find(|key| !is_there(key));
    field(
        owned,
        "annotations",
        missing.unwrap_or(evidence::ROTATED_AT),
    )
}

/// A field of a Secret as people know it, and who else has written it.
fn field(owned: &Managed, kind: &str, name: &str) -> String {
    let by = match owned.writer(&format!("{kind}.{name}")) {
        Some(writer) => format!(", written by {writer}"),
        None => String::new(),
    };
    match kind {
        "data" => format!("data[{name}]{by}"),
        _ => format!("metadata.{kind}[{name}]{by}"),
    }
}

/// The first thing of what we wrote that is no longer what the spec asks for, and who changed it. What another party has
/// taken since is left alone.
fn outdated(
    secret: &Metadata,
    owner: &WorkspaceTokenRotation,
    owned: &Managed,
    key: &str,
) -> Option<String> {
    let target = &owner.spec.target;
    let mut wanted: BTreeSet<String> = [format!("data.{key}")].into();
    let mut stale = None;
    for (kind, want, have) in [
        ("labels", &target.labels, secret.labels()),
        ("annotations", &target.annotations, secret.annotations()),
    ] {
        for (name, value) in want {
            let path = format!("{kind}.{name}");
            let is_stale = match have.get(name) {
                None => true,
                Some(present) => {
                    present != value && *present != as_kept(value) && owned.is_ours(&path)
                }
            };
            if is_stale {
                stale.get_or_insert_with(|| field(owned, kind, name));
            }
            wanted.insert(path);
        }
    }
    let is_evidence = |path: &&String| {
        path.starts_with("annotations.astro-token-operator.io/") || path.ends_with(MANAGED_BY.0)
    };
    let mut ours = owned.ours().filter(|path| !is_evidence(path));
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    let name = owner.name_any();
    let is_unused = |on: Used| given(secret, &name).is_some_and(|text| !on.has(text));
    let owned_by_uid = secret.owner_references().iter().any(|r| r.uid == uid);
    let surplus = ours.find(|path| !wanted.contains(*path));
    let surplus = surplus.and_then(|path| path.split_once('.'));
    let annotation = |name| Some(field(owned, "annotations", name));
    if stale.is_some() {
        stale
    } else if let Some((kind, name)) = surplus {
        Some(field(owned, kind, name))
    } else if key != target.key() {
        Some(field(owned, "data", target.key()))
    } else if Used::on(secret).is_some_and(is_unused) {
        annotation(evidence::ADOPTED)
    } else if secret.annotations().get(evidence::OWNED_BY) != Some(&name) {
        annotation(evidence::OWNED_BY)
    } else if owned_by_uid != target.is_deleted_with_owner() {
        Some("metadata.ownerReferences".into())
    } else {
        // Where no field has an owner, a policy removes managed fields, and would do so again.
        let is_ours = owned.is_empty() || owned.is_ours(&format!("data.{key}"));
        (!is_ours).then(|| field(owned, "data", key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::managed::MANAGER;
    use crate::decide::requests::Requests;
    use crate::decide::stamp::LONGEST_TEXT;
    use crate::id::is_id;
    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::json;

    fn resource() -> WorkspaceTokenRotation {
        serde_json::from_value(json!({
            "apiVersion": "astro-token-operator.io/v1alpha1",
            "kind": "WorkspaceTokenRotation",
            "metadata": {"name": "ci", "namespace": "ns", "uid": "u"},
            "spec": {
                "workspaceId": "ws", "token": {"name": "CI"}, "schedule": {"every": "1d"},
                "target": {"name": "s", "labels": {"team": "data"}},
            },
        }))
        .unwrap()
    }

    /// A Secret of ours as we write it, with its key and evidence in the hands of these managers.
    fn secret(key_manager: &str, evidence_manager: &str) -> Value {
        let entry = |manager: &str, fields: Value| {
            let operation = if manager == MANAGER {
                "Apply"
            } else {
                "Update"
            };
            json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields})
        };
        let ours = |name: &str| format!("f:{}/{name}", crate::api::GROUP);
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {
                "name": "s", "namespace": "ns", "resourceVersion": "7",
                "labels": {MANAGED_BY.0: MANAGED_BY.1, "team": "data"},
                "annotations": {
                    evidence::OWNED_BY: "ci", evidence::KEY: "token", evidence::TOKEN_ID: "tok",
                    evidence::CLUSTER: "here", evidence::ROTATED_AT: "2026-11-01T09:00:00Z",
                },
                "managedFields": [
                    entry(key_manager, json!({"f:data": {"f:token": {}}})),
                    entry(evidence_manager, json!({"f:metadata": {
                        "f:labels": {"f:team": {}},
                        "f:annotations": {
                            ours("token-id"): {}, ours("owned-by"): {}, ours("key"): {}, ours("cluster"): {},
                            ours("rotated-at"): {},
                        },
                    }})),
                ],
            },
        })
    }

    fn read_as(edit: impl FnOnce(&mut Value), exists: bool) -> Stored {
        let mut value = secret(MANAGER, MANAGER);
        edit(&mut value);
        let secret: Metadata = serde_json::from_value(value).unwrap();
        read(&secret, &resource(), "here", |_| exists)
    }

    fn holds(stored: Stored) -> Held {
        match stored {
            Stored::Holds(held) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn evidence_is_read_back_as_it_was_written() {
        let held = holds(read_as(|_| (), true));
        assert_eq!(
            (held.stamp.token_id.as_str(), held.stamp.key.as_str()),
            ("tok", "token")
        );
        assert_eq!(held.key_written_by, None);
        assert!(held.outdated.is_none() && held.stamp.version.rotated_at.is_some());
    }

    #[test]
    fn a_key_edited_by_hand_is_told_from_a_restored_secret() {
        let by_hand = holds(read_as(|s| *s = secret("kubectl-edit", MANAGER), true));
        assert_eq!(by_hand.key_written_by.as_deref(), Some("kubectl-edit"));
        let restored = holds(read_as(|s| *s = secret("velero", "velero"), true));
        assert_eq!(restored.key_written_by, None);
        assert!(
            restored.outdated.is_some(),
            "to be taken back under our own manager"
        );
    }

    #[test]
    fn a_key_that_nobody_has_is_read_before_it_is_called_absent() {
        let edits: [fn(&mut Value); 4] = [
            |metadata| metadata["managedFields"][0]["fieldsV1"] = json!({}),
            |metadata| metadata["managedFields"] = json!([{}]),
            |metadata| metadata["managedFields"] = json!([]),
            |metadata| drop(metadata.as_object_mut().unwrap().remove("managedFields")),
        ];
        for edit in edits {
            let stored = read_as(|secret| edit(&mut secret["metadata"]), true);
            let Stored::Unread(held) = stored.clone() else {
                panic!("{stored:?}");
            };
            assert_eq!(held.stamp.token_id, "tok");
            let absent = answered(stored.clone(), None);
            assert!(matches!(
                absent,
                Stored::Absent {
                    resource_version: Some(_),
                    ..
                }
            ));
            assert_eq!(
                holds(answered(stored.clone(), Some(true))).is_live,
                Some(true)
            );
            let dead = answered(stored, Some(false));
            assert!(matches!(dead, Stored::Foreign(it) if it.reason == Reason::SecretNotOurs));
        }
        let stripped = |s: &mut Value| s["metadata"]["managedFields"] = json!([]);
        let Stored::Unread(held) = read_as(stripped, true) else {
            panic!("not unread");
        };
        assert!(
            held.outdated.is_none(),
            "a policy that strips managed fields would do so again"
        );
    }

    #[test]
    fn what_a_living_resource_writes_is_not_taken_and_what_a_dead_one_left_is() {
        let others =
            |s: &mut Value| s["metadata"]["annotations"][evidence::OWNED_BY] = "other".into();
        assert!(
            matches!(read_as(others, true), Stored::Foreign(b) if b.reason == Reason::TargetConflict)
        );
        assert!(holds(read_as(others, false)).outdated.is_some());
    }

    #[test]
    fn consent_counts_until_it_is_used() {
        let consent = |s: &mut Value| s["metadata"]["annotations"][request::ADOPT] = "ci".into();
        let foreign = |s: &mut Value| {
            *s = secret("helm", "helm");
            s["metadata"]["labels"] = json!({});
            s["metadata"]["annotations"] = json!({});
        };
        assert!(
            matches!(read_as(foreign, true), Stored::Foreign(b) if b.reason == Reason::SecretNotOurs)
        );
        let given = read_as(
            |s| {
                foreign(s);
                consent(s);
            },
            true,
        );
        assert!(matches!(given, Stored::Consented { lacks: None, .. }));
        holds(read_as(consent, true));
    }

    #[test]
    fn where_evidence_is_missing_or_somebody_else_s_our_value_speaks_for_itself() {
        let remove = |key: &'static str| {
            move |s: &mut Value| {
                s["metadata"]["annotations"]
                    .as_object_mut()
                    .unwrap()
                    .remove(key);
            }
        };
        for key in [
            evidence::OWNED_BY,
            evidence::KEY,
            evidence::TOKEN_ID,
            evidence::CLUSTER,
        ] {
            assert!(
                matches!(
                    read_as(remove(key), true),
                    Stored::Consented {
                        lacks: Some(_),
                        value_is_live: None,
                        ..
                    }
                ),
                "{key}"
            );
        }
        // Written by another party since: as if it were not there.
        let annotated = |key: &'static str, text: &'static str| {
            read_as(
                |s| {
                    s["metadata"]["annotations"][evidence::SHORT_TOKEN] = "short".into();
                    s["metadata"]["annotations"][key] = text.into();
                    let managers = s["metadata"]["managedFields"].as_array_mut().unwrap();
                    let ours = &mut managers[1]["fieldsV1"]["f:metadata"]["f:annotations"];
                    ours[format!("f:{}", evidence::SHORT_TOKEN)] = json!({});
                    ours.as_object_mut().unwrap().remove(&format!("f:{key}"));
                    managers.push(json!({
                        "manager": "kubectl-annotate", "operation": "Update", "fieldsType": "FieldsV1",
                        "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{key}"): {}}}},
                    }));
                },
                true,
            )
        };
        for (key, text) in [(evidence::TOKEN_ID, "other"), (evidence::KEY, "other")] {
            assert!(
                matches!(annotated(key, text), Stored::Consented { .. }),
                "{key}"
            );
        }
        let version = |stored| holds(stored).stamp.version;
        let old = version(annotated(evidence::ROTATED_AT, "2020-01-01T00:00:00Z"));
        assert_eq!(
            (old.rotated_at, old.short_token.as_deref()),
            (None, Some("short"))
        );
        let other = version(annotated(evidence::SHORT_TOKEN, "other"));
        assert!(other.rotated_at.is_some() && other.short_token.is_none());
        for key in [evidence::REQUEST, evidence::REVOKE] {
            let requests = holds(annotated(key, "other")).stamp.requests;
            assert_eq!(requests, Requests::default());
        }
        let unlabelled = |s: &mut Value| s["metadata"]["labels"] = json!({});
        assert!(matches!(
            read_as(unlabelled, true),
            Stored::Consented { .. }
        ));

        // Unless it may be another one's: of another cluster, of another resource, or edited itself.
        let spoilt = remove(evidence::TOKEN_ID);
        let elsewhere = |s: &mut Value| {
            spoilt(s);
            s["metadata"]["annotations"][evidence::CLUSTER] = "there".into();
        };
        let others = |s: &mut Value| {
            spoilt(s);
            s["metadata"]["annotations"][evidence::OWNED_BY] = "other".into();
        };
        let edited = |s: &mut Value| {
            *s = secret("kubectl-edit", MANAGER);
            spoilt(s);
        };
        for stored in [
            read_as(elsewhere, true),
            read_as(others, true),
            read_as(edited, true),
        ] {
            assert!(matches!(stored, Stored::Foreign(_)), "{stored:?}");
        }
        assert!(matches!(read_as(others, false), Stored::Consented { .. }));
    }

    #[test]
    fn a_restore_in_place_is_one_though_the_token_is_the_same() {
        let held = holds(read_as(
            |s| {
                *s = secret("velero", MANAGER);
                let manager = &mut s["metadata"]["managedFields"][0];
                manager["fieldsV1"]["f:metadata"]["f:annotations"] =
                    json!({format!("f:{}", evidence::ROTATED_AT): {}});
            },
            true,
        ));
        assert_eq!(held.key_written_by, None);
    }

    #[test]
    fn what_a_look_has_proven_stands_for_what_metadata_does_not_show_and_for_nothing_else() {
        let proven = || Held {
            resource_version: Some("7".into()),
            ..Held::default()
        };
        let is_recalled = |stored: &Stored, is_watched| {
            recalled(stored.clone(), proven(), is_watched) == Stored::Holds(proven())
        };
        let absent = |elsewhere| Stored::Absent {
            elsewhere,
            resource_version: None,
        };
        let lacking = |version: &str| Stored::Consented {
            lacks: Some("a label".into()),
            used: Used::default(),
            value_is_live: None,
            resource_version: Some(version.into()),
        };
        let given = Stored::Consented {
            lacks: None,
            used: Used::default(),
            value_is_live: None,
            resource_version: Some("7".into()),
        };
        for (stored, is_watched, expected) in [
            (absent(None), true, true),
            // Then its absence was read.
            (absent(None), false, false),
            (absent(Some(proven())), true, false),
            (lacking("7"), true, true),
            (lacking("8"), true, false),
            (given, true, false),
            (Stored::Unread(proven()), true, false),
        ] {
            assert_eq!(is_recalled(&stored, is_watched), expected, "{stored:?}");
        }
    }

    /// A text that any party may have written, often one that means something here.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[a-zA-Z0-9_-]{0,70}",
            Just("ci".into()),
            Just("here".into()),
            Just("token".into()),
            Just(MANAGER.into()),
            Just("2026-11-01T09:00:00Z".into()),
        ]
    }

    fn fields() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            any::<String>(),
            Just("f:data".into()),
            Just("f:token".into()),
            Just("f:metadata".into()),
            Just("f:labels".into()),
            Just("f:annotations".into()),
            Just(format!("f:{}", evidence::TOKEN_ID)),
        ];
        let leaf = prop_oneof![
            Just(json!({})),
            Just(json!(null)),
            Just(json!([1, "f:x"])),
            text().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn no_metadata_makes_reading_panic_or_gives_away_what_is_not_ours(
            annotations in prop::collection::btree_map(
                prop::sample::select(vec![
                    evidence::OWNED_BY, evidence::KEY, evidence::TOKEN_ID, evidence::ROTATED_AT, evidence::SHORT_TOKEN,
                    evidence::EXPIRES_AT, evidence::ROTATION_ID, evidence::REQUEST, evidence::CLUSTER, request::ADOPT, "x",
                ]),
                text(),
                0..12,
            ),
            labels in prop::collection::btree_map(prop_oneof![Just(MANAGED_BY.0.to_owned()), any::<String>()], text(), 0..3),
            managers in prop::collection::vec((text(), "Apply|Update|", fields()), 0..4),
            exists: bool,
        ) {
            let managed_fields: Vec<_> = managers
                .iter()
                .map(|(manager, operation, fields)| json!({"manager": manager, "operation": operation, "fieldsV1": fields}))
                .collect();
            let secret: Metadata = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {
                    "name": "s", "namespace": "ns", "labels": labels, "annotations": annotations,
                    "managedFields": managed_fields,
                },
            })).unwrap();
            let owned = Managed::of(&secret);
            let consents = annotations.get(request::ADOPT).is_some_and(|name| name == "ci");
            match read(&secret, &resource(), "here", |_| exists) {
                Stored::Consented { .. } => prop_assert!(consents || owned.is_ours("data.token")),
                Stored::Holds(held) | Stored::Unread(held) => {
                    prop_assert!(is_id(&held.stamp.token_id));
                    prop_assert!(held.stamp.owner == "ci" || !exists);
                    let Requests { rotate, revoke } = held.stamp.requests;
                    prop_assert!([rotate, revoke].iter().flatten().all(|it| it.len() <= LONGEST_TEXT));
                }
                Stored::Absent { .. } | Stored::Foreign(_) => {}
            }
        }
    }

    #[test]
    fn only_what_we_own_and_no_longer_want_is_outdated() {
        let label = |text: Value| move |s: &mut Value| s["metadata"]["labels"]["team"] = text;
        assert!(
            holds(read_as(label("ops".into()), true)).outdated.is_some(),
            "the spec changed"
        );
        let taken = |s: &mut Value| {
            s["metadata"]["labels"]["team"] = "ops".into();
            s["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"]["f:labels"] = json!({});
        };
        assert!(
            holds(read_as(taken, true)).outdated.is_none(),
            "another party's now"
        );
        let surplus = |s: &mut Value| {
            s["metadata"]["managedFields"][1]["fieldsV1"]["f:metadata"]["f:labels"]["f:old"] =
                json!({});
        };
        assert!(
            holds(read_as(surplus, true)).outdated.is_some(),
            "a label we no longer want"
        );
    }
}
