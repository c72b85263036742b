//! The vendor's ids: what they look like, and how they are compared.

use serde::{Deserialize, Deserializer};

/// Whether a text can be an id of the vendor's.
pub fn is_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

/// An id as the vendor writes it: it makes ids of one form (CUID), which has no capital letters.
pub fn canonical(id: String) -> String {
    let is_cuid = id.len() == 25
        && id.starts_with(['c', 'C'])
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match is_cuid {
        true => id.to_ascii_lowercase(),
        false => id,
    }
}

/// Whether two ids are the same: those of a form that is not known are sent as they were written, and compared without
/// regard to case.
pub fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Reads an id of a spec, in the way the vendor writes it; it may be absent.
pub fn read_optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.map(canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_vendor_s_form_are_written_in_its_way() {
        for (id, expected) in [
            ("CLM8Q7F6Q000008LCGYOUGPSK", "clm8q7f6q000008lcgyougpsk"),
            ("clm8q7f6q000008lcgyougpsk", "clm8q7f6q000008lcgyougpsk"),
            ("DLM8Q7F6Q000008LCGYOUGPSK", "DLM8Q7F6Q000008LCGYOUGPSK"),
            ("CLM8Q7F6Q000008LCGYOUGPS", "CLM8Q7F6Q000008LCGYOUGPS"),
            ("CLM8Q7F6Q000008LCGYOUGPS-", "CLM8Q7F6Q000008LCGYOUGPS-"),
            ("Ws", "Ws"),
        ] {
            assert_eq!(canonical(id.into()), expected);
            assert!(is_same(id, expected));
        }
    }
}
