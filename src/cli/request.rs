//! `trigger` and `revoke`: ask the operator for a rotation, by an annotation, and wait until it was done.

use super::cluster::Cluster;
use super::terminal::{self, print_error};
use crate::api::request::{REVOKE, ROTATE};
use crate::api::{LastRotation, Status, WorkspaceTokenRotation};
use crate::args::{ClusterArgs, duration};
use crate::clock::now;
use crate::cluster::decode::Item;
use crate::decide::evidence::said;
use crate::decide::requests::Requests;
use crate::text::line;
use anyhow::{anyhow, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::Error::{InitialListFailed, WatchStartFailed};
use kube::runtime::watcher::watch_object;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// Who writes the annotation, by its managed fields.
const MANAGER: &str = "astro-token-operator-cli";
/// How a resource is named in what is printed.
const KIND: &str = "workspacetokenrotation";
/// Longest message of a condition that is shown.
const LONGEST: usize = 1024;

/// Flags of `trigger` and `revoke`.
#[derive(clap::Args)]
pub struct Args {
    /// Names of resources
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,

    /// Wait until the Secrets hold the new values, for 2m or as long as given
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "2m", value_parser = duration, value_name = "DURATION")]
    pub wait: Option<Duration>,

    /// Where the resources are.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Flags of `revoke`.
#[derive(clap::Args)]
pub struct RevokeArgs {
    /// With two tokens: end the value before at once, and not two minutes after the new one is stored
    #[arg(long)]
    pub now: bool,

    /// What it has in common with `trigger`.
    #[command(flatten)]
    pub common: Args,
}

/// `trigger`.
///
/// # Errors
/// When there is no cluster.
pub async fn trigger(args: &Args) -> anyhow::Result<ExitCode> {
    run(args, ROTATE, "").await
}

/// `revoke`.
///
/// # Errors
/// When there is no cluster.
pub async fn revoke(args: &RevokeArgs) -> anyhow::Result<ExitCode> {
    let how = if args.now { "now/" } else { "" };
    run(&args.common, REVOKE, how).await
}

