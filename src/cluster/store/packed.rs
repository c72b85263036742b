//! An object as compressed JSON.
//!
//! Most of such a text is the same for all objects of a kind. A typical one is given to the compression as a dictionary, so
//! that little more is left than what differs.

use crate::api::{WorkspaceTokenRotation, evidence};
use crate::decide::managed::Metadata;
use kube::{Resource, ResourceExt};
use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What is kept in a store.
pub trait Kept: Resource<DynamicType = ()> + Serialize + DeserializeOwned {
    /// The text of a typical one.
    const TYPICAL: &'static str;

    /// Name of the resource that it belongs to.
    fn owner(&self) -> Option<&str> {
        None
    }

    /// What changes with each edit, and with none of our own writes; the spec does so with its generation.
    fn edits(&self) -> (Option<i64>, Option<&BTreeMap<String, String>>, bool) {
        (None, None, false)
    }
}

impl Kept for WorkspaceTokenRotation {
    const TYPICAL: &'static str = include_str!("resource.json");

    fn edits(&self) -> (Option<i64>, Option<&BTreeMap<String, String>>, bool) {
        let meta = &self.metadata;
        let is_deleted = meta.deletion_timestamp.is_some();
        (meta.generation, meta.annotations.as_ref(), is_deleted)
    }
}

impl Kept for Metadata {
    const TYPICAL: &'static str = include_str!("secret.json");

    fn owner(&self) -> Option<&str> {
        self.annotations()
            .get(evidence::OWNED_BY)
            .map(String::as_str)
    }
}

/// Packs an object.
pub(super) fn pack<K: Kept>(object: &K) -> Box<[u8]> {
    // It was decoded from JSON, so it can be written as such.
    let text = serde_json::to_vec(object).unwrap_or_default();
    compress_prepend_size_with_dict(&text, K::TYPICAL.as_bytes()).into_boxed_slice()
}

/// The text of an object.
pub(super) fn unpack<K: Kept>(packed: &[u8]) -> Option<Vec<u8>> {
    decompress_size_prepended_with_dict(packed, K::TYPICAL.as_bytes()).ok()
}
