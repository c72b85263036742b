//! `plan`: what the operator would do now with each resource and why, what comes next, and what it may not do.
//!
//! It asks the operator's own modules, on evidence that is read now, and writes nothing.

mod checks;
mod files;
mod look;
mod report;
mod shape;
mod times;
mod verdict;

use self::checks::Check;
use self::files::{Document, applied};
use self::look::{Looker, Sources};
use self::report::{Origin, Report};
use self::times::{Upcoming, upcoming};
use self::verdict::{Decided, Verdict, assumed, decide, verdict};
use super::{Cluster, terminal};
use crate::api::{Cause, WorkspaceTokenRotation};
use crate::astro::Astro;
use crate::config::{AstroArgs, ClusterArgs, DecisionArgs};
use crate::controller::{cluster_id, now};
use crate::evidence::{Live, Observed, Settings, Stored, rotation_id};
use crate::metrics::Metrics;
use crate::operator::{own_credential, settings, vendor};
use crate::plan::{Plan, rotation};
use crate::reason::Blocked;
use crate::rotate;
use crate::scrub::api_error;
use anyhow::bail;
use clap::ValueEnum;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// A resource is blocked, or a check says no.
const BAD: u8 = 3;
/// Calls to Astro a second, as the operator's by default.
const BUDGET: NonZeroU32 = NonZeroU32::new(25).expect("not zero");
/// Longest text of the API server's that is shown, characters.
const LONGEST: usize = 400;

/// Flags of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Names of resources; all of them when left out
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// YAML or JSON file with resources as they are to be applied, - for the standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Show the checks that went well too
    #[arg(short, long)]
    pub verbose: bool,

    /// In all namespaces
    #[arg(
        short = 'A',
        long,
        conflicts_with = "namespace",
        help_heading = "Cluster"
    )]
    pub all_namespaces: bool,

    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// How to reach Astro, and the operator's own credential.
    #[command(flatten)]
    pub astro: AstroArgs,

    /// The operator's settings.
    #[command(flatten)]
    pub decisions: DecisionArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs: a list with the same facts
    Json,
}

/// A resource to plan for.
struct Chosen {
    resource: WorkspaceTokenRotation,
    file: Option<String>,
    is_new: bool,
}

/// What there is to plan with.
#[derive(Default)]
struct Gathered {
    /// As they are chosen, in the order they are told in.
    chosen: Vec<Chosen>,
    /// All that are known, the chosen ones among them.
    all: Vec<WorkspaceTokenRotation>,
    /// What could not be found out about all of them.
    checks: Vec<Check>,
}

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
    let astro = vendor(&args.astro, (BUDGET, BUDGET), Metrics::new())?;
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

/// The documents of these names; of all where none is given.
fn named(args: &Args, mut documents: Vec<Document>) -> anyhow::Result<Vec<Document>> {
    if args.files.is_empty() || args.names.is_empty() {
        return Ok(documents);
    }
    for name in &args.names {
        if !documents.iter().any(|it| it.resource.name_any() == *name) {
            bail!("no file has a WorkspaceTokenRotation named {name}");
        }
    }
    documents.retain(|it| args.names.contains(&it.resource.name_any()));
    Ok(documents)
}

/// Why no cluster was asked.
enum Unreached {
    /// There is none, or it does not answer.
    Offline(anyhow::Error),
    /// It says no, or what was asked for is not there.
    Failed(anyhow::Error),
}

async fn reach(args: &Args, documents: &[Document]) -> Result<(Cluster, Gathered), Unreached> {
    let cluster = Cluster::connect(&args.cluster).await.map_err(|error| {
        match args.cluster.kubeconfig.is_some() || args.cluster.context.is_some() {
            true => Unreached::Failed(error),
            false => Unreached::Offline(error),
        }
    })?;
    let gathered = match args.files.is_empty() {
        true => of_cluster(args, &cluster).await?,
        false => of_files(args, &cluster, documents).await?,
    };
    Ok((cluster, gathered))
}

fn unreached(cluster: &Cluster, error: &kube::Error) -> Unreached {
    let said = cluster.error(error);
    match error {
        kube::Error::Api(_) => Unreached::Failed(said),
        _ => Unreached::Offline(said),
    }
}

/// Resources as a cluster lets one see them.
struct Listed {
    all: Vec<WorkspaceTokenRotation>,
    checks: Vec<Check>,
}

/// What a check of other namespaces is called.
const RIVALS: &str = "no older resource claims the same token or Secret";

/// All resources; where that is not allowed, those of some namespaces.
async fn list(cluster: &Cluster, namespaces: &BTreeSet<String>) -> kube::Result<Listed> {
    let params = ListParams::default();
    let everywhere: Api<WorkspaceTokenRotation> = Api::all(cluster.client.clone());
    let refused = match everywhere.list(&params).await {
        Ok(list) => {
            return Ok(Listed {
                all: list.items,
                checks: vec![Check::ok(RIVALS)],
            });
        }
        Err(kube::Error::Api(status)) if status.code == 403 => kube::Error::Api(status),
        Err(error) => return Err(error),
    };
    let mut all = Vec::new();
    for namespace in namespaces {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(cluster.client.clone(), namespace);
        all.extend(api.list(&params).await?.items);
    }
    let why = format!(
        "of other namespaces nothing is known: {}",
        api_error(&refused, LONGEST)
    );
    Ok(Listed {
        all,
        checks: vec![Check::not(RIVALS, why)],
    })
}

