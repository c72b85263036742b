//! The table at the end: what was measured, the same of the bare client, the goal, and whether it is met.

use std::fmt;
use std::time::Duration;

/// One figure.
pub struct Row {
    what: String,
    measured: String,
    floor: String,
    goal: String,
    met: Option<bool>,
    required: bool,
}

/// All figures, in the order in which they were added.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Row {
    /// A figure without a goal.
    pub fn new(what: impl Into<String>, measured: impl fmt::Display) -> Self {
        Self {
            what: what.into(),
            measured: measured.to_string(),
            floor: String::new(),
            goal: String::new(),
            met: None,
            required: false,
        }
    }

    /// The same of the bare client.
    pub fn floor(self, floor: impl fmt::Display) -> Self {
        let floor = floor.to_string();
        Self { floor, ..self }
    }

    /// With a goal, and whether it is met.
    pub fn goal(self, goal: impl Into<String>, met: bool) -> Self {
        Self {
            goal: goal.into(),
            met: Some(met),
            ..self
        }
    }

    /// To miss the goal is a fault: it is a count, which is the same on every machine.
    pub fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }
}

impl Report {
    /// Adds a figure at the end.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Whether nothing that is required is missed.
    pub fn is_right(&self) -> bool {
        let wrong = |row: &Row| row.required && row.met == Some(false);
        !self.0.iter().any(wrong)
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
        let mets = std::iter::once("met").chain(self.0.iter().map(|row| match row.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        }));
        for ([what, measured, floor, goal], met) in lines().zip(mets) {
            let [a, b, c, d] = widths;
            let line = format!("{what:a$}  {measured:>b$}  {floor:>c$}  {goal:<d$}  {met}");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_only_a_required_goal_decides() {
        let mut report = Report::default();
        report.add(Row::new("time", "1 s").floor("0.5 s").goal("< 1 ms", false));
        assert!(report.is_right());
        report.add(
            Row::new("calls of the vendor", 2)
                .goal("≤ 2", true)
                .required(),
        );
        assert!(report.is_right());
        let expected = "\
figure               measured  bare client  goal    met
time                      1 s        0.5 s  < 1 ms  NO
calls of the vendor         2               ≤ 2     yes
";
        assert_eq!(report.to_string(), expected);
        report.add(Row::new("writes", 5).goal("≤ 4", false).required());
        assert!(!report.is_right());
    }

    #[test]
    fn a_quantile_is_one_of_the_times_whatever_their_order() {
        let times = [9, 1, 5, 7].map(Duration::from_millis);
        let found = [0.5, 0.75, 0.99, 1.0].map(|share| quantile(&times, share).as_millis());
        assert_eq!(found, [5, 7, 9, 9]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
