//! Names of a newer version's, which this one does not know and does not lose.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Longest one, bytes.
const LONGEST: usize = 40;

/// A name as it was read, to be written back unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unknown {
    text: [u8; LONGEST],
    length: usize,
}

impl Unknown {
    fn new(name: &str) -> Option<Self> {
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let mut text = [0; LONGEST];
        let place = text.get_mut(..name.len());
        let place = place.filter(|place| is_name && !place.is_empty())?;
        place.copy_from_slice(name.as_bytes());
        Some(Self {
            text,
            length: name.len(),
        })
    }

    fn text(&self) -> &str {
        let text = self.text.get(..self.length).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Debug for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl<'de> Deserialize<'de> for Unknown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::new(&name).ok_or_else(|| D::Error::custom("not a name"))
    }
}

impl Serialize for Unknown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_as_it_is_and_what_is_none_is_refused() {
        for name in ["Revoked", "x"] {
            let read: Unknown = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), name);
        }
        for other in ["", "a b", "é", &"x".repeat(LONGEST + 1)] {
            assert!(serde_json::from_value::<Unknown>(other.into()).is_err());
        }
    }
}
