//! Who may work on a token and on a Secret: of several resources with a claim, the oldest.

use crate::api::WorkspaceTokenRotation;
use crate::evidence::Token;
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Something that only one resource may have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Secret { namespace: String, name: String },
    TokenId(String),
    TokenName { workspace: String, name: String },
}

/// A resource with a claim, ordered by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    created: Option<Timestamp>,
    uid: String,
    namespace: String,
    name: String,
}

/// All claims of all resources, kept up with the watch.
#[derive(Default)]
pub struct Claims {
    claimants: HashMap<Claim, BTreeSet<Claimant>>,
    claims: HashMap<Claimant, Vec<Claim>>,
    /// Who waits for whom, by uid: to be woken when that one changes or goes.
    waiting: HashMap<String, HashSet<ObjectRef<WorkspaceTokenRotation>>>,
}

impl std::hash::Hash for Claimant {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.uid.hash(state);
    }
}

impl Claims {
    /// Takes note of a resource as it is now; returns who may have waited for that.
    pub fn apply(
        &mut self,
        resource: &WorkspaceTokenRotation,
    ) -> Vec<ObjectRef<WorkspaceTokenRotation>> {
        let claimant = claimant(resource);
        let claims = claims(resource);
        if self.claims.get(&claimant) == Some(&claims) {
            return Vec::new();
        }
        let woken = self.remove(resource);
        for claim in &claims {
            let all = self.claimants.entry(claim.clone()).or_default();
            all.insert(claimant.clone());
        }
        self.claims.insert(claimant, claims);
        woken
    }

    /// Forgets a resource; returns who waited for that.
    pub fn remove(
        &mut self,
        resource: &WorkspaceTokenRotation,
    ) -> Vec<ObjectRef<WorkspaceTokenRotation>> {
        self.forget(&claimant(resource))
    }

    fn forget(&mut self, claimant: &Claimant) -> Vec<ObjectRef<WorkspaceTokenRotation>> {
        for claim in self.claims.remove(claimant).unwrap_or_default() {
            if let Some(all) = self.claimants.get_mut(&claim) {
                all.remove(claimant);
                if all.is_empty() {
                    self.claimants.remove(&claim);
                }
            }
        }
        let woken = self.waiting.remove(&claimant.uid).unwrap_or_default();
        woken.into_iter().collect()
    }

    /// Forgets everything that is not in `present`: deletions may be missed while a watch is down.
    pub fn retain(
        &mut self,
        present: &[std::sync::Arc<WorkspaceTokenRotation>],
    ) -> Vec<ObjectRef<WorkspaceTokenRotation>> {
        let present: HashSet<_> = present.iter().map(|resource| claimant(resource)).collect();
        let gone = self.claims.keys().filter(|known| !present.contains(*known));
        let gone: Vec<_> = gone.cloned().collect();
        gone.into_iter()
            .flat_map(|claimant| self.forget(&claimant))
            .collect()
    }

    /// The older resource that keeps this one from working, if there is one; this one then waits for it.
    ///
    /// `token` is the vendor's record as far as it is known: one resource may name a token by id and another by name.
    pub fn rival(
        &mut self,
        resource: &WorkspaceTokenRotation,
        token: Option<&Token>,
    ) -> Option<Blocked> {
        let own = claimant(resource);
        let mut contested = claims(resource);
        if let Some(token) = token {
            contested.push(Claim::TokenId(token.id.clone()));
            contested.push(Claim::TokenName {
                workspace: resource.spec.workspace_id.clone(),
                name: token.name.clone(),
            });
        }
        let (claim, older) = contested.iter().find_map(|claim| {
            let oldest = self.claimants.get(claim)?.first()?;
            (*oldest < own).then_some((claim, oldest.clone()))
        })?;
        let waiting = self.waiting.entry(older.uid.clone()).or_default();
        waiting.insert(ObjectRef::from(resource));
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
        // The name of another tenant's namespace is nobody's business.
        let whose = match older.namespace == own.namespace {
            true => format!("the older resource {}", older.name),
            false => "an older resource in another namespace".into(),
        };
        Some(Blocked::new(reason, format!("{whose} {what}; {remedy}")))
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

fn claims(resource: &WorkspaceTokenRotation) -> Vec<Claim> {
    let spec = &resource.spec;
    let secret = Claim::Secret {
        namespace: resource.namespace().unwrap_or_default(),
        name: spec.target.name.clone(),
    };
    let by_id = spec.token.id.clone().map(Claim::TokenId);
    let by_name = spec.token.name.clone().map(|name| Claim::TokenName {
        workspace: spec.workspace_id.clone(),
        name,
    });
    [Some(secret), by_id, by_name]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::WorkspaceTokenRotationSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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

    fn token(id: &str, name: &str) -> Token {
        Token {
            id: id.into(),
            name: name.into(),
            ..Token::default()
        }
    }

    #[test]
    fn the_oldest_works_whatever_the_order_of_events_and_the_other_is_woken_when_it_goes() {
        let (old, young) = (
            resource("old", 9, "id-1", "a"),
            resource("young", 5, "id-1", "b"),
        );
        for order in [[&old, &young], [&young, &old]] {
            let mut claims = Claims::default();
            for resource in order {
                claims.apply(resource);
            }
            assert_eq!(claims.rival(&old, None), None);
            let blocked = claims.rival(&young, None).unwrap();
            assert_eq!(blocked.reason, Reason::TokenConflict);
            assert_eq!(claims.remove(&old), [ObjectRef::from(&young)]);
            assert_eq!(claims.rival(&young, None), None);
        }
    }

    #[test]
    fn one_by_name_and_one_by_id_are_rivals_once_the_token_is_known() {
        let (by_id, by_name) = (resource("x", 9, "id-1", "a"), resource("y", 5, "CI", "b"));
        let mut claims = Claims::default();
        claims.apply(&by_id);
        claims.apply(&by_name);
        assert_eq!(claims.rival(&by_name, None), None);
        let found = claims.rival(&by_name, Some(&token("id-1", "CI")));
        assert_eq!(found.unwrap().reason, Reason::TokenConflict);
    }

    #[test]
    fn one_secret_has_one_writer_and_an_edit_of_the_older_wakes_the_younger() {
        let (old, young) = (resource("x", 9, "id-1", "s"), resource("y", 5, "id-2", "s"));
        let mut claims = Claims::default();
        claims.apply(&old);
        claims.apply(&young);
        assert_eq!(
            claims.rival(&young, None).unwrap().reason,
            Reason::TargetConflict
        );
        assert!(claims.apply(&old).is_empty(), "nothing changed");
        let moved = resource("x", 9, "id-1", "elsewhere");
        assert_eq!(claims.apply(&moved), [ObjectRef::from(&young)]);
        assert_eq!(claims.rival(&young, None), None);
    }
}
