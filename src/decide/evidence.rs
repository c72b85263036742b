//! What the operator can know about one resource: plain data, gathered by `observe`, judged by `plan`.

use crate::api::{Pending, Role, Status, TokenRef, Version, WorkspaceTokenRotation};
use crate::decide::consent::Used;
use crate::decide::pace::Pace;
use crate::decide::requests::{Requests, is_open, open_revoke};
use crate::decide::schedule::{Schedule, ScheduleError};
use crate::decide::stamp::Stamp;
use crate::decide::tries::Tries;
use crate::decide::version::Drift;
use crate::id::is_same;
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All evidence about one resource at one moment.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Whole seconds, read once for each pass.
    pub now: Timestamp,
    /// Spec, annotations and status as last seen; every status write is fenced by its resourceVersion.
    pub resource: WorkspaceTokenRotation,
    /// The schedule of the spec, parsed.
    pub schedule: Result<Schedule, ScheduleError>,
    /// The operator's settings.
    pub settings: Arc<Settings>,
    /// The credential.
    pub access: Access,
    /// What the target Secret holds.
    pub stored: Stored,
    /// The newest value in another Secret of the resource; only looked for where the stored one is not live.
    pub elsewhere: Option<Held>,
    /// What the vendor says of the tokens.
    pub records: Records,
    /// When the vendor was asked that, give or take a second; `None`: not, or without an answer.
    pub asked_at: Option<Timestamp>,
    /// Id of the token whose live value a person has given away; `None`: `token`.
    pub value_of: Option<String>,
    /// Whether the token of the stored value was looked for just now, by its id and in a list, and does not exist any more.
    pub token_is_gone: bool,
    /// What time it is for the vendor; only known after a fresh reading.
    pub vendor_time: Option<Timestamp>,
    /// A resource with a better claim to the same Secret, or to every token of the spec.
    pub rival: Option<Rival>,
    /// Of two tokens, those that another resource has a better claim to.
    pub taken: Vec<(Role, Rival)>,
    /// Its credential is the value of a resource that depends on its own value in the same way.
    pub is_in_ring: bool,
    /// What this process is doing for the resource right now.
    pub work: Option<Work>,
    /// When this process began the last rotations of each token, for whatever resource; by id.
    pub begun: BTreeMap<String, Vec<Timestamp>>,
    /// What this process remembers of its tries for the resource.
    pub tries: Tries,
    /// Since when the holder of the pending rotation is certain not to work on it any more; `None`: it is not certain.
    pub holder_done_at: Option<Timestamp>,
}

/// A resource with a better claim to the same token or Secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Rival {
    /// What it keeps this one from.
    pub blocked: Blocked,
    /// Until when it does so at the most, where it has not shown yet that it can work, or may have a rotation in flight.
    pub until: Option<Timestamp>,
}

/// Settings that decisions depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shortest interval a schedule may ask for.
    pub minimum_interval: SignedDuration,
    /// How long is waited for what.
    pub pace: Pace,
    /// Uid of the cluster's `kube-system` namespace.
    pub cluster: String,
}

impl Observed {
    /// What is known before anything was read.
    pub fn begin(
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        settings: &Arc<Settings>,
    ) -> Self {
        let mut resource = resource.clone();
        let status = resource.status.as_mut();
        let pending = status.and_then(|status| status.pending.as_mut());
        // It counts as begun when it was first seen, which the next status says.
        let unseen = pending.filter(|it| **it == Pending::unreadable());
        if let Some(pending) = unseen {
            pending.started_at = Time(now);
        }
        Self {
            now,
            schedule: Schedule::parse(&resource.spec.schedule, settings.minimum_interval),
            resource,
            settings: settings.clone(),
            access: Access::Unknown,
            stored: Stored::Absent {
                elsewhere: None,
                resource_version: None,
            },
            elsewhere: None,
            records: Records::default(),
            asked_at: None,
            value_of: None,
            token_is_gone: false,
            vendor_time: None,
            rival: None,
            taken: Vec::new(),
            is_in_ring: false,
            work: None,
            begun: BTreeMap::new(),
            tries: Tries::default(),
            holder_done_at: None,
        }
    }

    /// What is stored. An intent that cannot be read is taken for one that was to replace just that: stamp and record alone
    /// then tell what became of it.
    pub fn found(&mut self, stored: Stored) {
        self.stored = stored;
        let status = self.resource.status.as_mut();
        let pending = status.and_then(|status| status.pending.as_mut());
        let pending = pending.filter(|pending| pending.is_unreadable());
        if let (Some(pending), Some(held)) = (pending, self.stored.value()) {
            pending.token_id.clone_from(&held.stamp.token_id);
            pending.replaces = held.stamp.version.clone();
        }
    }

