//! Who may work on a token and on a Secret: of several resources with a claim, the oldest that can.

use crate::api::{Key, RotationOutcome, WorkspaceTokenRotation};
use crate::decide::evidence::{Access, Live, Observed, Rival, Token};
use crate::decide::validate::{check_token, is_workable};
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;
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
    /// By its spec alone.
    asked: Vec<Claim>,
    /// By the token that the spec was found to mean: one resource may name it by id and another by name.
    found: Vec<Claim>,
    /// Whether it can work on that token; `None`: not looked at yet.
    able: Option<bool>,
    /// Tokens of which it has stored a value.
    rotated: BTreeSet<String>,
}

/// All claims of all resources, kept up with the watch.
///
/// A Secret goes to the oldest claimant. A token goes to the oldest too, but an older claim does not count where this
/// process has found that its resource cannot work on the token, and that resource has never stored a value of it.
/// Else a tenant without a credential could block another one's token by naming it first.
///
/// Why no two can fight over a token:
/// * The younger gets it only from one that has no value of it to lose. It gives it back when the older can work
///   after all.
/// * The older then rotates, has that in its history, and from then on keeps the token whatever becomes of its
///   credential. So in each pair the token changes hands at most twice, and every change needs a person's.
/// * While the older merely could work, and does not, the younger waits, and its value stays live: waiting, ceasing
///   to wait and looking rotate nothing that is not due.
/// * Only `status` counts as history, which tenants do not write; what a Secret's annotations say proves nothing.
///
/// After a start or a change of leader no resource has been looked at yet: the younger waits a moment, and its status stays as it is.
/// One that names its token by name may make one call then, to find out which it is.
#[derive(Default)]
pub struct Claims {
    claimants: HashMap<Claim, BTreeSet<Claimant>>,
    known: HashMap<Claimant, Known>,
    /// Who waits for whom, by uid: to be woken when that one changes or goes.
    waiting: HashMap<String, HashSet<Key>>,
}

impl std::hash::Hash for Claimant {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
    }
}

impl Claimant {
    fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl Known {
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        let new = |claim: &&Claim| !self.asked.contains(claim);
        self.asked.iter().chain(self.found.iter().filter(new))
    }

    /// Id of the token, as far as it is known.
    fn id(&self) -> Option<&String> {
        self.claims().find_map(|claim| match claim {
            Claim::TokenId(id) => Some(id),
            _ => None,
        })
    }

    /// Whether this older one, with the same claim, keeps a younger one that wants the token `id` from working.
    fn keeps(&self, claim: &Claim, id: Option<&String>) -> bool {
        if matches!(claim, Claim::Secret { .. }) {
            return true;
        }
        match (self.id(), id) {
            // The same name, and not the same token.
            (Some(own), Some(id)) if own != id => false,
            _ if self.able != Some(false) => true,
            (own, id) => id.or(own).is_some_and(|id| self.rotated.contains(id)),
        }
    }
}

impl Claims {
    /// Takes note of a resource as it is now; returns who has to look again.
    pub fn apply(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        let asked = asked(resource);
        self.change(resource, |known| {
            if known.asked != asked {
                *known = Known {
                    asked,
                    ..Known::default()
                };
            }
            known.rotated = rotated(resource);
        })
    }

    /// Takes note of the token that a resource means, so that its rivals are found without a call.
    pub fn learn(&mut self, resource: &WorkspaceTokenRotation, token: &Token) -> Vec<Key> {
        let workspace = resource.spec.workspace_id.clone();
        let name = token.name.clone();
        let found = vec![
            Claim::token(&token.id),
            Claim::TokenName { workspace, name },
        ];
        self.change_seen(resource, |known| known.found = found)
    }

    /// Takes note of whether a resource can work on its token.
    pub fn judge(&mut self, resource: &WorkspaceTokenRotation, able: bool) -> Vec<Key> {
        self.change_seen(resource, |known| known.able = Some(able))
    }

    /// Forgets a resource; returns who waited for that.
    pub fn remove(&mut self, resource: &WorkspaceTokenRotation) -> Vec<Key> {
        self.forget(&claimant(resource))
    }

