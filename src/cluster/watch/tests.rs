//! The watches against an API server that is made up here: it lists what it is told to, and refuses where it is told to.

use super::*;
use axum::http::{Request, Response, Uri};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

/// Longer than the first pauses of the back-off.
const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Server(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    /// Resources of each namespace.
    resources: BTreeMap<&'static str, Vec<&'static str>>,
    /// Parts of paths that are forbidden.
    refused: Vec<&'static str>,
    asked: Vec<String>,
}

impl Server {
    fn edit(&self, edit: impl FnOnce(&mut World)) {
        edit(&mut self.0.lock().unwrap());
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let (server, uri) = (server.clone(), request.uri().clone());
            async move { Ok::<_, Infallible>(server.answer(&uri).await) }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    async fn answer(&self, uri: &Uri) -> Response<Body> {
        let path = uri.path().to_owned();
        let watch = uri.query().unwrap_or_default().contains("watch=");
        let (code, body) = self.0.lock().unwrap().answer(path, watch);
        if watch {
            // It ends without news, and is begun again.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let answer = Response::builder().status(code);
        answer.body(Body::from(body.into_bytes())).unwrap()
    }

    /// Watches; tells what is known.
    fn watch(&self, scope: &Scope, access: SecretAccess) -> Watched {
        self.watch_with(scope, access, Arc::default(), silent())
    }

    fn watch_with(
        &self,
        scope: &Scope,
        access: SecretAccess,
        claims: Arc<Mutex<Claims>>,
        report: Report,
    ) -> Watched {
        let (wake, woken) = Wake::channel();
        let (watched, feeds) = watch(
            &self.client(),
            scope,
            (access, Store::default()),
            claims,
            wake,
            Pace::SHIPPED,
            report,
        );
        tokio::spawn(async move {
            feeds.await;
            drop(woken);
        });
        watched
    }
}

impl World {
    fn answer(&mut self, path: String, watch: bool) -> (u16, String) {
        self.asked.push(path.clone());
        if self.refused.iter().any(|part| path.contains(part)) {
            let status = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
            return (403, status.to_string());
        }
        let here = |namespace: &str| path.contains(&format!("/{namespace}/"));
        let whole_cluster = !path.contains("/namespaces/");
        let mut items: Vec<Value> = Vec::new();
        if path.ends_with("rotations") {
            let there = self.resources.iter();
            let there = there.filter(|(namespace, _)| whole_cluster || here(namespace));
            items.extend(there.flat_map(|(namespace, names)| {
                names.iter().map(move |name| resource(namespace, name))
            }));
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
        let body = if watch {
            String::new()
        } else {
            list.to_string()
        };
        (200, body)
    }
}

fn resource(namespace: &str, name: &str) -> Value {
    let workspace = match name {
        "broken" => json!({"not": "a text"}),
        _ => json!("ws"),
    };
    json!({
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": "1"},
        "spec": {"workspaceId": workspace, "token": {"name": name}, "schedule": {"every": "1d"}, "target": {"name": name}},
    })
}

fn known(watched: &Watched) -> Vec<String> {
    let mut names = Vec::new();
    watched.resources.each(|r| names.push(r.name_any()));
    names.sort();
    names
}

async fn until(watched: &Watched, names: &[&str]) {
    let met = async {
        while known(watched) != names {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let met = tokio::time::timeout(SOON, met).await;
    assert!(met.is_ok(), "{:?} are known, not {names:?}", known(watched));
}

async fn synced(watched: &Watched) {
    tokio::time::timeout(SOON, watched.synced()).await.unwrap();
}

fn two() -> Scope {
    Scope::new(vec!["b".into(), "a".into(), "b".into()])
}

#[tokio::test]
async fn a_namespace_that_refuses_keeps_nobody_waiting_and_is_known_while_it_does_not() {
    let server = Server::default();
    server.edit(|world| {
        world.resources = [("a", vec!["x"]), ("b", vec!["y"])].into();
        world.refused = vec!["/b/workspacetokenrotations"];
    });
    let watched = server.watch(&two(), SecretAccess::Watch);
    synced(&watched).await;
    until(&watched, &["x"]).await;
    server.edit(|world| world.refused.clear());
    until(&watched, &["x", "y"]).await;
    server.edit(|world| world.refused = vec!["/b/"]);
    until(&watched, &["x"]).await;
    server.edit(|world| {
        world.resources.insert("b", vec!["z"]);
        world.refused.clear();
    });
    until(&watched, &["x", "z"]).await;
}

#[tokio::test]
async fn where_secrets_cannot_be_listed_no_resource_is_asked_for() {
    let server = Server::default();
    server.edit(|world| {
        world.resources = [("a", vec!["x"]), ("b", vec!["y"])].into();
        world.refused = vec!["/b/secrets"];
    });
    let watched = server.watch(&two(), SecretAccess::Watch);
    synced(&watched).await;
    until(&watched, &["x"]).await;
    let asked = |path: &String| path.contains("/b/workspacetokenrotations");
    server.edit(|world| assert!(!world.asked.iter().any(asked)));
    server.edit(|world| world.refused.clear());
    until(&watched, &["x", "y"]).await;
}

#[tokio::test]
async fn without_a_list_of_secrets_none_is_asked_for() {
    let server = Server::default();
    server.edit(|world| {
        world.resources = [("a", vec!["x"]), ("b", vec!["y"])].into();
        world.refused = vec!["/secrets"];
    });
    let watched = server.watch(&two(), SecretAccess::Get);
    synced(&watched).await;
    assert_eq!(known(&watched), ["x", "y"]);
    assert!(watched.secrets.is_none());
    server.edit(|world| assert!(!world.asked.iter().any(|path| path.contains("secrets"))));
}

#[tokio::test]
async fn the_whole_cluster_is_waited_for_until_it_is_permitted() {
    let server = Server::default();
    server.edit(|world| {
        world.resources = [("a", vec!["x"]), ("b", vec!["y"])].into();
        world.refused = vec!["/secrets"];
    });
    let watched = server.watch(&Scope::new(vec![]), SecretAccess::Watch);
    until(&watched, &["x", "y"]).await;
    assert_eq!(watched.synced().now_or_never(), None);
    server.edit(|world| world.refused.clear());
    synced(&watched).await;
}

/// Reports nothing.
fn silent() -> Report {
    Report {
        count: Arc::new(|_, _| {}),
        found: Arc::new(|_, _| {}),
    }
}

#[tokio::test]
async fn claims_outlive_a_refusal_and_end_with_the_next_list() {
    let server = Server::default();
    server.edit(|world| world.resources = [("a", vec!["x"]), ("b", vec!["x", "y"])].into());
    let claims = Arc::<Mutex<Claims>>::default();
    let watched = server.watch_with(&two(), SecretAccess::Watch, claims.clone(), silent());
    until(&watched, &["x", "x", "y"]).await;
    let younger: WorkspaceTokenRotation = serde_json::from_value(resource("b", "x")).unwrap();
    let has_to_wait = || {
        claims
            .lock()
            .unwrap()
            .rivals(&younger, now(), &Pace::SHIPPED)
            .whole
            .is_some()
    };
    assert!(has_to_wait());
    server.edit(|world| world.refused = vec!["/a/"]);
    until(&watched, &["x", "y"]).await;
    // A list of another place says nothing of this one.
    server.edit(|world| world.refused = vec!["/a/", "/b/"]);
    until(&watched, &[]).await;
    server.edit(|world| world.refused = vec!["/a/"]);
    until(&watched, &["x", "y"]).await;
    assert!(has_to_wait());
    server.edit(|world| {
        world.resources.insert("a", vec!["z"]);
        world.refused.clear();
    });
    until(&watched, &["x", "y", "z"]).await;
    let freed = async {
        while has_to_wait() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, freed).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_counted_until_it_is_gone() {
    let server = Server::default();
    server.edit(|world| world.resources = [("a", vec!["broken", "x"]), ("b", vec!["y"])].into());
    let counted = Arc::new(Mutex::new(0));
    let counts = counted.clone();
    let found = Arc::<Mutex<Vec<String>>>::default();
    let finds = found.clone();
    let report = Report {
        count: Arc::new(move |kind, count| {
            if kind == "WorkspaceTokenRotation" {
                *counts.lock().unwrap() = count;
            }
        }),
        found: Arc::new(move |object, why| {
            let name = object.name.unwrap_or_default();
            finds.lock().unwrap().push(format!("{name}: {why}"));
        }),
    };
    let watched = server.watch_with(&two(), SecretAccess::Watch, Arc::default(), report);
    synced(&watched).await;
    assert_eq!(known(&watched), ["x", "y"]);
    assert_eq!(*counted.lock().unwrap(), 1);
    let found = found.lock().unwrap().clone();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("broken: spec"), "{found:?}");
    server.edit(|world| world.refused = vec!["/a/"]);
    until(&watched, &["y"]).await;
    server.edit(|world| {
        world.resources.insert("a", vec!["x"]);
        world.refused.clear();
    });
    until(&watched, &["x", "y"]).await;
    assert_eq!(*counted.lock().unwrap(), 0);
}

#[test]
fn a_list_that_lacks_an_object_is_not_read_as_having_one_of_its_name_elsewhere() {
    let store = Store::<WorkspaceTokenRotation>::default();
    for namespace in ["a", "b"] {
        store.put(&serde_json::from_value(resource(namespace, "x")).unwrap());
    }
    let key = |namespace: &str| Key {
        namespace: namespace.into(),
        name: "x".into(),
    };
    let mut names = Names::default();
    names.insert(&key("b"));
    let missing = Area::default().missing(&store, &names);
    assert_eq!(missing, [key("a")]);
}
