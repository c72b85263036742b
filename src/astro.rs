//! The vendor's API v1: list, get and rotate Workspace API tokens, with errors that tell *definite* from *ambiguous*.

pub mod credential;
pub mod listing;
mod wire;

use crate::astro::credential::Credential;
use crate::decide::evidence::Token;
use crate::decide::pace::Pace;
use crate::process::metrics::Metrics;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{ACCEPT, AUTHORIZATION, DATE, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;
use wire::{DetailsRecord, ErrorBody, Page, TokenRecord};
use zeroize::Zeroizing;

/// Largest page the vendor serves (`astro/api.md` §3.1).
const PAGE: usize = 1000;
/// Pages read at most: a vendor that never says "done" must not keep us for ever.
const MOST_PAGES: usize = 100;
/// Longest body read, bytes.
const LONGEST_BODY: usize = 16 * 1024 * 1024;
/// Longest text of the vendor's that is shown, characters.
const LONGEST_MESSAGE: usize = 200;
/// Longest request id that is shown, characters.
const LONGEST_ID: usize = 64;
/// Rotations in flight at once for one credential: enough to keep servers busy, few enough that the write of a
/// value does not queue behind the preparations of hundreds of others.
const IN_FLIGHT: usize = 32;

/// How to reach the vendor.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base URL, with `/v1`.
    pub url: Url,
    /// PEM bundle of further certificate authorities.
    pub ca_bundle: Option<Vec<u8>>,
    /// How long is waited for what.
    pub pace: Pace,
    /// Calls a second and credential: reads (the vendor's limit is 25).
    pub reads_per_second: NonZeroU32,
    /// Calls a second and credential: rotations (the vendor's limit is 10).
    pub rotations_per_second: NonZeroU32,
}

/// The vendor.
#[derive(Clone)]
pub struct Astro(Arc<Inner>);

struct Inner {
    settings: Settings,
    reads: Client,
    rotates: Client,
    read_budget: DefaultKeyedRateLimiter<u64>,
    rotate_budget: DefaultKeyedRateLimiter<u64>,
    /// Rotations in flight for each credential, by fingerprint.
    in_flight: Mutex<HashMap<u64, Arc<Semaphore>>>,
    /// Credentials the vendor told to pause, by fingerprint.
    paused: Mutex<HashMap<u64, Instant>>,
    metrics: Metrics,
}

/// A credential's turn to rotate, from the last look at the evidence to the stored value; another's when dropped.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

/// What a rotation brought. Holds a value, so it has no `Debug`.
pub struct Rotated {
    /// The new value, shown this once.
    pub value: SecretString,
    /// The token's record as far as the answer carries it.
    pub token: Option<Token>,
    /// When the answer was complete.
    pub answered: Instant,
}

/// What people want to know of a token, beside what decisions are made on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// The record.
    pub token: Token,
    /// As its maker described it; may be empty.
    pub description: String,
    /// What it may do where.
    pub roles: Vec<Role>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Who created it: a person's or a token's name.
    pub created_by: Option<String>,
    /// When it was last used, as far as the vendor has noticed.
    pub last_used: Option<Timestamp>,
}

/// What a token may do where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    /// `WORKSPACE`, `ORGANIZATION` or other.
    pub entity_type: String,
    /// Id of that entity.
    pub entity_id: String,
    /// `WORKSPACE_OWNER` or other.
    pub role: String,
}

/// Why a call brought nothing.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    /// The vendor answered with another status than 200.
    #[error("Astro answered {status}{}{}", separated(": ", .message), request(.request_id))]
    Status {
        /// HTTP status.
        status: u16,
        /// The vendor's text, bounded and scrubbed.
        message: String,
        /// To quote to the vendor's support.
        request_id: Option<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The request was never sent.
    #[error("Astro cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and no proper answer came.
    #[error("Astro did not answer properly: {0}")]
    Broken(String),
}

/// Why no client could be made.
#[derive(thiserror::Error, Debug)]
pub enum SetupError {
    /// The CA bundle has no certificate in it.
    #[error("the CA bundle is not PEM: {0}")]
    CaBundle(reqwest::Error),
    /// The CA bundle is empty.
    #[error("the CA bundle holds no certificate")]
    EmptyCaBundle,
    /// TLS could not be set up.
    #[error("the HTTPS client cannot be set up (are CA certificates installed?): {0}")]
    Client(reqwest::Error),
}

