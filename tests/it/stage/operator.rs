//! The operator in this process.

use super::{DEADLINE, HOME, Mode, Stage, log, plane};
use astro_token_operator::cli::{Cli, Command};
use astro_token_operator::operator::run as operator;
use clap::Parser;
use kube::Config;
use lab::astro::Astro;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How much faster than the shipped operator those of tests wait.
pub const PACE: &str = "--pace=0.1";

/// An operator in this process, on a runtime of its own, so that it can be killed as a whole.
pub struct Operator {
    runtime: Option<Runtime>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    /// Starts one that works in these namespaces of the control plane that tests share.
    pub async fn start_in(stages: &[&Stage], flags: &[&str]) -> Self {
        let mode = Mode::NAMESPACES;
        let account = plane().await.service_account(HOME, mode.account()).await;
        let namespaces: Vec<_> = stages.iter().map(|it| it.namespace.clone()).collect();
        let scope = mode.flags(&namespaces);
        let flags = flags.iter().copied();
        let flags: Vec<_> = flags.chain(scope.iter().map(String::as_str)).collect();
        Self::start(account.unwrap(), &stages[0].astro, &flags)
    }

    /// Starts one with the flags of `run` that tests want, and `more`.
    pub fn start(config: Config, astro: &Astro, more: &[&str]) -> Self {
        log::watch();
        let url = format!("--api-url={}", astro.url());
        let common = [
            "astro-token-operator",
            "run",
            &url,
            "--listen=127.0.0.1:0",
            PACE,
            "--minimum-interval=2s",
            "--vendor-timeout=3s",
            "--vendor-connect-timeout=1s",
            "--write-budget=2s",
            "--landing-time=1s",
            "--audit-interval=2s",
            "--rotations-per-second=1000",
            "--reads-per-second=1000",
        ];
        let given = |flag: &&&str| {
            let name = flag.split('=').next().unwrap();
            more.iter().any(|it| it.starts_with(name))
        };
        let flags = common.iter().filter(|flag| !given(flag));
        let flags = flags.chain(more);
        let cli = Cli::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}"));
        let Command::Run(args) = cli.command else {
            panic!("not run");
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let stop = CancellationToken::new();
        let ended = runtime.spawn(operator::run_with(*args, config, stop.clone()));
        Self {
            runtime: Some(runtime),
            stop,
            ended,
        }
    }

    /// As SIGKILL does: nothing of it runs any more when this returns, and nothing was cleaned up.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        let limit = Duration::from_secs(5);
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(limit))
            .await
            .unwrap();
    }

    /// As SIGTERM does.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        let ended = timeout(DEADLINE, &mut self.ended).await;
        let ended = ended
            .expect("the operator does not end in good order")
            .unwrap();
        self.kill().await;
        ended
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
