//! The operator's binary as a child process: a bare environment, its log line by line, signals, its exit code.

use lab::leak::has_value;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

pub const BINARY: &str = env!("CARGO_BIN_EXE_astro-token-operator");

/// Longest time that sending a signal, and a process that ends by itself, may take.
const SENT_WITHIN: Duration = Duration::from_secs(20);
const RUN_WITHIN: Duration = Duration::from_secs(60);

/// A running one; killed on drop.
pub struct Process {
    child: Child,
    log: watch::Receiver<Vec<String>>,
}

/// What is left of one that has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    /// Its log and its last words, by lines.
    pub stderr: Vec<String>,
}

/// Variables of its environment, which has no others.
pub type Environment<'a> = &'a [(&'a str, &'a str)];

impl Process {
    /// Starts one.
    pub fn start<A: AsRef<str>>(arguments: &[A], environment: Environment<'_>) -> Self {
        let mut child = command(arguments, environment)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (lines, log) = watch::channel(Vec::new());
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Some(line) = stderr.next_line().await.unwrap() {
                lines.send_modify(|lines| lines.push(line));
            }
        });
        Self { child, log }
    }

    /// What it has logged so far, which is no value.
    pub fn log(&self) -> Vec<String> {
        let log = self.log.borrow().clone();
        assert!(!has_value(log.concat().as_bytes()), "a value was logged");
        log
    }

    /// Waits for a line with `words` in it.
    pub async fn until(&mut self, words: &str, within: Duration) {
        let said = |log: &Vec<String>| log.iter().any(|line| line.contains(words));
        let said = timeout(within, self.log.wait_for(said)).await;
        let said = said.is_ok_and(|said| said.is_ok());
        assert!(said, "no {words:?} within {within:?}: {:#?}", self.log());
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends a signal: `TERM`, `INT` or `KILL`.
    pub async fn signal(&self, name: &str) {
        signal(self.id(), name).await;
    }

    /// Waits for its end; the exit code (`None`: a signal) and all that it logged.
    pub async fn end(mut self, within: Duration) -> (Option<i32>, Vec<String>) {
        let ended = timeout(within, async {
            let status = self.child.wait().await.unwrap();
            // The log is complete when it is closed.
            while self.log.changed().await.is_ok() {}
            status.code()
        });
        let code = ended.await;
        let log = self.log();
        (
            code.unwrap_or_else(|_| panic!("runs after {within:?}: {log:#?}")),
            log,
        )
    }
}

/// Sends a signal to any process.
pub async fn signal(id: u32, name: &str) {
    let kill = ["-c", "kill -s $1 $2", "sh", name, &id.to_string()];
    let sent = Command::new("sh").args(kill).kill_on_drop(true).status();
    let sent = timeout(SENT_WITHIN, sent).await.expect("kill hangs");
    assert!(sent.unwrap().success(), "kill {name}");
}

/// The output of a command that ends by itself.
pub async fn output(command: &mut Command) -> Output {
    let output = command.kill_on_drop(true).output();
    match timeout(RUN_WITHIN, output).await {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("runs after {RUN_WITHIN:?}: {command:?}"),
    }
}

/// The same of one that was given something to read, or something to write into.
pub async fn rest(child: Child) -> Output {
    let output = timeout(RUN_WITHIN, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("it runs after {RUN_WITHIN:?}"));
    output.unwrap()
}

/// Runs one that ends by itself.
pub async fn run<A: AsRef<str>>(arguments: &[A], environment: Environment<'_>) -> Ended {
    let output = output(&mut command(arguments, environment)).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: stderr.lines().map(str::to_owned).collect(),
    }
}

/// A port that nothing listens on, from the range that systems do not give to outgoing connections.
pub fn free_port() -> u16 {
    let ports = || 20_000 + (uuid::Uuid::new_v4().as_u128() % 10_000) as u16;
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(ports).find(free).unwrap()
}

fn command<A: AsRef<str>>(arguments: &[A], environment: Environment<'_>) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments.iter().map(AsRef::as_ref))
        .env_clear()
        // A backtrace must not be shown even to those who ask for it.
        .env("RUST_BACKTRACE", "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}
