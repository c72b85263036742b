//! The commands for people: what they share is how they are called, how they reach a cluster and how they print.

pub mod explain;
pub mod plan;
mod plugin;
pub mod request;
pub mod rotate;
pub mod status;
pub mod terminal;

use self::plugin::Called;
use crate::api::WorkspaceTokenRotation;
use crate::args::{Cli, ClusterArgs};
use crate::operator::run::{call_client, cluster_config, explain as explain_error};
use crate::text::scrub;
use anyhow::{Context, anyhow};
use clap::FromArgMatches;
use clap_complete::Shell;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use std::ffi::OsString;
use std::io::{ErrorKind, Write};

/// Reads the command line; as a plugin of kubectl it speaks of itself as `kubectl wtr`. Ends the process on a wrong one,
/// and when it only had to complete words for kubectl.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Cli {
    let arguments: Vec<_> = arguments.collect();
    let called = Called::by(arguments.first());
    if called == Called::ToComplete {
        let words = arguments.into_iter().skip(1).collect();
        // Nobody reads what went wrong: the shell offers nothing then.
        let _ = terminal::print(&plugin::candidates(words));
        std::process::exit(0);
    }
    let matches = called.command().get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Prints the script for a shell.
///
/// # Errors
/// When it cannot be written.
pub fn complete(shell: Shell) -> anyhow::Result<()> {
    let called = Called::by(std::env::args_os().next().as_ref());
    let mut command = called.command();
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

/// Whether it failed because nobody reads its output any more, which is no failure. A connection that broke is one: it
/// is a cause of the error, and not the error itself.
pub fn is_unread(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
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

    /// The same of a watch.
    pub fn watch_error(&self, error: &watcher::Error) -> anyhow::Error {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        match error {
            InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
                self.error(error)
            }
            error => {
                let (server, error) = (&self.config.cluster_url, scrub(&error.to_string(), 400));
                anyhow!("the API server at {server}: {error}")
            }
        }
    }

    /// A resource; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the API server does not say so.
    pub async fn get(
        &self,
        api: &Api<WorkspaceTokenRotation>,
        name: &str,
    ) -> anyhow::Result<Option<WorkspaceTokenRotation>> {
        match api.get(name).await {
            Ok(resource) => Ok(Some(resource)),
            // By its reason: without the CustomResourceDefinition the code is the same.
            Err(kube::Error::Api(status)) if status.reason == "NotFound" => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    /// What is said of resources that are not there.
    pub fn missing(&self, names: &str) -> anyhow::Error {
        let namespace = &self.namespace;
        anyhow!("no WorkspaceTokenRotation {names} in namespace {namespace}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_that_nobody_reads_is_no_failure() {
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_unread(&broken().into()));
        let connection = kube::Error::Service(Box::new(broken()));
        assert!(!is_unread(&connection.into()));
        assert!(!is_unread(&std::io::Error::other("full").into()));
    }
}
