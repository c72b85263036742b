//! Requests for a rotation, which people make by annotation, and which of them were answered. Pure.

use crate::api::{Status, request};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The two ways to ask.
const KEYS: [&str; 2] = [request::ROTATE, request::REVOKE];
/// Longest text that is kept as it is, in bytes.
const LONGEST: usize = 63;

/// Requests that were answered: the last text of each annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Of `rotate`. Where there is none of `revoke`, an older version may have written it, which kept one text for both:
    /// that of the one annotation that there was, or both with a space between them.
    pub rotate: Option<String>,
    /// Of `revoke`; empty where only a `rotate` was answered.
    pub revoke: Option<String>,
}

impl From<&Status> for Requests {
    fn from(status: &Status) -> Self {
        Self {
            rotate: status.handled_request.clone(),
            revoke: status.handled_revoke.clone(),
        }
    }
}

impl Requests {
    /// What a rotation answers that begins while these annotations stand, after those that were answered `before`.
    pub fn answered_now(annotations: &BTreeMap<String, String>, before: Self) -> Self {
        let [rotate, revoke] = KEYS.map(|key| annotations.get(key).map(|text| short(text)));
        let none = rotate.is_some().then(String::new);
        Self {
            rotate,
            revoke: revoke.or(before.revoke).or(none),
        }
    }

    /// Whether this text of the annotation `key` is among them.
    pub fn include(&self, key: &str, text: &str) -> bool {
        let is_revoke = key == request::REVOKE;
        match (&self.rotate, &self.revoke) {
            (Some(old), None) => {
                let is_half = match is_revoke {
                    true => old.strip_suffix(text).is_some_and(|it| it.ends_with(' ')),
                    false => old.strip_prefix(text).is_some_and(|it| it.starts_with(' ')),
                };
                old == text || *old == short(text) || is_half
            }
            (rotate, revoke) => {
                let own = if is_revoke { revoke } else { rotate };
                own.as_ref() == Some(&short(text))
            }
        }
    }

    /// Whether an older version has written a hash: of what does not show.
    fn is_hash_of_anything(&self) -> bool {
        let hash = self.rotate.as_ref().filter(|_| self.revoke.is_none());
        hash.and_then(|it| Uuid::parse_str(it).ok())
            .is_some_and(|it| it.get_version_num() == 5)
    }
}

/// The text of the annotation `revoke`, where it asks for what is in none of `answered`.
pub fn open_revoke(
    annotations: &BTreeMap<String, String>,
    answered: &[Requests],
) -> Option<String> {
    let text = annotations.get(request::REVOKE)?;
    let alone = [(request::REVOKE.to_owned(), text.clone())].into();
    is_open(&alone, answered).then(|| short(text))
}

/// Whether one of the annotations asks for what is in none of `answered`. One that was taken away asks for nothing.
pub fn is_open(annotations: &BTreeMap<String, String>, answered: &[Requests]) -> bool {
    let texts = KEYS.map(|key| (key, annotations.get(key)));
    let texts = || {
        texts
            .into_iter()
            .filter_map(|(key, text)| Some((key, text?)))
    };
    let is_answered = |key: &str, text: &str| {
        answered.iter().any(|it| {
            let is_of_none = || !texts().any(|(key, text)| it.include(key, text));
            it.include(key, text) || it.is_hash_of_anything() && is_of_none()
        })
    };
    texts().any(|(key, text)| !is_answered(key, text))
}

