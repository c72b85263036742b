//! The operator as a process: what it says, when it starts, how it ends, and what its environment does to it.

mod stop;

use crate::stage::net::{Proxy, http};
use crate::stage::process::{Ended, Environment, Process, free_port, run};
use crate::stage::{self, HOME, Mode, PACE, Stage, permit_to_lead, plane, spoilable};
use astro_token_operator::api::Status;
use astro_token_operator::cli::Cli;
use clap::CommandFactory;
use lab::astro::{Astro, Fault, NewToken, Operation, Step};
use lab::control_plane::apply;
use lab::tls::Terminator;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const MODE: Mode = Mode::NAMESPACES;
/// Longest wait for a step of a process.
const SOON: Duration = Duration::from_secs(20);
/// Longest wait for an end in good order, and for a successor that need not wait for a lease to expire.
const QUICK: Duration = Duration::from_secs(5);
/// Longest wait for the successor of one that was killed: the lease, and a look.
const SUCCEEDED: Duration = Duration::from_secs(20);
/// Of every operator here, unless it says otherwise.
const FLAGS: [&str; 9] = [
    PACE,
    "--leader-election=false",
    "--listen=127.0.0.1:0",
    "--minimum-interval=2s",
    "--vendor-timeout=10s",
    "--vendor-connect-timeout=1s",
    "--write-budget=2s",
    "--landing-time=1s",
    "--audit-interval=1s",
];

/// A simulator, namespaces, and the account of operators that work in them.
struct Place {
    stage: Stage,
    kubeconfig: PathBuf,
    /// Where its operators work.
    namespaces: String,
}

impl Place {
    async fn start() -> Self {
        let stage = Stage::new(&Astro::start().await.unwrap()).await;
        // Leaders have a Lease in the namespace that they work in.
        permit_to_lead(plane().await, MODE, &stage.namespace).await;
        Self {
            kubeconfig: stage.kubeconfig(plane().await, MODE.account()).await,
            namespaces: stage.namespace.clone(),
            stage,
        }
    }

    /// A second namespace that its operators work in.
    async fn another(&mut self) -> Stage {
        let stage = Stage::new(&self.stage.astro).await;
        self.namespaces = format!("{},{}", self.namespaces, stage.namespace);
        stage
    }

    /// An operator with further flags.
    fn operator(&self, flags: &[&str]) -> Process {
        self.operator_in(flags, &[])
    }

    /// An operator with further flags and variables, which win over the usual ones.
    fn operator_in(&self, flags: &[&str], environment: Environment<'_>) -> Process {
        let url = format!("--api-url={}", self.stage.astro.url());
        let namespaces = format!("--namespaces={}", self.namespaces);
        let usual = FLAGS.into_iter().chain([url.as_str(), &namespaces]);
        let name = |flag: &str| flag.split('=').next().unwrap().to_owned();
        let usual = usual.filter(|flag| !flags.iter().any(|it| name(it) == name(flag)));
        let flags: Vec<_> = ["run"]
            .into_iter()
            .chain(usual)
            .chain(flags.iter().copied())
            .collect();
        let kubeconfig = ("KUBECONFIG", self.kubeconfig.to_str().unwrap());
        let environment: Vec<_> = [kubeconfig].iter().chain(environment).copied().collect();
        Process::start(&flags, &environment)
    }

    /// One of several, as a pod of this name.
    fn replica(&self, pod: &str, port: u16) -> Process {
        let (pod, listen) = (
            format!("--pod-name={pod}"),
            format!("--listen=127.0.0.1:{port}"),
        );
        let flags = ["--leader-election", &pod, &listen];
        self.operator_in(&flags, &[("POD_NAMESPACE", &self.stage.namespace)])
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.stage.dir().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A new resource and its token's id.
    async fn create(&self, name: &str, edit: Value) -> String {
        let token = self.stage.token(name);
        self.stage.create(name, edit).await;
        token.id
    }
}

/// A kubeconfig for a server that needs no credentials.
fn kubeconfig_of(name: &str, server: &str) -> String {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": {}}],
    });
    temporary(name, &kubeconfig.to_string())
}

