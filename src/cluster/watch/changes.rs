//! One watch as a stream of changes that never ends: retried with back-off, and begun anew after a refusal.

use crate::api::Key;
use crate::cluster::decode::{Decode, Item};
use crate::decide::pace::Pace;
use crate::text::{api_error, scrub};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{Config, Error, Event};
use kube::runtime::{WatchStreamExt, watcher};
use std::collections::HashSet;
use std::time::Duration;

/// Objects of one list request.
const PAGE: u32 = 500;
/// Longest text of the API server's that is shown, characters.
const LONGEST_MESSAGE: usize = 400;

/// What one watch tells.
pub(super) enum Change<T> {
    Apply(Key, T),
    /// It is there, and this version of it cannot be read, for this reason; what could be read of it.
    Unreadable(Key, Box<ObjectMeta>, String, Option<T>),
    Delete(Key),
    /// A list is complete: what is not of these is gone.
    Listed(HashSet<Key>),
    /// Nothing can be known any more, until the next list.
    Failed(Error),
}

impl<T: Decode> Change<T> {
    fn of(item: Item<T>) -> Self {
        let key = item.key();
        match item.object {
            Ok(object) => Self::Apply(key, object),
            Err(why) => Self::Unreadable(key, Box::new(item.metadata), why, item.part),
        }
    }
}

/// The changes of one watch.
pub(super) fn changes<T>(
    api: Api<Item<T>>,
    config: Config,
    pace: &Pace,
) -> impl Stream<Item = Change<T>> + use<T>
where
    T: Decode + Clone + std::fmt::Debug + Send + 'static,
{
    let config = config.page_size(PAGE);
    let backoff = ResetTimerBackoff::new(Pauses::of(pace), pace.watch_calm);
    let events = stream::unfold(None, move |running| {
        let mut events = running.unwrap_or_else(|| watcher(api.clone(), config.clone()).boxed());
        async move {
            let event = events.next().await?;
            let refused = event.as_ref().is_err_and(is_refused);
            Some((event, (!refused).then_some(events)))
        }
    });
    let mut listed = HashSet::new();
    let changes = events.filter_map(move |event| {
        std::future::ready(match event {
            // Each try begins with one; passed on it would end the back-off as a success does.
            Ok(Event::Init) => {
                listed.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(object.key());
                Some(Ok(Change::of(object)))
            }
            Ok(Event::InitDone) => Some(Ok(Change::Listed(std::mem::take(&mut listed)))),
            Ok(Event::Apply(object)) => Some(Ok(Change::of(object))),
            Ok(Event::Delete(object)) => Some(Ok(Change::Delete(object.key()))),
            Err(error) => Some(Err(error)),
        })
    });
    let changes = changes.backoff(backoff);
    changes.map(|change| change.unwrap_or_else(Change::Failed))
}

/// Growing pauses between two attempts.
struct Pauses {
    builder: ExponentialBuilder,
    left: ExponentialBackoff,
}

impl Pauses {
    fn of(pace: &Pace) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(pace.watch_retry)
            .with_max_delay(pace.watch_longest_retry)
            .without_max_times()
            .with_jitter();
        Self {
            left: builder.build(),
            builder,
        }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left.next()
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.left = self.builder.build();
    }
}

/// Whether the API server says no, as it does where there is no Role, or no namespace to have one.
pub(super) fn is_refused(error: &Error) -> bool {
    match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.is_forbidden())
        }
        Error::WatchError(status) => status.is_forbidden(),
        Error::NoResourceVersion => false,
    }
}

/// The API server's own words, without what it quotes.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => api_error(error, LONGEST_MESSAGE),
        Error::WatchError(status) => scrub(&status.message, LONGEST_MESSAGE),
        Error::NoResourceVersion => error.to_string(),
    }
}
