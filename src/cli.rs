//! The command line: what can be called, how it is read, and how a command that failed says so.

mod cluster;
pub mod explain;
mod help;
pub mod plan;
mod plugin;
pub mod request;
pub mod rotate;
pub mod status;
pub mod terminal;

use self::plugin::Called;
use crate::args::RunArgs;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};

/// Rotates Astro (Astronomer) Workspace API tokens on a schedule and keeps the live value in a Secret.
///
/// A WorkspaceTokenRotation resource names a token, a schedule and a Secret. The operator calls Astro's rotate
/// endpoint when a rotation is due, stores the new value, and reports in the resource's status what it did and what
/// comes next.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,

    /// What is logged, in the form of RUST_LOG; no level shows a token value
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "FILTER",
        global = true,
        help_heading = "Process"
    )]
    pub log_filter: Option<String>,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the controller, in a cluster or with the current kubeconfig
    #[command(after_help = help::RUN)]
    Run(Box<RunArgs>),
    /// Say what the operator would do now, why, and when next; change nothing
    #[command(after_help = help::PLAN)]
    Plan(Box<plan::Args>),
    /// Show which tokens are ready, how old their values are, and when they are rotated next
    #[command(after_help = help::STATUS)]
    Status(status::Args),
    /// Rotate tokens now, once
    #[command(after_help = help::TRIGGER)]
    Trigger(request::Args),
    /// Rotate tokens now because their values may have leaked
    #[command(long_about = help::ABOUT_REVOKE, after_help = help::REVOKE)]
    Revoke(request::RevokeArgs),
    /// Explain a reason of Ready=False: what it means, and what to do about it
    #[command(after_help = help::EXPLAIN)]
    Explain(explain::Args),
    /// Rotate one token by hand, and print its new value
    #[command(after_help = help::ROTATE)]
    Rotate(Box<rotate::Args>),
    /// Print the CustomResourceDefinition as YAML
    #[command(after_help = "Example:\n  astro-token-operator crd | kubectl apply -f -")]
    Crd,
    /// Print the script that completes commands in a shell
    #[command(after_help = help::COMPLETION)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Reads the command line; as a plugin of kubectl it speaks of itself as `kubectl wtr`. Ends the process on a wrong one,
/// and when it only had to complete words for kubectl.
pub fn parse(arguments: impl Iterator<Item = OsString>) -> Cli {
    let arguments: Vec<_> = arguments.collect();
    let called = Called::by(arguments.first());
    if called == Called::ToComplete {
        let words = arguments.into_iter().skip(1).collect();
        // An error would not be read: the shell then offers no candidates.
        let _ = terminal::print(&plugin::candidates(Cli::command(), words));
        std::process::exit(0);
    }
    let matches = called.dress(Cli::command()).get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Prints the script for a shell.
///
/// # Errors
/// When it cannot be written.
pub fn complete(shell: Shell) -> anyhow::Result<()> {
    let called = Called::by(std::env::args_os().next().as_ref());
    let mut command = called.dress(Cli::command());
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}

/// Whether it failed because nothing reads its output any more, which is not a failure. A connection that broke is one: it
/// is a cause of the error, and not the error itself.
pub fn is_unread(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn namespaces_are_names_and_nothing_stands_for_all_of_them() {
        let parse = |text: &str| Cli::try_parse_from(["x", "run", "--namespaces", text]);
        let Ok(cli) = parse("data, ml-2") else {
            panic!("refused")
        };
        let Command::Run(run) = cli.command else {
            panic!("not run")
        };
        assert_eq!(run.namespaces, ["data", "ml-2"]);
        for text in ["", "*", "data,", "Data", "a/b"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_output_that_nobody_reads_is_no_failure() {
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_unread(&broken().into()));
        let connection = kube::Error::Service(Box::new(broken()));
        assert!(!is_unread(&connection.into()));
        assert!(!is_unread(&std::io::Error::other("full").into()));
    }
}
