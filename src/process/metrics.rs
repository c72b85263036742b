//! What alerts and dashboards are built on: the operator's own counters, and per resource what the store holds at the scrape.

use std::{
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeMetric,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "astro_token_operator";

/// Bounds of the time from an answer to the Secret, seconds: fine around 100 ms, which it is to stay below.
const STORED_WITHIN: [f64; 21] = [
    0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5,
    1.0, 5.0, 20.0, 60.0, 160.0,
];

type Labels<const N: usize> = [(&'static str, String); N];

/// Everything that is counted; clones count into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    rotations: Family<Labels<2>, Counter>,
    vendor_requests: Family<Labels<2>, Counter>,
    vendor_request: Family<Labels<1>, Histogram>,
    rotate_to_stored: Histogram,
    values_lost: Counter,
    unsaved_values: Gauge,
    target_writes_undone: Counter,
    vendor_stale_reads: Counter,
    secrets_vanished: Counter,
    unreadable_objects: Family<Labels<1>, Gauge>,
    api_held_back: Family<Labels<1>, Counter>,
    events_dropped: Counter,
    reconcile: Histogram,
    leader: Gauge,
}

/// Counts one value as unsaved for as long as it lives.
#[must_use = "the value counts as saved when this is dropped"]
pub struct UnsavedGuard(Gauge);

/// One resource as the store holds it at the scrape. Times are Unix seconds.
#[derive(Clone, Debug)]
pub struct ResourceSample {
    /// Namespace of the resource.
    pub namespace: String,
    /// Name of the resource.
    pub name: String,
    /// Whether its `Ready` condition is `True`.
    pub ready: bool,
    /// The reason of its `Ready` condition.
    pub reason: String,
    /// The reason of its `Stalled` condition, while that is true.
    pub stalled: Option<String>,
    /// The reason of its `Reconciling` condition, while that is true.
    pub reconciling: Option<String>,
    /// When it is due next.
    pub next: Option<i64>,
    /// When the value it holds was issued.
    pub last: Option<i64>,
    /// When the token ends.
    pub expires: Option<i64>,
    /// When the credential ends that it is rotated with.
    pub credential_expires: Option<i64>,
    /// How many of its values in a row were issued and lost.
    pub lost: usize,
    /// Whether its rotation waits because there were too many.
    pub held_back: bool,
}

/// The resources of one scrape, so that a deleted one leaves no series behind.
#[derive(Debug)]
struct Resources {
    samples: Vec<ResourceSample>,
    now: i64,
}

impl Metrics {
    /// All counters at zero.
    pub fn new() -> Self {
        // 10 ms to 41 s: a call has 30 s.
        let call_time = || Histogram::new(exponential_buckets(0.01, 2.0, 13));
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Self {
            registry: Arc::default(),
            rotations: Family::default(),
            vendor_requests: Family::default(),
            vendor_request: Family::new_with_constructor(call_time),
            rotate_to_stored: Histogram::new(STORED_WITHIN),
            values_lost: Counter::default(),
            unsaved_values: Gauge::default(),
            target_writes_undone: Counter::default(),
            vendor_stale_reads: Counter::default(),
            secrets_vanished: Counter::default(),
            unreadable_objects: Family::default(),
            api_held_back: Family::default(),
            events_dropped: Counter::default(),
            // 0.1 ms to 26 s: an idle pass makes no request.
            reconcile: Histogram::new(exponential_buckets(0.0001, 4.0, 10)),
            leader: Gauge::default(),
        };
        registry.register(
            "rotations",
            "Rotations by why they were begun and how they ended",
            metrics.rotations.clone(),
        );
        registry.register(
            "vendor_requests",
            "Requests to the Astro API by status code, or error when there was none",
            metrics.vendor_requests.clone(),
        );
        registry.register_with_unit(
            "vendor_request",
            "Time until the Astro API answered",
            Unit::Seconds,
            metrics.vendor_request.clone(),
        );
        registry.register_with_unit(
            "rotate_to_stored",
            "Time from the answer with a new value until the Secret held it",
            Unit::Seconds,
            metrics.rotate_to_stored.clone(),
        );
        registry.register(
            "values_lost",
            "Values that were issued but never stored, each healed by another rotation",
            metrics.values_lost.clone(),
        );
        registry.register(
            "unsaved_values",
            "Values in memory that no Secret holds yet",
            metrics.unsaved_values.clone(),
        );
        registry.register(
            "secrets_vanished",
            "Values that were deleted from their Secret, each replaced by a rotation",
            metrics.secrets_vanished.clone(),
        );
        registry.register(
            "target_writes_undone",
            "Writes of Secrets that another party has undone",
            metrics.target_writes_undone.clone(),
        );
        registry.register(
            "vendor_stale_reads",
            "Answers of the Astro API that were older than what was known",
            metrics.vendor_stale_reads.clone(),
        );
        registry.register(
            "unreadable_objects",
            "Objects by kind that cannot be read and are left out",
            metrics.unreadable_objects.clone(),
        );
        registry.register(
            "api_held_back",
            "Answers of the API server, by status code, that ask to retry a request later",
            metrics.api_held_back.clone(),
        );
        registry.register(
            "events_dropped",
            "Events that were not published because too many were waiting",
            metrics.events_dropped.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Time of one pass over one resource",
            Unit::Seconds,
            metrics.reconcile.clone(),
        );
        registry.register(
            "leader",
            "Whether this process leads",
            metrics.leader.clone(),
        );
        registry.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Arc::new(registry),
            ..metrics
        }
    }

    /// Counts a rotation that has ended.
    pub fn rotation(&self, reason: &str, outcome: &str) {
        let labels = [("reason", reason.into()), ("outcome", outcome.into())];
        self.rotations.get_or_create(&labels).inc();
    }

    /// Counts a request to the vendor; `code` is the HTTP status, or `error` when there is none.
    pub fn vendor_request(&self, operation: &'static str, code: impl Display, elapsed: Duration) {
        let operation = ("operation", operation.to_owned());
        let labels = [operation.clone(), ("code", code.to_string())];
        self.vendor_requests.get_or_create(&labels).inc();
        self.vendor_request
            .get_or_create(&[operation])
            .observe(elapsed.as_secs_f64());
    }

    /// Records that a Secret holds a new value, and how long after the answer.
    pub fn stored(&self, since_answer: Duration) {
        self.rotate_to_stored.observe(since_answer.as_secs_f64());
    }

    /// Counts a value that was issued but never stored.
    pub fn value_lost(&self) {
        self.values_lost.inc();
    }

    /// Counts a value that was deleted and is replaced.
    pub fn secret_vanished(&self) {
        self.secrets_vanished.inc();
    }

    /// Counts a write of a Secret that another party has undone.
    pub fn target_write_undone(&self) {
        self.target_writes_undone.inc();
    }

    /// Counts an answer of the vendor that is older than what was known.
    pub fn vendor_stale_read(&self) {
        self.vendor_stale_reads.inc();
    }

    /// Counts a value as unsaved until the guard is dropped.
    pub fn unsaved(&self) -> UnsavedGuard {
        self.unsaved_values.inc();
        UnsavedGuard(self.unsaved_values.clone())
    }

    /// Says how many objects of a kind cannot be read.
    pub fn unreadable(&self, kind: &'static str, count: usize) {
        let gauge = self
            .unreadable_objects
            .get_or_create(&[("kind", kind.into())]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts an answer of the API server that asks to retry a request later, by its HTTP status.
    pub fn held_back(&self, code: u16) {
        let labels = [("code", code.to_string())];
        self.api_held_back.get_or_create(&labels).inc();
    }

    /// Counts an event that is not published because too many are waiting.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Records the time of one reconcile.
    pub fn reconciled(&self, elapsed: Duration) {
        self.reconcile.observe(elapsed.as_secs_f64());
    }

    /// Says whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// OpenMetrics text of everything; the series per resource are those of `samples`.
    pub fn render(&self, samples: Vec<ResourceSample>, now_unix: i64) -> String {
        self.render_into(String::new(), samples, now_unix)
    }

    /// The same behind a text, which may have room for it.
    pub fn render_into(
        &self,
        mut text: String,
        samples: Vec<ResourceSample>,
        now_unix: i64,
    ) -> String {
        let mut resources = Registry::with_prefix(PREFIX);
        resources.register_collector(Box::new(Resources {
            samples,
            now: now_unix,
        }));
        encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &resources))
            .and_then(|()| encode_eof(&mut text))
            .expect("a String takes all that is written to it");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for UnsavedGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Collector for Resources {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut ready = encoder.encode_descriptor(
            "ready",
            "Whether the resource is Ready, and why.",
            None,
            MetricType::Gauge,
        )?;
        for sample in &self.samples {
            let labels = [
                ("namespace", sample.namespace.as_str()),
                ("name", sample.name.as_str()),
                ("reason", sample.reason.as_str()),
            ];
            ConstGauge::new(i64::from(sample.ready)).encode(ready.encode_family(&labels)?)?;
        }
        self.encode_reason(
            &mut encoder,
            "stalled",
            "Why the next rotation cannot happen before a person acts.",
            |s| s.stalled.as_deref(),
        )?;
        self.encode_reason(
            &mut encoder,
            "reconciling",
            "What the operator works on or waits for.",
            |s| s.reconciling.as_deref(),
        )?;
        let mut lost = encoder.encode_descriptor(
            "values_lost_in_a_row",
            "How many values of the resource were issued and lost, one after another.",
            None,
            MetricType::Gauge,
        )?;
        for sample in &self.samples {
            let labels = [
                ("namespace", sample.namespace.as_str()),
                ("name", sample.name.as_str()),
            ];
            let number = i64::try_from(sample.lost).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(lost.encode_family(&labels)?)?;
        }
        let held_back = self.samples.iter().filter(|sample| sample.held_back);
        let held_back = i64::try_from(held_back.count()).unwrap_or(i64::MAX);
        ConstGauge::new(held_back).encode(encoder.encode_descriptor(
            "rotations_held_back",
            "Resources whose rotation waits because there were too many.",
            None,
            MetricType::Gauge,
        )?)?;
        self.encode_seconds(
            &mut encoder,
            "next_rotation_timestamp",
            "When the resource is due next.",
            |s| s.next,
        )?;
        self.encode_seconds(
            &mut encoder,
            "last_rotation_timestamp",
            "When the value it holds was issued.",
            |s| s.last,
        )?;
        self.encode_seconds(
            &mut encoder,
            "token_expiration_timestamp",
            "When the token ends.",
            |s| s.expires,
        )?;
        self.encode_seconds(
            &mut encoder,
            "credential_expiration_timestamp",
            "When the credential ends that the token is rotated with.",
            |s| s.credential_expires,
        )?;
        self.encode_seconds(
            &mut encoder,
            "rotation_overdue",
            "For how long the resource has been due.",
            |s| Some((self.now - s.next?).max(0)),
        )
    }
}

impl Resources {
    /// One gauge that is 1 for each resource that has a reason.
    fn encode_reason(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        reason: impl Fn(&ResourceSample) -> Option<&str>,
    ) -> fmt::Result {
        let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for sample in &self.samples {
            if let Some(reason) = reason(sample) {
                let labels = [
                    ("namespace", sample.namespace.as_str()),
                    ("name", sample.name.as_str()),
                    ("reason", reason),
                ];
                ConstGauge::new(1_i64).encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// One gauge in seconds, with a series for each resource that has it.
    fn encode_seconds(
        &self,
        encoder: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: impl Fn(&ResourceSample) -> Option<i64>,
    ) -> fmt::Result {
        let mut gauge =
            encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for sample in &self.samples {
            if let Some(seconds) = value(sample) {
                let labels = [
                    ("namespace", sample.namespace.as_str()),
                    ("name", sample.name.as_str()),
                ];
                ConstGauge::new(seconds).encode(gauge.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> ResourceSample {
        ResourceSample {
            namespace: "data".into(),
            name: name.into(),
            ready: true,
            reason: "Rotated".into(),
            stalled: Some("Forbidden".into()),
            reconciling: None,
            next: Some(1_000),
            last: Some(900),
            expires: None,
            credential_expires: Some(2_000),
            lost: 2,
            held_back: true,
        }
    }

    #[test]
    fn a_resource_is_rendered_from_its_sample_alone() {
        let text = Metrics::new().render(vec![sample("etl")], 1_060);
        let (_, resource) = text
            .split_once("# HELP astro_token_operator_ready ")
            .unwrap();
        assert_eq!(
            resource,
            r#"Whether the resource is Ready, and why.
# TYPE astro_token_operator_ready gauge
astro_token_operator_ready{namespace="data",name="etl",reason="Rotated"} 1
# HELP astro_token_operator_stalled Why the next rotation cannot happen before a person acts.
# TYPE astro_token_operator_stalled gauge
astro_token_operator_stalled{namespace="data",name="etl",reason="Forbidden"} 1
# HELP astro_token_operator_reconciling What the operator works on or waits for.
# TYPE astro_token_operator_reconciling gauge
# HELP astro_token_operator_values_lost_in_a_row How many values of the resource were issued and lost, one after another.
# TYPE astro_token_operator_values_lost_in_a_row gauge
astro_token_operator_values_lost_in_a_row{namespace="data",name="etl"} 2
# HELP astro_token_operator_rotations_held_back Resources whose rotation waits because there were too many.
# TYPE astro_token_operator_rotations_held_back gauge
astro_token_operator_rotations_held_back 1
# HELP astro_token_operator_next_rotation_timestamp_seconds When the resource is due next.
# TYPE astro_token_operator_next_rotation_timestamp_seconds gauge
# UNIT astro_token_operator_next_rotation_timestamp_seconds seconds
astro_token_operator_next_rotation_timestamp_seconds{namespace="data",name="etl"} 1000
# HELP astro_token_operator_last_rotation_timestamp_seconds When the value it holds was issued.
# TYPE astro_token_operator_last_rotation_timestamp_seconds gauge
# UNIT astro_token_operator_last_rotation_timestamp_seconds seconds
astro_token_operator_last_rotation_timestamp_seconds{namespace="data",name="etl"} 900
# HELP astro_token_operator_token_expiration_timestamp_seconds When the token ends.
# TYPE astro_token_operator_token_expiration_timestamp_seconds gauge
# UNIT astro_token_operator_token_expiration_timestamp_seconds seconds
# HELP astro_token_operator_credential_expiration_timestamp_seconds When the credential ends that the token is rotated with.
# TYPE astro_token_operator_credential_expiration_timestamp_seconds gauge
# UNIT astro_token_operator_credential_expiration_timestamp_seconds seconds
astro_token_operator_credential_expiration_timestamp_seconds{namespace="data",name="etl"} 2000
# HELP astro_token_operator_rotation_overdue_seconds For how long the resource has been due.
# TYPE astro_token_operator_rotation_overdue_seconds gauge
# UNIT astro_token_operator_rotation_overdue_seconds seconds
astro_token_operator_rotation_overdue_seconds{namespace="data",name="etl"} 60
# EOF
"#
        );
    }

    #[test]
    fn every_name_that_alerts_are_built_on_is_there() {
        let metrics = Metrics::new();
        metrics.rotation("Scheduled", "success");
        metrics.vendor_request("rotate", 200, Duration::from_millis(300));
        metrics.vendor_request("rotate", "error", Duration::from_secs(30));
        metrics.stored(Duration::from_millis(20));
        metrics.value_lost();
        metrics.secret_vanished();
        metrics.target_write_undone();
        metrics.vendor_stale_read();
        metrics.unreadable("Secret", 2);
        metrics.held_back(429);
        metrics.event_dropped();
        metrics.reconciled(Duration::from_micros(50));
        metrics.leading(true);
        let held = metrics.unsaved();
        drop(metrics.unsaved());

        let text = metrics.clone().render(vec![], 0);
        for line in [
            r#"rotations_total{reason="Scheduled",outcome="success"} 1"#,
            r#"vendor_requests_total{operation="rotate",code="200"} 1"#,
            r#"vendor_requests_total{operation="rotate",code="error"} 1"#,
            r#"vendor_request_seconds_count{operation="rotate"} 2"#,
            "rotate_to_stored_seconds_count 1",
            "values_lost_total 1",
            "secrets_vanished_total 1",
            "target_writes_undone_total 1",
            "vendor_stale_reads_total 1",
            "unsaved_values 1",
            r#"unreadable_objects{kind="Secret"} 2"#,
            r#"api_held_back_total{code="429"} 1"#,
            "events_dropped_total 1",
            "reconcile_seconds_count 1",
            "leader 1",
            concat!(
                r#"build_info{version=""#,
                env!("CARGO_PKG_VERSION"),
                r#""} 1"#
            ),
        ] {
            let line = format!("{PREFIX}_{line}");
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        drop(held);
        assert!(metrics.render(vec![], 0).contains("unsaved_values 0\n"));
    }

    #[test]
    fn what_is_not_yet_due_is_not_overdue() {
        let text = Metrics::new().render(vec![sample("etl")], 500);
        assert!(text.contains(r#"rotation_overdue_seconds{namespace="data",name="etl"} 0"#));
    }
}
