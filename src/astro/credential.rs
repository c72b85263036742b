//! A vendor credential: the bearer value, and what its claims say about itself.

use crate::decide::evidence::CredentialClaims;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use zeroize::Zeroizing;

/// Longest text taken for a credential; real ones have about a thousand characters.
const LONGEST: usize = 16 * 1024;

/// An Astro API token to call the vendor with. Holds a value, so it has no `Debug`.
#[derive(Clone)]
pub struct Credential {
    value: SecretString,
    fingerprint: u128,
    claims: JwtClaims,
}

/// What a token says about itself, unverified: a hint, no more.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct JwtClaims {
    #[serde(rename = "apiTokenId")]
    api_token_id: Option<String>,
    permissions: Vec<String>,
    /// Only shown, so one of an odd shape must not hide the rest.
    exp: Value,
    iat: Value,
}

impl Credential {
    /// Takes the content of a Secret key or of a file.
    ///
    /// # Errors
    /// Says what is wrong with it and what to do, without quoting it.
    pub fn read(content: &[u8]) -> Result<Self, &'static str> {
        if utf16(content).is_some() {
            return Err(
                "is UTF-16 text, as PowerShell writes it by default; store it as plain text (in PowerShell: -Encoding ascii)",
            );
        }
        Self::adopt(content)
    }

    /// The same for a value that is in the cluster already, in whatever way it was written.
    ///
    /// # Errors
    /// Says what is wrong with it and what to do, without quoting it.
    pub fn adopt(content: &[u8]) -> Result<Self, &'static str> {
        if let Some(text) = utf16(content) {
            return Self::parse(&text);
        }
        Self::parse(str::from_utf8(content).map_err(|_| "is not text")?)
    }

    /// Takes a text. What files and people put around a value does not count: the mark of UTF-8, white space, one pair
    /// of quotes, `Bearer`.
    ///
    /// # Errors
    /// Says what is wrong with it and what to do, without quoting it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let value = bare(text);
        if value.is_empty() {
            return Err("is empty");
        }
        // What base64 makes of the beginning of each token.
        if value.starts_with("ZXlK") {
            return Err(
                "is base64 of a token and not the token itself; encode it once under data, and not at all under stringData",
            );
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

    /// The value, for the Secret it is to be stored in.
    pub(crate) fn value(&self) -> &SecretString {
        &self.value
    }

    /// The Organization its permissions name.
    pub fn organization_id(&self) -> Option<&str> {
        self.permitted("organizationId:").next()
    }

    /// The Workspace its permissions name, if it is one.
    pub fn workspace_id(&self) -> Option<&str> {
        let mut all = self.permitted("workspaceId:");
        all.next().filter(|_| all.next().is_none())
    }

    /// What it says of itself.
    pub fn claims(&self) -> CredentialClaims {
        CredentialClaims {
            token_id: self.own_token_id().map(str::to_owned),
            expires: self.expires(),
        }
    }

    /// When it expires, by its claim.
    pub fn expires(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.claims.exp.as_f64()? as i64).ok()
    }

    /// When it was issued, by its claim.
    pub(crate) fn issued(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.claims.iat.as_f64()? as i64).ok()
    }

    /// It with another signature, which no issuer has made; `None` where it has no signature. The first character is
    /// changed: the last one may hold padding bits, which do not count.
    pub(crate) fn with_broken_signature(&self) -> Option<Self> {
        let value = self.value.expose_secret();
        let (signed, signature) = value
            .rsplit_once('.')
            .filter(|_| value.matches('.').count() == 2)?;
        let mut rest = signature.chars();
        let other = if rest.next()? == 'A' { 'B' } else { 'A' };
        let broken = Zeroizing::new(format!("{signed}.{other}{}", rest.as_str()));
        Self::parse(&broken).ok()
    }

    fn permitted(&self, what: &'static str) -> impl Iterator<Item = &str> {
        let permissions = self.claims.permissions.iter();
        permissions.filter_map(move |permission| permission.strip_prefix(what))
    }

    /// Tells credentials apart within this process, for rate limits and caches; never shown.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The `Authorization` header, marked as sensitive.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let text = Zeroizing::new(format!("Bearer {}", self.value.expose_secret()));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// `text` without the value, should it be in there.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(self.value.expose_secret(), "[redacted]")
    }
}

