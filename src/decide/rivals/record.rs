//! The claimants: each has a number for as long as it is there, and is found by its key and by what it claims.

use super::known::Known;
use super::print::Print;
use crate::api::{Key, WorkspaceTokenRotation};
use jiff::Timestamp;
use std::collections::BTreeSet;

/// A resource with a claim, ordered by age.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    created: Option<Timestamp>,
    uid: Uid,
    /// Namespace and name with a slash between them, which a namespace cannot have.
    key: Box<str>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Uid {
    /// All that an API server gives, in the order of their texts.
    Uuid([u8; 16]),
    /// Any other text; of a file that has none, the empty one.
    Text(Box<str>),
}

/// A claimant, and what is known of it.
pub struct Record {
    /// Who it is.
    pub claimant: Claimant,
    /// What is known.
    pub known: Known,
}

/// Namespace and name of a resource.
pub fn names(resource: &WorkspaceTokenRotation) -> (&str, &str) {
    let meta = &resource.metadata;
    let name = meta.name.as_deref().or(meta.generate_name.as_deref());
    let namespace = meta.namespace.as_deref();
    (namespace.unwrap_or_default(), name.unwrap_or_default())
}

impl Claimant {
    /// This resource.
    pub fn of(resource: &WorkspaceTokenRotation) -> Self {
        let (namespace, name) = names(resource);
        Self {
            created: resource.metadata.creation_timestamp.as_ref().map(|it| it.0),
            uid: Uid::of(resource),
            key: format!("{namespace}/{name}").into(),
        }
    }

    /// Whether it is this resource, and not another one of its name.
    pub fn is(&self, resource: &WorkspaceTokenRotation) -> bool {
        self.names() == names(resource) && self.uid == Uid::of(resource)
    }

    /// Its namespace and its name.
    pub fn names(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or_default()
    }

    /// The same, to be kept.
    pub fn key(&self) -> Key {
        let (namespace, name) = self.names();
        Key {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The second of its creation, by which the order of two is the same unless they have the same one.
    pub fn second(&self) -> u32 {
        let seconds = self.created.map_or(0, Timestamp::as_second);
        u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
    }
}

impl Uid {
    fn of(resource: &WorkspaceTokenRotation) -> Self {
        let text = resource.metadata.uid.as_deref().unwrap_or_default();
        match uuid::Uuid::try_parse(text) {
            Ok(uuid) => Self::Uuid(uuid.into_bytes()),
            Err(_) => Self::Text(text.into()),
        }
    }
}

/// Claimants by number; the numbers of those that are gone are given again.
#[derive(Default)]
pub struct Records {
    all: Vec<Option<Box<Record>>>,
    free: BTreeSet<u32>,
}

impl Records {
    /// The one of this number.
    pub fn get(&self, number: u32) -> Option<&Record> {
        self.all.get(number as usize)?.as_deref()
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Record> {
        self.all.get_mut(number as usize)?.as_deref_mut()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Record)> {
        let all = (0..).zip(&self.all);
        all.filter_map(|(number, record)| Some((number, record.as_deref()?)))
    }

    /// Takes one in; returns its number.
    pub fn add(&mut self, record: Record) -> u32 {
        let record = Some(Box::new(record));
        let free = self.free.pop_first();
        if let Some((number, place)) =
            free.and_then(|it| Some((it, self.all.get_mut(it as usize)?)))
        {
            *place = record;
            return number;
        }
        self.all.push(record);
        u32::try_from(self.all.len() - 1).unwrap_or(u32::MAX)
    }

    /// Takes one out.
    pub fn remove(&mut self, number: u32) -> Option<Record> {
        let record = self.all.get_mut(number as usize)?.take()?;
        self.free.insert(number);
        while let Some(None) = self.all.last() {
            self.all.pop();
            self.free.remove(&(self.all.len() as u32));
        }
        if self.all.len() < self.all.capacity() / 4 {
            self.all.shrink_to(self.all.len() * 2);
        }
        Some(*record)
    }

    /// How many places there are, taken or not.
    #[cfg(test)]
    pub fn places(&self) -> usize {
        self.all.capacity().max(self.free.len())
    }
}

/// Numbers of claimants by prints: those of one second are in no order, and else the older is first.
///
/// Those whose prints begin alike are found together, so each has to be asked whether it is meant.
#[derive(Default)]
pub struct Index(BTreeSet<(u64, u32, u32)>);

impl Index {
    /// The number of each under this print that was created in this second or later.
    pub fn since(&self, print: Print, second: u32) -> impl Iterator<Item = u32> {
        let first = (print.number(), second, 0);
        let last = (print.number(), u32::MAX, u32::MAX);
        self.0.range(first..=last).map(|(.., number)| *number)
    }

    /// Puts one under this print.
    pub fn insert(&mut self, print: Print, second: u32, number: u32) {
        self.0.insert((print.number(), second, number));
    }

    /// Takes it away again.
    pub fn remove(&mut self, print: Print, second: u32, number: u32) {
        self.0.remove(&(print.number(), second, number));
    }

    /// Whether nobody is in it.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
