//! Whose word an answer is: Astro's own, or that of something between, such as a proxy or a gateway. Decided here alone.

use crate::astro::credential::Credential;
use crate::astro::error::Error;
use crate::astro::wire::{self, Page};
use crate::text::scrub;
use jiff::Timestamp;
use reqwest::StatusCode;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use zeroize::Zeroizing;

/// Longest text of the vendor's that is shown, characters.
const LONGEST_MESSAGE: usize = 200;
/// Longest request id that is shown, characters.
const LONGEST_ID: usize = 64;
/// Longest content type or coding that is shown, characters.
const LONGEST_TYPE: usize = 40;

/// A complete answer. It may hold a value, so it has no `Debug`.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// `Content-Type` without its parameters, in lower case; empty where there is none.
    pub(super) content_type: String,
    /// `Content-Encoding`, where it is one that was not decoded.
    pub(super) encoding: Option<String>,
    /// When to come back, by `Retry-After`.
    pub(super) retry_after: Option<Duration>,
    /// When it was made, by `Date`.
    pub(super) date: Option<Timestamp>,
    /// The body, decoded.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Its place among the long ones, if it is one.
    pub(super) room: Option<SemaphorePermit<'static>>,
}

impl Answer {
    /// The answer, if it is a success; otherwise whose refusal it is. A text that holds the value of `credential` is
    /// redacted.
    ///
    /// # Errors
    /// [`Error::Refused`] when Astro itself refuses, [`Error::Between`] for any other answer.
    pub(super) fn accepted(self, credential: &Credential) -> Result<Self, Error> {
        if let Some(encoding) = &self.encoding {
            let encoding = scrub(&credential.redact(encoding), LONGEST_TYPE);
            return Err(self.between(&format!("its body is encoded as {encoding}")));
        }
        if self.status.is_success() {
            return Ok(self);
        }
        Err(self.refusal(credential).unwrap_or_else(|| {
            let what = match self.content_type.as_str() {
                "" => "it has no content type".into(),
                "application/json" => "it lacks what each error of Astro's has".into(),
                other => {
                    let shown = scrub(&credential.redact(other), LONGEST_TYPE);
                    format!("its content type is {shown}")
                }
            };
            self.between(&what)
        }))
    }

    /// The error, if it is in Astro's own shape of one: JSON with `message`, `requestId`, and `statusCode` like the status.
    fn refusal(&self, credential: &Credential) -> Option<Error> {
        let is_error = self.status.is_client_error() || self.status.is_server_error();
        if !is_error || self.content_type != "application/json" {
            return None;
        }
        let error: Value = serde_json::from_slice(wire::without_bom(&self.body)).ok()?;
        let text = |field: &str| error.get(field)?.as_str();
        let (message, id) = (text("message")?, text("requestId")?);
        let status = self.status.as_u16();
        if id.is_empty() || error.get("statusCode")?.as_u64() != Some(status.into()) {
            return None;
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_plain = id.chars().all(allowed) && scrub(&credential.redact(id), LONGEST_ID) == *id;
        Some(Error::Refused {
            status,
            message: scrub(&credential.redact(message), LONGEST_MESSAGE),
            request_id: is_plain.then(|| id.to_owned()),
            retry_after: self.retry_after,
        })
    }

    /// The value that a rotation brought, whatever else the answer holds.
    ///
    /// # Errors
    /// When there is none; a value may have been issued all the same.
    pub(super) fn value(&self) -> Result<SecretString, Error> {
        wire::value(&self.body).ok_or_else(|| self.between("it holds no token value"))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is not JSON, without quoting it.
    pub(super) fn json(&self) -> Result<Value, Error> {
        self.decode(wire::without_bom(&self.body))
    }

    /// The body as a page of a list.
    ///
    /// # Errors
    /// Where it is none, without quoting it.
    pub(super) fn page(&self) -> Result<Page<'_>, Error> {
        self.decode(wire::without_bom(&self.body))
    }

    /// A part of the body.
    ///
    /// # Errors
    /// Where it is not as documented, without quoting it.
    pub(super) fn decode<'a, T: Deserialize<'a>>(&self, part: &'a [u8]) -> Result<T, Error> {
        serde_json::from_slice(part).map_err(|error| {
            let what = match error.is_data() {
                true => "as documented",
                false => "JSON",
            };
            let (line, column) = (error.line(), error.column());
            self.between(&format!(
                "its body is not {what} (line {line}, column {column})"
            ))
        })
    }

    /// As an answer that is not Astro's.
    pub(super) fn between(&self, what: &str) -> Error {
        Error::Between {
            status: self.status.as_u16(),
            what: what.into(),
            retry_after: self.retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(status: u16, content_type: &str, body: &str) -> Answer {
        Answer {
            room: None,
            status: StatusCode::from_u16(status).unwrap(),
            content_type: content_type.into(),
            encoding: None,
            retry_after: None,
            date: None,
            body: Zeroizing::new(body.into()),
        }
    }

    fn error(answer: Answer) -> Error {
        let credential = Credential::parse("a-value").map_err(str::to_owned).unwrap();
        answer.accepted(&credential).err().unwrap()
    }

    fn refusal(status: u16) -> Value {
        json!({"message": "no", "requestId": "r-1", "statusCode": status})
    }

    #[test]
    fn only_astro_s_own_shape_is_astro_s_word() {
        let json = "application/json";
        for status in [400, 401, 403, 404, 409, 429, 500, 503] {
            let own = error(answer(status, json, &refusal(status).to_string()));
            assert!(
                matches!(own, Error::Refused { status: it, .. } if it == status),
                "{own}"
            );
            let marked = format!("\u{feff}{}", refusal(status));
            assert!(matches!(
                error(answer(status, json, &marked)),
                Error::Refused { .. }
            ));
            for field in ["message", "requestId", "statusCode"] {
                let (mut lacks, mut odd) = (refusal(status), refusal(status));
                lacks.as_object_mut().unwrap().remove(field);
                odd[field] = json!([]);
                for body in [lacks, odd] {
                    let between = error(answer(status, json, &body.to_string()));
                    assert!(
                        matches!(between, Error::Between { .. }),
                        "{body}: {between}"
                    );
                }
            }
            let mut empty = refusal(status);
            empty["requestId"] = "".into();
            for (content_type, body) in [
                (json, empty.to_string()),
                (json, refusal(status + 1).to_string()),
                (json, String::new()),
                (json, "<html>".into()),
                ("text/html", refusal(status).to_string()),
                ("", refusal(status).to_string()),
            ] {
                let between = error(answer(status, content_type, &body));
                assert!(
                    matches!(between, Error::Between { .. }),
                    "{body}: {between}"
                );
            }
        }
        for status in [100, 301, 307] {
            let between = error(answer(status, json, &refusal(status).to_string()));
            assert!(matches!(between, Error::Between { .. }), "{status}");
        }
    }

    #[test]
    fn a_body_that_cannot_be_decoded_says_nothing_of_the_status() {
        let mut odd = answer(403, "application/json", &refusal(403).to_string());
        odd.encoding = Some("zstd".into());
        let odd = error(odd);
        assert!(
            matches!(odd, Error::Between { .. }) && odd.to_string().contains("zstd"),
            "{odd}"
        );
    }
}
