//! JSON, read only where something of it is needed.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// Levels of an object that are read.
const DEPTH: usize = 32;
/// Most fields of one kind that are read of each manager, and most managers.
const MANAGED: usize = 256;

/// JSON of an object, as far down as it is read.
///
/// # Errors
/// When it is no JSON.
pub fn shallow(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Shallow::new(At::ObjectWithManagers).deserialize(&mut deserializer)
}

/// Where in an object a value is. Anybody who may edit an object can make its managed fields as long and as deep as they
/// like, so only what is needed of them is ever in memory.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum At {
    Object,
    ObjectWithManagers,
    Metadata,
    MetadataWithManagers,
    Managers,
    Fields,
    FieldsOfMetadata,
    Names,
    Elsewhere,
}

impl At {
    /// Where the value of a field is; `None`: it is not read.
    fn field(self, name: &str) -> Option<Self> {
        match (self, name) {
            (Self::Object, "metadata") => Some(Self::Metadata),
            (Self::ObjectWithManagers, "metadata") => Some(Self::MetadataWithManagers),
            (Self::Metadata, "managedFields") => None,
            (Self::MetadataWithManagers, "managedFields") => Some(Self::Managers),
            (Self::Managers, "manager" | "operation") => Some(Self::Elsewhere),
            (Self::Managers, "fieldsV1") => Some(Self::Fields),
            (Self::Fields, "f:data") => Some(Self::Names),
            (Self::Fields, "f:metadata") => Some(Self::FieldsOfMetadata),
            (Self::FieldsOfMetadata, "f:labels" | "f:annotations") => Some(Self::Names),
            (Self::Managers | Self::Fields | Self::FieldsOfMetadata, _) => None,
            _ => Some(Self::Elsewhere),
        }
    }

    /// Most items or fields that are read.
    fn most(self) -> usize {
        match self {
            Self::Managers | Self::Names => MANAGED,
            _ => usize::MAX,
        }
    }
}

/// Reads a value of so many levels, and passes over what is below.
pub(super) struct Shallow {
    left: usize,
    at: At,
}

impl Shallow {
    pub(super) fn new(at: At) -> Self {
        Self { left: DEPTH, at }
    }

    fn below(&self, at: At) -> Self {
        Self {
            left: self.left - 1,
            at,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Shallow {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left {
            0 => IgnoredAny::deserialize(deserializer).map(|_| Value::Null),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Shallow {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_i64<E>(self, it: i64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_u64<E>(self, it: u64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_f64<E>(self, it: f64) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_str<E>(self, it: &str) -> Result<Value, E> {
        Ok(it.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < self.at.most() {
            match seq.next_element_seed(self.below(self.at))? {
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(field) = map.next_key::<String>()? {
            match self.at.field(&field).filter(|_| self.at != At::Names) {
                Some(at) => {
                    fields.insert(field, map.next_value_seed(self.below(at))?);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                    if self.at == At::Names && fields.len() < self.at.most() {
                        fields.insert(field, json!({}));
                    }
                }
            }
        }
        Ok(fields.into())
    }
}
