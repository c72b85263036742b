//! Runs passes: of each resource one at a time, of all of them so many at once, each when it is woken or its time has come.

use super::turns::Turns;
use crate::api::Key;
use crate::cluster::retry::Pause;
use futures::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::time::{DelayQueue, delay_queue};

/// Passes at once. None of them waits for a list or for its turn, so few are enough, and they bound the memory.
const PASSES: usize = 128;
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
/// During a `pause` none begins.
pub async fn run<P, F>(
    (mut woken, mut admitted): (UnboundedReceiver<Key>, UnboundedReceiver<(Arc<Key>, P)>),
    pause: Pause,
    stop: CancellationToken,
    pass: impl Fn(Arc<Key>, Option<P>) -> F,
) where
    F: Future<Output = Next> + Send + 'static,
{
    let (mut queue, mut running) = (Queue::default(), JoinSet::new());
    loop {
        let held_back = pause.left();
        while held_back.is_none()
            && running.len() < PASSES
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
            () = sleep(held_back.unwrap_or_default()), if held_back.is_some() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Which resources are to be passed over, and when.
struct Queue<P> {
    all: HashMap<Arc<Key>, Entry<P>>,
    ready: Ready,
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
            self.ready.push(key);
        }
    }

    /// The next pass, with what its resource was admitted to.
    fn begin(&mut self) -> Option<(Arc<Key>, Option<P>)> {
        let key = self.ready.next()?;
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
            _ if entry.is_ready => self.ready.push(key.clone()),
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

/// Resources whose passes are to begin. Namespaces take turns, so that one with thousands that are all due keeps no other
/// waiting.
#[derive(Default)]
struct Ready {
    turns: Turns<String>,
    namespaces: HashMap<String, VecDeque<Arc<Key>>>,
}

impl Ready {
    fn push(&mut self, key: Arc<Key>) {
        if let Some(line) = self.namespaces.get_mut(&key.namespace) {
            line.push_back(key);
            return;
        }
        let namespace = key.namespace.clone();
        self.turns.come(namespace.clone());
        self.namespaces.insert(namespace, [key].into());
    }

    fn next(&mut self) -> Option<Arc<Key>> {
        let namespace = self.turns.next(|_| true)?;
        let line = self.namespaces.get_mut(&namespace)?;
        let key = line.pop_front();
        match line.is_empty() {
            false => self.turns.stay(namespace),
            true => {
                self.namespaces.remove(&namespace);
                if self.namespaces.is_empty() {
                    self.namespaces.shrink_to_fit();
                    self.turns.shrink();
                }
            }
        }
        key
    }
}

impl<P> Default for Queue<P> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            ready: Ready::default(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;
    use tokio::sync::{Semaphore, mpsc};

    fn key(name: &str) -> Key {
        Key {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    /// Passes of one run, which end when they are let.
    struct Passes {
        begun: mpsc::UnboundedReceiver<(String, Option<u8>)>,
        gate: Arc<Semaphore>,
        at_once: Arc<AtomicUsize>,
        woken: mpsc::UnboundedSender<Key>,
        admitted: mpsc::UnboundedSender<(Arc<Key>, u8)>,
        stop: CancellationToken,
        pause: Pause,
        ended: tokio::task::JoinHandle<()>,
    }

    fn start(next: Next) -> Passes {
        let (woken, receiver) = mpsc::unbounded_channel();
        let (admitted, admissions) = mpsc::unbounded_channel();
        let (tell, begun) = mpsc::unbounded_channel();
        let (gate, at_once) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (stop, pause) = (CancellationToken::new(), Pause::default());
        let pass = {
            let (gate, at_once) = (gate.clone(), at_once.clone());
            move |key: Arc<Key>, given| {
                let (gate, at_once, tell) = (gate.clone(), at_once.clone(), tell.clone());
                async move {
                    at_once.fetch_add(1, Ordering::SeqCst);
                    let _ = tell.send((key.name.clone(), given));
                    gate.acquire().await.unwrap().forget();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    next
                }
            }
        };
        let ended = tokio::spawn(run(
            (receiver, admissions),
            pause.clone(),
            stop.clone(),
            pass,
        ));
        Passes {
            begun,
            gate,
            at_once,
            woken,
            admitted,
            stop,
            pause,
            ended,
        }
    }

    impl Passes {
        fn wake(&self, name: &str) {
            self.woken.send(key(name)).unwrap();
        }

        async fn next(&mut self) -> (String, Option<u8>) {
            let next = tokio::time::timeout(Duration::from_secs(10), self.begun.recv());
            next.await.unwrap().unwrap()
        }

        /// Ends after what is under way; returns what was begun in the meantime.
        async fn end(mut self) -> Vec<(String, Option<u8>)> {
            self.stop.cancel();
            self.gate.add_permits(1_000);
            self.ended.await.unwrap();
            std::iter::from_fn(|| self.begun.try_recv().ok()).collect()
        }
    }

    #[tokio::test]
    async fn of_one_resource_one_pass_runs_and_what_wakes_it_meanwhile_begins_one_more() {
        let mut passes = start(Next::Woken);
        passes.wake("a");
        assert_eq!(passes.next().await, ("a".into(), None));
        for _ in 0..5 {
            passes.wake("a");
        }
        passes.wake("b");
        // That of b shows that the others were taken note of.
        assert_eq!(passes.next().await, ("b".into(), None));
        passes.gate.add_permits(2);
        assert_eq!(passes.next().await, ("a".into(), None));
        assert_eq!(passes.end().await, []);
    }

    #[tokio::test]
    async fn what_a_resource_is_admitted_to_during_a_pass_is_for_the_next_one() {
        let mut passes = start(Next::Woken);
        passes.wake("a");
        passes.next().await;
        passes.admitted.send((Arc::new(key("a")), 7)).unwrap();
        passes.wake("a");
        passes.gate.add_permits(1);
        assert_eq!(passes.next().await, ("a".into(), Some(7)));
        passes.gate.add_permits(1);
        assert_eq!(passes.end().await, []);
    }

    #[tokio::test]
    async fn a_resource_comes_again_when_its_time_has_come() {
        let mut passes = start(Next::After(Duration::from_millis(1)));
        passes.wake("a");
        for _ in 0..3 {
            assert_eq!(passes.next().await, ("a".into(), None));
            passes.gate.add_permits(1);
        }
        passes.end().await;
    }

    #[tokio::test]
    async fn none_begins_while_the_api_server_holds_requests_back() {
        let mut passes = start(Next::Woken);
        passes.wake("a");
        passes.next().await;
        let (begun, pause) = (Instant::now(), Duration::from_millis(300));
        passes.pause.extend(pause);
        passes.pause.extend(pause / 3);
        passes.wake("b");
        passes.gate.add_permits(1);
        passes.next().await;
        assert!(begun.elapsed() >= pause);
        passes.end().await;
    }

    #[tokio::test]
    async fn so_many_run_at_once_and_no_more() {
        let mut passes = start(Next::Woken);
        for n in 0..PASSES + 5 {
            passes.wake(&n.to_string());
        }
        for _ in 0..PASSES {
            passes.next().await;
        }
        tokio::task::yield_now().await;
        assert!(passes.begun.try_recv().is_err());
        assert_eq!(passes.at_once.load(Ordering::SeqCst), PASSES);
        passes.gate.add_permits(5);
        for _ in 0..5 {
            passes.next().await;
        }
        assert_eq!(passes.end().await, []);
    }

    #[test]
    fn a_namespace_with_many_keeps_no_other_waiting() {
        let mut queue = Queue::<u8>::default();
        let wake = |queue: &mut Queue<u8>, namespace: &str, n: usize| {
            let (namespace, name) = (namespace.into(), n.to_string());
            queue.wake(Arc::new(Key { namespace, name }), None);
        };
        for n in 0..1_000 {
            wake(&mut queue, "many", n);
            wake(&mut queue, &format!("others-{}", n % 100), n);
        }
        for _ in 0..500 {
            queue.begin().unwrap();
        }
        wake(&mut queue, "one", 0);
        let next: Vec<_> = (0..2).filter_map(|_| queue.begin()).collect();
        assert!(next.iter().any(|(key, _)| key.namespace == "one"));
        assert_eq!(std::iter::from_fn(|| queue.begin()).count(), 1_499);
        assert_eq!(
            (
                queue.ready.namespaces.capacity(),
                queue.ready.turns.places()
            ),
            (0, 0)
        );
    }

    #[tokio::test]
    async fn of_what_has_ended_for_good_nothing_is_left() {
        let mut queue = Queue::<u8>::default();
        for round in 0..2 {
            for n in 0..1_000 {
                queue.wake(Arc::new(key(&n.to_string())), None);
            }
            while let Some((key, _)) = queue.begin() {
                let later = Next::After(Duration::from_secs(60));
                queue.end(&key, if round == 0 { later } else { Next::Woken });
            }
        }
        assert_eq!((queue.all.len(), queue.timers.len()), (0, 0));
        assert!(queue.all.capacity() < 100, "{}", queue.all.capacity());
    }
}
