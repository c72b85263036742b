//! `status`: which tokens are well, how old their values are, and when they are rotated next.

mod changes;
mod row;

use self::changes::{Known, Update};
use self::row::{Row, header};
use super::cluster::Cluster;
use super::terminal::print_error;
use super::terminal::{self, Columns};
use crate::api::WorkspaceTokenRotation;
use crate::args::ClusterArgs;
use crate::clock::now;
use crate::cluster::decode::Item;
use crate::operator::run::stop_signal;
use anyhow::anyhow;
use clap::ValueEnum;
use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use std::os::fd::AsFd;
use std::pin::pin;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

/// Flags of `status`.
#[derive(clap::Args)]
pub struct Args {
    /// Names of resources; by default all in the namespace
    #[arg(value_name = "NAME", conflicts_with = "all_namespaces")]
    pub names: Vec<String>,

    /// Show all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Keep running, and print a line for each resource that changes
    #[arg(short, long)]
    pub watch: bool,

    /// A table for people, or JSON for programs: an array, or with --watch one object per line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,

    /// Where the resources are.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// How it is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, as wide as the terminal.
    #[default]
    Table,
    /// Flat objects, times in UTC.
    Json,
}

/// Prints what there is, and with `--watch` each change, until a signal or until nothing reads the output any more.
///
/// # Errors
/// When the cluster cannot be asked, or a resource that was named is missing.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let cluster = Cluster::connect(&args.cluster).await?;
    match args.watch {
        true => follow(args, &cluster).await,
        false => {
            let rows = look(args, &cluster).await?;
            print_all(args, &rows)?;
            say_what_is_missing(args, &cluster, &rows)
        }
    }
}

async fn look(args: &Args, cluster: &Cluster) -> anyhow::Result<Vec<Row>> {
    let api = resources(args, cluster, cluster.client.clone());
    let error = |error| cluster.error(&error);
    if args.names.is_empty() {
        let list = api.list(&ListParams::default()).await.map_err(error)?;
        return Ok(list.iter().map(Row::of).collect());
    }
    // One by one: who may get them need not be allowed to list.
    let mut rows = Vec::new();
    for name in &args.names {
        let found = cluster.get(&api, name).await?;
        rows.extend(found.as_ref().map(Row::of));
    }
    Ok(rows)
}

fn print_all(args: &Args, rows: &[Row]) -> anyhow::Result<()> {
    let text = match args.output {
        Output::Json => serde_json::to_string_pretty(rows)? + "\n",
        Output::Table if rows.is_empty() => String::new(),
        Output::Table => {
            let explained = |row: &Row| row.explanation(args.all_namespaces);
            let explained = rows.iter().filter_map(explained);
            let explained = explained.map(|text| format!("\n{text}"));
            let (_, table) = table(args, rows);
            std::iter::once(table).chain(explained).collect()
        }
    };
    terminal::print(&text)
}

/// All rows under the header, and the columns for rows that follow.
fn table(args: &Args, rows: &[Row]) -> (Columns, String) {
    let now = now();
    let rows = rows.iter().map(|row| row.cells(args.all_namespaces, now));
    let (header, rows) = (header(args.all_namespaces), rows.collect::<Vec<_>>());
    let columns = Columns::fit(&header, &rows, terminal::width());
    let text = columns.render(std::iter::once(header).chain(rows));
    (columns, text)
}

/// Finding nothing is a failure only where something was named.
fn say_what_is_missing(args: &Args, cluster: &Cluster, rows: &[Row]) -> anyhow::Result<()> {
    let found = |name: &&String| !rows.iter().any(|row| row.name == **name);
    let missing: Vec<_> = args.names.iter().filter(found).cloned().collect();
    if !missing.is_empty() {
        return Err(cluster.missing(&missing.join(", ")));
    }
    if rows.is_empty() {
        let (place, advice) = match args.all_namespaces {
            true => (
                "any namespace".to_owned(),
                "kubectl explain wtr.spec tells what to write into one",
            ),
            false => (
                format!("namespace {}", cluster.namespace),
                "-A looks in all namespaces",
            ),
        };
        anstream::eprintln!("There is no WorkspaceTokenRotation in {place}; {advice}.");
    }
    Ok(())
}

async fn follow(args: &Args, cluster: &Cluster) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let mut gone = pin!(reader_gone());
    let api = resources(args, cluster, cluster.watch_client.clone());
    let selection = match args.names.as_slice() {
        // Enough for who may see nothing but this one.
        [name] => watcher::Config::default().fields(&format!("metadata.name={name}")),
        _ => watcher::Config::default(),
    };
    let mut events = pin!(watcher(api, selection).default_backoff());
    let mut known = Known::new(&args.names, args.output == Output::Json);
    let mut columns = None;
    let mut is_said = false;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return Ok(()),
            () = &mut gone => return Ok(()),
        };
        match event {
            Some(Ok(event)) => {
                is_said = false;
                for change in known.take(&event) {
                    if let Update::All(rows) = &change {
                        say_what_is_missing(args, cluster, rows)?;
                    }
                    print_change(args, &mut columns, change)?;
                }
            }
            Some(Err(error)) if !known.begun() => return Err(cluster.watch_error(&error)),
            Some(Err(error)) => {
                if is_cut_off(&error) && !is_said {
                    is_said = true;
                    let error = cluster.watch_error(&error);
                    print_error(&error.context("nothing can be seen for now; trying again"));
                }
            }
            None => return Err(anyhow!("the watch has ended")),
        }
    }
}

fn print_change(args: &Args, columns: &mut Option<Columns>, change: Update) -> anyhow::Result<()> {
    let rows = match change {
        Update::All(rows) => rows,
        Update::One(row) => vec![row],
    };
    if args.output == Output::Json {
        for row in &rows {
            terminal::print(&(serde_json::to_string(row)? + "\n"))?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        return Ok(());
    }
    match columns {
        Some(columns) => {
            let now = now();
            let rows = rows.iter().map(|row| row.cells(args.all_namespaces, now));
            terminal::print(&columns.render(rows))
        }
        None => {
            let (fitted, text) = table(args, &rows);
            *columns = Some(fitted);
            terminal::print(&text)
        }
    }
}

fn resources(args: &Args, cluster: &Cluster, client: Client) -> Api<Item<WorkspaceTokenRotation>> {
    match args.all_namespaces {
        true => Api::all(client),
        false => Api::namespaced(client, &cluster.namespace),
    }
}

/// The watch cannot be resumed; otherwise it only ended as watches do after a while.
fn is_cut_off(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    matches!(error, InitialListFailed(_) | WatchStartFailed(_))
}

/// Ends when nothing reads stdout any more; never where that cannot be known, as with a file.
async fn reader_gone() {
    let watched = || {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
        // Unchecked: the check makes the pipe one that does not block, also for those that share it. Nothing is
        // written this way.
        Sender::from_file_unchecked(stdout.into())
    };
    match watched() {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}