/// A value without what files and people put around it.
fn bare(text: &str) -> &str {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    let text = quoted('"').or_else(|| quoted('\'')).unwrap_or(text).trim();
    match text.split_once(char::is_whitespace) {
        Some((scheme, value)) if scheme.eq_ignore_ascii_case("Bearer") => value.trim(),
        _ => text,
    }
}

/// The text of what is UTF-16: it begins with the mark of one order of bytes, or has every other byte zero.
fn utf16(content: &[u8]) -> Option<Zeroizing<String>> {
    let (pairs, rest) = content.as_chunks::<2>();
    let all = |at: usize| !pairs.is_empty() && pairs.iter().all(|pair| pair[at] == 0);
    let order: fn([u8; 2]) -> u16 = match pairs.first()? {
        _ if !rest.is_empty() => return None,
        [0xff, 0xfe] => u16::from_le_bytes,
        [0xfe, 0xff] => u16::from_be_bytes,
        _ if all(1) => u16::from_le_bytes,
        _ if all(0) => u16::from_be_bytes,
        _ => return None,
    };
    let units = pairs.iter().map(|pair| order(*pair));
    char::decode_utf16(units)
        .collect::<Result<String, _>>()
        .ok()
        .map(Zeroizing::new)
}

fn fingerprint(value: &str) -> u128 {
    // Keyed at random for each process: says nothing about the value outside of it. Twice as long as one hash, since what two
    // share that are taken for one would cross from one tenant to another.
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
    let [high, low] = KEYS.each_ref().map(|key| u128::from(key.hash_one(value)));
    high << 64 | low
}

