//! Who may work on a token and on a Secret: of several resources with a claim, the one that has stored a value, or else the
//! oldest that can work.

mod able;
mod conflict;
mod known;
mod print;
mod record;
mod ring;

pub use self::able::is_able;

use self::conflict::conflict;
use self::known::{Bearing, Claim, Known, Means, Moment, Values, Want};
use self::print::Prints;
use self::record::{Claimant, Index, Record, Records, names};
use crate::api::{Key, Role, WorkspaceTokenRotation};
use crate::decide::entity::Entity;
use crate::decide::evidence::{Rival, Token};
use crate::decide::pace::Pace;
use jiff::Timestamp;
use std::collections::{BTreeSet, HashSet};

/// Most resources that one change wakes. Those that go on soonest are among them; the others look again by themselves,
/// as whoever has to wait does within [`Pace::blocked_longest_retry`], and whoever works within [`Pace::audit`].
const MOST_WOKEN: usize = 256;

/// All claims of all resources, kept up with the watch.
///
/// A Secret goes to the oldest claimant. A token goes to the one that has stored a value of it, and to the oldest of
/// several that have. While none has, it goes to the oldest that can work on it. One that has not shown yet whether it
/// can is waited for until [`Pace::rival_patience`] after this process saw it first, and no longer: its credential may
/// never be answered. Else a tenant without a working credential could block another one's token by naming it first.
///
/// A resource claims the tokens of its spec, one or two, and the token whose value its Secret holds: after an edit that may
/// be none of the spec's, and its value is in use until the next rotation replaces it. Each token is decided on alone. One
/// that names two tokens and can have neither of them waits; one that can have one of them works on that, and does not wait.
///
/// *Has stored* means that `status` says so: a rotation of the token in the history that ended as stored, or the token
/// of the value that the Secret holds, which is how a value is known that was adopted. A rotation that may be in flight
/// counts as long as it may: its value may be stored any moment.
///
/// Why no two can fight over a token:
/// * Between any two with a claim to a token the order is total: who has stored goes first, then who has begun, then who
///   is older. So of those that have stored one is free to work, the oldest, and whoever has not stored is not.
/// * What is found out about credentials and tokens decides only among those that have stored nothing. So nothing that
///   becomes of a credential, no answer of the vendor's, no time that passes and no start of the operator takes a token
///   from the one that has stored it. That takes an edit of its spec, its deletion, or the removal of an adopted value.
/// * One that has stored nothing, and gets nothing because another did, has no value to lose. That it can work after all
///   changes nothing, however old it is.
/// * Where two that can work are free for a moment, before either has stored, work on the token itself is exclusive
///   within the process, and the rotation that was begun first is known before another can begin.
/// * Tenants do not write `status`, and what a Secret's annotations say of a token enters it only once the vendor has
///   shown that token to the resource's own credential.
///
/// After a start or a change of leader nobody has shown anything yet, and who has stored what is known at once: the one
/// that has goes on, and the others wait. Where none has, a younger one waits a moment, and its status stays as it is. One
/// that names its token by name may make one call then, to find out which it is.
///
/// Whoever waits for another is woken when that one's bearing on it changes, and whoever can work on a token when another
/// one's does. A rotation of a token that its resource had stored before wakes nobody.
#[derive(Default)]
pub struct Claims {
    prints: Prints,
    records: Records,
    /// Each by namespace and name.
    resources: Index,
    /// Each by what it claims.
    claimants: Index,
    /// Who waits for whom, by number. One with two tokens waits for the first of two that lets it work.
    waiting: BTreeSet<(u32, u32)>,
}

/// What others keep a resource from.
#[derive(Debug, Default, PartialEq)]
pub struct Rivals {
    /// What keeps the resource from working at all: the Secret, or every token of its spec. Of the rivals for two tokens it
    /// names one that keeps its token for good before one that does for a while, and it lasts until one of the two lets go.
    pub whole: Option<Rival>,
    /// Of two tokens, those that another resource keeps while the other token is free.
    pub taken: Vec<(Role, Rival)>,
}

/// One that keeps another from something it wants.
struct Keeper {
    /// By what claim.
    claim: Claim,
    /// Its number.
    number: u32,
    /// Until when at the most; `None`: for good.
    until: Option<Timestamp>,
}

/// All that keep one from something.
struct Keepers {
    /// Those that keep it from working at all: one, or one for each of two tokens, and of these one that does for good first.
    whole: Vec<Keeper>,
    /// Those that keep it from one token while the other is free.
    taken: Vec<(Role, Keeper)>,
}

impl Claims {
    /// Takes note of a resource as it is `now`; returns who has to look again.
    pub fn apply(&mut self, resource: &WorkspaceTokenRotation, now: Timestamp) -> Vec<Key> {
        let mut fresh = Known::of(&self.prints, resource, now);
        let Some((number, known)) = self.find(resource) else {
            return self.add(resource, fresh);
        };
        fresh.since = known.since;
        fresh.keep_shown(known);
        self.change(number, fresh)
    }

    /// The same of what could be read of a resource, unless more is known of it.
    pub fn apply_part(&mut self, resource: &WorkspaceTokenRotation, now: Timestamp) -> Vec<Key> {
        match self.find(resource) {
            Some(_) => Vec::new(),
            None => self.apply(resource, now),
        }
    }

    /// Takes note of what the status that was just written tells of values, before the watch does.
    pub fn book(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        let values = Values::of(&self.prints, resource);
        let is_same = |known: &Known| known.values == values;
        self.change_seen(resource, is_same, |known| known.values = values.clone())
    }

    /// Takes note of the token that a resource means by a role, so that its rivals are found without a call.
    pub fn learn(
        &mut self,
        resource: &WorkspaceTokenRotation,
        role: Role,
        token: &Token,
    ) -> Vec<Key> {
        let found = Means::found(&self.prints, resource, token);
        let is_same = |known: &Known| known.is_found(role, found);
        self.change_seen(resource, is_same, |known| known.find(role, found))
    }

    /// Takes note of whether a resource can work.
    pub fn judge(&mut self, resource: &WorkspaceTokenRotation, able: bool) -> Vec<Key> {
        let able = Some(able);
        let is_same = |known: &Known| known.able == able;
        self.change_seen(resource, is_same, |known| known.able = able)
    }

    /// Forgets a resource; returns who waited for that.
    pub fn remove(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        let number = self.find(resource).map(|(number, _)| number);
        number.map_or_else(Vec::new, |number| self.gone(number))
    }

    /// Forgets every resource that does not stay: deletions may be missed while a watch is down.
    pub fn retain(&mut self, stays: impl Fn(&Key) -> bool) -> Vec<Key> {
        let all = self.records.iter();
        let gone = all.filter(|(_, record)| !stays(&record.claimant.key()));
        let gone: Vec<_> = gone.map(|(number, _)| number).collect();
        gone.into_iter()
            .flat_map(|number| self.gone(number))
            .collect()
    }

    /// Whether some resource names this token of an entity, by its name or by its id, or holds a value of it.
    pub fn is_named(&self, entity: &Entity, token: &Token) -> bool {
        let prints = [
            self.prints.token(&token.id),
            self.prints.token_name(entity, &token.name),
        ];
        let mut any = prints.iter().flat_map(|it| self.claimants.since(*it, 0));
        any.next().is_some()
    }

    /// The older resources with a claim to a token of this one's spec, whether or not they can work on it.
    pub fn older(&self, resource: &WorkspaceTokenRotation) -> HashSet<Key> {
        let own = self.find(resource);
        let own = own.and_then(|(number, known)| Some((self.records.get(number)?, known)));
        let older = own.into_iter().flat_map(|(own, known)| {
            let wants = known.roles().flat_map(|role| known.wants(role));
            let all = wants.flat_map(|want| self.with(want.claim));
            all.filter(|(_, one)| one.claimant < own.claimant)
        });
        older.map(|(_, one)| one.claimant.key()).collect()
    }