impl Error {
    /// Whether it is certain that nothing happened at the vendor.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // A gateway's 408 may stand for a request that went through.
            Self::Status { status, .. } => (300..500).contains(status) && *status != 408,
            Self::Broken(_) => false,
        }
    }

    /// The vendor's own word on when to come back.
    pub fn retry_after(&self) -> Option<SignedDuration> {
        match self {
            Self::Status { retry_after, .. } => retry_after.and_then(|d| d.try_into().ok()),
            _ => None,
        }
    }

    /// As a reason with its remedy.
    pub fn blocked(&self) -> Blocked {
        let (reason, remedy) = match self {
            Self::Status { status: 401, .. } => (
                Reason::CredentialsRejected,
                "put a valid API token into the credentials Secret",
            ),
            Self::Status { status: 403, .. } => (
                Reason::Forbidden,
                "use a credential with the role Workspace Owner in the token's Workspace",
            ),
            Self::Status { status: 404, .. } => (
                Reason::TokenNotFound,
                "check token, workspaceId and organizationId",
            ),
            Self::Status {
                status: 300..=399, ..
            } => (Reason::VendorUnavailable, "check the operator's --api-url"),
            _ => (Reason::VendorUnavailable, "it is tried again"),
        };
        Blocked::new(reason, format!("{self}; {remedy}"))
    }
}

impl Astro {
    /// A client for the vendor at `settings.url`; proxies are taken from the environment.
    ///
    /// # Errors
    /// When the CA bundle is no PEM, or the system has no CA certificates.
    pub fn new(settings: Settings, metrics: Metrics) -> Result<Self, SetupError> {
        let build = |pool| -> Result<Client, SetupError> {
            let mut builder = Client::builder()
                .user_agent(concat!("astro-token-operator/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(settings.pace.vendor_connect_timeout)
                // The default would POST again on 307 and 308, and re-send on some broken connections.
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .pool_idle_timeout(settings.pace.vendor_idle)
                .pool_max_idle_per_host(pool);
            if let Some(pem) = &settings.ca_bundle {
                let certificates =
                    Certificate::from_pem_bundle(pem).map_err(SetupError::CaBundle)?;
                if certificates.is_empty() {
                    return Err(SetupError::EmptyCaBundle);
                }
                builder = builder.tls_certs_merge(certificates);
            }
            builder.build().map_err(SetupError::Client)
        };
        Ok(Self(Arc::new(Inner {
            reads: build(usize::MAX)?,
            // A stale pooled connection would make a call ambiguous that the vendor never saw.
            rotates: build(0)?,
            read_budget: RateLimiter::keyed(quota(settings.reads_per_second)),
            rotate_budget: RateLimiter::keyed(quota(settings.rotations_per_second)),
            in_flight: Mutex::default(),
            paused: Mutex::default(),
            settings,
            metrics,
        })))
    }

    /// Every token with a role in the Workspace, of any scope.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn list(
        &self,
        credential: &Credential,
        organization: &str,
        workspace: &str,
    ) -> Result<Vec<Token>, Error> {
        let id = |record: &TokenRecord| record.id.clone();
        self.pages(credential, organization, workspace, id).await
    }

    /// The same with what people want to know.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn list_details(
        &self,
        credential: &Credential,
        organization: &str,
        workspace: &str,
    ) -> Result<Vec<Details>, Error> {
        let id = |record: &DetailsRecord| record.token.id.clone();
        self.pages(credential, organization, workspace, id).await
    }

