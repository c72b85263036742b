//! A real Kubernetes control plane on loopback for tests and the demo.

mod apply;
mod credentials;
mod process;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::http::Request;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

pub use self::apply::apply;
use self::credentials::{Credentials, config};
use self::process::{Process, Scratch};

const BINARIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/kube-binaries.sh");
const CONTROLLERS: &str = "kube-controller-manager";
const KUBECONFIG: &str = "kubeconfig";
const AUDIT_LOG: &str = "audit.log";
/// Since this version the controllers have no port without TLS, nor an option for it.
const WITHOUT_PLAIN_PORT: (u32, u32) = (1, 24);
/// A machine that has no programs yet builds them.
const BUILT_WITHIN: Duration = Duration::from_secs(3600);
/// Several may start at once on a busy machine; alone one needs a few seconds.
const READY_WITHIN: Duration = Duration::from_secs(120);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often to start anew with other ports when another program was quicker to take one.
const PORT_TRIES: usize = 5;
const TOKEN_LIFE_SECONDS: i64 = 30 * 24 * 3600;

/// etcd, kube-apiserver and kube-controller-manager in a temporary folder; stopped and removed on drop, and when this
/// process dies in whatever way.
///
/// It belongs to no runtime, so that tests with one runtime each can share it; clients do, so each test makes its own.
pub struct ControlPlane {
    controllers: Option<Process>,
    api_server: Option<Process>,
    etcd: Option<Process>,
    binaries: PathBuf,
    port: u16,
    etcd_url: String,
    credentials: Credentials,
    config: Config,
    version: (u32, u32),
    audit: Option<Value>,
    folder: Scratch,
}

/// A running controller; killed on drop.
pub struct Controller(Process);

impl Controller {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The end of its log, with the place of the rest.
    pub fn log_tail(&self) -> String {
        self.0.log_tail()
    }
}

impl ControlPlane {
    /// Starts one and waits until it is ready, for two minutes at most. The programs are those of
    /// `hack/kube-binaries.sh`, which takes some minutes more on a machine that has none yet.
    pub async fn start() -> anyhow::Result<Self> {
        Self::launch(None).await
    }

    /// The same with an audit log, which costs the API server a little with each request.
    pub async fn start_audited() -> anyhow::Result<Self> {
        Self::launch(Some(json!({"level": "Metadata"}))).await
    }

    /// The same with an audit log of the requests of one rule only, which costs the API server nothing for all others.
    pub async fn start_audited_by(rule: Value) -> anyhow::Result<Self> {
        Self::launch(Some(rule)).await
    }

    async fn launch(audit: Option<Value>) -> anyhow::Result<Self> {
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let binaries = find_binaries().await?;
        // Each keeps a processor busy for seconds: more at once would only delay each other.
        static TURNS: Semaphore = Semaphore::const_new(2);
        let _turn = TURNS.acquire().await?;
        let mut attempt = 1;
        loop {
            let mut plane = Self::lay_out(&binaries).await?;
            plane.audit.clone_from(&audit);
            match plane.start_programs().await {
                Ok(()) => return Ok(plane),
                Err(_) if attempt < PORT_TRIES && plane.lost_a_port() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The one that all tests of this process share. Tests keep apart by a namespace each, and leave it running.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED.get_or_try_init(Self::start).await
    }

    /// The folder of its certificates, kubeconfig, data and logs.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig, for processes.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join(KUBECONFIG)
    }

    /// The administrator's configuration: no proxy, no retries by the client.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// A new client of the administrator, bound to the runtime that calls this.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).expect("a configuration of our own making")
    }

    /// The address of the API server.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// The address of etcd, which takes requests without credentials.
    pub fn etcd_url(&self) -> &str {
        &self.etcd_url
    }

    /// Kubernetes' major and minor version. Validation rules (CEL) in a CustomResourceDefinition need `(1, 25)`.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Starts another kube-controller-manager with this controller only, as fast as it can; `None` where there is no such
    /// program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_controller(&self, name: &str) -> anyhow::Result<Option<Controller>> {
        let program = self.binaries.join(CONTROLLERS);
        if !program.exists() {
            return Ok(None);
        }
        let file = |option, name| format!("--{option}={}", self.dir().join(name).display());
        let mut arguments = vec![
            // What makes the other programs collect their garbage less often is not for this one.
            "--unset=GOGC".to_owned(),
            program.display().to_string(),
            format!("--kubeconfig={}", self.kubeconfig().display()),
            format!("--controllers={name}"),
            file("service-account-private-key-file", "accounts.key"),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=false".to_owned(),
            "--kube-api-qps=10000".to_owned(),
            "--kube-api-burst=10000".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        if self.version < WITHOUT_PLAIN_PORT {
            arguments.push("--port=0".to_owned());
        }
        let log = self.dir().join(format!("{name}.log"));
        Ok(Some(Controller(Process::spawn(
            Path::new("env"),
            &arguments,
            log,
        )?)))
    }

