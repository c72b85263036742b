//! `explain`: the reasons of `Ready=False`, as the README has them.

use super::terminal::{self, BOLD};
use crate::reason::{EXPLANATIONS, Explanation, Reason};
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// Flags of `explain`.
#[derive(clap::Args)]
pub struct Args {
    /// The reason, as the status shows it; by default all of them
    #[arg(value_parser = reason(), ignore_case = true, hide_possible_values = true)]
    reason: Option<Reason>,
}

/// By its name; the names are completed by shells, and suggested after a slip.
fn reason() -> impl TypedValueParser<Value = Reason> {
    let names = EXPLANATIONS.iter().map(|row| row.reason.to_string());
    PossibleValuesParser::new(names).try_map(|name| {
        let is_it = |row: &&Explanation| row.reason.to_string().eq_ignore_ascii_case(&name);
        let row = EXPLANATIONS.iter().find(is_it);
        row.map(|row| row.reason).ok_or("there is no such reason")
    })
}

/// Prints the explanation of one reason, or the list of all.
///
/// # Errors
/// When it cannot be printed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match args.reason {
        Some(reason) => terminal::print(&in_full(reason.explain())),
        None => {
            let rows = EXPLANATIONS.iter().map(|row| {
                let name = format!("{BOLD}{}{BOLD:#}", row.reason);
                [name, row.meaning.to_owned()]
            });
            terminal::print(&terminal::table(["REASON", "MEANING"], rows))
        }
    }
}

fn in_full(row: &Explanation) -> String {
    let parts = [
        ("Means", row.meaning),
        ("The operator", row.operator),
        ("You", row.remedy),
    ];
    let parts = parts.map(|(title, text)| terminal::paragraph(&format!("  {title:<14}"), text));
    format!("{BOLD}{}{BOLD:#}\n{}", row.reason, parts.concat())
}
