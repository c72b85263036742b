//! What the API server and the operator say of themselves, before and after: requests, processor time, a histogram.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Sub;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Request;
use kube::Client;
use tokio::time::sleep;

use super::text::samples;
use crate::operator::Operator;

/// Resources that the operator may touch. Whatever else is counted is the control plane's own.
const CONCERNS: [&str; 4] = ["workspacetokenrotations", "secrets", "events", "leases"];
/// Requests that change nothing.
const READS: [&str; 3] = ["GET", "LIST", "WATCH"];
/// As long as nothing new is counted for, everything is over.
const QUIET: Duration = Duration::from_millis(500);
/// Looks for quiet before giving up on it.
const LOOKS: usize = 60;

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// With its subresource, as in `workspacetokenrotations/status`.
    pub resource: String,
    /// `GET`, `LIST`, `WATCH`, `APPLY`, `POST` and so on.
    pub verb: String,
    /// Nothing is stored.
    pub dry_run: bool,
    /// HTTP status of a refusal; empty for a success.
    pub refusal: String,
}

/// Requests to the API server by kind, as it counted them itself: those for the operator's resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requests(pub BTreeMap<Kind, u64>);

/// What the API server has done so far, or between two readings.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What it was asked.
    pub requests: Requests,
    /// What its process has used, seconds.
    pub cpu_seconds: f64,
}

/// How many values were at most so large: a Prometheus histogram by upper bound, the last one infinite.
#[derive(Clone, Debug)]
pub struct Histogram(Vec<(f64, f64)>);

impl Reading {
    /// Takes one, as the administrator.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn take(client: &Client) -> anyhow::Result<Self> {
        let request = Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await?;
        let cpu = samples(&text, "process_cpu_seconds_total").next();
        Ok(Self {
            requests: Requests::parse(&text),
            cpu_seconds: cpu.context("no processor time in /metrics")?.value,
        })
    }

    /// Takes one when nothing more is being asked: what follows a rotation is counted with it.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn take_when_quiet(client: &Client) -> anyhow::Result<Self> {
        let mut last = Self::take(client).await?;
        for _ in 0..LOOKS {
            // Numbers cannot be watched, only looked at again.
            sleep(QUIET).await;
            let next = Self::take(client).await?;
            if (next.requests.clone() - last.requests.clone()).at_work() == 0 {
                break;
            }
            last = next;
        }
        // The older of the two: looking costs the API server something too.
        Ok(last)
    }
}

impl Sub for Reading {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
        }
    }
}

impl Requests {
    fn parse(text: &str) -> Self {
        let mut all = BTreeMap::new();
        for sample in samples(text, "apiserver_request_total") {
            let (resource, subresource) = (sample.label("resource"), sample.label("subresource"));
            if !CONCERNS.contains(&resource) {
                continue;
            }
            let kind = Kind {
                resource: match subresource {
                    "" => resource.to_owned(),
                    subresource => format!("{resource}/{subresource}"),
                },
                verb: sample.label("verb").to_owned(),
                dry_run: !sample.label("dry_run").is_empty(),
                refusal: match sample.label("code") {
                    code if code.starts_with(['4', '5']) => code.to_owned(),
                    _ => String::new(),
                },
            };
            *all.entry(kind).or_default() += sample.value as u64;
        }
        Self(all)
    }

    /// Writes of Secrets and of resources' statuses, dry runs among them. A resource itself is written by others only.
    pub fn writes(&self) -> u64 {
        let others = ["events", "leases", "workspacetokenrotations"];
        self.count(|kind| kind.is_write() && !kind.is_of(&others))
    }

    /// Writes that were refused because another was faster.
    pub fn conflicts(&self) -> u64 {
        self.count(|kind| kind.is_write() && kind.refusal == "409")
    }

    /// Writes of events.
    pub fn events(&self) -> u64 {
        self.count(|kind| kind.is_write() && kind.is_of(&["events"]))
    }

    /// Everything but watches and the lease: what an idle operator does not ask.
    pub fn at_work(&self) -> u64 {
        self.count(|kind| kind.verb != "WATCH" && !kind.is_of(&["leases"]))
    }

    fn count(&self, of: impl Fn(&Kind) -> bool) -> u64 {
        let counted = self.0.iter().filter(|(kind, _)| of(kind));
        counted.map(|(_, number)| number).sum()
    }
}

impl Sub for Requests {
    type Output = Self;

    /// What came since; kinds without any are left out.
    fn sub(self, before: Self) -> Self {
        let since = self.0.into_iter().map(|(kind, number)| {
            let before = before.0.get(&kind).copied().unwrap_or_default();
            (kind, number.saturating_sub(before))
        });
        Self(since.filter(|(_, number)| *number > 0).collect())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.dry_run {
            f.write_str(" (dry run)")?;
        }
        if !self.refusal.is_empty() {
            write!(f, " ({})", self.refusal)?;
        }
        Ok(())
    }
}

impl Kind {
    fn is_write(&self) -> bool {
        !READS.contains(&self.verb.as_str())
    }

    fn is_of(&self, resources: &[&str]) -> bool {
        resources.contains(&self.resource.as_str())
    }
}

impl Histogram {
    /// The operator's own: from the vendor's answer to the value stored, seconds.
    ///
    /// # Errors
    /// When the operator does not answer.
    pub async fn take(operator: &Operator) -> anyhow::Result<Self> {
        Ok(Self::parse(
            &operator.metrics().await?,
            "astro_token_operator_rotate_to_stored_seconds_bucket",
        ))
    }

