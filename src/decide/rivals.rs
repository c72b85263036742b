//! Who may work on a token and on a Secret: of several resources with a claim, the one that has stored a value, or else the
//! oldest that can work.

use crate::api::{Key, RotationOutcome, WorkspaceTokenRotation};
use crate::decide::evidence::{Access, Live, Observed, Rival, Token, said};
use crate::decide::pace::Pace;
use crate::decide::validate::{check_token, is_workable};
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Something that only one resource may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Secret { namespace: String, name: String },
    TokenId(String),
    TokenName { workspace: String, name: String },
}

impl Claim {
    /// To a token, however its id is written.
    fn token(id: &str) -> Self {
        Self::TokenId(id.to_ascii_lowercase())
    }

    /// To a token of this name, however the id of its Workspace is written.
    fn name(workspace: &str, name: &str) -> Self {
        Self::TokenName {
            workspace: workspace.to_ascii_lowercase(),
            name: name.to_owned(),
        }
    }
}

/// A resource with a claim, ordered by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    created: Option<Timestamp>,
    uid: String,
    namespace: String,
    name: String,
}

/// What is known of a claimant.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    /// The Secret of its spec.
    secret: Option<Claim>,
    /// The token of its spec.
    asked: Vec<Claim>,
    /// By the token that the spec was found to mean: one resource may name it by id and another by name.
    found: Vec<Claim>,
    /// The token that a name stood for when a value was stored, until it is found again.
    presumed: Option<String>,
    /// Whether it can work on that token; `None`: it has not shown yet.
    able: Option<bool>,
    /// When this process saw it first. An edit is no new beginning.
    since: Timestamp,
    /// Tokens of which it has stored a value.
    stored: BTreeSet<String>,
    /// The token that it has begun to rotate, and when.
    begun: Option<(String, Timestamp)>,
}

/// How far a claimant has come with a token. The farther goes before the nearer, whatever their ages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It has no value of it.
    Nothing,
    /// A rotation of it may be in flight until then.
    Begun(Timestamp),
    /// It has stored a value of it.
    Stored,
}

/// When it is asked, and how long is waited for what.
#[derive(Clone, Copy)]
struct Moment<'a> {
    now: Timestamp,
    pace: &'a Pace,
}

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
#[derive(Default)]
pub struct Claims {
    claimants: HashMap<Claim, BTreeSet<Claimant>>,
    known: HashMap<Claimant, Known>,
    /// Who waits for whom, by uid: to be woken when that one changes or goes.
    waiting: HashMap<String, HashSet<Claimant>>,
}

impl std::hash::Hash for Claimant {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
    }
}

impl Claimant {
    fn of(resource: &WorkspaceTokenRotation) -> Self {
        Self {
            created: resource.creation_timestamp().map(|time| time.0),
            uid: resource.uid().unwrap_or_default(),
            namespace: resource.namespace().unwrap_or_default(),
            name: resource.name_any(),
        }
    }

    fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl Known {
    /// What a resource says itself.
    fn of(resource: &WorkspaceTokenRotation) -> Self {
        let mut known = Self {
            secret: Some(Claim::Secret {
                namespace: resource.namespace().unwrap_or_default(),
                name: resource.spec.target.name.clone(),
            }),
            asked: asked(resource),
            ..Self::default()
        };
        known.read_status(resource);
        known
    }

    /// What the status tells of values.
    fn read_status(&mut self, resource: &WorkspaceTokenRotation) {
        let status = resource.status.as_ref();
        let held = status.and_then(|status| status.token.as_ref());
        let history = status.into_iter().flat_map(|status| &status.history);
        let stored = history.filter(|entry| entry.outcome == RotationOutcome::Stored);
        let stored = stored.map(|entry| &entry.token_id);
        let stored = stored.chain(held.map(|held| &held.id));
        self.stored = stored.map(|id| id.to_ascii_lowercase()).collect();
        let pending = status.and_then(|status| status.pending.as_ref());
        self.begun = pending.map(|it| (it.token_id.to_ascii_lowercase(), it.started_at.0));
        let named = held.filter(|held| resource.spec.token.name.as_ref() == Some(&held.name));
        self.presumed = named.map(|held| held.id.to_ascii_lowercase());
    }

    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.secret.iter().chain(self.claims_to_token())
    }

    fn claims_to_token(&self) -> impl Iterator<Item = &Claim> {
        let new = |claim: &&Claim| !self.asked.contains(claim);
        self.asked.iter().chain(self.found.iter().filter(new))
    }

    /// Id of the token, as far as it is known.
    fn id(&self) -> Option<&String> {
        let claimed = self.claims_to_token().find_map(|claim| match claim {
            Claim::TokenId(id) => Some(id),
            _ => None,
        });
        claimed.or(self.presumed.as_ref())
    }

