//! Objects that are there and cannot be read: each is named once, and all are counted.

use crate::api::Key;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use std::collections::HashMap;
use std::sync::Arc;
use tracing::{info, warn};

/// Called with an object that cannot be read, and the reason.
type Found = dyn Fn(ObjectReference, &str) + Send + Sync;

/// Is told of objects that cannot be read.
#[derive(Clone)]
pub struct Report {
    /// How many there are of a kind.
    pub count: Arc<dyn Fn(&'static str, usize) + Send + Sync>,
    /// One of them, once for each of its versions, and why.
    pub found: Arc<Found>,
}

/// Those of one kind, with the resourceVersion that was reported.
pub(super) struct Unreadable {
    kind: &'static str,
    api_version: String,
    known: HashMap<Key, Option<String>>,
    report: Report,
}

impl Unreadable {
    /// None yet.
    pub(super) fn of<K: Resource<DynamicType = ()>>(kind: &'static str, report: Report) -> Self {
        (report.count)(kind, 0);
        Self {
            kind,
            api_version: K::api_version(&()).into_owned(),
            known: HashMap::new(),
            report,
        }
    }

    /// This version cannot be read, and `why`.
    pub(super) fn add(&mut self, key: &Key, metadata: ObjectMeta, why: &str) {
        let version = metadata.resource_version;
        if self.known.get(key) == Some(&version) {
            return;
        }
        let (kind, Key { namespace, name }) = (self.kind, key);
        warn!(
            kind,
            namespace, name, why, "cannot be read, and is left out until it can"
        );
        let reference = ObjectReference {
            api_version: Some(self.api_version.clone()),
            kind: Some(kind.into()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: metadata.uid,
            ..ObjectReference::default()
        };
        (self.report.found)(reference, why);
        self.known.insert(key.clone(), version);
        (self.report.count)(kind, self.known.len());
    }

    /// It can be read now, or it is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        if self.known.remove(key).is_some() {
            let (kind, Key { namespace, name }) = (self.kind, key);
            info!(kind, namespace, name, "no longer left out");
            (self.report.count)(kind, self.known.len());
        }
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&Key) -> bool) {
        self.known.retain(|key, _| stays(key));
        (self.report.count)(self.kind, self.known.len());
    }

    /// Whether it is one of them.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }
}
