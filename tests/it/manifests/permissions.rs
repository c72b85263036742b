//! The operator's account may do what the operator does, and nothing else.

use super::{NAME, cluster};
use k8s_openapi::api::authorization::v1::{
    ResourceRule, SelfSubjectRulesReview, SelfSubjectRulesReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
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
    for (namespace, rules) in [
        ("elsewhere", EVERYWHERE.to_vec()),
        (NAME, [EVERYWHERE, AT_HOME].concat()),
    ] {
        let review = SelfSubjectRulesReview {
            spec: SelfSubjectRulesReviewSpec {
                namespace: Some(namespace.into()),
            },
            ..SelfSubjectRulesReview::default()
        };
        let review = reviews
            .create(&PostParams::default(), &review)
            .await
            .unwrap();
        let found = review.status.unwrap().resource_rules;
        let mut allowed: BTreeSet<_> = found.into_iter().flat_map(flatten).collect();
        // What every account may ask about itself.
        allowed.retain(|rule| !rule.starts_with("create auth"));
        let rules: BTreeSet<_> = rules.into_iter().map(str::to_owned).collect();
        assert_eq!(allowed, rules, "in {namespace}");
    }
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