/// Each by its name, where they may not be listed.
async fn get(
    cluster: &Cluster,
    refused: &kube::Error,
    names: impl IntoIterator<Item = (String, String)>,
) -> kube::Result<Listed> {
    let mut all = Vec::new();
    for (namespace, name) in names {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(cluster.client.clone(), &namespace);
        all.extend(api.get_opt(&name).await?);
    }
    let why = format!(
        "of other resources nothing is known: {}",
        api_error(refused, LONGEST)
    );
    Ok(Listed {
        all,
        checks: vec![Check::not(RIVALS, why)],
    })
}

fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn of_cluster(args: &Args, cluster: &Cluster) -> Result<Gathered, Unreached> {
    let namespaces = match args.all_namespaces {
        true => BTreeSet::new(),
        false => [cluster.namespace.clone()].into(),
    };
    let listed = match list(cluster, &namespaces).await {
        Err(error) if is_refusal(&error) && !args.names.is_empty() => {
            let names = args
                .names
                .iter()
                .map(|name| (cluster.namespace.clone(), name.clone()));
            get(cluster, &error, names)
                .await
                .map_err(|error| unreached(cluster, &error))?
        }
        listed => listed.map_err(|error| unreached(cluster, &error))?,
    };
    if args.all_namespaces
        && listed
            .checks
            .iter()
            .any(|it| it.result != checks::Outcome::Ok)
    {
        let why = listed.checks.into_iter().filter_map(|it| it.message);
        let why: Vec<_> = why.collect();
        return Err(Unreached::Failed(anyhow::anyhow!("{}", why.join("; "))));
    }
    let is_asked_for = |resource: &&WorkspaceTokenRotation| {
        let here = args.all_namespaces || resource.namespace().as_ref() == Some(&cluster.namespace);
        here && (args.names.is_empty() || args.names.contains(&resource.name_any()))
    };
    let chosen: Vec<_> = listed.all.iter().filter(is_asked_for).cloned().collect();
    for name in &args.names {
        if !chosen.iter().any(|it| it.name_any() == *name) {
            let place = match args.all_namespaces {
                true => "any namespace".to_owned(),
                false => format!("the namespace {}", cluster.namespace),
            };
            return Err(Unreached::Failed(anyhow::anyhow!(
                "there is no WorkspaceTokenRotation {name} in {place}"
            )));
        }
    }
    let chosen = chosen.into_iter().map(|resource| Chosen {
        resource,
        file: None,
        is_new: false,
    });
    let mut chosen: Vec<_> = chosen.collect();
    chosen.sort_by_key(|it| (it.resource.namespace(), it.resource.name_any()));
    Ok(Gathered {
        chosen,
        all: listed.all,
        checks: listed.checks,
    })
}

async fn of_files(
    args: &Args,
    cluster: &Cluster,
    documents: &[Document],
) -> Result<Gathered, Unreached> {
    let documents = placed(args, documents, &cluster.namespace).map_err(Unreached::Failed)?;
    let place = |it: &Document| {
        (
            it.resource.namespace().unwrap_or_default(),
            it.resource.name_any(),
        )
    };
    let namespaces = documents.iter().map(|it| place(it).0).collect();
    let listed = match list(cluster, &namespaces).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Listed {
            all: Vec::new(),
            checks: vec![Check::no(
                "the cluster knows WorkspaceTokenRotations",
                "the CustomResourceDefinition is missing",
                "install it with: astro-token-operator crd | kubectl apply -f -",
            )],
        },
        Err(error) if is_refusal(&error) => {
            match get(cluster, &error, documents.iter().map(place)).await {
                Err(refused) if is_refusal(&refused) => {
                    let why = api_error(&refused, LONGEST);
                    let not = |name: &str| Check::not(name, &why);
                    Listed {
                        all: Vec::new(),
                        checks: vec![not("what the cluster has of it now"), not(RIVALS)],
                    }
                }
                listed => listed.map_err(|error| unreached(cluster, &error))?,
            }
        }
        listed => listed.map_err(|error| unreached(cluster, &error))?,
    };
    let present: BTreeMap<_, _> = listed
        .all
        .iter()
        .map(|it| ((it.namespace().unwrap_or_default(), it.name_any()), it))
        .collect();
    let chosen = chosen(documents, &present);
    let mut all: BTreeMap<_, _> = present
        .into_iter()
        .map(|(key, it)| (key, it.clone()))
        .collect();
    for it in &chosen {
        let key = (
            it.resource.namespace().unwrap_or_default(),
            it.resource.name_any(),
        );
        all.insert(key, it.resource.clone());
    }
    Ok(Gathered {
        chosen,
        all: all.into_values().collect(),
        checks: listed.checks,
    })
}

