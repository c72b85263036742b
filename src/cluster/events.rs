//! Events about objects, as `kubectl describe` shows them.

use crate::clock::precise;
use crate::cluster::error::LONGEST_MESSAGE;
use crate::decide::notice::Notice;
use crate::decide::pace::Pace;
use crate::text::{api_error, cut};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Longest note of an event, bytes; the API server's limit is 1024.
const LONGEST_NOTE: usize = 1000;
/// Most of a resource's name that an event's own name has, bytes: the two have the same limit, and it needs a suffix.
const LONGEST_PREFIX: usize = 200;
/// Events that are published at once; those about one object are published one after another.
const LANES: usize = 4;
/// Most events that wait in a lane to be published.
const QUEUED: usize = 1_024 / LANES;
/// Most events of which a lane remembers that they were published.
const REMEMBERED: usize = 1_024 / LANES;

/// Publishes events beside the work; one that repeats is counted, and not created again.
///
/// Nothing waits for an event: what finds no place in the queue is dropped.
pub struct Publisher {
    lanes: Vec<Sender<Noticed>>,
    hashes: RandomState,
    workers: Mutex<JoinSet<()>>,
    /// Nothing is taken in any more.
    ended: CancellationToken,
    drain: Duration,
}

/// What was noticed about an object, and when.
struct Noticed {
    object: ObjectReference,
    notice: Notice,
    at: MicroTime,
    /// What makes two events the same: a hash, under a key of this process, of the object's uid, the reason, the action,
    /// and whether it is a warning.
    same: u64,
}

/// Publishes one event at a time.
struct Lane {
    client: Client,
    instance: String,
    series: Duration,
    published: Published,
}

/// The events of a lane that were published last, by what makes two the same.
#[derive(Default)]
struct Published {
    all: BTreeMap<u64, Series>,
    /// Those that were published longest ago first, by their place in the row of all.
    order: BTreeMap<u64, u64>,
    next: u64,
}

struct Series {
    name: String,
    count: i32,
    last: Instant,
    place: u64,
}

impl Publisher {
    /// In the name of this process. Begins to work at once, and ends when it is dropped.
    pub fn new(client: &Client, instance: &str, pace: &Pace) -> Self {
        let (mut workers, ended) = (JoinSet::new(), CancellationToken::new());
        let lanes = (0..LANES).map(|_| {
            let (sender, queue) = mpsc::channel(QUEUED);
            let lane = Lane {
                client: client.clone(),
                instance: instance.to_owned(),
                series: pace.event_series,
                published: Published::default(),
            };
            workers.spawn(lane.work(queue, ended.clone()));
            sender
        });
        Self {
            lanes: lanes.collect(),
            hashes: RandomState::new(),
            workers: Mutex::new(workers),
            ended,
            drain: pace.event_drain,
        }
    }

    /// Takes in what is noticed about an object, to be published soon; whether there was room for it.
    pub fn publish(&self, object: ObjectReference, notice: Notice) -> bool {
        let about = (&object.uid, &object.namespace, &object.name);
        let lane = self.hashes.hash_one(about) as usize % LANES;
        let same = (&object.uid, &notice.reason, &notice.action, notice.warning);
        let noticed = Noticed {
            same: self.hashes.hash_one(same),
            at: MicroTime(precise()),
            object,
            notice,
        };
        !self.ended.is_cancelled() && self.lanes[lane].try_send(noticed).is_ok()
    }

    /// Publishes what was taken in, as far as a short time suffices, and takes in nothing more.
    pub async fn finish(&self) {
        self.ended.cancel();
        let mut workers = {
            let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *workers)
        };
        let all = async { while workers.join_next().await.is_some() {} };
        let _ = timeout(self.drain, all).await;
    }
}

impl Lane {
    async fn work(mut self, mut queue: Receiver<Noticed>, ended: CancellationToken) {
        loop {
            let noticed = tokio::select! {
                biased;
                noticed = queue.recv() => noticed,
                () = ended.cancelled() => {
                    queue.close();
                    queue.recv().await
                }
            };
            let Some(noticed) = noticed else { return };
            if let Err(error) = self.publish(&noticed).await {
                let ObjectReference {
                    namespace, name, ..
                } = &noticed.object;
                let error = api_error(&error, LONGEST_MESSAGE);
                debug!(namespace, name, error, "event not published");
            }
        }
    }

