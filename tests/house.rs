//! Each file of `src` uses only the rooms that its own room may use, and decisions have no effects.
//!
//! `docs/architecture.md` says what the rooms are for. The rules hold for every file by where it stands, so a new file
//! is under them without being named here.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, and the rooms it may use beside itself.
const ROOMS: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("api", &["id"]),
    ("text", &[]),
    ("clock", &[]),
    ("reason", &["text"]),
    ("decide", &["api", "id", "reason", "text"]),
    ("process", &["api", "clock", "text"]),
    (
        "astro",
        &["api", "decide", "id", "process", "reason", "text"],
    ),
    ("cluster", &["api", "clock", "decide", "reason", "text"]),
    ("args", &["cluster", "decide", "id", "process"]),
    (
        "operator",
        &[
            "api", "args", "astro", "clock", "cluster", "decide", "id", "process", "reason", "text",
        ],
    ),
    (
        "cli",
        &[
            "api", "args", "astro", "clock", "cluster", "decide", "id", "operator", "process",
            "reason", "text",
        ],
    ),
];

/// What no file of `decide` may contain: clients, runtimes, clocks, files, the environment, the command line, waiting.
const EFFECTS: &[&str] = &[
    "kube::Client",
    "kube::Api",
    "kube::runtime",
    "tokio",
    "reqwest",
    "clap",
    "Instant",
    "SystemTime",
    "::now()",
    "std::fs",
    "std::env",
    "std::process",
    "std::io",
    "std::net",
    "std::thread",
    "async ",
    ".await",
    "println!",
    "new_v4",
];

/// Words of EFFECTS that stand in a longer path whose first part is imported by braces, as in `use kube::{Api, Client}`.
const IMPORTED_EFFECTS: &[(&str, &[&str])] = &[
    ("kube", &["Api", "Client", "Config", "runtime", "client"]),
    ("std", &["env", "fs", "io", "net", "process", "thread"]),
];

/// The most lines of code in a file; tests, comments and empty lines do not count.
const LONGEST_FILE: usize = 400;

/// A file of `src`: its path in there, and its text without its tests and comments.
struct File {
    path: PathBuf,
    code: String,
}

impl File {
    /// The room it stands in.
    fn room(&self) -> &str {
        let first = self.path.components().next().unwrap();
        let first = first.as_os_str().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs")
    }
}

fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(File {
                    code: code(&fs::read_to_string(&path).unwrap()),
                    path: path.strip_prefix(&root).unwrap().to_owned(),
                });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

/// The lines that are neither tests, which stand last, nor comments, nor empty.
fn code(text: &str) -> String {
    let lines = text.lines();
    let lines = lines.take_while(|line| *line != "#[cfg(test)]" || !text.contains("mod tests {"));
    let is_code = |line: &&str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("//")
    };
    let lines = lines.filter(is_code).map(|line| format!("{line}\n"));
    lines.collect()
}

