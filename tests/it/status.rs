//! The commands for people, as processes on a real API server: what they print, how they end, what they may need.

use crate::stage::process::{self, BINARY, Ended, output, run};
use crate::stage::{self, Stage};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use lab::astro::Astro;
use lab::control_plane::ControlPlane;
use lab::link::{Link, Weather};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Longest wait for a line, or for an end.
const SOON: Duration = Duration::from_secs(20);

/// A namespace, and a person who may do there what the commands need and nothing else.
struct Visitor {
    stage: Stage,
    kubeconfig: PathBuf,
}

impl Visitor {
    async fn start() -> Self {
        let plane = stage::plane().await;
        let stage = Stage::new(&Astro::start().await.unwrap()).await;
        let port = plane.url().rsplit(':').next().unwrap().parse().unwrap();
        let kubeconfig = person(plane, &stage.namespace, port).await;
        Self { stage, kubeconfig }
    }

    /// Runs a command as the person.
    async fn run(&self, arguments: &[&str]) -> Ended {
        let kubeconfig = ("KUBECONFIG", self.kubeconfig.to_str().unwrap());
        run(arguments, &[kubeconfig]).await
    }

    /// The same in the same namespace as the administrator, whose context has another.
    async fn run_as_admin(&self, arguments: &[&str]) -> Ended {
        let kubeconfig = stage::plane().await.kubeconfig();
        run(arguments, &[("KUBECONFIG", kubeconfig.to_str().unwrap())]).await
    }

    fn follow(&self, arguments: &[&str]) -> Following {
        Following::start(arguments, &self.kubeconfig)
    }

    /// A resource that an operator has written this status of.
    async fn create(&self, name: &str, spec: Value, status: Value) {
        self.stage.create(name, spec).await;
        self.write(name, status).await;
    }

    async fn write(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let resources = self.stage.resources();
        let params = PatchParams::default();
        let written = resources.patch_status(name, &params, &patch).await;
        written.unwrap();
    }

    /// Two: one that is well, and one that is not.
    async fn create_two(&self) {
        self.create("well", json!({}), well()).await;
        self.create("ill", json!({}), ill("TokenAmbiguous")).await;
    }
}

/// Writes the kubeconfig of a new account that reaches the API server by `port`.
async fn person(plane: &ControlPlane, namespace: &str, port: u16) -> PathBuf {
    let about = |name: &str| json!({"name": name, "namespace": namespace});
    let group = "rbac.authorization.k8s.io";
    let permissions = [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about("person")}),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": about("person"),
            "rules": [{
                "apiGroups": ["astro-token-operator.io"], "resources": ["workspacetokenrotations"],
                "verbs": ["get", "list", "watch", "patch"],
            }],
        }),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": about("person"),
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "person"},
            "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": namespace}],
        }),
    ];
    for object in permissions {
        let applied = lab::control_plane::apply(&plane.client(), &object.to_string()).await;
        applied.unwrap();
    }
    let path = plane.dir().join(format!("{namespace}.kubeconfig"));
    let written = plane.service_account_kubeconfig_by(port, namespace, "person", &path);
    written.await.unwrap();
    path
}

fn from_now(text: &str) -> String {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = Timestamp::from_second(now.as_secs().try_into().unwrap()).unwrap();
    let away: SignedDuration = text.parse().unwrap();
    (now + away).to_string()
}

fn ready(status: &str, reason: &str, message: &str) -> Value {
    json!([{
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }])
}

/// The status of one that is well.
fn well() -> Value {
    json!({
        "conditions": ready("True", "Live", "fine"),
        "token": {"id": "t1", "name": "CI deployer", "rotatedAt": from_now("-PT51H30M")},
        "nextRotation": from_now("PT76H30M"),
    })
}

/// The status of one that is not.
fn ill(reason: &str) -> Value {
    json!({"conditions": ready("False", reason, "two tokens: t1 \u{1b}[31mand t2")})
}

/// The words of a line.
fn words(line: &str) -> Vec<&str> {
    line.split("   ")
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect()
}

/// A command that goes on until it is told to end.
struct Following {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Following {
    fn start(arguments: &[&str], kubeconfig: &Path) -> Self {
        let mut child = Command::new(BINARY)
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    async fn line(&mut self) -> String {
        line(&mut self.stdout).await
    }

    async fn error(&mut self) -> String {
        line(&mut self.stderr).await
    }

    async fn interrupt(&self) {
        process::signal(self.child.id().unwrap(), "INT").await;
    }

    /// Its exit code, and what it still said on both.
    async fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let ended = timeout(SOON, async {
            let code = self.child.wait().await.unwrap().code();
            let mut rest = Vec::new();
            while let Some(line) = self.stdout.next_line().await.unwrap() {
                rest.push(line);
            }
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                rest.push(line);
            }
            (code, rest)
        });
        ended.await.expect("it does not end")
    }
}