    async fn publish(&mut self, noticed: &Noticed) -> kube::Result<()> {
        let namespace = noticed.object.namespace.as_deref().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        // Taken out first: of one that cannot be counted another is created next time.
        let (name, count) = match self.published.take(noticed.same, self.series) {
            Some(Series { name, count, .. }) => {
                let count = count.saturating_add(1);
                let series = json!({"count": count, "lastObservedTime": noticed.at});
                let series = Patch::Merge(json!({"series": series}));
                events
                    .patch(&name, &PatchParams::default(), &series)
                    .await?;
                (name, count)
            }
            None => {
                let event = self.event(noticed);
                events.create(&PostParams::default(), &event).await?;
                (event.name_any(), 1)
            }
        };
        self.published.put(noticed.same, name, count);
        Ok(())
    }

    fn event(
        &self,
        Noticed {
            object, notice, at, ..
        }: &Noticed,
    ) -> Event {
        Event {
            action: Some(notice.action.clone()),
            event_time: Some(at.clone()),
            metadata: ObjectMeta {
                name: Some(name(object.name.as_deref().unwrap_or_default())),
                namespace: object.namespace.clone(),
                ..ObjectMeta::default()
            },
            note: Some(cut(&notice.message, LONGEST_NOTE).into()),
            reason: Some(notice.reason.clone()),
            regarding: Some(object.clone()),
            reporting_controller: Some("astro-token-operator".into()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(if notice.warning { "Warning" } else { "Normal" }.into()),
            ..Event::default()
        }
    }
}

impl Published {
    /// Takes out what is the same and was published within this time.
    fn take(&mut self, same: u64, within: Duration) -> Option<Series> {
        while let Some(oldest) = self.oldest()
            && self
                .all
                .get(&oldest)
                .is_none_or(|it| it.last.elapsed() >= within)
        {
            self.forget(oldest);
        }
        self.forget(same)
    }

    /// Remembers one that was published now, for the one that was published longest ago where there is no room.
    fn put(&mut self, same: u64, name: String, count: i32) {
        self.forget(same);
        if self.all.len() >= REMEMBERED
            && let Some(oldest) = self.oldest()
        {
            self.forget(oldest);
        }
        let (last, place) = (Instant::now(), self.next);
        self.next += 1;
        self.order.insert(place, same);
        let series = Series {
            name,
            count,
            last,
            place,
        };
        self.all.insert(same, series);
    }

    fn oldest(&self) -> Option<u64> {
        self.order.first_key_value().map(|(_, same)| *same)
    }

    fn forget(&mut self, same: u64) -> Option<Series> {
        let series = self.all.remove(&same)?;
        self.order.remove(&series.place);
        Some(series)
    }
}

/// A new name for an event about the resource of this name.
fn name(resource: &str) -> String {
    // What is before a dot must end as a name does.
    let prefix = cut(resource, LONGEST_PREFIX).trim_end_matches(['-', '.']);
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}.{}", cut(&random, 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::names::is_object_name;
    use axum::http::{Method, Request, Response};
    use kube::client::Body;
    use proptest::prelude::*;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    /// An API server that answers as often as it is let, and notes what it was asked for.
    #[derive(Clone)]
    struct Server {
        answers: Arc<Semaphore>,
        asked: Arc<Mutex<Vec<Method>>>,
        at_once: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
    }

    impl Server {
        fn new(answers: usize) -> Self {
            Self {
                answers: Arc::new(Semaphore::new(answers)),
                asked: Arc::default(),
                at_once: Arc::default(),
                most: Arc::default(),
            }
        }

        fn publisher(&self) -> Publisher {
            self.publisher_with(Pace::SHIPPED)
        }

        fn publisher_with(&self, pace: Pace) -> Publisher {
            let server = self.clone();
            let answer = move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            };
            let client = Client::new(tower::service_fn(answer), "default");
            Publisher::new(&client, "me", &pace)
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            self.asked.lock().unwrap().push(request.method().clone());
            let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(at_once, Ordering::SeqCst);
            self.answers.acquire().await.unwrap().forget();
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            let event = json!({"metadata": {"name": "x"}, "eventTime": null}).to_string();
            Response::new(Body::from(event.into_bytes()))
        }