/// The names that follow `crate` in a text: of paths, and of what is imported by braces.
fn named(code: &str, root: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
        text[..end.unwrap_or(text.len())].to_owned()
    };
    let root = format!("{root}::");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(&root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &code[at + root.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        // Of nested braces only the first names matter.
        let mut depth = 0;
        let mut first = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                c if depth == 0 => first.push(c),
                _ => {}
            }
        }
        names.extend(first.split(',').map(|it| name(it.trim())));
    }
    names.retain(|name| !name.is_empty());
    names
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn each_room_uses_only_what_it_may() {
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let mut problems = Vec::new();
    for file in files() {
        let (room, path) = (file.room(), file.path.display());
        if ["main", "lib"].contains(&room) {
            continue;
        }
        let Some(may) = rooms.get(room) else {
            problems.push(format!("{path} stands in no room of the table"));
            continue;
        };
        // `super` does not leave a room, for no room is deeper than a face, a folder and what is in it.
        for used in named(&file.code, "crate") {
            if used != room && !may.contains(&used.as_str()) {
                problems.push(format!("{path} uses {used}, and {room} may not"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn decisions_have_no_effects() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| file.room() == "decide") {
        let path = file.path.display();
        for effect in EFFECTS.iter().filter(|it| file.code.contains(**it)) {
            problems.push(format!("{path} has {effect:?}"));
        }
        for (root, effects) in IMPORTED_EFFECTS {
            for name in named(&file.code, root) {
                if effects.contains(&name.as_str()) {
                    problems.push(format!("{path} imports {root}::{name}"));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn no_two_files_of_a_room_use_each_other() {
    let files: Vec<_> = files().into_iter().filter(|file| !file.is_test()).collect();
    let uses = uses(&files);
    let mut problems = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let mut reached = vec![false; files.len()];
        let mut open = uses[index].clone();
        while let Some(next) = open.pop() {
            if !std::mem::replace(&mut reached[next], true) {
                open.extend(&uses[next]);
            }
        }
        if reached[index] {
            let mut circle = Vec::new();
            for (other, it) in files
                .iter()
                .enumerate()
                .filter(|(other, _)| reached[*other])
            {
                if uses[other].contains(&index) {
                    circle.push(it.path.display().to_string());
                }
            }
            let path = file.path.display();
            problems.push(format!("{path} is in a circle, by {}", circle.join(", ")));
        }
    }
    assert_none(&problems);
}

/// For each file the files it takes something from: where the longest part of a path leads that is a module.
fn uses(files: &[File]) -> Vec<Vec<usize>> {
    let module = |file: &File| file.path.with_extension("").display().to_string();
    let modules: BTreeMap<_, _> = files.iter().map(module).zip(0..).collect();
    let mut all = Vec::new();
    for file in files {
        let own = module(file);
        let parent = own.rsplit_once('/').map_or("", |(parent, _)| parent);
        let roots = [
            ("crate".to_owned(), String::new()),
            ("super::super".to_owned(), format!("{parent}/..")),
            ("super".to_owned(), parent.to_owned()),
            ("self".to_owned(), own.clone()),
        ];
        // What a file declares it may name without `self`.
        let declared = file.code.lines().filter_map(|line| {
            let (_, name) = line.strip_suffix(';')?.split_once("mod ")?;
            Some((name.to_owned(), format!("{own}/{name}")))
        });
        let mut used = Vec::new();
        for (root, base) in roots.into_iter().chain(declared) {
            for path in paths(&file.code, &root) {
                let mut whole: Vec<&str> = Vec::new();
                for part in base.split('/').chain(path.split("::")) {
                    match part {
                        "" => {}
                        ".." => drop(whole.pop()),
                        part => whole.push(part),
                    }
                }
                // The longest that is a file; what a face re-exports counts as the face's.
                let found = (1..=whole.len())
                    .rev()
                    .find_map(|n| modules.get(&whole[..n].join("/")));
                used.extend(found.filter(|it| files[**it].path != file.path));
            }
        }
        used.sort_unstable();
        used.dedup();
        all.push(used);
    }
    all
}

/// Paths behind a root, those in braces one by one.
fn paths(code: &str, root: &str) -> Vec<String> {
    let root = format!("{root}::");
    let mut all = Vec::new();
    for (at, _) in code.match_indices(&root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        expand(&code[at + root.len()..], "", &mut all);
    }
    all.retain(|path| !path.starts_with("super"));
    all
}

/// Adds the paths that begin here; returns what follows them.
fn expand<'a>(text: &'a str, before: &str, all: &mut Vec<String>) -> &'a str {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_path(c)).unwrap_or(text.len());
    let (path, mut rest) = text.split_at(end);
    let path = format!("{before}{path}");
    let Some(group) = rest.strip_prefix('{') else {
        all.push(path);
        return rest;
    };
    rest = group;
    loop {
        rest = expand(rest.trim_start(), &path, all);
        // An alias is no path.
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        let (end, more) = rest.split_at((end + 1).min(rest.len()));
        rest = more.trim_start();
        if end.ends_with('}') || rest.is_empty() {
            return rest;
        }
        if let Some(more) = rest.strip_prefix('}') {
            return more;
        }
    }
}

#[test]
fn no_file_is_longer_than_a_reader_can_keep_in_mind() {
    let long = files().into_iter().filter(|file| !file.is_test());
    let long = long.map(|file| (file.code.lines().count(), file.path));
    let long = long.filter(|(lines, _)| *lines > LONGEST_FILE);
    let long: Vec<_> = long
        .map(|(lines, path)| format!("{}: {lines}", path.display()))
        .collect();
    assert_none(&long);
}

#[test]
fn the_page_on_the_architecture_has_the_rules_of_the_table_in_their_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let code = read("src/decide/plan/rules.rs");
    let rules = code.split("rule(").filter_map(|call| {
        let name = call.trim_start().strip_prefix('"')?;
        Some(name.split('"').next().unwrap().to_owned())
    });
    let page = read("docs/architecture.md");
    let (_, table) = page.split_once("| rule | what it says |").unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| row.split('`').nth(1).unwrap().to_owned());
    assert_eq!(rows.collect::<Vec<_>>(), rules.collect::<Vec<_>>());
}