    /// Forgets everything that is neither in `present` nor `spared`: deletions may be missed while a watch is down.
    pub fn retain(
        &mut self,
        present: &[std::sync::Arc<WorkspaceTokenRotation>],
        spared: impl Fn(&Key) -> bool,
    ) -> Vec<Key> {
        let present: HashSet<_> = present.iter().map(|resource| claimant(resource)).collect();
        let gone = self.known.keys();
        let gone = gone.filter(|known| !present.contains(*known) && !spared(&known.key()));
        let gone: Vec<_> = gone.cloned().collect();
        gone.into_iter()
            .flat_map(|claimant| self.forget(&claimant))
            .collect()
    }

    /// The older resources with a claim to the same token as this one, whether or not they can work on it.
    pub fn older(&self, resource: &WorkspaceTokenRotation) -> HashSet<Key> {
        let own = claimant(resource);
        let claims = self.known.get(&own).into_iter().flat_map(Known::claims);
        let of_token = claims.filter(|claim| !matches!(claim, Claim::Secret { .. }));
        let older = of_token.flat_map(|claim| self.claimants.get(claim).into_iter().flatten());
        older.filter(|one| **one < own).map(Claimant::key).collect()
    }

    /// The older resource that keeps this one from working, if there is one; this one then waits for it.
    pub fn rival(&mut self, resource: &WorkspaceTokenRotation) -> Option<Rival> {
        let own = claimant(resource);
        let mut known = Known {
            asked: asked(resource),
            ..Known::default()
        };
        if let Some(before) = self.known.get(&own).filter(|it| it.asked == known.asked) {
            known.found.clone_from(&before.found);
        }
        let (claim, older) = known.claims().find_map(|claim| {
            let mut older = self.claimants.get(claim)?.range(..&own);
            let keeps = |one: &&Claimant| {
                let of = self.known.get(*one);
                of.is_some_and(|of| of.keeps(claim, known.id()))
            };
            Some((claim, older.find(keeps)?.clone()))
        })?;
        let looked_at = matches!(claim, Claim::Secret { .. })
            || self.known.get(&older).is_some_and(|of| of.able.is_some());
        let waiting = self.waiting.entry(older.uid.clone()).or_default();
        waiting.insert(own.key());
        let (reason, what, remedy) = match claim {
            Claim::Secret { .. } => (
                Reason::TargetConflict,
                "writes the same Secret",
                "choose another target.name or delete one of the two",
            ),
            Claim::TokenId(_) | Claim::TokenName { .. } => (
                Reason::TokenConflict,
                "rotates the same token",
                "delete one of the two",
            ),
        };
        // The name of another tenant's namespace is not disclosed.
        let whose = match older.namespace == own.namespace {
            true => format!("the older resource {}", older.name),
            false => "an older resource in another namespace".into(),
        };
        Some(Rival {
            blocked: Blocked::new(reason, format!("{whose} {what}; {remedy}")),
            looked_at,
        })
    }

    /// Like [`Claims::change`], for what was found out about a resource; not once its spec is another or it is gone.
    fn change_seen(
        &mut self,
        resource: &WorkspaceTokenRotation,
        edit: impl FnOnce(&mut Known),
    ) -> Vec<Key> {
        match self.known.get(&claimant(resource)) {
            Some(known) if known.asked == asked(resource) => self.change(resource, edit),
            _ => Vec::new(),
        }
    }

    /// Changes what is known; the resources that waited for this one have to look again, and so do those that work on what it claims.
    fn change(
        &mut self,
        resource: &WorkspaceTokenRotation,
        edit: impl FnOnce(&mut Known),
    ) -> Vec<Key> {
        let claimant = claimant(resource);
        let old = self.known.get(&claimant).cloned();
        let mut known = old.clone().unwrap_or_default();
        edit(&mut known);
        if old.as_ref() == Some(&known) {
            return Vec::new();
        }
        let mut woken = self.forget(&claimant);
        for claim in known.claims() {
            let all = self.claimants.entry(claim.clone()).or_default();
            let younger = all.range(&claimant..).filter(|one| {
                let of = self.known.get(*one);
                of.is_some_and(|of| of.able == Some(true))
            });
            woken.extend(younger.map(Claimant::key));
            all.insert(claimant.clone());
        }
        self.known.insert(claimant, known);
        woken
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
        woken.into_iter().collect()
    }
}