    fn standing(&self, id: &String, at: Moment<'_>) -> Standing {
        if self.stored.contains(id) {
            return Standing::Stored;
        }
        let begun = self.begun.as_ref().filter(|(token, _)| token == id);
        let until = begun.and_then(|(_, begun)| at.within(*begun, at.pace.in_flight()));
        until.map_or(Standing::Nothing, Standing::Begun)
    }

    /// Whether this one keeps `own`, with the same claim, from working; and until when, where that is not for good.
    fn keeps(
        &self,
        own: &Self,
        is_older: bool,
        claim: &Claim,
        at: Moment<'_>,
    ) -> Option<Option<Timestamp>> {
        if matches!(claim, Claim::Secret { .. }) {
            return is_older.then_some(None);
        }
        let id = match (self.id(), own.id()) {
            // The same name, and not the same token.
            (Some(theirs), Some(ours)) if theirs != ours => return None,
            (theirs, ours) => ours.or(theirs),
        };
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
}

impl Moment<'_> {
    /// The end of a time that began `from`, unless it is over; a clock that was wrong does not make it longer.
    fn within(self, from: Timestamp, long: SignedDuration) -> Option<Timestamp> {
        let is_now = self.now.duration_since(from).abs() < long;
        from.checked_add(long).ok().filter(|_| is_now)
    }
}

impl Claims {
    /// Takes note of a resource as it is `now`; returns who has to look again.
    pub fn apply(&mut self, resource: &WorkspaceTokenRotation, now: Timestamp) -> Vec<Key> {
        let is_new = !self.known.contains_key(&Claimant::of(resource));
        self.change(resource, |known| {
            let fresh = Known::of(resource);
            let is_same = known.asked == fresh.asked;
            *known = Known {
                since: if is_new { now } else { known.since },
                able: known.able.filter(|_| is_same),
                found: match is_same {
                    true => std::mem::take(&mut known.found),
                    false => Vec::new(),
                },
                ..fresh
            };
        })
    }

    /// The same of what could be read of a resource, unless more is known of it.
    pub fn apply_part(&mut self, resource: &WorkspaceTokenRotation, now: Timestamp) -> Vec<Key> {
        match self.known.contains_key(&Claimant::of(resource)) {
            true => Vec::new(),
            false => self.apply(resource, now),
        }
    }

    /// Takes note of what the status that was just written tells of values, before the watch does.
    pub fn book(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        self.change_seen(resource, |known| known.read_status(resource))
    }

    /// Takes note of the token that a resource means, so that its rivals are found without a call.
    pub fn learn(&mut self, resource: &WorkspaceTokenRotation, token: &Token) -> Vec<Key> {
        let found = vec![
            Claim::token(&token.id),
            Claim::name(&resource.spec.workspace_id, &token.name),
        ];
        self.change_seen(resource, |known| known.found = found)
    }

    /// Takes note of whether a resource can work on its token.
    pub fn judge(&mut self, resource: &WorkspaceTokenRotation, able: bool) -> Vec<Key> {
        self.change_seen(resource, |known| known.able = Some(able))
    }

    /// Forgets a resource; returns who waited for that.
    pub fn remove(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        self.gone(&Claimant::of(resource))
    }

    /// Forgets everything that is neither in `present` nor `spared`: deletions may be missed while a watch is down.
    pub fn retain(
        &mut self,
        present: &[std::sync::Arc<WorkspaceTokenRotation>],
        spared: impl Fn(&Key) -> bool,
    ) -> Vec<Key> {
        let present = present.iter().map(|resource| Claimant::of(resource));
        let present: HashSet<_> = present.collect();
        let gone = self.known.keys();
        let gone = gone.filter(|known| !present.contains(*known) && !spared(&known.key()));
        let gone: Vec<_> = gone.cloned().collect();
        gone.into_iter()
            .flat_map(|claimant| self.gone(&claimant))
            .collect()
    }

    /// The older resources with a claim to the same token as this one, whether or not they can work on it.
    pub fn older(&self, resource: &WorkspaceTokenRotation) -> HashSet<Key> {
        let own = Claimant::of(resource);
        let claims = self.known.get(&own).into_iter();
        let of_token = claims.flat_map(Known::claims_to_token);
        let older = of_token.flat_map(|claim| self.claimants.get(claim).into_iter().flatten());
        older.filter(|one| **one < own).map(Claimant::key).collect()
    }

    /// The resource that keeps this one from working `now`, if there is one; this one then waits for it.
    pub fn rival(
        &mut self,
        resource: &WorkspaceTokenRotation,
        now: Timestamp,
        pace: &Pace,
    ) -> Option<Rival> {
        let own = Claimant::of(resource);
        let mut known = Known::of(resource);
        if let Some(before) = self.known.get(&own) {
            // The resource may be as it was before its last write.
            known.stored.extend(before.stored.iter().cloned());
            known.begun = known.begun.or_else(|| before.begun.clone());
            if before.asked == known.asked {
                known.found.clone_from(&before.found);
            }
        }
        let at = Moment { now, pace };
        let (claim, rival, until) = self.keeper(&own, &known, at)?;
        let blocked = conflict(claim, rival, &own);
        let uid = rival.uid.clone();
        if self.known.contains_key(&own) {
            self.waiting.entry(uid).or_default().insert(own);
        }
        Some(Rival { blocked, until })
    }

