//! The operator's account may do what the operator does, and nothing else.

use super::{NAME, cluster, say};
use crate::stage;
use k8s_openapi::api::authorization::v1::{
    ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use lab::wait::poll;
use serde_json::json;
use std::collections::BTreeSet;

/// What the operator's account may do: in any namespace, and in its own besides.
const EVERYWHERE: &[&str] = &[
    "get astro-token-operator.io/workspacetokenrotations",
    "list astro-token-operator.io/workspacetokenrotations",
    "watch astro-token-operator.io/workspacetokenrotations",
    "patch astro-token-operator.io/workspacetokenrotations/status",
    "get /secrets",
    "list /secrets",
    "watch /secrets",
    "create /secrets",
    "patch /secrets",
    "create events.k8s.io/events",
    "patch events.k8s.io/events",
    "get /namespaces kube-system",
];
const AT_HOME: &[&str] = &[
    "create coordination.k8s.io/leases",
    "get coordination.k8s.io/leases astro-token-operator",
    "update coordination.k8s.io/leases astro-token-operator",
];

#[tokio::test]
async fn the_operator_may_do_no_more_than_it_does() {
    let (plane, _) = cluster("elsewhere").await;
    let account = plane.service_account(NAME, NAME).await.unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(account).unwrap());
    for (namespace, wanted) in [
        ("elsewhere", EVERYWHERE.to_vec()),
        (NAME, [EVERYWHERE, AT_HOME].concat()),
    ] {
        let mut allowed = rules(&reviews, namespace).await;
        // What every account may ask about itself.
        allowed.retain(|rule| !rule.starts_with("create auth"));
        let wanted: BTreeSet<_> = wanted.into_iter().map(str::to_owned).collect();
        assert_eq!(allowed, wanted, "in {namespace}");
    }
}

#[tokio::test]
async fn people_who_may_edit_may_write_resources_and_no_status() {
    let (plane, client) = cluster("people").await;
    if !plane.has_controllers() {
        say("skipped: the cluster's own roles, which a controller puts together");
        return;
    }
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "person"}});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "people"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": "people"}],
    });
    for object in [account, binding] {
        stage::apply(&client, &object).await;
    }
    let person = plane.service_account("people", "person").await.unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(Client::try_from(person).unwrap());
    let verbs = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    let wanted =
        verbs.map(|verb| format!("{verb} astro-token-operator.io/workspacetokenrotations"));
    // The cluster's own roles are put together by a controller.
    poll(
        "the role edit has ours in it",
        stage::DEADLINE,
        async || {
            let mut allowed = rules(&reviews, "people").await;
            allowed.retain(|rule| rule.contains("workspacetokenrotations"));
            let is_there = allowed.iter().eq(&wanted);
            Ok(is_there.then_some(()).ok_or(format!("{allowed:?}")))
        },
    )
    .await
    .unwrap();
}

async fn rules(reviews: &Api<SelfSubjectRulesReview>, namespace: &str) -> BTreeSet<String> {
    let review = SelfSubjectRulesReview {
        spec: SelfSubjectRulesReviewSpec {
            namespace: Some(namespace.into()),
        },
        ..SelfSubjectRulesReview::default()
    };
    let review = reviews.create(&PostParams::default(), &review).await;
    let found = review.unwrap().status.unwrap().resource_rules;
    found.into_iter().flat_map(flatten).collect()
}

/// A rule as lines of the form `verb group/resource name`.
fn flatten(rule: ResourceRule) -> Vec<String> {
    let names = rule.resource_names.unwrap_or(vec![String::new()]);
    let (groups, resources) = (rule.api_groups.unwrap(), rule.resources.unwrap());
    let mut lines = Vec::new();
    for group in &groups {
        for resource in &resources {
            for verb in &rule.verbs {
                let line = |name| format!("{verb} {group}/{resource} {name}");
                lines.extend(names.iter().map(|name| line(name).trim_end().to_owned()));
            }
        }
    }
    lines
}
