//! `soak`: kills the operator in the middle of thousands of rotations and counts what became of each.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use lab::crash::{Count, Plan, Range, Storm, learn, sample};

/// Resources in one round, half of them with trouble at the vendor.
const ROUND: usize = 1200;
/// Those that live and die together: much of the time is spent on waiting for what may land late.
const BATCH: usize = 600;

/// Kills the operator in the middle of thousands of rotations and counts what became of each; then lets a storm blow over
/// three replicas.
///
/// Fails when a value is lost that does not come back, a rotation is doubled, or a value leaks.
#[derive(Parser)]
struct Args {
    /// Rotations that are cut by the death of the operator, at least
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    cuts: usize,
    /// How long the storm lasts
    #[arg(long, value_name = "MINUTES", default_value_t = 10)]
    minutes: u64,
    /// The seed of an earlier run, to have its choices again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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

/// Says whether all promises were kept.
async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut kept = true;
    if args.cuts > 0 {
        kept &= crash(args.cuts, seed).await?;
    }
    if args.minutes > 0 {
        let storm = Storm {
            replicas: 3,
            resources: 50,
            every: Duration::from_secs(10),
            lasts: Duration::from_secs(args.minutes * 60),
            pace: 1.0,
            seed,
        };
        println!(
            "{} minutes, {} replicas, {} resources, each rotated every {:?}:",
            args.minutes, storm.replicas, storm.resources, storm.every
        );
        let aftermath = storm.blow().await?;
        print!("{aftermath}");
        for doubled in &aftermath.doubled {
            println!("doubled: {doubled}");
        }
        kept &= aftermath.doubled.is_empty() && aftermath.unhealed.is_empty();
    }
    Ok(kept)
}

async fn crash(cuts: usize, seed: u64) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let mut range = Range::start().await?;
    let learned = learn(&mut range).await?;
    let mut count = Count::default();
    let mut round = 0;
    while count.deaths() < cuts {
        let plans: Vec<Plan> = sample(&learned, ROUND, seed.wrapping_add(round));
        round += 1;
        let reports = range.run_all(plans, BATCH).await?;
        for report in reports.iter().filter(|report| report.broken.is_some()) {
            let broken = report.broken.as_deref().unwrap_or_default();
            println!("unhealed: {}: {broken}", report.plan);
        }
        count.add(&reports);
        let (deaths, elapsed) = (count.deaths(), begun.elapsed().as_secs());
        eprintln!("soak: {deaths} of {cuts} rotations cut, {elapsed} s");
    }
    println!("{count}in {:.0?}, no value leaked\n", begun.elapsed());
    Ok(count.unhealed() == 0)
}