    /// Who keeps `own` from what; one that does for good before one that does for a while.
    fn keeper<'a>(
        &'a self,
        own: &Claimant,
        known: &'a Known,
        at: Moment<'_>,
    ) -> Option<(&'a Claim, &'a Claimant, Option<Timestamp>)> {
        let keepers = known.claims().flat_map(|claim| {
            let all = self.claimants.get(claim).into_iter().flatten();
            let others = all.filter(|one| *one != own);
            others.filter_map(move |one| {
                let until = self.known.get(one)?.keeps(known, one < own, claim, at)?;
                Some((claim, one, until))
            })
        });
        keepers.min_by_key(|(.., until)| until.is_some())
    }

    /// Like [`Claims::change`], for what was found out about a resource; not once its spec is another or it is gone.
    fn change_seen(
        &mut self,
        resource: &WorkspaceTokenRotation,
        edit: impl FnOnce(&mut Known),
    ) -> Vec<Key> {
        match self.known.get(&Claimant::of(resource)) {
            Some(known) if known.asked == asked(resource) => self.change(resource, edit),
            _ => Vec::new(),
        }
    }

    /// Changes what is known; the resources that waited for this one have to look again, and so do those that work on
    /// what it claims.
    fn change(
        &mut self,
        resource: &WorkspaceTokenRotation,
        edit: impl FnOnce(&mut Known),
    ) -> Vec<Key> {
        let claimant = Claimant::of(resource);
        let old = self.known.get(&claimant).cloned();
        let mut known = old.clone().unwrap_or_default();
        edit(&mut known);
        if old.as_ref() == Some(&known) {
            return Vec::new();
        }
        let mut woken = self.forget(&claimant);
        for claim in known.claims() {
            let all = self.claimants.entry(claim.clone()).or_default();
            let others = all.iter().filter(|one| {
                let of = self.known.get(*one);
                of.is_some_and(|of| of.able == Some(true))
            });
            woken.extend(others.map(Claimant::key));
            all.insert(claimant.clone());
        }
        self.known.insert(claimant, known);
        woken
    }

    /// Forgets one for good, also as one that waits for others.
    fn gone(&mut self, claimant: &Claimant) -> Vec<Key> {
        self.waiting.retain(|_, waiting| {
            waiting.remove(claimant);
            !waiting.is_empty()
        });
        self.forget(claimant)
    }

    fn forget(&mut self, claimant: &Claimant) -> Vec<Key> {
        let known = self.known.remove(claimant).unwrap_or_default();
        for claim in known.claims() {
            if let Some(all) = self.claimants.get_mut(claim) {
                all.remove(claimant);
                if all.is_empty() {
                    self.claimants.remove(claim);
                }
            }
        }
        let woken = self.waiting.remove(&claimant.uid).unwrap_or_default();
        woken.iter().map(Claimant::key).collect()
    }
}

/// What a rival keeps a resource from.
fn conflict(claim: &Claim, rival: &Claimant, own: &Claimant) -> Blocked {
    let age = if rival < own { "older " } else { "" };
    // The name of another tenant's namespace is not disclosed.
    let whose = match (rival.namespace == own.namespace, age) {
        (true, age) => format!("the {age}resource {}", rival.name),
        (false, "") => "a resource in another namespace".into(),
        (false, _) => "an older resource in another namespace".into(),
    };
    match claim {
        Claim::Secret { .. } => Blocked::new(
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
    match (&seen.access, &seen.live, &seen.rival) {
        (Access::Denied(_), ..) | (_, Live::Refused { .. }, _) => Some(false),
        (_, Live::Token { token, .. }, _) => {
            Some(check_token(seen, token).is_ok() && !was_refused(seen))
        }
        // It has to wait for a Secret, and is not even looked at.
        (.., Some(rival)) if rival.blocked.reason == Reason::TargetConflict => Some(false),
        (_, Live::NotAsked | Live::Unavailable { .. }, _) => None,
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

/// The token of a spec.
fn asked(resource: &WorkspaceTokenRotation) -> Vec<Claim> {
    let spec = &resource.spec;
    let by_id = spec.token.id.as_deref().map(Claim::token);
    let by_name = spec.token.name.as_deref();
    let by_name = by_name.map(|name| Claim::name(&spec.workspace_id, name));
    by_id.into_iter().chain(by_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cause, HistoryEntry, Pending, TokenStatus, WorkspaceTokenRotationSpec};
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
}
