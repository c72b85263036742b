//! The operator's binary as a child process, with what can be read of it from outside.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use kube::Client;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::control_plane::apply;
use crate::manifests::permissions;

/// The namespace of `deploy/`, where its service account and its Lease are.
pub const HOME: &str = "astro-token-operator";
/// The service account of `deploy/`.
pub const ACCOUNT: &str = "astro-token-operator";

const PROGRAM: &str = "astro-token-operator";
/// Longest time for a command that has next to nothing to do.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 20;
/// Linux counts a process's time in these, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running operator; killed on drop.
pub struct Operator {
    child: Child,
    id: u32,
    port: u16,
    log: PathBuf,
}

/// The binary that was built beside the current executable, or one folder above a test: so of the same profile.
///
/// # Errors
/// When it was not built.
pub fn binary() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.with_file_name(PROGRAM);
    let above = own.parent().map(|folder| folder.with_file_name(PROGRAM));
    let mut found = [Some(&beside), above.as_ref()].into_iter().flatten();
    let found = found.find(|path| path.exists()).cloned();
    found.with_context(|| format!("{} is missing: build it first", beside.display()))
}

/// Brings the CustomResourceDefinition and everything of an install, such as `deploy`, but the workload into a cluster.
///
/// # Errors
/// When the binary is missing or the cluster refuses something.
pub async fn install(client: &Client, kustomization: &str) -> anyhow::Result<()> {
    let printed = Command::new(binary()?)
        .arg("crd")
        .kill_on_drop(true)
        .output();
    let printed = timeout(COMMAND_WITHIN, printed).await;
    let printed = printed.context("`crd` does not end")??;
    ensure!(printed.status.success(), "crd: {}", printed.status);
    apply(client, &String::from_utf8(printed.stdout)?).await?;
    for object in permissions(kustomization, &[])? {
        if object["kind"] != "CustomResourceDefinition" {
            apply(client, &object.to_string()).await?;
        }
    }
    Ok(())
}

impl Operator {
    /// Starts `run` on a free port with `flags`, its log appended to the file `log`. Nothing of the caller's environment
    /// reaches it.
    ///
    /// # Errors
    /// When it cannot be started. What it does then shows in the log.
    pub fn start(kubeconfig: &Path, log: &Path, flags: &[String]) -> anyhow::Result<Self> {
        Self::start_by(Command::new(binary()?), kubeconfig, log, flags)
    }

    /// The same by a command to which the arguments are appended, such as one that becomes the operator later.
    ///
    /// # Errors
    /// See [`Operator::start`].
    pub fn start_by(
        mut command: Command,
        kubeconfig: &Path,
        log: &Path,
        flags: &[String],
    ) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = command
            .arg("run")
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--leader-election-namespace={HOME}"))
            .args(flags)
            .env_clear()
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            id: child.id().context("the operator ended at once")?,
            child,
            port,
            log: log.to_owned(),
        })
    }

    /// Ends it as SIGKILL does; returns when it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        let killed = timeout(COMMAND_WITHIN, self.child.kill()).await;
        Ok(killed.context("it outlives SIGKILL")??)
    }

    /// Sends it a signal: `TERM`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let kill = ["-c", "kill -s $1 $2", "sh", name, &self.id.to_string()];
        let sent = Command::new("sh").args(kill).kill_on_drop(true).status();
        let sent = timeout(COMMAND_WITHIN, sent)
            .await
            .context("kill hangs")??;
        ensure!(sent.success(), "cannot send SIG{name}");
        Ok(())
    }

    /// Whether it has ended by itself.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it has ended by itself; its exit code, `None` after a signal.
    ///
    /// # Errors
    /// When that takes longer.
    pub async fn end(&mut self, within: Duration) -> anyhow::Result<Option<i32>> {
        let ended = timeout(within, self.child.wait()).await;
        Ok(ended
            .with_context(|| format!("it runs after {within:?}"))??
            .code())
    }

    /// The text of its `/metrics`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        let client = reqwest::Client::builder().no_proxy();
        let client = client.timeout(COMMAND_WITHIN).build()?;
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let answer = client.get(url).send().await?.error_for_status()?;
        Ok(answer.text().await?)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its port for `/metrics`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Memory it has resident, bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory it had resident since its start, or since [`Operator::forget_most_resident`], bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn most_resident(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// Begins anew what [`Operator::most_resident`] tells.
    ///
    /// # Errors
    /// When it has ended, or this is not permitted.
    pub fn forget_most_resident(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(
            format!("/proc/{}/clear_refs", self.id),
            "5",
        )?)
    }

    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kilobytes: u64 = kilobytes
            .with_context(|| format!("no {name} it has ended"))?
            .trim_end()
            .parse()?;
        Ok(kilobytes * 1024)
    }

    /// Files and connections it has open.
    ///
    /// # Errors
    /// When it has ended.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id))?.count())
    }

    /// Processor time it has used, seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id))?;
        // The name before may hold anything; then come state and others, utime as the 12th and stime as the 13th.
        let (_, fields) = stat.rsplit_once(')').context("an odd /proc/PID/stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// The end of its log, with the place of the rest.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(LOG_TAIL_LINES).collect();
        lines.reverse();
        format!("{} ends with:\n{}", self.log.display(), lines.join("\n"))
    }
}
