//! Which token a rotation takes where two take turns, and from when on. Pure.
//!
//! | the Secret's value | the rotation takes |
//! |---|---|
//! | is live | the other token, so that the value stays valid until the next turn |
//! | is dead or missing | of the tokens that can be rotated the one whose value is the oldest, because that has the fewest users |
//!
//! What is here follows from evidence alone: from the stamp on the Secret and the vendor's records, and never from the order
//! in the spec, a status or a counter.

use crate::api::{Cause, ExternalRotation, HistoryEntry, Pending, Role, RotationOutcome, Version};
use crate::decide::evidence::{Held, Live, Observed, Token};
use crate::decide::schedule::{Due, DueRule};
use crate::decide::validate::check_token;
use crate::decide::version::{Drift, compare};
use crate::id::is_same;
use crate::reason::{Blocked, Reason};
use jiff::{SignedDuration, Timestamp};

/// The token that a rotation takes which begins now; `None`: there is none that can be taken.
pub fn next(seen: &Observed) -> Option<Role> {
    if !seen.takes_turns() {
        return Some(Role::Token);
    }
    match is_dead(seen) {
        true => recovery(seen),
        false => voluntary(seen),
    }
}

/// Its record.
pub fn subject(seen: &Observed) -> Option<&Live> {
    next(seen).map(|role| seen.records.of(role))
}

/// Whether there is no value that could be spared: none is stored, or the stored one is known not to be valid any more.
pub fn is_dead(seen: &Observed) -> bool {
    let is_newer = matches!(seen.drift(), Some((Drift::LiveNewer, ..)));
    let is_expired = seen.expiry().is_some_and(|ends| ends <= seen.now);
    seen.held().is_none() || is_newer || is_expired || seen.token_is_gone
}

/// The token whose value the Secret does not hold.
fn voluntary(seen: &Observed) -> Option<Role> {
    let held = seen.held_role();
    let others = usable(seen).filter(|role| Some(*role) != held && !is_expired(seen, *role));
    least_recent(seen, others)
}

/// The token that replaces a value which is dead. That of the value itself is taken soon after it was stored, when most consumers
/// still use the value before it, and while a call about the other one may land.
fn recovery(seen: &Observed) -> Option<Role> {
    let held = seen
        .held_role()
        .filter(|held| usable(seen).any(|it| it == *held));
    let is_loose = |role| match seen.records.of(role) {
        Live::Token { token, .. } => loose_until(seen, &token.id).is_some(),
        _ => false,
    };
    let is_early = overlap(seen).is_some_and(|until| seen.now < until);
    match held {
        Some(held) if is_early || is_loose(held.other()) => Some(held),
        _ => least_recent(seen, usable(seen).filter(|role| !is_expired(seen, *role)))
            .or_else(|| least_recent(seen, usable(seen))),
    }
}

/// From when on a turn may begin: the value before it must have been replaced for long enough, and no earlier call about the
/// same token may take effect any more.
pub fn not_before(seen: &Observed) -> Option<Timestamp> {
    if !seen.takes_turns() || is_dead(seen) {
        return None;
    }
    let token = match subject(seen) {
        Some(Live::Token { token, .. }) => Some(token),
        _ => None,
    };
    let landed = token.and_then(|token| loose_until(seen, &token.id));
    overlap(seen).max(landed)
}

/// Until when the value is kept that the Secret held before.
fn overlap(seen: &Observed) -> Option<Timestamp> {
    let switch = seen.held()?.stamp.obtained_at(seen.now)?;
    Some(later(switch, seen.settings.minimum_interval))
}

/// Until when a call about this token may still take effect of which it is not known what became.
fn loose_until(seen: &Observed, id: &str) -> Option<Timestamp> {
    let status = seen.resource.status.as_ref()?;
    let lost =
        |entry: &&HistoryEntry| entry.token_id == id && entry.outcome == RotationOutcome::Lost;
    let pending = status.pending.iter().filter(|it| it.token_id == id);
    let begun = pending.map(|it| it.started_at.0);
    let lost = status.history.iter().filter(lost).map(|it| it.at.0);
    let rest = |at: Timestamp| later(at, seen.pace().rest);
    let until = begun.chain(lost).map(rest).max()?;
    // A time in the future was written by a clock that was wrong.
    let is_now = seen.now < until && until.duration_since(seen.now) <= seen.pace().rest;
    is_now.then_some(until)
}

/// What keeps a token of the spec from being rotated at all, and whether that was read just now.
pub fn trouble(seen: &Observed, role: Role) -> Option<(Blocked, bool)> {
    if let Some((_, rival)) = seen.taken.iter().find(|(taken, _)| *taken == role) {
        return Some((rival.blocked.clone(), true));
    }
    match seen.records.of(role) {
        Live::Refused { blocked, fresh } => Some((blocked.clone(), *fresh)),
        Live::Token { token, fresh } => {
            let checked = check_token(seen, token).and_then(|()| check_owner(seen, token));
            Some((checked.err()?, *fresh))
        }
        Live::NotAsked | Live::Unavailable { .. } => None,
    }
}

