//! The README tells the truth: what it shows is accepted, what it names exists, what is generated is up to date.

use astro_token_operator::api::{ScheduleSpec, WorkspaceTokenRotation};
use astro_token_operator::cli::Cli;
use astro_token_operator::decide::schedule::Schedule;
use astro_token_operator::decide::validate::check_spec;
use astro_token_operator::process::metrics::{Metrics, ResourceSample};
use astro_token_operator::reason;
use clap::{CommandFactory, Parser};
use jiff::SignedDuration;
use std::path::Path;
use std::time::Duration;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const REASONS: (&str, &str) = (
    "<!-- reasons: written by `make crd` -->\n",
    "<!-- end of reasons -->",
);

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The text of each fenced block of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = read("README.md");
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// The first cell of each row of the table under `header`, without its back-ticks.
fn first_cells(header: &str) -> Vec<String> {
    let readme = read("README.md");
    let (_, table) = readme.split_once(header).unwrap();
    let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned())
        .collect()
}

#[test]
fn the_table_of_reasons_is_generated_from_the_code() {
    let readme = read("README.md");
    let (before, rest) = readme.split_once(REASONS.0).unwrap();
    let (_, after) = rest.split_once(REASONS.1).unwrap();
    let table = reason::markdown();
    let wanted = format!("{before}{}\n{table}\n{}{after}", REASONS.0, REASONS.1);
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(Path::new(ROOT).join("README.md"), wanted).unwrap();
    } else {
        assert!(readme == wanted, "run `make crd`");
    }
}

#[test]
fn its_resource_is_the_minimal_example() {
    let example = read("examples/minimal.yaml");
    let lines = example.lines().filter(|line| !line.starts_with('#'));
    let yaml: String = lines.map(|line| format!("{line}\n")).collect();
    assert_eq!(blocks("yaml")[0], yaml);

    let resource: WorkspaceTokenRotation = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(check_spec(&resource.spec), Ok(()));
}

#[test]
fn its_pod_is_the_example_of_a_consumer() {
    let example = read("examples/consumer.yaml");
    for line in blocks("yaml")[1].lines() {
        assert!(example.contains(&format!("\n{line}\n")), "{line}");
    }
}

#[test]
fn its_schedules_are_accepted() {
    let schedules = first_cells("| `schedule` | rotates |");
    assert!(!schedules.is_empty());
    for text in schedules {
        let spec: ScheduleSpec = serde_saphyr::from_str(&text).unwrap();
        let minimum = SignedDuration::from_mins(5);
        assert!(Schedule::parse(&spec, minimum).is_ok(), "{text}");
        // A field that does not exist would have been passed over.
        let again = serde_json::to_value(&spec).unwrap();
        let written: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(again, written);
    }
}

#[test]
fn its_metrics_are_all_that_there_are() {
    let metrics = Metrics::new();
    metrics.rotation("Scheduled", "stored");
    metrics.vendor_request("rotate", 200, Duration::ZERO);
    metrics.unreadable("Secret", 0);
    metrics.held_back(429);
    let sample = ResourceSample {
        namespace: "data".into(),
        name: "etl".into(),
        ready: true,
        reason: "Live".into(),
        stalled: Some("Forbidden".into()),
        reconciling: Some("Rotating".into()),
        next: Some(0),
        last: Some(0),
        expires: Some(0),
        credential_expires: Some(0),
        lost: 0,
        held_back: false,
    };
    let text = metrics.render(vec![sample], 0);
    let families = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE astro_token_operator_"));
    let mut exposed: Vec<_> = families
        .map(|family| match family.split_once(' ').unwrap() {
            (name, "counter") => format!("{name}_total"),
            (name, "info") => format!("{name}_info"),
            (name, _) => name.to_owned(),
        })
        .collect();
    let cells = first_cells("| name, after `astro_token_operator_` |");
    let mut named: Vec<_> = cells
        .iter()
        .map(|cell| cell.split('{').next().unwrap())
        .collect();
    exposed.sort();
    named.sort();
    assert_eq!(named, exposed);

    for cell in &cells {
        let (name, labels) = cell
            .trim_end_matches('}')
            .split_once('{')
            .unwrap_or((cell, ""));
        let prefix = format!("astro_token_operator_{name}");
        let series = text.lines().filter(|line| line.starts_with(&prefix));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let named = format!("{label}=\"");
            assert!(series.clone().any(|line| line.contains(&named)), "{cell}");
        }
    }
}

#[test]
fn its_commands_are_all_that_there_are_for_people() {
    let cli = Cli::command();
    let commands = cli.get_subcommands().map(|it| it.get_name().to_owned());
    let for_people = commands.filter(|it| !["run", "crd", "help"].contains(&it.as_str()));
    let mut for_people: Vec<_> = for_people.collect();
    let mut named = first_cells("| command | what it does |");
    for_people.sort();
    named.sort();
    assert_eq!(named, for_people);
    let lines = blocks("sh").concat();
    let commands = lines.lines().filter_map(|line| line.rsplit("$(").next());
    let commands = commands.filter(|it| it.starts_with("astro-token-operator "));
    for command in commands {
        // The only name in two words.
        let command = command.replace("\"My token\"", "Mine");
        let parsed = Cli::try_parse_from(command.trim_end_matches(')').split_whitespace());
        assert!(parsed.is_ok(), "{command}");
    }
}

#[test]
fn its_links_and_make_targets_exist() {
    let readme = read("README.md");
    let links = readme.split("](").skip(1);
    let links = links.map(|rest| rest.split(')').next().unwrap());
    for link in links.filter(|link| !link.starts_with("https://")) {
        assert!(Path::new(ROOT).join(link).exists(), "{link}");
    }
    let makefile = read("Makefile");
    let commands = blocks("sh").concat();
    let spans = readme.split('`').chain(commands.lines());
    let targets = spans.filter_map(|text| text.strip_prefix("make "));
    for target in targets.filter_map(|text| text.split_whitespace().next()) {
        assert!(makefile.contains(&format!("\n{target}: ## ")), "{target}");
    }
    for file in commands
        .split_whitespace()
        .filter(|word| word.ends_with(".yaml"))
    {
        assert!(Path::new(ROOT).join(file).exists(), "{file}");
    }
}