async fn line<R: AsyncBufRead + Unpin>(lines: &mut Lines<R>) -> String {
    let line = timeout(SOON, lines.next_line()).await;
    line.expect("no line").unwrap().expect("it has ended")
}

/// It ended so, with one line on stderr in which all of these are.
fn assert_said(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(
        ended.code,
        Some(code),
        "{:#?} {}",
        ended.stderr,
        ended.stdout
    );
    let [line] = ended.stderr.as_slice() else {
        panic!("{:#?}", ended.stderr)
    };
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
}

fn assert_quiet(ended: &Ended) {
    assert_eq!(
        (ended.code, ended.stderr.len()),
        (Some(0), 0),
        "{:#?}",
        ended.stderr
    );
}

// ── status ──

#[tokio::test]
async fn status_is_a_table_of_the_context_s_namespace_and_explains_what_is_not_ready() {
    let visitor = Visitor::start().await;
    visitor.create_two().await;
    let paused = json!({"suspend": true, "token": {"name": null, "id": "t7"}});
    visitor.create("paused", paused, json!({})).await;
    let ended = visitor.run(&["status"]).await;
    assert_quiet(&ended);
    assert!(!ended.stdout.contains('\u{1b}'), "colours in a pipe");
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(
        words(lines[0]),
        ["NAME", "READY", "REASON", "BLOCKED", "TOKEN", "AGE", "NEXT"]
    );
    let of_ill = visitor.stage.token_name("ill");
    assert_eq!(
        words(lines[1]),
        ["ill", "False", "TokenAmbiguous", "-", &of_ill, "-", "-"]
    );
    assert_eq!(
        words(lines[2]),
        ["paused", "-", "-", "-", "t7", "-", "suspended"]
    );
    let of_well = [
        "well",
        "True",
        "Live",
        "-",
        "CI deployer",
        "2d 3h",
        "in 3d 4h",
    ];
    assert_eq!(words(lines[3]), of_well);
    assert_eq!(lines[4..], ["", "ill", "  two tokens: t1 [31mand t2"]);

    let named = visitor.run(&["status", "well"]).await;
    assert_quiet(&named);
    assert_eq!(named.stdout.lines().count(), 2, "{}", named.stdout);
    assert!(named.stdout.contains("well "));
}

#[tokio::test]
async fn status_of_all_namespaces_has_theirs_as_a_column() {
    let (one, other) = (Visitor::start().await, Visitor::start().await);
    one.create("well", json!({}), well()).await;
    other.create("ill", json!({}), ill("Contested")).await;
    let ended = one.run_as_admin(&["status", "-A"]).await;
    assert_quiet(&ended);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert_eq!(words(lines[0])[..3], ["NAMESPACE", "NAME", "READY"]);
    let (one, other) = (&one.stage.namespace, &other.stage.namespace);
    for wanted in [
        [one, "well", "True", "Live"],
        [other, "ill", "False", "Contested"],
    ] {
        let row = lines.iter().find(|line| line.starts_with(wanted[0]));
        assert_eq!(words(row.unwrap())[..4], wanted);
    }
    assert!(
        lines.contains(&format!("{other}/ill").as_str()),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn status_as_json_is_one_array_with_full_times() {
    let visitor = Visitor::start().await;
    visitor.create_two().await;
    let ended = visitor.run(&["status", "-o", "json"]).await;
    assert_quiet(&ended);
    let rows: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["ready"]),
        (&json!("ill"), &json!(false))
    );
    assert_eq!(rows[0]["message"], "two tokens: t1 [31mand t2");
    assert_eq!(rows[0]["nextRotation"], Value::Null);
    assert_eq!(rows[1]["ready"], true);
    for time in ["rotatedAt", "nextRotation"] {
        let text = rows[1][time].as_str().unwrap();
        assert!(
            text.ends_with('Z') && text.parse::<Timestamp>().is_ok(),
            "{text}"
        );
    }
}

