//! A consumer of the Secret: a client of Astro's API whose value is in a mounted copy of the Secret, which follows the
//! Secret at fixed intervals, as a kubelet's does.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use reqwest::StatusCode;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{REFRESH, TICK};

/// An answer on this machine is there long before.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it was sent.
    pub at: Instant,
    /// Whether it was answered with 401.
    pub refused: bool,
}

/// A value that was read into the mounted copy. Has no `Debug`: it holds a value.
pub(super) struct Reading {
    /// From when on the copy held it.
    pub at: Instant,
    /// The value.
    pub value: Arc<str>,
}

/// Everything that a consumer has done. Has no `Debug`: it holds values.
pub(super) struct Diary {
    pages: Mutex<Pages>,
    changed: watch::Sender<()>,
}

/// What is in a [`Diary`].
#[derive(Default)]
pub(super) struct Pages {
    /// The oldest first.
    pub calls: Vec<Call>,
    /// Each value once for each time at which it came, the oldest first.
    pub readings: Vec<Reading>,
}

/// Who calls. Has no `Debug`, as what it reads has none.
pub(super) struct Consumer {
    secrets: Api<Secret>,
    secret: String,
    client: reqwest::Client,
    /// Of a Workspace, which a token with a role on it may look at.
    url: String,
}

/// The times from the first refused call to the next that was not, or to the last call.
pub fn gaps(calls: &[Call]) -> impl Iterator<Item = Duration> {
    let runs = calls.chunk_by(|one, next| one.refused == next.refused);
    let mut ends = runs.clone().skip(1).map(|run| run[0].at);
    runs.filter_map(move |run| {
        let end = ends.next().unwrap_or(run[run.len() - 1].at);
        run[0].refused.then(|| end - run[0].at)
    })
}

impl Consumer {
    /// One that reads this Secret and looks at its Workspace at this address.
    pub fn new(secrets: Api<Secret>, secret: String, url: String) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN);
        Ok(Self {
            secrets,
            secret,
            client: client.build()?,
            url,
        })
    }

    /// Calls again and again and writes down what happens, for as long as it is not dropped.
    ///
    /// # Errors
    /// When the Secret cannot be read, or a call is neither answered nor refused.
    pub async fn live(&self, diary: &Diary) -> anyhow::Result<Infallible> {
        let (mut refresh, mut tick) = (interval(REFRESH), interval(TICK));
        for clock in [&mut refresh, &mut tick] {
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut copy = self.read().await?;
        loop {
            tokio::select! {
                biased;
                _ = refresh.tick() => {
                    copy = self.read().await?;
                    diary.note_reading(&copy);
                }
                _ = tick.tick() => diary.note_call(self.call(&copy).await?),
            }
        }
    }

    async fn read(&self) -> anyhow::Result<Arc<str>> {
        let secret = timeout(ANSWER_WITHIN, self.secrets.get(&self.secret)).await;
        let secret = secret.context("the API server does not answer the consumer")??;
        let value = secret.data.and_then(|mut data| data.remove("token"));
        let value = value.context("the Secret has no key `token`")?;
        // The bytes are not to be in an error.
        let value = String::from_utf8(value.0).map_err(|_| anyhow::anyhow!("not a text"))?;
        Ok(value.into())
    }

    async fn call(&self, value: &str) -> anyhow::Result<Call> {
        let at = Instant::now();
        let answer = self.client.get(&self.url).bearer_auth(value).send().await;
        let refused = match answer.context("a consumer's call")?.status() {
            StatusCode::UNAUTHORIZED => true,
            status if status.is_success() => false,
            status => bail!("a consumer's call was answered with {status}: expected 200 or 401"),
        };
        Ok(Call { at, refused })
    }
}

impl Diary {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            pages: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Whether the last call was made with this value and not refused.
    pub fn works_with(&self, value: &str) -> bool {
        let pages = self.pages();
        let (reading, call) = (pages.readings.last(), pages.calls.last());
        reading.zip(call).is_some_and(|(reading, call)| {
            *reading.value == *value && call.at >= reading.at && !call.refused
        })
    }

    /// Tells of every entry.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is in it.
    pub fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_call(&self, call: Call) {
        self.pages().calls.push(call);
        self.changed.send_replace(());
    }

    fn note_reading(&self, value: &Arc<str>) {
        let mut pages = self.pages();
        let last = pages.readings.last();
        if last.is_none_or(|last| last.value != *value) {
            pages.readings.push(Reading {
                at: Instant::now(),
                value: value.clone(),
            });
        }
        drop(pages);
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(refused: &[bool]) -> Vec<Call> {
        let start = Instant::now();
        let call = |(number, refused): (u64, &bool)| Call {
            at: start + Duration::from_secs(number),
            refused: *refused,
        };
        (0..).zip(refused).map(call).collect()
    }

    fn seconds(refused: &[bool]) -> Vec<u64> {
        gaps(&calls(refused)).map(|gap| gap.as_secs()).collect()
    }

    #[test]
    fn a_gap_is_from_the_first_refused_call_to_the_next_that_is_not() {
        assert!(seconds(&[]).is_empty());
        assert!(seconds(&[false, false]).is_empty());
        assert_eq!(
            seconds(&[false, true, true, true, false, true, false]),
            [3, 1]
        );
        assert_eq!(seconds(&[true, false, true, true, true]), [1, 2]);
    }
}
