//! `bench`: the operator's speed, cost and memory on the local control plane, beside a bare client that does the least.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum as _};
use lab::bench::hostile::Harm;
use lab::bench::runs::{self, Options, Part};
use lab::bench::shape::Shape;
use lab::bench::{figures, lists};

/// Measures the operator on a local control plane, with a simulator in Astro's place.
///
/// Fails when a value is not live, a rotation was one too many or something did not come about; never because a goal is
/// missed.
#[derive(Parser)]
struct Args {
    /// Numbers of resources that are due at one instant
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "500,2000,10000", value_parser = clap::value_parser!(u16).range(1..=20_000))]
    resources: Vec<u16>,
    /// Measure only these parts
    #[arg(long, value_name = "PART,…", value_delimiter = ',', value_enum)]
    only: Vec<Part>,
    /// How resources are spread over namespaces and Workspaces
    #[arg(long, value_enum, default_value_t = Shape::Workspaces)]
    shape: Shape,
    /// Which kinds of harm a hostile tenant does, each alone and all together
    #[arg(long, value_name = "KIND,…", value_delimiter = ',', value_enum)]
    harm: Vec<Harm>,
    /// For how long the operator is watched doing nothing; an audit is in eleven minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 660)]
    idle: u64,
    /// Do not watch it doing nothing
    #[arg(long)]
    skip_idle: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; says whether all counts are right.
async fn run(args: Args) -> anyhow::Result<bool> {
    let mut parts: BTreeSet<Part> = args.only.into_iter().collect();
    if parts.is_empty() {
        parts.extend(Part::value_variants());
    }
    if args.skip_idle {
        parts.remove(&Part::Idle);
    }
    let options = Options {
        sizes: args.resources.into_iter().map(usize::from).collect(),
        parts,
        shape: args.shape,
        idle: Duration::from_secs(args.idle),
        harm: match args.harm.is_empty() {
            true => Harm::value_variants().to_vec(),
            false => args.harm,
        },
    };
    let runs = runs::measure(&options).await;
    let report = figures::report(&runs, &options)?;
    let (major, minor) = runs.kubernetes;
    let processors = std::thread::available_parallelism()?;
    let profile = if cfg!(debug_assertions) {
        ", a debug build"
    } else {
        ""
    };
    println!(
        "Kubernetes {major}.{minor}, {processors} processors{profile}; {}\n",
        options.shape
    );
    for size in &runs.sizes {
        for list in [lists::requests, lists::floor, lists::idle] {
            let list = list(size);
            if !list.is_empty() {
                println!("{list}");
            }
        }
    }
    for fault in &runs.faults {
        println!("WRONG: {fault}");
    }
    for failure in &runs.failures {
        println!("FAILED: {failure}");
    }
    print!("{report}");
    Ok(runs.faults.is_empty() && runs.failures.is_empty())
}