    /// What others keep this resource from `now`; it then waits for those that keep it from working at all.
    pub fn rivals(
        &mut self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        pace: &Pace,
    ) -> Rivals {
        let mut known = Known::of(&self.prints, resource, now);
        let number = self.find(resource).map(|(number, before)| {
            // The resource may be as it was before its last write.
            known.values.add(&before.values);
            known.keep_shown(before);
            number
        });
        let unknown;
        let own = match number.and_then(|number| self.records.get(number)) {
            Some(record) => &record.claimant,
            None => {
                unknown = Claimant::of(resource);
                &unknown
            }
        };
        let Keepers { whole, taken } = self.keepers(own, number, &known, Moment { now, pace });
        let taken = taken.iter();
        let taken = taken.filter_map(|(role, keeper)| Some((*role, self.rival(keeper, own)?)));
        let first = whole.first().and_then(|keeper| self.rival(keeper, own));
        let until = whole.iter().filter_map(|keeper| keeper.until).min();
        let rivals = Rivals {
            whole: first.map(|first| Rival { until, ..first }),
            taken: taken.collect(),
        };
        if let Some(number) = number {
            self.wait_no_more(number);
            let pairs = whole.iter().map(|keeper| (number, keeper.number));
            self.waiting.extend(pairs);
        }
        rivals
    }

    /// The conflict that is reported to `own` because of this keeper.
    fn rival(&self, keeper: &Keeper, own: &Claimant) -> Option<Rival> {
        let rival = &self.records.get(keeper.number)?.claimant;
        Some(Rival {
            blocked: conflict(keeper.claim, rival, own),
            until: keeper.until,
        })
    }

    /// Who keeps `own` from what.
    fn keepers(
        &self,
        own: &Claimant,
        number: Option<u32>,
        known: &Known,
        at: Moment<'_>,
    ) -> Keepers {
        let keeper = |want| self.keeper(own, number, known, want, at);
        if let Some(keeper) = keeper(known.wants_secret()) {
            return Keepers {
                whole: vec![keeper],
                taken: Vec::new(),
            };
        }
        let of_role = |role| {
            let all = known.wants(role).filter_map(keeper);
            Some((role, all.min_by_key(|keeper| keeper.until.is_some())?))
        };
        let taken: Vec<_> = known.roles().filter_map(of_role).collect();
        if taken.len() < known.roles().count() {
            return Keepers {
                whole: Vec::new(),
                taken,
            };
        }
        let mut whole: Vec<_> = taken.into_iter().map(|(_, keeper)| keeper).collect();
        whole.sort_by_key(|keeper| keeper.until.is_some());
        Keepers {
            whole,
            taken: Vec::new(),
        }
    }

    /// Who keeps `own` from what it wants; one that does for good before one that does for a while, and of several the
    /// oldest.
    fn keeper(
        &self,
        own: &Claimant,
        number: Option<u32>,
        known: &Known,
        want: Want,
        at: Moment<'_>,
    ) -> Option<Keeper> {
        let mut best: Option<(u32, &Claimant, Option<Timestamp>)> = None;
        for (
            other,
            Record {
                claimant,
                known: of,
            },
        ) in self.with(want.claim)
        {
            if let Some((_, best, None)) = best
                && best.second() < claimant.second()
            {
                break;
            }
            let keeps = || of.keeps(known, claimant < own, want, at);
            let Some(until) = (Some(other) != number).then(keeps).flatten() else {
                continue;
            };
            let rank = |claimant, until: Option<_>| (until.is_some(), claimant);
            if best.is_none_or(|(_, it, its)| rank(claimant, until) < rank(it, its)) {
                best = Some((other, claimant, until));
            }
        }
        best.map(|(number, _, until)| Keeper {
            claim: want.claim,
            number,
            until,
        })
    }

    /// A resource that is known, and what is known of it.
    fn find(&self, resource: &WorkspaceTokenRotation) -> Option<(u32, &Known)> {
        let (namespace, name) = names(resource);
        let print = self.prints.resource(namespace, name);
        let all = self.resources.since(print, 0);
        let mut all = all.filter_map(|number| Some((number, self.records.get(number)?)));
        let found = all.find(|(_, one)| one.claimant.is(resource))?;
        Some((found.0, &found.1.known))
    }

    /// All with this claim, those of one second in no order, and else the older first.
    fn with(&self, claim: Claim) -> impl Iterator<Item = (u32, &Record)> {
        self.with_since(claim, 0)
    }

    /// The same of those that were created in this second or later.
    fn with_since(&self, claim: Claim, second: u32) -> impl Iterator<Item = (u32, &Record)> {
        let all = self.claimants.since(claim.print(), second);
        let all = all.filter_map(|number| Some((number, self.records.get(number)?)));
        all.filter(move |(_, record)| record.known.has(claim))
    }

    /// Takes in one that is not known yet. Whatever had its name before is gone.
    fn add(&mut self, resource: &WorkspaceTokenRotation, known: Known) -> Vec<Key> {
        let (namespace, name) = names(resource);
        let print = self.prints.resource(namespace, name);
        let before = self.resources.since(print, 0).find(|number| {
            let before = self.records.get(*number);
            before.is_some_and(|it| it.claimant.names() == (namespace, name))
        });
        let mut woken = before.map_or_else(Vec::new, |number| self.gone(number));
        let claimant = Claimant::of(resource);
        let second = claimant.second();
        let number = self.records.add(Record {
            claimant,
            known: known.clone(),
        });
        self.resources.insert(print, second, number);
        for claim in known.claims() {
            self.claimants.insert(claim.print(), second, number);
        }
        let affected = self.affected(number, None, Some(&known));
        woken.extend(self.woken(affected));
        woken
    }

    /// Edits what is known, unless it is so already. Not what was found out of another spec, or of one that is gone.
    fn change_seen(
        &mut self,
        resource: &WorkspaceTokenRotation,
        is_same: impl FnOnce(&Known) -> bool,
        edit: impl FnOnce(&mut Known),
    ) -> Vec<Key> {
        match self.find(resource) {
            Some((number, known))
                if !is_same(known) && known.is_asked_by(&self.prints, resource) =>
            {
                let mut known = known.clone();
                edit(&mut known);
                self.change(number, known)
            }
            _ => Vec::new(),
        }
    }

    /// Changes what is known; returns who has to look again.
    fn change(&mut self, number: u32, new: Known) -> Vec<Key> {
        let Some(record) = self.records.get_mut(number) else {
            return Vec::new();
        };
        if record.known == new {
            return Vec::new();
        }
        let second = record.claimant.second();
        let old = std::mem::replace(&mut record.known, new.clone());
        for claim in old.claims().filter(|it| !new.has(*it)) {
            self.claimants.remove(claim.print(), second, number);
        }
        for claim in new.claims().filter(|it| !old.has(*it)) {
            self.claimants.insert(claim.print(), second, number);
        }
        let affected = self.affected(number, Some(&old), Some(&new));
        self.woken(affected)
    }

    /// Forgets one for good, also as one that waits and as one that is waited for.
    fn gone(&mut self, number: u32) -> Vec<Key> {
        let Some(known) = self.records.get(number).map(|it| it.known.clone()) else {
            return Vec::new();
        };
        let affected = self.affected(number, Some(&known), None);
        let all = known.claims().flat_map(|claim| self.with(claim));
        let others: Vec<_> = all.map(|(other, _)| other).collect();
        for other in others {
            self.waiting.remove(&(other, number));
        }
        self.wait_no_more(number);
        if let Some(Record { claimant, .. }) = self.records.remove(number) {
            let second = claimant.second();
            let (namespace, name) = claimant.names();
            let print = self.prints.resource(namespace, name);
            self.resources.remove(print, second, number);
            for claim in known.claims() {
                self.claimants.remove(claim.print(), second, number);
            }
        }
        self.woken(affected)
    }

    /// Those on which the bearing of one has changed, of those that wait for it or can work; the first go on soonest.
    fn affected(&self, number: u32, old: Option<&Known>, new: Option<&Known>) -> Vec<u32> {
        let Some(Record { claimant, .. }) = self.records.get(number) else {
            return Vec::new();
        };
        let mut affected = Vec::new();
        let states = || old.into_iter().chain(new);
        // One that has begun nothing keeps only younger ones.
        let since = match states().any(Known::has_begun) {
            true => 0,
            false => claimant.second(),
        };
        for claim in states().flat_map(Known::claims) {
            let all = self.with_since(claim, since);
            for (other, one) in all.filter(|(other, _)| *other != number) {
                let waits = self.waiting.contains(&(other, number));
                let bearing = |known: Option<&Known>, want| {
                    let is_older = *claimant < one.claimant;
                    known.map_or(Bearing::None, |it| it.bearing(&one.known, is_older, want))
                };
                let mut wants = one.known.wants_with(claim);
                if (waits || one.known.able == Some(true))
                    && wants.any(|want| bearing(old, want) != bearing(new, want))
                {
                    affected.push((other, one));
                }
            }
        }
        affected.sort_by_key(|(number, Record { claimant, known })| {
            (
                !known.has_stored(),
                known.able != Some(true),
                claimant,
                *number,
            )
        });
        let mut affected: Vec<_> = affected.into_iter().map(|(number, _)| number).collect();
        affected.dedup();
        affected
    }

