//! Makes text of others fit to be shown: bounded, one line, and without anything that might be a value.

/// Longest run of characters a value could be made of that is still shown: a Kubernetes label is, a line of PEM is not.
const LONGEST_RUN: usize = 63;
/// The same of a run in which a JWT seems to begin.
const LONGEST_JWT: usize = 16;

/// At most `longest` characters of `text`, on one line, opaque runs replaced.
pub fn scrub(text: &str, longest: usize) -> String {
    // Hidden characters go first: they must not cut a run into pieces that are each short enough.
    let text: String = text
        .chars()
        .filter(|c| c.is_whitespace() || !is_hidden(*c))
        .collect();
    let mut shown = String::new();
    for word in text.split_whitespace() {
        if !shown.is_empty() {
            shown.push(' ');
        }
        for piece in word.split_inclusive(|c: char| !is_opaque(c)) {
            let run = piece.chars().filter(|c| is_opaque(*c)).count();
            if run > LONGEST_RUN || run > LONGEST_JWT && piece.contains("eyJ") {
                shown.push_str("[redacted]");
                shown.extend(piece.chars().filter(|c| !is_opaque(*c)));
            } else {
                shown.push_str(piece);
            }
        }
        if shown.len() > longest * 4 {
            break;
        }
    }
    shown.chars().take(longest).collect()
}

/// At most `longest` characters of `text`, on one line, without those that cannot be seen or turn others around.
pub fn line(text: &str, longest: usize) -> String {
    let visible = |c: char| match c.is_whitespace() {
        true => Some(' '),
        false => (!is_hidden(c)).then_some(c),
    };
    text.chars().filter_map(visible).take(longest).collect()
}

/// Control and format characters: what a terminal or a reader takes for something else than text.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// What an API server said, or why it said nothing; at most `longest` characters.
pub fn api_error(error: &kube::Error, longest: usize) -> String {
    match error {
        // Its own form repeats the whole answer.
        kube::Error::Api(status) => scrub(&status.message, longest),
        error => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text = format!("{text}: {inner_text}");
                }
                cause = inner.source();
            }
            scrub(&text, longest)
        }
    }
}

/// At most so many bytes of a text.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The alphabets of base64, base64url and JWTs.
fn is_opaque(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.=+/~".contains(c)
}

#[cfg(test)]
mod tests {
    use super::{is_hidden, line, scrub};

    #[test]
    fn values_go_and_names_stay() {
        let value = format!("eyJ{}.{}", "x".repeat(700), "y".repeat(20));
        let text = format!("bad\ttoken \"{value}\" in astro-token-operator.io/adopt=ci-deployer\n");
        assert_eq!(
            scrub(&text, 200),
            "bad token \"[redacted]\" in astro-token-operator.io/adopt=ci-deployer"
        );
    }

    #[test]
    fn a_value_cut_into_pieces_or_quoted_in_part_is_one_all_the_same() {
        let pieces = ["x".repeat(50), "y".repeat(50)].join("\u{200b}");
        assert_eq!(scrub(&format!("a {pieces} b"), 200), "a [redacted] b");
        assert_eq!(scrub("bearer=eyJhbGciOiJSUzI1NiIs...", 200), "[redacted]");
    }

    proptest::proptest! {
        #[test]
        fn a_line_is_one_line_of_visible_characters(text in ".*", longest in 0usize..300) {
            for shown in [line(&text, longest), scrub(&text, longest)] {
                proptest::prop_assert!(shown.chars().count() <= longest);
                proptest::prop_assert!(!shown.chars().any(is_hidden));
            }
        }

        #[test]
        fn nothing_is_longer_than_asked_or_on_two_lines(text in ".*", longest in 0usize..300) {
            let shown = scrub(&text, longest);
            proptest::prop_assert!(shown.chars().count() <= longest);
            proptest::prop_assert!(!shown.contains('\n'));
        }

        #[test]
        fn no_line_of_a_value_is_shown_whatever_it_stands_in(
            before in ".*", value in "[A-Za-z0-9+/=._-]{64,70}", after in ".*",
        ) {
            let shown = scrub(&format!("{before}{value}{after}"), usize::MAX / 8);
            let mut lines = value.as_bytes().windows(20);
            proptest::prop_assert!(lines.all(|line| !shown.as_bytes().windows(20).any(|it| it == line)));
        }
    }
}
