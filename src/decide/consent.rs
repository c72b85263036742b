//! A person's consent that a Secret is taken over: an annotation whose text counts once.

use crate::api::{evidence, request};
use crate::decide::managed::Metadata;
use kube::ResourceExt;
use uuid::Uuid;

/// Consents that are remembered, newest first.
const MOST: usize = 16;
/// Length of what is remembered of each.
const LENGTH: usize = 16;

/// The consents that were used, as short hashes of their texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used(pub Vec<String>);

impl Used {
    /// Those that a Secret names, even if another party wrote them, because they can only refuse a takeover. `None`: the
    /// Secret names none, as one that an older version wrote.
    pub fn on(secret: &Metadata) -> Option<Self> {
        let text = secret.annotations().get(evidence::ADOPTED)?;
        let is_hash =
            |it: &&str| it.len() == LENGTH && it.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hashes = text.split(',').filter(is_hash).take(MOST);
        Some(Self(hashes.map(str::to_owned).collect()))
    }

    /// For the annotation.
    pub fn text(&self) -> String {
        self.0.join(",")
    }

    /// Whether this text was used.
    pub fn has(&self, text: &str) -> bool {
        self.0.contains(&hash(text))
    }

    /// It with these.
    pub fn and<'a>(mut self, more: impl IntoIterator<Item = &'a String>) -> Self {
        let new = |it: &&String| !self.0.contains(*it);
        let mut new: Vec<_> = more.into_iter().filter(new).cloned().collect();
        new.append(&mut self.0);
        new.truncate(MOST);
        Self(new)
    }

    /// It with one more text.
    pub fn with(self, text: &str) -> Self {
        self.and([&hash(text)])
    }

    /// A text that gives consent to this resource and was not used yet.
    pub fn unused(&self, resource: &str) -> String {
        let numbered = (2..).map(|number| format!("{resource}/{number}"));
        let mut texts = std::iter::once(resource.to_owned()).chain(numbered);
        texts.find(|text| !self.has(text)).unwrap_or_default()
    }
}

/// The text of the consent that a Secret gives to this resource: its name, or its name with anything after a slash, which
/// no name has in it.
pub fn given<'a>(secret: &'a Metadata, resource: &str) -> Option<&'a str> {
    let text = secret.annotations().get(request::ADOPT)?.trim();
    let rest = text.strip_prefix(resource)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(text)
}

fn hash(text: &str) -> String {
    let whole = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
    whole.simple().to_string()[..LENGTH].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(adopt: &str) -> Metadata {
        let annotations = json!({request::ADOPT: adopt});
        let metadata = json!({"name": "s", "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn consent_names_the_resource_alone_or_with_a_text() {
        for (text, is_given) in [
            ("ci", true),
            (" ci\n", true),
            ("ci/2026-11-29", true),
            ("ci/", true),
            ("ci-deployer", false),
            ("c", false),
            ("", false),
            ("other/ci", false),
        ] {
            assert_eq!(given(&secret(text), "ci").is_some(), is_given, "{text:?}");
        }
        for (text, is_given) in [
            ("ci ", false),
            ("ci/deployer ", false),
            ("ci-deployer ", true),
        ] {
            let given = given(&secret(text), "ci-deployer").is_some();
            assert_eq!(given, is_given, "{text:?}");
        }
    }

    #[test]
    fn each_text_counts_once_and_another_one_is_offered() {
        let mut used = Used::default();
        for expected in ["ci", "ci/2", "ci/3"] {
            let text = used.unused("ci");
            assert_eq!(text, expected);
            assert!(!used.has(&text));
            used = used.with(&text).with(&text);
            assert!(used.has(&text));
        }
        assert_eq!(used.0.len(), 3);
        for number in 0..40 {
            used = used.with(&format!("ci/x{number}"));
        }
        assert_eq!(used.0.len(), MOST);
        assert!(used.has("ci/x39") && !used.has("ci"));
    }
}
