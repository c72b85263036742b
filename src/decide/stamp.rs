//! What the operator writes on a Secret: which value it holds, whose it is, and from which rotation. Written and read here
//! and nowhere else.

use crate::api::{MANAGED_BY, Version, evidence};
use crate::decide::consent::Used;
use crate::decide::managed::{Managed, Metadata};
use crate::decide::requests::Requests;
use crate::decide::version::{Drift, compare};
use crate::id::is_id;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use uuid::Uuid;

/// Longest text taken from an annotation, bytes; what we write is shorter.
pub const LONGEST_TEXT: usize = 64;

/// How far the vendor's clock may be behind ours before ours counts for less.
const VENDOR_BEHIND: SignedDuration = SignedDuration::from_hours(1);

/// The annotations that tell which value it is.
pub const VERSION: [&str; 4] = [
    evidence::TOKEN_ID,
    evidence::ROTATED_AT,
    evidence::SHORT_TOKEN,
    evidence::ROTATION_ID,
];

/// What is written on a Secret with a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stamp {
    /// Name of the resource that wrote it.
    pub owner: String,
    /// Key of the raw value.
    pub key: String,
    /// Token the value belongs to.
    pub token_id: String,
    /// The token that takes turns with it.
    pub other: Option<String>,
    /// Version of the value.
    pub version: Version,
    /// The version of the value of the other token that the Secret held before.
    pub previous: Option<Version>,
    /// The rotation whose value must not be written any more.
    pub fence: Option<String>,
    /// The request that ends the value of the other token too.
    pub revokes: Option<String>,
    /// The short form of the value that a rotation has replaced with this one.
    pub replaced: Option<String>,
    /// When the value expires; `None`: never.
    pub expires: Option<Timestamp>,
    /// The rotation that obtained it; `None` when adopted.
    pub rotation_id: Option<String>,
    /// When it was adopted, with consent.
    pub adopted_at: Option<Timestamp>,
    /// The requests that were answered with it.
    pub requests: Requests,
    /// The consents that were used for the Secret.
    pub adopted: Used,
    /// Uid of the cluster it was written in.
    pub cluster: String,
}

impl Stamp {
    /// Puts it on the metadata of a Secret.
    pub fn write(&self, metadata: &mut ObjectMeta) {
        let version = &self.version;
        let rotated_at = |version: &Version| Some(version.rotated_at.as_ref()?.0.to_string());
        let previous = self.previous.as_ref();
        let texts = [
            (evidence::OWNED_BY, Some(self.owner.clone())),
            (evidence::KEY, Some(self.key.clone())),
            (evidence::TOKEN_ID, Some(self.token_id.clone())),
            (evidence::OTHER_ID, self.other.clone()),
            (evidence::ROTATED_AT, rotated_at(version)),
            (evidence::SHORT_TOKEN, version.short_token.clone()),
            (evidence::PREVIOUS_AT, previous.and_then(rotated_at)),
            (
                evidence::PREVIOUS_SHORT,
                previous.and_then(|it| it.short_token.clone()),
            ),
            (evidence::FENCE, self.fence.clone()),
            (evidence::REVOKE_PREVIOUS, self.revokes.clone()),
            (evidence::REPLACED, self.replaced.clone()),
            (evidence::EXPIRES_AT, self.expires.map(|at| at.to_string())),
            (evidence::ROTATION_ID, self.rotation_id.clone()),
            (
                evidence::ADOPTED_AT,
                self.adopted_at.map(|at| at.to_string()),
            ),
            (evidence::REQUEST, self.requests.rotate.clone()),
            (evidence::REVOKE, self.requests.revoke.clone()),
            (evidence::ADOPTED, Some(self.adopted.text())),
            (evidence::CLUSTER, Some(self.cluster.clone())),
        ];
        let texts = texts.into_iter();
        let texts = texts.filter_map(|(key, text)| Some((key.to_owned(), text?)));
        metadata.annotations.get_or_insert_default().extend(texts);
        let (label, value) = MANAGED_BY;
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(label.into(), value.into());
    }

