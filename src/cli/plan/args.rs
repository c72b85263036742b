//! Flags of `plan`.

use crate::args::{AstroArgs, ClusterArgs, DecisionArgs};
use clap::ValueEnum;
use std::path::PathBuf;

/// Flags of `plan`.
#[derive(clap::Args)]
pub struct Args {
    /// Names of resources; by default all of them
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// YAML or JSON file with resources to be applied, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Show the checks that passed, too
    #[arg(short, long)]
    pub verbose: bool,

    /// Plan for all namespaces
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
    /// For programs: a list with the same information
    Json,
}
