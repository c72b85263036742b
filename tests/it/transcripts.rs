//! docs/command-line.md tells the truth: each of its transcripts is run, in its order, against the simulator.

use crate::stage::process::{BINARY, output};
use jiff::SignedDuration;
use lab::astro::{Astro, NewToken};
use pty_process::{Command as Terminal, Size};
use regex::Regex;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

const DOCUMENT: &str = "docs/command-line.md";
/// Longest time for one command: one waits for a call that may still land.
const LONGEST: Duration = Duration::from_secs(60);
/// Columns of the terminal.
const COLUMNS: u16 = 100;

/// What the commands may use besides: whether a value is live, the calls that another command makes, a fault.
const TOOLS: &str = r#"
live() {
    body=$(printf '{"value": "%s"}' "$1")
    case $(curl -s "$ADMIN/live" -H 'content-type: application/json' -d "$body") in
        *'"live":true'*) echo 'the live value' ;;
        *) echo 'no live value' ;;
    esac
}
calls() {
    curl -s -X DELETE "$ADMIN/requests"
    "$@" >value
    curl -s "$ADMIN/requests" | grep -o '"operation":"[a-z]*"' | cut -d '"' -f 4
}
fault() {
    curl -s "$ADMIN/faults" -H 'content-type: application/json' -d "$1" >/dev/null
}
"#;

/// A fenced block: what is typed on its terminal, if it has one, and its commands with what they print.
struct Block<'a> {
    typed: Option<Vec<&'a str>>,
    commands: Vec<&'a str>,
}

/// The simulator, a folder to work in, and what stands in the document for what differs from run to run.
struct Desk {
    folder: PathBuf,
    /// Ids as the document has them, and as they are.
    ids: Vec<(String, String)>,
    environment: Vec<(&'static str, String)>,
    astro: Astro,
}

/// An id as the document has it.
fn placeholder(name: &str) -> String {
    format!("clm{name:0>22}")
}

impl Desk {
    fn set(astro: Astro, folder: &str) -> Self {
        let workspace = astro.workspace().to_owned();
        // Everything was there two days ago: ages that do not change while the commands run.
        let two_days = SignedDuration::from_hours(48);
        astro.settings(|settings| settings.clock_ahead = -two_days);
        let mut ids = vec![
            (placeholder("org"), astro.organization().to_owned()),
            (placeholder("wrk"), workspace.clone()),
        ];
        let mut create = |id: &str, token: NewToken| {
            let issued = astro.create(token);
            ids.push((placeholder(id), issued.id));
            issued.value
        };
        let member = |name: &str| NewToken::workspace(name, &workspace);
        let everywhere = NewToken::organization("Everywhere")
            .role("ORGANIZATION_OWNER")
            .also(&workspace, "WORKSPACE_OWNER")
            .also("another", "WORKSPACE_OWNER");
        let owner = NewToken::owner("Owner", &workspace).description("calls Astro");
        let owner = create("ownr", owner);
        create(
            "mine",
            member("My token")
                .description("deploys from CI")
                .expires(30),
        );
        create(
            "nit1",
            member("Nightly").description("of the first pipeline"),
        );
        create("nit2", member("Nightly"));
        create(
            "nit3",
            member("Nightly").description("will replace the two others"),
        );
        create("else", NewToken::workspace("Elsewhere", "another"));
        let reporting = NewToken::organization("Reporting");
        create("rept", reporting.also(&workspace, "WORKSPACE_MEMBER"));
        let everywhere = create("evry", everywhere);
        let expired = create("expd", NewToken::owner("Expired", "another").expires(1));
        astro.settings(|settings| settings.clock_ahead = SignedDuration::ZERO);

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("home")).unwrap();
        let programs = Path::new(BINARY).parent().unwrap().display();
        let path = std::env::var("PATH").unwrap();
        let admin = astro.url().replace("/v1", "/admin");
        let environment = vec![
            ("ADMIN", admin),
            ("ASTRO_API_TOKEN", owner),
            ("ASTRO_API_URL", astro.url()),
            ("EVERYWHERE", everywhere),
            ("EXPIRED", expired),
            ("LANDING_TIME", "2s".into()),
            ("NO_COLOR", "1".into()),
            ("PATH", format!("{programs}:{path}")),
        ];
        Self {
            folder,
            ids,
            environment,
            astro,
        }
    }

    /// What the commands of a block print, each behind a mark.
    async fn run(&self, block: &Block<'_>) -> Vec<String> {
        let mut script = format!("exec 2>&1\n{TOOLS}");
        for command in &block.commands {
            let mut command = (*command).to_owned();
            for (shown, id) in &self.ids {
                command = command.replace(shown, id);
                command = command.replace(&shown.to_uppercase(), &id.to_uppercase());
            }
            script += &format!("printf '{MARK}'\n{command}\n");
        }
        let printed = match &block.typed {
            Some(typed) => self.on_terminal(&script, typed).await,
            None => self.in_pipe(&script).await,
        };
        let printed = printed.replace("\r\n", "\n");
        printed
            .split(MARK)
            .skip(1)
            .map(|text| self.tidy(text))
            .collect()
    }

