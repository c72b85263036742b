//! One watch as a stream of changes that never ends: retried with back-off, and begun anew after a refusal.

#[cfg(test)]
mod tests;

use super::events::{Events, Told};
use super::list::{PAGE, Page, read_page};
use crate::api::Key;
use crate::cluster::decode::{Decode, Item, key};
use crate::cluster::store::Names;
use crate::decide::pace::Pace;
use crate::text::{api_error, scrub};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, WatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::Error;
use kube::{Api, Client};
use std::time::Duration;
use tokio::time::Instant;

/// The API server ends a watch after 290 seconds. Where it does not within this time, the connection is dead.
const SILENT: Duration = Duration::from_secs(295);
/// How long a page of a list, or the beginning of a watch, may take.
const SLOW: Duration = Duration::from_secs(60);
/// Longest text of the API server's that is shown, characters.
const LONGEST_MESSAGE: usize = 400;

/// What one watch tells.
pub(super) enum Change<T> {
    Apply(Key, T),
    /// It is there, and this version of it cannot be read, for this reason; what could be read of it.
    Unreadable(Key, Box<ObjectMeta>, String, Option<T>),
    Delete(Key),
    /// A list is complete: what is not of these is gone.
    Listed(Names),
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

/// The changes of one watch, of objects with these labels. Of what `is_known` says that it is known already nothing is told.
pub(super) fn changes<T, Known>(
    client: Client,
    api: Api<Item<T>>,
    labels: Option<String>,
    pace: &Pace,
    is_known: Known,
) -> impl Stream<Item = Change<T>> + use<T, Known>
where
    T: Decode,
    Known: Fn(&ObjectMeta) -> bool,
{
    let backoff = ResetTimerBackoff::new(Pauses::of(pace), pace.watch_calm);
    let watch = Watch {
        client,
        api,
        labels,
        limit: PAGE,
        pause: pace.watch_retry,
        begun: None,
        is_known,
        state: State::default(),
    };
    let changes = stream::unfold(watch, async |mut watch| {
        let change = loop {
            if let Some(change) = watch.step().await {
                break change;
            }
        };
        if change.as_ref().is_err_and(is_refused) {
            watch.state = State::default();
        }
        Some((change, watch))
    });
    let changes = changes.backoff(backoff);
    changes.map(|change| change.unwrap_or_else(Change::Failed))
}

/// One watch, and how far it has come.
struct Watch<T, Known> {
    client: Client,
    api: Api<Item<T>>,
    labels: Option<String>,
    /// Objects of the next page.
    limit: u32,
    /// The shortest time between the beginnings of two watches: some proxies end each of them at once.
    pause: Duration,
    /// When the last one was begun.
    begun: Option<Instant>,
    /// Whether an object of this metadata is known already.
    is_known: Known,
    state: State,
}

enum State {
    /// A list is being read: what it had so far, the rest of the page at hand, and where the next one begins.
    Listing { names: Names, page: Option<Page> },
    /// Everything is known as of this version.
    Listed(String),
    /// What has changed since this version is told.
    Watching(String, Events),
}

impl Default for State {
    fn default() -> Self {
        Self::Listing {
            names: Names::default(),
            page: None,
        }
    }
}

impl<T, Known> Watch<T, Known>
where
    T: Decode,
    Known: Fn(&ObjectMeta) -> bool,
{
    /// Goes on by one step, which may have nothing to tell.
    async fn step(&mut self) -> Option<Result<Change<T>, Error>> {
        // After a failure that is not handled below, the next step begins with a list.
        match std::mem::take(&mut self.state) {
            State::Listing { names, page } => self.list(names, page).await,
            State::Listed(version) => self.begin(version).await,
            State::Watching(version, events) => self.watch(version, events).await,
        }
    }

    async fn list(
        &mut self,
        mut names: Names,
        page: Option<Page>,
    ) -> Option<Result<Change<T>, Error>> {
        let failed = |error| Some(Err(Error::InitialListFailed(error)));
        let next = match page {
            Some(mut page) => {
                if let Some(item) = page.take::<T>() {
                    let item = match item {
                        Ok(item) => item,
                        Err(error) => return failed(kube::Error::SerdeError(error)),
                    };
                    names.insert(&item.key());
                    let page = Some(page);
                    self.state = State::Listing { names, page };
                    return Some(Ok(Change::of(item)));
                }
                match (page.next, page.version) {
                    (None, Some(version)) => {
                        self.limit = PAGE;
                        self.state = State::Listed(version);
                        return Some(Ok(Change::Listed(names)));
                    }
                    (None, None) => return Some(Err(Error::NoResourceVersion)),
                    (next, _) => next,
                }
            }
            None => None,
        };
        let params = ListParams {
            label_selector: self.labels.clone(),
            continue_token: next,
            ..ListParams::default()
        };
        let page = read_page(&self.client, &self.api, params, &mut self.limit);
        match in_time(page).await {
            Ok(page) => {
                let page = Some(page);
                self.state = State::Listing { names, page };
                None
            }
            // Also of a list that has expired meanwhile: it is begun anew.
            Err(error) => failed(error),
        }
    }

    async fn begin(&mut self, version: String) -> Option<Result<Change<T>, Error>> {
        let params = WatchParams {
            label_selector: self.labels.clone(),
            ..WatchParams::default()
        };
        if let Some(begun) = self.begun {
            tokio::time::sleep_until(begun + self.pause).await;
        }
        self.begun = Some(Instant::now());
        let events = Events::after(&self.client, &self.api, &params, &version);
        match in_time(events).await {
            Ok(events) => {
                self.state = State::Watching(version, events);
                None
            }
            Err(error) => {
                if !is_expired(&error) {
                    self.state = State::Listed(version);
                }
                Some(Err(Error::WatchStartFailed(error)))
            }
        }
    }

    async fn watch(
        &mut self,
        version: String,
        mut events: Events,
    ) -> Option<Result<Change<T>, Error>> {
        let told = tokio::time::timeout(SILENT, events.next(&self.is_known)).await;
        let (metadata, change) = match told.ok().flatten() {
            None => {
                self.state = State::Listed(version);
                return None;
            }
            Some(Ok(Told::Failed(status))) => {
                if status.code != 410 {
                    self.state = State::Watching(version, events);
                }
                return Some(Err(Error::WatchError(status.boxed())));
            }
            Some(Err(error)) => {
                // Of what cannot be decoded it is not known what it was about.
                if !matches!(error, kube::Error::SerdeError(_)) {
                    self.state = State::Watching(version, events);
                }
                return Some(Err(Error::WatchFailed(error)));
            }
            Some(Ok(Told::Here(item))) => (item.metadata.clone(), Some(Change::of(item))),
            Some(Ok(Told::Gone(metadata))) => {
                let change = Change::Delete(key(&metadata));
                (metadata, Some(change))
            }
            Some(Ok(Told::Nothing(metadata))) => (metadata, None),
        };
        let version = metadata.resource_version;
        let Some(version) = version.filter(|version| !version.is_empty()) else {
            return Some(Err(Error::NoResourceVersion));
        };
        self.state = State::Watching(version, events);
        change.map(Ok)
    }
}

/// The answer, or that none came in time.
async fn in_time<A>(answer: impl Future<Output = kube::Result<A>>) -> kube::Result<A> {
    let answer = tokio::time::timeout(SLOW, answer).await;
    answer.unwrap_or_else(|_| {
        Err(kube::Error::Service(
            format!("no answer within {SLOW:?}").into(),
        ))
    })
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
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
