//! `rotate`: one token by hand, as the vendor's own command does it, on the operator's decisions.
//!
//! ```text
//! choose       which token is meant: its record
//! look         the record (and the Secret) as evidence, as if of a resource that nobody has applied
//! plan         the operator's own table: Rotate, or why not
//! ask          unless --force
//! attempt      rehearse, call, hand over
//!              after an answer that did not arrive: look and plan again, with the call as a pending rotation
//! ```

mod choose;
mod hand;
mod place;

pub use place::Place;

use super::Cluster;
use super::terminal::{self, BOLD, WARN};
use crate::api::Cause;
use crate::args::{AstroArgs, ClusterArgs, PaceArgs, id};
use crate::astro::credential::Credential;
use crate::astro::{Astro, Details};
use crate::clock::now;
use crate::decide::evidence::Observed;
use crate::decide::pace::Pace;
use crate::decide::plan::{Plan, plan};
use crate::decide::validate::is_id;
use crate::operator::run as operator;
use crate::process::metrics::Metrics;
use anyhow::{Context, anyhow, bail};
use clap::builder::NonEmptyStringValueParser;
use hand::{Hand, Handed};
use jiff::Timestamp;
use std::io::{IsTerminal, Write};
use std::num::NonZeroU32;
use tokio::signal::unix::{SignalKind, signal};

/// Calls for one rotation: each answer that is lost costs one more, and somewhere it has to end.
const MOST_CALLS: i32 = 3;

/// Flags of `rotate`; the names are those of `astro workspace token rotate`.
#[derive(clap::Args)]
pub struct Args {
    /// Id of the token; with neither this nor a name you pick one on the terminal
    #[arg(value_parser = id)]
    token_id: Option<String>,

    /// Name of the token, exactly
    #[arg(short = 't', long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Workspace that the token has to be in; else the credential's own
    #[arg(long, env = "ASTRO_WORKSPACE_ID", value_parser = id, help_heading = "Astro")]
    workspace_id: Option<String>,

    /// Do not ask
    #[arg(short, long, visible_short_alias = 'y', visible_alias = "yes")]
    force: bool,

    /// Print nothing but the value, and on stderr only what went wrong
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

/// The vendor, and as whom it is called.
struct Account {
    astro: Astro,
    credential: Credential,
    organization: String,
    workspace: String,
}

/// Rotates a token and hands its new value over.
///
/// # Errors
/// Whatever kept the value from being handed over, and whether the token was rotated all the same.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let pace = args.pace.pace(&args.astro);
    let account = Account::new(&args, pace)?;
    let secret = match &args.into_secret {
        Some(place) => Some((place, Cluster::connect(&args.cluster).await?)),
        None => None,
    };
    let chosen = choose::token(&account, args.token_id.as_deref(), args.name.as_deref()).await?;
    let mut hand = Hand::new(account, &chosen.token, pace)?;
    if let Some((place, cluster)) = secret {
        hand.aim(place, cluster, &chosen.token).await?;
    }
    // What stands in the way is said before anybody is asked.
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
            "given up: if the token was rotated, its new value is lost and the one before is dead; rotate it again"
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
            "Astro's record of the token is older than the Secret; try again in a minute".into()
        }
        // What was asked for is a rotation, and no rule answers that with any of these.
        Plan::Idle { .. } | Plan::Look | Plan::Settle | Plan::Rewrite { .. } => {
            "somebody else has changed the Secret meanwhile; try again".into()
        }
    })
}

fn untouched(why: &str) -> anyhow::Error {
    anyhow!("nothing was rotated: {why}")
}

fn in_doubt(why: &str) -> anyhow::Error {
    anyhow!(
        "the token may have been rotated by a call that got no answer, and its value of before be dead: {why}. Rotate it again when that is mended"
    )
}

/// What a further call is for.
fn further_call(cause: Cause) -> &'static str {
    match cause {
        Cause::Lost => {
            "Astro's record shows that the token was rotated: the new value was lost with the answer, and the one before is dead. Rotating once more, which loses nothing further"
        }
        _ => "Astro's record shows that nothing was rotated. Calling again",
    }
}

