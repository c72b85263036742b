//! A time line of one rotation with one token beside one with two, as SVG: made of the times of a run.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use super::{Outcome, Tokens, Turn};

/// What is shown, in seconds around the instant at which Astro issues the new value.
const FROM: f64 = -2.0;
const UNTIL: f64 = 7.0;
/// Where the times begin, and how wide a second is.
const LEFT: f64 = 190.0;
const SECOND: f64 = 70.0;
const WIDTH: f64 = LEFT + SECOND * (UNTIL - FROM) + 30.0;
const TOP: f64 = 34.0;
const ROW: f64 = 34.0;
const BAR: f64 = 22.0;
/// A heading, four rows, and what keeps it apart from the next.
const GROUP: f64 = ROW * 5.0 + 22.0;

/// The colours of one of the two pictures.
struct Theme {
    name: &'static str,
    paper: &'static str,
    ink: &'static str,
    faint: &'static str,
    /// Behind what is about the old value, and about the new one.
    old: &'static str,
    new: &'static str,
    refused: &'static str,
}

const LIGHT: Theme = Theme {
    name: "light",
    paper: "#ffffff",
    ink: "#1f2328",
    faint: "#8c959f",
    old: "#b6d4fb",
    new: "#b4e6c2",
    refused: "#cf222e",
};
const DARK: Theme = Theme {
    name: "dark",
    paper: "#0d1117",
    ink: "#e6edf3",
    faint: "#7d8590",
    old: "#1f4a85",
    new: "#1d6537",
    refused: "#ff7b72",
};

/// A picture that is being drawn.
struct Canvas<'a> {
    theme: &'a Theme,
    text: String,
}

/// Writes `zero-downtime-light.svg` and `zero-downtime-dark.svg` into a folder, which is created.
///
/// # Errors
/// When no rotation without crashes was measured, or a file cannot be written.
pub fn write(folder: &Path, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let turns = choose(outcomes);
    anyhow::ensure!(!turns.is_empty(), "no rotation to draw: measure some first");
    let show = || {
        format!(
            "cannot write into {}: name another folder",
            folder.display()
        )
    };
    std::fs::create_dir_all(folder).with_context(show)?;
    for theme in [LIGHT, DARK] {
        let file = folder.join(format!("zero-downtime-{}.svg", theme.name));
        std::fs::write(file, draw(&turns, &theme)).with_context(show)?;
    }
    Ok(())
}

/// With one token, the rotation after which the consumer followed neither soon nor late; with two, the one that is most
/// like it. Rotations that have another one before or after them in the picture are left out where there are others.
fn choose(outcomes: &[Outcome]) -> Vec<(Tokens, &Turn)> {
    let calm = |tokens| {
        let mut arms = outcomes.iter();
        let arm = arms.find(|it| it.arm.tokens == tokens && !it.arm.crashes);
        let all: Vec<&Turn> = arm.map_or(&[][..], |arm| &arm.turns).iter().collect();
        let mut alone = all.clone();
        alone.retain(|turn| is_alone(turn));
        let mut turns = if alone.is_empty() { all } else { alone };
        turns.sort_by(|one, other| one.switched.total_cmp(&other.switched));
        turns
    };
    let (one, two) = (calm(Tokens::One), calm(Tokens::Two));
    let one = one.get(one.len() / 2).copied();
    let wanted = one.map_or((FROM + UNTIL) / 2.0, |turn| turn.switched);
    let apart = |turn: &&&Turn| (turn.switched - wanted).abs();
    let two = two.iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
    let one = one.map(|turn| (Tokens::One, turn));
    one.into_iter()
        .chain(two.map(|turn| (Tokens::Two, *turn)))
        .collect()
}

fn is_alone(turn: &Turn) -> bool {
    let later = |end: Option<f64>| end.is_none_or(|end| end >= UNTIL);
    turn.held_from <= FROM
        && later(turn.new_until)
        && (later(turn.old_until) || turn.old_until == Some(0.0))
}

