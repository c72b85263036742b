//! The decisions are pure, by what their files import and call: no client, no runtime, no clock, no file, no environment.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

const PURE: [&str; 20] = [
    "api.rs",
    "astro/wire.rs",
    "decide/evidence.rs",
    "decide/ownership.rs",
    "decide/plan.rs",
    "decide/plan/wake.rs",
    "reason.rs",
    "decide/rivals.rs",
    "decide/schedule.rs",
    "decide/schedule/calendar.rs",
    "text.rs",
    "decide/status.rs",
    "decide/validate.rs",
    "decide/plan/tests.rs",
    "decide/schedule/tests.rs",
    "args.rs",
    "cli/plan/report.rs",
    "cli/plan/shape.rs",
    "cli/plan/times.rs",
    "cli/plan/verdict.rs",
];

const IMPURE: [&str; 11] = [
    "kube::Client",
    "Client,",
    "Client}",
    "tokio",
    "reqwest::Client",
    "::now()",
    "Instant",
    "std::fs",
    "std::env::var_os",
    "std::process",
    ".await",
];

#[test]
fn pure_files_have_no_effects() {
    for file in PURE {
        let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        for word in IMPURE {
            let line = text.lines().position(|line| line.contains(word));
            assert_eq!(line, None, "{file} has {word:?} (line counted from 0)");
        }
    }
}
