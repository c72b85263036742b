//! Who may look and who may rotate: so many at once in all, fairly between credentials, and for each credential fairly
//! between namespaces. Who waits costs no more than its name.

mod lines;

use self::lines::Lines;
use crate::api::Key;
use crate::astro::client::Astro;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A look at Secret and vendor.
    Look,
    /// A look, and the rotation that is to follow it.
    Rotation,
}

/// All that wait.
#[derive(Clone)]
pub struct Admission(Arc<Inner>);

struct Inner {
    astro: Astro,
    looks: Mutex<Lines>,
    rotations: Mutex<Lines>,
    changed: Notify,
}

/// A place that was given. It is another one's when this is dropped.
pub struct Permit {
    admission: Admission,
    kind: Kind,
    credential: u128,
}

impl Admission {
    /// Nobody waits yet; so many places for looks, and as many for rotations.
    pub fn new(astro: Astro, places: usize) -> Self {
        Self(Arc::new(Inner {
            astro,
            looks: Mutex::new(Lines::new(places)),
            rotations: Mutex::new(Lines::new(places)),
            changed: Notify::new(),
        }))
    }

    /// Has a resource wait, if it does not yet, for a place for the credential of this fingerprint.
    pub fn ask(&self, kind: Kind, credential: u128, resource: &Arc<Key>) {
        self.lines(kind).join(credential, resource);
        self.0.changed.notify_one();
    }

    /// Gives out places for as long as it is polled.
    pub async fn run(&self, admitted: UnboundedSender<(Arc<Key>, Permit)>) {
        loop {
            let mut soonest = None::<Duration>;
            for kind in [Kind::Look, Kind::Rotation] {
                while let Some((resource, credential)) = self.next(kind, &mut soonest) {
                    let admission = self.clone();
                    let permit = Permit {
                        admission,
                        kind,
                        credential,
                    };
                    // Nobody takes it any more while the process stops.
                    let _ = admitted.send((resource, permit));
                }
            }
            let budget = async {
                match soonest {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = budget => {}
            }
        }
    }

    fn next(&self, kind: Kind, soonest: &mut Option<Duration>) -> Option<(Arc<Key>, u128)> {
        let astro = &self.0.astro;
        let may = |credential| {
            let said = match kind {
                Kind::Look => astro.may_read(credential),
                Kind::Rotation => astro.may_rotate(credential),
            };
            said.inspect_err(|pause| *soonest = Some(soonest.unwrap_or(*pause).min(*pause)))
                .is_ok()
        };
        self.lines(kind).next(may)
    }

    fn lines(&self, kind: Kind) -> MutexGuard<'_, Lines> {
        let lines = match kind {
            Kind::Look => &self.0.looks,
            Kind::Rotation => &self.0.rotations,
        };
        // Each change is whole, even after a panic.
        lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Whether this is good for a look or a rotation with the credential of this fingerprint.
    pub fn is_for(&self, kind: Kind, credential: u128) -> bool {
        self.credential == credential && (self.kind == kind || self.kind == Kind::Rotation)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.lines(self.kind).leave(self.credential);
        self.admission.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::astro::client::Settings;
    use crate::decide::pace::Pace;
    use crate::process::metrics::Metrics;
    use std::future::poll_fn;
    use std::num::NonZeroU32;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::mpsc;

    const SERVED: usize = 50;

    /// How often the admission is polled while so many wait for the budget of one credential, until some of them were
    /// served.
    async fn polls(waiting: usize) -> usize {
        let a_second = |number| NonZeroU32::new(number).unwrap();
        let settings = Settings {
            url: "http://127.0.0.1:1/v1".parse().unwrap(),
            ca_bundle: None,
            pace: Pace::SHIPPED,
            reads_per_second: a_second(1),
            rotations_per_second: a_second(20),
        };
        let astro = Astro::new(settings, Metrics::new()).unwrap();
        let admission = Admission::new(astro, 4);
        for n in 0..waiting {
            let (namespace, name) = (format!("ns-{}", n % 10), n.to_string());
            admission.ask(Kind::Rotation, 1, &Arc::new(Key { namespace, name }));
        }
        let (sender, mut admitted) = mpsc::unbounded_channel();
        let polls = Arc::new(AtomicUsize::new(0));
        let run = {
            let polls = polls.clone();
            tokio::spawn(async move {
                let mut run = Box::pin(admission.run(sender));
                let counted = poll_fn(|context| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    run.as_mut().poll(context)
                });
                counted.await;
            })
        };
        for _ in 0..SERVED {
            drop(admitted.recv().await.unwrap());
        }
        run.abort();
        polls.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_a_place_costs_does_not_depend_on_how_many_wait_for_one() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (few, many) = tokio::join!(polls(100), polls(1_000));
        // When the budget has one more, and when a place is given back.
        let most = 2 * SERVED + 1;
        assert!(few <= most && many <= most, "{few} and {many} polls");
    }
}
