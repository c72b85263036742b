//! `bench`: the operator's speed and cost on the local control plane, beside a bare client that does the least.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use lab::bench::{figures, runs};

/// Measures the operator on a local control plane, with a simulator without rate limits in Astro's place.
///
/// Fails when a request was one too many or a Secret is not as it should be; never because of a time.
#[derive(Parser)]
struct Args {
    /// Resources that are due at one instant
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    resources: u16,
    /// For how long the operator is watched doing nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
    /// Do not watch it doing nothing
    #[arg(long)]
    skip_idle: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let idle = (!args.skip_idle).then(|| Duration::from_secs(args.idle));
    match run(usize::from(args.resources), idle).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; says whether all counts are right.
async fn run(resources: usize, idle: Option<Duration>) -> anyhow::Result<bool> {
    let runs = runs::measure(resources, idle).await?;
    let report = figures::report(&runs)?;
    let (major, minor) = runs.kubernetes;
    let processors = std::thread::available_parallelism()?;
    let profile = if cfg!(debug_assertions) {
        ", a debug build"
    } else {
        ""
    };
    println!(
        "{resources} resources, Kubernetes {major}.{minor}, {processors} processors{profile}\n"
    );
    println!(
        "{report}\n{}\n{}",
        figures::requests(&runs),
        figures::floor(&runs)
    );
    Ok(report.is_right())
}