/// The picture as a text.
fn draw(turns: &[(Tokens, &Turn)], theme: &Theme) -> String {
    let mut canvas = Canvas {
        theme,
        text: String::new(),
    };
    let bottom = TOP + GROUP * turns.len() as f64;
    canvas.begin(bottom + 40.0);
    canvas.axis(bottom);
    for (number, (tokens, turn)) in turns.iter().enumerate() {
        canvas.group(TOP + GROUP * number as f64, *tokens, turn);
    }
    canvas.text.push_str("</svg>\n");
    canvas.text
}

impl Canvas<'_> {
    fn begin(&mut self, height: f64) {
        let Theme { paper, .. } = self.theme;
        self.add(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\" \
             font-size=\"13\">"
        ));
        self.add(format_args!(
            "<title>One rotation with one token, and with two tokens that take turns</title>"
        ));
        self.add(format_args!(
            "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"{paper}\"/>"
        ));
    }

    /// The seconds below everything, and the instant of the rotation through it.
    fn axis(&mut self, bottom: f64) {
        let Theme { ink, faint, .. } = self.theme;
        let zero = x(0.0);
        self.add(format_args!(
            "<line x1=\"{zero}\" y1=\"{TOP}\" x2=\"{zero}\" y2=\"{bottom}\" stroke=\"{ink}\" stroke-dasharray=\"4 3\"/>"
        ));
        self.label(zero, TOP - 12.0, "middle", "Astro issues the new value");
        self.add(format_args!(
            "<line x1=\"{}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"{faint}\"/>",
            x(FROM),
            x(UNTIL)
        ));
        for second in FROM as i32..=UNTIL as i32 {
            let at = x(second.into());
            self.add(format_args!(
                "<line x1=\"{at}\" y1=\"{bottom}\" x2=\"{at}\" y2=\"{}\" stroke=\"{faint}\"/>",
                bottom + 5.0
            ));
            self.label(at, bottom + 20.0, "middle", &format!("{second} s"));
        }
    }

    /// The heading and the four rows of one rotation.
    fn group(&mut self, top: f64, tokens: Tokens, turn: &Turn) {
        let (old, new) = (self.theme.old, self.theme.new);
        let refused = shown(&turn.refused).count();
        let heading = match (tokens, refused) {
            (Tokens::One, 0) => "One token: no call is refused".into(),
            (Tokens::One, _) => format!("One token: {refused} calls are refused"),
            (Tokens::Two, 0) => "Two tokens: no call is refused".into(),
            (Tokens::Two, _) => format!("Two tokens: {refused} calls are refused"),
        };
        self.add(format_args!(
            "<text x=\"16\" y=\"{}\" font-weight=\"600\" font-size=\"15\" fill=\"{}\">{heading}</text>",
            top + 20.0,
            self.theme.ink
        ));
        let row = |number: f64| top + ROW * number;
        self.row(row(1.0), "The old value is valid");
        self.validity(row(1.0), FROM, turn.old_until, old);
        self.row(row(2.0), "The new value is valid");
        self.validity(row(2.0), 0.0, turn.new_until, new);
        self.row(row(3.0), "The consumer holds");
        self.bar(row(3.0), (FROM, turn.switched), old, "the old value");
        self.bar(row(3.0), (turn.switched, UNTIL), new, "the new value");
        self.row(row(4.0), "Its calls");
        self.calls(row(4.0), turn);
    }

    /// Short lines for calls that were accepted, long ones in another colour for those that were refused.
    fn calls(&mut self, top: f64, turn: &Turn) {
        let Theme { faint, refused, .. } = self.theme;
        let kinds = [(&turn.accepted, faint, 7.0), (&turn.refused, refused, 0.0)];
        for (calls, colour, shorter) in kinds {
            let mut path = String::new();
            for at in shown(calls) {
                // Cannot fail: it is written into memory.
                let _ = write!(path, "M{:.1} {}v{}", x(at), top + shorter, BAR - shorter);
            }
            if !path.is_empty() {
                self.add(format_args!(
                    "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
                ));
            }
        }
        let refused: Vec<f64> = shown(&turn.refused).collect();
        if let (Some(first), Some(last)) = (refused.first(), refused.last()) {
            let middle = f64::midpoint(x(*first), x(*last));
            self.badge(middle, top, "refused");
        }
    }

    /// A word on the lines of calls.
    fn badge(&mut self, middle: f64, top: f64, word: &str) {
        let Theme { paper, .. } = self.theme;
        self.add(format_args!(
            "<rect x=\"{:.1}\" y=\"{}\" width=\"64\" height=\"16\" rx=\"3\" fill=\"{paper}\"/>",
            middle - 32.0,
            top + 3.0
        ));
        self.label(middle, top + 15.0, "middle", word);
    }

    fn row(&mut self, top: f64, name: &str) {
        self.label(16.0, top + 15.0, "start", name);
    }

    /// How long a value is valid, and what ends that.
    fn validity(&mut self, top: f64, from: f64, until: Option<f64>, colour: &str) {
        let until = until.unwrap_or(UNTIL);
        let word = match until < UNTIL {
            true => "",
            false => "valid until a later rotation",
        };
        self.bar(top, (from, until), colour, word);
        if until < UNTIL {
            self.label(x(until) + 8.0, top + 15.0, "start", "refused from here on");
        }
    }

    /// A bar between two times, as far as they are in the picture, with a word where there is room for it.
    fn bar(&mut self, top: f64, (from, until): (f64, f64), colour: &str, word: &str) {
        let (from, until) = (x(from.max(FROM)), x(until.min(UNTIL)));
        let width = until - from;
        if width <= 0.0 {
            return;
        }
        self.add(format_args!(
            "<rect x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{colour}\"/>"
        ));
        if !word.is_empty() && width > 90.0 {
            self.label(f64::midpoint(from, until), top + 15.0, "middle", word);
        }
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let Theme { ink, .. } = self.theme;
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\" fill=\"{ink}\">{text}</text>"
        ));
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Cannot fail: it is written into memory.
        let _ = writeln!(self.text, "{element}");
    }
}

