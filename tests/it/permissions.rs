//! The permissions that are shipped are those that are used: no verb is missing, and none is too many.
//!
//! The API server's own audit log tells what the operator's account did in a life with everything in it; in each of
//! the modes that must be the rules of that mode, all of them and no others.

use crate::stage::{self, HOME, Mode, Operator, Stage};
use kube::api::{DeleteParams, DynamicObject};
use kube::core::GroupVersionKind;
use kube::discovery::pinned_kind;
use kube::{Api, Client};
use lab::astro::{Astro, Fault, Operation, Reply, Step};
use lab::control_plane::ControlPlane;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long after an answer the log may not have it yet.
const LOGGED_WITHIN: Duration = Duration::from_secs(10);

/// A permission: `verb group/resource name in namespace`, the last two where it is restricted to them.
type Permissions = BTreeSet<String>;

#[tokio::test]
async fn in_each_mode_the_operator_uses_every_permission_it_is_given_and_needs_no_other() {
    let plane = ControlPlane::start_audited().await.unwrap();
    for mode in [
        Mode::CLUSTER,
        Mode::CLUSTER_GET,
        Mode::NAMESPACES,
        Mode::NAMESPACES_GET,
    ] {
        let before = plane.audit_log().unwrap();
        // A watch of the last mode's ends whenever the server notices.
        let before: BTreeSet<_> = before.iter().map(id).collect();
        let namespace = stage::fresh_name();
        let given = stage::install(&plane, mode, &namespace).await;
        let shipped = permissions(&given, &namespace);
        live(&plane, mode, &namespace).await;
        let deadline = tokio::time::Instant::now() + LOGGED_WITHIN;
        loop {
            let mut events = plane.audit_log().unwrap();
            events.retain(|event| !before.contains(&id(event)));
            let used = used(&events, &shipped);
            if used == shipped {
                break;
            }
            let unused: Vec<_> = shipped.difference(&used).collect();
            let missing: Vec<_> = used.difference(&shipped).collect();
            assert!(
                missing.is_empty() && tokio::time::Instant::now() < deadline,
                "{}: not used: {unused:#?}, not permitted: {missing:#?}",
                mode.name()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        remove(&plane.client(), &given, &namespace).await;
    }
}

/// Of a request, whatever is logged of it.
fn id(event: &Value) -> String {
    event["auditID"].as_str().unwrap().to_owned()
}

/// One life of an operator: everything that it can do at the API server, it does.
async fn live(plane: &ControlPlane, mode: Mode, namespace: &str) {
    let astro = Astro::start().await.unwrap();
    let stage = Stage::in_namespace(plane, &astro, namespace.to_owned()).await;
    let account = plane.service_account(HOME, HOME).await.unwrap();
    let home = format!("--leader-election-namespace={HOME}");
    let mut flags = mode.flags(&[namespace.to_owned()]);
    flags.push(home);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let operator = Operator::start(account, &astro, &flags);

    let token = stage.token("life");
    stage.create("life", json!({})).await;
    stage.until_rotated("life", 1).await;
    // The second event of one kind is a patch of the first.
    for (times, text) in [(2, "one"), (3, "two")] {
        stage.request("life", text).await;
        stage.until_rotated("life", times).await;
    }
    // What is refused makes it read the resource again.
    let refusal = Step::Answer(Reply::json(400));
    let refusal = Fault::on(Operation::Rotate)
        .token(&token.id)
        .before(refusal);
    stage.astro.fault(refusal.once());
    stage.request("life", "three").await;
    stage.until_blocked("life", "VendorUnavailable").await;

    let token = stage.token("given");
    let value = json!({"token": token.value});
    stage.put_secret("given-secret", value).await;
    let consent = json!({"metadata": {"annotations": {"astro-token-operator.io/adopt": "given"}}});
    stage.edit_secret("given-secret", consent).await;
    stage.create("given", json!({})).await;
    stage
        .until("given", "ready", |_, status| stage::is_ready(status))
        .await;
    stage
        .edit("given", json!({"spec": {"target": {"name": "moved"}}}))
        .await;
    stage
        .until_secret("moved", |secret| secret.data.is_some())
        .await;
    assert_eq!(stage.astro.rotations(&token.id), 0);
    stage.assert_no_leak().await;
    operator.stop().await.unwrap();
}

/// What the rules of the Roles and ClusterRoles permit that are bound; the others are for people.
fn permissions(objects: &[Value], namespace: &str) -> Permissions {
    let mut all = Permissions::new();
    let bound: Vec<_> = objects.iter().map(|it| &it["roleRef"]["name"]).collect();
    let is_bound = |role: &&Value| bound.contains(&&role["metadata"]["name"]);
    for role in objects.iter().filter(is_bound) {
        let place = match role["kind"].as_str() {
            Some("ClusterRole") => String::new(),
            Some("Role") => {
                let own = role["metadata"]["namespace"].as_str();
                format!(" in {}", own.unwrap_or(namespace))
            }
            _ => continue,
        };
        for rule in role["rules"].as_array().unwrap() {
            let texts = |key: &str| -> Vec<String> {
                let texts = rule[key].as_array().into_iter().flatten();
                texts.map(|it| it.as_str().unwrap().to_owned()).collect()
            };
            let mut names = texts("resourceNames");
            if names.is_empty() {
                names.push(String::new());
            }
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        for name in &names {
                            all.insert(permission(&verb, &group, &resource, name, &place));
                        }
                    }
                }
            }
        }
    }
    all
}

