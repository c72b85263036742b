//! The command line: every flag is also an environment variable, and `--help` teaches.

use crate::cli::{explain, plan, request, rotate, status};
use crate::decide::schedule::parse_duration;
use crate::decide::validate::is_id;
use crate::process::telemetry::Format;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::SignedDuration;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// Rotates Astro (Astronomer) Workspace API tokens on schedule and keeps the live value in a Secret.
///
/// A WorkspaceTokenRotation resource names a token, a schedule and a Secret. The operator calls Astro's rotate
/// endpoint when rotation is due, stores the new value, and says in the resource's status what it did and what comes next.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// What is logged, as in RUST_LOG; no level shows a token value
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
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Say what the operator would do now, why, and when next; change nothing
    #[command(after_help = PLAN_EXAMPLES)]
    Plan(Box<plan::Args>),
    /// Show which tokens are well, how old their values are and when they are rotated next
    #[command(after_help = STATUS_EXAMPLES)]
    Status(status::Args),
    /// Rotate tokens now, once
    #[command(after_help = TRIGGER_EXAMPLES)]
    Trigger(request::Args),
    /// Rotate tokens now because their values may have leaked
    #[command(long_about = REVOKE, after_help = REVOKE_EXAMPLES)]
    Revoke(request::Args),
    /// Explain a reason of Ready=False: what it means, what the operator does, what you do
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(explain::Args),
    /// Rotate one token by hand, and print its new value
    #[command(after_help = ROTATE_EXAMPLES)]
    Rotate(Box<rotate::Args>),
    /// Print the CustomResourceDefinition as YAML
    #[command(after_help = "Example:\n  astro-token-operator crd | kubectl apply -f -")]
    Crd,
    /// Print the script that completes the command line in a shell
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// The shell
        shell: Shell,
    },
}

const RUN_EXAMPLES: &str = "Examples:
  Every resource brings its own credential (spec.credentials):
    astro-token-operator run
  Resources in the namespace data may use the operator's own credential:
    astro-token-operator run --api-token-file /etc/astro/token --default-credentials-namespaces data
  Work in two namespaces only, with a Role in each, and without a list of Secrets:
    astro-token-operator run --namespaces data,ml --secret-access get
  Try it on a laptop against the current kubeconfig, with more to read:
    astro-token-operator run --leader-election=false --log-filter info,astro_token_operator=debug

HTTPS_PROXY, HTTP_PROXY and NO_PROXY are honoured for calls to Astro.";

const ROTATE_EXAMPLES: &str = "Examples, with a Workspace Owner's API token in the variable ASTRO_API_TOKEN:
  On a terminal: shows what is about to die, and asks first:
    astro-token-operator rotate --name 'My token'
  In a script: the value and nothing else, and no question:
    value=$(astro-token-operator rotate --name 'My token' --force --clean-output)
  Into a Secret, which a WorkspaceTokenRotation can take over later without a rotation:
    astro-token-operator rotate clm8q7f6q000008lcgyougpsk --into-secret data/ci-deployer-token

The value goes to stdout, all else to stderr. The exit code is 0 only if the value was handed over. The credential is \
never written to disk. An operator that owns the token notices a rotation by hand, and rotates once more; see trigger.";

const STATUS_EXAMPLES: &str = "Examples:
  The namespace of the current context:
    astro-token-operator status
  All namespaces, and then each change until Ctrl-C:
    astro-token-operator status -A --watch
  What is not ready, for a program:
    astro-token-operator status -A -o json | jq '.[] | select(.ready | not)'

AGE is how old the value in the Secret is: since the time that Astro gave it, else since its rotation by the operator's \
clock. NEXT is when it is rotated next. Why one is not ready stands below the table.";

const TRIGGER_EXAMPLES: &str = "Examples:
  Ask, and go on:
    astro-token-operator trigger ci-deployer
  Ask for two, and wait until their Secrets hold live values again:
    astro-token-operator trigger ci-deployer etl --wait=5m

It writes the annotation astro-token-operator.io/rotate, and the operator does the rest.";

const REVOKE: &str = "Rotate tokens now because their values may have leaked

Today this does what `trigger` does: Astro's rotation kills the value that is in the Secret at once, and there is no \
second one; the request is kept apart from `trigger` for resources that take turns with two tokens, which do not exist yet.";

const REVOKE_EXAMPLES: &str = "Example:
  Kill the value that is in the Secret, and wait until another one has taken its place:
    astro-token-operator revoke ci-deployer --wait

It writes the annotation astro-token-operator.io/revoke, and the operator does the rest.";