    async fn in_pipe(&self, script: &str) -> String {
        let mut command = Command::new("bash");
        command
            .args(["-c", script])
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        String::from_utf8(output(&mut command).await.stdout).unwrap()
    }

    /// Types each text as soon as something is asked.
    async fn on_terminal(&self, script: &str, typed: &[&str]) -> String {
        let printed = timeout(LONGEST, self.type_on_terminal(script, typed)).await;
        printed.unwrap_or_else(|_| panic!("it does not end: {script}"))
    }

    async fn type_on_terminal(&self, script: &str, typed: &[&str]) -> String {
        let (mut terminal, end) = pty_process::open().unwrap();
        terminal.resize(Size::new(24, COLUMNS)).unwrap();
        let mut child = Terminal::new("bash")
            .args(["-c", script])
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .spawn(end)
            .unwrap();
        let (mut printed, mut typed) = (Vec::new(), typed.iter());
        let mut some = [0; 4096];
        // The terminal of a process that has ended is an error on Linux.
        while let Ok(read @ 1..) = terminal.read(&mut some).await {
            printed.extend_from_slice(&some[..read]);
            if printed.ends_with(b") ")
                && let Some(text) = typed.next()
            {
                terminal
                    .write_all(format!("{text}\n").as_bytes())
                    .await
                    .unwrap();
            }
        }
        child.wait().await.unwrap();
        assert_eq!(typed.next(), None, "was never asked for");
        String::from_utf8(printed).unwrap()
    }

    /// What is printed, as it is in the document: the same in each run.
    fn tidy(&self, printed: &str) -> String {
        let mut text = printed.to_owned();
        for (shown, id) in &self.ids {
            text = text.replace(id, shown);
        }
        for (what, shown) in [
            (r"eyJ[\w.-]{100,}", "eyJhbGciOiJS…"),
            (
                r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
                "0d9ad0bc-9b1c-4c9e-8f1d-6f5b0c6f7a11",
            ),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "2026-11-25T09:00:00Z"),
            (r"in (30d|29d 23h)", "in 30d"),
            (r"(\d+m )?\d+s ago, ", "2s ago, "),
        ] {
            text = Regex::new(what)
                .unwrap()
                .replace_all(&text, shown)
                .into_owned();
        }
        text
    }
}

/// Before what a command prints.
const MARK: &str = "\u{1e}";

/// The document with what its commands print now.
async fn written_anew(document: &str, desk: &Desk) -> String {
    let mut anew = String::new();
    let mut rest = document;
    while let Some((before, after)) = rest.split_once("```console") {
        let (block, after) = after.split_once("```\n").unwrap();
        let (kind, lines) = block.split_once('\n').unwrap();
        let typed = kind.trim().strip_prefix("terminal");
        let commands = lines.lines().filter_map(|line| line.strip_prefix("$ "));
        let block = Block {
            typed: typed.map(|typed| typed.split_whitespace().collect()),
            commands: commands.collect(),
        };
        let printed = desk.run(&block).await;
        assert_eq!(printed.len(), block.commands.len(), "{:?}", block.commands);
        anew += &format!("{before}```console{kind}\n");
        for (command, printed) in block.commands.iter().zip(printed) {
            anew += &format!("$ {command}\n{printed}");
        }
        anew += "```\n";
        rest = after;
    }
    anew + rest
}

#[tokio::test]
async fn what_the_document_shows_is_what_is_printed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = std::fs::read_to_string(&path).unwrap();
    let desk = Desk::set(Astro::start().await.unwrap(), "transcripts");
    let anew = written_anew(&document, &desk).await;
    let values = desk.astro.issued();
    assert!(values.iter().all(|value| !anew.contains(value)));
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(path, anew).unwrap();
        return;
    }
    let lines = document.lines().zip(anew.lines());
    let differ = lines
        .enumerate()
        .find(|(_, (shown, printed))| shown != printed);
    assert_eq!(
        differ, None,
        "GENERATE=1 cargo test --test it transcripts writes it anew"
    );
    assert_eq!(document.lines().count(), anew.lines().count());
}

#[tokio::test]
async fn colours_are_for_terminals_and_never_with_no_color() {
    let mut desk = Desk::set(Astro::start().await.unwrap(), "colours");
    let script = "exec 2>&1\nastro-token-operator rotate nosuch --force\nastro-token-operator explain Contested";
    let is_coloured = |text: &str| text.contains('\u{1b}');
    assert!(!is_coloured(&desk.on_terminal(script, &[]).await));
    desk.environment.retain(|(name, _)| *name != "NO_COLOR");
    desk.environment.push(("TERM", "xterm-256color".into()));
    let coloured = desk.on_terminal(script, &[]).await;
    assert_eq!(coloured.matches("\u{1b}[0m").count(), 2, "{coloured:?}");
    assert!(!is_coloured(&desk.in_pipe(script).await));
}
