//! `rotate --into-secret`: by the operator's rules, and so that the operator can go on from it.

use crate::stage::process::{self, Ended, Process, run};
use crate::stage::{self, Stage, plane};
use astro_token_operator::api::{evidence, request};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use lab::astro::{Astro, Fault, Issued, NewToken, Operation, Step};
use serde_json::json;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// Longest wait for a step of a command.
const SOON: Duration = Duration::from_secs(20);

/// A namespace, and whoever calls the command.
struct Caller {
    stage: Stage,
    kubeconfig: PathBuf,
}

impl Caller {
    async fn start() -> Self {
        let stage = Stage::new(&Astro::start().await.unwrap()).await;
        let kubeconfig = plane().await.kubeconfig();
        Self { stage, kubeconfig }
    }

    /// The command's words, and its environment.
    fn words(&self, token: &Issued, secret: &str) -> [String; 5] {
        let place = format!("{}/{secret}", self.stage.namespace);
        ["rotate", &token.id, "--force", "--into-secret", &place].map(str::to_owned)
    }

    fn environment<'a>(&'a self, url: &'a str) -> [(&'static str, &'a str); 5] {
        [
            ("ASTRO_API_TOKEN", &self.stage.owner.value),
            ("ASTRO_API_URL", url),
            ("KUBECONFIG", self.kubeconfig.to_str().unwrap()),
            ("LANDING_TIME", "1s"),
            ("PACE", "0.1"),
        ]
    }

    async fn rotate(&self, token: &Issued, secret: &str) -> Ended {
        let url = self.stage.astro.url();
        let ended = run(&self.words(token, secret), &self.environment(&url)).await;
        assert_eq!(ended.stdout, "");
        let said = ended.stderr.concat();
        let values = self.stage.astro.issued();
        assert!(values.iter().all(|value| !said.contains(value)));
        ended
    }

    /// Nothing was rotated, and these words say why.
    async fn is_refused(&self, token: &Issued, secret: &str, words: &[&str]) {
        let before = self.stage.astro.rotations(&token.id);
        let ended = self.rotate(token, secret).await;
        let said = ended.stderr.join("\n");
        assert_eq!(ended.code, Some(1), "{said}");
        for word in words.iter().chain(&["nothing was rotated"]) {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
        assert_eq!(self.stage.astro.rotations(&token.id), before);
    }

    /// The Secret holds the live value of the token, which was rotated so often.
    async fn holds_live(&self, token: &Issued, secret: &str, key: &str, rotations: usize) {
        let value = self.stage.value(secret, key).await.unwrap();
        assert!(self.stage.astro.is_live(&value));
        assert_eq!(self.stage.astro.token_of(&value).as_ref(), Some(&token.id));
        assert_eq!(self.stage.astro.rotations(&token.id), rotations);
    }

    fn start_it(&self, token: &Issued, secret: &str) -> Process {
        let url = self.stage.astro.url();
        Process::start(&self.words(token, secret), &self.environment(&url))
    }
}