fn claims(value: &str) -> Option<JwtClaims> {
    let payload = value.split('.').nth(1)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::json;

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
        assert_eq!(credential.workspace_id(), Some("w"));
        assert_eq!(credential.expires(), Timestamp::from_second(1).ok());
        assert_eq!(credential.redact(&format!("x {text} y")), "x [redacted] y");
    }

    #[test]
    fn an_odd_expiry_does_not_hide_the_other_claims() {
        for (exp, expires) in [("1.5", Some(1)), ("\"soon\"", None), ("null", None)] {
            let text = jwt(&format!(r#"{{"apiTokenId":"clm1","exp":{exp}}}"#));
            let credential = Credential::parse(&text).map_err(str::to_owned);
            let credential = credential.unwrap_or_else(|problem| panic!("{problem}"));
            assert_eq!(credential.own_token_id(), Some("clm1"));
            let expected = expires.and_then(|second| Timestamp::from_second(second).ok());
            assert_eq!(credential.expires(), expected, "{exp}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_quoting_it() {
        for text in ["", " \n", "two words", "tab\there", "ünïcode"] {
            assert!(Credential::parse(text).is_err_and(|problem| !problem.contains("words")));
        }
    }

    #[test]
    fn what_files_and_people_put_around_a_value_does_not_count() {
        let value = "eyJh.eyJi.c2ln";
        for text in [
            "eyJh.eyJi.c2ln\n",
            "eyJh.eyJi.c2ln\r\n",
            "  eyJh.eyJi.c2ln\t",
            "\u{feff}eyJh.eyJi.c2ln",
            "\"eyJh.eyJi.c2ln\"\n",
            "'eyJh.eyJi.c2ln'",
            "Bearer eyJh.eyJi.c2ln",
            "bearer\teyJh.eyJi.c2ln",
            "\"BEARER  eyJh.eyJi.c2ln\"",
        ] {
            let read = Credential::read(text.as_bytes()).map_err(str::to_owned);
            let read = read.unwrap_or_else(|problem| panic!("{text:?} {problem}"));
            assert_eq!(read.value().expose_secret(), value, "{text:?}");
        }
        for text in ["\"eyJh.eyJi.c2ln", "Bearer", "Bearereyjh \"", "\"\""] {
            let read = Credential::parse(text);
            assert!(
                !read.is_ok_and(|it| it.value().expose_secret() == value),
                "{text:?}"
            );
        }
    }

    #[test]
    fn utf_16_is_named_for_a_credential_and_decoded_for_adoption() {
        let text = "eyJh.eyJi.c2ln\r\n";
        let units: Vec<u16> = text.encode_utf16().collect();
        let marked: Vec<u16> = std::iter::once(0xfeff).chain(units.clone()).collect();
        for units in [units, marked] {
            let little = units.iter().flat_map(|unit| unit.to_le_bytes());
            let big = units.iter().flat_map(|unit| unit.to_be_bytes());
            for content in [little.collect::<Vec<_>>(), big.collect()] {
                let problem = Credential::read(&content).err().unwrap();
                assert!(problem.contains("UTF-16"), "{problem}");
                let adopted = Credential::adopt(&content).map_err(str::to_owned).unwrap();
                assert_eq!(adopted.value().expose_secret(), text.trim_end());
            }
        }
        for content in [&b""[..], b"\0", b"ey", b"\xff\xfe\0\xd8", b"\xff\xff\xff"] {
            assert!(
                Credential::adopt(content).is_ok() == (content == b"ey"),
                "{content:?}"
            );
        }
    }

    #[test]
    fn base64_of_a_token_is_named() {
        let problem = Credential::parse("ZXlKaC5leUppLmMybG4=").err().unwrap();
        assert!(problem.contains("base64"), "{problem}");
    }

    /// JSON of some depth, of which no one level is what claims should be.
    fn odd_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                btree_map(".{0,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn no_text_makes_parsing_panic(text in ".*", payload in ".*") {
            let _ = Credential::parse(&text);
            let _ = Credential::parse(&jwt(&payload));
        }

        #[test]
        fn no_base64_makes_parsing_panic(text in "[A-Za-z0-9+/=_-]{0,40}(\\.[A-Za-z0-9+/=_-]{0,200}){0,4}") {
            if let Ok(credential) = Credential::parse(&text) {
                prop_assert_eq!(credential.redact(&text), "[redacted]");
            }
        }

        #[test]
        fn claims_are_found_among_others_and_with_padding(
            others in btree_map("[a-z]{1,6}", odd_json(), 0..4), padding in "={0,2}",
        ) {
            let mut claims = json!(others);
            claims["apiTokenId"] = "clm1".into();
            claims["permissions"] = json!(["apiToken:v1", "organizationId:o", "organizationId:p"]);
            let text = jwt(&claims.to_string()).replace(".c2ln", &format!("{padding}.c2ln"));
            let credential = Credential::parse(&text).map_err(TestCaseError::fail)?;
            prop_assert_eq!(credential.own_token_id(), Some("clm1"));
            prop_assert_eq!(credential.organization_id(), Some("o"));
        }

        #[test]
        fn claims_of_another_shape_are_no_claims(id in odd_json(), permissions in odd_json()) {
            let claims = json!({"apiTokenId": id, "permissions": permissions});
            let credential = Credential::parse(&jwt(&claims.to_string()));
            let credential = credential.map_err(TestCaseError::fail)?;
            let (own, organization) = (credential.own_token_id(), credential.organization_id());
            prop_assert!(own.is_none() || own == id.as_str());
            prop_assert!(organization.is_none_or(|it| permissions.to_string().contains("organizationId:") || it.is_empty()));
        }
    }

    #[test]
    fn claims_of_any_depth_and_size_are_read_or_refused() {
        for depth in [100, 1_000, 5_000] {
            let deep = "[".repeat(depth) + &"]".repeat(depth);
            let deep = jwt(&format!(r#"{{"x":{deep},"apiTokenId":"clm1"}}"#));
            let credential = Credential::parse(&deep).map_err(str::to_owned);
            let credential = credential.unwrap_or_else(|problem| panic!("{problem}"));
            assert_eq!(credential.own_token_id(), Some("clm1"));
            let open = jwt(&"[".repeat(depth));
            assert!(Credential::parse(&open).is_ok_and(|it| it.own_token_id().is_none()));
        }
        let huge = jwt(&format!(r#"{{"apiTokenId":"{}"}}"#, "x".repeat(LONGEST)));
        assert!(Credential::parse(&huge).is_err());
    }
}