    /// Of which token the credential is a value, as far as it says.
    pub fn credential_of(&self) -> Option<&String> {
        match &self.access {
            Access::Granted(credential) => credential.token_id.as_ref(),
            Access::Unknown | Access::Denied(_) => None,
        }
    }

    /// How long is waited for what.
    pub fn pace(&self) -> &Pace {
        &self.settings.pace
    }

    /// The recorded intent.
    pub fn pending(&self) -> Option<&Pending> {
        self.resource.status.as_ref()?.pending.as_ref()
    }

    /// The evidence on the Secret, unless it is known to be about none of the tokens of the spec, and to take turns with none of
    /// them.
    pub fn held(&self) -> Option<&Held> {
        let Stored::Holds(held) = &self.stored else {
            return None;
        };
        let stamp = &held.stamp;
        let mut ids = [Some(&stamp.token_id), stamp.other.as_ref()]
            .into_iter()
            .flatten();
        ids.any(|id| self.may_mean(id)).then_some(held)
    }

    /// Whether a reference of the spec means this token, as far as is known.
    fn may_mean(&self, id: &str) -> bool {
        let mut references = self.resource.spec.references();
        references.any(|(role, reference)| {
            let is_id = reference.id.is_none() || reference.has_id(id);
            is_id
                && match self.records.of(role) {
                    Live::Token { token, .. } => token.id == id,
                    _ => true,
                }
        })
    }

    /// The token of the spec whose value the Secret holds, as far as it is known which one that is.
    pub fn held_role(&self) -> Option<Role> {
        let id = &self.held()?.stamp.token_id;
        let is_it = |(role, reference): &(Role, &TokenRef)| match self.records.of(*role) {
            Live::Token { token, .. } => token.id == *id,
            _ => reference.has_id(id),
        };
        self.resource.spec.references().find(is_it).map(|it| it.0)
    }

    /// Whether rotations take another token than the one whose value the Secret holds: there are two, or the one of the spec took
    /// turns with it until it was removed from there.
    pub fn takes_turns(&self) -> bool {
        let spec = &self.resource.spec;
        let is_former = |held: &Held| match &self.records.token {
            Live::Token { token, .. } => token.id != held.stamp.token_id,
            _ => held
                .stamp
                .other
                .as_ref()
                .is_some_and(|it| spec.token.has_id(it)),
        };
        spec.alternate_token.is_some() || self.held().is_some_and(is_former)
    }

    /// The id of the token that takes turns with this one, as far as it is known.
    pub fn other_id(&self, id: &str) -> Option<String> {
        let spec = &self.resource.spec;
        spec.alternate_token.as_ref()?;
        let others =
            spec.references()
                .filter_map(|(role, reference)| match self.records.of(role) {
                    Live::Token { token, .. } => Some(token.id.clone()),
                    _ => reference.id.clone(),
                });
        others.filter(|other| !is_same(other, id)).last()
    }

    /// The record of the token of this id, and whether it was read just now.
    pub fn record(&self, id: &str) -> Option<(&Token, bool)> {
        self.records.all().into_iter().find_map(|live| match live {
            Live::Token { token, fresh } if token.id == id => Some((token, *fresh)),
            _ => None,
        })
    }

    /// The stored version against the live one, and whether the reading is fresh.
    pub fn drift(&self) -> Option<(Drift, &Held, &Token, bool)> {
        let held = self.held()?;
        let (token, fresh) = self.record(&held.stamp.token_id)?;
        Some((held.compare(&token.version), held, token, fresh))
    }

    /// The token, as far as it is known.
    pub fn known_token(&self) -> Token {
        match &self.records.token {
            Live::Token { token, .. } => token.clone(),
            _ => Token {
                id: (self.stored.value()).map_or_else(String::new, |it| it.stamp.token_id.clone()),
                ..Token::default()
            },
        }
    }