/// Shows what is about to die, and asks.
fn ask(chosen: &Details, place: Option<&Place>) -> anyhow::Result<()> {
    let now = now();
    let when = |time: Option<Timestamp>, never: &str| match time {
        Some(at) if at > now => format!("in {}, {at}", terminal::short(at.duration_since(now))),
        Some(at) => format!("{} ago, {at}", terminal::short(now.duration_since(at))),
        None => never.into(),
    };
    let token = &chosen.token;
    let mut facts = vec![
        (
            "token",
            format!("{} ({})", choose::shown(&token.name), token.id),
        ),
        (
            "last used",
            when(chosen.last_used, "never, as far as Astro has noticed"),
        ),
        (
            "rotated",
            when(token.version.rotated_at.as_ref().map(|at| at.0), "never"),
        ),
        ("expires", when(token.ends, "never")),
    ];
    facts.extend(place.map(|place| ("new value", format!("into Secret {place}"))));
    warn(
        "Rotating a token kills its present value at once, for all who use it, and cannot be undone.",
    );
    for (name, fact) in facts {
        say(&format!("  {name:<11} {fact}"));
    }
    match answer("Rotate it? (y/N)")?.as_deref() {
        Some("y" | "Y" | "yes" | "Yes" | "YES") => Ok(()),
        Some(_) => bail!("nothing was rotated: you did not answer y"),
        None => bail!(
            "nothing was rotated: there was no answer; give --force where nobody can be asked"
        ),
    }
}

/// One line of stdin, trimmed; `None` at its end.
fn answer(question: &str) -> anyhow::Result<Option<String>> {
    anstream::eprint!("{BOLD}{question}{BOLD:#} ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    let read = std::io::stdin()
        .read_line(&mut line)
        .context("stdin cannot be read")?;
    if read == 0 || !std::io::stdin().is_terminal() {
        // Nobody's return key has ended the line of the question.
        eprintln!();
    }
    Ok((read > 0).then(|| line.trim().to_owned()))
}

/// Whether there is somebody to pick.
fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A notice; stdout is for the value alone.
fn say(text: &str) {
    anstream::eprintln!("{}", terminal::wrapped_for_stderr(text));
}

fn warn(text: &str) {
    say(&format!("{WARN}{text}{WARN:#}"));
}

/// Returns when the process was told twice to end: the first time it explains why it goes on.
async fn given_up() {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let Ok(mut signals) = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>() else {
        return std::future::pending().await;
    };
    for times in 1..=2 {
        let next = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(next).await;
        if times == 1 {
            warn(
                "a rotation is in flight, and ending now may lose its value: waiting for its end; once more gives it up",
            );
        }
    }
}

impl Account {
    fn new(args: &Args, pace: Pace) -> anyhow::Result<Self> {
        let credential = match operator::credential_source(&args.astro)? {
            Some(source) => source
                .read()
                .map_err(|problem| anyhow!("the credential {problem}"))?,
            None => bail!(
                "no credential: set ASTRO_API_TOKEN to the API token of a Workspace Owner, or name a file that holds it with --api-token-file"
            ),
        };
        let of_claim = |claim: Option<&str>| claim.filter(|it| is_id(it)).map(str::to_owned);
        let organization = args.astro.organization_id.clone();
        let organization = organization.or_else(|| of_claim(credential.organization_id()));
        let workspace = args.workspace_id.clone();
        let workspace = workspace.or_else(|| of_claim(credential.workspace_id()));
        // One person, one token: any limit will do.
        let budgets = (NonZeroU32::MAX, NonZeroU32::MAX);
        Ok(Self {
            astro: operator::vendor(&args.astro, budgets, pace, Metrics::new())?,
            organization: organization.context(
                "no Organization: the credential names none; give --organization-id, or check that it is an API token of Astro's",
            )?,
            workspace: workspace.context(
                "no Workspace: the credential is not for a single one; give --workspace-id",
            )?,
            credential,
        })
    }

    async fn details(&self, id: &str) -> anyhow::Result<Details> {
        let details = self.astro.details(&self.credential, &self.organization, id);
        details.await.map_err(|error| self.error(&error))
    }

    async fn list(&self) -> anyhow::Result<Vec<Details>> {
        let (credential, organization) = (&self.credential, &self.organization);
        let list = self
            .astro
            .list_details(credential, organization, &self.workspace);
        list.await.map_err(|error| self.error(&error))
    }

    /// What the vendor answered, and what to do about it here.
    fn error(&self, error: &crate::astro::Error) -> anyhow::Error {
        use crate::astro::Error::{Status, Unreachable};
        let remedy = match error {
            Status { status: 401, .. } => match self.credential.expires() {
                Some(at) if at <= now() => {
                    format!("the credential expired at {at}; create a new one")
                }
                _ => {
                    "the credential is no valid API token: it may have been rotated, deleted or cut"
                        .into()
                }
            },
            Status { status: 403, .. } => {
                "the credential needs the role Workspace Owner in the token's Workspace".into()
            }
            Status { status: 404, .. } => format!(
                "check the token's id, --workspace-id ({}) and --organization-id ({})",
                self.workspace, self.organization
            ),
            Status {
                status: 300..=399, ..
            }
            | Unreachable(_) => "check the network and --api-url".into(),
            _ => "try again".into(),
        };
        anyhow!("{error}; {remedy}")
    }
}
