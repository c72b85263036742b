//! Decodes what the API server answers object by object: one that cannot be read is named, and concerns no other.

mod bounds;
mod shallow;

pub use self::shallow::shallow;
use self::shallow::{At, Shallow};
use crate::api::{Key, Pending, Role, Scope, Status, WorkspaceTokenRotation};
use crate::cluster::error::LONGEST_MESSAGE;
use crate::text::scrub;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::PartialObjectMeta;
use serde::de::{DeserializeOwned, DeserializeSeed, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;
use std::borrow::Cow;

/// What is decoded as an [`Item`].
pub trait Decode: Resource<DynamicType = ()> + DeserializeOwned {
    /// Whether its managed fields are read; they can be longer than all the rest.
    const HAS_MANAGERS: bool = false;

    /// Takes out of an object what the operator does not need, so that it need not be readable.
    fn reduce(_object: &mut Value) {}

    /// Removes from an object that cannot be read the parts that prevent it, where the rest can be read without them.
    fn repair(_object: &mut Value) {}

    /// What claims something for it, of an object that cannot be read as a whole.
    fn part(_object: &Value) -> Option<Self> {
        None
    }
}

/// An object of which at least the key is known. Decoding one never fails.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// Name, namespace, uid and resourceVersion, and nothing else.
    pub metadata: ObjectMeta,
    /// The object, or why it cannot be read.
    pub object: Result<T, String>,
    /// Of one that cannot be read, what can and claims something for it.
    pub part: Option<T>,
}

/// Namespace and name of an object.
pub fn key(metadata: &ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Key {
        namespace: text(&metadata.namespace),
        name: text(&metadata.name),
    }
}

impl<T> Item<T> {
    /// Its namespace and name.
    pub fn key(&self) -> Key {
        key(&self.metadata)
    }

    /// The object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(self) -> kube::Result<T> {
        let error = |why| kube::Error::SerdeError(serde_json::Error::custom(why));
        self.object.map_err(error)
    }
}

impl<T> From<T> for Item<T> {
    fn from(object: T) -> Self {
        Self {
            metadata: ObjectMeta::default(),
            object: Ok(object),
            part: None,
        }
    }
}

impl<'de, T: Decode> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = match T::HAS_MANAGERS {
            true => At::ObjectWithManagers,
            false => At::Object,
        };
        let mut object = Shallow::new(at).deserialize(deserializer)?;
        let text = |field: &str| object["metadata"][field].as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        T::reduce(&mut object);
        if let Ok(object) = T::deserialize(&object) {
            return Ok(Self {
                metadata,
                object: Ok(object),
                part: None,
            });
        }
        T::repair(&mut object);
        let read = serde_path_to_error::deserialize(&object);
        let why = |error: serde_path_to_error::Error<_>| scrub(&error.to_string(), LONGEST_MESSAGE);
        Ok(Self {
            metadata,
            part: read.is_err().then(|| T::part(&object)).flatten(),
            object: read.map_err(why),
        })
    }
}