    /// What is to be written on a Secret that was given away, or that lacks our evidence, and whose value is the live one.
    pub fn taken_over(&self) -> Option<Held> {
        let Stored::Consented {
            lacks,
            used,
            value_is_live: Some(true),
            resource_version,
        } = &self.stored
        else {
            return None;
        };
        let id = self.value_of.as_ref().or(self.records.token.id())?;
        let (token, _) = self.record(id).filter(|(_, fresh)| *fresh)?;
        let target = &self.resource.spec.target;
        Some(Held {
            secret: target.name.clone(),
            stamp: Stamp {
                owner: self.resource.name_any(),
                key: target.key().into(),
                token_id: token.id.clone(),
                other: self.other_id(&token.id),
                version: token.version.clone(),
                expires: token.ends,
                adopted: used.clone(),
                adopted_at: lacks.is_none().then_some(self.now),
                cluster: self.settings.cluster.clone(),
                ..Stamp::default()
            },
            is_live: Some(true),
            outdated: lacks.clone(),
            resource_version: resource_version.clone(),
            ..Held::default()
        })
    }

    /// When the stored value expires: by the vendor where it speaks of that value, otherwise by the Secret.
    pub fn expiry(&self) -> Option<Timestamp> {
        match self.drift() {
            Some((Drift::Same, _, token, _)) => token.ends,
            _ => self.held()?.stamp.expires,
        }
    }

    /// Whether a person asks for a rotation and none has answered that yet.
    pub fn is_requested(&self) -> bool {
        let answered = self.answered();
        answered.is_some_and(|answered| is_open(self.resource.annotations(), &answered))
    }

    /// The request that no value is valid any more that was issued before it, where no rotation has answered that yet.
    pub fn revokes(&self) -> Option<String> {
        open_revoke(self.resource.annotations(), &self.answered()?)
    }

    /// The requests that were answered, as far as a value is here.
    fn answered(&self) -> Option<[Requests; 2]> {
        let status = self.resource.status.as_ref()?;
        Some([status.into(), self.held()?.stamp.requests.clone()])
    }

    /// The requests that a rotation answers which begins now.
    pub fn requests(&self) -> Requests {
        let status = self.resource.status.as_ref();
        let before = status.map(Requests::from).unwrap_or_default();
        Requests::answered_now(self.resource.annotations(), before)
    }
}

/// What stands in the way by a status, or else what is wrong with the value.
pub fn said(status: &Status) -> Option<Blocked> {
    status.obstacles().find_map(|condition| {
        let reason = Reason::from_name(&condition.reason)?;
        Some(Blocked::new(reason, &condition.message))
    })
}

/// What a credential says of itself; unverified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CredentialClaims {
    /// Which token it is a value of.
    pub token_id: Option<String>,
    /// When it expires; `None`: never, or it does not say.
    pub expires: Option<Timestamp>,
}

/// What is known of the credential.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// Not looked at.
    Unknown,
    /// Usable so far.
    Granted(CredentialClaims),
    /// Missing, empty, not allowed, or without an Organization.
    Denied(Blocked),
}

/// What the target Secret holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// No Secret, or none with a value of ours; another Secret of ours may still have it.
    Absent {
        /// The value under the former name of the target.
        elsewhere: Option<Held>,
        /// Of a Secret of ours from which the value was removed.
        resource_version: Option<String>,
    },
    /// Ours, by what is written on it. Its managed fields do not tell whether the value is there and who wrote it, so the
    /// value has to be read.
    Unread(Held),
    /// Another party's.
    Foreign(Blocked),
    /// Another party's, with consent to take it over.
    Consented {
        /// What is missing on a value of ours whose evidence is not whole; `None`: it was given by a person.
        lacks: Option<String>,
        /// The consents that are used up with it.
        used: Used,
        /// The value is the live one of the token; only known after a live look.
        value_is_live: Option<bool>,
        /// Its resourceVersion.
        resource_version: Option<String>,
    },
    /// Ours.
    Holds(Held),
}

impl Stored {
    /// The evidence of a value of ours, under the target's name or its former one.
    pub fn value(&self) -> Option<&Held> {
        match self {
            Self::Holds(held) => Some(held),
            Self::Absent { elsewhere, .. } => elsewhere.as_ref(),
            Self::Unread(_) | Self::Foreign(_) | Self::Consented { .. } => None,
        }
    }
}

/// The evidence on a Secret of ours.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    /// Name of the Secret.
    pub secret: String,
    /// What we wrote on it.
    pub stamp: Stamp,
    /// Whether the value itself was found to be live; only asked where its version does not tell.
    pub is_live: Option<bool>,
    /// Who else wrote the key since, by its managed fields.
    pub key_written_by: Option<String>,
    /// The Secret is being deleted.
    pub terminating: bool,
    /// The first of labels, annotations, key and owner that differs from what the spec asks for, and who wrote it.
    pub outdated: Option<String>,
    /// For the fence of the next write.
    pub resource_version: Option<String>,
}