/// What keeps every token of the spec from being rotated.
pub fn all_trouble(seen: &Observed) -> Option<(Blocked, bool)> {
    let roles = seen.resource.spec.references().map(|(role, _)| role);
    let troubles: Option<Vec<_>> = roles.map(|role| told(seen, role)).collect();
    let troubles = troubles?;
    let is_fresh = troubles.iter().all(|(_, is_fresh)| *is_fresh);
    let (blocked, _) = troubles.into_iter().next()?;
    Some((blocked, is_fresh))
}

/// What is wrong with one of two tokens, though the other can be rotated: of the one that is next before the other.
pub fn some_trouble(seen: &Observed) -> Option<(Blocked, bool)> {
    seen.resource.spec.alternate_token.as_ref()?;
    let held = seen.held_role();
    let next = Role::ALL.into_iter().filter(|role| Some(*role) != held);
    let all = next.chain(held);
    let mut found = all.filter_map(|role| {
        let expired = || (Some(role) != held).then(|| expired(seen, role)).flatten();
        told(seen, role).or_else(|| expired().map(|it| named(seen, role, it)))
    });
    found.next()
}

/// The trouble of a token, with the field that it is about where there are two.
fn told(seen: &Observed, role: Role) -> Option<(Blocked, bool)> {
    trouble(seen, role).map(|it| named(seen, role, it))
}

fn named(seen: &Observed, role: Role, (blocked, is_fresh): (Blocked, bool)) -> (Blocked, bool) {
    let message = match seen.resource.spec.alternate_token {
        Some(_) => format!("{}: {}", role.field(), blocked.message),
        None => blocked.message,
    };
    (Blocked::new(blocked.reason, message), is_fresh)
}