impl<T: Serialize> Serialize for Item<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = self.object.as_ref();
        object
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl<T: Resource<DynamicType = ()>> Resource for Item<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn metadata_api() -> bool {
        T::metadata_api()
    }

    fn kind((): &()) -> Cow<'_, str> {
        T::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Decode for WorkspaceTokenRotation {
    fn reduce(object: &mut Value) {
        bounds::resource(object);
    }

    fn repair(object: &mut Value) {
        if let Some(Value::Object(status)) = object.get_mut("status") {
            let pending = status.remove("pending").filter(|it| !it.is_null());
            keep_readable::<Status>(status);
            // That a rotation was begun must not be forgotten.
            let pending = pending.map(|it| match Pending::deserialize(&it) {
                Ok(_) => it,
                Err(_) => json!(Pending::unreadable()),
            });
            status.extend(pending.map(|it| ("pending".into(), it)));
        }
    }

    /// Its token and its Secret, and of which tokens it has stored a value.
    fn part(object: &Value) -> Option<Self> {
        let any = |path: &str| object.pointer(path).cloned();
        let text = |path: &str| any(path).filter(Value::is_string);
        let required = |path: &str| text(path).unwrap_or_else(|| "".into());
        let held = text("/status/token/id");
        let held = held.map(|id| json!({"id": id, "name": required("/status/token/name")}));
        let history = any("/status/history").filter(Value::is_array);
        let token = |field: &str| {
            let text = |name: &str| text(&format!("/spec/{field}/{name}"));
            let scope = any(&format!("/spec/{field}/scope"));
            json!({
                "id": text("id"), "name": text("name"), "deploymentId": text("deploymentId"),
                "scope": scope.filter(|it| Scope::deserialize(it).is_ok()),
            })
        };
        let alternate = any("/spec/alternateToken").filter(Value::is_object);
        let part = json!({
            "apiVersion": any("/apiVersion"), "kind": any("/kind"),
            "metadata": {
                "name": text("/metadata/name"), "namespace": text("/metadata/namespace"), "uid": text("/metadata/uid"),
                "creationTimestamp": text("/metadata/creationTimestamp"),
            },
            "spec": {
                "workspaceId": text("/spec/workspaceId"), "organizationId": text("/spec/organizationId"), "schedule": {},
                "token": token(Role::Token.field()),
                "alternateToken": alternate.map(|_| token(Role::Alternate.field())),
                "target": {"name": required("/spec/target/name")},
            },
            "status": {"token": held, "history": history.unwrap_or_else(|| json!([]))},
        });
        serde_json::from_value(part).ok()
    }
}

impl Decode for Lease {
    fn repair(object: &mut Value) {
        if let Some(Value::Object(spec)) = object.get_mut("spec") {
            keep_readable::<LeaseSpec>(spec);
        }
    }
}

impl Decode for Secret {}

impl<K: Resource<DynamicType = ()>> Decode for PartialObjectMeta<K> {
    const HAS_MANAGERS: bool = true;

    fn reduce(object: &mut Value) {
        bounds::metadata(object);
    }
}

/// Takes out of the fields of a `T`, all of which are optional, what cannot be read, and no more than has to go with it.
fn keep_readable<T: DeserializeOwned>(fields: &mut Map<String, Value>) {
    if T::deserialize(&*fields).is_ok() {
        return;
    }
    for (field, value) in std::mem::take(fields) {
        // One by one, so that long lists take no long time.
        let parts = match value {
            Value::Array(items) => items.into_iter().map(|item| json!([item])).collect(),
            value => vec![value],
        };
        let parts = parts.into_iter().filter_map(|part| {
            let mut alone = json!({field.as_str(): part});
            drop_unreadable::<T>(&mut alone);
            alone.get_mut(&field).map(Value::take)
        });
        for part in parts {
            match (fields.get_mut(&field), part) {
                (Some(Value::Array(items)), Value::Array(item)) => items.extend(item),
                (_, part) => drop(fields.insert(field.clone(), part)),
            }
        }
    }
}