#[tokio::test]
async fn a_token_of_a_deployment_is_rotated_by_its_name_or_its_id() {
    let caller = Caller::start().await;
    let stage = &caller.stage;
    let new = NewToken::deployment("deployed", "clmdeployment", &stage.workspace);
    let token = stage.astro.create(new);
    let url = stage.astro.url();
    for (words, code, says) in [
        (&["--name", "deployed"][..], 1, "no Workspace API token"),
        (&[&token.id], 1, "WrongScope"),
        (&[&token.id, "--scope", "deployment"], 2, "--deployment-id"),
        (
            &[
                &token.id,
                "--scope",
                "workspace",
                "--deployment-id",
                "clmdeployment",
            ],
            1,
            "goes with",
        ),
        (
            &[&token.id, "--deployment-id", "clmanother"],
            1,
            "clmanother",
        ),
        (
            &[&token.id, "--deployment-id", "clmdeployment"],
            0,
            "Deployment API token",
        ),
        (
            &["--name", "deployed", "--deployment-id", "clmdeployment"],
            0,
            "Deployment API token",
        ),
    ] {
        let words = [&["rotate", "--force"], words].concat();
        let ended = run(&words, &caller.environment(&url)).await;
        let said = ended.stderr.join("\n");
        assert_eq!(ended.code, Some(code), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
    }
    assert_eq!(stage.astro.rotations(&token.id), 2);
}

#[tokio::test]
async fn a_resource_takes_the_secret_over_without_a_rotation_and_then_owns_the_token() {
    let caller = Caller::start().await;
    let stage = &caller.stage;
    let token = stage.token("ci");
    for times in 1..=2 {
        let ended = caller.rotate(&token, "ci-secret").await;
        assert_eq!(ended.code, Some(0), "{:#?}", ended.stderr);
        assert!(
            ended.stderr.concat().contains("ci-secret"),
            "{:#?}",
            ended.stderr
        );
        caller.holds_live(&token, "ci-secret", "token", times).await;
    }
    let secret = stage.secret("ci-secret").await.unwrap();
    assert_eq!(secret.annotations()[evidence::TOKEN_ID], token.id);
    assert_eq!(secret.annotations().get(evidence::REQUEST), None);

    let _operator = stage.operator(&["--leader-election=false"]).await;
    stage.create("ci", json!({})).await;
    let ready = |_: &_, status: &_| stage::is_ready(status);
    stage.until("ci", "ready", ready).await;
    caller.holds_live(&token, "ci-secret", "token", 2).await;
    let owner = |secret: &Secret| {
        secret
            .annotations()
            .get(evidence::OWNED_BY)
            .is_some_and(|it| it == "ci")
    };
    stage.until_secret("ci-secret", owner).await;

    let trigger = format!("trigger --namespace {} ci", stage.namespace);
    caller
        .is_refused(&token, "another", &["owns this token", &trigger])
        .await;
    let other = stage.token("other");
    caller
        .is_refused(&other, "ci-secret", &["is the target of", "ci"])
        .await;
    caller.holds_live(&token, "ci-secret", "token", 2).await;
}

#[tokio::test]
async fn what_could_not_be_stored_is_found_out_before_anything_is_rotated() {
    let caller = Caller::start().await;
    let stage = &caller.stage;
    let token = stage.token("ci");
    stage.put_secret("theirs", json!({"token": "x"})).await;
    caller
        .is_refused(&token, "theirs", &["SecretNotOurs", request::ADOPT])
        .await;
    caller
        .is_refused(&token, "Not_A_Name", &["InvalidSpec", "target.name"])
        .await;

    assert_eq!(caller.rotate(&token, "ours:value").await.code, Some(0));
    caller.holds_live(&token, "ours", "value", 1).await;
    stage.edit_secret("ours", json!({"immutable": true})).await;
    caller
        .is_refused(&token, "ours:value", &["is immutable"])
        .await;
    stage.limit_secrets(3).await;
    caller
        .is_refused(&token, "third", &["would not store", "quota"])
        .await;

    let consent = json!({"metadata": {"annotations": {request::ADOPT: "by_hand"}}});
    stage.edit_secret("theirs", consent).await;
    assert_eq!(caller.rotate(&token, "theirs").await.code, Some(0));
    caller.holds_live(&token, "theirs", "token", 2).await;
}

#[tokio::test]
async fn a_lost_answer_costs_one_rotation_more_and_the_secret_gets_the_live_value() {
    let caller = Caller::start().await;
    let token = caller.stage.token("ci");
    let lost = Fault::on(Operation::Rotate).token(&token.id).once();
    caller.stage.astro.fault(lost.after(Step::Close));
    let ended = caller.rotate(&token, "ci-secret").await;
    let said = ended.stderr.join("\n");
    assert_eq!(ended.code, Some(0), "{said}");
    for words in ["is not known", "lost with the answer", "Rotating once more"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
    caller.holds_live(&token, "ci-secret", "token", 2).await;
}

#[tokio::test]
async fn who_may_not_look_for_an_owner_rotates_nothing() {
    let mut caller = Caller::start().await;
    let token = caller.stage.token("ci");
    let namespace = caller.stage.namespace.clone();
    let accounts: Api<ServiceAccount> = Api::namespaced(plane().await.client(), &namespace);
    let nobody = serde_json::from_value(json!({"metadata": {"name": "nobody"}})).unwrap();
    let params = PostParams::default();
    accounts.create(&params, &nobody).await.unwrap();
    caller.kubeconfig = caller.stage.dir().join("nobody.kubeconfig");
    plane()
        .await
        .service_account_kubeconfig(&namespace, "nobody", &caller.kubeconfig)
        .await
        .unwrap();
    caller
        .is_refused(
            &token,
            "ci-secret",
            &["may not list WorkspaceTokenRotations"],
        )
        .await;
}

#[tokio::test]
async fn a_rotation_in_flight_outlives_the_first_interruption_and_not_the_second() {
    let caller = Caller::start().await;
    for interruptions in 1..=2 {
        let token = caller.stage.token(&format!("ci{interruptions}"));
        let held = Fault::on(Operation::Rotate).token(&token.id).once();
        let held = caller.stage.astro.fault(held.before(Step::Hold));
        let mut command = caller.start_it(&token, "ci-secret");
        held.reached().await;
        command.signal("INT").await;
        command.until("a rotation is in flight", SOON).await;
        if interruptions == 1 {
            held.release();
            assert_eq!(command.end(SOON).await.0, Some(0));
            caller.holds_live(&token, "ci-secret", "token", 1).await;
        } else {
            command.signal("TERM").await;
            let (code, said) = command.end(SOON).await;
            assert_eq!(code, Some(1));
            assert!(said.concat().contains("given up"), "{said:#?}");
        }
    }
}

#[tokio::test]
async fn a_reader_that_leaves_in_mid_rotation_is_told_of_however_few_read_it() {
    let caller = Caller::start().await;
    let token = caller.stage.token("ci");
    let held = Fault::on(Operation::Rotate).token(&token.id).once();
    let held = caller.stage.astro.fault(held.before(Step::Hold));
    let url = caller.stage.astro.url();
    let command = tokio::process::Command::new(process::BINARY)
        .args(["rotate", &token.id, "--force"])
        .kill_on_drop(true)
        .env_clear()
        .envs(caller.environment(&url))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut command = command.unwrap();
    held.reached().await;
    drop(command.stdout.take());
    held.release();
    let ended = process::rest(command).await;
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("its new value is lost"), "{said}");
}