/// Whether the evidence shows that its resource can work on its token; `None`: it does not tell.
pub fn is_able(seen: &Observed) -> Option<bool> {
    if !is_workable(seen) {
        return Some(false);
    }
    match (&seen.access, &seen.live, &seen.rival) {
        (Access::Denied(_), ..) | (_, Live::Refused { .. }, _) => Some(false),
        (_, Live::Token { token, .. }, _) => Some(check_token(seen, token).is_ok()),
        // It has to wait for a Secret, and is not even looked at.
        (.., Some(rival)) if rival.blocked.reason == Reason::TargetConflict => Some(false),
        (_, Live::NotAsked | Live::Unavailable { .. }, _) => None,
    }
}

fn claimant(resource: &WorkspaceTokenRotation) -> Claimant {
    Claimant {
        created: resource.creation_timestamp().map(|time| time.0),
        uid: resource.uid().unwrap_or_default(),
        namespace: resource.namespace().unwrap_or_default(),
        name: resource.name_any(),
    }
}

fn asked(resource: &WorkspaceTokenRotation) -> Vec<Claim> {
    let spec = &resource.spec;
    let secret = Claim::Secret {
        namespace: resource.namespace().unwrap_or_default(),
        name: spec.target.name.clone(),
    };
    let by_id = spec.token.id.as_deref().map(Claim::token);
    let by_name = spec.token.name.clone().map(|name| Claim::TokenName {
        workspace: spec.workspace_id.clone(),
        name,
    });
    [Some(secret), by_id, by_name]
        .into_iter()
        .flatten()
        .collect()
}