/// Asks by the annotation `key`, with a text that begins so, for one rotation of each; a failure of one keeps no other from it.
async fn run(args: &Args, key: &'static str, how: &str) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let mut code = ExitCode::SUCCESS;
    let mut asked = FuturesUnordered::new();
    for name in &args.names {
        let request = match ask(&cluster, (key, how), name).await {
            Ok(request) => request,
            Err(error) => {
                print_error(&error);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let what = format!("rotation requested ({})", request.text);
        terminal::print(&format!("{KIND}/{name}: {what}\n"))?;
        if let Some(limit) = args.wait {
            let api = Api::namespaced(cluster.watch_client.clone(), &cluster.namespace);
            asked.push(wait(&cluster, api, request, limit));
        }
    }
    while let Some(ended) = asked.next().await {
        match ended {
            Ok(text) => terminal::print(&text)?,
            Err(error) => {
                print_error(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// A request that was written.
struct Request {
    name: String,
    /// The annotation.
    key: &'static str,
    /// What it says.
    text: String,
}

async fn ask(
    cluster: &Cluster,
    (key, how): (&'static str, &str),
    name: &str,
) -> anyhow::Result<Request> {
    let client = cluster.client.clone();
    let api: Api<Item<WorkspaceTokenRotation>> = Api::namespaced(client, &cluster.namespace);
    let Some(item) = cluster.get(&api, name).await? else {
        return Err(cluster.missing(name));
    };
    let resource = item.object.map_err(|why| unreadable(name, &why))?;
    if resource.spec.suspend == Some(true) {
        bail!("{KIND}/{name}: spec.suspend is set; nothing is rotated until it is unset");
    }
    let text = format!("{how}{}", text(now(), Uuid::new_v4()));
    let patch = Patch::Merge(json!({"metadata": {"annotations": {key: text}}}));
    let params = PatchParams {
        field_manager: Some(MANAGER.into()),
        ..PatchParams::default()
    };
    let patched = api.patch(name, &params, &patch).await;
    patched.map_err(|error| cluster.error(&error))?;
    Ok(Request {
        name: name.to_owned(),
        key,
        text,
    })
}

fn unreadable(name: &str, why: &str) -> anyhow::Error {
    anyhow!("{KIND}/{name} cannot be read, so nothing is done for it: {why}")
}

/// A text that has not been used before, not even within this second.
fn text(now: Timestamp, random: Uuid) -> String {
    format!("{now}-{}", &random.simple().to_string()[..6])
}

async fn wait(
    cluster: &Cluster,
    api: Api<Item<WorkspaceTokenRotation>>,
    request: Request,
    limit: Duration,
) -> anyhow::Result<String> {
    let name = &request.name;
    let mut seen = None;
    let outcome = timeout(limit, async {
        let mut states = pin!(watch_object(api, name).default_backoff());
        loop {
            match states.next().await {
                Some(Ok(state)) => {
                    let state = state.map(|item| item.object.map_err(|why| unreadable(name, &why)));
                    let state = state.transpose()?;
                    match judge(state.as_ref(), &request) {
                        Progress::Open => {}
                        Progress::Done(last) => return Ok(done(last.as_ref())),
                        Progress::Hopeless(why) => return Err(anyhow!(why)),
                    }
                    seen = state;
                }
                // A caller who may not read the resource will not see the result either.
                Some(Err(
                    InitialListFailed(kube::Error::Api(status))
                    | WatchStartFailed(kube::Error::Api(status)),
                )) if status.code == 403 => {
                    return Err(cluster.error(&kube::Error::Api(status)));
                }
                Some(Err(_)) => {}
                None => return Err(anyhow!("the watch has ended")),
            }
        }
    })
    .await;
    let outcome = outcome.unwrap_or_else(|_| {
        let status = seen.and_then(|resource| resource.status);
        Err(anyhow!(late(&status.unwrap_or_default(), &request, limit)))
    });
    match outcome {
        Ok(text) => Ok(format!("{KIND}/{name}: {text}\n")),
        Err(error) => Err(anyhow!("{KIND}/{name}: {error}")),
    }
}

/// How far a request has come.
#[cfg_attr(test, derive(Debug, PartialEq))]
enum Progress {
    /// It may still be answered.
    Open,
    /// It was answered, and the Secret holds a live value.
    Done(Option<LastRotation>),
    /// It will not be answered.
    Hopeless(&'static str),
}

fn judge(resource: Option<&WorkspaceTokenRotation>, request: &Request) -> Progress {
    let Some(resource) = resource else {
        return Progress::Hopeless("it was deleted");
    };
    let status = resource.status.as_ref();
    if let Some(status) = status.filter(|status| is_handled(status, request)) {
        // With two tokens the value before is ended a while after the new one is stored.
        let is_left = request.key == REVOKE && status.previous_token.is_some();
        return match status.is_ready() && !is_left {
            true => Progress::Done(status.last_rotation.clone()),
            false => Progress::Open,
        };
    }
    if resource.annotations().get(request.key) != Some(&request.text) {
        return Progress::Hopeless("another request has taken the place of this one");
    }
    match resource.spec.suspend {
        Some(true) => {
            Progress::Hopeless("spec.suspend was set; nothing is rotated until it is unset")
        }
        _ => Progress::Open,
    }
}

fn is_handled(status: &Status, request: &Request) -> bool {
    Requests::from(status).include(request.key, &request.text)
}

fn done(last: Option<&LastRotation>) -> String {
    match last {
        Some(last) => format!("rotated at {} (rotation {})", last.at.0, line(&last.id, 64)),
        None => "rotated".into(),
    }
}

/// What is said when the time is over.
fn late(status: &Status, request: &Request, limit: Duration) -> String {
    let limit = SignedDuration::try_from(limit).map(terminal::short);
    let limit = limit.unwrap_or_default();
    let (what, is_handled) = match is_handled(status, request) {
        true => (done(status.last_rotation.as_ref()), true),
        false => ("not rotated".to_owned(), false),
    };
    let before = status
        .previous_token
        .as_ref()
        .filter(|_| is_handled && request.key == REVOKE);
    if let Some(before) = before {
        let until = before.valid_until.as_ref();
        let until = until.map_or_else(String::new, |at| format!(", until {}", at.0));
        return format!("{what}, and the value before it is still valid after {limit}{until}");
    }
    match status.ready() {
        Some(ready) if ready.status == "True" && said(status).is_none() => {
            format!(
                "{what} within {limit}, though nothing stands in the way; does the operator run?"
            )
        }
        Some(ready) => {
            let why = status.obstacles().next().unwrap_or(ready);
            let (reason, message) = (line(&why.reason, LONGEST), line(&why.message, LONGEST));
            let and = if is_handled { "and not ready " } else { "" };
            format!("{what} {and}within {limit}: {reason}: {message}")
        }
        None => {
            format!("{what} within {limit}; the operator has not looked at it yet, does it run?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn resource(annotations: Value, spec: Value, status: Value) -> WorkspaceTokenRotation {
        let mut all = json!({
            "workspaceId": "w", "token": {"id": "t"}, "schedule": {}, "target": {"name": "s"},
        });
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"name": "ci", "annotations": annotations}, "spec": all, "status": status,
        }))
        .unwrap()
    }

    fn status(handled: &str, is_ready: bool) -> Value {
        let (ready, reason) = if is_ready {
            ("True", "Live")
        } else {
            ("False", "Contested")
        };
        json!({
            "handledRequest": handled,
            "lastRotation": {"id": "r1", "reason": "Requested", "at": "2026-03-10T12:00:00Z"},
            "conditions": [{
                "type": "Ready", "status": ready, "reason": reason, "message": "twice\u{1b}[2J",
                "lastTransitionTime": "2026-03-01T00:00:00Z",
            }],
        })
    }

    #[test]
    fn a_text_has_its_time_and_is_new_each_time() {
        let now = "2026-03-10T12:00:00Z".parse().unwrap();
        let text = |random| text(now, Uuid::from_u128(random));
        assert_eq!(text(0xabcdef << 104), "2026-03-10T12:00:00Z-abcdef");
        assert_ne!(text(1 << 104), text(2 << 104));
    }

    fn mine(key: &'static str) -> Request {
        let (name, text) = ("ci".into(), "mine".into());
        Request { name, key, text }
    }

    #[test]
    fn a_request_is_done_when_it_was_handled_and_the_value_is_live() {
        let asked = json!({ROTATE: "mine"});
        let judge = |annotations: &Value, spec, status| {
            judge(
                Some(&resource(annotations.clone(), spec, status)),
                &mine(ROTATE),
            )
        };
        assert_eq!(judge(&asked, json!({}), Value::Null), Progress::Open);
        assert_eq!(
            judge(&asked, json!({}), status("other", true)),
            Progress::Open
        );
        assert_eq!(
            judge(&asked, json!({}), status("mine", false)),
            Progress::Open
        );
        let done = judge(&asked, json!({}), status("mine", true));
        assert!(matches!(done, Progress::Done(Some(last)) if last.id == "r1"));
        // Whatever came after it.
        let later = judge(
            &json!({ROTATE: "later"}),
            json!({"suspend": true}),
            status("mine", true),
        );
        assert!(matches!(later, Progress::Done(_)));
    }

    #[test]
    fn the_other_annotation_is_another_request_though_an_older_operator_tells_both_in_one_text() {
        let both = resource(
            json!({ROTATE: "other", REVOKE: "mine"}),
            json!({}),
            status("mine", true),
        );
        for (handled, revoke, expected) in [
            ("other mine", Value::Null, true),
            ("other", Value::Null, false),
            ("mine", json!(""), false),
            ("other", json!("mine"), true),
        ] {
            let mut both = both.clone();
            let status = both.status.as_mut().unwrap();
            status.handled_request = Some(handled.into());
            status.handled_revoke = serde_json::from_value(revoke).unwrap();
            let is_done = matches!(judge(Some(&both), &mine(REVOKE)), Progress::Done(_));
            assert_eq!(is_done, expected, "{handled}");
        }
    }

    #[test]
    fn what_will_never_be_done_is_said_at_once() {
        assert!(
            matches!(judge(None, &mine(ROTATE)), Progress::Hopeless(why) if why.contains("deleted"))
        );
        let other = resource(json!({ROTATE: "other"}), json!({}), Value::Null);
        assert!(
            matches!(judge(Some(&other), &mine(ROTATE)), Progress::Hopeless(why) if why.contains("another"))
        );
        let suspended = resource(
            json!({REVOKE: "mine"}),
            json!({"suspend": true}),
            Value::Null,
        );
        assert!(
            matches!(judge(Some(&suspended), &mine(REVOKE)), Progress::Hopeless(why) if why.contains("suspend"))
        );
    }

    #[test]
    fn when_the_time_is_over_the_reason_is_said() {
        let late = |status: Value| {
            let status = serde_json::from_value(status).unwrap();
            late(&status, &mine(ROTATE), Duration::from_secs(120))
        };
        let text = late(status("other", false));
        assert_eq!(text, "not rotated within 2m: Contested: twice[2J");
        let text = late(status("mine", false));
        assert!(text.starts_with("rotated at 2026-03-10T12:00:00Z (rotation r1) and not ready"));
        assert!(late(status("other", true)).contains("does the operator run?"));
        assert!(late(json!({})).contains("has not looked at it yet"));
    }
}
