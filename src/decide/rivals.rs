//! Who may work on a token and on a Secret: of several resources with a claim, the one that has stored a value, or else the
//! oldest that can work.

mod known;
mod print;
mod record;

use self::known::{Bearing, Claim, Known, Means, Moment, Values};
use self::print::Prints;
use self::record::{Claimant, Index, Record, Records, names};
use crate::api::{Key, WorkspaceTokenRotation};
use crate::decide::entity::Entity;
use crate::decide::evidence::{Access, Live, Observed, Rival, Token, said};
use crate::decide::pace::Pace;
use crate::decide::validate::{check_token, is_workable};
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashSet};

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
    /// Who waits for whom, by number.
    waiting: BTreeMap<u32, u32>,
}

impl Claims {
    /// Takes note of a resource as it is `now`; returns who has to look again.
    pub fn apply(&mut self, resource: &WorkspaceTokenRotation, now: Timestamp) -> Vec<Key> {
        let mut fresh = Known::of(&self.prints, resource, now);
        let Some((number, known)) = self.find(resource) else {
            return self.add(resource, fresh);
        };
        fresh.since = known.since;
        if fresh.asked == known.asked {
            (fresh.able, fresh.found) = (known.able, known.found);
        }
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

    /// Takes note of the token that a resource means, so that its rivals are found without a call.
    pub fn learn(&mut self, resource: &WorkspaceTokenRotation, token: &Token) -> Vec<Key> {
        let found = Means::found(&self.prints, resource, token);
        let is_same = |known: &Known| known.found == found;
        self.change_seen(resource, is_same, |known| known.found = found)
    }

    /// Takes note of whether a resource can work on its token.
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

    /// Whether some resource names this token of an entity, by its name or by its id.
    pub fn is_named(&self, entity: &Entity, token: &Token) -> bool {
        let prints = [
            self.prints.token(&token.id),
            self.prints.token_name(entity, &token.name),
        ];
        let mut any = prints.iter().flat_map(|it| self.claimants.since(*it, 0));
        any.next().is_some()
    }

    /// The older resources with a claim to the same token as this one, whether or not they can work on it.
    pub fn older(&self, resource: &WorkspaceTokenRotation) -> HashSet<Key> {
        let own = self.find(resource);
        let own = own.and_then(|(number, known)| Some((self.records.get(number)?, known)));
        let older = own.into_iter().flat_map(|(own, known)| {
            let of_token = known.claims_to_token();
            let all = of_token.flat_map(|claim| self.with(claim));
            all.filter(|(_, one)| one.claimant < own.claimant)
        });
        older.map(|(_, one)| one.claimant.key()).collect()
    }

    /// The resource that keeps this one from working `now`, if there is one; this one then waits for it.
    pub fn rival(
        &mut self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        pace: &Pace,
    ) -> Option<Rival> {
        let mut known = Known::of(&self.prints, resource, now);
        let number = self.find(resource).map(|(number, before)| {
            // The resource may be as it was before its last write.
            known.values.add(&before.values);
            if before.asked == known.asked {
                known.found = before.found;
            }
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
        let keeper = self.keeper(own, number, &known, Moment { now, pace });
        let rival = keeper.and_then(|(claim, rival, until)| {
            let blocked = conflict(claim, &self.records.get(rival)?.claimant, own);
            Some((rival, Rival { blocked, until }))
        });
        if let Some(number) = number {
            match &rival {
                Some((rival, _)) => self.waiting.insert(number, *rival),
                None => self.waiting.remove(&number),
            };
        }
        rival.map(|(_, rival)| rival)
    }

    /// Who keeps `own` from what; one that does for good before one that does for a while, and of several the oldest.
    fn keeper(
        &self,
        own: &Claimant,
        number: Option<u32>,
        known: &Known,
        at: Moment<'_>,
    ) -> Option<(Claim, u32, Option<Timestamp>)> {
        let mut for_a_while = None;
        for claim in known.claims() {
            let mut best: Option<(u32, &Claimant, Option<Timestamp>)> = None;
            for (
                other,
                Record {
                    claimant,
                    known: of,
                },
            ) in self.with(claim)
            {
                if let Some((_, best, None)) = best
                    && best.second() < claimant.second()
                {
                    break;
                }
                let keeps = || of.keeps(known, claimant < own, claim, at);
                let Some(until) = (Some(other) != number).then(keeps).flatten() else {
                    continue;
                };
                let rank = |claimant, until: Option<_>| (until.is_some(), claimant);
                if best.is_none_or(|(_, it, its)| rank(claimant, until) < rank(it, its)) {
                    best = Some((other, claimant, until));
                }
            }
            match best.map(|(rival, _, until)| (claim, rival, until)) {
                Some(keeper @ (.., None)) => return Some(keeper),
                keeper => for_a_while = for_a_while.or(keeper),
            }
        }
        for_a_while
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
                if !is_same(known) && known.asked == Means::asked(&self.prints, resource) =>
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
            if other == number || self.waiting.get(&other) == Some(&number) {
                self.waiting.remove(&other);
            }
        }
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
                let waits = self.waiting.get(&other) == Some(&number);
                let bearing = |known: Option<&Known>| {
                    let is_older = *claimant < one.claimant;
                    known.map_or(Bearing::None, |it| it.bearing(&one.known, is_older, claim))
                };
                if (waits || one.known.able == Some(true)) && bearing(old) != bearing(new) {
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

    /// The keys of those that are woken, who wait for nobody until they have looked again.
    fn woken(&mut self, mut affected: Vec<u32>) -> Vec<Key> {
        affected.truncate(MOST_WOKEN);
        for number in &affected {
            self.waiting.remove(number);
        }
        let records = affected
            .iter()
            .filter_map(|number| self.records.get(*number));
        records.map(|record| record.claimant.key()).collect()
    }
}

/// What a rival keeps a resource from.
fn conflict(claim: Claim, rival: &Claimant, own: &Claimant) -> Blocked {
    let age = if rival < own { "older " } else { "" };
    let ((rivals, name), (namespace, _)) = (rival.names(), own.names());
    // The name of another tenant's namespace is not disclosed.
    let whose = match (rivals == namespace, age) {
        (true, age) => format!("the {age}resource {name}"),
        (false, "") => "a resource in another namespace".into(),
        (false, _) => "an older resource in another namespace".into(),
    };
    match claim {
        Claim::Secret(_) => Blocked::new(
            Reason::TargetConflict,
            format!(
                "{whose} writes the same Secret; choose another target.name or delete one of the two"
            ),
        ),
        Claim::TokenId(_) | Claim::TokenName { .. } => {
            let does = match age {
                "" => "has a value of the same token already",
                _ => "rotates the same token",
            };
            Blocked::new(
                Reason::TokenConflict,
                format!("{whose} {does}; delete one of the two"),
            )
        }
    }
}

/// Whether the evidence shows that its resource can work on its token; `None`: it does not tell.
pub fn is_able(seen: &Observed) -> Option<bool> {
    if !is_workable(seen) {
        return Some(false);
    }
    let of_each = seen
        .resource
        .spec
        .references()
        .map(|(role, _)| match seen.records.of(role) {
            Live::Refused { .. } => Some(false),
            Live::Token { token, .. } => {
                Some(check_token(seen, token).is_ok() && !was_refused(seen))
            }
            Live::NotAsked | Live::Unavailable { .. } => None,
        });
    // Of two tokens one is enough.
    let known = of_each.max_by_key(|it| match it {
        Some(true) => 2,
        None => 1,
        Some(false) => 0,
    });
    match (&seen.access, known.flatten(), &seen.rival) {
        (Access::Denied(_), ..) => Some(false),
        (_, Some(able), _) => Some(able),
        // It has to wait for a Secret, and is not even looked at.
        (.., Some(rival)) if rival.blocked.reason == Reason::TargetConflict => Some(false),
        (_, None, _) => None,
    }
}

/// Whether its last rotation was refused: a credential may be good enough to read a token, and not to rotate it.
fn was_refused(seen: &Observed) -> bool {
    let status = seen.resource.status.as_ref();
    let failed = status.filter(|status| status.failures.is_some());
    let reason = failed.and_then(said).map(|said| said.reason);
    matches!(
        reason,
        Some(Reason::Forbidden | Reason::CredentialsRejected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        Cause, HistoryEntry, Pending, RotationOutcome, Scope, TokenStatus,
        WorkspaceTokenRotationSpec,
    };
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
        claims.rival(resource, at(0), &PACE)
    }

    /// Whether it has to wait after so many seconds, and how: `for good` or until when.
    fn waits(claims: &mut Claims, resource: &WorkspaceTokenRotation, after: i64) -> String {
        match claims.rival(resource, at(after), &PACE) {
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
                claims.learn(known, &token("id-1", "CI"));
                assert_eq!(reason(&mut claims, &younger), Some(Reason::TokenConflict));
                assert_eq!(rival(&mut claims, &older), None);
            }
        }
    }

    #[test]
    fn two_tokens_of_one_name_are_no_conflict_and_a_name_that_moved_is_none_any_more() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-2", "b"));
        let mut claims = of(&[&old, &young]);
        claims.learn(&old, &token("id-1", "CI"));
        claims.learn(&young, &token("id-2", "CI"));
        assert_eq!(rival(&mut claims, &young), None);

        let by_name = resource("x", 9, "CI", "a");
        let mut claims = of(&[&by_name, &young]);
        claims.learn(&by_name, &token("id-2", "CI"));
        assert!(rival(&mut claims, &young).is_some());
        let woken = claims.learn(&by_name, &token("id-3", "CI"));
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
                        claims.learn(by_id, &token("id-1", "CI"));
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
        claims.learn(&young, &token("id-1", "CI"));
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
        claims.learn(&old, &token("id-1", "CI"));
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
                claims.learn(one, &token(id, id));
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
            let rival = self.claims.rival(&self.all[who], at(self.now), &PACE);
            rival.is_none()
        }

        /// A pass; whether it ends in work on the token.
        fn pass(&mut self, who: usize) -> bool {
            if !self.is_free(who) {
                return false;
            }
            let resource = self.all[who].clone();
            if self.credentials[who] == Some(true) {
                self.claims.learn(&resource, &token("id-1", "CI"));
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
        /// It is made, or edited: its token, its target, and what its status says of a token.
        Applied(&'static str, &'static str, Option<(&'static str, Had)>),
        /// The same of its status only.
        Booked(&'static str, Had),
        Learned(&'static str),
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
        let asked = prop::sample::select(vec!["id-1", "ID-1", "id-2", "CI", "Other"]);
        let target = prop::sample::select(vec!["a", "b", "c", "d"]);
        prop_oneof![
            4 => (asked, target, prop::option::of((id(), had()))).prop_map(|(asked, target, had)| Becomes::Applied(asked, target, had)),
            2 => (id(), had()).prop_map(|(id, had)| Becomes::Booked(id, had)),
            2 => id().prop_map(Becomes::Learned),
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
            // Until when each of those waits that wait, and have not been woken since.
            let mut asleep: [Option<Option<Timestamp>>; 4] = [None; 4];
            for (who, event) in all {
                let it = resources[who].clone();
                let woken = match event {
                    Becomes::Applied(asked, target, had) => {
                        let edited = resource(names[who], 9 - who as i64, asked, target);
                        resources[who] = had.iter().fold(edited, |it, (id, had)| had.of(it, id, now));
                        claims.apply(&resources[who], at(now))
                    }
                    Becomes::Booked(id, had) => {
                        resources[who].status = None;
                        resources[who] = had.of(resources[who].clone(), id, now);
                        claims.book(&resources[who])
                    }
                    Becomes::Learned(id) => claims.learn(&it, &token(id, "CI")),
                    Becomes::Judged(able) => claims.judge(&it, able),
                    Becomes::Removed => claims.remove(&it),
                    Becomes::Looked(later) => {
                        now += later;
                        let rival = claims.rival(&it, at(now), &PACE);
                        asleep[who] = rival.map(|rival| rival.until).filter(|_| claims.find(&it).is_some());
                        continue;
                    }
                };
                asleep[who] = None;
                for other in 0..4 {
                    if woken.contains(&Key::from(&resources[other])) {
                        asleep[other] = None;
                    }
                    let until = asleep[other];
                    let Some(until) = until.filter(|it| it.is_none_or(|it| it > at(now))) else { continue };
                    let (number, known) = claims.find(&resources[other]).unwrap();
                    let own = &claims.records.get(number).unwrap().claimant;
                    let moment = Moment { now: at(now), pace: &PACE };
                    let keeper = claims.keeper(own, Some(number), known, moment);
                    prop_assert!(keeper.is_some(), "{other} sleeps until {until:?}, and {who} {event:?}");
                }
            }
        }
    }
}
