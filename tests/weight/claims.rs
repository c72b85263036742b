//! What a claim of a resource weighs.

use astro_token_operator::api::{Role, WorkspaceTokenRotation};
use astro_token_operator::decide::evidence::Token;
use astro_token_operator::decide::pace::Pace;
use astro_token_operator::decide::rivals::Claims;
use jiff::Timestamp;
use serde_json::{Value, json};

/// A resource with ten rotations in its history, as an API server gives it.
fn resource(number: usize) -> WorkspaceTokenRotation {
    let token = format!("clm{number:022}");
    let entry = json!({
        "id": "0192f0c1-2d3e-7a4b-8c5d-6e7f8a9b0c1d", "reason": "Scheduled",
        "at": "2026-11-01T00:00:00Z", "tokenId": token, "outcome": "Stored",
    });
    let history: Vec<Value> = vec![entry; 10];
    let resource = json!({
        "apiVersion": "astro-token-operator.io/v1alpha1",
        "kind": "WorkspaceTokenRotation",
        "metadata": {
            "namespace": format!("team-{:03}", number % 100), "name": format!("pipeline-{number:05}"),
            "uid": format!("6f0c3a52-9d3c-4f0e-8a51-{number:012x}"),
            "creationTimestamp": "2026-11-01T00:00:00Z",
        },
        "spec": {
            "workspaceId": format!("clw{:022}", number % 100), "token": {"name": format!("Pipeline {number}")},
            "schedule": {"every": "1d"}, "target": {"name": format!("pipeline-{number:05}-token")},
        },
        "status": {"token": {"id": token, "name": format!("Pipeline {number}")}, "history": history},
    });
    serde_json::from_value(resource).unwrap()
}

/// Claims of so many resources, each of which has shown its token and that it can work.
pub fn claims(resources: usize) -> Claims {
    let mut claims = Claims::default();
    for number in 0..resources {
        let resource = resource(number);
        let token = Token {
            id: format!("clm{number:022}"),
            name: format!("Pipeline {number}"),
            ..Token::default()
        };
        claims.apply(&resource, Timestamp::UNIX_EPOCH);
        claims.learn(&resource, Role::Token, &token);
        claims.judge(&resource, true);
        claims.rivals(&resource, Timestamp::UNIX_EPOCH, &Pace::SHIPPED);
    }
    claims
}

/// Bytes for each of ten thousand resources, by what is `allocated` in all.
pub fn bytes_for_each(allocated: impl Fn() -> usize) -> usize {
    const MANY: usize = 10_000;
    let before = allocated();
    let claims = claims(MANY);
    let bytes = (allocated() - before) / MANY;
    drop(claims);
    bytes
}
