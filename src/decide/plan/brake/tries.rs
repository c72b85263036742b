//! How often the operator tries what another party undoes or prevents, other than by a rotation.

#[cfg(test)]
mod tests;

use crate::decide::evidence::{Held, Observed, Stored};
use crate::decide::pace::doubled;
use crate::decide::tries::{Came, Purpose, Rewritten};
use crate::reason::{Blocked, Reason};
use jiff::Timestamp;

/// From so many writes on that were undone a person has to act.
const TUG_OF_WAR: usize = 2;
/// From so many times in a row on that something was changed while the operator worked on it that is told.
const TOLD_RACES: u32 = 5;

/// Until when the Secret is not written anew from this value, and why.
pub fn rewriting(seen: &Observed, from: &Held) -> Option<(Timestamp, Blocked)> {
    let row = row(seen, from);
    let last = row.first()?;
    let pace = seen.pace();
    let longest = match last.came {
        // Nothing was written, so nothing can be undone.
        Came::Refused(_) => pace.blocked_longest_retry,
        _ => pace.undone_longest_retry,
    };
    let times = u32::try_from(row.len()).unwrap_or(u32::MAX);
    let until = after(last.at, doubled(pace.undone_retry, times, longest));
    let blocked = match &last.came {
        // In the API server's words.
        Came::Changed(blocked) | Came::Refused(blocked) => blocked.clone(),
        Came::Written => Blocked::new(
            Reason::TargetUnstable,
            format!(
                "what the operator writes is undone: Secret {} was brought in line with the spec {times} times since {}, and \
                 differs again in {}; it is written again at {until}. Find who changes it",
                seen.resource.spec.target.name,
                row.last().unwrap_or(last).at,
                from.outdated.as_deref().unwrap_or("its value"),
            ),
        ),
        Came::NoValue => Blocked::new(
            Reason::TargetUnstable,
            format!(
                "no value that can be used was found under key {} of Secret {}, though its metadata says that there is one; \
                 it is read again at {until}. Find who changes it",
                from.stamp.key, from.secret,
            ),
        ),
    };
    (until > seen.now).then_some((until, blocked))
}

/// Whether so many writes of the value that is held were undone that a person has to act.
pub fn is_tug_of_war(seen: &Observed) -> bool {
    seen.held()
        .is_some_and(|held| row(seen, held).len() >= TUG_OF_WAR)
}

/// What a rewrite from this value is for.
pub fn purpose(seen: &Observed, from: &Held) -> Purpose {
    Purpose {
        generation: seen.resource.metadata.generation,
        rotation_id: from.stamp.rotation_id.clone(),
        fence: from.stamp.fence.clone(),
    }
}

/// What is stored, after what was tried: where no value was found though the metadata says that there is one, or what was
/// written came back changed, the value has to be read.
pub fn doubted(seen: &Observed, stored: Stored) -> Stored {
    let is_doubtful = |held: &Held| {
        let last = row(seen, held).first().map(|last| &last.came);
        matches!(last, Some(Came::NoValue | Came::Changed(_)))
    };
    match stored {
        Stored::Holds(held) if is_doubtful(&held) => Stored::Unread(held),
        stored => stored,
    }
}

fn row<'a>(seen: &'a Observed, from: &Held) -> Vec<&'a Rewritten> {
    let purpose = purpose(seen, from);
    let row = (seen.tries).row(&purpose, seen.now, seen.pace().undone_quiet);
    row.collect()
}

/// Until when nothing is tried because something is changed again and again while the operator works on it, and what is
/// said of that. A first time is tried again as soon as the change is known.
pub fn racing(seen: &Observed) -> Option<(Timestamp, Option<Blocked>)> {
    let (races, last) = (seen.tries.races, seen.tries.raced_at?);
    let until = after(last, seen.pace().after_races(races));
    if races < 2 || until <= seen.now || last > seen.now {
        return None;
    }
    let told = (races >= TOLD_RACES).then(|| {
        Blocked::new(
            Reason::KubernetesUnavailable,
            format!(
                "the resource or its Secret changes while the operator works on it, {races} times in a row by now; it is \
                 tried again at {until}. Find who writes them so often"
            ),
        )
    });
    Some((until, told))
}

fn after(at: Timestamp, wait: jiff::SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(at)
}
