//! What is known of a resource with a claim, and whether that keeps another one from working.

use super::print::{Print, Prints};
use crate::api::{RotationOutcome, WorkspaceTokenRotation};
use crate::decide::entity::Entity;
use crate::decide::evidence::Token;
use crate::decide::pace::Pace;
use jiff::{SignedDuration, Timestamp};

/// Something that only one resource may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// A Secret.
    Secret(Print),
    /// A token by its id.
    TokenId(Print),
    /// The token of this name in its entity.
    TokenName(Print),
}

impl Claim {
    /// Its print.
    pub fn print(self) -> Print {
        match self {
            Self::Secret(print) | Self::TokenId(print) | Self::TokenName(print) => print,
        }
    }
}

/// A token by its id, its name, or both.
#[derive(Clone, Copy, Default, PartialEq)]
pub struct Means {
    id: Option<Print>,
    name: Option<Print>,
}

impl Means {
    /// The token of a spec.
    pub fn asked(prints: &Prints, resource: &WorkspaceTokenRotation) -> Self {
        let spec = &resource.spec;
        let by_name = spec.token.name.as_deref();
        Self {
            id: spec.token.id.as_deref().map(|id| prints.token(id)),
            name: by_name.map(|name| prints.token_name(&Entity::of(spec), name)),
        }
    }

    /// The token that a spec was found to mean.
    pub fn found(prints: &Prints, resource: &WorkspaceTokenRotation, token: &Token) -> Self {
        Self {
            id: Some(prints.token(&token.id)),
            name: Some(prints.token_name(&Entity::of(&resource.spec), &token.name)),
        }
    }

    fn claims(self) -> impl Iterator<Item = Claim> {
        let id = self.id.map(Claim::TokenId).into_iter();
        id.chain(self.name.map(Claim::TokenName))
    }
}

/// What the status tells of values.
#[derive(Clone, Default, PartialEq)]
pub struct Values {
    /// The token that a name stood for when a value was stored, until it is found again.
    presumed: Option<Print>,
    /// Tokens of which it has stored a value.
    stored: Box<[Print]>,
    /// The token that it has begun to rotate, and when.
    begun: Option<(Print, Timestamp)>,
}

impl Values {
    /// By the status of a resource.
    pub fn of(prints: &Prints, resource: &WorkspaceTokenRotation) -> Self {
        let status = resource.status.as_ref();
        let held = status.and_then(|status| status.token.as_ref());
        let history = status.into_iter().flat_map(|status| &status.history);
        let history = history.filter(|entry| entry.outcome == RotationOutcome::Stored);
        let ids = history.map(|entry| &entry.token_id);
        let mut stored = Vec::new();
        // Mostly they are all of one token.
        let mut last = None;
        for id in ids.chain(held.map(|held| &held.id)) {
            if last.replace(id) != Some(id) {
                add(&mut stored, prints.token(id));
            }
        }
        let pending = status.and_then(|status| status.pending.as_ref());
        let named = held.filter(|held| resource.spec.token.name.as_ref() == Some(&held.name));
        Self {
            presumed: named.map(|held| prints.token(&held.id)),
            stored: stored.into(),
            begun: pending.map(|it| (prints.token(&it.token_id), it.started_at.0)),
        }
    }

    /// Adds what was known before: a resource may be as it was before its last write.
    pub fn add(&mut self, before: &Self) {
        self.begun = self.begun.or(before.begun);
        if before.stored.iter().all(|id| self.stored.contains(id)) {
            return;
        }
        let mut stored = std::mem::take(&mut self.stored).into_vec();
        before.stored.iter().for_each(|id| add(&mut stored, *id));
        self.stored = stored.into();
    }
}

/// Adds one to a sorted list, unless it is there.
fn add(all: &mut Vec<Print>, one: Print) {
    if let Err(place) = all.binary_search(&one) {
        all.insert(place, one);
    }
}

/// What is known of a claimant.
#[derive(Clone, PartialEq)]
pub struct Known {
    /// The Secret of its spec.
    secret: Print,
    /// The token of its spec.
    pub asked: Means,
    /// The token that the spec was found to mean: one resource may name it by id and another by name.
    pub found: Means,
    /// What its status tells of values.
    pub values: Values,
    /// Whether it can work on that token; `None`: it has not shown yet.
    pub able: Option<bool>,
    /// When this process saw it first. An edit is no new beginning.
    pub since: Timestamp,
}

/// How far a claimant has come with a token. The farther goes before the nearer, whatever their ages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has no value of it.
    Nothing,
    /// A rotation of it may be in flight until then.
    Begun(Timestamp),
    /// It has stored a value of it.
    Stored,
}

/// What one means to another with the same claim, as far as no time has a part in it. While this stays, only time, or
/// the other one itself, can change whether the other one has to wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bearing {
    /// It never keeps it.
    None,
    /// It keeps it for good.
    Keeps,
    /// It may keep it, by when it has begun a rotation and, if it is the older one, by whether it can work.
    May(Option<Timestamp>, Option<bool>),
}

