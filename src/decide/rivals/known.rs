//! What is known of a resource with a claim, and whether that keeps another one from working.

use super::print::{Print, Prints};
use crate::api::{Role, RotationOutcome, TokenRef, WorkspaceTokenRotation};
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
    /// The token of a role, as the spec names it.
    fn asked(prints: &Prints, resource: &WorkspaceTokenRotation, token: &TokenRef) -> Self {
        let by_name = token.name.as_deref();
        Self {
            id: token.id.as_deref().map(|id| prints.token(id)),
            name: by_name.map(|name| prints.token_name(&Entity::of(&resource.spec), name)),
        }
    }

    /// The token that a role was found to mean.
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

/// The token of one role.
#[derive(Clone, Copy, Default, PartialEq)]
struct Meant {
    /// As the spec names it.
    asked: Means,
    /// As it was found: one resource may name it by id and another by name.
    found: Means,
}

impl Meant {
    fn asked(prints: &Prints, resource: &WorkspaceTokenRotation, token: &TokenRef) -> Self {
        Self {
            asked: Means::asked(prints, resource, token),
            found: Means::default(),
        }
    }

    /// Each once.
    fn claims(self) -> impl Iterator<Item = Claim> {
        let Self { asked, found } = self;
        let new = move |claim: &Claim| !asked.claims().any(|it| it == *claim);
        asked.claims().chain(found.claims().filter(new))
    }
}

/// What the status tells of values.
#[derive(Clone, Default, PartialEq)]
pub struct Values {
    /// The token whose value the Secret holds.
    held: Option<Print>,
    /// The role that names that token by its name: the name stood for it when the value was stored.
    named: Option<Role>,
    /// Tokens of which it has stored a value.
    stored: Box<[Print]>,
    /// The token that it has begun to rotate, and when. Few have at a time, and the others take no room for it.
    begun: Option<Box<(Print, Timestamp)>>,
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
        let is_named = |(_, token): &(Role, &TokenRef)| {
            held.is_some_and(|held| token.name.as_ref() == Some(&held.name))
        };
        let named = resource.spec.references().find(is_named);
        Self {
            held: held.map(|held| prints.token(&held.id)),
            named: named.map(|(role, _)| role),
            stored: stored.into(),
            begun: pending.map(|it| Box::new((prints.token(&it.token_id), it.started_at.0))),
        }
    }

    /// When it has begun to rotate this token.
    fn begun(&self, id: Print) -> Option<Timestamp> {
        let (token, begun) = **self.begun.as_ref()?;
        (token == id).then_some(begun)
    }

    /// Adds what was known before: a resource may be as it was before its last write.
    pub fn add(&mut self, before: &Self) {
        if self.begun.is_none() {
            self.begun.clone_from(&before.begun);
        }
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
    pub secret: Print,
    /// The Secret with its credential, where its spec names one.
    pub credential: Option<Print>,
    /// The token of its spec.
    token: Meant,
    /// The one that takes turns with it. Most have none, and take no room for it.
    alternate: Option<Box<Meant>>,
    /// What its status tells of values.
    pub values: Values,
    /// Whether it can work on that token; `None`: it has not shown yet.
    pub able: Option<bool>,
    /// When this process saw it first. An edit is no new beginning.
    pub since: Timestamp,
}

