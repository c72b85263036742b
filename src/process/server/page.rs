//! The text of `/metrics`: written at most once a second, and shared by all who ask for it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::clock::now;
use crate::process::metrics::{Metrics, ResourceSample};

/// Most texts in memory: the last one, and one before it for those who read it slowly.
const TEXTS: usize = 2;

/// How long a text is used.
#[derive(Clone, Copy)]
pub struct Ages {
    /// One no older than this is given to the next one who asks.
    pub fresh: Duration,
    /// One that nobody reads is dropped after this time.
    pub kept: Duration,
}

impl Ages {
    /// What is shipped.
    pub const SHIPPED: Self = Self {
        fresh: Duration::from_secs(1),
        kept: Duration::from_secs(5),
    };
}

/// Clones share one text.
#[derive(Clone)]
pub struct Page(Arc<Writer>);

struct Writer {
    metrics: Metrics,
    samples: Box<dyn Fn() -> Vec<ResourceSample> + Send + Sync>,
    ages: Ages,
    /// Held while a text is written.
    last: Arc<Mutex<Last>>,
    texts: Arc<Semaphore>,
}

#[derive(Default)]
struct Last {
    text: Option<(Instant, Arc<Text>)>,
    length: usize,
}

/// Counts as a text in memory for as long as anybody reads it.
struct Text {
    text: String,
    _counted: OwnedSemaphorePermit,
}

/// Somebody's reading of a text.
struct Reading(Arc<Text>);

impl AsRef<[u8]> for Reading {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl Text {
    fn read(self: &Arc<Self>) -> Bytes {
        Bytes::from_owner(Reading(self.clone()))
    }

    fn is_read(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }
}

impl Page {
    /// Of these numbers and the resources of the moment.
    pub fn new(
        metrics: Metrics,
        samples: impl Fn() -> Vec<ResourceSample> + Send + Sync + 'static,
        ages: Ages,
    ) -> Self {
        Self(Arc::new(Writer {
            metrics,
            samples: Box::new(samples),
            ages,
            last: Arc::default(),
            texts: Arc::new(Semaphore::new(TEXTS)),
        }))
    }

    /// The text of this second. While others still read the last one and one before it, the last one, however old: they do
    /// so for no longer than their connections last. `None` when it cannot be written, which is a fault.
    pub async fn text(&self) -> Option<Bytes> {
        let mut last = self.0.last.clone().lock_owned().await;
        if let Some((at, text)) = &last.text {
            if at.elapsed() < self.0.ages.fresh {
                return Some(text.read());
            }
            if !text.is_read() {
                last.text = None;
            }
        }
        let Ok(counted) = self.0.texts.clone().try_acquire_owned() else {
            return last.text.as_ref().map(|(_, text)| text.read());
        };
        let writer = self.0.clone();
        // It goes on when whoever asked for it is gone, and meanwhile no other is written.
        let written = tokio::task::spawn_blocking(move || writer.write(&mut last, counted));
        let (at, text) = written.await.ok()?;
        tokio::spawn(self.clone().drop_later(at));
        Some(text)
    }

    /// Drops the text of this time once it is old and nobody reads it.
    async fn drop_later(self, written: Instant) {
        loop {
            tokio::time::sleep(self.0.ages.kept).await;
            let mut last = self.0.last.lock().await;
            match &last.text {
                Some((at, text)) if *at == written && text.is_read() => {}
                Some((at, _)) if *at == written => return last.text = None,
                _ => return,
            }
        }
    }
}

impl Writer {
    fn write(&self, last: &mut Last, counted: OwnedSemaphorePermit) -> (Instant, Bytes) {
        let at = Instant::now();
        // A text that does not fit would be copied to twice its size.
        let text = String::with_capacity(last.length + last.length / 32);
        let text = self
            .metrics
            .render_into(text, (self.samples)(), now().as_second());
        last.length = text.len();
        let text = Arc::new(Text {
            text,
            _counted: counted,
        });
        let reading = text.read();
        last.text = Some((at, text));
        (at, reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(20);
    const AT_ONCE: Ages = Ages {
        fresh: Duration::ZERO,
        kept: Duration::from_millis(20),
    };

    fn page(ages: Ages, samples: impl Fn() + Send + Sync + 'static) -> Page {
        let samples = move || {
            samples();
            Vec::new()
        };
        Page::new(Metrics::new(), samples, ages)
    }

    async fn until(what: impl Fn() -> bool) {
        let happens = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, happens).await.unwrap();
    }

    #[tokio::test]
    async fn all_who_ask_within_a_second_get_one_text() {
        let written = Arc::new(AtomicUsize::new(0));
        let count = written.clone();
        let hour = Ages {
            fresh: Duration::from_secs(3600),
            ..Ages::SHIPPED
        };
        let shared = page(hour, move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let texts = futures::future::join_all((0..50).map(|_| shared.text())).await;
        let one = texts[0].clone().unwrap();
        assert!(texts.iter().flatten().all(|it| it.as_ptr() == one.as_ptr()));
        assert_eq!(
            (
                texts.iter().flatten().count(),
                written.load(Ordering::SeqCst)
            ),
            (50, 1)
        );
        let each = page(AT_ONCE, || {});
        let (one, two) = (each.text().await.unwrap(), each.text().await.unwrap());
        assert_ne!(one.as_ptr(), two.as_ptr());
    }

    #[tokio::test]
    async fn one_text_is_written_at_a_time_even_when_whoever_asked_for_it_is_gone() {
        let begun = Arc::new(AtomicUsize::new(0));
        let (go, goes) = mpsc::channel::<()>();
        let (count, goes) = (begun.clone(), StdMutex::new(goes));
        let page = page(AT_ONCE, move || {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = goes.lock().unwrap().recv();
        });
        let asks = |page: Page| tokio::spawn(async move { page.text().await });
        let first = asks(page.clone());
        until(|| begun.load(Ordering::SeqCst) == 1).await;
        first.abort();
        assert!(first.await.is_err());
        let second = asks(page.clone());
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        drop(go);
        assert!(second.await.unwrap().is_some());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn slow_readers_keep_two_texts_in_memory_and_no_more() {
        let page = page(AT_ONCE, || {});
        let free = || page.0.texts.available_permits();
        let (first, second) = (page.text().await.unwrap(), page.text().await.unwrap());
        let third = page.text().await.unwrap();
        assert_eq!((third.as_ptr(), free()), (second.as_ptr(), 0));
        drop(first);
        let fourth = page.text().await.unwrap();
        assert_ne!(fourth.as_ptr(), second.as_ptr());
        // Once nobody reads them they are dropped.
        drop((second, third, fourth));
        until(|| free() == TEXTS).await;
        assert!(page.0.last.lock().await.text.is_none());
        assert!(page.text().await.is_some());
    }
}