/// A text cut to a length that fits everywhere. People write dates and ticket numbers; whatever is longer, or empty, is
/// told apart by its hash.
pub fn short(text: &str) -> String {
    match text.len() {
        1..=LONGEST => text.into(),
        _ => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn annotations(rotate: Option<&str>, revoke: Option<&str>) -> BTreeMap<String, String> {
        let texts = KEYS.into_iter().zip([rotate, revoke]);
        let texts = texts.filter_map(|(key, text)| Some((key.to_owned(), text?.to_owned())));
        texts.collect()
    }

    /// What an older version made of both.
    fn joined(annotations: &BTreeMap<String, String>) -> Option<String> {
        let texts: Vec<_> = KEYS
            .iter()
            .filter_map(|key| annotations.get(*key))
            .collect();
        let text = texts
            .iter()
            .map(|it| it.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        let is_short = text.len() <= LONGEST;
        let hash = || Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string();
        (!texts.is_empty()).then(|| if is_short { text.clone() } else { hash() })
    }

    #[test]
    fn each_annotation_asks_once_for_each_text() {
        let long = "x".repeat(64);
        let hash = short(&long);
        let (one, long) = (Some("one"), Some(long.as_str()));
        #[rustfmt::skip]
        let table = [
            // rotate, revoke, handled rotate, handled revoke, open
            (None, None, None, None, false),
            (one, None, None, None, true),
            (None, one, None, None, true),
            (one, None, one, Some(""), false),
            (one, one, one, Some(""), true),
            (None, one, one, Some(""), true),
            (None, one, None, one, false),
            (one, one, None, one, true),
            (one, Some("two"), one, Some("two"), false),
            // Taken away, and there again.
            (one, None, one, Some("two"), false),
            (None, Some("two"), one, Some("two"), false),
            (None, None, one, Some("two"), false),
            // An empty text is one as well.
            (None, Some(""), one, Some(""), true),
            (Some(""), None, None, None, true),
            (long, None, one, Some(""), true),
            (long, None, Some(hash.as_str()), Some(""), false),
            // By an older version.
            (one, None, one, None, false),
            (None, one, one, None, false),
            (one, Some("two"), one, None, true),
            (one, Some("two"), Some("one two"), None, false),
            (one, None, Some("one two"), None, false),
            (None, Some("two"), Some("one two"), None, false),
            (Some("on"), None, Some("one two"), None, true),
            (None, Some("wo"), Some("one two"), None, true),
            (Some("three"), Some("two"), Some("one two"), None, true),
            (long, None, Some(hash.as_str()), None, false),
            (long, one, Some(hash.as_str()), None, true),
            (one, None, Some(hash.as_str()), None, false),
            (one, None, Some("c56a4180-65aa-42ec-a945-5fd21dec0538"), None, true),
        ];
        for (rotate, revoke, handled, handled_revoke, expected) in table {
            let answered = Requests {
                rotate: handled.map(str::to_owned),
                revoke: handled_revoke.map(str::to_owned),
            };
            let open = is_open(
                &annotations(rotate, revoke),
                &[Requests::default(), answered],
            );
            assert_eq!(
                open, expected,
                "{rotate:?} {revoke:?} {handled:?} {handled_revoke:?}"
            );
        }
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop_oneof!["[ab ]{0,4}", "[ab]{62,66}", any::<String>()])
    }

    proptest! {
        #[test]
        fn what_was_answered_is_not_asked_again_when_one_is_taken_away(
            rotate in text(), revoke in text(), before in text(), older: bool,
        ) {
            let both = annotations(rotate.as_deref(), revoke.as_deref());
            let before = Requests { rotate: None, revoke: before.map(|it| short(&it)) };
            let answered = match older {
                true => Requests { rotate: joined(&both), revoke: None },
                false => Requests::answered_now(&both, before),
            };
            for left in [
                &both,
                &annotations(rotate.as_deref(), None),
                &annotations(None, revoke.as_deref()),
            ] {
                prop_assert!(!is_open(left, std::slice::from_ref(&answered)), "{left:?} {answered:?}");
            }
            for text in [&answered.rotate, &answered.revoke].into_iter().flatten() {
                prop_assert!(text.len() <= LONGEST);
            }
        }

        #[test]
        fn a_new_text_is_asked_for_whatever_was_answered(
            rotate in text(), revoke in text(), key in prop::sample::select(KEYS.to_vec()), other in text(),
        ) {
            let both = annotations(rotate.as_deref(), revoke.as_deref());
            let answered = Requests::answered_now(&both, Requests::default());
            let mut next = annotations(other.as_deref(), None);
            next.insert(key.into(), "a new one".into());
            prop_assert!(is_open(&next, &[answered]));
        }
    }
}
