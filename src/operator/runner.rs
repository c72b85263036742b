//! Runs passes: of each resource one at a time, of all of them so many at once, each when it is woken or its time has come.

use crate::api::Key;
use futures::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

/// Passes at once. None of them waits for a list or for its turn, so few are enough, and they bound the memory.
const PASSES: usize = 64;
/// The longest time that a timer of the library can be set to is about two years.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// What follows a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another one, after so long at the latest.
    After(Duration),
    /// Another one once something wakes the resource.
    Woken,
}

/// Runs `pass` for resources that are woken, and with what they were admitted to, until `stop`; then what is under way ends.
pub async fn run<P, F>(
    mut woken: UnboundedReceiver<Key>,
    mut admitted: UnboundedReceiver<(Arc<Key>, P)>,
    stop: CancellationToken,
    pass: impl Fn(Arc<Key>, Option<P>) -> F,
) where
    F: Future<Output = Next> + Send + 'static,
{
    let (mut queue, mut running) = (Queue::default(), JoinSet::new());
    loop {
        while running.len() < PASSES
            && let Some((key, given)) = queue.begin()
        {
            let pass = pass(key.clone(), given);
            running.spawn(async move { (key, pass.await) });
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = running.join_next() => {
                // A pass catches its own panics.
                if let Ok((key, next)) = ended {
                    queue.end(&key, next);
                }
            }
            Some((key, given)) = admitted.recv() => queue.wake(key, Some(given)),
            Some(expired) = queue.timers.next() => queue.wake(expired.into_inner(), None),
            Some(key) = woken.recv() => queue.wake(Arc::new(key), None),
        }
    }
    while running.join_next().await.is_some() {}
}

/// Which resources are to be passed over, and when.
struct Queue<P> {
    all: HashMap<Arc<Key>, Entry<P>>,
    ready: VecDeque<Arc<Key>>,
    timers: DelayQueue<Arc<Key>>,
}

struct Entry<P> {
    timer: Option<delay_queue::Key>,
    /// A pass is to begin as soon as one may.
    is_ready: bool,
    is_running: bool,
    given: Option<P>,
}

impl<P> Queue<P> {
    /// A pass is due, be it woken, timed or admitted.
    fn wake(&mut self, key: Arc<Key>, given: Option<P>) {
        let entry = self.all.entry(key.clone()).or_default();
        if let Some(timer) = entry.timer.take() {
            // It may be the one that has just expired.
            self.timers.try_remove(&timer);
        }
        entry.given = given.or_else(|| entry.given.take());
        if !std::mem::replace(&mut entry.is_ready, true) && !entry.is_running {
            self.ready.push_back(key);
        }
    }

    /// The next pass, with what its resource was admitted to.
    fn begin(&mut self) -> Option<(Arc<Key>, Option<P>)> {
        let key = self.ready.pop_front()?;
        let entry = self.all.entry(key.clone()).or_default();
        (entry.is_ready, entry.is_running) = (false, true);
        Some((key, entry.given.take()))
    }

    fn end(&mut self, key: &Arc<Key>, next: Next) {
        let Some(entry) = self.all.get_mut(key) else {
            return;
        };
        entry.is_running = false;
        match next {
            _ if entry.is_ready => self.ready.push_back(key.clone()),
            Next::After(pause) => {
                entry.timer = Some(self.timers.insert(key.clone(), pause.min(LONGEST)));
            }
            Next::Woken => {
                self.all.remove(key);
                // Of a resource that is gone nothing stays.
                if self.all.len() < self.all.capacity() / 4 {
                    self.all.shrink_to_fit();
                }
            }
        }
    }
}

impl<P> Default for Queue<P> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            ready: VecDeque::new(),
            timers: DelayQueue::new(),
        }
    }
}

impl<P> Default for Entry<P> {
    fn default() -> Self {
        Self {
            timer: None,
            is_ready: false,
            is_running: false,
            given: None,
        }
    }
}
