//! Parses the arguments, installs the TLS provider, starts logging and dispatches. The only exit code.

use anyhow::Context;
use astro_token_operator::api::WorkspaceTokenRotation;
use astro_token_operator::config::{Cli, Command};
use astro_token_operator::{memory, operator, telemetry};
use clap::Parser;
use kube::CustomResourceExt;
use std::alloc::System;
use std::io::Write;
use std::process::ExitCode;
use tracing::warn;
use zeroizing_alloc::ZeroAlloc;

/// Wipes whatever is freed, so that no copy of a value outlives its use, in whosever buffer it was.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

#[tokio::main]
async fn main() -> ExitCode {
    // First of all: the arguments may come with a credential.
    let hidden = memory::forbid_dumps();
    match run(Cli::parse().command, hidden).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, hidden: std::io::Result<()>) -> anyhow::Result<()> {
    match command {
        Command::Crd => {
            let yaml = serde_saphyr::to_string(&WorkspaceTokenRotation::crd())?;
            Ok(std::io::stdout().write_all(yaml.as_bytes())?)
        }
        Command::Run(args) => {
            if rustls::crypto::ring::default_provider()
                .install_default()
                .is_err()
            {
                anyhow::bail!("another TLS provider is installed already");
            }
            telemetry::init(args.log_format, args.log_filter.as_deref()).context("--log-filter")?;
            if let Err(error) = hidden {
                warn!(%error, "core dumps cannot be forbidden; one would hold credentials");
            }
            operator::run(*args).await
        }
    }
}