    /// Whether kube-controller-manager runs. Without it namespaces are not emptied, garbage is not collected, quotas
    /// are not counted, and no namespace gets its `default` service account.
    pub fn has_controllers(&self) -> bool {
        self.controllers.is_some()
    }

    /// The configuration of a client that is an existing service account, with its namespace as the default.
    pub async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<Config> {
        config(
            self.account_kubeconfig(&self.url(), namespace, name)
                .await?,
        )
        .await
    }

    /// Writes a kubeconfig of an existing service account to `path`, for processes that reach the API server by another
    /// port of this machine.
    pub async fn service_account_kubeconfig_by(
        &self,
        port: u16,
        namespace: &str,
        name: &str,
        path: &Path,
    ) -> anyhow::Result<()> {
        let kubeconfig = self.account_kubeconfig(&url(port), namespace, name).await?;
        Ok(std::fs::write(path, kubeconfig.to_string())?)
    }

    /// Writes a kubeconfig of an existing service account to `path`, for processes.
    pub async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
        path: &Path,
    ) -> anyhow::Result<()> {
        self.service_account_kubeconfig_by(self.port, namespace, name, path)
            .await
    }

    /// Every request so far, as events of `audit.k8s.io`; that of a request that was just answered may follow.
    pub fn audit_log(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.dir().join(AUDIT_LOG))?;
        // The last line may not be complete.
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let events = complete.lines().map(serde_json::from_str);
        Ok(events.collect::<Result<_, _>>()?)
    }

    /// Kills the API server; etcd keeps the data.
    pub fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts the API server again on the same port and waits until it is ready.
    pub async fn start_api_server(&mut self) -> anyhow::Result<()> {
        let file = |option, name| format!("--{option}={}", self.dir().join(name).display());
        let mut arguments = vec![
            format!("--etcd-servers={}", self.etcd_url),
            "--bind-address=127.0.0.1".to_owned(),
            // Without these two it looks for a network of the machine's.
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--secure-port={}", self.port),
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("client-ca-file", "ca.crt"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            file("service-account-key-file", "accounts.pub"),
            file("service-account-signing-key-file", "accounts.key"),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--max-requests-inflight=2000".to_owned(),
            "--max-mutating-requests-inflight=1000".to_owned(),
        ];
        if let Some(rule) = &self.audit {
            // Who asked for what, and whether it was given; of watches when they begin.
            let policy = json!({
                "apiVersion": "audit.k8s.io/v1",
                "kind": "Policy",
                "omitStages": ["RequestReceived"],
                "rules": [rule, { "level": "None" }],
            });
            std::fs::write(self.dir().join("audit.json"), policy.to_string())?;
            arguments.push(file("audit-policy-file", "audit.json"));
            arguments.push(file("audit-log-path", AUDIT_LOG));
        }
        self.stop_api_server();
        self.api_server = Some(self.spawn("kube-apiserver", &arguments)?);
        let client = self.client();
        self.until("the API server is ready", || is_ready(&client))
            .await
    }

    /// Kills etcd and starts it again with its data, and waits until the API server is ready again.
    pub async fn restart_etcd(&mut self) -> anyhow::Result<()> {
        self.etcd = None;
        self.start_etcd()?;
        let client = self.client();
        self.until("the API server is ready", || is_ready(&client))
            .await
    }

    /// Leaves everything running after this process, in the same folder. Returns the process ids.
    pub fn keep(self) -> Vec<u32> {
        self.folder.keep();
        [self.controllers, self.api_server, self.etcd]
            .into_iter()
            .flatten()
            .map(Process::keep)
            .collect()
    }

    /// Prepares the folder and picks the ports; nothing runs yet.
    async fn lay_out(binaries: &Path) -> anyhow::Result<Self> {
        let folder = Scratch::new()?;
        let credentials = Credentials::issue(folder.path())?;
        let port = free_port()?;
        let admin = credentials.admin(&url(port));
        std::fs::write(folder.path().join(KUBECONFIG), admin.to_string())?;
        Ok(Self {
            controllers: None,
            api_server: None,
            etcd: None,
            binaries: binaries.to_owned(),
            port,
            etcd_url: format!("http://127.0.0.1:{}", free_port()?),
            credentials,
            config: config(admin).await?,
            version: (0, 0),
            audit: None,
            folder,
        })
    }

    async fn start_programs(&mut self) -> anyhow::Result<()> {
        self.start_etcd()?;
        self.start_api_server().await?;
        let version = self.client().apiserver_version().await?;
        // A vendor's minor version may end in a plus sign.
        self.version = (
            version.major.parse()?,
            version.minor.trim_end_matches('+').parse()?,
        );
        if self.binaries.join(CONTROLLERS).exists() {
            self.start_controllers().await?;
        }
        Ok(())
    }

    fn start_etcd(&mut self) -> anyhow::Result<()> {
        let arguments = [
            format!("--data-dir={}", self.dir().join("etcd").display()),
            "--unsafe-no-fsync".to_owned(),
            format!("--listen-client-urls={}", self.etcd_url),
            format!("--advertise-client-urls={}", self.etcd_url),
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
        ];
        self.etcd = Some(self.spawn("etcd", &arguments)?);
        Ok(())
    }

    /// Starts the controllers that tests can notice and waits until they do their work.
    async fn start_controllers(&mut self) -> anyhow::Result<()> {
        let mut arguments = vec![
            format!("--kubeconfig={}", self.kubeconfig().display()),
            "--controllers=namespace,garbagecollector,resourcequota,serviceaccount,clusterrole-aggregation".to_owned(),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=false".to_owned(),
            "--namespace-sync-period=2s".to_owned(),
            "--resource-quota-sync-period=2s".to_owned(),
            "--secure-port=0".to_owned(),
        ];
        if self.version < WITHOUT_PLAIN_PORT {
            arguments.push("--port=0".to_owned());
        }
        self.controllers = Some(self.spawn(CONTROLLERS, &arguments)?);
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), "default");
        self.until("the controllers work", async || {
            accounts.get("default").await.is_ok()
        })
        .await
    }

    /// Polls until `arrived`; fails with the end of the logs when a program ends before, or at the deadline.
    async fn until(&mut self, goal: &str, arrived: impl AsyncFn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            // First, since what answers in the place of a dead program is another plane's.
            for program in self.programs() {
                if let Some(status) = program.exited()? {
                    bail!("before {goal}: {status}; {}", program.log_tail());
                }
            }
            if timeout(ANSWER_WITHIN, arrived()).await.unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let logs: Vec<String> = self.programs().map(|program| program.log_tail()).collect();
                bail!("not within {READY_WITHIN:?}: {goal}; {}", logs.join("\n"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    fn programs(&mut self) -> impl Iterator<Item = &mut Process> {
        [&mut self.etcd, &mut self.api_server, &mut self.controllers]
            .into_iter()
            .flatten()
    }

    /// Whether a program ended because another one had taken its port.
    fn lost_a_port(&mut self) -> bool {
        self.programs()
            .any(|program| program.log_tail().contains("address already in use"))
    }

    fn spawn(&self, name: &str, arguments: &[String]) -> anyhow::Result<Process> {
        let log = self.dir().join(format!("{name}.log"));
        Process::spawn(&self.binaries.join(name), arguments, log)
    }

    async fn account_kubeconfig(
        &self,
        server: &str,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Value> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_LIFE_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let granted = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for service account {namespace}/{name}"))?;
        let token = granted
            .status
            .context("a token request without an answer")?
            .token;
        Ok(self.credentials.bearer(server, namespace, &token))
    }
}

/// The folder of programs that `hack/kube-binaries.sh` names.
async fn find_binaries() -> anyhow::Result<PathBuf> {
    let output = Command::new(BINARIES)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = timeout(BUILT_WITHIN, output).await;
    let output = output
        .with_context(|| format!("{BINARIES} runs after {BUILT_WITHIN:?}"))?
        .with_context(|| format!("cannot run {BINARIES}"))?;
    ensure!(output.status.success(), "{BINARIES}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim_end().into())
}

async fn is_ready(client: &Client) -> bool {
    match Request::get("/readyz").body(Vec::new()) {
        Ok(request) => client.request_text(request).await.is_ok(),
        Err(_) => false,
    }
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

/// A port that nothing listens on, from the range that systems do not give to outgoing connections: a client that
/// tries again and again while the server is down could else meet itself there.
fn free_port() -> anyhow::Result<u16> {
    (0..100)
        .map(|_| 20_000 + (Uuid::new_v4().as_u128() % 10_000) as u16)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free port on 127.0.0.1")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_lost_to_another_program_is_told_from_other_failures() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let binaries = find_binaries().await.unwrap();

        let mut plane = ControlPlane::lay_out(&binaries).await.unwrap();
        let taken = TcpListener::bind(("127.0.0.1", plane.port)).unwrap();
        let error = plane.start_programs().await.unwrap_err().to_string();
        assert!(error.contains("kube-apiserver.log ends with"), "{error}");
        assert!(plane.lost_a_port(), "{error}");
        drop((plane, taken));

        let mut plane = ControlPlane::lay_out(&binaries).await.unwrap();
        let taken = TcpListener::bind(plane.etcd_url.trim_start_matches("http://")).unwrap();
        let error = plane.start_programs().await.unwrap_err().to_string();
        assert!(error.contains("etcd.log ends with"), "{error}");
        assert!(plane.lost_a_port(), "{error}");
        drop((plane, taken));

        let mut plane = ControlPlane::lay_out(&binaries).await.unwrap();
        std::fs::write(plane.dir().join("server.key"), "no key").unwrap();
        let error = plane.start_programs().await.unwrap_err().to_string();
        assert!(error.contains("kube-apiserver.log ends with"), "{error}");
        assert!(!plane.lost_a_port(), "{error}");
    }
}
