//! One change of a value, as its consumer lived through it: times only, and no values.

use std::sync::Arc;
use std::time::Instant;

use super::consumer::Pages;

/// When each value of a token was issued, the oldest first.
pub(super) type Issues = Vec<(Instant, Arc<str>)>;

/// Times in seconds, counted from the instant at which Astro issued the new value.
#[derive(Clone, Debug)]
pub struct Turn {
    /// From when on the consumer held the old value.
    pub held_from: f64,
    /// When the old value became invalid; `None`: not in this run.
    pub old_until: Option<f64>,
    /// The same of the new value.
    pub new_until: Option<f64>,
    /// From when on the consumer held the new value.
    pub switched: f64,
    /// When each call was sent that was not refused.
    pub accepted: Vec<f64>,
    /// When each call was sent that was refused.
    pub refused: Vec<f64>,
}

impl Turn {
    /// Which calls with the old value were refused, if any were, and what was valid then.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut refused = self.refused.iter().filter(|at| **at < self.switched);
        let first = refused.next()?;
        let number = refused.count() + 1;
        let valid = match self.old_until {
            Some(end) => format!("until {end:+.2} s"),
            None => "all the time".into(),
        };
        Some(format!(
            "{number} calls refused from {first:+.2} s on; the old value was valid {valid}, and the consumer had the new one \
             at {:+.2} s (0 s: Astro issued it)",
            self.switched
        ))
    }
}

/// Every change that a consumer lived through, with all calls from when it read the old value until it read the one after
/// the new one.
pub(super) fn turns(pages: &Pages, tokens: &[Issues]) -> Vec<Turn> {
    let pairs = pages.readings.windows(2).enumerate();
    let turns = pairs.filter_map(|(place, pair)| {
        let (_, old_until) = life(tokens, &pair[0].value)?;
        let (issued, new_until) = life(tokens, &pair[1].value)?;
        let next = pages.readings.get(place + 2).map(|reading| reading.at);
        let around = |at: Instant| at >= pair[0].at && next.is_none_or(|next| at < next);
        let calls = |refused| {
            let calls = pages.calls.iter();
            let calls = calls.filter(move |it| it.refused == refused && around(it.at));
            calls.map(move |call| seconds(call.at, issued)).collect()
        };
        Some(Turn {
            held_from: seconds(pair[0].at, issued),
            old_until: old_until.map(|end| seconds(end, issued)),
            new_until: new_until.map(|end| seconds(end, issued)),
            switched: seconds(pair[1].at, issued),
            accepted: calls(false),
            refused: calls(true),
        })
    });
    turns.collect()
}

/// When a value was issued, and when it became invalid: with the next one of its token.
fn life(tokens: &[Issues], value: &str) -> Option<(Instant, Option<Instant>)> {
    tokens.iter().find_map(|issues| {
        let place = issues.iter().position(|(_, it)| **it == *value)?;
        Some((issues[place].0, issues.get(place + 1).map(|(at, _)| *at)))
    })
}

/// How long after another instant one is; negative before it.
fn seconds(at: Instant, from: Instant) -> f64 {
    match at.checked_duration_since(from) {
        Some(after) => after.as_secs_f64(),
        None => -(from - at).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::consumer::{Call, Reading};
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_value_is_valid_until_the_next_one_of_its_own_token() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let reading = |second, value: &str| Reading {
            at: at(second),
            value: value.into(),
        };
        let call = |second, refused| Call {
            at: at(second),
            refused,
        };
        let pages = Pages {
            readings: vec![reading(1, "old"), reading(14, "new")],
            calls: vec![call(9, false), call(12, true), call(15, false)],
        };
        let issues = |all: &[(u64, &str)]| -> Issues {
            let all = all.iter();
            all.map(|(second, value)| (at(*second), (*value).into()))
                .collect()
        };

        let one = turns(&pages, &[issues(&[(0, "old"), (10, "new"), (20, "later")])]);
        let [turn] = &one[..] else { panic!("{one:?}") };
        assert_eq!((turn.held_from, turn.old_until), (-9.0, Some(0.0)));
        assert_eq!((turn.new_until, turn.switched), (Some(10.0), 4.0));
        assert_eq!(turn.accepted, [-1.0, 5.0]);
        assert_eq!(turn.refused, [2.0]);
        let said = "1 calls refused from +2.00 s on; the old value was valid until +0.00 s, and the consumer had the new one \
                    at +4.00 s (0 s: Astro issued it)";
        assert_eq!(turn.refusal().as_deref(), Some(said));

        let two = turns(
            &pages,
            &[issues(&[(0, "old"), (20, "later")]), issues(&[(10, "new")])],
        );
        assert_eq!((two[0].old_until, two[0].new_until), (Some(10.0), None));
    }
}
