//! Which fields of a Secret are whose, by its managed fields.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::PartialObjectMeta;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Field manager of everything the operator writes on a Secret.
pub const MANAGER: &str = "astro-token-operator";

/// The metadata of a Secret, without its data.
pub type Metadata = PartialObjectMeta<Secret>;

/// Longest text of a label or an annotation of a Secret that is kept, bytes; a longer one is told apart by its hash.
const LONGEST_KEPT: usize = 256;

/// What is kept of the text of a label or an annotation of a Secret.
pub fn as_kept(text: &str) -> Cow<'_, str> {
    match text.len() <= LONGEST_KEPT {
        true => text.into(),
        false => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
            .to_string()
            .into(),
    }
}

/// Which fields of a Secret belong to whom, by its managed fields: `data.KEY`, `labels.KEY`, `annotations.KEY`.
pub struct Managed {
    ours: BTreeSet<String>,
    others: BTreeMap<String, String>,
}

impl Managed {
    /// By the managed fields of `secret`.
    pub fn of(secret: &Metadata) -> Self {
        let (mut ours, mut others) = (BTreeSet::new(), BTreeMap::new());
        for entry in secret.managed_fields() {
            let Some(fields) = &entry.fields_v1 else {
                continue;
            };
            let manager = entry.manager.as_deref().unwrap_or("another party");
            let applied = entry.operation.as_deref() == Some("Apply");
            let found = [
                ("data", fields.0.pointer("/f:data")),
                ("labels", fields.0.pointer("/f:metadata/f:labels")),
                ("annotations", fields.0.pointer("/f:metadata/f:annotations")),
            ];
            for (kind, names) in found {
                for name in names.and_then(Value::as_object).into_iter().flatten() {
                    let Some(name) = name.0.strip_prefix("f:") else {
                        continue;
                    };
                    let path = format!("{kind}.{name}");
                    if manager == MANAGER && applied {
                        ours.insert(path);
                    } else {
                        others.insert(path, manager.to_owned());
                    }
                }
            }
        }
        Self { ours, others }
    }

    /// Whether no field has an owner.
    pub fn is_empty(&self) -> bool {
        self.ours.is_empty() && self.others.is_empty()
    }

    /// Whether the field at `path` is ours.
    pub fn is_ours(&self, path: &str) -> bool {
        self.ours.contains(path)
    }

    /// Every field of ours.
    pub fn ours(&self) -> impl Iterator<Item = &String> {
        self.ours.iter()
    }

    /// Who has the field at `path`, if it is another party's and not ours.
    pub fn writer(&self, path: &str) -> Option<&String> {
        let writer = self.others.get(path);
        writer.filter(|_| !self.is_ours(path))
    }

    /// Whether the field at `path` is that party's, be it ours too.
    pub fn is_of(&self, path: &str, manager: &str) -> bool {
        self.others.get(path).is_some_and(|it| it == manager)
    }

    /// Whether the field at `path` has an owner.
    pub fn has(&self, path: &str) -> bool {
        self.is_ours(path) || self.others.contains_key(path)
    }
}