    /// Reads it off a Secret; `None` when there is none that is whole.
    ///
    /// What another party has written on a value that is still ours proves nothing, in either direction, and is passed over.
    pub fn read(secret: &Metadata, managed: &Managed) -> Option<Self> {
        let (label, value) = MANAGED_BY;
        if secret.labels().get(label).map(String::as_str) != Some(value) {
            return None;
        }
        let annotations = secret.annotations();
        let is_ours = managed.ours().any(|path| path.starts_with("data."));
        let text = |key: &str| {
            let counts = !is_ours || managed.is_ours(&format!("annotations.{key}"));
            annotations.get(key).filter(|_| counts).cloned()
        };
        let time = |key: &str| text(key)?.parse().ok();
        let short = |key: &str| text(key).filter(|text| text.len() <= LONGEST_TEXT);
        let version = |rotated_at, short_token| Version {
            rotated_at: time(rotated_at).map(Time),
            short_token: short(short_token),
        };
        let previous = version(evidence::PREVIOUS_AT, evidence::PREVIOUS_SHORT);
        Some(Self {
            // These two can only keep us away, so they count no matter who wrote them.
            owner: annotations.get(evidence::OWNED_BY)?.clone(),
            cluster: annotations.get(evidence::CLUSTER)?.clone(),
            adopted: Used::on(secret).unwrap_or_default(),
            key: text(evidence::KEY)?,
            // It becomes part of a URL.
            token_id: text(evidence::TOKEN_ID).filter(|id| is_id(id))?,
            other: text(evidence::OTHER_ID).filter(|id| is_id(id)),
            version: version(evidence::ROTATED_AT, evidence::SHORT_TOKEN),
            previous: Some(previous).filter(|it| *it != Version::default()),
            fence: short(evidence::FENCE),
            revokes: short(evidence::REVOKE_PREVIOUS),
            replaced: short(evidence::REPLACED),
            expires: time(evidence::EXPIRES_AT),
            rotation_id: text(evidence::ROTATION_ID),
            adopted_at: time(evidence::ADOPTED_AT),
            requests: Requests {
                rotate: short(evidence::REQUEST),
                revoke: short(evidence::REVOKE),
            },
        })
    }

    /// Whether it tells which value it is about.
    pub fn tells_version(&self) -> bool {
        self.version != Version::default() || self.rotation_id.is_some()
    }

    /// How this version stands to the one in the vendor's record of the token.
    pub fn compare(&self, live: &Version) -> Drift {
        let short = &self.version.short_token;
        let proven = self.replaced.is_some() && short.is_some() && self.replaced != *short;
        compare(&self.version, live, proven, self.rotation_id.is_some())
    }

    /// When the value was obtained: by our own clock where we did it, otherwise by the vendor's. Never after `now`.
    ///
    /// A vendor whose clock is behind ours must not make the same due time come twice, and a clock of ours that was
    /// ahead must not put off the next one.
    pub fn obtained_at(&self, now: Timestamp) -> Option<Timestamp> {
        let by_vendor = self.version.rotated_at.as_ref().map(|time| time.0);
        let latest = by_vendor.and_then(|at| at.saturating_add(VENDOR_BEHIND).ok());
        let by_us = self.rotation_id.as_deref().and_then(rotation_time);
        let by_us = by_us.filter(|at| *at <= latest.unwrap_or(now).min(now));
        by_us.or(by_vendor.map(|at| at.min(now)))
    }
}

/// A new rotation id; it carries `now` in whole milliseconds, so evidence made of it has our clock.
pub fn rotation_id(now: Timestamp, random: u128) -> String {
    let millis = u64::try_from(now.as_millisecond()).unwrap_or_default();
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&random.to_be_bytes()[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes)
        .into_uuid()
        .to_string()
}