    /// One token's record.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn get(
        &self,
        credential: &Credential,
        organization: &str,
        token_id: &str,
    ) -> Result<Token, Error> {
        let url = self.url(&[organization, "tokens", token_id])?;
        let record: TokenRecord = self.read("get", url, credential).await?;
        Ok(record.into())
    }

    /// The same with what people want to know.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn details(
        &self,
        credential: &Credential,
        organization: &str,
        token_id: &str,
    ) -> Result<Details, Error> {
        let url = self.url(&[organization, "tokens", token_id])?;
        let record: DetailsRecord = self.read("get", url, credential).await?;
        Ok(record.into())
    }

    /// Whether the vendor accepts `credential` at all: a value that was rotated away is answered 401.
    ///
    /// # Errors
    /// When the vendor gives no verdict.
    pub async fn accepts(
        &self,
        credential: &Credential,
        organization: &str,
        token_id: &str,
    ) -> Result<bool, Error> {
        match self.get(credential, organization, token_id).await {
            Ok(_) => Ok(true),
            Err(Error::Status { status: 401, .. }) => Ok(false),
            Err(Error::Status {
                status: 403 | 404, ..
            }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Waits for this credential's turn to rotate, so that the evidence for it is read after the wait.
    pub async fn turn(&self, credential: &Credential) -> Turn {
        let key = credential.fingerprint();
        let places = {
            let mut all = self
                .0
                .in_flight
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, places| Arc::strong_count(places) > 1);
            let places = all
                .entry(key)
                .or_insert_with(|| Arc::new(Semaphore::new(IN_FLIGHT)));
            places.clone()
        };
        // Cannot fail: it is never closed.
        let permit = places.acquire_owned().await.ok();
        self.0.rotate_budget.until_key_ready(&key).await;
        // A pause that the vendor asked for is no failure of those who wait; a long one is worth reporting.
        if let Some(left) = self
            .pause_left(credential)
            .filter(|left| *left < self.0.settings.pace.vendor_long_pause)
        {
            tokio::time::sleep(left).await;
        }
        Turn(permit)
    }

    /// Rotates: the old value dies, the new one is shown once. Never sent twice; call [`Astro::turn`] before.
    ///
    /// # Errors
    /// See [`Error::is_definite`]: unless definite, the rotation may have happened.
    pub async fn rotate(
        &self,
        credential: &Credential,
        organization: &str,
        token_id: &str,
    ) -> Result<Rotated, Error> {
        let url = self.url(&[organization, "tokens", token_id, "rotate"])?;
        let client = &self.0.rotates;
        let (status, body) = self
            .call("rotate", client, Method::POST, url, credential)
            .await?;
        let answered = Instant::now();
        let value = wire::value(&body)
            .ok_or_else(|| Error::Broken(format!("{status} without a token value")))?;
        Ok(Rotated {
            value,
            // Metadata in an odd shape must not cost the value.
            token: serde_json::from_slice::<TokenRecord>(&body)
                .ok()
                .map(Token::from),
            answered,
        })
    }

    /// Forgets the budgets of credentials that were not used of late: tenants may bring as many as they like.
    pub fn forget_idle(&self) {
        for budget in [&self.0.read_budget, &self.0.rotate_budget] {
            budget.retain_recent();
            budget.shrink_to_fit();
        }
    }

    /// All pages of a list, each record once.
    async fn pages<R: DeserializeOwned, T: From<R>>(
        &self,
        credential: &Credential,
        organization: &str,
        workspace: &str,
        id: impl Fn(&R) -> String,
    ) -> Result<Vec<T>, Error> {
        let mut all: Vec<T> = Vec::new();
        let (mut offset, mut seen) = (0, HashSet::new());
        for _ in 0..MOST_PAGES {
            let mut url = self.url(&[organization, "tokens"])?;
            url.query_pairs_mut()
                .append_pair("limit", &PAGE.to_string())
                .append_pair("offset", &offset.to_string())
                .append_pair("workspaceId", workspace);
            let page: Page<R> = self.read("list", url, credential).await?;
            let received = page.tokens.len();
            offset += received;
            // A token that was created meanwhile moves others to the next page.
            let new = |record: &R| seen.insert(id(record));
            all.extend(page.tokens.into_iter().filter(new).map(T::from));
            // Advance by what came, not by what was asked for: a server may cap the page.
            if received == 0 || offset >= page.total_count {
                return Ok(all);
            }
        }
        Err(Error::Broken(format!(
            "the list of tokens does not end after {MOST_PAGES} pages"
        )))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        url: Url,
        credential: &Credential,
    ) -> Result<T, Error> {
        let key = credential.fingerprint();
        self.0.read_budget.until_key_ready(&key).await;
        let client = &self.0.reads;
        let (status, body) = self
            .call(operation, client, Method::GET, url, credential)
            .await?;
        // The error would quote the body, so it is reduced to its place.
        serde_json::from_slice(&body).map_err(|error| {
            Error::Broken(format!(
                "{status} with a body that is not the expected JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    /// One request, one answer; counted and timed.
    async fn call(
        &self,
        operation: &'static str,
        client: &Client,
        method: Method,
        url: Url,
        credential: &Credential,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Error> {
        self.check_pause(credential)?;
        let authorization = credential
            .header()
            .ok_or_else(|| Error::Unreachable("the credential is no valid header".into()))?;
        let request = client
            .request(method, url)
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json");
        let begun = Instant::now();
        // Not the client's own timeout, which starts anew with each byte of some phases.
        let pace = &self.0.settings.pace;
        let limit = pace.vendor_timeout;
        let answer = tokio::time::timeout(limit, async {
            let response = request.send().await.map_err(transport)?;
            let status = response.status();
            let retry_after = retry_after(&response, pace.vendor_longest_pause);
            let body = body(response).await?;
            Ok((status, retry_after, body))
        })
        .await
        .unwrap_or_else(|_| Err(Error::Broken(format!("no answer within {limit:?}"))));
        let (code, result) = match answer {
            Ok((StatusCode::OK, _, body)) => ("200".into(), Ok((StatusCode::OK, body))),
            Ok((status, retry_after, body)) => {
                let error = refusal(status, retry_after, &body, credential);
                (status.as_u16().to_string(), Err(error))
            }
            Err(error) => ("error".into(), Err(error)),
        };
        if let Err(Error::Status {
            status: 429,
            retry_after,
            ..
        }) = &result
        {
            self.pause(credential, retry_after.unwrap_or(pace.vendor_default_pause));
        }
        debug!(operation, code, "called Astro");
        let metrics = &self.0.metrics;
        metrics.vendor_request(operation, &code, begun.elapsed());
        result
    }

    /// Not even a read is sent while the vendor wants this credential to pause.
    fn check_pause(&self, credential: &Credential) -> Result<(), Error> {
        match self.pause_left(credential) {
            Some(left) => Err(Error::Status {
                status: 429,
                message: "pausing as it asked for".into(),
                request_id: None,
                retry_after: Some(left),
            }),
            None => Ok(()),
        }
    }

    fn pause_left(&self, credential: &Credential) -> Option<Duration> {
        let mut paused = self.0.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        paused.retain(|_, until| *until > now);
        Some(*paused.get(&credential.fingerprint())? - now)
    }

    fn pause(&self, credential: &Credential, pause: Duration) {
        let mut paused = self.0.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.insert(credential.fingerprint(), Instant::now() + pause);
    }

    /// `segments` below `/organizations`, each escaped.
    fn url(&self, segments: &[&str]) -> Result<Url, Error> {
        let mut url = self.0.settings.url.clone();
        url.path_segments_mut()
            .map_err(|()| Error::Unreachable("the API URL has no path".into()))?
            .pop_if_empty()
            .push("organizations")
            .extend(segments);
        Ok(url)
    }
}

/// Far from the limit at first, so that requests which arrive closer together than they were sent do not exceed it.
fn quota(rate: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(rate.get() / 5).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(burst)
}

/// A failure without a status: only one to connect proves that nothing was sent.
fn transport(error: reqwest::Error) -> Error {
    let unsent = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let text = scrub(&text, LONGEST_MESSAGE);
    if unsent {
        Error::Unreachable(text)
    } else {
        Error::Broken(text)
    }
}

async fn body(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut body = Zeroizing::new(Vec::with_capacity(16 * 1024));
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > LONGEST_BODY {
            return Err(Error::Broken(format!(
                "a body of more than {LONGEST_BODY} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn refusal(
    status: StatusCode,
    retry_after: Option<Duration>,
    body: &[u8],
    credential: &Credential,
) -> Error {
    let parsed = serde_json::from_slice::<ErrorBody>(body).unwrap_or_default();
    // A body that is not the vendor's JSON is a gateway's page: its status says enough.
    let message = parsed.message.unwrap_or_default();
    Error::Status {
        status: status.as_u16(),
        message: scrub(&credential.redact(&message), LONGEST_MESSAGE),
        request_id: parsed.request_id.filter(|id| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
            id.chars().all(allowed) && scrub(&credential.redact(id), LONGEST_ID) == *id
        }),
        retry_after,
    }
}

/// `Retry-After` in seconds or as an HTTP date, bounded.
fn retry_after(response: &Response, longest: Duration) -> Option<Duration> {
    let text = |name| response.headers().get(name)?.to_str().ok();
    let pause = wire::pause(text(RETRY_AFTER)?, text(DATE))?;
    Some(pause.min(longest))
}

fn separated(separator: &str, text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("{separator}{text}")
    }
}

fn request(id: &Option<String>) -> String {
    id.as_ref()
        .map_or_else(String::new, |id| format!(" (request {id})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_happened_is_definite() {
        let status = |status| Error::Status {
            status,
            message: String::new(),
            request_id: None,
            retry_after: None,
        };
        for code in [301, 307, 400, 401, 403, 404, 409, 429] {
            assert!(status(code).is_definite(), "{code}");
        }
        for code in [201, 204, 408, 500, 502, 503, 504] {
            assert!(!status(code).is_definite(), "{code}");
        }
        assert!(Error::Unreachable(String::new()).is_definite());
        assert!(!Error::Broken(String::new()).is_definite());
    }
}