/// What the operator's account did: as the permission that was shipped for it, or as it was done where none was.
fn used(events: &[Value], shipped: &Permissions) -> Permissions {
    let account = format!("system:serviceaccount:{HOME}:{HOME}");
    let own = events
        .iter()
        .filter(|event| event["user"]["username"] == account.as_str());
    own.flat_map(|event| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["objectRef"];
        let (group, name) = (text(&about["apiGroup"]), text(&about["name"]));
        let place = format!(" in {}", text(&about["namespace"]));
        let resource = match text(&about["subresource"]) {
            part if part.is_empty() => text(&about["resource"]),
            part => format!("{}/{part}", text(&about["resource"])),
        };
        // A server-side apply of what is not there needs the permission to create it, too.
        let created = event["verb"] == "patch" && event["responseStatus"]["code"] == 201;
        let verbs = [Some(text(&event["verb"])), created.then(|| "create".into())];
        let find = |verb: String| {
            let forms = [("", ""), ("", &*place), (&*name, ""), (&*name, &*place)];
            let forms =
                forms.map(|(name, place)| permission(&verb, &group, &resource, name, place));
            let found = forms.iter().find(|form| shipped.contains(*form));
            found.unwrap_or(&forms[3]).clone()
        };
        verbs.into_iter().flatten().map(find).collect::<Vec<_>>()
    })
    .collect()
}

fn permission(verb: &str, group: &str, resource: &str, name: &str, place: &str) -> String {
    let line = format!("{verb} {group}/{resource} {name}");
    format!("{}{place}", line.trim_end())
}

/// Takes the permissions away again, and the Lease, so that the next one has to be created.
async fn remove(client: &Client, given: &[Value], namespace: &str) {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": HOME, "namespace": HOME},
    });
    let of_access = |object: &&Value| {
        let version = object["apiVersion"].as_str().unwrap();
        version.starts_with("rbac.")
    };
    for object in given.iter().filter(of_access).chain([&lease]) {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (group, version) = object["apiVersion"]
            .as_str()
            .unwrap()
            .split_once('/')
            .unwrap();
        let kind = GroupVersionKind::gvk(group, version, object["kind"].as_str().unwrap());
        let (kind, _) = pinned_kind(client, &kind).await.unwrap();
        let own = object["metadata"]["namespace"].as_str();
        let api: Api<DynamicObject> = match object["kind"].as_str().unwrap().starts_with("Cluster")
        {
            true => Api::all_with(client.clone(), &kind),
            false => Api::namespaced_with(client.clone(), own.unwrap_or(namespace), &kind),
        };
        let name = text(&object["metadata"]["name"]);
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
}
