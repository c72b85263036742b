use super::*;
use crate::api::{WorkspaceTokenRotation, evidence};
use crate::decide::managed::Metadata;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

fn key(namespace: &str, name: &str) -> Key {
    Key {
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// A resource of this uid and version, with something to tell versions apart.
fn resource(uid: &str, version: &str, token: &str) -> WorkspaceTokenRotation {
    let resource = json!({
        "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
        "metadata": {"name": "x", "namespace": "ns", "uid": uid, "resourceVersion": version},
        "spec": {"workspaceId": "ws", "token": {"name": token}, "schedule": {"every": "1d"}, "target": {"name": "s"}},
    });
    serde_json::from_value(resource).unwrap()
}

fn secret(name: &str, owner: Option<&str>) -> Metadata {
    let annotations: Value = owner
        .into_iter()
        .map(|owner| (evidence::OWNED_BY, owner))
        .collect();
    let metadata =
        json!({"name": name, "namespace": "ns", "uid": name, "annotations": annotations});
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

fn token(store: &Store<WorkspaceTokenRotation>) -> Option<String> {
    store.get(&key("ns", "x"))?.spec.token.name
}

fn is_news<K>(put: &Put<K>) -> bool {
    matches!(put, Put::News(_))
}

/// What is known after the watch told of the first, the second was written here, and the watch tells of a third; and whether
/// that is news.
fn after(told: (&str, &str), written: (&str, &str), then: (&str, &str)) -> (Option<String>, bool) {
    let store = Store::default();
    store.put(&resource(told.0, told.1, "told"));
    store.update(&resource(written.0, written.1, "written"));
    let text = if then == written { "written" } else { "then" };
    let then = resource(then.0, then.1, text);
    // What is an echo need not be put in.
    let (is_echo, put) = (store.is_echo(&then.metadata), store.put(&then));
    assert!(!is_echo || !is_news(&put));
    (token(&store), is_news(&put))
}

#[test]
fn what_is_put_in_is_what_comes_out() {
    let store = Store::default();
    let one = resource("u", "7", "one");
    assert!(is_news(&store.put(&one)));
    assert_eq!(store.get(&key("ns", "x")), Some(one.clone()));
    assert!(store.contains(&key("ns", "x")) && !store.contains(&key("other", "x")));
    let mut all = Vec::new();
    store.each(|it| all.push(it));
    assert_eq!(all, std::slice::from_ref(&one));
    assert_eq!(store.remove(&key("ns", "x")), Some(one));
    assert_eq!((store.len(), store.is_empty()), (0, true));
    assert_eq!(store.remove(&key("ns", "x")), None);
}

#[test]
fn what_is_told_again_is_no_news() {
    let store = Store::default();
    assert!(is_news(&store.put(&resource("u", "7", "one"))));
    assert!(!is_news(&store.put(&resource("u", "7", "one"))));
    assert!(is_news(&store.put(&resource("u", "8", "one"))));
}

#[test]
fn what_the_watch_tells_from_before_a_write_of_our_own_changes_nothing() {
    assert_eq!(
        after(("u", "7"), ("u", "9"), ("u", "8")),
        (Some("written".into()), false)
    );
    // As numbers: as texts the order would be another.
    assert_eq!(
        after(("u", "7"), ("u", "10"), ("u", "9")),
        (Some("written".into()), false)
    );
}

#[test]
fn what_the_watch_tells_of_a_write_of_our_own_wakes_nobody() {
    assert_eq!(
        after(("u", "7"), ("u", "9"), ("u", "9")),
        (Some("written".into()), false)
    );
}

#[test]
fn an_edit_that_came_with_the_answer_to_a_write_is_seen_and_the_write_itself_is_none() {
    let is_edited = |edit: fn(&mut WorkspaceTokenRotation)| {
        let store = Store::default();
        store.put(&resource("u", "7", "told"));
        let mut written = resource("u", "9", "told");
        edit(&mut written);
        store.update(&written).unwrap()
    };
    assert!(!is_edited(|it| it.status = Some(Default::default())));
    assert!(is_edited(|it| it.metadata.generation = Some(99)));
    assert!(is_edited(
        |it| it.metadata.annotations = Some([("a".into(), "b".into())].into())
    ));
    assert!(is_edited(
        |it| it.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH))
    ));
}

#[test]
fn an_echo_is_known_by_its_metadata_alone() {
    let store = Store::default();
    store.put(&resource("u", "7", "told"));
    let is_echo = |uid, version| store.is_echo(&resource(uid, version, "").metadata);
    assert!(!is_echo("u", "7"));
    store.update(&resource("u", "9", "written"));
    assert!(is_echo("u", "8") && !is_echo("u", "10") && !is_echo("new", "8"));
    assert!(is_echo("u", "9") && !is_echo("u", "9"));
}

#[test]
fn what_another_party_writes_after_us_is_taken() {
    assert_eq!(
        after(("u", "7"), ("u", "9"), ("u", "10")),
        (Some("then".into()), true)
    );
}

#[test]
fn an_answer_that_comes_late_undoes_nothing() {
    // The watch was faster, and has told of a later edit too.
    for told in ["9", "10"] {
        let (known, _) = after(("u", told), ("u", "9"), ("u", "11"));
        assert_eq!(known.as_deref(), Some("then"));
        let store = Store::default();
        store.put(&resource("u", told, "told"));
        assert!(store.update(&resource("u", "9", "written")).is_none());
        assert_eq!(token(&store).as_deref(), Some("told"));
    }
}

#[test]
fn an_answer_that_comes_after_the_deletion_does_not_bring_the_object_back() {
    let store = Store::default();
    store.put(&resource("u", "7", "told"));
    store.remove(&key("ns", "x"));
    assert!(store.update(&resource("u", "9", "written")).is_none());
    assert_eq!(token(&store), None);
}

#[test]
fn an_answer_about_one_that_was_made_again_under_the_same_name_is_not_taken() {
    let store = Store::default();
    store.put(&resource("new", "7", "told"));
    assert!(store.update(&resource("old", "9", "written")).is_none());
    assert_eq!(token(&store).as_deref(), Some("told"));
}

#[test]
fn one_that_was_made_again_is_taken_whatever_its_version_is_and_the_former_is_told() {
    let store = Store::default();
    store.put(&resource("old", "7", "told"));
    store.update(&resource("old", "9", "written"));
    let Put::News(Some(former)) = store.put(&resource("new", "8", "then")) else {
        panic!("the former is not told");
    };
    assert_eq!(former.metadata.uid.as_deref(), Some("old"));
    assert_eq!(token(&store).as_deref(), Some("then"));
}

#[test]
fn where_a_version_is_no_number_the_watch_counts() {
    assert_eq!(
        after(("u", "a"), ("u", "9"), ("u", "8")),
        (Some("then".into()), true)
    );
    assert_eq!(
        after(("u", "7"), ("u", "b"), ("u", "8")),
        (Some("then".into()), true)
    );
    assert_eq!(
        after(("u", "7"), ("u", "9"), ("u", "c")),
        (Some("then".into()), true)
    );
}

#[test]
fn versions_that_begin_anew_are_taken_as_they_come() {
    let store = Store::default();
    store.put(&resource("u", "700", "told"));
    assert!(is_news(&store.put(&resource("u", "7", "restored"))));
    assert_eq!(token(&store).as_deref(), Some("restored"));
    // What was written here counts for more only for a while.
    store.update(&resource("u", "800", "written"));
    let age = |written: &mut Option<Instant>| *written = Instant::now().checked_sub(AHEAD);
    age(&mut store.write().entry_mut(&key("ns", "x")).unwrap().written);
    assert!(is_news(&store.put(&resource("u", "8", "restored again"))));
}

#[test]
fn what_the_watch_has_confirmed_counts_no_more_than_the_watch() {
    let store = Store::default();
    store.put(&resource("u", "7", "told"));
    store.update(&resource("u", "9", "written"));
    assert!(!is_news(&store.put(&resource("u", "9", "written"))));
    assert!(is_news(&store.put(&resource("u", "8", "restored"))));
}

#[test]
fn the_objects_of_an_owner_are_found_and_no_others() {
    let store = Store::default();
    let names = |owner: &str| {
        let mut names: Vec<_> = store
            .owned_by(&key("ns", owner))
            .iter()
            .map(ResourceExt::name_any)
            .collect();
        names.sort();
        names
    };
    for (name, owner) in [
        ("a", Some("x")),
        ("b", Some("x")),
        ("c", Some("y")),
        ("d", None),
    ] {
        store.put(&secret(name, owner));
    }
    assert_eq!(
        (names("x"), names("y")),
        (vec!["a".into(), "b".into()], vec!["c".to_owned()])
    );
    store.put(&secret("b", Some("y")));
    store.remove(&key("ns", "c"));
    assert_eq!(
        (names("x"), names("y")),
        (vec!["a".to_owned()], vec!["b".to_owned()])
    );
    assert!(store.owned_by(&key("other", "x")).is_empty());
}

#[test]
fn a_place_has_its_own_names() {
    let store = Store::default();
    for namespace in ["a", "b"] {
        let mut one = resource("u", "7", "one");
        one.metadata.namespace = Some(namespace.into());
        store.put(&one);
    }
    assert_eq!(store.keys(Some("a")), [key("a", "x")]);
    assert_eq!(store.keys(Some("c")), []);
    assert_eq!((store.keys(None).len(), store.len()), (2, 2));
}
