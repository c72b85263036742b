//! Parses the arguments, installs the TLS provider, starts logging and dispatches. The only exit code.

use anyhow::Context;
use astro_token_operator::api::WorkspaceTokenRotation;
use astro_token_operator::config::{Cli, Command};
use astro_token_operator::{operator, telemetry};
use clap::Parser;
use kube::CustomResourceExt;
use std::io::Write;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
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
            operator::run(*args).await
        }
    }
}