    /// Removes what is recorded about whom this one waits for; its next look records it anew.
    fn wait_no_more(&mut self, number: u32) {
        let of = |waiting: &BTreeSet<_>| {
            let mut all = waiting.range((number, 0)..=(number, u32::MAX));
            all.next().copied()
        };
        while let Some(pair) = of(&self.waiting) {
            self.waiting.remove(&pair);
        }
    }

    /// The keys of those that are woken, who wait for nobody until they have looked again.
    fn woken(&mut self, mut affected: Vec<u32>) -> Vec<Key> {
        affected.truncate(MOST_WOKEN);
        for number in &affected {
            self.wait_no_more(*number);
        }
        let records = affected
            .iter()
            .filter_map(|number| self.records.get(*number));
        records.map(|record| record.claimant.key()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        Cause, HistoryEntry, Pending, RotationOutcome, Scope, TokenStatus,
        WorkspaceTokenRotationSpec,
    };
    use crate::reason::Reason;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

    const PACE: Pace = Pace::SHIPPED;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(2_000_000 + seconds).unwrap()
    }

    fn resource(name: &str, age: i64, token: &str, secret: &str) -> WorkspaceTokenRotation {
        let spec = serde_json::json!({
            "workspaceId": "ws",
            "token": if token.starts_with("id-") { serde_json::json!({"id": token}) } else { serde_json::json!({"name": token}) },
            "schedule": {"every": "1d"},
            "target": {"name": secret},
        });
        let spec: WorkspaceTokenRotationSpec = serde_json::from_value(spec).unwrap();
        let mut resource = WorkspaceTokenRotation::new(name, spec);
        resource.metadata.namespace = Some("ns".into());
        resource.metadata.uid = Some(format!("uid-{name}"));
        resource.metadata.creation_timestamp =
            Some(Time(Timestamp::from_second(1_000_000 - age).unwrap()));
        resource
    }

    /// With a second token.
    fn with_alternate(mut resource: WorkspaceTokenRotation, token: &str) -> WorkspaceTokenRotation {
        let other = self::resource("other", 0, token, "other");
        resource.spec.alternate_token = Some(other.spec.token);
        resource
    }

    /// With a rotation of this token in its history.
    fn with_history(mut resource: WorkspaceTokenRotation, token: &str) -> WorkspaceTokenRotation {
        let status = resource.status.get_or_insert_default();
        status.history.push(HistoryEntry {
            id: "r".into(),
            reason: Cause::Initial,
            at: Time(Timestamp::UNIX_EPOCH),
            token_id: token.into(),
            outcome: RotationOutcome::Stored,
        });
        resource
    }

    /// With a value of this token that was adopted, and not rotated.
    fn with_adopted(mut resource: WorkspaceTokenRotation, token: &str) -> WorkspaceTokenRotation {
        resource.status.get_or_insert_default().token = Some(TokenStatus {
            id: token.into(),
            name: "CI".into(),
            ..TokenStatus::default()
        });
        resource
    }

    /// With a rotation of this token that was begun `at`.
    fn with_pending(
        mut resource: WorkspaceTokenRotation,
        token: &str,
        at: Timestamp,
    ) -> WorkspaceTokenRotation {
        resource.status.get_or_insert_default().pending = Some(Pending {
            id: "r".into(),
            reason: Cause::Initial,
            attempt: 1,
            token_id: token.into(),
            started_at: Time(at),
            replaces: Default::default(),
            holder: "x".into(),
            request: None,
            revoke: None,
        });
        resource
    }

    fn token(id: &str, name: &str) -> Token {
        Token {
            id: id.into(),
            name: name.into(),
            ..Token::default()
        }
    }

    /// As after a start of the operator.
    fn of(resources: &[&WorkspaceTokenRotation]) -> Claims {
        let mut claims = Claims::default();
        for resource in resources {
            claims.apply(resource, at(0));
        }
        claims
    }

    fn rival(claims: &mut Claims, resource: &WorkspaceTokenRotation) -> Option<Rival> {
        claims.rivals(resource, at(0), &PACE).whole
    }

    /// Whether it has to wait after so many seconds, and how: `for good` or until when.
    fn waits(claims: &mut Claims, resource: &WorkspaceTokenRotation, after: i64) -> String {
        match claims.rivals(resource, at(after), &PACE).whole {
            None => "free".into(),
            Some(Rival { until: None, .. }) => "for good".into(),
            Some(Rival {
                until: Some(until), ..
            }) => format!("until {}", until.duration_since(at(0)).as_secs()),
        }
    }

    /// Why it has to wait, if it has.
    fn reason(claims: &mut Claims, resource: &WorkspaceTokenRotation) -> Option<Reason> {
        Some(rival(claims, resource)?.blocked.reason)
    }

    #[test]
    fn a_token_is_named_by_its_id_or_by_its_name_in_its_workspace() {
        let one = resource("one", 2, "CI", "one");
        let by_name = one.spec.token.name.clone().unwrap();
        let workspace = |id: &str| Entity {
            scope: Scope::Workspace,
            id: id.into(),
        };
        let (ours, another) = (Entity::of(&one.spec), workspace("another"));
        let mut claims = of(&[&one]);
        assert!(claims.is_named(&ours, &token("x", &by_name)));
        assert!(!claims.is_named(&another, &token("x", &by_name)));
        assert!(!claims.is_named(&ours, &token("x", "another")));
        let two = resource("two", 1, "id-X", "two");
        claims.apply(&two, at(0));
        assert!(claims.is_named(&another, &token("ID-x", "another")));
        claims.remove(&two);
        claims.remove(&one);
        assert!(!claims.is_named(&ours, &token("id-x", &by_name)));
    }

    #[test]
    fn the_oldest_works_whatever_the_order_of_events_and_the_other_is_woken_when_it_goes() {
        let (old, young) = (
            resource("old", 9, "id-1", "a"),
            resource("young", 5, "id-1", "b"),
        );
        for order in [[&old, &young], [&young, &old]] {
            let mut claims = of(&order);
            assert_eq!(rival(&mut claims, &old), None);
            assert_eq!(reason(&mut claims, &young), Some(Reason::TokenConflict));
            assert_eq!(claims.remove(&old), [Key::from(&young)]);
            assert_eq!(rival(&mut claims, &young), None);
        }
    }

