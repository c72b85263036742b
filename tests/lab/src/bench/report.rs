//! The table at the end: what was measured, the same of the bare client, the goal, and whether it is met.

use std::fmt;
use std::time::Duration;

/// What stands in the place of a figure that this run has not measured.
const UNMEASURED: &str = "not measured";

/// One figure.
pub struct Row {
    what: String,
    measured: String,
    floor: String,
    goal: String,
    met: bool,
}

/// A figure as it was measured.
pub struct Figure {
    measured: String,
    floor: String,
    met: bool,
}

/// All figures, in the order in which they were added.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Figure {
    /// One that meets its goal, or not.
    pub fn new(measured: impl fmt::Display, met: bool) -> Self {
        Self {
            measured: measured.to_string(),
            floor: String::new(),
            met,
        }
    }

    /// With the same of the bare client.
    pub fn floor(self, floor: impl fmt::Display) -> Self {
        let floor = floor.to_string();
        Self { floor, ..self }
    }
}

impl Report {
    /// Adds a figure with a goal; without a figure it was not measured, and the goal is not met.
    pub fn goal(
        &mut self,
        what: impl Into<String>,
        goal: impl Into<String>,
        figure: Option<Figure>,
    ) {
        let figure = figure.unwrap_or_else(|| Figure::new(UNMEASURED, false));
        self.0.push(Row {
            what: what.into(),
            measured: figure.measured,
            floor: figure.floor,
            goal: goal.into(),
            met: figure.met,
        });
    }

    /// Adds a figure without a goal.
    pub fn figure(
        &mut self,
        what: impl Into<String>,
        measured: impl fmt::Display,
        floor: impl fmt::Display,
    ) {
        self.0.push(Row {
            what: what.into(),
            measured: measured.to_string(),
            floor: floor.to_string(),
            goal: String::new(),
            met: false,
        });
    }

    /// How many goals are met, and how many there are.
    pub fn goals(&self) -> (usize, usize) {
        let goals = self.0.iter().filter(|row| !row.goal.is_empty());
        (goals.clone().filter(|row| row.met).count(), goals.count())
    }
}

impl Row {
    /// In the last column.
    fn verdict(&self) -> &'static str {
        match (self.goal.as_str(), self.measured.as_str(), self.met) {
            ("", ..) => "",
            (_, UNMEASURED, _) => "-",
            (_, _, true) => "yes",
            (_, _, false) => "NO",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["figure", "measured", "bare client", "goal"].map(str::to_owned);
        let cells =
            |row: &Row| [&row.what, &row.measured, &row.floor, &row.goal].map(String::to_owned);
        let lines = || std::iter::once(heads.clone()).chain(self.0.iter().map(cells));
        let width = |n: usize| lines().map(|line| line[n].chars().count()).max();
        let widths = [0, 1, 2, 3].map(|n| width(n).unwrap_or_default());
        let mets = std::iter::once("met").chain(self.0.iter().map(Row::verdict));
        for ([what, measured, floor, goal], met) in lines().zip(mets) {
            let [a, b, c, d] = widths;
            let line = format!("{what:a$}  {measured:>b$}  {floor:>c$}  {goal:<d$}  {met}");
            writeln!(f, "{}", line.trim_end())?;
        }
        let (met, all) = self.goals();
        writeln!(f, "\ngoals met: {met} of {all}")
    }
}

/// What this share of all times did not pass.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_owned();
    times.sort_unstable();
    let rank = (times.len() as f64 * share).ceil() as usize;
    let found = times.get(rank.saturating_sub(1));
    found.copied().unwrap_or_default()
}

/// By which power of the first numbers the second ones grow: the slope of a line through their logarithms. `None` for
/// less than two of them.
pub fn exponent(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<_> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let number = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / number;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = logs.iter().map(|point| (point.0 - x).powi(2)).sum();
    let common: f64 = logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    (spread > 0.0).then(|| common / spread)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_what_was_not_measured_is_not_met() {
        let mut report = Report::default();
        report.goal(
            "time",
            "< 1 ms",
            Some(Figure::new("1 s", false).floor("0.5 s")),
        );
        report.goal("calls of the vendor", "≤ 2", Some(Figure::new(2, true)));
        report.figure("files", 7, "");
        report.goal("memory", "< 64 MiB", None);
        let expected = "\
figure                   measured  bare client  goal      met
time                          1 s        0.5 s  < 1 ms    NO
calls of the vendor             2               ≤ 2       yes
files                           7
memory               not measured               < 64 MiB  -

goals met: 1 of 3
";
        assert_eq!(report.to_string(), expected);
    }

    #[test]
    fn a_quantile_is_one_of_the_times_whatever_their_order() {
        let times = [9, 1, 5, 7].map(Duration::from_millis);
        let found = [0.5, 0.75, 0.99, 1.0].map(|share| quantile(&times, share).as_millis());
        assert_eq!(found, [5, 7, 9, 9]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }

    #[test]
    fn the_exponent_of_a_power_is_found_and_needs_two_points() {
        let square = [500.0, 2_000.0, 10_000.0].map(|n: f64| (n, 3.0 * n.powi(2)));
        assert!((exponent(&square).unwrap() - 2.0).abs() < 1e-9);
        let level = [500.0, 10_000.0].map(|n| (n, 1.7));
        assert!(exponent(&level).unwrap().abs() < 1e-9);
        assert_eq!(exponent(&level[..1]), None);
        assert_eq!(exponent(&[]), None);
    }
}
