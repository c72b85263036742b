//! One watch against an API server that is made up here: it has so many objects, of so many bytes.

use super::*;
use crate::api::WorkspaceTokenRotation;
use axum::http::{Request, Response, Uri};
use futures::stream::BoxStream;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// Longer than the first pauses of the back-off.
const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Server(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    /// Length of each object.
    objects: Vec<usize>,
    /// The list expires at this object, once.
    expires_at: Option<usize>,
    /// How many objects were asked for, from which one on.
    asked: Vec<(usize, usize)>,
    /// What a watch answers, one after another; then nothing more.
    events: Vec<String>,
    /// From which version on was watched.
    watched: Vec<String>,
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let found = pairs.find(|(key, _)| *key == name);
    found.map(|(_, text)| text.to_owned())
}

fn object(number: usize, length: usize, version: &str) -> Value {
    json!({
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {
            "name": format!("x{number}"), "namespace": "ns", "uid": "u", "resourceVersion": version,
            "annotations": {"long": "x".repeat(length)},
        },
        "spec": {"workspaceId": "ws", "token": {"name": "t"}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
    })
}

impl World {
    fn answer(&mut self, uri: &Uri) -> (u16, String) {
        if parameter(uri, "watch").is_some() {
            self.watched.extend(parameter(uri, "resourceVersion"));
            let is_any = !self.events.is_empty();
            return (
                200,
                if is_any {
                    self.events.remove(0)
                } else {
                    String::new()
                },
            );
        }
        let number = |name: &str| parameter(uri, name).and_then(|it| it.parse::<usize>().ok());
        let (from, limit) = (number("continue").unwrap_or(0), number("limit").unwrap());
        self.asked.push((from, limit));
        if from > 0 && self.expires_at.take_if(|at| *at <= from).is_some() {
            let status = json!({"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410, "message": "old"});
            return (410, status.to_string());
        }
        let to = self.objects.len().min(from + limit);
        let items = (from..to).map(|number| object(number, self.objects[number], "1"));
        let next = if to < self.objects.len() {
            to.to_string()
        } else {
            String::new()
        };
        let list = json!({
            "metadata": {"resourceVersion": "5", "continue": next}, "items": items.collect::<Vec<_>>(),
        });
        (200, list.to_string())
    }
}

impl Server {
    fn with(world: World) -> Self {
        Self(Arc::new(Mutex::new(world)))
    }

    fn changes(&self) -> BoxStream<'static, Change<WorkspaceTokenRotation>> {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let (server, uri) = (server.clone(), request.uri().clone());
            async move {
                let (code, body) = server.0.lock().unwrap().answer(&uri);
                if body.is_empty() {
                    // A watch without news ends, and is begun again.
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let answer = Response::builder().status(code);
                Ok::<_, Infallible>(answer.body(Body::from(body.into_bytes())).unwrap())
            }
        };
        let client = Client::new(tower::service_fn(answer), "ns");
        let api = Api::namespaced(client.clone(), "ns");
        changes(client, api, None, &Pace::SHIPPED, |_| false).boxed()
    }
}

/// Changes up to the next list that is complete, without their contents.
async fn told(changes: &mut BoxStream<'static, Change<WorkspaceTokenRotation>>) -> Vec<String> {
    let mut told = Vec::new();
    let all = async {
        loop {
            match changes.next().await.unwrap() {
                Change::Apply(key, _) => told.push(key.name),
                Change::Delete(key) => told.push(format!("-{}", key.name)),
                Change::Unreadable(key, ..) => told.push(format!("?{}", key.name)),
                Change::Failed(error) => told.push(text(&error)),
                Change::Listed(names) => {
                    let named = told.iter().filter(|name| {
                        let (namespace, name) = ("ns".to_owned(), (*name).clone());
                        names.contains(&Key { namespace, name })
                    });
                    break named.count();
                }
            }
        }
    };
    let listed = tokio::time::timeout(SOON, all).await.unwrap();
    told.push(format!("{listed} listed"));
    told
}

#[tokio::test]
async fn a_page_that_is_too_long_is_read_in_smaller_ones_until_they_are_short_again() {
    let mut objects = vec![1 << 20; 9];
    objects.extend([10; 20]);
    let server = Server::with(World {
        objects,
        ..World::default()
    });
    let told = told(&mut server.changes()).await;
    assert_eq!((told.len(), told[29].as_str()), (30, "29 listed"));
    let asked = server.0.lock().unwrap().asked.clone();
    let expected = [
        (0, 200),
        (0, 50),
        (0, 12),
        (0, 3),
        (3, 3),
        (6, 3),
        (9, 3),
        (12, 6),
        (18, 12),
    ];
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn one_object_that_is_too_long_ends_the_list_and_says_so() {
    let server = Server::with(World {
        objects: vec![5 << 20],
        ..World::default()
    });
    let mut changes = server.changes();
    let change = tokio::time::timeout(SOON, changes.next()).await.unwrap();
    let Some(Change::Failed(error)) = change else {
        panic!("no failure");
    };
    assert!(text(&error).contains("4194304 bytes"), "{}", text(&error));
}

#[tokio::test]
async fn a_list_that_expires_in_the_middle_is_begun_anew_and_nothing_counts_as_gone() {
    let server = Server::with(World {
        objects: vec![10; 450],
        expires_at: Some(400),
        ..World::default()
    });
    let told = told(&mut server.changes()).await;
    let expired = told.iter().position(|it| it == "old").unwrap();
    assert_eq!(expired, 400);
    // The second time all of them.
    assert_eq!(told.len(), 400 + 1 + 450 + 1);
    assert_eq!(told.last().unwrap(), "850 listed");
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_version_and_begins_anew_where_that_is_too_old() {
    let event = |type_: &str, number, version: &str| {
        json!({"type": type_, "object": object(number, 1, version)}).to_string() + "\n"
    };
    let bookmark = json!({"type": "BOOKMARK", "object": {
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {"resourceVersion": "9"},
    }});
    let expired = json!({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "old", "status": "Failure", "reason": "Expired"}});
    let server = Server::with(World {
        objects: vec![10],
        events: vec![
            event("ADDED", 1, "6") + &event("DELETED", 1, "7"),
            bookmark.to_string() + "\n",
            expired.to_string() + "\n",
            // What cannot be decoded.
            "{\"type\": 5}\n".into(),
        ],
        ..World::default()
    });
    let mut changes = server.changes();
    assert_eq!(told(&mut changes).await, ["x0", "1 listed"]);
    assert_eq!(
        told(&mut changes).await,
        ["x1", "-x1", "old", "x0", "1 listed"]
    );
    let told = told(&mut changes).await;
    assert_eq!(told[1..], ["x0", "1 listed"], "{told:?}");
    let world = server.0.lock().unwrap();
    assert_eq!(world.watched[..4], ["5", "7", "9", "5"]);
    assert_eq!(world.asked.len(), 3);
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_begun_without_a_pause() {
    let server = Server::with(World::default());
    let mut changes = server.changes();
    assert_eq!(told(&mut changes).await, ["0 listed"]);
    let pause = Pace::SHIPPED.watch_retry;
    let none = tokio::time::timeout(pause * 2, changes.next()).await;
    assert!(none.is_err());
    let watches = server.0.lock().unwrap().watched.len();
    assert!((1..=3).contains(&watches), "{watches} watches");
}
