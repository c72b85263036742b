//! The search for values where none may be: for any simulated value by how all of them begin, or for known ones by all
//! their parts.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memmem;

/// How every simulated value begins: as text, as bytes in a Debug, and in base64.
const BEGINNINGS: [&[u8]; 3] = [b"eyJhbGci", b"101, 121, 74, 104", b"ZXlKaGJHY2"];

/// How many bytes of a value are enough to know it by.
const TELLING: usize = 16;

/// Whether some simulated value, or the beginning of one, is in the text.
pub fn has_value(text: &[u8]) -> bool {
    let is_in = |beginning: &&[u8]| memmem::find(text, beginning).is_some();
    BEGINNINGS.iter().any(is_in)
}

/// Finds values in texts. Has no `Debug`: it holds them.
pub struct Search(Vec<String>);

impl Search {
    /// For these values: each of their parts, as they are, in base64, and as a list of bytes.
    pub fn new(values: &[String]) -> Self {
        Self(values.iter().flat_map(|value| forms(value)).collect())
    }

    /// Whether some value, or a part of one, is in the text.
    pub fn finds(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form))
    }
}

fn forms(value: &str) -> Vec<String> {
    let start: Vec<String> = value.bytes().take(TELLING).map(|b| b.to_string()).collect();
    let mut forms: Vec<String> = value.split('.').map(str::to_owned).collect();
    forms.push(BASE64_STANDARD.encode(value));
    forms.push(start.join(", "));
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "head-of-some-value.its-claims.its-signature";

    fn finds(text: &str) -> bool {
        Search::new(&["another.one.altogether".into(), VALUE.into()]).finds(text)
    }

    #[test]
    fn a_value_is_found_in_each_of_its_forms() {
        assert!(finds(&format!("token={VALUE}")));
        assert!(finds("its-signature alone"));
        assert!(finds(&BASE64_STANDARD.encode(VALUE)));
        assert!(finds(&format!("{:?}", VALUE.as_bytes())));
    }

    #[test]
    fn any_simulated_value_is_found_by_its_beginning() {
        let astro = "eyJhbGciOiJSUzI1NiJ9.claims.signature";
        for text in [
            astro.to_owned(),
            BASE64_STANDARD.encode(astro),
            format!("{:?}", astro.as_bytes()),
        ] {
            assert!(has_value(format!("said {text}").as_bytes()), "{text}");
        }
        assert!(!has_value(b"eyJhbGc"));
    }

    #[test]
    fn what_is_no_value_is_not_found() {
        assert!(!finds("head-of-some, its-sign"));
        assert!(!Search::new(&[]).finds("anything"));
    }
}