fn temporary(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Status and body of a page that an operator serves.
async fn page(port: u16, path: &str) -> (u16, String) {
    let client = http();
    let url = format!("http://127.0.0.1:{port}/{path}");
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn leads(port: u16) -> bool {
    let (_, metrics) = page(port, "metrics").await;
    let line = |line: &&str| line.starts_with("astro_token_operator_leader ");
    match metrics.lines().find(line) {
        Some("astro_token_operator_leader 1") => true,
        Some("astro_token_operator_leader 0") => false,
        other => panic!("leader: {other:?}"),
    }
}

/// Waits until it says that it leads: what it says may be a second old.
async fn until_leads(port: u16) {
    let says_so = async {
        while !leads(port).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(QUICK, says_so).await.unwrap();
}

/// Ends an operator in good order; returns its log.
async fn stop(operator: Process) -> Vec<String> {
    operator.signal("TERM").await;
    let (code, log) = operator.end(QUICK).await;
    assert_eq!(code, Some(0), "{log:#?}");
    log
}

/// It ended with this exit code, and one line of error with all of `words` in it; nothing else was printed.
fn assert_refused(ended: &Ended, code: i32, words: &[&str]) {
    let Ended {
        code: actual,
        stdout,
        stderr,
    } = ended;
    assert_eq!((*actual, stdout.as_str()), (Some(code), ""), "{stderr:#?}");
    let line = &stderr[0];
    assert!(line.starts_with("error: "), "{stderr:#?}");
    // Of wrong arguments the usage is shown too.
    assert!(stderr.len() == 1 || code == 2, "{stderr:#?}");
    for word in words {
        assert!(line.contains(word), "no {word:?} in {line:?}");
    }
    for noise in ["panicked", "backtrace", "RUST_BACKTRACE"] {
        assert!(!stderr.concat().contains(noise), "{stderr:#?}");
    }
}

// ── the command line ──

#[tokio::test]
async fn help_names_every_flag_with_its_variable() {
    let general = run(&["--help"], &[]).await;
    assert_eq!(general.code, Some(0));
    assert!(general.stdout.contains("run ") && general.stdout.contains("crd "));

    let credential = ("ASTRO_API_TOKEN", "a-secret-value");
    let help = run(&["run", "--help"], &[credential]).await;
    assert_eq!((help.code, help.stderr.len()), (Some(0), 0));
    assert!(!help.stdout.contains("a-secret-value"));
    assert!(help.stdout.contains("ASTRO_API_TOKEN"));
    let command = Cli::command();
    let flags = command.find_subcommand("run").unwrap().get_arguments();
    let shown = flags.filter(|flag| !flag.is_hide_set() && flag.get_id() != "help");
    let names: Vec<_> = shown
        .map(|flag| (flag.get_long().unwrap(), flag.get_env()))
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for (flag, variable) in names {
        let variable = variable.unwrap_or_else(|| panic!("--{flag} has no variable"));
        let variable = format!("[env: {}=]", variable.to_str().unwrap());
        let about = help.stdout.split(&format!("      --{flag} ")).nth(1);
        let about = about.unwrap_or_else(|| panic!("--{flag} is not shown"));
        let about = about.split("\n      --").next().unwrap();
        assert!(
            about.contains(&variable),
            "--{flag}: no {variable} in {about}"
        );
    }
}

#[tokio::test]
async fn crd_prints_what_is_in_the_repository() {
    let crd = run(&["crd"], &[]).await;
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crds/workspacetokenrotations.yaml"
    );
    assert_eq!((crd.code, crd.stderr.len()), (Some(0), 0));
    assert!(
        crd.stdout == std::fs::read_to_string(file).unwrap(),
        "run `make crd`"
    );
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let taken = format!("--listen={address}");
    let empty = temporary("no-certificate", "no certificate");
    let bundle = format!("--ca-bundle={empty}");
    let token = temporary("token", "a-value");
    let token = format!("--api-token-file={token}");
    let cases: [(&[&str], i32, &[&str]); 17] = [
        (&["--loud"], 2, &["--loud"]),
        (
            &["--api-url=api.astronomer.io/v1"],
            2,
            &["--api-url", "api.astronomer.io/v1"],
        ),
        (
            &["--api-url=https://api.astronomer.io"],
            2,
            &["--api-url", "/v1"],
        ),
        (
            &["--audit-interval=often"],
            2,
            &["--audit-interval", "often"],
        ),
        (&["--listen=here"], 2, &["--listen", "here"]),
        (&["--log-filter=kube=loud"], 1, &["--log-filter"]),
        (
            &["--vendor-connect-timeout=30s"],
            1,
            &["--vendor-connect-timeout", "shorter"],
        ),
        (
            &["--default-credentials-namespaces=data"],
            1,
            &["ASTRO_API_TOKEN", "--api-token-file"],
        ),
        (
            &["--default-credentials-namespaces=data=ws,=ws"],
            2,
            &["--default-credentials-namespaces", "NAMESPACE=WORKSPACE"],
        ),
        (
            &["--default-credentials-namespaces=data="],
            2,
            &["--default-credentials-namespaces", "id of a Workspace"],
        ),
        (
            &["--default-credentials-namespaces=data=a=b"],
            2,
            &["--default-credentials-namespaces", "id of a Workspace"],
        ),
        (
            &["--default-credentials-namespaces=Data,ml"],
            2,
            &["--default-credentials-namespaces", "NAMESPACE=WORKSPACE"],
        ),
        (
            &["--api-token-file=/nowhere/token"],
            1,
            &["--api-token-file", "/nowhere/token"],
        ),
        (
            &[&token],
            1,
            &["either ASTRO_API_TOKEN or --api-token-file"],
        ),
        (
            &["--ca-bundle=/nowhere/ca.pem"],
            1,
            &["--ca-bundle", "/nowhere/ca.pem"],
        ),
        (&[&bundle], 1, &["CA bundle"]),
        (&[&taken], 1, &["--listen", &address, "in use"]),
    ];
    let kubeconfig = kubeconfig_of("nobody", "http://127.0.0.1:1");
    for (flags, code, words) in cases {
        let mut environment = vec![("KUBECONFIG", kubeconfig.as_str())];
        if words[0].starts_with("either") {
            environment.push(("ASTRO_API_TOKEN", "a-value"));
        }
        let arguments: Vec<_> = ["run"].iter().chain(flags).copied().collect();
        let ended = run(&arguments, &environment).await;
        assert_refused(&ended, code, words);
    }
}

#[tokio::test]
async fn a_cluster_that_cannot_be_used_is_named_with_the_reason() {
    let port = free_port();
    let server = format!("http://127.0.0.1:{port}");
    let unreachable = kubeconfig_of("unreachable", &server);
    let broken = temporary("broken", "clusters: [");
    let start = async |environment: Environment<'_>| {
        run(&["run", "--listen=127.0.0.1:0"], environment).await
    };
    let ended = start(&[("KUBECONFIG", &unreachable)]).await;
    assert_refused(&ended, 1, &[&server, "refused"]);
    for environment in [
        &[][..],
        &[("KUBECONFIG", broken.as_str())],
        &[("KUBECONFIG", "/nowhere/config")],
    ] {
        let ended = start(environment).await;
        assert_refused(&ended, 1, &["no cluster", "KUBECONFIG"]);
    }

    let spoilable = spoilable().await;
    let words = [
        &spoilable.plane.url(),
        "CustomResourceDefinition",
        "astro-token-operator crd | kubectl apply",
    ];
    assert_refused(&spoilable.before, 1, &words);
    drop(spoilable);

    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "nobody", "namespace": HOME},
    });
    let plane = plane().await;
    apply(&plane.client(), &account.to_string()).await.unwrap();
    let nobody = plane.dir().join("nobody.kubeconfig");
    let written = plane.service_account_kubeconfig(HOME, "nobody", &nobody);
    written.await.unwrap();
    let ended = start(&[("KUBECONFIG", nobody.to_str().unwrap())]).await;
    let words = ["forbidden", "nobody", "workspacetokenrotations"];
    assert_refused(&ended, 1, &words);
}

