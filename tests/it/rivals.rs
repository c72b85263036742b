//! Two resources with a claim to one token or one Secret: who works, who waits without a call, and who cannot squat.

use crate::stage::{self, Operator, Stage, next_second};
use astro_token_operator::api::{Cause, WorkspaceTokenRotation};
use futures::future::join_all;
use kube::api::{DeleteParams, Patch, PatchParams};
use lab::astro::{Astro, Fault, FaultHandle, Issued, NewToken, Operation, Reply, Step};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// No audit helps: what happens here happens because a watch says so.
const FLAGS: [&str; 2] = ["--leader-election=false", "--audit-interval=1h"];

/// A simulator, some namespaces with a credential each, and an operator that works in them.
struct Rivals {
    astro: Astro,
    tenants: Arc<[Stage]>,
    operator: Option<Operator>,
}

impl Rivals {
    async fn start(tenants: usize) -> Self {
        let astro = Astro::start().await.unwrap();
        let tenants = join_all((0..tenants).map(|_| Stage::new(&astro))).await;
        let mut rivals = Self {
            astro,
            tenants: tenants.into(),
            operator: None,
        };
        rivals.restart().await;
        rivals
    }

    /// A new operator, as after a crash of the one before.
    async fn restart(&mut self) {
        self.stop().await;
        let tenants: Vec<_> = self.tenants.iter().collect();
        self.operator = Some(Operator::start_in(&tenants, &FLAGS).await);
    }

    async fn stop(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.kill().await;
        }
    }

    /// Calls made with a credential so far.
    fn calls(&self, credential: &Issued) -> usize {
        let theirs = |id: &Option<String>| id.as_ref() == Some(&credential.id);
        self.astro.count_requests(|r| theirs(&r.credential))
    }
}

/// Puts a credential of its own into the Secret `name`.
async fn credential(stage: &Stage, name: &str) -> Issued {
    let owner = NewToken::owner(format!("{name} {}", stage.namespace), &stage.workspace);
    let owner = stage.astro.create(owner);
    stage.put_secret(name, json!({"token": owner.value})).await;
    owner
}

fn by_id(token: &Issued) -> Value {
    json!({"token": {"name": null, "id": token.id}})
}

/// Makes a blocked resource look again by itself only after minutes, and waits until it has looked once more.
async fn make_patient(stage: &Stage, name: &str, reason: &str) {
    let status = stage.resources().get(name).await.unwrap().status.unwrap();
    let mut conditions = status.conditions;
    let long_ago = "2020-01-01T00:00:00Z".parse().unwrap();
    for condition in &mut conditions {
        condition.last_transition_time.0 = long_ago;
    }
    let patch = Patch::Merge(json!({"status": {"conditions": conditions}}));
    let params = PatchParams::default();
    stage
        .resources()
        .patch_status(name, &params, &patch)
        .await
        .unwrap();
    stage
        .edit(name, json!({"spec": {"schedule": {"jitter": "1m"}}}))
        .await;
    stage.until_blocked(name, reason).await;
}