#[tokio::test]
async fn status_of_nothing_is_no_failure_and_of_a_missing_one_it_is() {
    let visitor = Visitor::start().await;
    let namespace = &visitor.stage.namespace;
    let none = visitor.run(&["status"]).await;
    assert_said(&none, 0, &["no WorkspaceTokenRotation", namespace, "-A"]);
    assert_eq!(none.stdout, "");
    let none = visitor.run(&["status", "-o", "json"]).await;
    assert_said(&none, 0, &["no WorkspaceTokenRotation"]);
    assert_eq!(none.stdout.trim(), "[]");

    visitor.create_two().await;
    let missing = visitor.run(&["status", "gone", "well"]).await;
    assert_said(&missing, 1, &["error:", "gone", namespace]);
    assert!(missing.stdout.contains("well "), "{}", missing.stdout);
    let missing = visitor.run(&["status", "gone", "--watch"]).await;
    assert_said(&missing, 1, &["error:", "gone", namespace]);

    let refused = visitor.run(&["status", "-A"]).await;
    assert_said(&refused, 1, &["forbidden", "workspacetokenrotations"]);
    let refused = visitor.run(&["status", "-A", "--watch"]).await;
    assert_said(&refused, 1, &["forbidden", "workspacetokenrotations"]);
    let elsewhere = visitor.run(&["status", "-n", "kube-system"]).await;
    assert_said(&elsewhere, 1, &["forbidden", "kube-system"]);
    let as_another = ["status", "-n", namespace, "--as=nobody"];
    let as_another = visitor.run_as_admin(&as_another).await;
    assert_said(&as_another, 1, &["forbidden", "nobody"]);
}

#[tokio::test]
async fn following_says_what_changed_and_what_was_deleted_until_ctrl_c() {
    let visitor = Visitor::start().await;
    visitor.create_two().await;
    let mut table = visitor.follow(&["status", "-w"]);
    let mut json = visitor.follow(&["status", "-w", "-o", "json"]);
    let header = table.line().await;
    assert_eq!(words(&header)[..3], ["NAME", "READY", "REASON"]);
    assert!(table.line().await.starts_with("ill "));
    assert!(table.line().await.starts_with("well "));
    let object = |line: String| serde_json::from_str::<Value>(&line).unwrap();
    assert_eq!(object(json.line().await)["name"], "ill");
    assert_eq!(object(json.line().await)["name"], "well");

    // In no column, so only the JSON has it.
    let message = ready("False", "TokenAmbiguous", "three tokens");
    visitor.write("ill", json!({"conditions": message})).await;
    assert_eq!(object(json.line().await)["message"], "three tokens");
    visitor.write("ill", well()).await;
    let line = table.line().await;
    assert_eq!(
        words(&line)[..5],
        ["ill", "True", "Live", "-", "CI deployer"]
    );
    assert_eq!(line.find("True"), header.find("READY"), "{line}");
    assert_eq!(object(json.line().await)["ready"], true);
    visitor.stage.delete("well").await;
    assert_eq!(words(&table.line().await)[..3], ["well", "-", "Deleted"]);
    let gone = object(json.line().await);
    assert_eq!(
        (&gone["name"], &gone["deleted"]),
        (&json!("well"), &json!(true))
    );

    for mut it in [table, json] {
        it.interrupt().await;
        assert_eq!(it.end().await, (Some(0), vec![]));
    }
}

#[tokio::test]
async fn following_begins_with_nothing_too() {
    let visitor = Visitor::start().await;
    let mut following = visitor.follow(&["status", "-w"]);
    assert!(
        following
            .error()
            .await
            .contains("no WorkspaceTokenRotation")
    );
    visitor.stage.create("first", json!({})).await;
    assert_eq!(words(&following.line().await)[0], "NAME");
    assert!(following.line().await.starts_with("first "));
}

#[tokio::test]
async fn following_survives_a_server_that_is_away_for_a_while() {
    let mut visitor = Visitor::start().await;
    let plane = stage::plane().await;
    let port: u16 = plane.url().rsplit(':').next().unwrap().parse().unwrap();
    let link = Link::open((Ipv4Addr::LOCALHOST, port).into())
        .await
        .unwrap();
    visitor.kubeconfig = person(plane, &visitor.stage.namespace, link.port()).await;
    visitor.create_two().await;
    let mut following = visitor.follow(&["status", "-w"]);
    for beginning in ["NAME", "ill", "well"] {
        assert!(following.line().await.starts_with(beginning));
    }
    link.set(Weather::Down);
    assert!(following.error().await.contains("trying again"));
    visitor.write("ill", ill("Contested")).await;
    visitor.stage.delete("well").await;
    link.set(Weather::Fair);
    let mut lines = [following.line().await, following.line().await];
    lines.sort();
    assert_eq!(words(&lines[0])[..3], ["ill", "False", "Contested"]);
    assert_eq!(words(&lines[1])[..3], ["well", "-", "Deleted"]);
    following.interrupt().await;
    assert_eq!(following.end().await, (Some(0), vec![]));
}

