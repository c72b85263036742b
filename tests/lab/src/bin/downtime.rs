//! `downtime`: for how long a consumer of the Secret is refused around a rotation, with one token and with two.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use lab::downtime::table::Table;
use lab::downtime::{
    OVERLAP, Options, Outcome, REFRESH, TICK, Tokens, measure, picture, refused_with_two,
};

/// Measures for how long a consumer is refused around a rotation, with one token and with two that take turns.
///
/// A consumer calls Astro every 50 ms with the value in its mounted copy of the Secret, which is read again every 5 s, as
/// a kubelet does it. All the while rotations are requested by the annotation, one after the other, at random times
/// between two readings; a simulator is in Astro's place. Each is measured without crashes, and then with the operator
/// killed at a random request of every second rotation and started again at once.
///
/// Up to ten rotations are of one resource, and the resources are rotated side by side, each by an operator of its own.
/// One token and two tokens are measured at the same time, without crashes before with crashes. Two tokens take turns
/// at least 7 s apart (`--minimum-interval`), which is longer than the copy is behind, so none of their calls may be
/// refused: this fails when one is. All other waits of the operator are a tenth of what is shipped.
///
/// A refused call is one that is answered with 401. A gap is the time from the first refused call of a consumer to the
/// next that is not refused.
#[derive(Parser)]
#[command(after_help = "Examples:
    make bench-downtime                             the whole measurement, in about ten minutes
    downtime --rotations 4                          a few rotations of each, to see that it works
    downtime --only one                             one token alone
    downtime --picture docs/pictures                a time line of one rotation of each, as SVG")]
struct Args {
    /// Rotations for each column of the table
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=400))]
    rotations: u16,
    /// Measure only resources with so many tokens
    #[arg(long, value_name = "TOKENS", value_enum)]
    only: Option<Tokens>,
    /// The seed of an earlier run, to have its choices again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write zero-downtime-light.svg and zero-downtime-dark.svg into this folder: one rotation of each, as measured
    #[arg(long, value_name = "DIR")]
    picture: Option<PathBuf>,
}

/// How many of the changes around which calls were refused are printed.
const SHOWN: usize = 10;

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

/// Measures and prints; says whether no call was refused with two tokens.
async fn run(args: Args) -> anyhow::Result<bool> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let options = Options {
        rotations: args.rotations.into(),
        tokens: match args.only {
            Some(tokens) => vec![tokens],
            None => vec![Tokens::One, Tokens::Two],
        },
        seed,
    };
    let begun = Instant::now();
    let outcomes = measure(&options, |what| eprintln!("downtime: {what}")).await?;
    println!(
        "a call every {TICK:?}, a copy read every {REFRESH:?}, turns at least {OVERLAP:?} apart\n"
    );
    println!("{}in {:.0?}", Table(&outcomes), begun.elapsed());
    if let Some(folder) = &args.picture {
        picture::write(folder, &outcomes)?;
        println!("the pictures are in {}", folder.display());
    }
    Ok(judge(&outcomes))
}

/// Says what is wrong, if something is.
fn judge(outcomes: &[Outcome]) -> bool {
    let refused = refused_with_two(outcomes);
    if refused == 0 {
        return true;
    }
    println!(
        "FAILED: {refused} calls were refused with two tokens. Find out why a value became invalid before its consumer had \
         the next one; --only two --seed with the seed above repeats the choices. The first of them:"
    );
    let two = outcomes.iter().filter(|it| it.arm.tokens == Tokens::Two);
    let refusals = two.flat_map(|outcome| &outcome.refusals);
    for refusal in refusals.take(SHOWN) {
        println!("  {refusal}");
    }
    false
}