#[tokio::test]
async fn the_younger_of_two_on_one_token_makes_no_call_and_takes_over_by_a_watch() {
    // Two namespaces for each row, of which some need one.
    let rivals = Rivals::start(16).await;
    let row = async |(number, (older_by_id, younger_by_id, one_namespace)): (
        usize,
        (bool, bool, bool),
    )| {
        let first = &rivals.tenants[2 * number];
        let token = first.token("shared");
        let edit = |id: bool| match id {
            true => by_id(&token),
            false => json!({"token": {"name": first.token_name("shared")}}),
        };
        first.create("older", edit(older_by_id)).await;
        first.until_rotated("older", 1).await;
        next_second().await;

        let stage = match one_namespace {
            true => first,
            false => &rivals.tenants[2 * number + 1],
        };
        let own = credential(stage, "second").await;
        let mut spec = stage.spec("younger", edit(younger_by_id));
        spec["credentials"]["secretRef"]["name"] = "second".into();
        let younger = json!({"metadata": {"name": "younger"}, "spec": spec});
        stage.create_raw(younger).await.unwrap();
        let message = stage.until_blocked("younger", "TokenConflict").await;
        assert_eq!(
            message.contains("older resource older"),
            one_namespace,
            "{message}"
        );
        assert!(!message.contains(&first.namespace), "{message}");
        make_patient(stage, "younger", "TokenConflict").await;
        let what = format!("{older_by_id} {younger_by_id} {one_namespace}");
        assert_eq!(rivals.calls(&own), 0, "{what}");
        assert_eq!(rivals.astro.rotations(&token.id), 1, "{what}");

        first.delete("older").await;
        stage.until_rotated("younger", 1).await;
        assert!(stage.holds_live("younger").await);
        assert_eq!(rivals.astro.rotations(&token.id), 2, "{what}");
        stage.assert_no_leak().await;
    };
    let both = [true, false];
    let rows = both
        .into_iter()
        .flat_map(|older| both.map(|younger| (older, younger)));
    let rows = rows.flat_map(|(older, younger)| both.map(|one| (older, younger, one)));
    join_all(rows.enumerate().map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn the_younger_of_two_on_one_secret_makes_no_call_and_takes_over_by_a_watch() {
    let rivals = Rivals::start(1).await;
    let stage = &rivals.tenants[0];
    let tokens = [stage.token("older"), stage.token("younger")];
    stage
        .create("older", json!({"target": {"name": "one"}}))
        .await;
    stage.until_rotated("older", 1).await;
    next_second().await;
    let own = credential(stage, "second").await;
    let younger =
        json!({"target": {"name": "one"}, "credentials": {"secretRef": {"name": "second"}}});
    stage.create("younger", younger).await;
    let message = stage.until_blocked("younger", "TargetConflict").await;
    assert!(message.contains("target.name"), "{message}");
    make_patient(stage, "younger", "TargetConflict").await;
    assert_eq!(rivals.calls(&own), 0);
    // So slow an answer that the Secret is read again before it is written.
    let slow = Step::Delay(Duration::from_millis(1_500));
    rivals.astro.fault(Fault::on(Operation::Rotate).after(slow));
    stage.delete("older").await;
    stage.until_rotated("younger", 1).await;
    let value = stage.value("one", "token").await.unwrap();
    assert!(rivals.astro.live_value(&tokens[1].id).as_ref() == Some(&value));
    assert_eq!(
        tokens.each_ref().map(|t| rivals.astro.rotations(&t.id)),
        [1, 1]
    );
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn when_the_operator_meets_both_at_once_the_older_works_whoever_is_first_in_the_list() {
    let mut rivals = Rivals::start(4).await;
    let tenants = rivals.tenants.clone();
    rivals.stop().await;
    let mut rows = Vec::new();
    for (older, younger) in [("a", "z"), ("z", "a")] {
        for older_by_id in [true, false] {
            let stage = &tenants[rows.len()];
            let token = stage.token("shared");
            let name = json!({"token": {"name": stage.token_name("shared")}});
            let edits = match older_by_id {
                true => [by_id(&token), name],
                false => [name, by_id(&token)],
            };
            rows.push((stage, token, older, younger, edits));
        }
    }
    for (stage, _, older, _, edits) in &rows {
        stage.create(older, edits[0].clone()).await;
    }
    next_second().await;
    for (stage, _, _, younger, edits) in &rows {
        stage.create(younger, edits[1].clone()).await;
    }
    rivals.restart().await;
    for (stage, token, older, younger, _) in &rows {
        stage.until_rotated(older, 1).await;
        stage.until_blocked(younger, "TokenConflict").await;
        assert_eq!(rivals.astro.rotations(&token.id), 1);
        stage.assert_no_leak().await;
    }
}

#[tokio::test]
async fn an_edit_makes_a_conflict_and_ends_one_at_once() {
    let rivals = Rivals::start(1).await;
    let stage = &rivals.tenants[0];
    let (one, other) = (stage.token("one"), stage.token("other"));
    stage.create("older", by_id(&other)).await;
    stage.until_rotated("older", 1).await;
    next_second().await;
    stage.create("younger", by_id(&one)).await;
    stage.until_rotated("younger", 1).await;
    // What the younger one has stored is not taken from it by an edit of another resource.
    stage.edit("older", json!({"spec": by_id(&one)})).await;
    let message = stage.until_blocked("older", "TokenConflict").await;
    assert!(
        message.contains("resource younger has a value"),
        "{message}"
    );
    assert!(stage.holds_live("younger").await);
    make_patient(stage, "older", "TokenConflict").await;
    stage.edit("younger", json!({"spec": by_id(&other)})).await;
    stage.until_rotated("younger", 2).await;
    stage.until_rotated("older", 2).await;
    // Both have stored a value of the other token, and of the two the older one keeps it.
    stage.edit("older", json!({"spec": by_id(&other)})).await;
    let resource = stage.until_rotated("older", 3).await;
    let last = resource.status.unwrap().last_rotation.unwrap();
    assert_eq!(last.reason, Cause::Initial);
    stage.until_blocked("younger", "TokenConflict").await;
    stage.edit("younger", json!({"spec": by_id(&one)})).await;
    stage.until_rotated("younger", 3).await;
    assert!(stage.holds_live("younger").await && stage.holds_live("older").await);
    stage.assert_no_leak().await;
}

/// An older resource in another namespace names the token of a younger one, and cannot work on it.
#[tokio::test]
async fn nobody_keeps_a_token_from_its_owner_by_naming_it_first() {
    let rivals = Rivals::start(2).await;
    let (squatter, owner) = (&rivals.tenants[0], &rivals.tenants[1]);
    let foreign = NewToken::owner("of another Workspace", "clmotherworkspace");
    let foreign = rivals.astro.create(foreign);
    squatter
        .put_secret("foreign", json!({"token": foreign.value}))
        .await;
    squatter
        .put_secret("dead", json!({"token": rivals.astro.rotate(&foreign.id)}))
        .await;
    let live = rivals.astro.rotate(&foreign.id);
    squatter.put_secret("foreign", json!({"token": live})).await;
    squatter
        .put_secret("taken", json!({"token": "of a person"}))
        .await;
    let with = |name: &str| json!({"credentials": {"secretRef": {"name": name}}});
    let rows: [(&str, Value, &str); 7] = [
        (
            "none",
            json!({"credentials": null}),
            "CredentialsNotAllowed",
        ),
        ("missing", with("missing"), "CredentialsMissing"),
        ("dead", with("dead"), "CredentialsRejected"),
        ("foreign", with("foreign"), "Forbidden"),
        (
            "invalid",
            json!({"schedule": {"every": null, "cron": "x"}}),
            "InvalidSpec",
        ),
        (
            "unowned",
            json!({"credentials": {"secretRef": {"name": "dead"}}, "target": {"name": "taken"}}),
            "SecretNotOurs",
        ),
        (
            "second",
            json!({"credentials": {"secretRef": {"name": "missing"}}, "target": {"name": "none-secret"}}),
            "TargetConflict",
        ),
    ];
    let mut tokens = Vec::new();
    for (name, edit, _) in &rows {
        let token = owner.token(name);
        let mut spec = squatter.spec(name, edit.clone());
        spec["token"] = json!({"id": token.id});
        let resource = json!({"metadata": {"name": name}, "spec": spec});
        squatter.create_raw(resource).await.unwrap();
        if *name == "none" {
            next_second().await;
        }
        tokens.push(token);
    }
    // Going away for ever.
    let token = owner.token("going");
    let mut spec = squatter.spec("going", by_id(&token));
    spec["suspend"] = true.into();
    let going =
        json!({"metadata": {"name": "going", "finalizers": ["example.com/never"]}, "spec": spec});
    squatter.create_raw(going).await.unwrap();
    squatter
        .resources()
        .delete("going", &DeleteParams::default())
        .await
        .unwrap();
    for (name, _, reason) in &rows {
        squatter.until_blocked(name, reason).await;
    }
    next_second().await;
    for (name, ..) in rows.iter().chain([&("going", Value::Null, "")]) {
        owner.create(name, json!({})).await;
    }
    for (name, _, reason) in &rows {
        owner.until_rotated(name, 1).await;
        // Now that there is a value of the token, that comes before what is wrong with the credential.
        let reason = match *reason {
            "InvalidSpec" | "TargetConflict" => reason,
            _ => "TokenConflict",
        };
        squatter.until_blocked(name, reason).await;
        assert!(owner.holds_live(name).await, "{name}");
    }
    owner.until_rotated("going", 1).await;
    for token in &tokens {
        assert_eq!(rivals.astro.rotations(&token.id), 1);
    }
    let finalizers = json!({"metadata": {"finalizers": null}});
    squatter.edit("going", finalizers).await;
    owner.assert_no_leak().await;
    squatter.assert_no_leak().await;
}

#[tokio::test]
async fn a_start_of_the_operator_changes_nothing_for_one_that_is_older_than_a_squatter_can_be() {
    let mut rivals = Rivals::start(2).await;
    let tenants = rivals.tenants.clone();
    let (squatter, owner) = (&tenants[0], &tenants[1]);
    let token = owner.token("mine");
    let mut edit = by_id(&token);
    edit["credentials"]["secretRef"]["name"] = "missing".into();
    squatter.create("first", edit).await;
    squatter.until_blocked("first", "CredentialsMissing").await;
    next_second().await;
    owner.create("mine", json!({})).await;
    let before = owner.until_rotated("mine", 1).await;
    owner.until_event("mine", 1).await;
    rivals.restart().await;
    owner.request("mine", "after the start").await;
    owner.until_rotated("mine", 2).await;
    let since = |r: &WorkspaceTokenRotation| {
        let conditions = r.status.as_ref().unwrap().conditions.iter();
        let mut ready = conditions.filter(|c| c.type_ == "Ready");
        ready.next().unwrap().last_transition_time.clone()
    };
    let after = owner.resources().get("mine").await.unwrap();
    assert_eq!(since(&before), since(&after), "it was not ready meanwhile");
    owner.until_event("mine", 2).await;
    assert_eq!(owner.events("mine").await, ["Rotated", "Rotated"]);
    assert_eq!(rivals.astro.rotations(&token.id), 2);
}

#[tokio::test]
async fn an_older_one_that_can_work_after_all_gets_nothing_back() {
    let mut rivals = Rivals::start(2).await;
    let tenants = rivals.tenants.clone();
    let (elder, junior) = (&tenants[0], &tenants[1]);
    let token = junior.token("both");
    let mut edit = by_id(&token);
    edit["credentials"]["secretRef"]["name"] = "later".into();
    elder.create("both", edit).await;
    elder.until_blocked("both", "CredentialsMissing").await;
    next_second().await;
    junior.create("both", by_id(&token)).await;
    junior.until_rotated("both", 1).await;

    let own = credential(elder, "later").await;
    elder.until_blocked("both", "TokenConflict").await;
    assert!(junior.holds_live("both").await);

    // Not when the younger one can no longer work, and not from an operator that knows nothing.
    rivals.astro.delete(&junior.owner.id);
    rivals.restart().await;
    let request = json!({"astro-token-operator.io/rotate": "in vain"});
    let request = json!({"metadata": {"annotations": request}});
    junior.edit("both", request).await;
    junior.until_blocked("both", "CredentialsRejected").await;
    let calls = rivals.calls(&own);
    make_patient(elder, "both", "TokenConflict").await;
    assert_eq!(rivals.calls(&own), calls);
    assert!(junior.holds_live("both").await);
    assert_eq!(rivals.astro.rotations(&token.id), 1);

    junior.delete("both").await;
    elder.until_rotated("both", 1).await;
    assert!(elder.holds_live("both").await);
    assert_eq!(rivals.astro.rotations(&token.id), 2);
    junior.assert_no_leak().await;
    elder.assert_no_leak().await;
}

/// An older resource whose credential Astro answers in this way, whatever is asked.
async fn unanswered(stage: &Stage, token: &Issued, steps: Vec<Step>) -> (Issued, FaultHandle) {
    let own = credential(stage, "unanswered").await;
    let fault = Fault::any().credential(&own.id);
    let fault = stage.astro.fault(Fault {
        before: steps,
        ..fault
    });
    let mut spec = by_id(token);
    spec["credentials"]["secretRef"]["name"] = "unanswered".into();
    stage.create("first", spec).await;
    next_second().await;
    (own, fault)
}

#[tokio::test]
async fn one_whose_credential_is_never_answered_does_not_keep_a_token_from_its_owner() {
    let answer = |reply: Reply| vec![Step::Answer(reply)];
    let rows = [
        ("bad-request", answer(Reply::json(400))),
        (
            "pausing",
            answer(Reply::json(429).header("retry-after", "600")),
        ),
        ("limited", answer(Reply::html(429))),
        ("failing", answer(Reply::html(503))),
        ("silent", vec![Step::Hold]),
    ];
    let rivals = Rivals::start(2 * rows.len()).await;
    let row = async |(number, (name, steps)): (usize, (&str, Vec<Step>))| {
        let [squatter, owner] = [0, 1].map(|it| &rivals.tenants[2 * number + it]);
        let token = owner.token(name);
        let (_, fault) = unanswered(squatter, &token, steps).await;
        owner.create(name, json!({})).await;
        owner.until_rotated(name, 1).await;
        assert!(owner.holds_live(name).await, "{name}");
        // Answered at last, it gets nothing back.
        fault.clear();
        let edit = json!({"spec": {"schedule": {"jitter": "1m"}}});
        squatter.edit("first", edit).await;
        squatter.until_blocked("first", "TokenConflict").await;
        owner.request(name, "again").await;
        owner.until_rotated(name, 2).await;
        assert_eq!(rivals.astro.rotations(&token.id), 2, "{name}");
        owner.assert_no_leak().await;
        squatter.assert_no_leak().await;
    };
    let rows = rows.into_iter().enumerate();
    join_all(rows.map(|it| Box::pin(row(it)))).await;
}

#[tokio::test]
async fn one_that_edits_its_spec_again_and_again_is_waited_for_no_longer() {
    let rivals = Rivals::start(2).await;
    let (squatter, owner) = (&rivals.tenants[0], &rivals.tenants[1]);
    let token = owner.token("mine");
    let steps = vec![Step::Answer(Reply::json(400))];
    let (_, _fault) = unanswered(squatter, &token, steps).await;
    owner.create("mine", json!({})).await;
    let name = owner.token_name("mine");
    let edits = async {
        for turn in 0.. {
            let ask = match turn % 3 {
                0 => json!({"token": {"name": name, "id": null}}),
                1 => by_id(&token),
                _ => json!({"target": {"name": format!("s-{turn}")}}),
            };
            squatter.edit("first", json!({"spec": ask})).await;
        }
    };
    tokio::select! {
        () = edits => {}
        _ = owner.until_rotated("mine", 1) => {}
    }
    assert_eq!(rivals.astro.rotations(&token.id), 1);
}

#[tokio::test]
async fn one_that_adopted_its_value_keeps_the_token_when_its_credential_is_lost() {
    let mut rivals = Rivals::start(2).await;
    let tenants = rivals.tenants.clone();
    let (elder, junior) = (&tenants[0], &tenants[1]);
    let token = elder.token("both");
    let own = credential(elder, "own").await;
    elder
        .put_secret("both-secret", json!({"token": token.value}))
        .await;
    let consent = json!({"astro-token-operator.io/adopt": "both"});
    let consent = json!({"metadata": {"annotations": consent}});
    elder.edit_secret("both-secret", consent).await;
    let mut edit = by_id(&token);
    edit["credentials"]["secretRef"]["name"] = "own".into();
    elder.create("both", edit).await;
    elder
        .until("both", "ready", |_, it| stage::is_ready(it))
        .await;
    rivals.astro.delete(&own.id);
    rivals.restart().await;
    let request = json!({"astro-token-operator.io/rotate": "in vain"});
    elder
        .edit("both", json!({"metadata": {"annotations": request}}))
        .await;
    elder.until_blocked("both", "CredentialsRejected").await;
    next_second().await;
    junior.create("both", by_id(&token)).await;
    junior.until_blocked("both", "TokenConflict").await;
    let calls = rivals.calls(&junior.owner);
    make_patient(junior, "both", "TokenConflict").await;
    assert_eq!(rivals.calls(&junior.owner), calls);
    assert!(elder.holds_live("both").await);
    assert_eq!(rivals.astro.rotations(&token.id), 0);
    elder.assert_no_leak().await;
    junior.assert_no_leak().await;
}
