//! Flags that `run` and the other commands share. Those of `run` are environment variables too, as `--help` shows.

use crate::cluster::watch::SecretAccess;
use crate::decide::allowed::Entry;
use crate::decide::names::is_namespace;
use crate::decide::pace::Pace;
use crate::decide::schedule::parse_duration;
use crate::id::{canonical, is_id};
use crate::process::telemetry::Format;
use clap::Args;
use jiff::SignedDuration;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

/// How to reach Astro, and as whom.
#[derive(Args)]
pub struct AstroArgs {
    /// Base URL of the Astro API, ending in /v1
    #[arg(long, env = "ASTRO_API_URL", default_value = "https://api.astronomer.io/v1", value_parser = api_url, help_heading = "Astro")]
    pub api_url: reqwest::Url,

    /// Organization to use where the resource names none; by default the credential's own
    #[arg(long, env = "ASTRO_ORGANIZATION_ID", value_parser = non_empty, help_heading = "Astro")]
    pub organization_id: Option<String>,

    /// The API token to call Astro with.
    ///
    /// Only as an environment variable: a command line can be read by others.
    #[arg(skip = std::env::var("ASTRO_API_TOKEN").ok().filter(|value| !value.is_empty()))]
    pub api_token: Option<String>,

    /// File with the API token to call Astro with, read for each use; instead of the variable ASTRO_API_TOKEN
    #[arg(
        long,
        env = "ASTRO_API_TOKEN_FILE",
        value_name = "FILE",
        help_heading = "Astro"
    )]
    pub api_token_file: Option<PathBuf>,

    /// PEM file with additional certificate authorities for Astro or a proxy
    #[arg(
        long,
        env = "ASTRO_CA_BUNDLE",
        value_name = "FILE",
        help_heading = "Astro"
    )]
    pub ca_bundle: Option<PathBuf>,

    /// Timeout for one call to Astro
    #[arg(long, env = "ASTRO_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "DURATION", help_heading = "Astro")]
    pub vendor_timeout: Duration,

    /// Timeout for connecting to Astro; must be shorter than --vendor-timeout
    #[arg(long, env = "ASTRO_CONNECT_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "DURATION", help_heading = "Astro")]
    pub vendor_connect_timeout: Duration,
}

/// Which cluster to use, as whom, and which namespace; the flags have kubectl's names.
#[derive(Args)]
pub struct ClusterArgs {
    /// Namespace to use; by default that of the kubeconfig's context
    #[arg(short, long, value_parser = one_namespace, help_heading = "Cluster")]
    pub namespace: Option<String>,

    /// Context of the kubeconfig to use; by default the current one
    #[arg(long, help_heading = "Cluster")]
    pub context: Option<String>,

    /// Kubeconfig to use; by default $KUBECONFIG or ~/.kube/config
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,

    /// Act as another user or as a ServiceAccount (system:serviceaccount:NAMESPACE:NAME)
    #[arg(long = "as", value_name = "USER", help_heading = "Cluster")]
    pub as_user: Option<String>,
}

/// What the operator's decisions depend on, and therefore what `plan` says.
#[derive(Args)]
pub struct DecisionArgs {
    /// How the operator may find its Secrets
    #[arg(
        long,
        env = "SECRET_ACCESS",
        value_enum,
        default_value_t,
        help_heading = "Access"
    )]
    pub secret_access: SecretAccess,

    /// Whose resources may use the operator's own credential: NAMESPACE=WORKSPACE, separated by commas; * for all namespaces
    ///
    /// Entries add up. A namespace without a Workspace may use any that the credential reaches.
    #[arg(
        long,
        env = "DEFAULT_CREDENTIALS_NAMESPACES",
        value_delimiter = ',',
        value_parser = Entry::parse,
        value_name = "ENTRIES",
        help_heading = "Astro"
    )]
    pub default_credentials_namespaces: Vec<Entry>,

    /// How often the tokens of each Workspace are read from Astro, to notice changes by other parties
    #[arg(long, env = "AUDIT_INTERVAL", default_value = "10m", value_parser = signed, value_name = "DURATION", help_heading = "Rotation")]
    pub audit_interval: SignedDuration,

    /// Shortest interval that a schedule may ask for; lower it only for demos and tests
    #[arg(long, env = "MINIMUM_INTERVAL", default_value = "5m", value_parser = signed, value_name = "DURATION", help_heading = "Rotation")]
    pub minimum_interval: SignedDuration,

    /// The other waits.
    #[command(flatten)]
    pace: PaceArgs,
}

impl DecisionArgs {
    /// How long the operator waits for what.
    pub fn pace(&self, astro: &AstroArgs) -> Pace {
        Pace {
            audit: self.audit_interval,
            ..self.pace.pace(astro)
        }
    }
}

/// Waits that people do not need to set; for tests.
#[derive(Args)]
pub struct PaceArgs {
    /// Scales every wait that no other flag sets
    #[arg(long = "pace", env = "PACE", default_value = "1", value_parser = factor, value_name = "FACTOR", hide = true)]
    factor: f64,

    /// Longest time from Astro's answer to the value in the Secret that others wait for
    #[arg(long, env = "WRITE_BUDGET", value_parser = duration, value_name = "DURATION", hide = true)]
    write_budget: Option<Duration>,

    /// How long a call may still take effect after its caller has died
    #[arg(long, env = "LANDING_TIME", value_parser = signed, value_name = "DURATION", hide = true)]
    landing_time: Option<SignedDuration>,

