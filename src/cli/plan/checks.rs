//! What was checked of a resource: permissions, the rehearsal of its Secret's write, and what Astro says.

use crate::astro::Role;
use crate::cluster::secret::{self, Draft};
use crate::cluster::watch::SecretAccess;
use crate::decide::evidence::{Access, Live, Observed};
use crate::decide::validate::check_token;
use crate::reason::{Blocked, Reason};
use crate::text::{api_error, line};
use futures::future::join_all;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::Role as Permissions;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;

/// The permissions in a namespace, as they are shipped.
const SHIPPED: &str = include_str!("../../../deploy/tenant/rbac.yaml");
/// Longest text of the API server's that is shown, characters.
const LONGEST: usize = 200;

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was to be found out.
    pub name: String,
    /// Whether it is so.
    pub result: Outcome,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// Not as it should be.
    #[serde(rename = "no")]
    No,
    /// It could not be found out.
    #[serde(rename = "not checked")]
    NotChecked,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            result: Outcome::Ok,
            message: None,
            remedy: None,
        }
    }

    /// Not as it should be.
    pub fn no(
        name: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Outcome::No,
            message: Some(message.into()),
            remedy: Some(remedy.into()),
            ..Self::ok(name)
        }
    }

    /// It could not be found out.
    pub fn not(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            result: Outcome::NotChecked,
            message: Some(why.into()),
            ..Self::ok(name)
        }
    }

    fn blocked(name: impl Into<String>, blocked: &Blocked) -> Self {
        Self::no(name, &blocked.message, blocked.reason.explain().remedy)
    }
}

/// What spec and schedule are by themselves; `blocked`: why they are not acted on.
pub fn spec(blocked: Option<&Blocked>) -> Check {
    let name = "spec and schedule make sense";
    blocked.map_or_else(|| Check::ok(name), |blocked| Check::blocked(name, blocked))
}

/// Whether an older resource comes first; `unseen`: why not all of them are known.
pub fn rivals(seen: Option<&Observed>, unseen: Option<&str>) -> Check {
    let name = "no older resource claims the same token or Secret";
    match (seen.and_then(|seen| seen.rival.as_ref()), unseen) {
        (Some(rival), _) => Check::blocked(name, &rival.blocked),
        (None, Some(why)) => Check::not(name, why),
        (None, None) => Check::ok(name),
    }
}

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Permission {
    namespace: String,
    group: String,
    resource: String,
    subresource: Option<String>,
    name: Option<String>,
    verb: String,
}

impl Permission {
    fn check(&self) -> String {
        let resource = match (&self.subresource, &self.name) {
            (Some(subresource), _) => format!("{}/{subresource}", self.resource),
            (None, Some(name)) => format!("{} {name}", self.resource),
            (None, None) => self.resource.clone(),
        };
        match self.name {
            Some(_) => format!("may {} {resource}", self.verb),
            None => format!("may {} {resource} in {}", self.verb, self.namespace),
        }
    }
}

/// The permissions of a Role, in a namespace.
fn permissions(role: &Permissions, namespace: &str, access: SecretAccess) -> Vec<Permission> {
    let mut all = Vec::new();
    for rule in role.rules.iter().flatten() {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let (resource, subresource) = match resource.split_once('/') {
                    Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
                    None => (&**resource, None),
                };
                let is_used = |verb: &&String| {
                    resource != "secrets"
                        || access == SecretAccess::Watch
                        || !matches!(verb.as_str(), "list" | "watch")
                };
                all.extend(rule.verbs.iter().filter(is_used).map(|verb| Permission {
                    namespace: namespace.into(),
                    group: group.clone(),
                    resource: resource.into(),
                    subresource: subresource.clone(),
                    name: None,
                    verb: verb.clone(),
                }));
            }
        }
    }
    all
}

/// Whether whoever asks may do all that the operator does in a namespace.
///
/// # Errors
/// When the shipped Role cannot be read, which a test rules out.
pub async fn in_namespace(
    client: &Client,
    namespace: &str,
    access: SecretAccess,
) -> anyhow::Result<Vec<Check>> {
    let documents = serde_saphyr::from_multiple::<serde_json::Value>(SHIPPED)?;
    let role = documents.into_iter().find(|it| it["kind"] == "Role");
    let role: Permissions = serde_json::from_value(role.unwrap_or_default())?;
    let permissions = permissions(&role, namespace, access);
    let remedy = "apply deploy, or deploy/tenant to this namespace; --as asks for the operator instead of you";
    let asked = permissions.iter().map(|it| check(client, it, remedy));
    Ok(join_all(asked).await)
}