#[tokio::test]
async fn nobody_reading_is_no_failure_and_ends_what_follows() {
    let visitor = Visitor::start().await;
    visitor.create_two().await;
    let mut following = visitor.follow(&["status", "-w"]);
    following.line().await;
    let Following {
        mut child,
        stdout,
        mut stderr,
    } = following;
    drop(stdout);
    let ended = timeout(SOON, child.wait()).await.expect("it goes on");
    assert_eq!(ended.unwrap().code(), Some(0));
    let said = timeout(SOON, stderr.next_line()).await;
    assert_eq!(said.expect("stderr stays open").unwrap(), None);

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(BINARY);
    command.arg("explain").env_clear().stdout(writer);
    let unread = command.stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let unread = process::rest(unread.unwrap()).await;
    assert_eq!((unread.status.code(), unread.stderr.len()), (Some(0), 0));
}

// ── trigger and revoke ──

#[tokio::test(flavor = "multi_thread")]
async fn a_request_rotates_once_and_the_wait_returns_the_rotation_of_the_live_value() {
    let visitor = Visitor::start().await;
    let stage = &visitor.stage;
    let flags = ["--leader-election=false", "--audit-interval=1h"];
    let operator = stage.operator(&flags).await;
    let tokens = ["ci", "etl"].map(|name| stage.token(name));
    for name in ["ci", "etl"] {
        stage.create(name, json!({})).await;
        stage.until_rotated(name, 1).await;
    }

    let ended = visitor.run(&["trigger", "ci", "etl", "--wait=50s"]).await;
    assert_quiet(&ended);
    for (name, token) in ["ci", "etl"].iter().zip(&tokens) {
        let about = format!("workspacetokenrotation/{name}: ");
        let lines: Vec<_> = ended
            .stdout
            .lines()
            .filter_map(|line| line.strip_prefix(&about))
            .collect();
        assert!(lines[0].starts_with("rotation requested (20"), "{lines:#?}");
        let status = stage.resources().get(name).await.unwrap().status.unwrap();
        let last = status.last_rotation.unwrap();
        let rotated = format!("rotated at {} (rotation {})", last.at.0, last.id);
        assert_eq!(lines[1..], [rotated]);
        assert_eq!(status.history.len(), 2);
        assert_eq!(stage.astro.rotations(&token.id), 2, "{name}");
        assert!(stage.holds_live(name).await);
        let secret = stage.secret(&format!("{name}-secret")).await.unwrap();
        let evidence = secret.metadata.annotations.unwrap();
        assert_eq!(evidence["astro-token-operator.io/rotation-id"], last.id);
    }

    // Both annotations are there now.
    let before = stage.value("ci-secret", "token").await.unwrap();
    let ended = visitor.run(&["revoke", "ci", "--wait=50s"]).await;
    assert_quiet(&ended);
    assert!(ended.stdout.contains(": rotated at "), "{}", ended.stdout);
    assert!(!stage.astro.is_live(&before));
    assert!(stage.holds_live("ci").await);
    assert_eq!(stage.astro.rotations(&tokens[0].id), 3);
    let metadata = stage.resources().get("ci").await.unwrap().metadata;
    let annotations = metadata.annotations.unwrap();
    for key in ["rotate", "revoke"] {
        assert!(annotations.contains_key(&format!("astro-token-operator.io/{key}")));
    }
    let managers = metadata.managed_fields.unwrap();
    let named = |manager: &str| {
        managers
            .iter()
            .any(|it| it.manager.as_deref() == Some(manager))
    };
    assert!(named("astro-token-operator-cli"), "{managers:#?}");
    operator.stop().await.unwrap();
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_answered_is_not_made_or_says_why() {
    let visitor = Visitor::start().await;
    let namespace = &visitor.stage.namespace;
    let suspended = json!({"suspend": true});
    visitor.create("paused", suspended, well()).await;
    let ended = visitor.run(&["trigger", "paused"]).await;
    assert_said(&ended, 1, &["error:", "paused", "spec.suspend"]);
    let paused = visitor.stage.resources().get("paused").await.unwrap();
    assert_eq!(paused.metadata.annotations, None);

    // There is no operator.
    visitor
        .create("ill", json!({}), ill("TokenAmbiguous"))
        .await;
    let ended = visitor.run(&["trigger", "gone", "ill"]).await;
    assert_said(&ended, 1, &["error:", "gone", namespace]);
    assert!(
        ended.stdout.contains("/ill: rotation requested ("),
        "{}",
        ended.stdout
    );
    let ended = visitor.run(&["trigger", "ill", "--wait=1s"]).await;
    let parts = [
        "ill: not rotated within 1s",
        "TokenAmbiguous",
        "two tokens: t1 [31mand t2",
    ];
    assert_said(&ended, 1, &parts);
    visitor.create("well", json!({}), well()).await;
    let ended = visitor.run(&["revoke", "well", "--wait=1s"]).await;
    assert_said(
        &ended,
        1,
        &["well: not rotated within 1s", "does the operator run?"],
    );
}

#[tokio::test]
async fn a_wait_ends_at_once_when_it_became_hopeless() {
    let visitor = Visitor::start().await;
    for (name, parts) in [
        ("deleted", "it was deleted"),
        ("replaced", "another request"),
        ("paused", "spec.suspend was set"),
    ] {
        visitor.create(name, json!({}), well()).await;
        let mut waiting = visitor.follow(&["trigger", name, "--wait=10m"]);
        assert!(waiting.line().await.contains("rotation requested ("));
        match name {
            "deleted" => visitor.stage.delete(name).await,
            "replaced" => visitor.stage.request(name, "of somebody else").await,
            _ => drop(
                visitor
                    .stage
                    .edit(name, json!({"spec": {"suspend": true}}))
                    .await,
            ),
        }
        let (code, rest) = waiting.end().await;
        assert_eq!(code, Some(1));
        assert!(rest.concat().contains(parts), "{rest:#?}");
    }
}

// ── how it is called ──

/// The binary under another name, which only its first argument tells it.
async fn called(name: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    let output = output(command.arg0(name).args(arguments).env_clear()).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn as_a_plugin_it_is_called_kubectl_wtr() {
    let name = "/usr/local/bin/kubectl-wtr";
    let help = called(name, &["--help"]).await;
    assert!(help.contains("Usage: kubectl wtr"), "{help}");
    for command in ["status", "trigger", "revoke", "explain", "completion"] {
        let help = called(name, &[command, "--help"]).await;
        let usage = format!("Usage: kubectl wtr {command}");
        let example = format!("kubectl wtr {command} ");
        assert!(help.contains(&usage), "{help}");
        let (_, examples) = help.split_once("Example").unwrap();
        assert!(examples.contains(&example), "{help}");
        assert!(!help.contains("astro-token-operator "), "{help}");
    }
    let itself = called("astro-token-operator", &["status", "--help"]).await;
    assert!(
        itself.contains("Usage: astro-token-operator status"),
        "{itself}"
    );
    assert!(!itself.contains("kubectl wtr "), "{itself}");
}

#[tokio::test]
async fn kubectl_gets_the_words_that_may_follow() {
    let name = "/usr/local/bin/kubectl_complete-wtr";
    assert_eq!(called(name, &["st"]).await, "status\n:4\n");
    assert_eq!(called(name, &["trigger", "--wa"]).await, "--wait\n:4\n");
    assert_eq!(called(name, &["nothing", "x"]).await, ":4\n");
}

#[tokio::test]
async fn bash_takes_the_script_and_completes_a_command() {
    for name in ["astro-token-operator", "kubectl-wtr"] {
        let script = called(name, &["completion", "bash"]).await;
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.bash"));
        std::fs::write(&path, &script).unwrap();
        let check = output(Command::new("bash").arg("-n").arg(&path)).await;
        assert!(check.status.success(), "{check:?}");
        let complete = "source \"$1\"; spec=$(complete -p \"$2\"); function=${spec#*-F }; \
            COMP_WORDS=(\"$2\" st); COMP_CWORD=1; ${function%% *} \"$2\" st \"$2\"; echo \"${COMPREPLY[@]}\"";
        let bash = [
            "--norc",
            "-c",
            complete,
            "bash",
            path.to_str().unwrap(),
            name,
        ];
        let offered = output(Command::new("bash").args(bash)).await;
        let offered = String::from_utf8(offered.stdout).unwrap();
        assert_eq!(offered.trim(), "status", "{name}");
    }
}