    /// How long a call of which no effect shows keeps its token from being rotated again, where two take turns
    #[arg(long, env = "REST_TIME", value_parser = signed, value_name = "DURATION", hide = true)]
    rest_time: Option<SignedDuration>,
}

impl PaceArgs {
    /// How long the operator waits for what.
    pub fn pace(&self, astro: &AstroArgs) -> Pace {
        let pace = Pace::SHIPPED.scaled(self.factor);
        Pace {
            vendor_timeout: astro.vendor_timeout,
            vendor_connect_timeout: astro.vendor_connect_timeout,
            write_budget: self.write_budget.unwrap_or(pace.write_budget),
            landing: self.landing_time.unwrap_or(pace.landing),
            rest: self.rest_time.unwrap_or(pace.rest),
            ..pace
        }
    }
}

/// Flags of `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Namespaces to work in, separated by commas, each with a Role; by default the whole cluster
    ///
    /// The operator cannot see that a resource in another namespace names the same token.
    #[arg(long, env = "NAMESPACES", value_delimiter = ',', value_parser = namespace, value_name = "NAMESPACES", help_heading = "Access")]
    pub namespaces: Vec<String>,

    /// How to reach Astro, and the operator's own credential, for the namespaces of --default-credentials-namespaces.
    #[command(flatten)]
    pub astro: AstroArgs,

    /// What decisions depend on.
    #[command(flatten)]
    pub decisions: DecisionArgs,

    /// Reads from Astro per second, for each credential
    #[arg(
        long,
        env = "ASTRO_READS_PER_SECOND",
        default_value = "25",
        value_name = "N",
        help_heading = "Astro"
    )]
    pub reads_per_second: NonZeroU32,

    /// Rotations per second, for each credential
    #[arg(
        long,
        env = "ASTRO_ROTATIONS_PER_SECOND",
        default_value = "10",
        value_name = "N",
        help_heading = "Astro"
    )]
    pub rotations_per_second: NonZeroU32,

    /// Rotations at the same time, of all credentials together; one alone gets half of them
    #[arg(
        long,
        env = "CONCURRENT_ROTATIONS",
        default_value = "16",
        value_name = "N",
        help_heading = "Astro"
    )]
    pub concurrent_rotations: NonZeroU16,

    /// Elect a leader with a Lease, so that only one of several replicas works
    #[arg(long, env = "LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Process")]
    pub leader_election: bool,

    /// Namespace of the Lease
    #[arg(long, env = "POD_NAMESPACE", value_parser = non_empty, default_value = "default", value_name = "NAMESPACE", help_heading = "Process")]
    pub leader_election_namespace: String,

    /// Name of this pod, unique among replicas, from the downward API; lets a restarted container continue at once
    #[arg(long, env = "POD_NAME", value_parser = non_empty, value_name = "NAME", help_heading = "Process")]
    pub pod_name: Option<String>,

    /// Address on which /metrics, /livez and /readyz are served
    #[arg(
        long,
        env = "LISTEN",
        default_value = "0.0.0.0:8080",
        value_name = "ADDRESS",
        help_heading = "Process"
    )]
    pub listen: SocketAddr,

    /// Format of log lines
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value_t,
        help_heading = "Process"
    )]
    pub log_format: Format,
}

fn api_url(text: &str) -> Result<reqwest::Url, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("{error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("expected something like https://api.astronomer.io/v1".into());
    }
    if !url.path().trim_end_matches('/').ends_with("/v1") {
        return Err("the path must end in /v1, as in https://api.astronomer.io/v1".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not contain a user name or a password".into());
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
    match text.trim() {
        name if is_namespace(name) => Ok(name.to_owned()),
        _ => Err("expected names of namespaces; leave the flag out for all of them".into()),
    }
}

/// An id at Astro, in the way Astro writes it.
pub(crate) fn id(text: &str) -> Result<String, String> {
    let id = canonical(text.trim().to_owned());
    match is_id(&id) {
        true => Ok(id),
        false => Err("expected 1 to 64 letters, digits, - or _, as Astro shows it".into()),
    }
}

/// A factor to scale by.
fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (0.001..=100.0).contains(&factor) => Ok(factor),
        _ => Err("expected a number from 0.001 to 100".into()),
    }
}

fn one_namespace(text: &str) -> Result<String, String> {
    namespace(text).map_err(|_| "expected the name of a namespace".into())
}

/// A positive length of time, as in a schedule.
pub(crate) fn signed(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text)
}

/// The same for a clock that cannot go backwards.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    Duration::try_from(parse_duration(text)?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        run: RunArgs,
    }

    fn pace(flags: &[&str]) -> Pace {
        let flags = ["x"].iter().chain(flags);
        let Flags { run } = Flags::try_parse_from(flags).unwrap_or_else(|error| panic!("{error}"));
        run.decisions.pace(&run.astro)
    }

    #[test]
    fn the_pace_is_what_is_shipped_and_a_factor_scales_what_no_flag_sets() {
        assert_eq!(pace(&[]), Pace::SHIPPED);
        let fast = pace(&["--pace=0.1", "--landing-time=7s", "--audit-interval=3s"]);
        let scaled = Pace::SHIPPED.scaled(0.1);
        assert_eq!(
            (fast.landing, fast.audit),
            (SignedDuration::from_secs(7), SignedDuration::from_secs(3))
        );
        assert_eq!(fast.vendor_timeout, Pace::SHIPPED.vendor_timeout);
        assert_eq!(
            (fast.look_retry, fast.write_budget),
            (scaled.look_retry, scaled.write_budget)
        );
        for factor in ["0", "-1", "fast", "1000"] {
            assert!(super::factor(factor).is_err(), "{factor}");
        }
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
}