    fn parse(text: &str, name: &str) -> Self {
        let buckets = samples(text, name).map(|sample| {
            let bound = sample.label("le").parse().unwrap_or(f64::INFINITY);
            (bound, sample.value)
        });
        Self(buckets.collect())
    }

    /// The upper bound that this share of all values did not pass; `None` without any value.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all = self.0.last().map(|(_, number)| *number)?;
        let enough = |(_, number): &&(f64, f64)| all > 0.0 && *number >= all * share;
        self.0.iter().find(enough).map(|(bound, _)| *bound)
    }
}

/// What the operator counts itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own {
    /// Passes over resources.
    pub passes: u64,
    /// Answers of the API server that ask to come again later.
    pub turned_away: u64,
}

impl Own {
    /// Takes a reading.
    ///
    /// # Errors
    /// When the operator does not answer.
    pub async fn take(operator: &Operator) -> anyhow::Result<Self> {
        Ok(Self::parse(&operator.metrics().await?))
    }

    fn parse(text: &str) -> Self {
        let sum = |name| {
            let all = samples(text, name).map(|sample| sample.value);
            all.sum::<f64>() as u64
        };
        Self {
            passes: sum("astro_token_operator_reconcile_seconds_count"),
            turned_away: sum("astro_token_operator_api_held_back_total"),
        }
    }
}

impl Sub for Own {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            passes: self.passes.saturating_sub(before.passes),
            turned_away: self.turned_away.saturating_sub(before.turned_away),
        }
    }
}

impl Sub for Histogram {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let since = self.0.iter().zip(before.0);
        Self(
            since
                .map(|((b, now), (_, then))| (*b, now - then))
                .collect(),
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
apiserver_request_total{code="200",dry_run="",resource="secrets",subresource="",verb="APPLY"} 5
apiserver_request_total{code="409",dry_run="",resource="secrets",subresource="",verb="APPLY"} 1
apiserver_request_total{code="200",dry_run="",resource="secrets",subresource="",verb="GET"} 9
apiserver_request_total{code="0",dry_run="",resource="secrets",subresource="",verb="WATCH"} 1
"#;
    const AFTER: &str = r#"
apiserver_request_total{code="200",dry_run="",resource="secrets",subresource="",verb="APPLY"} 6
apiserver_request_total{code="409",dry_run="",resource="secrets",subresource="",verb="APPLY"} 3
apiserver_request_total{code="200",dry_run="All",resource="secrets",subresource="",verb="APPLY"} 2
apiserver_request_total{code="200",dry_run="",resource="secrets",subresource="",verb="GET"} 9
apiserver_request_total{code="0",dry_run="",resource="secrets",subresource="",verb="WATCH"} 2
apiserver_request_total{code="200",dry_run="",resource="workspacetokenrotations",subresource="status",verb="APPLY"} 4
apiserver_request_total{code="201",dry_run="",resource="events",subresource="",verb="POST"} 7
apiserver_request_total{code="200",dry_run="",resource="leases",subresource="",verb="PUT"} 8
apiserver_request_total{code="200",dry_run="",resource="endpoints",subresource="",verb="GET"} 100
"#;

    #[test]
    fn requests_between_two_readings_are_those_for_the_operators_resources_whatever_their_answer() {
        let since = Requests::parse(AFTER) - Requests::parse(BEFORE);
        assert_eq!(since.writes(), 3 + 2 + 4);
        assert_eq!(since.events(), 7);
        assert_eq!(since.at_work(), 3 + 2 + 4 + 7);
        let lines = since.0.iter().map(|(kind, n)| format!("{kind}: {n}"));
        let expected = [
            "POST events: 7",
            "PUT leases: 8",
            "APPLY secrets: 1",
            "APPLY secrets (409): 2",
            "APPLY secrets (dry run): 2",
            "WATCH secrets: 1",
            "APPLY workspacetokenrotations/status: 4",
        ];
        assert_eq!(lines.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_the_operator_counts_is_summed_over_all_codes() {
        let text = "\
astro_token_operator_reconcile_seconds_count 12
astro_token_operator_api_held_back_total{code=\"429\"} 3
astro_token_operator_api_held_back_total{code=\"503\"} 1
";
        let expected = Own {
            passes: 12,
            turned_away: 4,
        };
        assert_eq!(Own::parse(text), expected);
        assert_eq!(expected - expected, Own::default());
    }

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let text = |numbers: [u32; 4]| {
            let bounds = ["0.005", "0.01", "0.02", "+Inf"].into_iter().zip(numbers);
            bounds
                .map(|(bound, number)| format!("x_bucket{{le=\"{bound}\"}} {number}\n"))
                .collect::<String>()
        };
        let before = Histogram::parse(&text([10, 10, 10, 10]), "x_bucket");
        let after = Histogram::parse(&text([10, 60, 109, 110]), "x_bucket");
        let since = after.clone() - before.clone();
        assert_eq!(since.quantile(0.5), Some(0.01));
        assert_eq!(since.quantile(0.99), Some(0.02));
        assert_eq!(since.quantile(1.0), Some(f64::INFINITY));
        assert_eq!((before.clone() - before).quantile(0.5), None);
    }
}