/// When the rotation of this id was begun, whole seconds; `None` for a text that is no rotation id.
pub fn rotation_time(id: &str) -> Option<Timestamp> {
    let (seconds, _) = Uuid::parse_str(id).ok()?.get_timestamp()?.to_unix();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_rotation_id_carries_its_time() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(rotation_time(&rotation_id(now, 7)), Some(now));
        assert_ne!(rotation_id(now, 7 << 64), rotation_id(now, 8 << 64));
        assert_eq!(rotation_time("2026"), None);
    }

    #[test]
    fn our_time_counts_unless_the_present_or_the_vendor_speaks_against_it() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let (now, hour) = (at(0), 3_600);
        for (ours, vendor, expected) in [
            (Some(-100), Some(-99), Some(-100)),
            (Some(-100), Some(-100 - hour), Some(-100)),
            (Some(-100), Some(-101 - hour), Some(-101 - hour)),
            // The vendor's clock is ahead.
            (Some(-100), Some(500), Some(-100)),
            // Ours was, and is right again; or was then, and the year is over.
            (Some(1), Some(-100), Some(-100)),
            (
                Some(-100),
                Some(-100 - 365 * 24 * hour),
                Some(-100 - 365 * 24 * hour),
            ),
            (Some(1), Some(2), Some(0)),
            (Some(0), None, Some(0)),
            (Some(1), None, None),
            (None, Some(-100), Some(-100)),
            (None, Some(100), Some(0)),
            (None, None, None),
        ] {
            let stamp = Stamp {
                rotation_id: ours.map(|second| rotation_id(at(second), 7)),
                version: Version {
                    rotated_at: vendor.map(|second| Time(at(second))),
                    short_token: None,
                },
                ..Stamp::default()
            };
            assert_eq!(
                stamp.obtained_at(now),
                expected.map(at),
                "{ours:?} {vendor:?}"
            );
        }
    }

    prop_compose! {
        fn any_stamp()(
            texts in prop::array::uniform4("[a-z0-9.-]{1,63}"),
            others in prop::array::uniform3(prop::option::of("[a-z0-9-]{1,63}")),
            shorts in prop::array::uniform3(prop::option::of("[a-zA-Z0-9]{1,64}")),
            requests in prop::array::uniform2(prop::option::of(".{0,16}")),
            times in prop::array::uniform4(prop::option::of(0i64..4_000_000_000)),
            rotation in prop::option::of(0i64..4_000_000_000),
            adopted in prop::collection::vec("[0-9a-f]{16}", 0..4),
        ) -> Stamp {
            let [owner, key, cluster, token_id] = texts;
            let [rotate, revoke] = requests;
            let [short, replaced, short_before] = shorts;
            let [other, fence, revokes] = others;
            let [rotated_at, expires, adopted_at, before] = times.map(|at| at.map(|at| Timestamp::from_second(at).unwrap()));
            let rotation = rotation.map(|at| Timestamp::from_second(at).unwrap());
            let previous = Version { rotated_at: before.map(Time), short_token: short_before };
            Stamp {
                owner, key, cluster, expires, adopted_at, replaced, other, fence, revokes,
                previous: Some(previous).filter(|it| *it != Version::default()),
                adopted: Used(adopted),
                requests: Requests { rotate, revoke },
                token_id: token_id.replace('.', "_"),
                version: Version { rotated_at: rotated_at.map(Time), short_token: short },
                rotation_id: rotation.map(|at| rotation_id(at, 7)),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(stamp in any_stamp()) {
            let mut metadata = ObjectMeta::default();
            stamp.write(&mut metadata);
            let mut secret: Metadata = serde_json::from_value(json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": metadata,
            })).unwrap();
            // As the API server manages what we applied.
            let fields: serde_json::Map<_, _> = secret.annotations().keys().map(|key| (format!("f:{key}"), json!({}))).collect();
            secret.metadata.managed_fields = serde_json::from_value(json!([{
                "manager": crate::decide::managed::MANAGER, "operation": "Apply",
                "fieldsV1": {"f:data": {"f:token": {}}, "f:metadata": {"f:annotations": fields}},
            }])).unwrap();
            prop_assert_eq!(Stamp::read(&secret, &Managed::of(&secret)), Some(stamp));
        }
    }
}