        async fn until_asked(&self, count: usize) {
            let asked = async {
                while self.asked().len() < count {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            timeout(Duration::from_secs(20), asked).await.unwrap();
        }

        fn asked(&self) -> Vec<Method> {
            self.asked.lock().unwrap().clone()
        }
    }

    fn object(number: usize) -> ObjectReference {
        ObjectReference {
            namespace: Some("ns".into()),
            name: Some(format!("x{number}")),
            uid: Some(format!("uid-{number}")),
            ..ObjectReference::default()
        }
    }

    fn notice(reason: &str) -> Notice {
        Notice {
            reason: reason.into(),
            message: "it did".into(),
            action: "Do".into(),
            rotation_id: None,
            warning: false,
        }
    }

    #[tokio::test]
    async fn one_that_repeats_is_counted_for_as_long_as_it_is_remembered() {
        let shipped = Pace::SHIPPED.event_series;
        let counted = [Method::POST, Method::PATCH, Method::PATCH, Method::POST];
        for (event_series, asked) in [
            (shipped, counted),
            (Duration::ZERO, [(); 4].map(|()| Method::POST)),
        ] {
            let server = Server::new(100);
            let publisher = server.publisher_with(Pace {
                event_series,
                ..Pace::SHIPPED
            });
            for reason in ["Same", "Same", "Same", "Other"] {
                assert!(publisher.publish(object(1), notice(reason)));
            }
            publisher.finish().await;
            assert_eq!(server.asked(), asked);
        }
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_few_are_published_at_once() {
        let server = Server::new(0);
        let publisher = server.publisher();
        let taken = |number| usize::from(publisher.publish(object(number), notice("New")));
        assert_eq!(
            (0..LANES * QUEUED * 2).map(taken).sum::<usize>(),
            LANES * QUEUED
        );
        // Each lane has one in hand then, and room for another one.
        server.until_asked(LANES).await;
        assert_eq!((0..LANES * QUEUED).map(taken).sum::<usize>(), LANES);
        assert_eq!(server.asked().len(), LANES);
        server.answers.add_permits(100_000);
        server.until_asked(LANES * (QUEUED + 1)).await;
        assert_eq!(server.most.load(Ordering::SeqCst), LANES);
    }

    #[tokio::test]
    async fn the_end_waits_a_short_time_for_what_is_queued_and_no_longer() {
        let server = Server::new(0);
        let event_drain = Duration::from_millis(100);
        let publisher = server.publisher_with(Pace {
            event_drain,
            ..Pace::SHIPPED
        });
        assert!(publisher.publish(object(1), notice("New")));
        let begun = Instant::now();
        publisher.finish().await;
        assert!(begun.elapsed() >= event_drain && begun.elapsed() < event_drain * 50);
        assert_eq!(server.asked().len(), 1);
        assert!(
            !publisher.publish(object(1), notice("New")),
            "taken in after the end"
        );
    }

    #[test]
    fn only_so_many_are_remembered_and_those_are_the_last() {
        let mut published = Published::default();
        let many = REMEMBERED as u64 * 10;
        for same in 0..many {
            published.put(same, "x".into(), 1);
            published.put(0, "first".into(), 1);
        }
        assert_eq!(
            (published.all.len(), published.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        let hour = Duration::from_secs(3600);
        assert!(published.take(0, hour).is_some() && published.take(many - 1, hour).is_some());
        assert!(published.take(1, hour).is_none());
        assert!(published.take(many - 2, Duration::ZERO).is_none() && published.all.is_empty());
    }

    proptest! {
        #[test]
        fn every_resource_gets_a_name_for_its_events(resource in "[a-z0-9]([a-z0-9-]{0,60}[a-z0-9]){0,1}(\\.[a-z0-9]([a-z0-9-]{0,60}[a-z0-9]){0,1}){0,3}") {
            let name = name(&resource);
            prop_assert!(is_object_name(&name) && !name.contains("-."), "{}", name);
            prop_assert!(name.len() <= 217);
        }
    }
}
