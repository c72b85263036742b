//! The commands for people: what they share is how they are called, how they reach a cluster and how they print.

pub mod explain;
pub mod rotate;
pub mod terminal;

use crate::config::{Cli, ClusterArgs};
use crate::operator::{call_client, cluster_config, explain as explain_error};
use anyhow::{Context, anyhow};
use clap::{CommandFactory, FromArgMatches};
use clap_complete::Shell;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

/// Name of the binary as a plugin, which kubectl finds on the PATH.
const PLUGIN: &str = "kubectl-wtr";

/// Reads the command line; as a plugin of kubectl it speaks of itself as `kubectl wtr`. Ends the process on a wrong one.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Cli {
    let arguments: Vec<_> = arguments.collect();
    let program = arguments.first().map(Path::new);
    let is_plugin = program
        .and_then(Path::file_stem)
        .is_some_and(|it| it == PLUGIN);
    let command = match is_plugin {
        true => Cli::command().name(PLUGIN).bin_name("kubectl wtr"),
        false => Cli::command(),
    };
    let matches = command.get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Prints the script for a shell.
///
/// # Errors
/// When it cannot be written.
pub fn complete(shell: Shell) -> anyhow::Result<()> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// The last word of a command that failed, as clap says its own.
pub fn print_error(error: &anyhow::Error) {
    let style = terminal::BAD;
    anstream::eprintln!("{style}error:{style:#} {error:#}");
}

/// The time, read for a command as for a pass of the operator: whole seconds.
#[expect(clippy::disallowed_methods, reason = "commands read the clock here")]
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// A cluster to ask.
pub struct Cluster {
    /// For single calls.
    pub client: Client,
    /// How it was reached.
    pub config: Config,
    /// The namespace that was asked for, else the context's.
    pub namespace: String,
}

impl Cluster {
    /// The cluster that the flags name.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(args: &ClusterArgs) -> anyhow::Result<Self> {
        let options = KubeConfigOptions {
            context: args.context.clone(),
            ..KubeConfigOptions::default()
        };
        let mut config = match (&args.kubeconfig, &args.context) {
            (None, None) => cluster_config().await?,
            (file, _) => {
                let kubeconfig = match file {
                    Some(file) => Kubeconfig::read_from(file),
                    None => Kubeconfig::read(),
                };
                let kubeconfig = kubeconfig.context("the kubeconfig cannot be used")?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
                config.context("the kubeconfig cannot be used")?
            }
        };
        config.proxy_url = None;
        config.auth_info.impersonate = args.as_user.clone().or(config.auth_info.impersonate);
        let namespace = args.namespace.clone();
        Ok(Self {
            client: call_client(config.clone())?,
            namespace: namespace.unwrap_or_else(|| config.default_namespace.clone()),
            config,
        })
    }

    /// What it said, with its address.
    pub fn error(&self, error: &kube::Error) -> anyhow::Error {
        let server = &self.config.cluster_url;
        anyhow!("the API server at {server}: {}", explain_error(error))
    }
}
