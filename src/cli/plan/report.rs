//! The report on a resource: the facts, as JSON for programs and as text for people.

use super::checks::{Check, Outcome};
use super::facts::{TokenFacts, next_token, plain, token};
use super::verdict::{Decided, Verdict};
use crate::cli::terminal::{BAD, BOLD, DIM, GOOD, WARN, paragraph, short};
use crate::decide::evidence::{Observed, Stored};
use crate::decide::upcoming::Upcoming;
use crate::decide::version::Drift;
use crate::reason::Blocked;
use crate::text::line;
use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::ResourceExt;
use serde::Serialize;

/// Longest name of a token, and the like, that is shown, characters.
const LONGEST: usize = 256;

/// Everything that is reported about one resource.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// File and document it is from; absent: the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What the operator would do now.
    pub verdict: &'static str,
    /// Why it rotates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// When it looks again, or rotates next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Reason of `Ready=False` that goes with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The facts of the case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
    /// Rules that spoke, in their order.
    pub rules: Vec<Spoken>,
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenFacts>,
    /// Of two tokens that take turns, the one that the next rotation takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<TokenFacts>,
    /// The target Secret.
    pub secret: SecretFacts,
    /// Rotations to come.
    pub next: Vec<RotationFacts>,
    /// What the above takes for granted.
    pub notes: Vec<String>,
    /// What was checked.
    pub checks: Vec<Check>,
    #[serde(skip)]
    now: Timestamp,
    #[serde(skip)]
    headline: (Style, String),
}

/// A rule of the plan.
#[derive(Debug, Serialize)]
pub struct Spoken {
    /// Its name.
    pub rule: &'static str,
    /// What it says.
    pub says: &'static str,
}

/// The target Secret.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretFacts {
    name: String,
    key: String,
    /// `held`, `absent`, `foreign`, `given` or `not read`.
    state: &'static str,
    says: String,
}

/// A rotation to come.
#[derive(Debug, Serialize)]
pub struct RotationFacts {
    /// When, UTC.
    pub at: Timestamp,
    /// The same in the schedule's zone.
    pub local: String,
    /// The zone.
    pub zone: String,
    /// Why.
    pub cause: String,
}

/// How a resource came to be looked at.
pub struct Origin {
    /// File and document; `None`: the cluster.
    pub file: Option<String>,
    /// The Secret was read.
    pub secret_read: bool,
    /// What is taken for granted.
    pub notes: Vec<String>,
}

impl Report {
    /// Puts the facts together.
    pub fn new(
        decided: &Decided,
        verdict: &Verdict,
        upcoming: &Upcoming,
        checks: Vec<Check>,
        origin: Origin,
    ) -> Self {
        let seen = &decided.seen;
        let zone = seen.schedule.as_ref();
        let zone = zone.map_or(TimeZone::UTC, |schedule| schedule.zone());
        let mut notes = origin.notes;
        if upcoming.assumes_renewal {
            notes.push(
                "The times assume that Astro starts the token's validity anew with each rotation."
                    .into(),
            );
        }
        let blocked = match verdict {
            Verdict::Blocked(blocked) | Verdict::Waits(_, Some(blocked)) => Some(blocked),
            _ => None,
        };
        let rules = decided.rules.iter().map(|rule| Spoken {
            rule: rule.name,
            says: rule.says,
        });
        let next = upcoming.times.iter().map(|(at, cause)| RotationFacts {
            at: *at,
            local: local(*at, &zone),
            zone: zone.iana_name().unwrap_or("UTC").into(),
            cause: cause.to_string(),
        });
        Self {
            namespace: seen.resource.namespace().unwrap_or_default(),
            name: line(&seen.resource.name_any(), LONGEST),
            file: origin.file,
            verdict: word(verdict),
            cause: match verdict {
                Verdict::Rotates { cause, .. } => Some(cause.to_string()),
                _ => None,
            },
            until: match verdict {
                Verdict::Idle(until) | Verdict::Waits(until, _) => Some(*until),
                _ => None,
            },
            reason: blocked.map(|it| it.reason.to_string()),
            message: message(verdict, blocked),
            remedy: blocked.map(|it| it.reason.explain().remedy),
            rules: rules.collect(),
            token: token(seen),
            next_token: next_token(seen),
            secret: secret(seen, origin.secret_read),
            next: next.collect(),
            notes,
            checks,
            now: seen.now,
            headline: headline(verdict, seen.now, &zone),
        }
    }