impl Stored {
    /// The resourceVersion of the target Secret, where there is one that may be written.
    pub fn resource_version(&self) -> Option<String> {
        match self {
            Self::Holds(held) | Self::Unread(held) => held.resource_version.clone(),
            Self::Consented {
                resource_version, ..
            }
            | Self::Absent {
                resource_version, ..
            } => resource_version.clone(),
            Self::Foreign(_) => None,
        }
    }

    /// The consents that were used for the Secret.
    pub fn used(&self) -> Used {
        match self {
            Self::Consented { used, .. } => used.clone(),
            Self::Holds(held) | Self::Unread(held) => held.stamp.adopted.clone(),
            Self::Absent { .. } | Self::Foreign(_) => Used::default(),
        }
    }
}

impl Held {
    /// How the stored value stands to the one of the vendor's record; where versions do not tell, the value has.
    pub fn compare(&self, live: &Version) -> Drift {
        match (self.stamp.compare(live), self.is_live) {
            (Drift::Unknown | Drift::StoredNewer, Some(true)) => Drift::Same,
            (Drift::Unknown | Drift::StoredNewer, Some(false)) => Drift::LiveNewer,
            (drift, _) => drift,
        }
    }
}

/// What the vendor says of each token that a resource is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    /// Of `token`.
    pub token: Live,
    /// Of `alternateToken`.
    pub alternate: Live,
    /// Of the token whose value the Secret holds, where the spec means another one by now.
    pub former: Live,
}

impl Records {
    /// The one of the token of this role.
    pub fn of(&self, role: Role) -> &Live {
        match role {
            Role::Token => &self.token,
            Role::Alternate => &self.alternate,
        }
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, role: Role) -> &mut Live {
        match role {
            Role::Token => &mut self.token,
            Role::Alternate => &mut self.alternate,
        }
    }

    /// Takes note of what a rotation of the token of this id has brought.
    pub fn put(&mut self, id: &str, token: Token) {
        let mut all = self.all_mut().into_iter();
        if let Some(live) = all.find(|live| live.id().is_some_and(|it| it == id)) {
            *live = Live::Token { token, fresh: true };
        }
    }

    /// All three.
    pub fn all(&self) -> [&Live; 3] {
        [&self.token, &self.alternate, &self.former]
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> [&mut Live; 3] {
        [&mut self.token, &mut self.alternate, &mut self.former]
    }
}

/// What the vendor says about a token.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "mostly it is a token")]
pub enum Live {
    /// Nothing is known.
    #[default]
    NotAsked,
    /// The token.
    Token {
        /// Its record.
        token: Token,
        /// Read just now, for this decision; otherwise from the list that is shared for an audit interval.
        fresh: bool,
    },
    /// No such token, several, or the credential is refused.
    Refused {
        /// The reason.
        blocked: Blocked,
        /// Read just now.
        fresh: bool,
    },
    /// No usable answer.
    Unavailable {
        /// What happened.
        message: String,
        /// The vendor's own word on when to come back.
        retry_after: Option<SignedDuration>,
    },
}

impl Live {
    /// The record, where there is one.
    pub fn token(&self) -> Option<&Token> {
        match self {
            Self::Token { token, .. } => Some(token),
            _ => None,
        }
    }

    /// Its id.
    pub fn id(&self) -> Option<&String> {
        self.token().map(|token| &token.id)
    }
}

/// The vendor's record of a token, without its value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Token {
    /// Id.
    pub id: String,
    /// Name; not unique.
    pub name: String,
    /// `WORKSPACE`, `ORGANIZATION`, `DEPLOYMENT`; kept as text.
    pub scope: String,
    /// `STANDARD` or other.
    pub kind: String,
    /// Ids of the entities of its scope on which it has a role.
    pub entities: Vec<String>,
    /// Which value is live.
    pub version: Version,
    /// Start of validity.
    pub starts: Option<Timestamp>,
    /// Expiry; `None`: never.
    pub ends: Option<Timestamp>,
    /// When it was last used, as far as the vendor has noticed.
    pub last_used: Option<Timestamp>,
    /// A field that is not as documented, and that a decision depends on.
    pub odd: Option<&'static str>,
}

/// What this process is doing for a resource right now.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Between the rehearsal and the vendor's answer.
    Calling,
    /// The value is in hand, and storing it fails.
    Storing {
        /// The last error.
        error: String,
    },
}