/// A claim that a claimant needs in order to work.
#[derive(Clone, Copy)]
pub struct Want {
    /// What it claims.
    pub claim: Claim,
    /// The token that it means by that, as far as it is known.
    id: Option<Print>,
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
    /// It may keep it.
    May {
        /// When it has begun a rotation.
        begun: Option<Timestamp>,
        /// If it is the older one, whether it can work.
        able: Option<bool>,
        /// Whether the other one has begun a rotation of what the two are found to mean.
        is_other_begun: bool,
    },
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
        let meant = |token: &TokenRef| Meant::asked(prints, resource, token);
        let alternate = resource.spec.reference(Role::Alternate);
        let credential = resource.spec.credentials.as_ref();
        Self {
            secret: prints.secret(namespace, &resource.spec.target.name),
            credential: credential.map(|it| prints.secret(namespace, &it.secret_ref.name)),
            token: meant(&resource.spec.token),
            alternate: alternate.map(|token| Box::new(meant(token))),
            values: Values::of(prints, resource),
            able: None,
            since: now,
        }
    }

    /// Whether two tokens take turns, so that the value in its Secret is valid all the time.
    pub fn takes_turns(&self) -> bool {
        self.alternate.is_some()
    }

    /// The roles of its tokens.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        let has = |role: &Role| self.meant(*role).is_some();
        Role::ALL.into_iter().filter(has)
    }

    fn meant(&self, role: Role) -> Option<&Meant> {
        match role {
            Role::Token => Some(&self.token),
            Role::Alternate => self.alternate.as_deref(),
        }
    }

    fn meant_mut(&mut self, role: Role) -> Option<&mut Meant> {
        match role {
            Role::Token => Some(&mut self.token),
            Role::Alternate => self.alternate.as_deref_mut(),
        }
    }

    /// Whether the spec of a resource still names the tokens that are known.
    pub fn is_asked_by(&self, prints: &Prints, resource: &WorkspaceTokenRotation) -> bool {
        Role::ALL.into_iter().all(|role| {
            let token = resource.spec.reference(role);
            let asked = token.map(|token| Means::asked(prints, resource, token));
            self.meant(role).map(|it| it.asked) == asked
        })
    }

    /// Takes over what was found out `before`, as far as the spec is the same.
    pub fn keep_shown(&mut self, before: &Self) {
        let mut is_same = self.alternate.is_some() == before.alternate.is_some();
        for role in Role::ALL {
            if let (Some(meant), Some(before)) = (self.meant_mut(role), before.meant(role)) {
                match meant.asked == before.asked {
                    true => meant.found = before.found,
                    false => is_same = false,
                }
            }
        }
        self.able = before.able.filter(|_| is_same);
    }

    /// Whether this is what the token of a role was found to be; nothing is found of a role that it has not.
    pub fn is_found(&self, role: Role, token: Means) -> bool {
        self.meant(role).is_none_or(|it| it.found == token)
    }

    /// Takes note of what the token of a role was found to be.
    pub fn find(&mut self, role: Role, token: Means) {
        if let Some(meant) = self.meant_mut(role) {
            meant.found = token;
        }
    }

    /// All that it claims: its Secret, the tokens of its spec, and the one whose value its Secret holds; each once.
    pub fn claims(&self) -> impl Iterator<Item = Claim> {
        let all = self.claimed().enumerate();
        let new =
            |(place, claim): &(usize, Claim)| !self.claimed().take(*place).any(|it| it == *claim);
        all.filter(new).map(|(_, claim)| claim)
    }

    /// The same, some of it more than once.
    fn claimed(&self) -> impl Iterator<Item = Claim> {
        let meant = self.roles().filter_map(|role| self.meant(role));
        let tokens = meant.flat_map(|it| it.claims());
        let held = self.values.held.map(Claim::TokenId);
        std::iter::once(Claim::Secret(self.secret))
            .chain(tokens)
            .chain(held)
    }

    /// Whether this is one of its claims.
    pub fn has(&self, claim: Claim) -> bool {
        self.claimed().any(|it| it == claim)
    }

    /// What it needs in order to work on whatever token.
    pub fn wants_secret(&self) -> Want {
        Want {
            claim: Claim::Secret(self.secret),
            id: None,
        }
    }

    /// What it needs in order to work on the token of a role. The token that its Secret holds is none of that: it may be
    /// none of the spec's any more.
    pub fn wants(&self, role: Role) -> impl Iterator<Item = Want> {
        let meant = self.meant(role).into_iter();
        meant.flat_map(|it| it.claims()).map(move |claim| Want {
            claim,
            id: match claim {
                Claim::TokenId(id) => Some(id),
                Claim::Secret(_) | Claim::TokenName(_) => self.id(role),
            },
        })
    }

    /// The same of whatever role, or of the Secret, as far as it is this claim.
    pub fn wants_with(&self, claim: Claim) -> impl Iterator<Item = Want> {
        let of_tokens = self.roles().flat_map(|role| self.wants(role));
        let all = std::iter::once(self.wants_secret()).chain(of_tokens);
        all.filter(move |want| want.claim == claim)
    }

    /// Whether it has begun a rotation or stored a value, of whatever token.
    pub fn has_begun(&self) -> bool {
        self.has_stored() || self.values.begun.is_some()
    }

    /// Whether it has stored a value, of whatever token.
    pub fn has_stored(&self) -> bool {
        !self.values.stored.is_empty()
    }

    /// The token of a role, as far as it is known.
    fn id(&self, role: Role) -> Option<Print> {
        let Meant { asked, found } = self.meant(role)?;
        let presumed = self.values.held.filter(|_| self.values.named == Some(role));
        asked.id.or(found.id).or(presumed)
    }

    /// The token that it means by one of its claims, as far as it is known.
    fn id_by(&self, claim: Claim) -> Option<Print> {
        match claim {
            Claim::Secret(_) => None,
            Claim::TokenId(id) => Some(id),
            Claim::TokenName(_) => {
                let has = |role: &Role| {
                    let meant = self.meant(*role);
                    meant.is_some_and(|it| it.claims().any(|it| it == claim))
                };
                self.roles().find(has).and_then(|role| self.id(role))
            }
        }
    }

    fn standing(&self, id: Print, at: Moment<'_>) -> Standing {
        if self.values.stored.contains(&id) {
            return Standing::Stored;
        }
        let begun = self.values.begun(id);
        let until = begun.and_then(|begun| at.within(begun, at.pace.in_flight()));
        until.map_or(Standing::Nothing, Standing::Begun)
    }

    /// Whether this one, with the same claim, keeps `own` from what it wants; and until when, where that is not for good.
    pub fn keeps(
        &self,
        own: &Self,
        is_older: bool,
        want: Want,
        at: Moment<'_>,
    ) -> Option<Option<Timestamp>> {
        if matches!(want.claim, Claim::Secret(_)) {
            return is_older.then_some(None);
        }
        let id = self.same_token(want)?;
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

    /// What this one means to `own`, which wants something; without regard to time, it is never less than
    /// [`Known::keeps`] says.
    pub fn bearing(&self, own: &Self, is_older: bool, want: Want) -> Bearing {
        if !self.has(want.claim) {
            return Bearing::None;
        }
        if matches!(want.claim, Claim::Secret(_)) {
            return if is_older {
                Bearing::Keeps
            } else {
                Bearing::None
            };
        }
        let Some(id) = self.same_token(want) else {
            return Bearing::None;
        };
        let has_stored = |known: &Self| id.is_some_and(|id| known.values.stored.contains(&id));
        match (has_stored(self), has_stored(own)) {
            (true, false) => return Bearing::Keeps,
            (true, true) if is_older => return Bearing::Keeps,
            (_, true) => return Bearing::None,
            (false, false) => {}
        }
        let begun = |known: &Self| id.and_then(|id| known.values.begun(id));
        let may_keep = begun(self).is_some() || is_older && self.able != Some(false);
        match may_keep {
            true => Bearing::May {
                begun: begun(self),
                able: self.able.filter(|_| is_older),
                is_other_begun: begun(own).is_some(),
            },
            false => Bearing::None,
        }
    }

    /// The token that both mean by a claim, as far as it is known; `None`: the same name, and not the same token.
    fn same_token(&self, want: Want) -> Option<Option<Print>> {
        match (self.id_by(want.claim), want.id) {
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
