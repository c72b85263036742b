//! `rotate`: one token by hand, as the vendor's own command does it, on the operator's decisions.
//!
//! ```text
//! choose       which token is meant: its record
//! look         the record (and the Secret) as evidence, as if of a resource that has not been applied
//! plan         the operator's own table: Rotate, or why not
//! ask          unless --force
//! attempt      rehearse, call, hand over
//!              after an answer that did not arrive: look and plan again, with the call as a pending rotation
//! ```

mod account;
mod ask;
mod choose;
mod hand;
mod place;

use self::account::Account;
use self::ask::{ask, given_up, say, warn};
use self::hand::{Hand, Handed};
use self::place::Place;
use super::cluster::Cluster;
use super::terminal;
use crate::api::{Cause, Scope};
use crate::args::{AstroArgs, ClusterArgs, PaceArgs, id};
use crate::clock::now;
use crate::decide::evidence::Observed;
use crate::decide::plan::Plan;
use crate::decide::plan::rules::plan;
use anyhow::anyhow;
use clap::builder::{ArgPredicate, NonEmptyStringValueParser};

/// Calls for one rotation: each answer that is lost costs one more, and somewhere it has to end.
const MOST_CALLS: i32 = 3;

/// Flags of `rotate`; the names are those of `astro workspace token rotate`.
#[derive(clap::Args)]
pub struct Args {
    /// Id of the token; without an id and a name you pick one on the terminal
    #[arg(value_parser = id)]
    token_id: Option<String>,

    /// Exact name of the token
    #[arg(short = 't', long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Workspace that the token must be in; by default the credential's own
    #[arg(long, env = "ASTRO_WORKSPACE_ID", value_parser = id, help_heading = "Astro")]
    workspace_id: Option<String>,

    /// What the token is for
    #[arg(
        long,
        value_enum,
        default_value_t,
        default_value_if("deployment_id", ArgPredicate::IsPresent, "deployment"),
        hide_default_value = true,
        help_heading = "Astro"
    )]
    scope: Scope,

    /// Deployment that the token is for; means --scope deployment
    #[arg(long, value_parser = id, required_if_eq("scope", "deployment"), help_heading = "Astro")]
    deployment_id: Option<String>,

    /// Do not ask for confirmation
    #[arg(short, long, visible_short_alias = 'y', visible_alias = "yes")]
    force: bool,

    /// Print nothing but the value, and only errors on stderr
    #[arg(short, long, conflicts_with = "into_secret")]
    clean_output: bool,

    /// Store the value in this Secret instead of printing it
    #[arg(long, value_name = "[NAMESPACE/]NAME[:KEY]")]
    into_secret: Option<Place>,

    #[command(flatten)]
    astro: AstroArgs,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    pace: PaceArgs,
}

/// Rotates a token and hands its new value over.
///
/// # Errors
/// Whatever kept the value from being handed over, and whether the token was rotated all the same.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pace = args.pace.pace(&args.astro);
    if args.deployment_id.is_some() && args.scope != Scope::Deployment {
        return Err(untouched("--deployment-id goes with --scope deployment"));
    }
    let entity = match args.scope {
        Scope::Workspace => args.workspace_id.as_ref(),
        Scope::Deployment => args.deployment_id.as_ref(),
        Scope::Organization => None,
    };
    let account = Account::new(&args.astro, (args.scope, entity), pace)?;
    let secret = match &args.into_secret {
        Some(place) => Some((place, Cluster::connect(&args.cluster).await?)),
        None => None,
    };
    let chosen = choose::token(&account, args.token_id.as_deref(), args.name.as_deref()).await?;
    let mut hand = Hand::new(account, &chosen.token, pace)?;
    if let Some((place, cluster)) = secret {
        hand.aim(place, cluster, &chosen.token).await?;
    }
    // What stands in the way is said before a question is asked.
    let mut seen = hand.look(Some(chosen.token.clone())).await?;
    if let Some(why) = obstacle(&plan(&seen)) {
        return Err(untouched(&why));
    }
    if !args.force {
        ask(&chosen, args.into_secret.as_ref())?;
        seen = hand.look(None).await?;
    }
    tokio::select! {
        done = rotate(hand, seen, args.clean_output) => done,
        () = given_up() => Err(anyhow!(
            "given up: if the token was rotated, its new value is lost and the previous one is no longer valid; rotate it again"
        )),
    }
}

/// Makes the rotation, and whatever further call a lost answer asks for.
async fn rotate(mut hand: Hand, mut seen: Observed, quiet: bool) -> anyhow::Result<()> {
    let latest = now() + seen.pace().by_hand_patience;
    loop {
        // What is certain when it ends without a value.
        let ended = match seen.pending() {
            None => untouched,
            Some(_) => in_doubt,
        };
        let decided = plan(&seen);
        match &decided {
            Plan::Rotate(rotation) if rotation.attempt <= MOST_CALLS => {
                if seen.pending().is_some() {
                    warn(further_call(rotation.cause));
                }
                match hand.attempt(&seen, rotation).await? {
                    Handed::Over(token) => {
                        if !quiet {
                            say(&hand.done(&token, seen.now));
                        }
                        return Ok(());
                    }
                    Handed::Refused(why) => return Err(ended(&why)),
                    Handed::InDoubt(why) => warn(&format!(
                        "{why}. Whether the token was rotated is not known; Astro's record will tell"
                    )),
                }
            }
            Plan::Wait {
                until,
                doubt: Some(why),
            }
            | Plan::Retry {
                until,
                blocked: why,
            } if seen.pending().is_some() && *until < latest => {
                let pause = until.duration_since(seen.now).max(seen.pace().raced_retry);
                say(&format!("{} ({})", why.message, terminal::short(pause)));
                tokio::time::sleep(pause.unsigned_abs()).await;
            }
            other => {
                let why = obstacle(other);
                return Err(ended(
                    &why.unwrap_or_else(|| format!("no answer to {MOST_CALLS} calls")),
                ));
            }
        }
        seen = hand
            .look(None)
            .await
            .map_err(|error| in_doubt(&error.to_string()))?;
    }
}

/// Why nothing is to be rotated, if so.
fn obstacle(plan: &Plan) -> Option<String> {
    Some(match plan {
        Plan::Rotate(_) => return None,
        Plan::Block(blocked)
        | Plan::Retry { blocked, .. }
        | Plan::Wait {
            doubt: Some(blocked),
            ..
        } => format!("{}: {}", blocked.reason, blocked.message),
        Plan::Wait { doubt: None, .. } => {
            "what is known by now does not tell; try again in a minute".into()
        }
        // What was asked for is a rotation, and no rule answers that with any of these.
        Plan::Idle { .. } | Plan::Look | Plan::Settle | Plan::Rewrite { .. } => {
            "another party has changed the Secret in the meantime; try again".into()
        }
    })
}

fn untouched(why: &str) -> anyhow::Error {
    anyhow!("nothing was rotated: {why}")
}

fn in_doubt(why: &str) -> anyhow::Error {
    anyhow!(
        "the token may have been rotated by a call that got no answer, and its previous value may be invalid: {why}. Rotate it again when that is fixed"
    )
}

/// What a further call is for.
fn further_call(cause: Cause) -> &'static str {
    match cause {
        Cause::Lost => {
            "Astro's record shows that the token was rotated: the new value was lost with the answer, and the previous one is no longer valid. Rotating once more, which loses nothing further"
        }
        _ => "Astro's record shows that nothing was rotated. Calling again",
    }
}