/// The times that are in the picture.
fn shown(times: &[f64]) -> impl Iterator<Item = f64> {
    let times = times.iter().copied();
    times.filter(|at| (FROM..=UNTIL).contains(at))
}

/// Where a time is.
fn x(second: f64) -> f64 {
    LEFT + (second - FROM) * SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(old_until: Option<f64>, switched: f64, refused: &[f64]) -> Turn {
        Turn {
            held_from: -3.0,
            old_until,
            new_until: Some(9.0),
            switched,
            accepted: vec![-1.0, 6.0],
            refused: refused.to_vec(),
        }
    }

    #[test]
    fn the_picture_says_what_was_refused() {
        let (one, two) = (
            turn(Some(0.0), 3.0, &[1.0, 2.0, UNTIL + 0.1]),
            turn(None, 3.0, &[]),
        );
        for theme in [LIGHT, DARK] {
            let text = draw(&[(Tokens::One, &one), (Tokens::Two, &two)], &theme);
            assert!(text.contains("One token: 2 calls are refused"), "{text}");
            assert!(text.contains("Two tokens: no call is refused"), "{text}");
            assert_eq!(text.matches(theme.refused).count(), 1, "{text}");
            assert!(text.ends_with("</svg>\n"));
        }
    }

    #[test]
    fn a_rotation_that_is_too_close_to_another_one_is_not_chosen() {
        assert!(is_alone(&turn(Some(0.0), 3.0, &[])));
        assert!(is_alone(&turn(Some(8.0), 3.0, &[])));
        assert!(!is_alone(&turn(Some(5.0), 3.0, &[])));
        let soon = Turn {
            held_from: -1.0,
            ..turn(None, 3.0, &[])
        };
        assert!(!is_alone(&soon));
    }
}
