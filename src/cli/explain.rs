//! `explain`: the reasons of `Ready=False`, as the README has them.

use super::terminal::{self, BOLD};
use crate::reason::{EXPLANATIONS, Explanation, Reason};

/// Flags of `explain`.
#[derive(clap::Args)]
pub struct Args {
    /// The reason, as it stands in the status; all of them when it is left out
    #[arg(value_enum, ignore_case = true, hide_possible_values = true)]
    pub reason: Option<Reason>,
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
