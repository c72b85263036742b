//! The table at the end: one column for each arm.

use std::fmt;
use std::time::Duration;

use super::Outcome;

/// Widths of the names of the rows, and of a column.
const NAME: usize = 22;
const COLUMN: usize = 18;

/// The name of a row, and what an outcome has in it.
type Row = (&'static str, fn(&Outcome) -> String);

/// Outcomes side by side, in the order in which they were measured.
pub struct Table<'a>(pub &'a [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: [Row; 8] = [
            ("", |it| it.arm.tokens.to_string()),
            ("", |it| crashes(it.arm.crashes).into()),
            ("rotations", |it| it.rotations.to_string()),
            ("kills of the operator", |it| it.deaths.to_string()),
            ("  at a request", |it| it.cuts.to_string()),
            ("calls", |it| it.calls.to_string()),
            ("refused calls", |it| it.refused.to_string()),
            ("longest gap", |it| gap(it.longest_gap)),
        ];
        for (name, cell) in rows {
            write!(f, "{name:<NAME$}")?;
            for outcome in self.0 {
                write!(f, "{:>COLUMN$}", cell(outcome))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn crashes(crashes: bool) -> &'static str {
    match crashes {
        true => "with crashes",
        false => "without crashes",
    }
}

fn gap(gap: Option<Duration>) -> String {
    gap.map_or("none".into(), |gap| format!("{:.2} s", gap.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::super::{Arm, Tokens};
    use super::*;

    #[test]
    fn one_token_stands_beside_two() {
        let outcome = |tokens, refused, longest_gap| Outcome {
            arm: Arm {
                tokens,
                crashes: tokens == Tokens::Two,
            },
            rotations: 100,
            deaths: 50,
            cuts: 49,
            calls: 20_000,
            refused,
            longest_gap,
            turns: Vec::new(),
            refusals: Vec::new(),
        };
        let gap = Some(Duration::from_millis(4987));
        let outcomes = [
            outcome(Tokens::One, 4711, gap),
            outcome(Tokens::Two, 0, None),
        ];
        let expected = "
                               one token        two tokens
                         without crashes      with crashes
rotations                            100               100
kills of the operator                 50                50
  at a request                        49                49
calls                              20000             20000
refused calls                       4711                 0
longest gap                       4.99 s              none
";
        assert_eq!(format!("\n{}", Table(&outcomes)), expected);
    }
}
