//! How commands print: tables and paragraphs as wide as the terminal, colours only on one and never with NO_COLOR.

use anstyle::{AnsiColor, Effects, Style};
use jiff::{SignedDuration, SpanRound, Unit};
use std::io::Write;
use std::os::fd::AsFd;
use tabled::builder::Builder;
use tabled::settings::peaker::PriorityMax;
use tabled::settings::{Padding, Style as Lines, Width};

/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What is not.
pub const BAD: Style = AnsiColor::Red.on_default().effects(Effects::BOLD);
/// What should be looked at.
pub const WARN: Style = AnsiColor::Yellow.on_default();
/// What stands out.
pub const BOLD: Style = Style::new().bold();
/// What steps back.
pub const DIM: Style = Style::new().dimmed();

/// Prints text with colours in it to stdout, without them where it is no terminal.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Columns of the terminal that stdout is; `None`: it is none, and what is printed is for a program.
pub fn width() -> Option<usize> {
    width_of(std::io::stdout())
}

/// The same of stderr, where people are talked to while stdout is for a value.
pub fn width_of_stderr() -> Option<usize> {
    width_of(std::io::stderr())
}

fn width_of(stream: impl AsFd) -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(stream)?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

/// Rows under a header, as kubectl prints them; cells are wrapped where stdout is a terminal that is too narrow.
pub fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    table_within(width(), header, rows)
}

/// The same within so many columns; `None`: as many as it takes.
pub fn table_within<const N: usize>(
    width: Option<usize>,
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut builder = Builder::new();
    builder.push_record(header);
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Lines::empty()).with(Padding::new(0, 3, 0, 0));
    if let Some(width) = width {
        let widest_first = PriorityMax::right();
        table.with(Width::wrap(width).priority(widest_first).keep_words(true));
    }
    let lines = table.to_string();
    let lines = lines.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// A text behind a title, its further lines under its first.
pub fn paragraph(title: &str, text: &str) -> String {
    let indent = " ".repeat(textwrap::core::display_width(title));
    let width = width().unwrap_or(usize::MAX).max(indent.len() + 20);
    let options = textwrap::Options::new(width)
        .initial_indent(title)
        .subsequent_indent(&indent);
    textwrap::fill(text, options) + "\n"
}

/// A text as wide as the terminal that stderr is.
pub fn wrapped_for_stderr(text: &str) -> String {
    match width_of_stderr() {
        Some(width) => textwrap::fill(text, width),
        None => text.to_owned(),
    }
}

/// A length of time in its two largest units: `3d 4h`, `5m 10s`.
pub fn short(duration: SignedDuration) -> String {
    let duration = duration.abs();
    let smallest = match duration.as_hours() {
        24.. => Unit::Hour,
        1.. => Unit::Minute,
        _ => Unit::Second,
    };
    let round = SpanRound::new()
        .largest(Unit::Day)
        .smallest(smallest)
        .mode(jiff::RoundMode::Trunc)
        .days_are_24_hours();
    let span = jiff::Span::try_from(duration).and_then(|span| span.round(round));
    span.map_or_else(|_| "for ever".into(), |span| format!("{span:#}"))
}
