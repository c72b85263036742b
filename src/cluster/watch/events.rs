//! What a watch tells, line by line.

use crate::cluster::decode::{Decode, Item};
use futures::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};
use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Request, WatchParams};
use kube::core::Status;
use kube::{Client, Error};
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::value::RawValue;
use std::error::Error as StdError;
use std::io;
use std::pin::Pin;

/// Longest line that is read, bytes. A single object is never that long: the API server stores up to 1.5 MiB of one.
const LONGEST: u64 = 4 << 20;

/// What one line tells.
pub(super) enum Told<T> {
    /// The object is new, or another one now.
    Here(Item<T>),
    /// Nothing but up to which version everything was told.
    Nothing(ObjectMeta),
    /// The object is gone.
    Gone(ObjectMeta),
    /// The watch has failed.
    Failed(Status),
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

/// The events of one watch.
pub(super) struct Events(Pin<Box<dyn AsyncBufRead + Send>>);

impl Events {
    /// Begins to watch after this version.
    ///
    /// # Errors
    /// What the API server says.
    pub(super) async fn after<T: Decode>(
        client: &Client,
        api: &Api<Item<T>>,
        params: &WatchParams,
        version: &str,
    ) -> kube::Result<Self> {
        let request = Request::new(api.resource_url());
        let request = match T::metadata_api() {
            true => request.watch_metadata(params, version),
            false => request.watch(params, version),
        };
        let mut request = request.map_err(Error::BuildRequest)?;
        // Newer API servers compress each event by itself, which the client does not decode.
        let plain = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, plain);
        Ok(Self(Box::pin(client.request_stream(request).await?)))
    }

    /// What the next line tells; `None`: the watch has ended. An object is not decoded if `is_known` says so of its name, uid
    /// and version.
    pub(super) async fn next<T: Decode>(
        &mut self,
        is_known: impl Fn(&ObjectMeta) -> bool,
    ) -> Option<kube::Result<Told<T>>> {
        let mut line = Vec::new();
        match (&mut self.0)
            .take(LONGEST)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(_) if line.ends_with(b"\n") => Some(told(&line, is_known)),
            Ok(read) if read as u64 == LONGEST => {
                let why = format!("one event has more than {LONGEST} bytes");
                Some(Err(Error::SerdeError(serde_json::Error::custom(why))))
            }
            // An incomplete line is told again by the next watch.
            Ok(_) => None,
            Err(error) if is_cut(&error) => None,
            Err(error) => Some(Err(Error::ReadEvents(error))),
        }
    }
}

fn told<T: Decode>(line: &[u8], is_known: impl Fn(&ObjectMeta) -> bool) -> kube::Result<Told<T>> {
    let Line { kind, object } = serde_json::from_slice(line).map_err(Error::SerdeError)?;
    let object = object.get();
    if kind == "ERROR" {
        let status = serde_json::from_str(object).map_err(Error::SerdeError)?;
        return Ok(Told::Failed(status));
    }
    let Object { metadata } = serde_json::from_str(object).map_err(Error::SerdeError)?;
    let metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    };
    match kind {
        "ADDED" | "MODIFIED" if is_known(&metadata) => Ok(Told::Nothing(metadata)),
        "ADDED" | "MODIFIED" => {
            let item = serde_json::from_str(object).map_err(Error::SerdeError)?;
            Ok(Told::Here(item))
        }
        "DELETED" => Ok(Told::Gone(metadata)),
        "BOOKMARK" => Ok(Told::Nothing(metadata)),
        other => {
            let why = format!("an event of a type that is not known: {other}");
            Err(Error::SerdeError(serde_json::Error::custom(why)))
        }
    }
}

/// Whether a connection was closed in the middle of an answer, as an API server does that stops.
fn is_cut(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let error_of_io = error.downcast_ref::<io::Error>();
        if error_of_io.is_some_and(|it| it.kind() == io::ErrorKind::UnexpectedEof)
            || error.to_string().contains("unexpected EOF during chunk")
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::managed::Metadata;
    use futures::io::Cursor;
    use serde_json::{Value, json};

    /// Secrets of these names, as they are told; with the version of the first one known already.
    async fn all(lines: &str) -> Vec<String> {
        let mut events = Events(Box::pin(Cursor::new(lines.to_owned().into_bytes())));
        let is_known = |metadata: &ObjectMeta| metadata.resource_version.as_deref() == Some("1");
        let mut all = Vec::new();
        while let Some(told) = events.next::<Metadata>(is_known).await {
            let version = |it: &ObjectMeta| it.resource_version.clone().unwrap_or_default();
            all.push(match told {
                Ok(Told::Here(item)) => format!("here {}", version(&item.metadata)),
                Ok(Told::Nothing(metadata)) => format!("nothing {}", version(&metadata)),
                Ok(Told::Gone(metadata)) => format!("gone {}", version(&metadata)),
                Ok(Told::Failed(status)) => format!("failed {}", status.code),
                Err(Error::SerdeError(_)) => "cannot be read".into(),
                Err(error) => error.to_string(),
            });
        }
        all
    }

    fn line(kind: &str, object: Value) -> String {
        format!("{}\n", json!({"type": kind, "object": object}))
    }

    fn secret(version: &str) -> Value {
        json!({"metadata": {"name": "a", "namespace": "b", "uid": "c", "resourceVersion": version}})
    }

    #[tokio::test]
    async fn each_line_is_one_event_and_what_is_known_is_passed_over() {
        let lines = [
            line("ADDED", secret("1")),
            line("ADDED", secret("2")),
            line("MODIFIED", secret("1")),
            line("MODIFIED", secret("3")),
            line("DELETED", secret("1")),
            line("BOOKMARK", json!({"metadata": {"resourceVersion": "9"}})),
            line("ERROR", json!({"kind": "Status", "code": 410})),
            line("ELSE", secret("4")),
            "{\"kind\": \"Status\"}\n".into(),
        ];
        let expected = [
            "nothing 1",
            "here 2",
            "nothing 1",
            "here 3",
            "gone 1",
            "nothing 9",
            "failed 410",
            "cannot be read",
            "cannot be read",
        ];
        assert_eq!(all(&lines.concat()).await, expected);
    }

    #[tokio::test]
    async fn an_incomplete_line_is_the_end_and_an_endless_one_is_not_read() {
        let whole = line("ADDED", secret("2"));
        let cut = &whole[..whole.len() - 1];
        assert_eq!(all(&format!("{whole}{cut}")).await, ["here 2"]);
        assert!(all("").await.is_empty());
        let longest = usize::try_from(LONGEST).unwrap();
        let endless = all(&"x".repeat(longest + 1)).await;
        assert_eq!(endless, ["cannot be read"]);
    }
}
