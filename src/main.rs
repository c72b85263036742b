//! Parses the arguments, installs the TLS provider, starts logging and dispatches. The only place that ends the process.

use anyhow::Context;
use astro_token_operator::api::WorkspaceTokenRotation;
use astro_token_operator::cli::{self, Cli, Command};
use astro_token_operator::operator::run as operator;
use astro_token_operator::process::telemetry::Format;
use astro_token_operator::process::{memory, telemetry};
use kube::CustomResourceExt;
use std::alloc::System;
use std::io::Write;
use std::process::ExitCode;
use tokio::runtime::Builder;
use tracing::warn;
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed, so that no copy of a value outlives its use, in whosever buffer it was.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Threads that run tasks. As many as a node has processors would each have buffers of their own, and the operator waits more
/// than it computes.
const THREADS: usize = 2;
/// Threads for what blocks: the resolver, and files of a few lines.
const BLOCKING_THREADS: usize = 4;

fn main() -> ExitCode {
    // First of all: the arguments may come with a credential.
    let hidden = memory::forbid_dumps();
    let cli = cli::parse(std::env::args_os());
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build();
    let ended = match runtime.context("no threads can be started") {
        Ok(runtime) => runtime.block_on(run(cli, hidden)),
        Err(error) => Err(error),
    };
    match ended {
        Ok(code) => code,
        Err(error) if cli::is_unread(&error) => ExitCode::SUCCESS,
        Err(error) => {
            cli::terminal::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli, hidden: std::io::Result<()>) -> anyhow::Result<ExitCode> {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("another TLS provider is installed already");
    }
    let log = |format, default| {
        let filter = cli.log_filter.as_deref().or(default);
        telemetry::init(format, filter).context("--log-filter")
    };
    if let Command::Run(args) = cli.command {
        log(args.log_format, None)?;
        if let Err(error) = hidden {
            warn!(%error, "core dumps cannot be forbidden; one would hold credentials");
        }
        operator::run(*args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    // A command tells what went wrong itself, once.
    log(Format::Text, Some("off"))?;
    match cli.command {
        Command::Run(_) => unreachable!("was handled above"),
        Command::Crd => {
            let yaml = serde_saphyr::to_string(&WorkspaceTokenRotation::crd())?;
            std::io::stdout().write_all(yaml.as_bytes())?;
        }
        Command::Rotate(args) => cli::rotate::run(*args).await?,
        Command::Status(args) => cli::status::run(&args).await?,
        Command::Trigger(args) => return cli::request::trigger(&args).await,
        Command::Revoke(args) => return cli::request::revoke(&args).await,
        Command::Explain(args) => cli::explain::run(&args)?,
        Command::Plan(args) => return cli::plan::run(*args).await,
        Command::Completion { shell } => cli::complete(shell)?,
    }
    Ok(ExitCode::SUCCESS)
}
