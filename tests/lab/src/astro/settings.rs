//! Switches for what the vendor's documentation leaves open, and its rate limits.

use super::Operation;
use super::answer::Reply;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use jiff::{SignedDuration, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How the simulator behaves. The default is the likeliest reading of the documentation, without limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Calls allowed per second; `None`: any number.
    pub limits: Option<Limits>,
    /// The answer to a call over the limit.
    pub limited: Reply,
    /// List and get show the state of this long ago.
    #[serde(with = "duration")]
    pub stale: Duration,
    /// Rotation restarts `startAt` and `endAt`.
    pub renews_end: bool,
    /// `lastRotatedAt` is there once a token has been rotated.
    pub tells_last_rotation: bool,
    /// Times have milliseconds.
    pub fractional_seconds: bool,
    /// Objects have undocumented fields.
    pub extra_fields: bool,
    /// What is absent is sent as null.
    pub nulls: bool,
    /// A token may rotate itself; else 403.
    pub self_rotation: bool,
    /// An expired token may be rotated; else 400.
    pub rotates_expired: bool,
    /// Rotation changes `shortToken`.
    pub short_token_changes: bool,
    /// The value before lives on for this long after a rotation.
    #[serde(with = "duration")]
    pub old_value_lives: Duration,
    /// A page has at most this many items, whatever `limit` asks for.
    pub page_cap: usize,
    /// The vendor's clock is ahead of this machine's by so much (negative: behind).
    pub clock_ahead: SignedDuration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            limits: None,
            limited: Reply::text(429),
            stale: Duration::ZERO,
            renews_end: true,
            tells_last_rotation: true,
            fractional_seconds: false,
            extra_fields: false,
            nulls: false,
            self_rotation: true,
            rotates_expired: true,
            short_token_changes: true,
            old_value_lives: Duration::ZERO,
            page_cap: 1000,
            clock_ahead: SignedDuration::ZERO,
        }
    }
}

impl Settings {
    /// A time as the vendor writes it down.
    pub(super) fn stamp(&self, time: Timestamp) -> Timestamp {
        let unit = match self.fractional_seconds {
            true => Unit::Millisecond,
            false => Unit::Second,
        };
        let round = TimestampRound::new()
            .smallest(unit)
            .mode(jiff::RoundMode::Trunc);
        time.round(round).unwrap_or(time)
    }
}

/// Calls per second.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Reads.
    pub get: u32,
    /// Create, update and rotate.
    pub post: u32,
    /// Deletions.
    pub delete: u32,
    /// One budget for the whole organization instead of one for each credential.
    pub shared: bool,
}

impl Default for Limits {
    /// What the vendor documents.
    fn default() -> Limits {
        Limits {
            get: 25,
            post: 10,
            delete: 5,
            shared: false,
        }
    }
}

/// What is left of each budget: calls, and when that was counted.
#[derive(Default)]
pub(super) struct Budgets(HashMap<(String, &'static str), (f64, Instant)>);

impl Budgets {
    /// Takes one call out of the credential's budget; false when there is none left.
    pub fn spend(
        &mut self,
        limits: &Limits,
        credential: &str,
        operation: Operation,
        now: Instant,
    ) -> bool {
        let method = operation.method();
        let rate = f64::from(match method {
            "GET" => limits.get,
            "DELETE" => limits.delete,
            _ => limits.post,
        });
        let who = if limits.shared { "" } else { credential };
        let (left, counted) = self
            .0
            .entry((who.to_owned(), method))
            .or_insert((rate, now));
        let refill = now.duration_since(*counted).as_secs_f64() * rate;
        *left = (*left + refill).min(rate);
        *counted = now;
        let allowed = *left >= 1.0;
        if allowed {
            *left -= 1.0;
        }
        allowed
    }
}