/// When it is asked, and how long is waited for what.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    /// When.
    pub now: Timestamp,
    /// How long.
    pub pace: &'a Pace,
}

impl Known {
    /// What a resource says itself, which is seen first `now`.
    pub fn of(prints: &Prints, resource: &WorkspaceTokenRotation, now: Timestamp) -> Self {
        let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
        Self {
            secret: prints.secret(namespace, &resource.spec.target.name),
            asked: Means::asked(prints, resource),
            found: Means::default(),
            values: Values::of(prints, resource),
            able: None,
            since: now,
        }
    }

    /// All that it claims.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        std::iter::once(Claim::Secret(self.secret)).chain(self.claims_to_token())
    }

    /// What it claims of a token.
    pub fn claims_to_token(&self) -> impl Iterator<Item = Claim> {
        let Self { asked, found, .. } = *self;
        let new = move |claim: &Claim| !asked.claims().any(|it| it == *claim);
        asked.claims().chain(found.claims().filter(new))
    }

    /// Whether this is one of its claims.
    pub fn has(&self, claim: Claim) -> bool {
        self.claims().any(|it| it == claim)
    }

    /// Whether it has begun a rotation or stored a value, of whatever token.
    pub fn has_begun(&self) -> bool {
        self.has_stored() || self.values.begun.is_some()
    }

    /// Whether it has stored a value, of whatever token.
    pub fn has_stored(&self) -> bool {
        !self.values.stored.is_empty()
    }

    /// The token, as far as it is known.
    fn id(&self) -> Option<Print> {
        let claimed = self.asked.id.or(self.found.id);
        claimed.or(self.values.presumed)
    }

    fn standing(&self, id: Print, at: Moment<'_>) -> Standing {
        if self.values.stored.contains(&id) {
            return Standing::Stored;
        }
        let begun = self.values.begun.filter(|(token, _)| *token == id);
        let until = begun.and_then(|(_, begun)| at.within(begun, at.pace.in_flight()));
        until.map_or(Standing::Nothing, Standing::Begun)
    }

    /// Whether this one keeps `own`, with the same claim, from working; and until when, where that is not for good.
    pub fn keeps(
        &self,
        own: &Self,
        is_older: bool,
        claim: Claim,
        at: Moment<'_>,
    ) -> Option<Option<Timestamp>> {
        if matches!(claim, Claim::Secret(_)) {
            return is_older.then_some(None);
        }
        let id = self.same_token(own)?;
        let of = |known: &Self| id.map_or(Standing::Nothing, |id| known.standing(id, at));
        let (theirs, ours) = (of(self), of(own));
        let is_first = match (theirs, ours) {
            (Standing::Begun(_), Standing::Begun(_)) => is_older,
            (theirs, ours) if theirs == ours => is_older,
            (theirs, ours) => theirs > ours,
        };
        match (theirs, self.able) {
            _ if !is_first => None,
            (Standing::Stored, _) | (Standing::Nothing, Some(true)) => Some(None),
            (Standing::Begun(until), _) => Some(Some(until)),
            (Standing::Nothing, Some(false)) => None,
            (Standing::Nothing, None) => at.within(self.since, at.pace.rival_patience).map(Some),
        }
    }

    /// What this one means to `own`; without regard to time, it is never less than [`Known::keeps`] says.
    pub fn bearing(&self, own: &Self, is_older: bool, claim: Claim) -> Bearing {
        if !self.has(claim) {
            return Bearing::None;
        }
        if matches!(claim, Claim::Secret(_)) {
            return if is_older {
                Bearing::Keeps
            } else {
                Bearing::None
            };
        }
        let Some(id) = self.same_token(own) else {
            return Bearing::None;
        };
        let has_stored = |known: &Self| id.is_some_and(|id| known.values.stored.contains(&id));
        match (has_stored(self), has_stored(own)) {
            (true, false) => return Bearing::Keeps,
            (true, true) if is_older => return Bearing::Keeps,
            (_, true) => return Bearing::None,
            (false, false) => {}
        }
        let begun = self.values.begun.filter(|(token, _)| Some(*token) == id);
        let begun = begun.map(|(_, begun)| begun);
        let may_keep = begun.is_some() || is_older && self.able != Some(false);
        match may_keep {
            true => Bearing::May(begun, self.able.filter(|_| is_older)),
            false => Bearing::None,
        }
    }

    /// The token that both mean, as far as it is known; `None`: the same name, and not the same token.
    fn same_token(&self, own: &Self) -> Option<Option<Print>> {
        match (self.id(), own.id()) {
            (Some(theirs), Some(ours)) if theirs != ours => None,
            (theirs, ours) => Some(ours.or(theirs)),
        }
    }
}

impl Moment<'_> {
    /// The end of a time that began `from`, unless it is over; a clock that was wrong does not make it longer.
    fn within(self, from: Timestamp, long: SignedDuration) -> Option<Timestamp> {
        let is_now = self.now.duration_since(from).abs() < long;
        from.checked_add(long).ok().filter(|_| is_now)
    }
}
