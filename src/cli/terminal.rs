//! How commands print: tables and paragraphs as wide as the terminal, colours only on one and never with NO_COLOR.

mod columns;

pub use self::columns::Columns;
use anstyle::{AnsiColor, Effects, Style};
use jiff::{SignedDuration, SpanRound, Unit};
use std::io::Write;
use std::os::fd::AsFd;

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

/// The last word of a command that failed, as clap says its own.
pub fn print_error(error: &anyhow::Error) {
    let style = BAD;
    anstream::eprintln!("{style}error:{style:#} {error:#}");
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
    let header: Vec<_> = header.map(str::to_owned).into();
    let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
    let columns = Columns::fit(&header, &rows, width);
    columns.render(std::iter::once(header).chain(rows))
}

/// A text behind a title, its further lines under its first.
pub fn paragraph(title: &str, text: &str) -> String {
    let indent = " ".repeat(textwrap::core::display_width(title));
    let width = width().unwrap_or(usize::MAX).max(indent.len() + 20);
    let options = textwrap::Options::new(width)
        // A hyphen is part of a name, an id or a date.
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_short() {
        let short = |seconds| short(SignedDuration::from_secs(seconds));
        assert_eq!(short(0), "0s");
        assert_eq!(short(310), "5m 10s");
        assert_eq!(short(3600 * 25 + 59), "1d 1h");
        assert_eq!(short(3600 * 5 + 61), "5h 1m");
        assert_eq!(short(86_400 * 400), "400d");
    }
}