/// Takes out what cannot be read, and where it cannot be missing, what it is a part of.
fn drop_unreadable<T: DeserializeOwned>(value: &mut Value) {
    while let Err(error) = serde_path_to_error::deserialize::<_, T>(&*value) {
        let path = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(Step::Field(key.clone())),
            Segment::Seq { index } => Some(Step::Item(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        if !remove(value, &path.collect::<Vec<_>>()) {
            *value = json!({});
            return;
        }
    }
}

/// A step from a value to one of its parts.
enum Step {
    Field(String),
    Item(usize),
}

/// Removes the part at the end of the path; whether there was one.
fn remove(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, path)) = path.split_last() else {
        return false;
    };
    let parent = path.iter().try_fold(value, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Item(index) => value.get_mut(index),
    });
    match (parent, last) {
        (Some(Value::Object(fields)), Step::Field(name)) => fields.remove(name).is_some(),
        (Some(Value::Array(items)), Step::Item(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::managed::{Managed, Metadata};
    use kube::ResourceExt;
    use kube::api::ObjectList;
    use proptest::prelude::*;

    fn resource(edit: impl FnOnce(&mut Value)) -> Value {
        let mut resource = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"name": "x", "namespace": "ns", "uid": "u", "resourceVersion": "7"},
            "spec": {"workspaceId": "ws", "token": {"name": "t"}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
        });
        edit(&mut resource);
        resource
    }

    fn read<T: Decode>(object: Value) -> Result<T, String> {
        serde_json::from_value::<Item<T>>(object).unwrap().object
    }

    /// A time that the API server takes, and that is later than any that can be represented here.
    const LATE: &str = "9999-12-31T23:59:59Z";

    #[test]
    fn an_item_that_cannot_be_read_leaves_the_others_of_its_list() {
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": [
            resource(|_| {}),
            resource(|r| r["spec"] = json!({"workspaceId": 5})),
            resource(|r| r["metadata"]["name"] = "z".into()),
        ]});
        let list: ObjectList<Item<WorkspaceTokenRotation>> = serde_json::from_value(list).unwrap();
        let readable = list.items.iter().map(|item| item.object.is_ok());
        assert_eq!(readable.collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(list.items[1].key().name, "x");
        let why = list.items[1].object.as_ref().unwrap_err();
        assert!(why.starts_with("spec.workspaceId: "), "{why}");
    }

    #[test]
    fn of_a_status_is_read_what_can_be_and_no_more_is_left_out() {
        let entry = |id: &str, edit: Value| {
            let mut entry = json!({
                "id": id, "reason": "Initial", "at": "2026-01-01T00:00:00Z", "tokenId": "t", "outcome": "Stored",
            });
            entry
                .as_object_mut()
                .unwrap()
                .extend(edit.as_object().unwrap().clone());
            entry
        };
        let history = [
            entry("whole", json!({})),
            entry(
                "of a newer version",
                json!({"reason": "Previous", "outcome": "Discarded"}),
            ),
            entry("no time", json!({"at": LATE})),
            entry("no name", json!({"outcome": "{{ x }}"})),
            json!(5),
        ];
        let status = json!({
            "retryAt": LATE, "failures": "many", "handledRequest": "r", "binding": "b", "nextRotation": LATE,
            "token": {"id": "t", "name": "n", "rotatedAt": LATE, "expiresAt": 7, "shortToken": "s"},
            "lastRotation": {"id": "x", "reason": "Unheard", "at": LATE},
            "schedule": {"since": "2026-01-01T00:00:00Z", "cron": 5},
            "history": history,
        });
        let read = read::<WorkspaceTokenRotation>(resource(|r| r["status"] = status));
        let written = json!(read.unwrap().status.unwrap());
        let wanted = json!({
            "handledRequest": "r", "token": {"id": "t", "name": "n", "shortToken": "s"},
            "schedule": {"since": "2026-01-01T00:00:00Z"}, "history": history[..2],
        });
        assert_eq!(written, wanted);
    }

    #[test]
    fn of_an_intent_that_cannot_be_read_is_known_that_there_is_one() {
        let read = |pending: Value| {
            let resource = resource(|r| r["status"] = json!({"pending": pending}));
            let resource = read::<WorkspaceTokenRotation>(resource).unwrap();
            resource.status.unwrap().pending
        };
        for pending in [
            json!({"id": "x", "startedAt": LATE}),
            json!({}),
            json!("x"),
            json!([1]),
        ] {
            assert_eq!(read(pending), Some(Pending::unreadable()));
        }
        assert_eq!(read(Value::Null), None);
    }

    #[test]
    fn a_status_full_of_nonsense_takes_no_long_time() {
        let nonsense = json!({"id": 1, "reason": 2, "at": 3, "tokenId": 4, "outcome": 5});
        let status = json!({"history": vec![nonsense; 20_000], "token": vec![1; 20_000]});
        let read = read::<WorkspaceTokenRotation>(resource(|r| r["status"] = status));
        assert_eq!(read.unwrap().status, Some(Status::default()));
    }

    #[test]
    fn of_a_resource_that_cannot_be_read_its_claims_are() {
        let stored = json!({"token": {"id": "tok", "name": "CI"}, "history": [
            {"id": "a", "reason": "Initial", "at": "2026-01-01T00:00:00Z", "tokenId": "t", "outcome": "Stored"},
            {"id": "b", "reason": "Initial", "at": LATE, "tokenId": "u", "outcome": "Stored"},
        ]});
        let part = |edit: fn(&mut Value)| {
            let object = resource(|r| {
                r["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
                r["status"] = stored.clone();
                r["spec"]["suspend"] = "perhaps".into();
                edit(r);
            });
            let item: Item<WorkspaceTokenRotation> = serde_json::from_value(object).unwrap();
            assert!(item.object.is_err());
            item.part.unwrap()
        };
        let whole = part(|_| ());
        assert_eq!(whole.spec.token.name.as_deref(), Some("t"));
        assert_eq!(
            (whole.spec.workspace_id, whole.spec.target.name),
            (Some("ws".into()), "s".into())
        );
        let created = whole.metadata.creation_timestamp.unwrap();
        assert_eq!(created.0.to_string(), "2026-01-01T00:00:00Z");
        let status = whole.status.unwrap();
        assert_eq!(status.token.unwrap().id, "tok");
        assert_eq!(status.history.len(), 1);
        let rest = part(|r| {
            r["spec"]["target"] = json!(["s"]);
            r["spec"]["workspaceId"] = json!(5);
            r["spec"]["token"] = json!({"id": "ID", "name": {}});
            r["status"]["token"] = json!(7);
            r["status"]["history"] = json!({});
        });
        assert_eq!(rest.spec.token.id.as_deref(), Some("ID"));
        let odd = part(|r| {
            r["spec"] = json!("x");
            r["status"] = json!([]);
        });
        assert_eq!((odd.spec.token.id, odd.spec.token.name), (None, None));
        let readable: Item<WorkspaceTokenRotation> =
            serde_json::from_value(resource(|_| ())).unwrap();
        assert!(readable.part.is_none());
    }

    #[test]
    fn whose_a_field_is_can_be_read_whenever_it_was_written() {
        let secret: Metadata = read(json!({"metadata": {"name": "s", "managedFields": [{
            "manager": "x", "operation": "Update", "apiVersion": "v1", "time": LATE,
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:token": {}}},
        }]}}))
        .unwrap();
        let managed = Managed::of(&secret);
        assert_eq!(managed.writer("data.token").map(String::as_str), Some("x"));
    }

    #[test]
    fn a_lease_is_read_whatever_its_times_are() {
        let spec = json!({"holderIdentity": "a", "renewTime": LATE, "leaseTransitions": 3});
        let metadata = json!({"name": "l", "managedFields": [{"time": LATE}]});
        let lease: Lease = read(json!({"metadata": metadata, "spec": spec})).unwrap();
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!((spec.lease_transitions, spec.renew_time), (Some(3), None));
    }

    #[test]
    fn no_depth_is_too_deep() {
        let deep = format!("{}{}", "{\"f:a\":".repeat(5_000) + "{}", "}".repeat(5_000));
        let text = resource(|r| r["metadata"]["managedFields"] = json!(["DEEP"]));
        let text = text.to_string().replace("\"DEEP\"", &deep);
        let item: Item<WorkspaceTokenRotation> = serde_json::from_str(&text).unwrap();
        assert!(item.object.is_ok());
        let item: Item<Metadata> = serde_json::from_str(&text).unwrap();
        assert_eq!(item.key().name, "x");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            Just(LATE.into()),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            let field = prop_oneof![
                "[a-z]{1,4}",
                Just("f:data".to_owned()),
                Just("fieldsV1".to_owned()),
                Just("f:metadata".to_owned()),
                Just("pending".to_owned()),
                Just("history".to_owned()),
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((field, inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_key_is_known_whatever_the_rest_is(status in any_json(), managed in any_json()) {
            let any = resource(|r| {
                r["status"] = status;
                r["metadata"]["managedFields"] = managed;
            });
            let item: Item<WorkspaceTokenRotation> = serde_json::from_value(any.clone()).unwrap();
            prop_assert_eq!(item.key().name, "x");
            prop_assert_eq!(item.resource_version(), Some("7".to_owned()));
            let item: Item<Metadata> = serde_json::from_value(any).unwrap();
            prop_assert_eq!(item.key().namespace, "ns");
        }

        #[test]
        fn managed_fields_never_make_a_resource_unreadable(managed in any_json()) {
            let any = resource(|r| r["metadata"]["managedFields"] = managed);
            prop_assert!(read::<WorkspaceTokenRotation>(any).is_ok());
        }

        #[test]
        fn what_is_not_an_object_is_an_item_all_the_same(any in any_json()) {
            prop_assert!(serde_json::from_value::<Item<WorkspaceTokenRotation>>(any).is_ok());
        }
    }
}
