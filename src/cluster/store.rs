//! What the watches know, kept small: each object as packed text, decoded when it is asked for.

mod packed;
#[cfg(test)]
mod tests;

pub use self::packed::Kept;
use self::packed::{pack, unpack};
use crate::api::Key;
use crate::cluster::decode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::marker::PhantomData;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// How long what was written here counts for more than what a watch tells. A watch is seldom so far behind; and where the
/// API server's versions have begun anew, its word has to count again.
const AHEAD: Duration = Duration::from_secs(5);

/// The objects of one kind. Clones share them.
///
/// Versions are compared as numbers, which they are on every API server there is. Where one is none, the watch counts.
pub struct Store<K>(Arc<RwLock<Shelves>>, PhantomData<fn() -> K>);

/// Namespaces by name: each is named once, and what is in one is found without looking at the others.
#[derive(Default)]
struct Shelves {
    namespaces: HashMap<Arc<str>, Shelf>,
    hasher: RandomState,
}

/// The objects of one namespace.
#[derive(Default)]
struct Shelf {
    objects: HashMap<Arc<str>, Entry>,
    /// Hash of the owner's name, and name of the object. Of two owners with the same hash each finds the other's too.
    owned: BTreeSet<(u64, Arc<str>)>,
}

/// One object.
struct Entry {
    packed: Box<[u8]>,
    /// Zero where the resourceVersion is no number.
    version: u64,
    /// Hash of its uid.
    uid: u64,
    /// Hash of what changes with each edit.
    edits: u64,
    /// Hash of the owner's name; zero where there is none.
    owner: u64,
    /// When it was written here, unless the watch has told of that since.
    written: Option<Instant>,
}

/// Names of objects that a list has, without their texts.
#[derive(Default)]
pub struct Names {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

/// What came of what a watch told.
pub enum Put<K> {
    /// It was known before.
    Known,
    /// It was not; and the object that had its name, if that was another one.
    News(Option<K>),
}

impl<K: Kept> Store<K> {
    /// An object of this name, as it is known.
    pub fn get(&self, key: &Key) -> Option<K> {
        self.find(&key.namespace, &key.name)
    }

    /// Whether there is one of this name.
    pub fn contains(&self, key: &Key) -> bool {
        self.read().entry(&key.namespace, &key.name).is_some()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let all = self.read();
        all.namespaces
            .values()
            .map(|shelf| shelf.objects.len())
            .sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.read().namespaces.is_empty()
    }

    /// Shows all of them, one after another.
    pub fn each(&self, mut show: impl FnMut(K)) {
        // They are decoded while nobody has to wait.
        let names: Vec<(Arc<str>, Arc<str>)> = {
            let all = self.read();
            let shelves = all.namespaces.iter();
            let names = shelves.flat_map(|(namespace, shelf)| {
                let names = shelf.objects.keys();
                names.map(|name| (namespace.clone(), name.clone()))
            });
            names.collect()
        };
        for (namespace, name) in names {
            if let Some(object) = self.find(&namespace, &name) {
                show(object);
            }
        }
    }

    /// Names of those in a namespace; `None`: of all.
    pub fn keys(&self, namespace: Option<&str>) -> Vec<Key> {
        let all = self.read();
        let here = all
            .namespaces
            .iter()
            .filter(|(name, _)| namespace.is_none_or(|here| here == &***name));
        let keys = here.flat_map(|(namespace, shelf)| {
            shelf.objects.keys().map(|name| Key {
                namespace: namespace.to_string(),
                name: name.to_string(),
            })
        });
        keys.collect()
    }

    /// Those of this owner, in its namespace.
    pub fn owned_by(&self, owner: &Key) -> Vec<K> {
        let names: Vec<_> = {
            let all = self.read();
            let hash = all.hash(&owner.name);
            let Some(shelf) = all.namespaces.get(&*owner.namespace) else {
                return Vec::new();
            };
            let first = (hash, Arc::from(""));
            let owned = shelf.owned.range(first..);
            let owned = owned.take_while(|(of, _)| *of == hash);
            owned.map(|(_, name)| name.clone()).collect()
        };
        let found = names.iter();
        let found = found.filter_map(|name| self.find(&owner.namespace, name));
        let is_owner = |object: &K| object.owner() == Some(&*owner.name);
        found.filter(is_owner).collect()
    }

    /// Takes what a watch tells.
    ///
    /// What was written here a moment ago is not undone by what the watch has to tell from before.
    pub fn put(&self, object: &K) -> Put<K> {
        let packed = pack(object);
        let version = version(object.meta());
        let mut all = self.write();
        let uid = all.hash_of_uid(object.meta());
        let mut former = None;
        if let Some(known) = all.entry_mut(&Key::of(object)) {
            if known.packed == packed {
                known.written = None;
                return Put::Known;
            }
            if known.has_overtaken(uid, version) {
                return Put::Known;
            }
            if known.uid != uid {
                former = unpacked::<K>(&known.packed);
            }
        }
        all.insert(object, packed, version, None);
        Put::News(former)
    }