fn chosen(
    documents: Vec<Document>,
    present: &BTreeMap<(String, String), &WorkspaceTokenRotation>,
) -> Vec<Chosen> {
    let now = now();
    let chosen = documents.into_iter().enumerate().map(|(index, document)| {
        let key = (
            document.resource.namespace().unwrap_or_default(),
            document.resource.name_any(),
        );
        let present = present.get(&key).copied();
        Chosen {
            resource: applied(&document.resource, present, now, index),
            file: Some(document.place),
            is_new: present.is_none(),
        }
    });
    chosen.collect()
}

/// The documents, each in its namespace.
fn placed(args: &Args, documents: &[Document], default: &str) -> anyhow::Result<Vec<Document>> {
    let mut seen = BTreeMap::new();
    let mut placed = Vec::new();
    for Document { place, resource } in documents {
        let mut resource = resource.clone();
        let namespace = resource.namespace().unwrap_or_else(|| default.to_owned());
        if args
            .cluster
            .namespace
            .as_ref()
            .is_some_and(|asked| *asked != namespace)
        {
            bail!("{place}: metadata.namespace: it is {namespace}, and not the one of --namespace");
        }
        let key = (namespace.clone(), resource.name_any());
        if let Some(before) = seen.insert(key, place) {
            bail!("{place}: metadata.name: the same resource as in {before}");
        }
        resource.metadata.namespace = Some(namespace);
        placed.push(Document {
            place: place.clone(),
            resource,
        });
    }
    Ok(placed)
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
        if !permissions.contains_key(&namespace) {
            let access = args.decisions.secret_access;
            let checked = checks::in_namespace(client, &namespace, access).await?;
            permissions.insert(namespace, checked);
        }
    }
    let sources = Sources {
        client: client.clone(),
        astro,
        own_credential: own_credential(&args.astro, &args.decisions)?,
        organization: args.astro.organization_id.clone(),
        settings: settings(&args.astro, &args.decisions, id)?,
        knows_cluster,
    };
    let mut looker = Looker::new(sources, all);
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
        reports.insert(index, one(args, cluster, &mut looker, it, common).await?);
    }
    Ok(reports.into_values().collect())
}

async fn one(
    args: &Args,
    cluster: &Cluster,
    looker: &mut Looker,
    chosen: &Chosen,
    mut checks: Vec<Check>,
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
    checks.insert(0, checks::spec(seen, unworkable(&decided).as_ref()));
    let (rehearsal, refused) = rehearse(cluster, &decided).await;
    checks.push(rehearsal);
    checks.extend(checks::vendor(seen, "the spec is not acted on"));
    let role = match &grant {
        None => Err("there is no credential"),
        Some(grant) => looker.credential(grant).await,
    };
    let roles = role.map(|details| details.roles.as_slice());
    checks.push(checks::role(roles, &seen.resource.spec.workspace_id));
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
    let rotation = match (&decided.plan, &seen.live) {
        (Plan::Rotate(rotation), _) => (**rotation).clone(),
        (Plan::Block(_) | Plan::Retry { .. }, _) => {
            return (
                checks::no_rehearsal("the resource is blocked before that"),
                None,
            );
        }
        _ if matches!(seen.stored, Stored::Foreign(_)) => {
            return (checks::no_rehearsal("it is somebody else's"), None);
        }
        (_, Live::Token { token, .. }) => rotation(seen, token, Cause::Scheduled, 1),
        _ => {
            return (
                checks::no_rehearsal("it is not known which token it is for"),
                None,
            );
        }
    };
    let id = rotation_id(seen.now, uuid::Uuid::new_v4().as_u128());
    let draft = rotate::rehearsal(seen, &rotation, id);
    let (check, refused) = checks::rehearsal(&cluster.client, &draft).await;
    // A write that is not about to be done keeps nobody from anything yet.
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
    let settings = settings(&args.astro, &args.decisions, String::new())?;
    let mut decided = decide(begin(&chosen.resource, now(), settings));
    // They spoke without evidence.
    decided.rules.clear();
    checks.insert(0, checks::spec(&decided.seen, None));
    checks.push(checks::no_rehearsal("there is no evidence"));
    checks.extend(checks::vendor(&decided.seen, "there is no evidence"));
    checks.push(checks::role(Err("there is no evidence"), ""));
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
    let settings = settings(&args.astro, &args.decisions, String::new())?;
    let reports = chosen(documents, &BTreeMap::new()).into_iter().map(|it| {
        let decided = decide(begin(&it.resource, now(), settings.clone()));
        let verdict = assumed(&decided);
        let upcoming = upcoming(&decided.seen, &decided.plan);
        let not = |name: &str| Check::not(name, why);
        let mut checks = vec![
            checks::spec(&decided.seen, unworkable(&decided).as_ref()),
            not("what the cluster has of it now"),
            not(RIVALS),
            not("the operator's permissions"),
            checks::no_rehearsal(why),
        ];
        checks.extend(checks::vendor(&decided.seen, why));
        checks.push(checks::role(Err(why), ""));
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
