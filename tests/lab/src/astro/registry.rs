//! The vendor's memory: every token, its past, and whom each value belongs to.

use super::settings::Settings;
use super::token::{NewToken, Record, Role, Scope, mint_id, mint_short, mint_value};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Stale reads look back at most this many changes of a token.
const REMEMBERED: usize = 32;

/// All tokens in the order of their creation, and all values.
pub(super) struct Registry {
    organization: String,
    tokens: BTreeMap<u64, Token>,
    serials: HashMap<String, u64>,
    values: HashMap<Arc<str>, Value>,
    issued: Vec<Arc<str>>,
    workspaces: BTreeMap<String, Timestamp>,
}

struct Token {
    id: String,
    /// Oldest first, never empty; `None` once it is deleted.
    versions: VecDeque<(Timestamp, Option<Record>)>,
    value: Arc<str>,
    /// Every value and when it was issued, oldest first.
    issues: Vec<(Instant, Arc<str>)>,
    rotations: usize,
    /// Since when, and by how much, reads of it lag behind.
    lag: (Timestamp, SignedDuration),
}

struct Value {
    serial: u64,
    /// `None` while it is the current one.
    dies: Option<Timestamp>,
}

impl Registry {
    /// Without tokens.
    pub fn new(organization: String) -> Registry {
        Registry {
            organization,
            tokens: BTreeMap::new(),
            serials: HashMap::new(),
            values: HashMap::new(),
            issued: Vec::new(),
            workspaces: BTreeMap::new(),
        }
    }

    /// Creates a token; returns it with its value.
    pub fn create(
        &mut self,
        new: NewToken,
        by: Json,
        now: Timestamp,
        settings: &Settings,
    ) -> (Record, String) {
        let entity = new.entity_id.unwrap_or_else(|| self.organization.clone());
        let mut roles = vec![Role {
            entity_type: match new.scope {
                Scope::Deployment => "DEPLOYMENT".into(),
                Scope::Workspace => "WORKSPACE".into(),
                Scope::Organization => "ORGANIZATION".into(),
            },
            entity_id: entity,
            role: new.role,
        }];
        roles.extend(new.roles);
        let stamp = settings.stamp(now);
        let record = Record {
            id: mint_id(),
            name: new.name,
            description: new.description,
            scope: new.scope,
            kind: new.kind,
            short_token: mint_short(),
            start_at: stamp,
            end_at: new.expiry_days.map(|days| end(stamp, days)),
            expiry_period_in_days: new.expiry_days,
            last_rotated_at: None,
            last_used_at: None,
            created_at: stamp,
            updated_at: stamp,
            roles,
            created_by: by.clone(),
            updated_by: by,
            deployed_in: new.deployed_in,
        };
        for workspace in record.workspaces() {
            self.workspaces.entry(workspace.to_owned()).or_insert(stamp);
        }
        let serial = self.tokens.len() as u64;
        let value = self.issue(serial, &record, now);
        self.serials.insert(record.id.clone(), serial);
        self.tokens.insert(
            serial,
            Token {
                id: record.id.clone(),
                versions: VecDeque::from([(now, Some(record.clone()))]),
                value: value.clone(),
                issues: vec![(Instant::now(), value.clone())],
                rotations: 0,
                lag: (now, SignedDuration::ZERO),
            },
        );
        (record, value.to_string())
    }

    /// Replaces the token's value; returns the token with the new one, `None` for an unknown token.
    pub fn rotate(
        &mut self,
        id: &str,
        by: Json,
        now: Timestamp,
        settings: &Settings,
    ) -> Option<(Record, String)> {
        let record = self.change(id, by, now, settings, |record, stamp| {
            record.last_rotated_at = Some(stamp);
            if settings.short_token_changes {
                record.short_token = mint_short();
            }
            if settings.renews_end {
                record.start_at = stamp;
                record.end_at = record.expiry_period_in_days.map(|days| end(stamp, days));
            }
        })?;
        let serial = self.serials[id];
        let new = self.issue(serial, &record, now);
        let token = self.tokens.get_mut(&serial)?;
        token.issues.push((Instant::now(), new.clone()));
        let old = std::mem::replace(&mut token.value, new.clone());
        if let Some(old) = self.values.get_mut(&old) {
            old.dies = Some(later(now, settings.old_value_lives));
        }
        Some((record, new.to_string()))
    }

    /// Counts a rotation that took effect over HTTP.
    pub fn count_rotation(&mut self, id: &str) {
        if let Some(token) = self.token_mut(id) {
            token.rotations += 1;
        }
    }

    /// Changes the token as `edit` says, which gets the time stamp too; `None` for an unknown token.
    pub fn change(
        &mut self,
        id: &str,
        by: Json,
        now: Timestamp,
        settings: &Settings,
        edit: impl FnOnce(&mut Record, Timestamp),
    ) -> Option<Record> {
        let token = self.token_mut(id)?;
        let mut record = token.record()?.clone();
        let stamp = settings.stamp(now);
        record.updated_at = stamp;
        record.updated_by = by;
        edit(&mut record, stamp);
        token.push(now, Some(record.clone()));
        Some(record)
    }