    /// Whether what a watch tells of an object with this metadata is no news: it is our own write, or from before it. So the
    /// object need not be read, which is most of what the watch has to tell while many rotate.
    pub fn is_echo(&self, metadata: &ObjectMeta) -> bool {
        let mut all = self.write();
        let (uid, version) = (all.hash_of_uid(metadata), version(metadata));
        let known = all.entry_mut(&decode::key(metadata));
        known.is_some_and(|known| known.has_overtaken(uid, version))
    }

    /// Takes the answer to a write of our own; returns whether it has an edit in it that was not known. `None`: it is not taken,
    /// since nothing is known of this very object, or something newer.
    pub fn update(&self, object: &K) -> Option<bool> {
        let packed = pack(object);
        let version = version(object.meta());
        let mut all = self.write();
        let uid = all.hash_of_uid(object.meta());
        let key = Key::of(object);
        let known = all.entry(&key.namespace, &key.name)?;
        let is_newer = known.version != 0 && version > known.version;
        if !is_newer || known.uid != uid {
            return None;
        }
        let is_edited = known.edits != all.hasher.hash_one(object.edits());
        all.insert(object, packed, version, Some(Instant::now()));
        Some(is_edited)
    }

    /// Takes one out; returns it.
    pub fn remove(&self, key: &Key) -> Option<K> {
        let entry = self.write().remove(key)?;
        unpacked(&entry.packed)
    }

    fn find(&self, namespace: &str, name: &str) -> Option<K> {
        let text = {
            let all = self.read();
            unpack::<K>(&all.entry(namespace, name)?.packed)?
        };
        serde_json::from_slice(&text).ok()
    }

    fn read(&self) -> RwLockReadGuard<'_, Shelves> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shelves> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self(Arc::default(), PhantomData)
    }
}

impl Shelves {
    fn entry(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.namespaces.get(namespace)?.objects.get(name)
    }

    fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        let shelf = self.namespaces.get_mut(&*key.namespace)?;
        shelf.objects.get_mut(&*key.name)
    }

    fn insert<K: Kept>(
        &mut self,
        object: &K,
        packed: Box<[u8]>,
        version: u64,
        written: Option<Instant>,
    ) {
        let key = Key::of(object);
        let owner = object.owner().map_or(0, |owner| self.hash(owner));
        let uid = self.hash_of_uid(object.meta());
        let edits = self.hasher.hash_one(object.edits());
        // It is in none of the places where the one before it was.
        self.remove(&key);
        let name: Arc<str> = key.name.into();
        let namespace = key.namespace.into();
        let shelf = self.namespaces.entry(namespace).or_default();
        if owner != 0 {
            shelf.owned.insert((owner, name.clone()));
        }
        let entry = Entry {
            packed,
            version,
            uid,
            edits,
            owner,
            written,
        };
        shelf.objects.insert(name, entry);
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let shelf = self.namespaces.get_mut(&*key.namespace)?;
        let (name, entry) = shelf.objects.remove_entry(&*key.name)?;
        if entry.owner != 0 {
            shelf.owned.remove(&(entry.owner, name));
        }
        shrink(&mut shelf.objects);
        if shelf.objects.is_empty() {
            self.namespaces.remove(&*key.namespace);
            shrink(&mut self.namespaces);
        }
        Some(entry)
    }

    fn hash_of_uid(&self, metadata: &ObjectMeta) -> u64 {
        self.hasher.hash_one(&metadata.uid)
    }

    /// Of a name, and never zero.
    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name).max(1)
    }
}

impl Entry {
    /// Whether our own write has overtaken this version of the object, or is it. Once that was told, whatever comes is news.
    fn has_overtaken(&mut self, uid: u64, version: u64) -> bool {
        let is_recent = self.written.is_some_and(|at| at.elapsed() < AHEAD);
        let is_old = version != 0 && version <= self.version;
        if !is_recent || !is_old || self.uid != uid {
            return false;
        }
        if version == self.version {
            self.written = None;
        }
        true
    }
}

/// Gives memory back of which most is not needed any more.
fn shrink<V>(map: &mut HashMap<Arc<str>, V>) {
    if map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

impl Names {
    /// Takes one in.
    pub fn insert(&mut self, key: &Key) {
        self.hashes.insert(self.hasher.hash_one(key));
    }

    /// Whether it is one of them.
    pub fn contains(&self, key: &Key) -> bool {
        self.hashes.contains(&self.hasher.hash_one(key))
    }
}

impl Key {
    fn of(object: &impl Kept) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

/// Zero where it is no number.
fn version(metadata: &ObjectMeta) -> u64 {
    let version = metadata.resource_version.as_ref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

fn unpacked<K: Kept>(packed: &[u8]) -> Option<K> {
    serde_json::from_slice(&unpack::<K>(packed)?).ok()
}
