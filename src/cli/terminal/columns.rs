//! The columns of a table: as wide as their cells, narrower where the terminal is, and the same for rows that come later.

use textwrap::core::display_width;

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
            let mut widths: Vec<_> = header.iter().map(|cell| display_width(cell)).collect();
            for row in rows {
                for (width, cell) in widths.iter_mut().zip(row) {
                    *width = of(cell).max(*width);
                }
            }
            widths
        };
        let mut widths = measure(display_width);
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
        let rows = rows.into_iter().map(|row| self.row(row));
        rows.collect()
    }

    /// As many lines as the cell that is wrapped into the most has.
    fn row(&self, cells: Vec<String>) -> String {
        let wrapped = |(width, cell): (&usize, &String)| -> Vec<String> {
            match self.wraps {
                true => textwrap::fill(cell, *width),
                false => cell.clone(),
            }
            .lines()
            .map(str::to_owned)
            .collect()
        };
        let cells: Vec<_> = self.widths.iter().zip(&cells).map(wrapped).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        let line = |index: usize| {
            let mut line = String::new();
            for (cell, width) in cells.iter().zip(&self.widths) {
                let text = cell.get(index).map_or("", String::as_str);
                line += text;
                line += &" ".repeat(width.saturating_sub(display_width(text)) + GAP);
            }
            format!("{}\n", line.trim_end())
        };
        (0..height).map(line).collect()
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
    words.map(display_width).max().unwrap_or_default()
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