/// With `Report`, a token that another party has rotated since we did is left alone, unless a person asks for a rotation.
fn check_owner(seen: &Observed, token: &Token) -> Result<(), Blocked> {
    let is_left = seen.resource.spec.external_rotation == Some(ExternalRotation::Report)
        && !seen.is_requested();
    match previous(seen) {
        Some((held, id, version)) if is_left && *id == token.id && !is_intact(version, token) => {
            Err(Blocked::new(
                Reason::RotatedElsewhere,
                format!(
                    "token {} was rotated by another party, and externalRotation is Report, so no rotation takes it; the value \
                     in Secret {} is not affected",
                    token.id, held.secret
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// The evidence on the value that the Secret held before: its token and its version.
fn previous(seen: &Observed) -> Option<(&Held, &String, &Version)> {
    let held = seen.held()?;
    Some((
        held,
        held.stamp.other.as_ref()?,
        held.stamp.previous.as_ref()?,
    ))
}

/// Whether the vendor's record is of this value of its token still.
fn is_intact(version: &Version, token: &Token) -> bool {
    compare(version, &token.version, false, true) != Drift::LiveNewer
}

/// The token whose value the Secret held before, while that is valid.
pub fn still_valid(seen: &Observed) -> Option<&Token> {
    let (held, id, version) = previous(seen)?;
    let (token, _) = seen.record(id)?;
    let is_valid = is_intact(version, token)
        && token.ends.is_none_or(|ends| ends > seen.now)
        && !was_ended(seen, held, id);
    is_valid.then_some(token)
}

/// When the value was used that the Secret held before, though consumers had time to follow.
pub fn still_used(seen: &Observed) -> Option<Timestamp> {
    let switch = seen.held()?.stamp.obtained_at(seen.now)?;
    let used = still_valid(seen)?.last_used?;
    (used > later(switch, seen.pace().follow)).then_some(used)
}

/// Until when a rotation that is due at this time waits for those who still use the value before; not into the last hour of either
/// token.
pub fn quiet_from(seen: &Observed, due: Timestamp) -> Option<Timestamp> {
    let wait = seen.schedule.as_ref().ok()?.wait_for_previous()?;
    let used = still_used(seen)?;
    let tokens = seen.records.all().into_iter().filter_map(Live::token);
    let last = tokens.filter_map(|token| before_end(token, seen.pace().last_hour, 10));
    let until = later(used.min(due), wait);
    last.chain([until]).min()
}

/// A rotation of this token whose outcome is not known and whose value, should somebody have it in hand, must not be written over
/// the live one; `None`: there is none, or the Secret refuses it already.
pub fn unfenced(seen: &Observed, token: &Token) -> Option<String> {
    let held = seen.held().filter(|held| held.stamp.token_id != token.id)?;
    let status = seen.resource.status.as_ref()?;
    // What is only to end a value is written by nobody.
    let is_written = |it: &&Pending| it.token_id == token.id && it.reason != Cause::Revoked;
    let pending = status.pending.iter().find(is_written);
    let last = status.history.iter().find(|it| it.token_id == token.id);
    let lost = last.filter(|it| it.outcome == RotationOutcome::Lost);
    let rotation = pending.map(|it| &it.id).or(lost.map(|it| &it.id))?;
    (!is_dead(seen) && held.stamp.fence.as_ref() != Some(rotation)).then(|| rotation.clone())
}

/// When a rotation is due because one of two tokens expires, beside what the schedule says of the token of the value that is held.
pub fn expiring(seen: &Observed, before: Option<SignedDuration>) -> Option<Due> {
    let ends = standby_ends(seen, before)
        .into_iter()
        .chain(last_hour(seen));
    ends.min().map(|at| Due {
        at,
        rule: DueRule::Expiring,
    })
}

/// Of the token that is next. Its own last rotation counts, so that a vendor that does not renew the expiry causes no series; and no
/// earlier than midway, so that two that expire together do not follow at once.
fn standby_ends(seen: &Observed, before: Option<SignedDuration>) -> Option<Timestamp> {
    let switch = seen.held()?.stamp.obtained_at(seen.now)?;
    let next = seen.takes_turns().then(|| voluntary(seen))??;
    let token = seen.records.of(next).token()?;
    let ends = token.ends?;
    let at = before_end(token, before.unwrap_or(seen.pace().standby_expiry), 4)?;
    let last = token.version.rotated_at.as_ref().map(|at| at.0);
    let midway = later(switch, ends.duration_since(switch) / 2);
    last.is_none_or(|last| at > last).then(|| at.max(midway))
}

/// When the value that is held is replaced rather than left to expire, unless it was obtained later than that.
pub fn last_hour(seen: &Observed) -> Option<Timestamp> {
    let held = seen.held().filter(|_| seen.takes_turns())?;
    let (token, _) = seen.record(&held.stamp.token_id)?;
    let at = before_end(token, seen.pace().last_hour, 10)?;
    let switch = held.stamp.obtained_at(seen.now);
    switch.is_none_or(|switch| switch < at).then_some(at)
}

/// So long before the expiry of a token, and at most a part of the time for which it is valid.
fn before_end(token: &Token, before: SignedDuration, part: i32) -> Option<Timestamp> {
    let ends = token.ends?;
    let valid = token
        .starts
        .map(|starts| ends.duration_since(starts) / part);
    ends.checked_sub(valid.map_or(before, |valid| valid.min(before)))
        .ok()
}

/// Whether the value of the token of this id was ended on request since the one that is held was stored, whatever an older record
/// says.
fn was_ended(seen: &Observed, held: &Held, id: &str) -> bool {
    let switch = held.stamp.obtained_at(seen.now);
    let mut history = seen.resource.status.iter().flat_map(|it| &it.history);
    history.any(|entry| {
        entry.reason == Cause::Revoked && entry.token_id == id && Some(entry.at.0) >= switch
    })
}

/// When the value of the other token is ended because a person asked for it; `None`: nobody did, or it is done.
///
/// It is given the time that consumers need to follow, unless the text of the request begins with `now`. Where it is not known
/// which value that is, it is ended once.
pub fn revoking(seen: &Observed) -> Option<Due> {
    let held = seen.held()?;
    let (stamp, switch) = (&held.stamp, held.stamp.obtained_at(seen.now)?);
    let (text, id) = (stamp.revokes.as_ref()?, stamp.other.as_ref()?);
    let (token, _) = seen.record(id)?;
    let is_done = was_ended(seen, held, id)
        || stamp
            .previous
            .as_ref()
            .is_some_and(|it| !is_intact(it, token));
    let is_now = *text == "now" || text.starts_with("now/");
    let wait = if is_now {
        SignedDuration::ZERO
    } else {
        seen.pace().follow
    };
    (!is_done).then(|| Due {
        at: later(switch, wait),
        rule: DueRule::Revoked,
    })
}

fn expired(seen: &Observed, role: Role) -> Option<(Blocked, bool)> {
    let Live::Token { token, fresh } = seen.records.of(role) else {
        return None;
    };
    let ends = token.ends.filter(|ends| *ends <= seen.now)?;
    let message = format!(
        "token {} expired at {ends}, so no rotation takes it; create a new token and name it here",
        token.id
    );
    Some((Blocked::new(Reason::TokenExpired, message), *fresh))
}

fn is_expired(seen: &Observed, role: Role) -> bool {
    expired(seen, role).is_some()
}

/// The tokens of the spec that nothing keeps from being rotated. None is rotated by a value of its own.
fn usable(seen: &Observed) -> impl Iterator<Item = Role> {
    let held = seen.held_role();
    let own = seen.credential_of();
    let is_caller = move |role| {
        let id = seen.records.of(role).id();
        Some(role) != held && id.zip(own).is_some_and(|(id, own)| is_same(id, own))
    };
    let roles = seen.resource.spec.references().map(|(role, _)| role);
    roles.filter(move |role| trouble(seen, *role).is_none() && !is_caller(*role))
}

/// The one whose value is the oldest: one that was never rotated before others, and one that is not known before all, because
/// that has to be found out.
fn least_recent(seen: &Observed, roles: impl Iterator<Item = Role>) -> Option<Role> {
    roles.min_by_key(|role| match seen.records.of(*role) {
        Live::Token { token, .. } => (true, token.version.rotated_at.as_ref().map(|at| at.0)),
        _ => (false, None),
    })
}

fn later(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(at)
}

#[cfg(test)]
mod tests;
