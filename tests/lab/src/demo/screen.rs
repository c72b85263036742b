//! What the demo prints: facts with the time since the start, in 80 columns.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::time::Instant;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
/// Of text that stands below the text of a fact.
const INDENT: &str = "          ";

/// Standard output. Nobody reading it is no failure.
pub struct Screen {
    begun: Instant,
    colours: bool,
    facts: Cell<usize>,
}

impl Screen {
    /// Time begins now.
    pub fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            begun: Instant::now(),
            colours: stdout().is_terminal() && !refused,
            facts: Cell::new(0),
        }
    }

    /// A headline.
    pub fn title(&self, text: &str) {
        self.print(self.paint(BOLD, text));
    }

    /// A fact that was checked.
    pub fn fact(&self, text: impl Display) {
        self.facts.set(self.facts() + 1);
        self.print(format!("{} {} {text}", self.time(), self.paint(GREEN, "✔")));
    }

    /// Text that claims nothing.
    pub fn say(&self, text: impl Display) {
        self.print(format!("{INDENT}{text}"));
    }

    /// What kept the story from going on.
    pub fn fail(&self, error: &anyhow::Error) {
        let text = format!("{error:#}").replace('\n', &format!("\n{INDENT}"));
        self.print(format!("{} {} {text}", self.time(), self.paint(RED, "✘")));
    }

    /// How many facts there were.
    pub fn facts(&self) -> usize {
        self.facts.get()
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn time(&self) -> String {
        let time = format!("+{:.1}s", self.seconds());
        self.paint(DIM, &format!("{time:>7}"))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn print(&self, line: String) {
        let _ = writeln!(stdout(), "{line}");
    }
}
