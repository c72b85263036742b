//! `plan`: what the operator would do now with each resource and why, what comes next, and what it may not do.
//!
//! It asks the operator's own modules, on evidence that is read now, and writes nothing.

mod args;
mod checks;
mod facts;
mod files;
mod gather;
mod look;
mod report;
mod verdict;

pub use self::args::Args;

use self::args::Output;
use self::checks::{Check, LONGEST, PRESENT};
use self::files::Document;
use self::gather::{Chosen, Gathered, Unreached, chosen, named, placed, reach};
use self::look::Looker;
use self::report::{Origin, Report};
use self::verdict::{Decided, Verdict, assumed, decide, verdict};
use super::cluster::Cluster;
use super::terminal;
use crate::api::{Cause, WorkspaceTokenRotation};
use crate::astro::client::Astro;
use crate::clock::now;
use crate::cluster::client::cluster_id;
use crate::cluster::store::Store;
use crate::decide::entity::Entity;
use crate::decide::evidence::{Access, Live, Observed, Settings, Stored};
use crate::decide::identity::Identity;
use crate::decide::plan::Plan;
use crate::decide::plan::rules::rotation;
use crate::decide::stamp::rotation_id;
use crate::decide::turn::subject;
use crate::decide::upcoming::{Upcoming, upcoming};
use crate::operator::grant::Grants;
use crate::operator::handles::Handles;
use crate::operator::rotate;
use crate::operator::run::{own_credential, settings, vendor};
use crate::process::host;
use crate::process::metrics::Metrics;
use crate::reason::Blocked;
use crate::text::api_error;
use anyhow::bail;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::sync::Arc;
use uuid::Uuid;

/// A resource is blocked, or a check says no.
const BAD: u8 = 3;
/// Calls to Astro a second, as the operator's by default.
const BUDGET: NonZeroU32 = NonZeroU32::new(25).expect("not zero");
/// Why Astro is not asked about a resource that starts nothing.
const UNASKED: &str = "nothing is begun for it";

