//! A vendor credential: the bearer value, and what its claims say about itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Longest text taken for a credential; real ones have about a thousand characters.
const LONGEST: usize = 16 * 1024;

/// An Astro API token to call the vendor with. Holds a value, so it has no `Debug`.
#[derive(Clone)]
pub struct Credential {
    value: SecretString,
    fingerprint: u64,
    claims: Claims,
}

/// What a token says about itself, unverified (`astro/api.md` §2): a hint, no more.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Claims {
    #[serde(rename = "apiTokenId")]
    api_token_id: Option<String>,
    permissions: Vec<String>,
}

impl Credential {
    /// Takes the text of a Secret key, a file or a variable; surrounding white space does not count.
    ///
    /// # Errors
    /// Says what is wrong with it, without quoting it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let value = text.trim();
        let value = value.strip_prefix("Bearer ").unwrap_or(value).trim();
        if value.is_empty() {
            return Err("is empty");
        }
        if value.len() > LONGEST || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(
                "is not an API token: it is too long or has white space or control characters in it",
            );
        }
        Ok(Self {
            fingerprint: fingerprint(value),
            claims: claims(value).unwrap_or_default(),
            value: value.into(),
        })
    }

    /// The credential's own token id, by its claim.
    pub fn own_token_id(&self) -> Option<&str> {
        self.claims.api_token_id.as_deref()
    }

    /// The Organization its permissions name.
    pub fn organization_id(&self) -> Option<&str> {
        self.claims
            .permissions
            .iter()
            .find_map(|permission| permission.strip_prefix("organizationId:"))
    }

    /// Tells credentials apart within this process, for rate limits and caches; never shown.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = zeroize::Zeroizing::new(format!("Bearer {}", self.value.expose_secret()));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// `text` without the value, should it be in there.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(self.value.expose_secret(), "[redacted]")
    }
}

fn fingerprint(value: &str) -> u64 {
    // Keyed at random for each process: says nothing about the value outside of it.
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(value)
}

fn claims(value: &str) -> Option<Claims> {
    let payload = value.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> String {
        format!(
            "eyJhbGciOiJSUzI1NiJ9.{}.c2ln",
            URL_SAFE_NO_PAD.encode(payload)
        )
    }

    #[test]
    fn claims_are_read_and_white_space_does_not_count() {
        let text = jwt(
            r#"{"apiTokenId":"clm1","permissions":["workspaceId:w","organizationId:o"],"exp":1}"#,
        );
        let credential = Credential::parse(&format!(" Bearer {text}\n")).map_err(str::to_owned);
        let credential = credential.unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(credential.own_token_id(), Some("clm1"));
        assert_eq!(credential.organization_id(), Some("o"));
        assert_eq!(credential.redact(&format!("x {text} y")), "x [redacted] y");
    }

    #[test]
    fn what_is_no_token_is_refused_without_quoting_it() {
        for text in ["", " \n", "two words", "tab\there", "ünïcode"] {
            assert!(Credential::parse(text).is_err_and(|problem| !problem.contains("words")));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_parsing_panic(text in ".*", payload in ".*") {
            let _ = Credential::parse(&text);
            let _ = Credential::parse(&jwt(&payload));
        }
    }
}