// ── its life ──

#[tokio::test]
async fn a_signal_ends_it_quickly_and_in_good_order() {
    let place = Place::start().await;
    let mut leader = place.replica("leader", free_port());
    leader.until("watching", SOON).await;
    let mut standby = place.replica("standby", free_port());
    standby.until("waiting for the leader", SOON).await;
    let mut alone = place.operator(&[]);
    alone.until("watching", SOON).await;
    for (operator, signal) in [(standby, "INT"), (leader, "INT"), (alone, "TERM")] {
        operator.signal(signal).await;
        let (code, log) = operator.end(QUICK).await;
        assert_eq!(code, Some(0), "{log:#?}");
        assert!(log.iter().any(|line| line.contains("stopping")), "{log:#?}");
        assert!(log.last().unwrap().contains("stopped"), "{log:#?}");
    }
}

#[tokio::test]
async fn a_rotation_in_flight_is_stored_before_the_end_and_not_made_again_by_the_next() {
    let place = Place::start().await;
    let stage = &place.stage;
    let mut first = place.replica("first", free_port());
    first.until("watching", SOON).await;
    let mut second = place.replica("second", free_port());
    second.until("waiting for the leader", SOON).await;

    let rotation = Fault::on(Operation::Rotate).once().after(Step::Hold);
    let rotation = stage.astro.fault(rotation);
    let token = place.create("ci", json!({})).await;
    let reached = tokio::time::timeout(SOON, rotation.reached());
    reached.await.expect("no rotation");
    first.signal("TERM").await;
    first.until("stopping", SOON).await;
    assert!(
        first.is_running(),
        "it left a value behind: {:#?}",
        first.log()
    );
    // The lease is kept for as long as something is in flight.
    let leads = second.log().concat().contains("watching");
    assert!(!leads, "{:#?}", second.log());
    rotation.release();
    let (code, log) = first.end(QUICK).await;
    assert_eq!(code, Some(0), "{log:#?}");
    second.until("watching", QUICK).await;
    assert!(stage.holds_live("ci").await, "{log:#?}");

    stage.until_rotated("ci", 1).await;
    assert_eq!(stage.astro.rotations(&token), 1);
    stop(second).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn of_two_one_works_and_the_other_takes_over() {
    let place = Place::start().await;
    let stage = &place.stage;
    let [left, right] = [free_port(), free_port()];
    let mut first = place.replica("left", left);
    first.until("watching", SOON).await;
    let mut second = place.replica("right", right);
    second.until("waiting for the leader", SOON).await;
    let line = second.log().concat();
    assert!(line.contains("holder=\"left/"), "{line}");
    assert_eq!(page(right, "readyz").await.0, 200);
    assert!(leads(left).await && !leads(right).await);
    let token = place.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;

    first.signal("TERM").await;
    second.until("leading", QUICK).await;
    second.until("watching", QUICK).await;
    assert_eq!(first.end(QUICK).await.0, Some(0));
    until_leads(right).await;
    assert_eq!(page(right, "readyz").await.0, 200);
    stage.request("ci", "after SIGTERM").await;
    stage.until_rotated("ci", 2).await;

    let mut third = place.replica("left", left);
    third.until("waiting for the leader", SOON).await;
    second.signal("KILL").await;
    third.until("leading", SUCCEEDED).await;
    assert_eq!(second.end(QUICK).await.0, None);
    stage.request("ci", "after SIGKILL").await;
    stage.until_rotated("ci", 3).await;

    third.signal("KILL").await;
    assert_eq!(third.end(QUICK).await.0, None);
    let mut fourth = place.replica("left", left);
    fourth.until("leading", QUICK).await;
    stage.request("ci", "after a restart").await;
    stage.until_rotated("ci", 4).await;
    let log = stop(fourth).await;
    assert!(!log.concat().contains("waiting"), "{log:#?}");
    assert_eq!(stage.astro.rotations(&token), 4);
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn no_text_of_a_tenant_is_a_line_of_its_log_or_a_command_to_a_terminal() {
    let place = Place::start().await;
    let stage = &place.stage;
    let forged = "x\nFORGED \u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}gnp\r\nFORGED";
    let filter = "--log-filter=debug,astro_token_operator=trace";
    let mut operator = place.operator(&[filter]);
    operator.until("watching", SOON).await;
    let ours = |key: &str| format!("astro-token-operator.io/{key}");
    // As its owner, and as every other text of a Secret of ours.
    let bait = async |name: &str, owner: &str, text: &str| {
        stage.put_secret(name, json!({"token": "x"})).await;
        let metadata = json!({
            "labels": {"app.kubernetes.io/managed-by": "astro-token-operator"},
            "annotations": {
                ours("owned-by"): owner, ours("key"): text, ours("token-id"): text, ours("cluster"): text,
                ours("rotated-at"): text, ours("adopt"): text, ours("rotation-id"): text, "example.com/x": text,
            },
        });
        stage.edit_secret(name, json!({"metadata": metadata})).await;
    };
    bait("bait", forged, forged).await;
    bait("ci-secret", "ci", forged).await;
    bait("far-secret", forged, "x").await;
    let name = json!({"token": {"name": forged}, "target": {"labels": {"x": forged}, "annotations": {"x": forged}}});
    stage.create("ci", name.clone()).await;
    let with = |suffix: &str| format!("{forged} {suffix}");
    stage
        .create("far", json!({"token": {"name": with("far")}}))
        .await;
    let typed = json!({"token": {"name": with("typed")}, "target": {"type": forged}});
    stage.create("typed", typed).await;
    let cron = json!({"schedule": {"every": null, "cron": forged, "timeZone": forged}});
    stage.create("odd", cron).await;
    for name in [forged, &with("far"), &with("typed")] {
        let named = NewToken::workspace(name, &stage.workspace);
        stage.astro.create(named);
    }
    for name in ["ci", "far", "typed", "odd"] {
        stage.request(name, forged).await;
        let revoke = json!({ours("revoke"): forged});
        stage
            .edit(name, json!({"metadata": {"annotations": revoke}}))
            .await;
    }
    stage.until_blocked("ci", "SecretNotOurs").await;
    stage.until_blocked("odd", "InvalidSpec").await;
    for name in ["far", "typed"] {
        let is_decided = |_: &_, it: &Status| it.ready().is_some();
        stage.until(name, "decided", is_decided).await;
    }
    let texts = |status: Status| {
        let messages = status.conditions.into_iter().map(|it| it.message);
        let named = status.token.map(|it| it.name);
        messages.chain(named).collect::<Vec<_>>()
    };
    for name in ["ci", "far", "typed", "odd"] {
        let status = stage.resources().get(name).await.unwrap().status.unwrap();
        for text in texts(status) {
            let hidden = |c: char| c.is_control() || c == '\u{202e}';
            assert!(
                !text.chars().any(hidden) && text.chars().count() <= 1024,
                "{name}: {text:?}"
            );
        }
    }
    let log = stop(operator).await;
    assert!(log.iter().any(|line| line.contains("DEBUG")), "{log:#?}");
    for line in &log {
        // Each begins with its time, and is bounded.
        assert!(
            line.starts_with("20") && line.chars().count() <= 4096,
            "{line:?}"
        );
        assert!(
            !line.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn its_log_is_json_on_request_and_silent_while_nothing_happens() {
    let place = Place::start().await;
    let stage = &place.stage;
    let mut busy = place.operator(&["--log-format=json"]);
    busy.until("watching", SOON).await;
    place.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    stage.until_event("ci", 1).await;
    let lines: Vec<Value> = stop(busy)
        .await
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let rotated: Vec<_> = lines.iter().filter(|l| l["reason"] == "Rotated").collect();
    assert_eq!(rotated.len(), 1, "{lines:#?}");
    let line = rotated[0];
    let about = (&line["namespace"], &line["name"], &line["level"]);
    assert_eq!(
        about,
        (&json!(stage.namespace), &json!("ci"), &json!("INFO"))
    );
    let id = stage.resources().get("ci").await.unwrap().status.unwrap();
    assert_eq!(line["rotation_id"], id.last_rotation.unwrap().id.as_str());

    // With a resource that is fine, whose record it reads again and again.
    let variables = [("POD_NAMESPACE", stage.namespace.as_str())];
    stage.astro.clear_requests();
    let mut quiet = place.operator_in(&["--leader-election", "--pod-name=quiet"], &variables);
    quiet.until("watching", SOON).await;
    let audits = stage.astro.until(|astro| astro.requests().len() >= 4);
    let audits = tokio::time::timeout(SOON, audits).await;
    assert!(audits.is_ok(), "no audits: {:?}", stage.astro.requests());
    let log = stop(quiet).await;
    let words = [
        "started", "leading", "watching", "stopping", "released", "stopped",
    ];
    assert_eq!(log.len(), words.len(), "{log:#?}");
    for (line, word) in log.iter().zip(words) {
        assert!(line.contains(" INFO ") && line.contains(word), "{log:#?}");
    }
    stage.assert_no_leak().await;
}

// ── its environment ──

#[tokio::test]
async fn its_own_credential_serves_only_the_namespaces_that_may_use_it() {
    let mut place = Place::start().await;
    let other = place.another().await;
    let stage = &place.stage;
    let allowed = format!("--default-credentials-namespaces=x,{}", stage.namespace);
    let credential = ("ASTRO_API_TOKEN", stage.owner.value.as_str());
    let operator = place.operator_in(&[&allowed], &[credential]);
    place.create("own", json!({"credentials": null})).await;
    stage.until_rotated("own", 1).await;
    let token = other.token("own");
    other.create("own", json!({"credentials": null})).await;
    let message = other.until_blocked("own", "CredentialsNotAllowed").await;
    assert!(message.contains(&other.namespace), "{message}");
    assert_eq!(stage.astro.rotations(&token.id), 0);
    stop(operator).await;

    let operator = place.operator_in(&["--default-credentials-namespaces=*"], &[credential]);
    other.until_rotated("own", 1).await;
    stop(operator).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn its_own_credential_serves_only_the_workspaces_that_are_named_for_a_namespace() {
    let mut place = Place::start().await;
    let other = place.another().await;
    let stage = &place.stage;
    // It reaches two Workspaces.
    let wide = NewToken::organization("wide").role("ORGANIZATION_OWNER");
    let wide = stage
        .astro
        .create(wide.also("clmotherteam", "WORKSPACE_OWNER"));
    let credential = ("ASTRO_API_TOKEN", wide.value.as_str());
    let flag = |entries: &str| format!("--default-credentials-namespaces={entries}");
    let [here, there] = [&stage.namespace, &other.namespace];
    let entries = format!(
        "{here}={},{there}=clmotherteam",
        stage.workspace.to_uppercase()
    );
    let operator = place.operator_in(&[&flag(&entries)], &[credential]);
    place.create("own", json!({"credentials": null})).await;
    stage.until_rotated("own", 1).await;
    let theirs = stage
        .astro
        .create(NewToken::workspace("theirs", "clmotherteam"));
    let spec = json!({"credentials": null, "workspaceId": "clmotherteam", "token": {"name": null, "id": theirs.id}});
    stage.create("theirs", spec.clone()).await;
    let message = stage.until_blocked("theirs", "CredentialsNotAllowed").await;
    for words in [
        "for Workspace clmotherteam",
        &format!("add {here}=clmotherteam to --default-credentials-namespaces"),
    ] {
        assert!(message.contains(words), "{message}");
    }
    // Nor by an edit of a spec that was allowed, or by naming the allowed Workspace with that token.
    let edit = json!({"spec": {"workspaceId": "clmotherteam"}});
    stage.edit("own", edit).await;
    stage.until_blocked("own", "CredentialsNotAllowed").await;
    let edit = json!({"spec": {"workspaceId": stage.workspace}});
    stage.edit("theirs", edit).await;
    stage.until_blocked("theirs", "WrongWorkspace").await;
    assert_eq!(stage.astro.rotations(&theirs.id), 0);
    stage.delete("theirs").await;
    other.create("theirs", spec).await;
    other.until_rotated("theirs", 1).await;
    let log = stop(operator).await;
    let warns = |log: &[String]| {
        let warns = log
            .iter()
            .filter(|line| line.contains("may use any Workspace"));
        warns.cloned().collect::<Vec<_>>()
    };
    assert_eq!(warns(&log), Vec::<String>::new());

    // What the command says is what the operator does.
    let url = format!("--api-url={}", stage.astro.url());
    let kubeconfig = place.kubeconfig.to_str().unwrap();
    let environment = [("KUBECONFIG", kubeconfig), credential];
    for (entries, expected) in [
        (entries.clone(), "CredentialsNotAllowed"),
        (format!("*=x,{here}"), "WrongWorkspace"),
    ] {
        let arguments = ["plan", "own", "--namespace", here, &url, &flag(&entries)];
        let ended = run(&arguments, &environment).await;
        assert!(
            ended.stdout.contains(expected),
            "{expected}: {} {:?}",
            ended.stdout,
            ended.stderr
        );
    }

    let plain = format!("{here},*=x,{there}");
    let mut operator = place.operator_in(&[&flag(&plain)], &[credential]);
    operator.until("watching", SOON).await;
    let log = warns(&stop(operator).await);
    let [warning] = &log[..] else {
        panic!("{log:#?}");
    };
    for words in [&format!("{here},{there}"), &format!("as in {here}=")] {
        assert!(warning.contains(words), "{warning}");
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn the_file_with_its_own_credential_is_read_anew_for_each_use() {
    let place = Place::start().await;
    let stage = &place.stage;
    let file = place.file("own-credential", &format!("{}\n", stage.owner.value));
    let operator = place.operator(&[
        &format!("--api-token-file={}", file.display()),
        &format!("--default-credentials-namespaces={}", stage.namespace),
    ]);
    place.create("own", json!({"credentials": null})).await;
    stage.until_rotated("own", 1).await;

    let second = NewToken::owner("second", &stage.workspace);
    let second = stage.astro.create(second);
    std::fs::write(&file, &second.value).unwrap();
    stage.request("own", "with the second").await;
    stage.until_rotated("own", 2).await;
    let mut requests = stage.astro.requests();
    requests.retain(|request| request.operation == Operation::Rotate);
    let credentials: Vec<_> = requests
        .into_iter()
        .map(|r| r.credential.unwrap())
        .collect();
    assert_eq!(credentials, [stage.owner.id.clone(), second.id]);

    std::fs::remove_file(&file).unwrap();
    stage.request("own", "without").await;
    let message = stage.until_blocked("own", "CredentialsMissing").await;
    assert!(
        message.contains("own credential cannot be read"),
        "{message}"
    );
    std::fs::write(&file, &stage.owner.value).unwrap();
    stage.until_rotated("own", 3).await;
    stop(operator).await;
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn the_organization_is_the_resource_s_else_the_operator_s() {
    let place = Place::start().await;
    let stage = &place.stage;
    let (right, wrong) = (stage.astro.organization(), "clm0otherorganization");
    for (number, variable) in [false, true].into_iter().enumerate() {
        let flag = format!("--organization-id={wrong}");
        let operator = match variable {
            true => place.operator_in(&[], &[("ASTRO_ORGANIZATION_ID", wrong)]),
            false => place.operator(&[&flag]),
        };
        let [silent, named] = [format!("silent-{number}"), format!("named-{number}")];
        place.create(&silent, json!({})).await;
        place.create(&named, json!({"organizationId": right})).await;
        stage.until_rotated(&named, 1).await;
        // The vendor's answer for another Organization than the credential's.
        stage.until_blocked(&silent, "Forbidden").await;
        stop(operator).await;
        let flag = format!("--organization-id={right}");
        let operator = place.operator(&[&flag]);
        stage.until_rotated(&silent, 1).await;
        stop(operator).await;
    }
}

#[tokio::test]
async fn the_vendor_is_called_through_the_proxy_of_the_environment() {
    let place = Place::start().await;
    let stage = &place.stage;
    let host = stage.astro.url().replace("http://", "").replace("/v1", "");
    let front = Terminator::open(host.parse().unwrap()).await.unwrap();
    let bundle = place.file("vendor-ca.pem", &front.authority);
    let bundle = format!("--ca-bundle={}", bundle.display());
    let https = format!("--api-url=https://localhost:{}/v1", front.port);
    let tunnel = format!("CONNECT localhost:{}", front.port);
    let plain = format!("POST http://{host}/");
    let cases: [(&[&str], &str, &str, Option<&str>); 4] = [
        (&[], "HTTP_PROXY", "localhost", Some(&plain)),
        (&[], "HTTP_PROXY", "127.0.0.1", None),
        (&[&bundle, &https], "HTTPS_PROXY", "x", Some(&tunnel)),
        (&[&bundle, &https], "HTTPS_PROXY", "localhost", None),
    ];
    for (number, (flags, variable, direct, wanted)) in cases.into_iter().enumerate() {
        let proxy = Proxy::open().await;
        let environment = [(variable, proxy.url.as_str()), ("NO_PROXY", direct)];
        let mut operator = place.operator_in(flags, &environment);
        operator.until("watching", SOON).await;
        let name = format!("case-{number}");
        place.create(&name, json!({})).await;
        stage.until_rotated(&name, 1).await;
        stop(operator).await;
        let seen = proxy.seen();
        match wanted {
            Some(wanted) => {
                let used = seen.iter().any(|request| request.starts_with(wanted));
                assert!(used, "{variable}, NO_PROXY={direct}: {seen:?}");
                // The way to the API server is another.
                let vendor = |request: &String| request.contains(wanted.split(' ').nth(1).unwrap());
                assert!(seen.iter().all(vendor), "{seen:?}");
            }
            None => assert!(seen.is_empty(), "{variable}, NO_PROXY={direct}: {seen:?}"),
        }
    }
}

#[tokio::test]
async fn without_permission_to_write_secrets_nothing_is_rotated_until_it_is_given() {
    let mut place = Place::start().await;
    let client = place.stage.client.clone();
    let permit = async |verbs: Value| {
        let permissions = stage::permissions("reader", verbs);
        let applied = apply(&client, &permissions);
        applied.await.unwrap();
    };
    permit(json!(["get", "list", "watch"])).await;
    place.kubeconfig = place.stage.kubeconfig(plane().await, "reader").await;
    let stage = &place.stage;
    let operator = place.operator(&[]);
    let token = place.create("ci", json!({})).await;
    let message = stage.until_blocked("ci", "TargetRefused").await;
    let words = "cannot patch resource \"secrets\"";
    assert!(message.contains(words), "{message}");
    let asked = |r: &lab::astro::Request| r.operation == Operation::Rotate;
    assert!(!stage.astro.requests().iter().any(asked));

    permit(json!(["get", "list", "watch", "create", "patch"])).await;
    stage.until_rotated("ci", 1).await;
    assert_eq!(stage.astro.rotations(&token), 1);
    stop(operator).await;
    stage.assert_no_leak().await;
}