/// Prints the plan for each resource; the exit code says whether a person has to act.
///
/// # Errors
/// When there is nothing to plan with.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let documents = files::read(&args.files)?;
    for skipped in &documents.skipped {
        anstream::eprintln!("{skipped}");
    }
    let documents = named(&args, documents.resources)?;
    let pace = args.decisions.pace(&args.astro);
    let astro = vendor(&args.astro, (BUDGET, BUDGET), pace, Metrics::new())?;
    let reached = match reach(&args, &documents).await {
        Ok(reached) => Ok(reached),
        // A file can be judged without a cluster; a cluster that was named is to be asked.
        Err(Unreached::Offline(why)) if !args.files.is_empty() => Err(why),
        Err(Unreached::Offline(error) | Unreached::Failed(error)) => return Err(error),
    };
    let reports = match reached {
        Ok((cluster, gathered)) => online(&args, astro, &cluster, gathered).await?,
        Err(why) => offline(&args, documents, &format!("{why:#}"))?,
    };
    if reports.is_empty() {
        anstream::eprintln!("no resources found");
    }
    match args.output {
        Output::Json => terminal::print(&(serde_json::to_string_pretty(&reports)? + "\n"))?,
        Output::Text => {
            let texts = reports.iter().map(|it| it.text(args.verbose));
            terminal::print(&texts.collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(match reports.iter().any(Report::is_bad) {
        true => ExitCode::from(BAD),
        false => ExitCode::SUCCESS,
    })
}

/// Plans on what cluster and vendor say now.
async fn online(
    args: &Args,
    astro: Astro,
    cluster: &Cluster,
    gathered: Gathered,
) -> anyhow::Result<Vec<Report>> {
    let Gathered {
        chosen,
        all,
        unseen,
        checks: mut common,
    } = gathered;
    let client = &cluster.client;
    common.push(checks::of_cluster(client).await);
    let (id, knows_cluster) = match cluster_id(client).await {
        Ok(id) => (id, true),
        Err(error @ kube::Error::Api(_)) => {
            let why = format!(
                "the uid of kube-system cannot be read: {}",
                api_error(&error, LONGEST)
            );
            common.push(Check::not("the Secret was written in this cluster", why));
            (String::new(), false)
        }
        Err(error) => return Err(cluster.error(&error)),
    };
    let mut permissions = BTreeMap::new();
    for namespace in chosen.iter().filter_map(|it| it.resource.namespace()) {
        if let Entry::Vacant(place) = permissions.entry(namespace) {
            let access = args.decisions.secret_access;
            let checked = checks::in_namespace(client, place.key(), access).await;
            place.insert(checked);
        }
    }
    let handles = Handles {
        grants: Grants::new(
            client.clone(),
            own_credential(&args.astro, &args.decisions)?,
            args.astro.organization_id.clone(),
            &args.decisions.pace(&args.astro),
        ),
        client: client.clone(),
        astro,
        settings: Arc::new(settings(&args.astro, &args.decisions, id)),
        identity: Identity::new(None, host::name(), Uuid::new_v4()),
        metrics: Metrics::new(),
        secrets: Store::default(),
    };
    let mut looker = Looker::new(handles, knows_cluster, all);
    // The oldest first: whether it can work decides whether a younger one waits.
    let mut order: Vec<_> = (0..chosen.len()).collect();
    order.sort_by_key(|index| {
        let resource = &chosen[*index].resource;
        (resource.creation_timestamp().map(|it| it.0), resource.uid())
    });
    let mut reports = BTreeMap::new();
    for index in order {
        let it = &chosen[index];
        let namespace = it.resource.namespace().unwrap_or_default();
        let permissions = permissions.get(&namespace).cloned().unwrap_or_default();
        let common = [common.clone(), permissions].concat();
        let report = one(args, cluster, &mut looker, it, common, unseen.as_deref());
        reports.insert(index, report.await?);
    }
    Ok(reports.into_values().collect())
}

async fn one(
    args: &Args,
    cluster: &Cluster,
    looker: &mut Looker,
    chosen: &Chosen,
    mut checks: Vec<Check>,
    unseen: Option<&str>,
) -> anyhow::Result<Report> {
    let look = match looker.look(&chosen.resource).await {
        Ok(look) => look,
        Err(error) => {
            let Some(why) = look::refusal(&error) else {
                bail!("{error}");
            };
            return blind(args, chosen, checks, why);
        }
    };
    let (mut seen, grant) = (look.seen, look.grant);
    looker.look_at_rivals(&mut seen).await;
    let decided = decide(seen);
    let seen = &decided.seen;
    checks.insert(0, checks::spec(unworkable(&decided).as_ref()));
    checks.push(checks::rivals(Some(seen), unseen));
    let (rehearsal, refused) = rehearse(cluster, &decided).await;
    checks.push(rehearsal);
    checks.extend(checks::vendor(seen, UNASKED));
    let role = match (&grant, &seen.access) {
        (Some(grant), _) => looker.credential(grant).await,
        (None, Access::Unknown) => Err(UNASKED),
        (None, _) => Err("there is no credential"),
    };
    let roles = role.map(|details| details.roles.as_slice());
    checks.push(checks::role(roles, &Entity::of(&seen.resource.spec)));
    let verdict = verdict(&decided, refused.as_ref());
    let upcoming = match &verdict {
        Verdict::Blocked(_) => Upcoming::default(),
        _ => upcoming(seen, &decided.plan),
    };
    let secret_read = grant.is_some();
    let origin = Origin {
        file: chosen.file.clone(),
        secret_read,
        notes: notes(chosen, seen, &upcoming),
    };
    Ok(Report::new(&decided, &verdict, &upcoming, checks, origin))
}

/// Why the spec is not acted on, if it is not.
fn unworkable(decided: &Decided) -> Option<Blocked> {
    let rule = decided
        .rules
        .first()
        .filter(|rule| rule.name == "invalid-spec");
    match (rule, &decided.plan) {
        (Some(_), Plan::Block(blocked)) => Some(blocked.clone()),
        _ => None,
    }
}

/// Tries the write of the next value, where the operator would come as far as that.
async fn rehearse(cluster: &Cluster, decided: &Decided) -> (Check, Option<Blocked>) {
    let seen = &decided.seen;
    let next = subject(seen).unwrap_or(&seen.records.token);
    let rotation = match (&decided.plan, next) {
        (Plan::Rotate(rotation), _) => (**rotation).clone(),
        (Plan::Block(_) | Plan::Retry { .. }, _) => {
            return (
                checks::no_rehearsal("the resource is blocked before that"),
                None,
            );
        }
        _ if matches!(seen.stored, Stored::Foreign(_)) => {
            return (checks::no_rehearsal("it belongs to another party"), None);
        }
        (_, Live::Token { token, .. }) => rotation(seen, token, Cause::Scheduled, 1),
        _ => {
            return (
                checks::no_rehearsal("it is not known which token it is for"),
                None,
            );
        }
    };
    let id = rotation_id(seen.now, Uuid::new_v4().as_u128());
    let draft = rotate::rehearsal(seen, &rotation, id);
    let (check, refused) = checks::rehearsal(&cluster.client, &draft).await;
    // A write that is not about to be done does not block anything yet.
    let is_next = matches!(decided.plan, Plan::Rotate(_) | Plan::Rewrite { .. });
    (check, refused.filter(|_| is_next))
}

/// A resource of which the API server gives no evidence.
fn blind(
    args: &Args,
    chosen: &Chosen,
    mut checks: Vec<Check>,
    why: String,
) -> anyhow::Result<Report> {
    let settings = settings(&args.astro, &args.decisions, String::new());
    let mut decided = decide(begin(&chosen.resource, now(), settings));
    // They spoke without evidence.
    decided.rules.clear();
    checks.insert(0, checks::spec(None));
    checks.push(checks::rivals(None, Some("there is no evidence")));
    checks.push(checks::no_rehearsal("there is no evidence"));
    checks.extend(checks::vendor(&decided.seen, "there is no evidence"));
    checks.push(checks::role(
        Err("there is no evidence"),
        &Entity::of(&chosen.resource.spec),
    ));
    let origin = Origin {
        file: chosen.file.clone(),
        secret_read: false,
        notes: Vec::new(),
    };
    let verdict = Verdict::Unknown(why);
    let none = Upcoming::default();
    Ok(Report::new(&decided, &verdict, &none, checks, origin))
}

/// Plans on specs alone.
fn offline(args: &Args, documents: Vec<Document>, why: &str) -> anyhow::Result<Vec<Report>> {
    let default = args.cluster.namespace.as_deref().unwrap_or("default");
    let documents = placed(args, &documents, default)?;
    let settings = settings(&args.astro, &args.decisions, String::new());
    let reports = chosen(documents, &BTreeMap::new()).into_iter().map(|it| {
        let decided = decide(begin(&it.resource, now(), settings.clone()));
        let verdict = assumed(&decided);
        let upcoming = upcoming(&decided.seen, &decided.plan);
        let not = |name: &str| Check::not(name, why);
        let mut checks = vec![
            checks::spec(unworkable(&decided).as_ref()),
            not(PRESENT),
            checks::rivals(None, Some(why)),
            not("the operator's permissions"),
            checks::no_rehearsal(why),
        ];
        checks.extend(checks::vendor(&decided.seen, why));
        checks.push(checks::role(Err(why), &Entity::of(&decided.seen.resource.spec)));
        let mut notes = vec![
            "No cluster was asked: this assumes that neither the resource nor its Secret is there, and that nothing else stands in the way.".to_owned(),
        ];
        notes.extend(notes_on_times(&it, &decided.seen, &upcoming));
        let origin = Origin {
            file: it.file.clone(),
            secret_read: false,
            notes,
        };
        Report::new(&decided, &verdict, &upcoming, checks, origin)
    });
    Ok(reports.collect())
}

fn begin(resource: &WorkspaceTokenRotation, now: Timestamp, settings: Settings) -> Observed {
    Observed::begin(resource, now, &Arc::new(settings))
}

fn notes(chosen: &Chosen, seen: &Observed, upcoming: &Upcoming) -> Vec<String> {
    let new = "It is not in the cluster yet: this is what would happen once it is applied.";
    let new = chosen.is_new.then(|| new.to_owned());
    new.into_iter()
        .chain(notes_on_times(chosen, seen, upcoming))
        .collect()
}

fn notes_on_times(chosen: &Chosen, seen: &Observed, upcoming: &Upcoming) -> Option<String> {
    let jittered = seen.schedule.as_ref().is_ok_and(|it| it.is_jittered());
    let matters = chosen.is_new && jittered && upcoming.times.len() > 1;
    matters
        .then(|| "The exact delay of schedule.jitter is fixed when the resource is created.".into())
}