    /// Deletes the token; false for an unknown one.
    pub fn delete(&mut self, id: &str, now: Timestamp) -> bool {
        match self.token_mut(id) {
            Some(token) if token.record().is_some() => {
                token.push(now, None);
                true
            }
            _ => false,
        }
    }

    /// The token of a live value, which counts as a use of it.
    pub fn authenticate(
        &mut self,
        value: &str,
        now: Timestamp,
        settings: &Settings,
    ) -> Option<Record> {
        if !self.is_live(value, now) {
            return None;
        }
        let serial = self.values.get(value)?.serial;
        let (_, record) = self.tokens.get_mut(&serial)?.versions.back_mut()?;
        let record = record.as_mut()?;
        record.last_used_at = Some(settings.stamp(now));
        Some(record.clone())
    }

    /// Whether the value can be used as a credential.
    pub fn is_live(&self, value: &str, now: Timestamp) -> bool {
        self.values.get(value).is_some_and(|known| {
            known.dies.is_none_or(|dies| now < dies)
                && self.tokens[&known.serial]
                    .record()
                    .is_some_and(|record| !record.expired(now))
        })
    }

    /// Id of the token that a value belongs to or once belonged to.
    pub fn owner(&self, value: &str) -> Option<&str> {
        let known = self.values.get(value)?;
        Some(&self.tokens[&known.serial].id)
    }

    /// The token as it was at a time.
    pub fn get(&self, id: &str, at: Timestamp) -> Option<&Record> {
        self.token(id)?.record_at(at)
    }

    /// The token as it is.
    pub fn current(&self, id: &str) -> Option<&Record> {
        self.token(id)?.record()
    }

    /// All tokens as they were at a time, in the order of their creation.
    pub fn list(&self, at: Timestamp) -> impl Iterator<Item = &Record> {
        self.tokens.values().filter_map(move |t| t.record_at(at))
    }

    /// The token's current value, unless the token is deleted or expired.
    pub fn live_value(&self, id: &str, now: Timestamp) -> Option<&str> {
        let value = &*self.token(id)?.value;
        self.is_live(value, now).then_some(value)
    }

    /// Every value ever issued, oldest first.
    pub fn issued(&self) -> impl Iterator<Item = &str> {
        self.issued.iter().map(|value| &**value)
    }

    /// Reads of the token show what changes from now on only so much later.
    pub fn set_lag(&mut self, id: &str, now: Timestamp, lag: SignedDuration) {
        if let Some(token) = self.token_mut(id) {
            token.lag = (now, lag);
        }
    }

    /// Every value of the token and when it was issued, oldest first; nothing for an unknown token.
    pub fn issues(&self, id: &str) -> &[(Instant, Arc<str>)] {
        self.token(id).map_or(&[], |token| &token.issues)
    }

    /// How many rotations of the token took effect over HTTP.
    pub fn rotations(&self, id: &str) -> usize {
        self.token(id).map_or(0, |token| token.rotations)
    }

    /// Every Workspace a token was ever created for, and when it was first seen.
    pub fn workspaces(&self) -> &BTreeMap<String, Timestamp> {
        &self.workspaces
    }

    fn issue(&mut self, serial: u64, record: &Record, now: Timestamp) -> Arc<str> {
        let value: Arc<str> = mint_value(record, &self.organization, now).into();
        self.values
            .insert(value.clone(), Value { serial, dies: None });
        self.issued.push(value.clone());
        value
    }

    fn token(&self, id: &str) -> Option<&Token> {
        self.tokens.get(self.serials.get(id)?)
    }

    fn token_mut(&mut self, id: &str) -> Option<&mut Token> {
        self.tokens.get_mut(self.serials.get(id)?)
    }
}

impl Token {
    fn record(&self) -> Option<&Record> {
        self.versions.back().and_then(|(_, record)| record.as_ref())
    }

    fn record_at(&self, at: Timestamp) -> Option<&Record> {
        let (since, lag) = self.lag;
        let at = at.min(later(at, -lag).max(since));
        let seen = self.versions.iter().rev().find(|(since, _)| *since <= at);
        seen.and_then(|(_, record)| record.as_ref())
    }

    fn push(&mut self, now: Timestamp, record: Option<Record>) {
        if self.versions.len() == REMEMBERED {
            self.versions.pop_front();
        }
        self.versions.push_back((now, record));
    }
}

fn end(start: Timestamp, days: u32) -> Timestamp {
    later(start, SignedDuration::from_hours(24 * i64::from(days)))
}

fn later(at: Timestamp, by: impl TryInto<SignedDuration>) -> Timestamp {
    let by = by.try_into().unwrap_or(SignedDuration::MAX);
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}
