//! Work of which only so much is done at once.

use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// For how long work without an answer has its place. After that it goes on beside the others, which it must not keep waiting.
const ANSWERED: Duration = Duration::from_secs(1);

/// So many places.
pub(super) struct Places(Semaphore);

impl Places {
    /// All of them are free.
    pub(super) fn new(number: usize) -> Self {
        Self(Semaphore::new(number))
    }

    /// Does the work once there is a place for it.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        // It is never closed.
        let place = self.0.acquire().await;
        let mut work = Box::pin(work);
        if let Ok(done) = timeout(ANSWERED, &mut work).await {
            return done;
        }
        drop(place);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Instant;

    #[tokio::test]
    async fn a_few_are_done_at_a_time_and_those_without_an_answer_keep_nobody_waiting() {
        let places = Places::new(3);
        let asked = Instant::now();
        let unanswered = (0..3).map(|_| places.run(pending::<()>()));
        let unanswered = futures::future::join_all(unanswered);
        let next = places.run(async { asked.elapsed() });
        let waited = tokio::select! {
            biased;
            _ = unanswered => unreachable!("they are never answered"),
            waited = timeout(ANSWERED * 10, next) => waited.unwrap(),
        };
        assert!(waited >= ANSWERED, "{waited:?}");
    }
}