const EXPLAIN_EXAMPLES: &str = "Examples:
  All reasons, one line each:
    astro-token-operator explain
  One of them, as it stands in `kubectl get wtr`:
    astro-token-operator explain TokenAmbiguous";

const PLAN_EXAMPLES: &str = "Examples:
  All resources of the context's namespace:
    astro-token-operator plan
  A file before it is applied, without a cluster too:
    astro-token-operator plan -f rotation.yaml
  With the operator's permissions instead of your own:
    astro-token-operator plan --as system:serviceaccount:astro-token-operator:astro-token-operator

Permissions are checked of whoever asks, which is you without --as. Evidence is read now, from the API server and from \
Astro; nothing is written: no status, no event, and to the Secret no more than a dry run.

Exit codes:
  0  every resource can be worked on: it is idle, would be rotated, or waits in the normal course
  1  the command failed: no such resource, a file that cannot be read, no answer from the cluster
  2  the command line is wrong
  3  a resource is blocked, or a check says no";

const COMPLETION_EXAMPLES: &str = "Examples:
  bash:  source <(astro-token-operator completion bash)
  zsh:   source <(astro-token-operator completion zsh)
  fish:  astro-token-operator completion fish | source
Put the line into the shell's start-up file to have it in every new shell.";

/// How to reach Astro, and as whom.
#[derive(Args)]
pub struct AstroArgs {
    /// Base URL of the Astro API, with /v1
    #[arg(long, env = "ASTRO_API_URL", default_value = "https://api.astronomer.io/v1", value_parser = api_url, help_heading = "Astro")]
    pub api_url: reqwest::Url,

    /// Organization where nothing else names one; else the credential's own
    #[arg(long, env = "ASTRO_ORGANIZATION_ID", value_parser = non_empty, help_heading = "Astro")]
    pub organization_id: Option<String>,

    /// The API token to call Astro with.
    ///
    /// Only as an environment variable: a command line can be read by others.
    #[arg(skip = std::env::var("ASTRO_API_TOKEN").ok().filter(|value| !value.is_empty()))]
    pub api_token: Option<String>,

    /// File with the API token to call Astro with, read anew for each use; instead of the variable ASTRO_API_TOKEN
    #[arg(
        long,
        env = "ASTRO_API_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Astro"
    )]
    pub api_token_file: Option<PathBuf>,

    /// PEM file with further certificate authorities for Astro or a proxy
    #[arg(
        long,
        env = "ASTRO_CA_BUNDLE",
        value_name = "FILE",
        help_heading = "Astro"
    )]
    pub ca_bundle: Option<PathBuf>,

    /// Longest time for one call to Astro
    #[arg(long, env = "ASTRO_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "DURATION", help_heading = "Astro")]
    pub vendor_timeout: Duration,

    /// Longest time to connect to Astro; shorter than --vendor-timeout
    #[arg(long, env = "ASTRO_CONNECT_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "DURATION", help_heading = "Astro")]
    pub vendor_connect_timeout: Duration,
}

/// Which cluster, as whom, and where in it; the names are kubectl's.
#[derive(Args)]
pub struct ClusterArgs {
    /// Namespace; else the one of the kubeconfig's context
    #[arg(short, long, value_parser = one_namespace, help_heading = "Cluster")]
    pub namespace: Option<String>,

    /// Context of the kubeconfig; else its current one
    #[arg(long, help_heading = "Cluster")]
    pub context: Option<String>,

    /// Kubeconfig; else $KUBECONFIG, else ~/.kube/config
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,

    /// Act as another user or ServiceAccount (system:serviceaccount:NAMESPACE:NAME)
    #[arg(long = "as", value_name = "USER", help_heading = "Cluster")]
    pub as_user: Option<String>,
}

/// What the operator's decisions depend on, and with them what `plan` says.
#[derive(Args)]
pub struct DecisionArgs {
    /// What the operator may do to find its Secrets
    #[arg(
        long,
        env = "SECRET_ACCESS",
        value_enum,
        default_value_t,
        help_heading = "Access"
    )]
    pub secret_access: SecretAccess,

    /// Namespaces whose resources may use the operator's own credential, separated by commas; * for all
    #[arg(
        long,
        env = "DEFAULT_CREDENTIALS_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACES",
        help_heading = "Astro"
    )]
    pub default_credentials_namespaces: Vec<String>,

    /// How often Astro's record of each Workspace's tokens is read, to notice what others did
    #[arg(long, env = "AUDIT_INTERVAL", default_value = "10m", value_parser = signed, value_name = "DURATION", help_heading = "Rotation")]
    pub audit_interval: SignedDuration,

    /// Shortest interval a schedule may ask for; lower it for demos and tests only
    #[arg(long, env = "MINIMUM_INTERVAL", default_value = "5m", value_parser = signed, value_name = "DURATION", help_heading = "Rotation")]
    pub minimum_interval: SignedDuration,

    /// Longest time from Astro's answer to the value in the Secret that others wait for
    #[arg(long, env = "WRITE_BUDGET", default_value = "20s", value_parser = duration, value_name = "DURATION", hide = true)]
    pub write_budget: Duration,

    /// How long a call may still take effect after its caller has died
    #[arg(long, env = "LANDING_TIME", default_value = "10s", value_parser = signed, value_name = "DURATION", hide = true)]
    pub landing_time: SignedDuration,
}

