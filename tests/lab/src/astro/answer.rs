//! Answers: the vendor's own, spoilt ones, and such as are made up.

use super::settings::Settings;
use super::token::{Record, mint_id};
use axum::body::{self, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io;

/// Optional fields of a token, for [`Settings::nulls`].
const OPTIONAL: [&str; 6] = [
    "endAt",
    "expiryPeriodInDays",
    "lastRotatedAt",
    "lastUsedAt",
    "roles",
    "token",
];

/// The vendor's answer. Has no `Debug`: it may hold a value.
pub(super) struct Answer {
    /// HTTP status.
    pub status: u16,
    json: Option<Value>,
}

/// How the answer of a request that took effect is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Damage {
    /// The connection ends in the middle of the body.
    Cut,
    /// The body is complete, its JSON is not; the value is in it.
    Truncated,
    /// No `token` in it.
    NoToken,
    /// Another `id` in it.
    OtherId,
    /// No `lastRotatedAt` in it.
    NoLastRotatedAt,
    /// HTML, as from a proxy.
    Html,
}

/// An answer made up instead of the real one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Form of the body.
    pub body: Body,
    /// Text in the body.
    #[serde(default = "default_message")]
    pub message: String,
    /// Further headers, such as `retry-after` and `location`.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// Form of a made-up body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// The vendor's `Error` object.
    Json,
    /// Plain text.
    Text,
    /// A page, as from a proxy.
    Html,
    /// None.
    Empty,
}

impl Answer {
    /// 200 with a body.
    pub fn ok(json: Value) -> Answer {
        Answer {
            status: 200,
            json: Some(json),
        }
    }

    /// 204.
    pub fn no_content() -> Answer {
        Answer {
            status: 204,
            json: None,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let body = match self.json {
            Some(json) => axum::Json(json).into_response(),
            None => ().into_response(),
        };
        (code(self.status), body).into_response()
    }
}

/// An error in the vendor's form.
pub(super) fn refusal(status: u16, message: &str) -> Answer {
    Answer {
        status,
        json: Some(error(status, message)),
    }
}

/// A 400 that names the field.
pub(super) fn invalid(field: &str, message: &str) -> Answer {
    let mut json = error(400, &format!("Invalid request: {field}: {message}"));
    json["fieldErrors"] = json!([{"field": field, "code": "invalid", "message": message}]);
    Answer {
        status: 400,
        json: Some(json),
    }
}

/// A token as the vendor shows it, with its value after a create or rotate.
pub(super) fn render(record: &Record, value: Option<&str>, settings: &Settings) -> Value {
    let mut token = json!(record);
    if let Some(value) = value {
        token["token"] = value.into();
    }
    if !settings.tells_last_rotation {
        remove(&mut token, "lastRotatedAt");
    }
    if let Some(fields) = token.as_object_mut().filter(|_| settings.nulls) {
        for name in OPTIONAL {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    if settings.extra_fields {
        token["unheardOf"] = json!({"nested": [1, "two", null]});
    }
    token
}

/// The answer to a request that took effect, spoilt.
pub(super) fn spoil(answer: Answer, damage: Damage) -> Response {
    let mut json = answer.json.unwrap_or_default();
    match damage {
        Damage::Cut | Damage::Truncated => {
            let mut text = json.to_string().into_bytes();
            let whole = text.len();
            text.truncate(whole - 10);
            let kind = [(header::CONTENT_TYPE, "application/json")];
            return match damage {
                Damage::Cut => {
                    let length = [(header::CONTENT_LENGTH, whole)];
                    (kind, length, cut_off(text.into())).into_response()
                }
                _ => (kind, text).into_response(),
            };
        }
        Damage::Html => return Reply::html(200).into_response(),
        Damage::OtherId => json["id"] = mint_id().into(),
        Damage::NoToken => remove(&mut json, "token"),
        Damage::NoLastRotatedAt => remove(&mut json, "lastRotatedAt"),
    }
    axum::Json(json).into_response()
}

impl Reply {
    /// With the vendor's `Error` object.
    pub fn json(status: u16) -> Reply {
        Reply::of(status, Body::Json)
    }

    /// With plain text.
    pub fn text(status: u16) -> Reply {
        Reply::of(status, Body::Text)
    }

    /// With a page.
    pub fn html(status: u16) -> Reply {
        Reply::of(status, Body::Html)
    }

    /// Without a body.
    pub fn empty(status: u16) -> Reply {
        Reply::of(status, Body::Empty)
    }

    /// With a further header.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With this text in the body.
    pub fn message(mut self, message: impl Into<String>) -> Reply {
        self.message = message.into();
        self
    }

    fn of(status: u16, body: Body) -> Reply {
        Reply {
            status,
            body,
            message: default_message(),
            headers: Vec::new(),
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let typed = |kind: &'static str, text: String| ([(header::CONTENT_TYPE, kind)], text);
        let body = match self.body {
            Body::Json => axum::Json(error(self.status, &self.message)).into_response(),
            Body::Text => typed("text/plain", self.message).into_response(),
            Body::Html => {
                let page = format!("<html><body><h1>{}</h1></body></html>\n", self.message);
                typed("text/html", page).into_response()
            }
            Body::Empty => ().into_response(),
        };
        let mut response = (code(self.status), body).into_response();
        for (name, value) in self.headers {
            let name = HeaderName::try_from(name).expect("a header's name");
            let value = HeaderValue::try_from(value).expect("a header's value");
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// A body after whose text the connection ends.
fn cut_off(text: Bytes) -> body::Body {
    let text = stream::once(async { Ok(text) });
    let end = stream::once(async {
        // The server writes what it has whenever a body keeps it waiting, and nothing once it fails.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    body::Body::from_stream(text.chain(end))
}

fn error(status: u16, message: &str) -> Value {
    let request = uuid::Uuid::new_v4().to_string();
    json!({"message": message, "requestId": request, "statusCode": status})
}

fn remove(json: &mut Value, field: &str) {
    if let Some(fields) = json.as_object_mut() {
        fields.remove(field);
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn default_message() -> String {
    "made up by the simulator".into()
}
