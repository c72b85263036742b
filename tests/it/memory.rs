//! What stays of values in the memory of a running operator, and what of its memory can get out.

use crate::stage::process::{self, Process};
use crate::stage::{self, Mode, PACE, Stage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lab::astro::Astro;
use lab::tls::Terminator;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Longest wait for a step of a process.
const SOON: Duration = Duration::from_secs(30);
/// Longest wait until nothing of what was done is left.
const AT_REST: Duration = Duration::from_secs(30);
/// So many characters of a value in a row are a trace of it.
const TRACE: usize = 24;

/// How many traces of values a memory has, by the value's place in the order of issue and the form it is in.
type Found = BTreeMap<(usize, &'static str), usize>;

#[tokio::test]
async fn no_value_stays_in_memory_at_rest() {
    let astro = Astro::start().await.unwrap();
    // The credential and the operator's own token for the API server are issued in one second, and the values in
    // another: what the claims of those two have in common is then in no value.
    stage::next_second().await;
    let stage = Stage::new(&astro).await;
    let account = Mode::NAMESPACES.account();
    let kubeconfig = stage.kubeconfig(stage::plane().await, account).await;
    // TLS has buffers of its own.
    let host = astro.url().replace("http://", "").replace("/v1", "");
    let front = Terminator::open(host.parse().unwrap()).await.unwrap();
    let bundle = kubeconfig.with_file_name("vendor-ca.pem");
    std::fs::write(&bundle, &front.authority).unwrap();
    let url = format!("--api-url=https://localhost:{}/v1", front.port);
    let bundle = format!("--ca-bundle={}", bundle.display());
    let own = kubeconfig.with_file_name("own-credential");
    std::fs::write(&own, &stage.owner.value).unwrap();
    let own = format!("--api-token-file={}", own.display());
    let only_here = format!("--namespaces={}", stage.namespace);
    let flags = [
        "run",
        &url,
        &bundle,
        &own,
        "--default-credentials-namespaces=*",
        PACE,
        "--leader-election=false",
        "--listen=127.0.0.1:0",
        "--minimum-interval=1s",
        "--audit-interval=1h",
        &only_here,
    ];
    let variables = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let mut operator = Process::start(&flags, &variables);
    operator.until("watching", SOON).await;

    stage::next_second().await;
    stage.token("ci");
    stage.create("ci", json!({})).await;
    stage.until_rotated("ci", 1).await;
    for times in 2..=4 {
        stage.request("ci", &times.to_string()).await;
        stage.until_rotated("ci", times).await;
    }
    stage.token("own");
    stage.create("own", json!({"credentials": null})).await;
    stage.until_rotated("own", 1).await;
    // The value is read once more, to be written beside a new label.
    let edit = json!({"spec": {"target": {"labels": {"a": "b"}}}});
    stage.edit("ci", edit).await;
    let labelled = |secret: &k8s_openapi::api::core::v1::Secret| {
        let labels = secret.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key("a"))
    };
    stage.until_secret("ci-secret", labelled).await;
    stage.request("ci", "last").await;
    stage.until_rotated("ci", 5).await;

    // A JWT too, which the operator has to keep: claims such as the time of issue read alike.
    let own_token = std::fs::read_to_string(&kubeconfig).unwrap();
    let values = astro.issued();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    // Not even the credential: connections to the vendor end soon after their last use.
    let deadline = Instant::now() + AT_REST;
    loop {
        let found = search(operator.id(), &values, &own_token);
        if found.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "in memory: {found:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stage.assert_no_leak().await;
}

#[tokio::test]
async fn it_leaves_no_core_dump_and_only_root_may_look_into_it() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cores");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let mut control = nobody("kill -s ABRT $$", &folder);
    let control = timeout(SOON, control.wait()).await.expect("it lives");
    let control = control.unwrap();
    if !control.core_dumped() {
        println!("skipped: this system makes no core dumps at all ({control})");
    }
    for signal in ["ABRT", "QUIT"] {
        // A server that never answers: it is up, with its credential in memory.
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubeconfig = folder.join("kubeconfig");
        let url = format!("http://{}", server.local_addr().unwrap());
        std::fs::write(&kubeconfig, kubeconfig_of(&url)).unwrap();
        // Whoever runs this in the background may have it ignore SIGQUIT.
        let script = format!(
            "KUBECONFIG={} ASTRO_API_TOKEN=a-value DEFAULT_CREDENTIALS_NAMESPACES=* exec env --default-signal {} run --listen=127.0.0.1:0",
            kubeconfig.display(),
            process::BINARY
        );
        let mut child = nobody(&script, &folder);
        let connected = timeout(SOON, server.accept()).await;
        let _connection = connected.expect("it does not start").unwrap();

        let process = format!("/proc/{}", child.id().unwrap());
        let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
        let mut limits = limits.lines();
        let core = limits.find(|line| line.starts_with("Max core file size"));
        let core: Vec<_> = core.unwrap().split_whitespace().skip(4).collect();
        assert_eq!(core, ["0", "0", "bytes"]);
        // The system gives these files to root where the process's own user may not look into it.
        for file in ["environ", "mem", "maps"] {
            let owner = std::fs::metadata(format!("{process}/{file}"))
                .unwrap()
                .uid();
            assert_eq!(owner, 0, "{file}");
        }

        let status = end(&mut child, signal).await;
        assert!(
            status.signal().is_some() && !status.core_dumped(),
            "{status}"
        );
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Starts a script as a user without rights where that is possible, with core dumps as large as the system permits.
fn nobody(script: &str, folder: &Path) -> Child {
    let mut command = Command::new("sh");
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    command
        .arg("-c")
        .arg(format!("ulimit -c $(ulimit -H -c); {script}"))
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Sends a signal that ends it; says how it did.
async fn end(child: &mut Child, signal: &str) -> ExitStatus {
    process::signal(child.id().unwrap(), signal).await;
    timeout(SOON, child.wait())
        .await
        .expect("it lives")
        .unwrap()
}

fn kubeconfig_of(server: &str) -> String {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": {}}],
    });
    kubeconfig.to_string()
}

/// Looks for traces of `values` in everything that the process can write to; what they share with `kept`, a text that the
/// process has to keep, is none.
fn search(id: u32, values: &[&str], kept: &str) -> Found {
    let mut traces = HashMap::new();
    for (number, value) in values.iter().enumerate() {
        for (form, text) in [
            ("text", (*value).to_owned()),
            ("base64", STANDARD.encode(value)),
        ] {
            for trace in text.as_bytes().windows(TRACE) {
                let known = traces.insert(trace.to_vec(), Some((number, form)));
                // What values have in common tells nothing.
                if known.is_some_and(|known| known != Some((number, form))) {
                    traces.insert(trace.to_vec(), None);
                }
            }
        }
    }
    for trace in kept.as_bytes().windows(TRACE) {
        traces.insert(trace.to_vec(), None);
    }
    let mut found = Found::new();
    let memory = File::open(format!("/proc/{id}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
    for map in maps
        .lines()
        .filter(|map| map.split(' ').nth(1).unwrap().starts_with("rw"))
    {
        let (from, to) = map.split(' ').next().unwrap().split_once('-').unwrap();
        let [from, to] = [from, to].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // A mapping may have gone meanwhile, and the kernel's own cannot be read.
        if memory.read_exact_at(&mut bytes, from).is_err() {
            continue;
        }
        let opaque = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.=+/".contains(byte);
        for run in bytes.split(|byte| !opaque(byte)) {
            for window in run.windows(TRACE) {
                if let Some(Some(of)) = traces.get(window) {
                    *found.entry(*of).or_default() += 1;
                }
            }
        }
    }
    found
}
