//! Questions and messages for the person who runs the command: on stderr, because stdout carries the value alone.

use super::place::Place;
use crate::astro::record::Details;
use crate::cli::terminal::{self, BOLD, WARN};
use crate::clock::now;
use crate::text::line;
use anyhow::{Context, bail};
use jiff::Timestamp;
use std::io::{IsTerminal, Write};
use tokio::signal::unix::{SignalKind, signal};

/// Longest name and description that is shown, characters.
const LONGEST: usize = 60;

/// Text of others, fit for a terminal.
pub(super) fn shown(text: &str) -> String {
    line(text, LONGEST)
}

/// Shows what is about to die, and asks.
pub(super) fn ask(chosen: &Details, place: Option<&Place>) -> anyhow::Result<()> {
    let now = now();
    let when = |time: Option<Timestamp>, never: &str| match time {
        Some(at) if at > now => format!("in {}, {at}", terminal::short(at.duration_since(now))),
        Some(at) => format!("{} ago, {at}", terminal::short(now.duration_since(at))),
        None => never.into(),
    };
    let token = &chosen.token;
    let mut facts = vec![
        ("token", format!("{} ({})", shown(&token.name), token.id)),
        (
            "last used",
            when(chosen.token.last_used, "never, as far as Astro has noticed"),
        ),
        (
            "rotated",
            when(token.version.rotated_at.as_ref().map(|at| at.0), "never"),
        ),
        ("expires", when(token.ends, "never")),
    ];
    facts.extend(place.map(|place| ("new value", format!("into Secret {place}"))));
    warn(
        "Rotating a token invalidates its current value at once, for everyone who uses it, and cannot be undone.",
    );
    for (name, fact) in facts {
        say(&format!("  {name:<11} {fact}"));
    }
    match answer("Rotate it? (y/N)")?.as_deref() {
        Some("y" | "Y" | "yes" | "Yes" | "YES") => Ok(()),
        Some(_) => bail!("nothing was rotated: you did not answer y"),
        None => bail!(
            "nothing was rotated: there was no answer; give --force where no one can be asked"
        ),
    }
}

/// One line of stdin, trimmed; `None` at its end.
pub(super) fn answer(question: &str) -> anyhow::Result<Option<String>> {
    anstream::eprint!("{BOLD}{question}{BOLD:#} ");
    std::io::stderr().flush()?;
    let mut line = String::new();
    let read = std::io::stdin()
        .read_line(&mut line)
        .context("stdin cannot be read")?;
    if read == 0 || !std::io::stdin().is_terminal() {
        // No one has pressed the return key, which would have ended the line of the question.
        eprintln!();
    }
    Ok((read > 0).then(|| line.trim().to_owned()))
}

/// Whether there is a person who can pick.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A notice; stdout is for the value alone.
pub(super) fn say(text: &str) {
    anstream::eprintln!("{}", terminal::wrapped_for_stderr(text));
}

pub(super) fn warn(text: &str) {
    say(&format!("{WARN}{text}{WARN:#}"));
}

/// Returns when the process was told twice to end: the first time it explains why it goes on.
pub(super) async fn given_up() {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let Ok(mut signals) = kinds.into_iter().map(signal).collect::<Result<Vec<_>, _>>() else {
        return std::future::pending().await;
    };
    for times in 1..=2 {
        let next = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(next).await;
        if times == 1 {
            warn(
                "a rotation is in flight, and ending now may lose its value: waiting for its end; once more gives it up",
            );
        }
    }
}