/// Whether whoever asks may tell this cluster from others.
pub async fn of_cluster(client: &Client) -> Check {
    let permission = Permission {
        // The API server takes a namespace to be in itself.
        namespace: "kube-system".into(),
        group: String::new(),
        resource: "namespaces".into(),
        subresource: None,
        name: Some("kube-system".into()),
        verb: "get".into(),
    };
    let remedy = "apply deploy or deploy/namespaced; --as asks for the operator instead of you";
    check(client, &permission, remedy).await
}

/// Whether whoever asks may read Secrets in a namespace, as far as that is known.
pub async fn may_read_secrets(client: &Client, namespace: &str) -> bool {
    let permission = Permission {
        namespace: namespace.into(),
        group: String::new(),
        resource: "secrets".into(),
        subresource: None,
        name: None,
        verb: "get".into(),
    };
    check(client, &permission, "").await.result == Outcome::Ok
}

async fn check(client: &Client, permission: &Permission, remedy: &str) -> Check {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(permission.namespace.clone()),
                group: Some(permission.group.clone()),
                resource: Some(permission.resource.clone()),
                subresource: permission.subresource.clone(),
                name: permission.name.clone(),
                verb: Some(permission.verb.clone()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let name = permission.check();
    match reviews.create(&PostParams::default(), &review).await {
        Ok(answer) => match answer.status {
            Some(status) if status.allowed => Check::ok(name),
            Some(status) => {
                let said = line(&status.reason.unwrap_or_default(), LONGEST);
                let why = match said.is_empty() {
                    true => "not permitted".into(),
                    false => said,
                };
                Check::no(name, why, remedy)
            }
            None => Check::not(name, "the API server gave no verdict"),
        },
        Err(error) => Check::not(name, api_error(&error, LONGEST)),
    }
}

/// What the rehearsal is called.
const REHEARSAL: &str = "the Secret would take a new value";

/// Tries the write of the Secret, in a dry run; also what the operator would be kept from by it.
pub async fn rehearsal(client: &Client, draft: &Draft<'_>) -> (Check, Option<Blocked>) {
    match secret::rehearse(client, draft).await {
        Ok(()) => (Check::ok(REHEARSAL), None),
        Err(secret::Error::Refused(blocked)) => {
            (Check::blocked(REHEARSAL, &blocked), Some(blocked))
        }
        Err(error) => (Check::not(REHEARSAL, error.to_string()), None),
    }
}

/// The Secret's write was not rehearsed.
pub fn no_rehearsal(why: &str) -> Check {
    Check::not(REHEARSAL, why)
}

/// What is to be found out about the vendor, in the order of the questions.
const CREDENTIAL: &str = "there is a credential for Astro";
const ANSWER: &str = "Astro answers";
const ACCEPTED: &str = "Astro accepts the credential";
const FOUND: &str = "Astro knows the token";
const RIGHT: &str = "the token is a Workspace token of this Workspace";
const OWNER: &str = "the credential may rotate tokens of the Workspace";

/// What the live evidence says of the vendor; `unasked`: why it was not asked.
pub fn vendor(seen: &Observed, unasked: &str) -> Vec<Check> {
    let not = |names: &[&str], why: &str| -> Vec<Check> {
        names.iter().map(|name| Check::not(*name, why)).collect()
    };
    let ok = |names: &[&str]| -> Vec<Check> { names.iter().copied().map(Check::ok).collect() };
    match (&seen.access, &seen.live) {
        (Access::Denied(blocked), _) => {
            let rest = not(&[ANSWER, ACCEPTED, FOUND, RIGHT], "there is no credential");
            [vec![Check::blocked(CREDENTIAL, blocked)], rest].concat()
        }
        (Access::Unknown, _) | (_, Live::NotAsked) => {
            not(&[CREDENTIAL, ANSWER, ACCEPTED, FOUND, RIGHT], unasked)
        }
        (_, Live::Unavailable { message, .. }) => {
            let blocked = Blocked::new(Reason::VendorUnavailable, message);
            let rest = not(&[ACCEPTED, FOUND, RIGHT], "Astro did not answer");
            [
                ok(&[CREDENTIAL]),
                vec![Check::blocked(ANSWER, &blocked)],
                rest,
            ]
            .concat()
        }
        (_, Live::Refused { blocked, .. }) => match blocked.reason {
            Reason::CredentialsRejected | Reason::Forbidden => {
                let rest = not(&[FOUND, RIGHT], "Astro refused the credential");
                let refused = Check::blocked(ACCEPTED, blocked);
                [ok(&[CREDENTIAL, ANSWER]), vec![refused], rest].concat()
            }
            _ => {
                let rest = not(&[RIGHT], "it is not known which token it is");
                let refused = Check::blocked(FOUND, blocked);
                [ok(&[CREDENTIAL, ANSWER, ACCEPTED]), vec![refused], rest].concat()
            }
        },
        (_, Live::Token { token, .. }) => {
            let right = match check_token(seen, token) {
                Ok(()) => Check::ok(RIGHT),
                Err(blocked) => Check::blocked(RIGHT, &blocked),
            };
            [ok(&[CREDENTIAL, ANSWER, ACCEPTED, FOUND]), vec![right]].concat()
        }
    }
}

/// Whether the credential's roles let it rotate tokens of the Workspace; `Err`: why they are not known.
pub fn role(roles: Result<&[Role], &str>, workspace: &str) -> Check {
    let roles = match roles {
        Ok(roles) => roles,
        Err(why) => return Check::not(OWNER, why),
    };
    let is_enough = |role: &Role| match role.entity_type.as_str() {
        "WORKSPACE" => role.entity_id == workspace && role.role == "WORKSPACE_OWNER",
        "ORGANIZATION" => role.role == "ORGANIZATION_OWNER",
        _ => false,
    };
    if roles.iter().any(is_enough) {
        return Check::ok(OWNER);
    }
    let here = |role: &&Role| role.entity_type == "ORGANIZATION" || role.entity_id == workspace;
    let here: Vec<_> = roles
        .iter()
        .filter(here)
        .map(|role| line(&role.role, 64))
        .collect();
    let message = match here.is_empty() {
        true => format!("it has no role in Workspace {workspace}"),
        false => format!("its roles are {}", here.join(", ")),
    };
    Check::no(OWNER, message, Reason::Forbidden.explain().remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_role_is_what_is_checked() {
        let role = serde_saphyr::from_multiple::<serde_json::Value>(SHIPPED).unwrap();
        let role = role.into_iter().find(|it| it["kind"] == "Role").unwrap();
        let role: Permissions = serde_json::from_value(role).unwrap();
        let names = |access| -> Vec<String> {
            let all = permissions(&role, "data", access);
            all.iter().map(Permission::check).collect()
        };
        let watch = names(SecretAccess::Watch);
        for name in [
            "may watch workspacetokenrotations in data",
            "may patch workspacetokenrotations/status in data",
            "may list secrets in data",
            "may create events in data",
        ] {
            assert!(watch.contains(&name.to_owned()), "{name}: {watch:?}");
        }
        let mut get = names(SecretAccess::Get);
        assert!(get.contains(&"may get secrets in data".to_owned()));
        get.extend(["list", "watch"].map(|verb| format!("may {verb} secrets in data")));
        get.sort();
        let mut watch = watch;
        watch.sort();
        assert_eq!(get, watch);
    }

    #[test]
    fn an_owner_of_the_workspace_or_the_organization_may_and_nobody_else() {
        let role_of = |entity_type: &str, entity_id: &str, role: &str| Role {
            entity_type: entity_type.into(),
            entity_id: entity_id.into(),
            role: role.into(),
        };
        for (roles, expected) in [
            (
                vec![role_of("WORKSPACE", "w", "WORKSPACE_OWNER")],
                Outcome::Ok,
            ),
            (
                vec![role_of("ORGANIZATION", "o", "ORGANIZATION_OWNER")],
                Outcome::Ok,
            ),
            (
                vec![role_of("WORKSPACE", "v", "WORKSPACE_OWNER")],
                Outcome::No,
            ),
            (
                vec![role_of("WORKSPACE", "w", "WORKSPACE_MEMBER")],
                Outcome::No,
            ),
            (
                vec![role_of("ORGANIZATION", "o", "WORKSPACE_OWNER")],
                Outcome::No,
            ),
            (vec![], Outcome::No),
        ] {
            assert_eq!(role(Ok(&roles), "w").result, expected, "{roles:?}");
        }
        assert_eq!(role(Err("unread"), "w").result, Outcome::NotChecked);
    }
}
