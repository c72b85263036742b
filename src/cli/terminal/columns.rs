//! The columns of a table: as wide as their cells, narrower where the terminal is, and the same for rows that come later.

use tabled::builder::Builder;
use tabled::grid::util::string::get_text_width;
use tabled::settings::object::Columns as Column;
use tabled::settings::{Padding, Style as Lines, Width};

/// Between two columns, as kubectl has it.
const GAP: usize = 3;

/// How wide each column is.
pub struct Columns {
    widths: Vec<usize>,
    wraps: bool,
}

impl Columns {
    /// As wide as the widest cell of each. Where `limit` columns of a terminal are too few the widest give way first,
    /// and words are broken only when that is not enough; a header never is.
    pub fn fit(header: &[String], rows: &[Vec<String>], limit: Option<usize>) -> Self {
        let measure = |of: fn(&str) -> usize| {
            let mut widths: Vec<_> = header.iter().map(|cell| get_text_width(cell)).collect();
            for row in rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = of(cell).max(*width);
                }
            }
            widths
        };
        let mut widths = measure(get_text_width);
        if let Some(limit) = limit {
            let limit = limit.saturating_sub(GAP * widths.len().saturating_sub(1));
            shrink(&mut widths, &measure(longest_word), limit);
            shrink(&mut widths, &measure(|_| 0), limit);
        }
        Self {
            widths,
            wraps: limit.is_some(),
        }
    }

    /// The lines of some rows; a cell that is too wide for its column is wrapped in it on a terminal.
    pub fn render(&self, rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let wrapped = |(width, cell): (&usize, String)| match self.wraps {
            true => textwrap::fill(&cell, *width),
            false => cell,
        };
        let mut builder = Builder::new();
        for row in rows {
            builder.push_record(self.widths.iter().zip(row).map(wrapped));
        }
        let mut table = builder.build();
        table.with(Lines::empty()).with(Padding::new(0, GAP, 0, 0));
        for (place, width) in self.widths.iter().enumerate() {
            table.modify(Column::one(place), Width::increase(*width));
        }
        let lines = table.to_string();
        let lines = lines.lines().map(|line| format!("{}\n", line.trim_end()));
        lines.collect()
    }
}

/// Takes from the widest until all are within `limit`, and from none more than down to its `least`.
fn shrink(widths: &mut [usize], least: &[usize], limit: usize) {
    while widths.iter().sum::<usize>() > limit {
        let may_shrink = widths.iter_mut().zip(least);
        let may_shrink = may_shrink.filter(|(width, least)| **width > **least);
        match may_shrink.map(|(width, _)| width).max() {
            Some(widest) => *widest -= 1,
            None => return,
        }
    }
}

/// Names of Kubernetes have words too, which end in hyphens.
fn longest_word(cell: &str) -> usize {
    let words = cell.split_whitespace();
    let words = words.flat_map(|word| word.split_inclusive('-'));
    words.map(get_text_width).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(row: [&str; N]) -> Vec<String> {
        row.map(str::to_owned).into()
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_whatever_colours_are_in_them() {
        let (header, row) = (
            cells(["NAME", "READY"]),
            cells(["ci", "\x1b[32mTrue\x1b[0m"]),
        );
        let columns = Columns::fit(&header, std::slice::from_ref(&row), None);
        assert_eq!(columns.widths, [4, 5]);
        let text = columns.render([header, row]);
        assert_eq!(text, "NAME   READY\nci     \x1b[32mTrue\x1b[0m\n");
    }

    #[test]
    fn a_row_that_comes_later_keeps_to_the_columns() {
        let (header, row) = (cells(["NAME", "NEXT"]), cells(["deployer", "in 3d"]));
        let columns = Columns::fit(&header, &[row], None);
        assert_eq!(columns.render([cells(["ci", "-"])]), "ci         -\n");
        let wider = columns.render([cells(["much-too-wide", "-"])]);
        assert_eq!(wider, "much-too-wide   -\n");
    }

    #[test]
    fn sentences_give_way_to_a_narrow_terminal_then_words_and_headers_never() {
        let header = cells(["NAME", "TOKEN"]);
        let row = cells(["data-deployer", "the tokenofdata"]);
        let text = |limit| {
            let columns = Columns::fit(&header, std::slice::from_ref(&row), Some(limit));
            columns.render([header.clone(), row.clone()])
        };
        let (wide, narrow) = (text(31), text(23));
        let one = "\ndata-deployer   the tokenofdata\n";
        assert!(wide.ends_with(one), "{wide}");
        let two = "\ndata-       the\ndeployer    tokenofdata\n";
        assert!(narrow.ends_with(two), "{narrow}");
        let broken = text(17);
        assert!(broken.lines().all(|line| line.len() <= 17), "{broken}");
        assert!(broken.contains("the\n"), "{broken}");
        let least = text(1);
        assert!(least.starts_with("NAME   TOKEN\n"), "{least}");
    }
}