    #[test]
    fn one_that_is_gone_is_not_waited_for_by_anybody_and_waits_for_nobody() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        assert!(rival(&mut claims, &young).is_some());
        // Found out of a pass that was under way meanwhile.
        claims.remove(&young);
        assert!(rival(&mut claims, &young).is_some());
        assert!(claims.waiting.is_empty());
        assert!(claims.remove(&old).is_empty());
        // Made again under its name, it is another one.
        let mut again = young.clone();
        again.metadata.uid = Some("another".into());
        let mut claims = of(&[&old, &young, &again]);
        assert!(rival(&mut claims, &young).is_some() && rival(&mut claims, &again).is_some());
        claims.remove(&young);
        assert_eq!(claims.judge(&old, true), [Key::from(&again)]);
    }

    #[test]
    fn one_by_name_and_one_by_id_are_rivals_as_soon_as_either_is_known() {
        let (by_id, by_name) = (("x", "id-1"), ("y", "CI"));
        for (older, younger) in [(by_id, by_name), (by_name, by_id)] {
            let older = resource(older.0, 9, older.1, "a");
            let younger = resource(younger.0, 5, younger.1, "b");
            for known in [&older, &younger] {
                let mut claims = of(&[&older, &younger]);
                assert_eq!(rival(&mut claims, &younger), None, "nothing is known yet");
                claims.learn(known, Role::Token, &token("id-1", "CI"));
                assert_eq!(reason(&mut claims, &younger), Some(Reason::TokenConflict));
                assert_eq!(rival(&mut claims, &older), None);
            }
        }
    }

    #[test]
    fn two_tokens_of_one_name_are_no_conflict_and_a_name_that_moved_is_none_any_more() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-2", "b"));
        let mut claims = of(&[&old, &young]);
        claims.learn(&old, Role::Token, &token("id-1", "CI"));
        claims.learn(&young, Role::Token, &token("id-2", "CI"));
        assert_eq!(rival(&mut claims, &young), None);

        let by_name = resource("x", 9, "CI", "a");
        let mut claims = of(&[&by_name, &young]);
        claims.learn(&by_name, Role::Token, &token("id-2", "CI"));
        assert!(rival(&mut claims, &young).is_some());
        let woken = claims.learn(&by_name, Role::Token, &token("id-3", "CI"));
        assert_eq!(woken, [Key::from(&young)]);
        assert_eq!(rival(&mut claims, &young), None);
    }

    #[test]
    fn one_secret_has_one_writer_and_an_edit_of_the_older_wakes_the_younger() {
        let (old, young) = (resource("x", 9, "id-1", "s"), resource("y", 5, "id-2", "s"));
        let mut claims = of(&[&old, &young]);
        claims.judge(&old, false);
        assert_eq!(reason(&mut claims, &young), Some(Reason::TargetConflict));
        assert!(claims.apply(&old, at(1)).is_empty(), "nothing changed");
        let moved = resource("x", 9, "id-1", "elsewhere");
        assert_eq!(claims.apply(&moved, at(1)), [Key::from(&young)]);
        assert_eq!(rival(&mut claims, &young), None);
    }

    #[test]
    fn one_that_cannot_work_keeps_nobody_from_a_token_it_never_had() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        assert_eq!(waits(&mut claims, &young, 0), "until 60");
        assert_eq!(claims.judge(&old, false), [Key::from(&young)]);
        assert_eq!(rival(&mut claims, &young), None);
        claims.judge(&young, true);
        // It can after all: the one that took its place is woken.
        assert_eq!(claims.judge(&old, true), [Key::from(&young)]);
        assert_eq!(waits(&mut claims, &young, 0), "for good");
    }

    #[test]
    fn who_has_stored_a_value_goes_first_whoever_is_older_and_whatever_else_is_known() {
        type Had = fn(WorkspaceTokenRotation) -> WorkspaceTokenRotation;
        let none: Had = |it| it;
        let rotated: Had = |it| with_history(it, "id-1");
        let adopted: Had = |it| with_adopted(it, "ID-1");
        let other: Had = |it| {
            let mut other = with_history(with_adopted(it, "id-2"), "id-3");
            other.status.as_mut().unwrap().token.as_mut().unwrap().name = "Other".into();
            other
        };
        let silent = None;
        for (older, able, younger, expected) in [
            // Neither has: the older one, if it can, or may yet show it.
            (none, Some(true), none, ["free", "for good"]),
            (none, silent, none, ["free", "until 60"]),
            (none, Some(false), none, ["free", "free"]),
            (other, Some(false), other, ["free", "free"]),
            (other, silent, none, ["free", "until 60"]),
            // The older one has: what becomes of its credential is of no matter.
            (rotated, Some(false), none, ["free", "for good"]),
            (adopted, Some(false), none, ["free", "for good"]),
            (adopted, silent, none, ["free", "for good"]),
            (adopted, Some(true), other, ["free", "for good"]),
            // The younger one has: the older gets nothing back.
            (none, Some(true), rotated, ["for good", "free"]),
            (none, silent, adopted, ["for good", "free"]),
            (none, Some(false), adopted, ["for good", "free"]),
            (other, Some(true), adopted, ["for good", "free"]),
            // Both have.
            (adopted, Some(false), rotated, ["free", "for good"]),
            (rotated, Some(true), adopted, ["free", "for good"]),
        ] {
            for (by_older, by_younger) in [("id-1", "id-1"), ("CI", "id-1"), ("id-1", "CI")] {
                let older = older(resource("x", 9, by_older, "a"));
                let younger = younger(resource("y", 5, by_younger, "b"));
                let mut claims = of(&[&older, &younger]);
                for by_id in [&older, &younger] {
                    if by_id.spec.token.id.is_some() {
                        claims.learn(by_id, Role::Token, &token("id-1", "CI"));
                    }
                }
                able.map(|able| claims.judge(&older, able));
                let found = [&older, &younger].map(|it| waits(&mut claims, it, 0));
                assert_eq!(found, expected, "{by_older} {by_younger} {able:?}");
            }
        }
    }

    #[test]
    fn one_whose_credential_is_never_answered_keeps_nobody_for_longer_than_a_minute() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old]);
        claims.apply(&young, at(59));
        assert_eq!(waits(&mut claims, &young, 59), "until 60");
        assert_eq!(waits(&mut claims, &young, 60), "free");
        // That a clock was wrong for a moment makes it no longer.
        assert_eq!(waits(&mut claims, &young, -1_000_000), "free");
        // It can work before the younger one has stored anything, and after.
        claims.judge(&old, true);
        assert_eq!(waits(&mut claims, &young, 120), "for good");
        let young = with_history(young, "id-1");
        claims.apply(&young, at(121));
        assert_eq!(waits(&mut claims, &young, 121), "free");
        assert_eq!(waits(&mut claims, &old, 121), "for good");
        // A start of the operator: nobody has shown anything, and the minute begins for all.
        let mut claims = of(&[&old, &young]);
        assert_eq!(waits(&mut claims, &young, 0), "free");
        assert_eq!(waits(&mut claims, &old, 0), "for good");
    }

    #[test]
    fn no_edit_makes_the_minute_longer_and_a_resource_made_again_is_the_youngest() {
        let young = resource("y", 5, "id-1", "b");
        let specs = [("id-1", "c"), ("id-2", "a"), ("CI", "a"), ("id-1", "a")];
        let mut claims = of(&[&resource("x", 9, "id-1", "a"), &young]);
        claims.learn(&young, Role::Token, &token("id-1", "CI"));
        for second in 0..80 {
            let (token, secret) = specs[second as usize % specs.len()];
            claims.apply(&resource("x", 9, token, secret), at(second));
            let expected = match token {
                "id-2" => "free",
                _ if second < 60 => "until 60",
                _ => "free",
            };
            assert_eq!(waits(&mut claims, &young, second), expected, "{second}");
        }
        let again = resource("x", 1, "id-1", "a");
        claims.remove(&again);
        claims.apply(&again, at(100));
        assert_eq!(waits(&mut claims, &young, 100), "free");
    }

    #[test]
    fn another_target_is_no_reason_to_forget_what_a_resource_has_shown() {
        let (old, young) = (resource("x", 9, "CI", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        claims.learn(&old, Role::Token, &token("id-1", "CI"));
        claims.judge(&old, true);
        claims.apply(&resource("x", 9, "CI", "c"), at(100));
        assert_eq!(waits(&mut claims, &young, 100), "for good");
    }

    #[test]
    fn a_rotation_in_flight_keeps_others_away_as_long_as_it_may_land() {
        let old = resource("x", 9, "id-1", "a");
        let young = with_pending(resource("y", 5, "id-1", "b"), "id-1", at(0));
        let mut claims = of(&[&old, &young]);
        let (begun, end) = (at(0), PACE.in_flight().as_secs());
        claims.judge(&old, true);
        assert_eq!(waits(&mut claims, &old, 1), format!("until {end}"));
        assert_eq!(waits(&mut claims, &young, 1), "free");
        assert_eq!(waits(&mut claims, &old, end), "free");
        // Of two that have begun, as after a change of leader, the older one.
        claims.judge(&young, true);
        let old = with_pending(old, "id-1", begun);
        assert!(!claims.book(&old).is_empty(), "the younger is woken");
        assert_eq!(waits(&mut claims, &old, 1), "free");
        assert_eq!(waits(&mut claims, &young, 1), format!("until {end}"));
    }

    #[test]
    fn of_three_that_have_stored_nothing_each_waits_for_the_older_ones() {
        let all = [("x", 9), ("y", 5), ("z", 1)];
        let all = all.map(|(name, age)| resource(name, age, "id-1", name));
        let mut claims = of(&all.each_ref());
        let states = |claims: &mut Claims, after| {
            all.each_ref().map(|it| waits(claims, it, after)).join(", ")
        };
        assert_eq!(states(&mut claims, 0), "free, until 60, until 60");
        claims.judge(&all[1], true);
        assert_eq!(states(&mut claims, 0), "free, until 60, for good");
        assert_eq!(states(&mut claims, 60), "free, free, for good");
        let stored = with_adopted(all[2].clone(), "id-1");
        claims.apply(&stored, at(61));
        assert_eq!(states(&mut claims, 61), "for good, for good, free");
        assert_eq!(claims.remove(&stored).len(), 2);
        assert_eq!(states(&mut claims, 62), "free, free, for good");
    }

    #[test]
    fn what_could_be_read_of_a_resource_claims_too_and_not_against_what_is_known() {
        let old = with_adopted(resource("x", 9, "id-1", "a"), "id-1");
        let (part, young) = (resource("x", 9, "id-2", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&young]);
        claims.apply_part(&old, at(0));
        assert_eq!(waits(&mut claims, &young, 100), "for good");
        claims.apply_part(&part, at(100));
        assert_eq!(waits(&mut claims, &young, 100), "for good");
        claims.apply(&part, at(100));
        assert_eq!(waits(&mut claims, &young, 100), "free");
    }

    #[test]
    fn what_was_found_out_does_not_outlive_the_spec_it_was_found_out_of() {
        let (old, young) = (resource("x", 9, "id-9", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        claims.judge(&old, false);
        let edited = resource("x", 9, "id-1", "a");
        claims.judge(&young, true);
        assert_eq!(claims.apply(&edited, at(1)), [Key::from(&young)]);
        assert_eq!(waits(&mut claims, &young, 1), "until 60");
        claims.judge(&old, false);
        assert_eq!(
            waits(&mut claims, &young, 1),
            "until 60",
            "a verdict on the old spec"
        );
    }

    #[test]
    fn a_rotation_of_what_was_stored_before_wakes_nobody() {
        let old = with_adopted(resource("x", 9, "id-1", "a"), "id-1");
        let young = resource("y", 5, "id-1", "b");
        let mut claims = of(&[&old, &young]);
        claims.judge(&young, true);
        assert_eq!(waits(&mut claims, &young, 0), "for good");
        let begun = with_pending(old.clone(), "id-1", at(1));
        let rotated = with_history(with_history(old.clone(), "id-1"), "id-1");
        for after in [begun, rotated, old] {
            assert!(claims.book(&after).is_empty() && claims.apply(&after, at(1)).is_empty());
        }
        assert!(
            claims
                .judge(&resource("x", 9, "id-1", "a"), false)
                .is_empty()
        );
        assert_eq!(waits(&mut claims, &young, 0), "for good");
        assert_eq!(claims.remove(&resource("x", 9, "id-1", "a")).len(), 1);
    }

    #[test]
    fn of_many_that_wait_those_are_woken_first_that_have_stored_or_can_work() {
        let old = with_adopted(resource("old", 9, "id-1", "a"), "id-1");
        let many: Vec<_> = (0..1000)
            .map(|n| resource(&format!("m{n}"), 5, "id-1", &format!("s{n}")))
            .collect();
        let stored = with_adopted(resource("stored", 1, "id-1", "b"), "id-1");
        let able = resource("able", 1, "id-1", "c");
        let mut claims = of(&[&old, &stored, &able]);
        claims.judge(&able, true);
        for one in &many {
            claims.apply(one, at(0));
        }
        for one in many.iter().chain([&stored, &able]) {
            assert!(rival(&mut claims, one).is_some());
        }
        let woken = claims.remove(&old);
        assert_eq!(woken.len(), MOST_WOKEN);
        assert_eq!(woken[..2], [Key::from(&stored), Key::from(&able)]);
        assert!(claims.waiting.is_empty());
    }

    #[test]
    fn those_that_were_deleted_leave_nothing_behind() {
        let mut claims = Claims::default();
        let old = resource("old", 9, "id-1", "a");
        claims.apply(&old, at(0));
        for round in 0..10 {
            let all = (0..1000).map(|n| {
                let mut one = resource(
                    &format!("m{n}"),
                    5,
                    &format!("id-{}", n / 10),
                    &format!("s{}", n / 2),
                );
                one.metadata.uid = Some(format!("{round}-{n}"));
                one
            });
            let all: Vec<_> = all.collect();
            for one in &all {
                claims.apply(one, at(0));
                let id = one.spec.token.id.as_ref().unwrap();
                claims.learn(one, Role::Token, &token(id, id));
                claims.judge(one, true);
                rival(&mut claims, one);
            }
            assert!(claims.waiting.len() > 800);
            match round % 2 {
                0 => all.iter().for_each(|one| drop(claims.remove(one))),
                _ => drop(claims.retain(|key| key.name == "old")),
            }
            assert!(claims.waiting.is_empty() && claims.records.iter().count() == 1);
            assert!(claims.records.places() < 10, "{}", claims.records.places());
        }
        claims.remove(&old);
        assert!(claims.resources.is_empty() && claims.claimants.is_empty());
    }

    #[test]
    fn one_that_was_made_again_while_nobody_watched_takes_nothing_over_from_the_former() {
        let former = with_adopted(resource("x", 9, "id-1", "a"), "id-1");
        let young = resource("y", 5, "id-1", "b");
        let mut again = resource("x", 1, "id-1", "a");
        again.metadata.uid = Some("another".into());
        let mut claims = of(&[&former, &young]);
        assert_eq!(waits(&mut claims, &young, 0), "for good");
        assert_eq!(claims.apply(&again, at(1)), [Key::from(&young)]);
        assert_eq!(waits(&mut claims, &young, 1), "free");
        assert!(claims.remove(&former).is_empty());
        assert_eq!(waits(&mut claims, &again, 1), "until 60");
    }

    #[test]
    fn of_two_tokens_another_resource_keeps_only_the_one_that_it_has() {
        let one = with_adopted(resource("x", 9, "id-1", "a"), "id-1");
        let other = with_adopted(resource("y", 5, "id-2", "b"), "id-2");
        let mut claims = of(&[&one, &other]);
        claims.judge(&other, true);
        let both = with_alternate(one, "id-2");
        assert!(claims.apply(&both, at(1)).is_empty(), "the other goes on");
        claims.judge(&both, true);
        let Rivals { whole, taken } = claims.rivals(&both, at(1), &PACE);
        let [(Role::Alternate, rival)] = &taken[..] else {
            panic!("{taken:?}");
        };
        assert!(whole.is_none() && rival.until.is_none());
        assert_eq!(rival.blocked.reason, Reason::TokenConflict);
        assert!(rival.blocked.message.contains("resource y has a value"));
        assert_eq!(claims.rivals(&other, at(1), &PACE), Rivals::default());
        // It does not wait for another resource, and is woken all the same.
        assert!(claims.waiting.is_empty());
        assert_eq!(claims.remove(&other), [Key::from(&both)]);
        assert_eq!(claims.rivals(&both, at(1), &PACE), Rivals::default());
    }

    /// The message and the time of what keeps it from working at all, and of which tokens another resource keeps.
    fn told(claims: &mut Claims, resource: &WorkspaceTokenRotation, after: i64) -> String {
        let Rivals { whole, taken } = claims.rivals(resource, at(after), &PACE);
        let name = whole.as_ref().map(|it| {
            let (_, name) = it.blocked.message.split_once("resource ").unwrap();
            name.split(' ').next().unwrap()
        });
        let until = whole.as_ref().and_then(|it| it.until);
        let until = until.map(|it| it.duration_since(at(0)).as_secs());
        let taken: Vec<_> = taken.iter().map(|(role, _)| role.field()).collect();
        format!("{name:?} {until:?} {taken:?}")
    }

    #[test]
    fn one_without_a_token_that_is_free_waits_for_the_first_that_lets_go() {
        let stored = with_adopted(resource("stored", 9, "id-1", "a"), "id-1");
        let silent = resource("silent", 8, "id-2", "b");
        for [token, alternate] in [["id-1", "id-2"], ["id-2", "id-1"]] {
            let both = with_alternate(resource("both", 1, token, "c"), alternate);
            let taken = |id| match token == id {
                true => r#"None None ["token"]"#,
                false => r#"None None ["alternateToken"]"#,
            };
            let mut claims = of(&[&stored, &silent, &both]);
            let until_60 = r#"Some("stored") Some(60) []"#;
            assert_eq!(told(&mut claims, &both, 0), until_60);
            assert_eq!(told(&mut claims, &both, 60), taken("id-1"));
            claims.judge(&silent, true);
            assert!(told(&mut claims, &both, 0).ends_with("None []"));
            for (gone, other) in [(&silent, "id-1"), (&stored, "id-2")] {
                assert!(told(&mut claims, &both, 0).ends_with("None []"));
                assert_eq!(claims.remove(gone), [Key::from(&both)]);
                assert!(claims.waiting.is_empty());
                assert_eq!(told(&mut claims, &both, 0), taken(other));
                claims.apply(gone, at(0));
                claims.judge(&silent, true);
            }
            // Without the Secret no token is of use.
            let secret = resource("secret", 7, "id-3", "c");
            claims.apply(&secret, at(0));
            assert_eq!(told(&mut claims, &both, 0), r#"Some("secret") None []"#);
            assert_eq!(reason(&mut claims, &both), Some(Reason::TargetConflict));
        }
    }

    #[test]
    fn a_value_stays_claimed_until_another_replaces_it_though_the_spec_names_its_token_no_more() {
        let held = with_adopted(
            with_alternate(resource("x", 5, "id-1", "a"), "id-2"),
            "id-1",
        );
        let other = resource("y", 9, "id-1", "b");
        let mut edited = with_alternate(resource("x", 5, "id-2", "a"), "id-3");
        edited.status = held.status;
        let mut claims = of(&[&edited, &other]);
        claims.judge(&other, true);
        assert_eq!(waits(&mut claims, &other, 100), "for good");
        assert_eq!(claims.rivals(&edited, at(100), &PACE), Rivals::default());
        // That another has stored a value of it too does not keep this one from its own tokens, nor does it wake it.
        claims.judge(&edited, true);
        let also = with_adopted(other.clone(), "id-1");
        assert!(claims.apply(&also, at(100)).is_empty());
        assert_eq!(claims.rivals(&edited, at(100), &PACE), Rivals::default());
        claims.apply(&other, at(100));
        assert_eq!(waits(&mut claims, &other, 100), "for good");
        let replaced = with_adopted(with_history(edited, "id-1"), "id-2");
        assert_eq!(claims.book(&replaced), [Key::from(&other)]);
        assert_eq!(waits(&mut claims, &other, 100), "free");
    }

    #[test]
    fn of_two_tokens_of_one_name_each_is_kept_by_the_resource_that_has_it() {
        let old = with_adopted(resource("x", 9, "id-1", "a"), "id-1");
        for tokens in [["id-1", "id-2"], ["id-2", "id-1"]] {
            let both = with_alternate(resource("y", 5, tokens[0], "b"), tokens[1]);
            let mut claims = of(&[&old, &both]);
            claims.learn(&old, Role::Token, &token("id-1", "CI"));
            for (role, id) in Role::ALL.into_iter().zip(tokens) {
                claims.learn(&both, role, &token(id, "CI"));
            }
            let Rivals { whole, taken } = claims.rivals(&both, at(0), &PACE);
            assert!(whole.is_none(), "{tokens:?}");
            let taken: Vec<_> = taken
                .iter()
                .map(|(role, _)| tokens[*role as usize])
                .collect();
            assert_eq!(taken, ["id-1"]);
        }
    }

    #[test]
    fn a_value_is_presumed_to_be_of_the_token_that_is_named_as_its_token_was() {
        for names in [["CI", "Other"], ["Other", "CI"]] {
            let both = with_alternate(resource("x", 9, names[0], "a"), names[1]);
            let both = with_adopted(both, "id-1");
            let of_name = |name| resource("y", 5, name, "b");
            let mut claims = of(&[&both]);
            for (name, expected) in [("CI", "for good"), ("Other", "until 60")] {
                claims.apply(&of_name(name), at(0));
                let found = waits(&mut claims, &of_name(name), 0);
                assert_eq!(found, expected, "{name} of {names:?}");
            }
        }
    }

    #[test]
    fn an_edit_of_one_token_is_no_reason_to_forget_what_the_other_was_found_to_be() {
        let (old, young) = (resource("x", 9, "CI", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        claims.learn(&old, Role::Token, &token("id-1", "CI"));
        claims.judge(&old, true);
        assert_eq!(waits(&mut claims, &young, 0), "for good");
        let two = with_alternate(old.clone(), "Other");
        claims.apply(&two, at(0));
        assert_eq!(waits(&mut claims, &young, 0), "until 60", "whether it can");
        claims.learn(&two, Role::Alternate, &token("id-2", "Other"));
        let young = resource("y", 5, "id-2", "b");
        claims.apply(&young, at(0));
        assert_eq!(waits(&mut claims, &young, 0), "until 60");
        let another = with_alternate(old.clone(), "Another");
        assert_eq!(claims.apply(&another, at(0)), [Key::from(&young)]);
        assert_eq!(waits(&mut claims, &young, 0), "free");
        // What is found out of a spec that is gone is of no account, and nothing is found of a token that is not asked for.
        claims.learn(&two, Role::Alternate, &token("id-2", "Other"));
        assert_eq!(waits(&mut claims, &young, 0), "free");
        claims.apply(&old, at(0));
        claims.learn(&old, Role::Alternate, &token("id-2", "Other"));
        assert_eq!(waits(&mut claims, &young, 0), "free");
    }

    #[test]
    fn one_that_has_begun_is_woken_when_the_older_one_is_found_to_mean_that_token_by_the_name() {
        let old = resource("x", 9, "CI", "a");
        let young = with_pending(resource("y", 5, "CI", "b"), "id-1", at(0));
        let mut claims = of(&[&old, &young]);
        assert_eq!(waits(&mut claims, &young, 0), "until 60");
        let woken = claims.learn(&old, Role::Token, &token("id-1", "CI"));
        assert_eq!(woken, [Key::from(&young)]);
        assert_eq!(waits(&mut claims, &young, 0), "free");
    }

    /// What can happen to one of several resources.
    #[derive(Clone, Copy, Debug)]
    enum Happens {
        /// Its credential works, is refused, or is never answered.
        Credential(Option<bool>),
        /// It is looked at.
        Pass,
        /// The rotation that it has begun ends, stored or without effect.
        Ends(bool),
        /// The spec gets another target, or none of its values is a claim.
        Target,
        /// The operator starts anew, or another takes over: what it had in hand is lost.
        Start,
        /// So many seconds pass.
        Time(i64),
    }

    fn anything() -> impl Strategy<Value = Happens> {
        prop_oneof![
            2 => prop::option::of(any::<bool>()).prop_map(Happens::Credential),
            6 => Just(Happens::Pass),
            3 => prop::bool::weighted(0.8).prop_map(Happens::Ends),
            1 => Just(Happens::Target),
            1 => Just(Happens::Start),
            2 => (1i64..90).prop_map(Happens::Time),
        ]
    }

    /// Several resources with a claim to one token, and what an operator does with them.
    struct World {
        all: Vec<WorkspaceTokenRotation>,
        credentials: Vec<Option<bool>>,
        claims: Claims,
        in_flight: Option<usize>,
        now: i64,
    }

    impl World {
        fn new(by_name: &[bool]) -> Self {
            let resources = ["a", "b", "c", "d"].iter().zip(by_name).zip(0..);
            let all: Vec<_> = resources
                .map(|((name, by_name), age)| {
                    let token = if *by_name { "CI" } else { "id-1" };
                    resource(name, 9 - age, token, name)
                })
                .collect();
            let mut world = Self {
                credentials: vec![None; all.len()],
                all,
                claims: Claims::default(),
                in_flight: None,
                now: 0,
            };
            world.start();
            world
        }

        fn start(&mut self) {
            self.claims = Claims::default();
            self.in_flight = None;
            for resource in &self.all {
                self.claims.apply(resource, at(self.now));
            }
        }

        fn is_free(&mut self, who: usize) -> bool {
            let rivals = self.claims.rivals(&self.all[who], at(self.now), &PACE);
            rivals.whole.is_none()
        }

        /// A pass; whether it ends in work on the token.
        fn pass(&mut self, who: usize) -> bool {
            if !self.is_free(who) {
                return false;
            }
            let resource = self.all[who].clone();
            if self.credentials[who] == Some(true) {
                self.claims
                    .learn(&resource, Role::Token, &token("id-1", "CI"));
            }
            let is_free = self.is_free(who);
            if let Some(able) = self.credentials[who] {
                self.claims.judge(&resource, able);
            }
            is_free && self.credentials[who] == Some(true)
        }

        fn write(&mut self, who: usize, status: impl FnOnce(&mut crate::api::Status)) {
            status(self.all[who].status.get_or_insert_default());
            self.claims.apply(&self.all[who], at(self.now));
        }
    }

    proptest! {
        /// Whatever becomes of credentials, however long it takes, and however often the operator starts anew.
        #[test]
        fn a_token_stays_with_the_first_that_stores_a_value_and_nobody_else_works_on_it(
            by_name in prop::collection::vec(any::<bool>(), 4),
            adopts: bool,
            events in prop::collection::vec((0usize..4, anything()), 1..120),
        ) {
            let mut world = World::new(&by_name);
            let mut holder = None;
            for (who, event) in events {
                match event {
                    Happens::Credential(state) => world.credentials[who] = state,
                    Happens::Time(seconds) => world.now += seconds,
                    Happens::Start => world.start(),
                    Happens::Target => {
                        let name = format!("{}x", world.all[who].spec.target.name);
                        world.all[who].spec.target.name = name;
                        world.claims.apply(&world.all[who], at(world.now));
                    }
                    Happens::Pass => {
                        if !world.pass(who) {
                            continue;
                        }
                        prop_assert!(holder.is_none_or(|it| it == who), "{who} works, {holder:?} has stored");
                        // Work on a token is exclusive within the process.
                        if world.in_flight.is_none() {
                            let begun = with_pending(world.all[who].clone(), "id-1", at(world.now));
                            world.write(who, |status| *status = begun.status.unwrap());
                            world.in_flight = Some(who);
                        }
                    }
                    Happens::Ends(is_stored) => {
                        let Some(who) = world.in_flight.take() else { continue };
                        let mut ended = world.all[who].clone();
                        ended.status.as_mut().unwrap().pending = None;
                        if is_stored {
                            holder = Some(who);
                            ended = with_adopted(ended, "id-1");
                            if !adopts {
                                ended = with_history(ended, "id-1");
                            }
                        }
                        world.write(who, |status| *status = ended.status.unwrap());
                    }
                }
                if let Some(holder) = holder {
                    prop_assert!(world.is_free(holder), "{holder} has stored, and has to wait");
                }
            }
        }

        /// Nobody is kept for ever by those that show nothing and have nothing.
        #[test]
        fn one_that_can_work_does_within_a_minute_whoever_claims_beside_it(
            by_name in prop::collection::vec(any::<bool>(), 4),
            credentials in prop::collection::vec(prop_oneof![Just(None), Just(Some(false))], 3),
            passes in prop::collection::vec(0usize..4, 0..40),
        ) {
            let mut world = World::new(&by_name);
            world.credentials[..3].copy_from_slice(&credentials);
            world.credentials[3] = Some(true);
            for who in passes {
                world.pass(who);
            }
            world.now = 60;
            prop_assert!(world.pass(3));
        }
    }

    /// What can become of one of several resources, whoever sees to it.
    #[derive(Clone, Debug)]
    enum Becomes {
        /// It is made, or edited: its tokens, its target, and what its status says of a token.
        Applied(
            &'static str,
            Option<&'static str>,
            &'static str,
            Option<(&'static str, Had)>,
        ),
        /// The same of its status only.
        Booked(&'static str, Had),
        Learned(Role, &'static str),
        Judged(bool),
        Removed,
        /// It is looked at after so many seconds.
        Looked(i64),
    }

    #[derive(Clone, Copy, Debug)]
    enum Had {
        Begun,
        Stored,
        Adopted,
    }

    impl Had {
        fn of(
            self,
            resource: WorkspaceTokenRotation,
            token: &str,
            now: i64,
        ) -> WorkspaceTokenRotation {
            match self {
                Self::Begun => with_pending(resource, token, at(now)),
                Self::Stored => with_history(resource, token),
                Self::Adopted => with_adopted(resource, token),
            }
        }
    }

    fn becomes() -> impl Strategy<Value = Becomes> {
        let id = || prop::sample::select(vec!["id-1", "id-2"]);
        let had = || prop::sample::select(vec![Had::Begun, Had::Stored, Had::Adopted]);
        let asked = || prop::sample::select(vec!["id-1", "ID-1", "id-2", "CI", "Other"]);
        let asked = || (asked(), prop::option::of(asked()));
        let target = prop::sample::select(vec!["a", "b", "c", "d"]);
        prop_oneof![
            4 => (asked(), target, prop::option::of((id(), had()))).prop_map(|((asked, other), target, had)| Becomes::Applied(asked, other, target, had)),
            2 => (id(), had()).prop_map(|(id, had)| Becomes::Booked(id, had)),
            3 => (prop::sample::select(Role::ALL.to_vec()), id()).prop_map(|(role, id)| Becomes::Learned(role, id)),
            3 => any::<bool>().prop_map(Becomes::Judged),
            1 => Just(Becomes::Removed),
            6 => prop_oneof![3 => Just(0), 1 => 1i64..90].prop_map(Becomes::Looked),
        ]
    }

    proptest! {
        /// Of those that wait nobody is left asleep that has not to wait any more: it is woken, or was told until when to wait.
        #[test]
        fn whoever_is_free_by_what_became_of_another_is_woken(
            all in prop::collection::vec((0usize..4, becomes()), 1..80),
        ) {
            let names = ["a", "b", "c", "d"];
            let mut resources: Vec<_> = (0..4).map(|n| resource(names[n], 9 - n as i64, "id-1", names[n])).collect();
            let mut claims = of(&resources.iter().collect::<Vec<_>>());
            let mut now = 0;
            // What each was told that has not been woken since. One that cannot work does not ask for one token of two.
            let mut asleep: [Option<Rivals>; 4] = Default::default();
            for (who, event) in all {
                let it = resources[who].clone();
                let woken = match event {
                    Becomes::Applied(asked, other, target, had) => {
                        let mut edited = resource(names[who], 9 - who as i64, asked, target);
                        if let Some(other) = other {
                            edited = with_alternate(edited, other);
                        }
                        resources[who] = had.iter().fold(edited, |it, (id, had)| had.of(it, id, now));
                        claims.apply(&resources[who], at(now))
                    }
                    Becomes::Booked(id, had) => {
                        resources[who].status = None;
                        resources[who] = had.of(resources[who].clone(), id, now);
                        claims.book(&resources[who])
                    }
                    Becomes::Learned(role, id) => claims.learn(&it, role, &token(id, "CI")),
                    Becomes::Judged(able) => claims.judge(&it, able),
                    Becomes::Removed => claims.remove(&it),
                    Becomes::Looked(later) => {
                        now += later;
                        let mut rivals = claims.rivals(&it, at(now), &PACE);
                        let known = claims.find(&it).map(|(_, known)| known);
                        if known.is_none_or(|known| known.able != Some(true)) {
                            rivals.taken.clear();
                        }
                        asleep[who] = known.map(|_| rivals);
                        continue;
                    }
                };
                asleep[who] = None;
                for other in 0..4 {
                    if woken.contains(&Key::from(&resources[other])) {
                        asleep[other] = None;
                    }
                    let Some(Rivals { whole, taken }) = &asleep[other] else { continue };
                    let lasts = |rival: &Rival| rival.until.is_none_or(|it| it > at(now));
                    let (number, known) = claims.find(&resources[other]).unwrap();
                    let own = &claims.records.get(number).unwrap().claimant;
                    let moment = Moment { now: at(now), pace: &PACE };
                    let keepers = claims.keepers(own, Some(number), known, moment);
                    if whole.as_ref().is_some_and(lasts) {
                        prop_assert!(!keepers.whole.is_empty(), "{other} sleeps, {whole:?}, and {who} {event:?}");
                    }
                    for (role, rival) in taken.iter().filter(|(_, rival)| lasts(rival)) {
                        let is_kept = !keepers.whole.is_empty() || keepers.taken.iter().any(|(it, _)| it == role);
                        prop_assert!(is_kept, "{other} sleeps, {role:?} {rival:?}, and {who} {event:?}");
                    }
                }
            }
        }
    }

    /// What can become of one of several resources, of which each has one token or two.
    #[derive(Clone, Debug)]
    enum Turn {
        /// It is made, or edited.
        Edited(&'static str, Option<&'static str>),
        /// It is deleted.
        Gone,
        /// It stores a value of the token of this role, if it is free to.
        Works(Role),
        /// Its status tells no more of a value that is none of its only token.
        Told,
        /// Its credential is found to be of use, or not.
        Judged(bool),
        /// The operator starts anew.
        Starts,
        /// So many seconds pass.
        Passes(i64),
    }

    fn turn() -> impl Strategy<Value = Turn> {
        let asked = || prop::sample::select(vec!["id-1", "id-2", "id-3", "id-1-name", "id-2-name"]);
        let role = prop::sample::select(Role::ALL.to_vec());
        prop_oneof![
            4 => (asked(), prop::option::of(asked())).prop_map(|(asked, other)| Turn::Edited(asked, other)),
            1 => Just(Turn::Gone),
            6 => role.prop_map(Turn::Works),
            1 => Just(Turn::Told),
            2 => any::<bool>().prop_map(Turn::Judged),
            1 => Just(Turn::Starts),
            2 => (1i64..90).prop_map(Turn::Passes),
        ]
    }

    /// Several resources that are there or not, and what is known of them.
    struct Town {
        all: [Option<WorkspaceTokenRotation>; 3],
        claims: Claims,
        now: i64,
    }

    impl Town {
        /// The id of the token of a role, which has a name after it.
        fn id(resource: &WorkspaceTokenRotation, role: Role) -> Option<String> {
            let token = resource.spec.reference(role)?;
            let name = || token.name.as_ref()?.strip_suffix("-name");
            token.id.as_deref().or_else(name).map(Into::into)
        }

        fn named(token: &'static str) -> crate::api::TokenRef {
            let is_name = token.ends_with("-name");
            crate::api::TokenRef {
                name: is_name.then(|| token.into()),
                id: (!is_name).then(|| token.into()),
                ..Default::default()
            }
        }

        /// Whether it is free to work on the token of a role, once it has found which that is.
        fn is_free(&mut self, who: usize, role: Role) -> bool {
            let Some(resource) = self.all[who].clone() else {
                return false;
            };
            for role in Role::ALL {
                if let Some(id) = Self::id(&resource, role) {
                    let found = token(&id, &format!("{id}-name"));
                    self.claims.learn(&resource, role, &found);
                }
            }
            let Rivals { whole, taken } = self.claims.rivals(&resource, at(self.now), &PACE);
            let has = Self::id(&resource, role).is_some();
            has && whole.is_none() && taken.iter().all(|(taken, _)| *taken != role)
        }

        fn turn(&mut self, who: usize, turn: &Turn) {
            let made = || {
                let name = ["x", "y", "z"][who];
                resource(name, 9 - who as i64, "id-1", name)
            };
            let mut resource = self.all[who].clone().unwrap_or_else(made);
            match turn {
                Turn::Edited(asked, other) => {
                    resource.spec.token = Self::named(asked);
                    resource.spec.alternate_token = other.map(Self::named);
                    let ids = Role::ALL.map(|role| Self::id(&resource, role));
                    if ids[0] == ids[1] {
                        return;
                    }
                }
                Turn::Works(role) => {
                    if !self.is_free(who, *role) {
                        return;
                    }
                    let id = Self::id(&resource, *role).unwrap();
                    resource = with_adopted(with_history(resource, &id), &id);
                    let status = resource.status.as_mut().unwrap();
                    status.token.as_mut().unwrap().name = format!("{id}-name");
                }
                Turn::Told => {
                    let id = Self::id(&resource, Role::Token);
                    let status = resource.status.get_or_insert_default();
                    let is_other = status.token.as_ref().map(|it| &it.id) != id.as_ref();
                    if is_other && resource.spec.alternate_token.is_none() {
                        status.token = None;
                    }
                }
                Turn::Judged(able) => drop(self.claims.judge(&resource, *able)),
                Turn::Gone => {
                    self.claims.remove(&resource);
                    self.all[who] = None;
                    return;
                }
                Turn::Starts => {
                    self.claims = Claims::default();
                    for resource in self.all.iter().flatten() {
                        self.claims.apply(resource, at(self.now));
                    }
                    return;
                }
                Turn::Passes(seconds) => {
                    self.now += seconds;
                    return;
                }
            }
            if self.all[who].is_some() || matches!(turn, Turn::Edited(..)) {
                self.claims.apply(&resource, at(self.now));
                self.all[who] = Some(resource);
            }
        }

        fn has_stored(resource: &WorkspaceTokenRotation, id: &str) -> bool {
            let status = resource.status.as_ref();
            status.is_some_and(|status| status.history.iter().any(|entry| entry.token_id == id))
        }

        /// Whether it has stored a value of the token and claims it still.
        fn keeps(resource: &WorkspaceTokenRotation, id: &str) -> bool {
            let held = resource.status.as_ref().and_then(|it| it.token.as_ref());
            let asked = Role::ALL.map(|role| Self::id(resource, role));
            let mut claimed = asked.iter().flatten().chain(held.map(|held| &held.id));
            Self::has_stored(resource, id) && claimed.any(|it| it == id)
        }
    }

    proptest! {
        /// However specs are edited, for one token or two that take turns.
        #[test]
        fn of_all_with_a_claim_to_a_token_one_at_most_works_on_it_once_a_value_is_stored(
            turns in prop::collection::vec((0usize..3, turn()), 1..80),
        ) {
            let mut town = Town { all: Default::default(), claims: Claims::default(), now: 0 };
            for (who, turn) in turns {
                town.turn(who, &turn);
                // Each looks, and then again by what the others have found.
                for who in 0..3 {
                    town.is_free(who, Role::Token);
                }
                for id in ["id-1", "id-2", "id-3"] {
                    let there: Vec<_> = (0..3).filter_map(|who| Some((who, town.all[who].clone()?))).collect();
                    let keepers = there.iter().filter(|(_, it)| Town::keeps(it, id)).map(|(who, _)| *who);
                    let keepers: Vec<_> = keepers.collect();
                    let mut free = Vec::new();
                    for (who, it) in &there {
                        for role in Role::ALL {
                            let is_of_role = Town::id(it, role).as_deref() == Some(id);
                            if is_of_role && town.is_free(*who, role) {
                                free.push(*who);
                            }
                        }
                    }
                    // The oldest, unless its spec does not name the token any more.
                    let first = keepers.first().copied();
                    prop_assert!(first.is_none() || free.is_empty() || free == [first.unwrap()], "{id}: {free:?}, {keepers:?}");
                    let is_asked = |who: usize| there.iter().any(|(it, resource)| {
                        *it == who && Role::ALL.iter().any(|role| Town::id(resource, *role).as_deref() == Some(id))
                    });
                    prop_assert!(first.is_none_or(|it| !is_asked(it) || free == [it]), "{id}: {free:?}, {keepers:?}");
                }
            }
        }
    }

    #[test]
    fn resources_that_call_with_each_others_values_are_a_ring_unless_one_has_two_tokens() {
        let caller = |name: &str, secret: &str, credential: &str| {
            let mut resource = resource(name, 1, &format!("id-{name}"), secret);
            let secret_ref = serde_json::json!({"secretRef": {"name": credential}});
            resource.spec.credentials = serde_json::from_value(secret_ref).unwrap();
            resource
        };
        // Each calls with the value of the next one, and the last with that of the first.
        let ring = |length: usize| -> Vec<_> {
            let of = |number: usize| format!("s{}", number % length);
            let each = (0..length).map(|it| caller(&format!("r{it}"), &of(it), &of(it + 1)));
            each.collect()
        };
        for length in [2, 3, 9] {
            let mut all = ring(length);
            let outside = caller("x", "sx", "s0");
            let claims = of(&all.iter().chain([&outside]).collect::<Vec<_>>());
            assert!(all.iter().all(|it| claims.is_in_ring(it)), "{length}");
            assert!(!claims.is_in_ring(&outside), "it only depends on one");
            let other = serde_json::json!({"id": "id-other"});
            all[1].spec.alternate_token = serde_json::from_value(other).unwrap();
            let claims = of(&all.iter().collect::<Vec<_>>());
            assert!(!all.iter().any(|it| claims.is_in_ring(it)), "{length}");
            let open = &all[..length - 1];
            let claims = of(&open.iter().collect::<Vec<_>>());
            assert!(!open.iter().any(|it| claims.is_in_ring(it)), "{length}");
        }
    }
}