/// Flags of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Namespaces to work in, separated by commas, with a Role in each; else the whole cluster
    ///
    /// Of two resources for one token, one in a namespace that is not named here is not seen.
    #[arg(long, env = "NAMESPACES", value_delimiter = ',', value_parser = namespace, value_name = "NAMESPACES", help_heading = "Access")]
    pub namespaces: Vec<String>,

    /// How to reach Astro, and the operator's own credential, for the namespaces of --default-credentials-namespaces.
    #[command(flatten)]
    pub astro: AstroArgs,

    /// What decisions depend on.
    #[command(flatten)]
    pub decisions: DecisionArgs,

    /// Reads from Astro a second, for each credential
    #[arg(
        long,
        env = "ASTRO_READS_PER_SECOND",
        default_value = "25",
        value_name = "N",
        help_heading = "Astro"
    )]
    pub reads_per_second: NonZeroU32,

    /// Rotations a second, for each credential
    #[arg(
        long,
        env = "ASTRO_ROTATIONS_PER_SECOND",
        default_value = "10",
        value_name = "N",
        help_heading = "Astro"
    )]
    pub rotations_per_second: NonZeroU32,

    /// Let only one of several replicas work, by a Lease
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Process")]
    pub leader_election: bool,

    /// Namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE", value_parser = non_empty, default_value = "default", value_name = "NAMESPACE", help_heading = "Process")]
    pub leader_election_namespace: String,

    /// Name of this pod, unique among replicas, by the downward API; lets a restarted container go on at once
    #[arg(long, env = "POD_NAME", value_parser = non_empty, value_name = "NAME", help_heading = "Process")]
    pub pod_name: Option<String>,

    /// Where /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS",
        help_heading = "Process"
    )]
    pub listen: SocketAddr,

    /// How log lines look
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Process"
    )]
    pub log_format: Format,
}

/// How the operator learns what its Secrets hold; values are read in neither way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SecretAccess {
    /// List and watch the metadata of its Secrets: a deleted one is noticed at once
    #[default]
    Watch,
    /// Only get each by its name: a deleted one is noticed within an audit interval
    Get,
}

fn api_url(text: &str) -> Result<reqwest::Url, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("{error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("expected something like https://api.astronomer.io/v1".into());
    }
    if !url.path().trim_end_matches('/').ends_with("/v1") {
        return Err("the path has to end in /v1, as in https://api.astronomer.io/v1".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a user name or password".into());
    }
    Ok(url)
}

fn non_empty(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("it is empty".into()),
        text => Ok(text.to_owned()),
    }
}

fn namespace(text: &str) -> Result<String, String> {
    let name = text.trim();
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
        return Err("expected names of namespaces; for all of them leave it out".into());
    }
    Ok(name.to_owned())
}

/// An id of the vendor's, in lower case as the vendor's own command takes it.
pub(crate) fn id(text: &str) -> Result<String, String> {
    let id = text.trim().to_ascii_lowercase();
    match is_id(&id) {
        true => Ok(id),
        false => Err("expected 1 to 64 letters, digits, - or _, as Astro shows it".into()),
    }
}

fn one_namespace(text: &str) -> Result<String, String> {
    namespace(text).map_err(|_| "expected the name of a namespace".into())
}

/// A positive length of time, as in a schedule.
pub(crate) fn signed(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text)
}

/// The same for a clock that cannot go back.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    Duration::try_from(parse_duration(text)?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_url_is_explained() {
        for (url, word) in [
            ("api.astronomer.io/v1", "relative"),
            ("ftp://api.astronomer.io/v1", "https://"),
            ("https://api.astronomer.io", "/v1"),
            ("https://user:pass@api.astronomer.io/v1", "password"),
        ] {
            assert!(
                api_url(url).is_err_and(|error| error.contains(word)),
                "{url}"
            );
        }
        assert!(api_url("http://127.0.0.1:8888/v1/").is_ok());
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
}
