//! What the API server asks to retry is retried after the pause it asks for, as all clients of Kubernetes do it: an
//! answer 429, which may come from priority and fairness or right after a CRD is installed, and any answer from 500 on
//! that has a `Retry-After`.
//!
//! The header is read and not the body, which may be plain text. A request that is sent again has not become another one:
//! each write carries the resourceVersion it was decided on.

use http::header::RETRY_AFTER;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use kube::client::Body;
use kube::client::retry::RetryPolicy;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;
use tower::retry::Policy;

/// How a single call is retried, and who hears of it.
#[derive(Clone)]
pub struct Patience {
    /// How long it may still be held back in all.
    pub left: Duration,
    /// The pause where the answer does not name one; doubled each time.
    pub pause: Duration,
    /// Is told each time.
    pub tell: Arc<dyn Fn(&HeldBack) + Send + Sync>,
}

/// A pause that all who begin something new keep together, since the API server holds back one of their requests.
#[derive(Clone, Default)]
pub struct Pause(Arc<Mutex<Option<Instant>>>);

impl Pause {
    /// For so long from now on, at least.
    pub fn extend(&self, by: Duration) {
        let mut until = self.until();
        *until = Instant::now().checked_add(by).max(*until);
    }

    /// For how long it still is; `None`: there is none.
    pub fn left(&self) -> Option<Duration> {
        let left = (*self.until())?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    fn until(&self) -> MutexGuard<'_, Option<Instant>> {
        // Each change is whole, even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The API server asked to come back later, for longer than a call waits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("it answers {status} and asks to retry after {} s", .after.as_secs())]
pub struct HeldBack {
    /// Its answer.
    pub status: StatusCode,
    /// The pause it asks for.
    pub after: Duration,
    /// It may be about events alone: an admission plugin limits those of each namespace.
    pub is_of_event: bool,
}

impl HeldBack {
    /// Whether an answer asks for that.
    fn read(uri: &Uri, status: StatusCode, headers: &HeaderMap, default: Duration) -> Option<Self> {
        let asked = headers.get(RETRY_AFTER);
        let is_asked =
            status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() && asked.is_some();
        let seconds = asked.and_then(|text| text.to_str().ok()?.trim().parse().ok());
        // A pause of nothing would be a loop without a brake.
        let after = seconds.map_or(default, Duration::from_secs).max(default);
        is_asked.then(|| Self {
            status,
            after,
            is_of_event: uri.path().ends_with("/events"),
        })
    }

    /// Whether this is why a call failed.
    pub fn of(error: &kube::Error) -> Option<&Self> {
        match error {
            kube::Error::Service(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl<B> Policy<Request<Body>, Response<B>, BoxError> for Patience {
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<B>, BoxError>,
    ) -> Option<Sleep> {
        let answer = result.as_ref().ok()?;
        let (uri, headers) = (request.uri(), answer.headers());
        let held = HeldBack::read(uri, answer.status(), headers, self.pause)?;
        (self.tell)(&held);
        let Some(left) = self.left.checked_sub(held.after) else {
            *result = Err(held.into());
            return None;
        };
        self.left = left;
        self.pause = self.pause.saturating_mul(2);
        Some(sleep(held.after))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut copying = RetryPolicy::default();
        Policy::<_, Response<B>, _>::clone_request(&mut copying, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a call that gets these answers one after another, and then a good one: its status, or the error; the
    /// seconds that it waits in all; and how often its caller is told.
    fn call(answers: &[(u16, Option<&str>)]) -> (Result<u16, HeldBack>, u64, usize) {
        let told = Arc::new(Mutex::new(0));
        let tell = {
            let told = told.clone();
            Arc::new(move |_: &HeldBack| *told.lock().unwrap() += 1)
        };
        let mut patience = Patience {
            left: Duration::from_secs(60),
            pause: Duration::from_secs(1),
            tell,
        };
        let mut waited = 0.0;
        for (status, pause) in answers.iter().chain(&[(200, None)]) {
            let mut answer = Response::builder().status(*status);
            if let Some(pause) = pause {
                answer = answer.header("Retry-After", *pause);
            }
            let mut result = Ok(answer.body(()).unwrap());
            let now = Instant::now();
            let retry = patience.retry(&mut Request::new(Body::empty()), &mut result);
            if let Some(retry) = retry {
                waited += retry.deadline().duration_since(now).as_secs_f64();
                continue;
            }
            let ended = result.map(|answer| answer.status().as_u16());
            let ended = ended.map_err(|error| *error.downcast::<HeldBack>().unwrap());
            return (ended, waited.round() as u64, *told.lock().unwrap());
        }
        unreachable!("a good answer is not retried")
    }

    #[test]
    fn an_answer_that_may_be_about_events_alone_is_told_from_others() {
        let events = "/apis/events.k8s.io/v1/namespaces/events/events";
        let resources =
            "/apis/astro-token-operator.io/v1alpha1/namespaces/events/workspacetokenrotations/r";
        for (path, expected) in [(events, true), (resources, false)] {
            let (uri, headers) = (Uri::from_static(path), HeaderMap::new());
            let pause = Duration::from_secs(1);
            let held = HeldBack::read(&uri, StatusCode::TOO_MANY_REQUESTS, &headers, pause);
            assert_eq!(held.unwrap().is_of_event, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn what_the_api_server_asks_to_retry_is_retried_after_the_pause_it_asks_for() {
        let plain = (429, None);
        let given_up = |status: u16, seconds| {
            Err(HeldBack {
                status: StatusCode::from_u16(status).unwrap(),
                after: Duration::from_secs(seconds),
                is_of_event: false,
            })
        };
        for (answers, outcome) in [
            (vec![], (Ok(200), 0, 0)),
            (vec![plain], (Ok(200), 1, 1)),
            (vec![plain; 4], (Ok(200), 15, 4)),
            (vec![plain; 6], (given_up(429, 32), 31, 6)),
            (vec![(429, Some("7"))], (Ok(200), 7, 1)),
            // Neither nothing nor what cannot be read is a pause.
            (vec![(429, Some("0")); 2], (Ok(200), 3, 2)),
            (
                vec![(429, Some("-1")), (429, Some("soon"))],
                (Ok(200), 3, 2),
            ),
            (vec![(429, Some("61"))], (given_up(429, 61), 0, 1)),
            (
                vec![(429, Some("18446744073709551615"))],
                (given_up(429, u64::MAX), 0, 1),
            ),
            (vec![(503, Some("2"))], (Ok(200), 2, 1)),
            // These are answers, and evidence decides.
            (vec![(503, None)], (Ok(503), 0, 0)),
            (vec![(409, Some("2"))], (Ok(409), 0, 0)),
        ] {
            assert_eq!(call(&answers), outcome, "{answers:?}");
        }
    }
}