fn rotated(resource: &WorkspaceTokenRotation) -> BTreeSet<String> {
    let history = resource.status.iter().flat_map(|status| &status.history);
    history
        .filter(|entry| entry.outcome == RotationOutcome::Stored)
        .map(|entry| entry.token_id.to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Cause, HistoryEntry, WorkspaceTokenRotationSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

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

    fn token(id: &str, name: &str) -> Token {
        Token {
            id: id.into(),
            name: name.into(),
            ..Token::default()
        }
    }

    fn of(resources: &[&WorkspaceTokenRotation]) -> Claims {
        let mut claims = Claims::default();
        for resource in resources {
            claims.apply(resource);
        }
        claims
    }

    /// Why it has to wait, if it has.
    fn reason(claims: &mut Claims, resource: &WorkspaceTokenRotation) -> Option<Reason> {
        Some(claims.rival(resource)?.blocked.reason)
    }

    #[test]
    fn the_oldest_works_whatever_the_order_of_events_and_the_other_is_woken_when_it_goes() {
        let (old, young) = (
            resource("old", 9, "id-1", "a"),
            resource("young", 5, "id-1", "b"),
        );
        for order in [[&old, &young], [&young, &old]] {
            let mut claims = of(&order);
            assert_eq!(claims.rival(&old), None);
            assert_eq!(reason(&mut claims, &young), Some(Reason::TokenConflict));
            assert_eq!(claims.remove(&old), [Key::from(&young)]);
            assert_eq!(claims.rival(&young), None);
        }
    }

    #[test]
    fn one_by_name_and_one_by_id_are_rivals_as_soon_as_either_is_known() {
        let (by_id, by_name) = (("x", "id-1"), ("y", "CI"));
        for (older, younger) in [(by_id, by_name), (by_name, by_id)] {
            let older = resource(older.0, 9, older.1, "a");
            let younger = resource(younger.0, 5, younger.1, "b");
            for known in [&older, &younger] {
                let mut claims = of(&[&older, &younger]);
                assert_eq!(claims.rival(&younger), None, "nothing is known yet");
                claims.learn(known, &token("id-1", "CI"));
                assert_eq!(reason(&mut claims, &younger), Some(Reason::TokenConflict));
                assert_eq!(claims.rival(&older), None);
            }
        }
    }

    #[test]
    fn two_tokens_of_one_name_are_no_conflict_and_a_name_that_moved_is_none_any_more() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-2", "b"));
        let mut claims = of(&[&old, &young]);
        claims.learn(&old, &token("id-1", "CI"));
        claims.learn(&young, &token("id-2", "CI"));
        assert_eq!(claims.rival(&young), None);

        let by_name = resource("x", 9, "CI", "a");
        let mut claims = of(&[&by_name, &young]);
        claims.learn(&by_name, &token("id-2", "CI"));
        assert!(claims.rival(&young).is_some());
        let woken = claims.learn(&by_name, &token("id-3", "CI"));
        assert_eq!(woken, [Key::from(&young)]);
        assert_eq!(claims.rival(&young), None);
    }

    #[test]
    fn one_secret_has_one_writer_and_an_edit_of_the_older_wakes_the_younger() {
        let (old, young) = (resource("x", 9, "id-1", "s"), resource("y", 5, "id-2", "s"));
        let mut claims = of(&[&old, &young]);
        claims.judge(&old, false);
        assert_eq!(reason(&mut claims, &young), Some(Reason::TargetConflict));
        assert!(claims.apply(&old).is_empty(), "nothing changed");
        let moved = resource("x", 9, "id-1", "elsewhere");
        assert_eq!(claims.apply(&moved), [Key::from(&young)]);
        assert_eq!(claims.rival(&young), None);
    }

    #[test]
    fn one_that_cannot_work_keeps_nobody_from_a_token_it_never_had() {
        let (old, young) = (resource("x", 9, "id-1", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        assert!(!claims.rival(&young).unwrap().looked_at);
        assert_eq!(claims.judge(&old, false), [Key::from(&young)]);
        assert_eq!(claims.rival(&young), None);
        claims.judge(&young, true);
        // It can after all: the one that took its place is woken.
        assert_eq!(claims.judge(&old, true), [Key::from(&young)]);
        assert!(claims.rival(&young).unwrap().looked_at);
    }

    #[test]
    fn one_whose_credential_expires_keeps_the_token_it_has_rotated_and_no_other() {
        for (rotated, waits) in [("id-1", true), ("id-2", false)] {
            let old = with_history(resource("x", 9, "id-1", "a"), rotated);
            let by_name = with_history(resource("x", 9, "CI", "a"), rotated);
            let young = resource("y", 5, "id-1", "b");
            let mut claims = of(&[&old, &young]);
            claims.judge(&old, false);
            assert_eq!(claims.rival(&young).is_some(), waits);

            let mut claims = of(&[&by_name, &young]);
            claims.judge(&by_name, false);
            claims.learn(&young, &token("id-1", "CI"));
            assert_eq!(claims.rival(&young).is_some(), waits);
        }
    }

    #[test]
    fn what_was_found_out_does_not_outlive_the_spec_it_was_found_out_of() {
        let (old, young) = (resource("x", 9, "id-9", "a"), resource("y", 5, "id-1", "b"));
        let mut claims = of(&[&old, &young]);
        claims.judge(&old, false);
        let edited = resource("x", 9, "id-1", "a");
        claims.judge(&young, true);
        assert_eq!(claims.apply(&edited), [Key::from(&young)]);
        assert!(!claims.rival(&young).unwrap().looked_at);
        claims.judge(&old, false);
        assert!(claims.rival(&young).is_some(), "a verdict on the old spec");
    }

    proptest! {
        /// Whatever becomes of credentials, and however often the operator starts anew.
        #[test]
        fn each_takes_the_token_over_at_most_once(
            events in prop::collection::vec((0usize..4, any::<bool>(), any::<bool>()), 1..80),
        ) {
            let mut all: Vec<_> = ["a", "b", "c", "d"]
                .iter()
                .zip(0..)
                .map(|(name, age)| resource(name, 9 - age, "id-1", name))
                .collect();
            let mut able = [false; 4];
            let mut claims = of(&all.iter().collect::<Vec<_>>());
            let (mut holder, mut taken) = (None, [0; 4]);
            for (who, can, restarted) in events {
                able[who] = can;
                if restarted {
                    claims = of(&all.iter().collect::<Vec<_>>());
                }
                for index in 0..all.len() {
                    if claims.rival(&all[index]).is_some() {
                        continue;
                    }
                    claims.judge(&all[index], able[index]);
                    if able[index] && holder != Some(index) {
                        holder = Some(index);
                        taken[index] += 1;
                        all[index] = with_history(all[index].clone(), "id-1");
                        claims.apply(&all[index]);
                    }
                }
            }
            prop_assert!(taken.iter().all(|times| *times <= 1), "{taken:?}");
        }
    }
}