    /// Whether a person has to act.
    pub fn is_bad(&self) -> bool {
        matches!(self.verdict, "blocked" | "unknown")
            || self.checks.iter().any(|check| check.result == Outcome::No)
    }

    /// As text with colours; `verbose` shows checks that went well too.
    pub fn text(&self, verbose: bool) -> String {
        let (style, headline) = &self.headline;
        let (namespace, name) = (&self.namespace, &self.name);
        let title = format!("{BOLD}{namespace}/{name}{BOLD:#}: ");
        let mut text = paragraph("", &format!("{title}{style}{headline}{style:#}"));
        let mut add = |title: &str, line: &str| {
            text += &paragraph(&format!("  {title:<10}"), line);
        };
        let mut why = Titled::new("why");
        for rule in &self.rules {
            add(why.next(), &format!("{}: {}", rule.rule, rule.says));
        }
        if let Some(message) = &self.message {
            add(why.next(), message);
        }
        if let Some(remedy) = self.remedy {
            add("you", remedy);
        }
        if let Some(token) = &self.token {
            add("token", &token.text());
        }
        if let Some(token) = &self.next_token {
            add("turn", &format!("the next rotation takes {}", token.text()));
        }
        add("Secret", &self.secret.says);
        let mut next = Titled::new("next");
        for rotation in &self.next {
            add(next.next(), &rotation.text(self.now));
        }
        if self.next.is_empty() {
            add("next", "no rotation is foreseen");
        }
        let mut note = Titled::new("note");
        for it in &self.notes {
            add(note.next(), &format!("{DIM}{it}{DIM:#}"));
        }
        text + &self.checks_text(verbose)
    }

    fn checks_text(&self, verbose: bool) -> String {
        let count = |result| self.checks.iter().filter(|it| it.result == result).count();
        let (ok, no, not) = (
            count(Outcome::Ok),
            count(Outcome::No),
            count(Outcome::NotChecked),
        );
        let mut counts = vec![format!("{GOOD}{ok} ok{GOOD:#}")];
        if no > 0 {
            counts.push(format!("{BAD}{no} no{BAD:#}"));
        }
        if not > 0 {
            counts.push(format!("{WARN}{not} not checked{WARN:#}"));
        }
        let mut text = paragraph("  checks    ", &counts.join(", "));
        for (check, names) in self.alike() {
            let (style, sign) = match check.result {
                Outcome::Ok if !verbose => continue,
                Outcome::Ok => (GOOD, "ok"),
                Outcome::No => (BAD, "no"),
                Outcome::NotChecked => (WARN, "not checked"),
            };
            let title = format!("    {style}{sign:<11}{style:#}  ");
            let mut line = names.join("; ");
            // What was said at the top is not said again.
            let is_new = check.message.is_some() && check.message != self.message;
            let more = [&check.message, &check.remedy].into_iter().flatten();
            for more in more.filter(|_| is_new) {
                line = format!("{}: {more}", line.trim_end_matches('.'));
            }
            text += &paragraph(&title, &line);
        }
        text
    }

    /// Checks with one outcome and one explanation, and what they are called.
    fn alike(&self) -> Vec<(&Check, Vec<&str>)> {
        let mut groups: Vec<(&Check, Vec<&str>)> = Vec::new();
        for check in &self.checks {
            let says = |it: &Check| (it.result, it.message.clone(), it.remedy.clone());
            let group = groups.iter_mut().find(|(it, _)| says(it) == says(check));
            match group.filter(|_| check.message.is_some()) {
                Some((_, names)) => names.push(&check.name),
                None => groups.push((check, vec![&check.name])),
            }
        }
        groups
    }
}

/// A title that stands before its first line only.
struct Titled(&'static str);

impl Titled {
    fn new(title: &'static str) -> Self {
        Self(title)
    }

    fn next(&mut self) -> &'static str {
        std::mem::take(&mut self.0)
    }
}

