//! The permissions that the operator needs, and whether the caller has them.

use super::error::LONGEST_MESSAGE;
use super::watch::SecretAccess;
use crate::api::GROUP;
use crate::text::{api_error, line};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use std::fmt;

/// In each namespace: group, resource with its subresource, and verbs. A test holds it against `deploy/tenant`.
const IN_NAMESPACE: [(&str, &str, &[&str]); 4] = [
    (GROUP, "workspacetokenrotations", &["get", "list", "watch"]),
    (GROUP, "workspacetokenrotations/status", &["patch"]),
    ("", "secrets", &["get", "list", "watch", "create", "patch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// One permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission<'a> {
    namespace: &'a str,
    group: &'a str,
    /// With its subresource, after a slash.
    resource: &'a str,
    name: Option<&'a str>,
    verb: &'a str,
}

impl fmt::Display for Permission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, resource) = (self.verb, self.resource);
        match self.name {
            Some(name) => write!(f, "may {verb} {resource} {name}"),
            None => write!(f, "may {verb} {resource} in {}", self.namespace),
        }
    }
}

/// What the API server says of a permission.
pub enum Answer {
    /// It is given.
    Yes,
    /// It is not, and why.
    No(String),
    /// No verdict, and why.
    None(String),
}

/// All that the operator needs in a namespace.
pub fn in_namespace(namespace: &str, access: SecretAccess) -> impl Iterator<Item = Permission<'_>> {
    let is_used = move |resource: &str, verb: &str| {
        let finds_secrets = resource == "secrets" && matches!(verb, "list" | "watch");
        access == SecretAccess::Watch || !finds_secrets
    };
    IN_NAMESPACE
        .iter()
        .flat_map(move |(group, resource, verbs)| {
            let verbs = verbs.iter().filter(move |verb| is_used(resource, verb));
            verbs.map(move |verb| Permission {
                namespace,
                group,
                resource,
                name: None,
                verb,
            })
        })
}

/// What it takes to tell this cluster from others.
pub fn of_cluster() -> Permission<'static> {
    Permission {
        // The API server takes a namespace to be in itself.
        namespace: "kube-system",
        group: "",
        resource: "namespaces",
        name: Some("kube-system"),
        verb: "get",
    }
}

/// Whether the caller may read Secrets in a namespace, as far as that is known.
pub async fn may_read_secrets(client: &Client, namespace: &str) -> bool {
    let permission = Permission {
        namespace,
        group: "",
        resource: "secrets",
        name: None,
        verb: "get",
    };
    matches!(review(client, &permission).await, Answer::Yes)
}

/// Whether the caller has a permission.
pub async fn review(client: &Client, permission: &Permission<'_>) -> Answer {
    let (resource, subresource) = match permission.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (permission.resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(permission.namespace.into()),
                group: Some(permission.group.into()),
                resource: Some(resource.into()),
                subresource,
                name: permission.name.map(str::to_owned),
                verb: Some(permission.verb.into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    match reviews.create(&PostParams::default(), &review).await {
        Ok(answer) => match answer.status {
            Some(status) if status.allowed => Answer::Yes,
            Some(status) => {
                let said = line(&status.reason.unwrap_or_default(), LONGEST_MESSAGE);
                Answer::No(match said.is_empty() {
                    true => "not permitted".into(),
                    false => said,
                })
            }
            None => Answer::None("the API server gave no verdict".into()),
        },
        Err(error) => Answer::None(api_error(&error, LONGEST_MESSAGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::Role;

    #[test]
    fn they_are_those_of_the_role_that_is_shipped() {
        let shipped = include_str!("../../deploy/tenant/rbac.yaml");
        let shipped = serde_saphyr::from_multiple::<serde_json::Value>(shipped).unwrap();
        let role = shipped.into_iter().find(|it| it["kind"] == "Role").unwrap();
        let role: Role = serde_json::from_value(role).unwrap();
        let mut wanted = Vec::new();
        for rule in role.rules.iter().flatten() {
            for group in rule.api_groups.iter().flatten() {
                for resource in rule.resources.iter().flatten() {
                    wanted.extend(rule.verbs.iter().map(|verb| Permission {
                        namespace: "data",
                        group,
                        resource,
                        name: None,
                        verb,
                    }));
                }
            }
        }
        let watch: Vec<_> = in_namespace("data", SecretAccess::Watch).collect();
        assert_eq!(watch, wanted);

        wanted.retain(|it| it.resource != "secrets" || !matches!(it.verb, "list" | "watch"));
        let get: Vec<_> = in_namespace("data", SecretAccess::Get).collect();
        assert_eq!(get, wanted);
        assert_eq!(
            get[0].to_string(),
            "may get workspacetokenrotations in data"
        );
        assert_eq!(of_cluster().to_string(), "may get namespaces kube-system");
    }
}