impl RotationFacts {
    fn text(&self, now: Timestamp) -> String {
        let zone = match self.zone.as_str() {
            "UTC" => String::new(),
            zone => format!(" {zone}"),
        };
        let local = self.local.replace("+00:00", "UTC");
        format!("{local}{zone}, {}, {}", far(self.at, now), self.cause)
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Rotates { .. } => "rotates",
        Verdict::Writes(_) => "writes",
        Verdict::Idle(_) | Verdict::Rests(_) => "idle",
        Verdict::Waits(..) => "waits",
        Verdict::Blocked(_) => "blocked",
        Verdict::Unknown(_) => "unknown",
    }
}

fn message(verdict: &Verdict, blocked: Option<&Blocked>) -> Option<String> {
    match verdict {
        Verdict::Writes(what) => Some(format!("The operator {what}.")),
        Verdict::Unknown(why) => Some(why.clone()),
        _ => blocked.map(|it| it.message.clone()),
    }
}

fn headline(verdict: &Verdict, now: Timestamp, zone: &TimeZone) -> (Style, String) {
    let when = |at: Timestamp| {
        format!(
            "{} ({})",
            local(at, zone).replace("+00:00", "UTC"),
            far(at, now)
        )
    };
    match verdict {
        Verdict::Rotates { cause, attempt: 1 } => (WARN, format!("rotates now ({cause})")),
        Verdict::Rotates { cause, attempt } => {
            (WARN, format!("rotates now ({cause}, attempt {attempt})"))
        }
        Verdict::Writes(_) => (GOOD, "writes the Secret now, without a rotation".into()),
        Verdict::Idle(until) => (GOOD, format!("idle until {}", when(*until))),
        Verdict::Rests(why) => (GOOD, format!("idle, {why}")),
        Verdict::Waits(until, None) => (WARN, format!("waits until {}", when(*until))),
        Verdict::Waits(until, Some(doubt)) => {
            let reason = doubt.reason;
            (WARN, format!("waits until {}: {reason}", when(*until)))
        }
        Verdict::Blocked(blocked) => (BAD, format!("blocked: {}", blocked.reason)),
        Verdict::Unknown(_) => (BAD, "unknown: the cluster gave no answer".into()),
    }
}

fn secret(seen: &Observed, was_read: bool) -> SecretFacts {
    let target = &seen.resource.spec.target;
    let (name, key) = (line(&target.name, LONGEST), line(target.key(), LONGEST));
    let (state, says) = match &seen.stored {
        _ if !was_read => ("not read", format!("{name}: not read")),
        Stored::Absent {
            elsewhere: Some(held),
            ..
        } => (
            "absent",
            format!(
                "{name}: without a value; Secret {} has it",
                line(&held.secret, LONGEST)
            ),
        ),
        Stored::Absent { .. } => ("absent", format!("{name}: not there, or without a value")),
        Stored::Unread(_) => (
            "unread",
            format!("{name}: its metadata does not tell whether there is a value"),
        ),
        Stored::Foreign(_) => ("foreign", format!("{name}: of another party")),
        Stored::Consented { value_is_live, .. } => {
            let value = match value_is_live {
                Some(true) => "its value is live",
                Some(false) => "its value is not the token's",
                None => "whether its value is live is not known",
            };
            ("given", format!("{name}: given to this resource; {value}"))
        }
        Stored::Holds(held) => {
            let obtained = held
                .stamp
                .obtained_at(seen.now)
                .map(|at| format!(" of {}", plain(at)));
            let live = match seen.drift() {
                Some((Drift::Same, ..)) => ", which is live",
                Some((Drift::LiveNewer, ..)) => ", which is no longer valid",
                Some((Drift::StoredNewer | Drift::Unknown, ..)) | None => "",
            };
            let obtained = obtained.unwrap_or_default();
            let adopted = held.stamp.adopted_at;
            let adopted = adopted.map(|at| format!(", adopted {}", plain(at)));
            let adopted = adopted.unwrap_or_default();
            let key = line(&held.stamp.key, LONGEST);
            (
                "held",
                format!("{name}: holds under {key} the value{obtained}{adopted}{live}"),
            )
        }
    };
    SecretFacts {
        name,
        key,
        state,
        says,
    }
}

/// With seconds and offset.
fn local(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S %:z")
        .to_string()
}

fn far(at: Timestamp, now: Timestamp) -> String {
    let length = at.duration_since(now);
    match () {
        () if length.is_zero() => "now".into(),
        () if length.is_negative() => format!("{} ago", short(length)),
        () => format!("in {}", short(length)),
    }
}
