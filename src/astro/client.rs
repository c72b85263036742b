//! The client of the vendor's API v1: list, get and rotate Workspace API tokens.

use crate::astro::answer::Answer;
use crate::astro::credential::Credential;
use crate::astro::error::{Error, transport};
use crate::astro::limits::Limits;
use crate::astro::record::Details;
use crate::astro::wire;
use crate::decide::entity::Entity;
use crate::decide::evidence::Token;
use crate::decide::pace::Pace;
use crate::decide::token::Listed;
use crate::id::is_same;
use crate::process::metrics::Metrics;
use jiff::Timestamp;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER,
};
use reqwest::{Certificate, Client, Method, Response, Url};
use secrecy::SecretString;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tracing::debug;
use zeroize::Zeroizing;

/// Largest page the vendor serves.
const PAGE: usize = 1000;
/// Pages read at most: a vendor that never says "done" must not keep us for ever.
const MOST_PAGES: usize = 100;
/// How often a list that does not add up is read.
const LIST_TRIES: usize = 3;
/// Longest body read, bytes.
const LONGEST_BODY: usize = 16 * 1024 * 1024;
/// A read whose body is longer waits until there is room for it, bytes: a tenant may have lists of thousands of tokens.
const LONG_BODY: usize = 64 * 1024;
/// Long bodies in memory at the same time.
static ROOM: Semaphore = Semaphore::const_new(4);

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
    limits: Limits,
    metrics: Metrics,
    /// What time it was for the vendor, and when that was heard.
    time: Mutex<Option<(Timestamp, Instant)>>,
}

/// What a rotation brought. Holds a value, so it has no `Debug`.
pub struct Rotated {
    /// The new value, shown this once.
    pub value: SecretString,
    /// The token's record as far as the answer carries it.
    pub token: Option<Token>,
    /// When the answer was complete.
    pub answered: Instant,
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
            limits: Limits::new(
                settings.reads_per_second,
                settings.rotations_per_second,
                settings.pace,
            ),
            settings,
            metrics,
            time: Mutex::default(),
        })))
    }

    /// What time it is for the vendor, by the last answer that was its own; `None`: it did not say.
    pub fn time(&self) -> Option<Timestamp> {
        let (then, heard) = (*self.known_time())?;
        then.checked_add(heard.elapsed()).ok()
    }

    fn known_time(&self) -> MutexGuard<'_, Option<(Timestamp, Instant)>> {
        // Each change is whole, even after a panic.
        self.0.time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every token with a role on the entity, of any scope, as `keep` makes it.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn list(
        &self,
        credential: &Credential,
        organization: &str,
        entity: &Entity,
        keep: impl Fn(&Token) -> Listed,
    ) -> Result<Vec<Listed>, Error> {
        let read = |record: &Value| keep(&wire::token(record));
        self.whole_list(credential, organization, entity, read, Listed::id)
            .await
    }

    /// The same with what people want to know.
    ///
    /// # Errors
    /// See [`Error`]; reads are safe to repeat.
    pub async fn list_details(
        &self,
        credential: &Credential,
        organization: &str,
        entity: &Entity,
    ) -> Result<Vec<Details>, Error> {
        let id = |details: &Details| Some(details.token.id.clone()).filter(|id| !id.is_empty());
        self.whole_list(credential, organization, entity, wire::details, id)
            .await
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
        let record = self.record(credential, organization, token_id).await?;
        Ok(wire::token(&record))
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
        let record = self.record(credential, organization, token_id).await?;
        Ok(wire::details(&record))
    }

    /// Takes one more rotation from the budget of the credential of this fingerprint.
    ///
    /// # Errors
    /// How long to wait before it is tried again.
    pub fn may_rotate(&self, fingerprint: u128) -> Result<(), Duration> {
        self.0.limits.rotation(fingerprint)
    }

    /// Whether the vendor takes reads with the credential of this fingerprint now.
    ///
    /// # Errors
    /// How long it wants it to pause.
    pub fn may_read(&self, fingerprint: u128) -> Result<(), Duration> {
        self.0.limits.pause(fingerprint)
    }

    /// Waits until the budget of a credential has one more rotation, and takes it.
    pub async fn turn(&self, credential: &Credential) {
        while let Err(pause) = self.may_rotate(credential.fingerprint()) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Forgets the budgets of credentials that were not used of late: tenants may bring as many as they like.
    pub fn forget_idle(&self) {
        self.0.limits.forget_idle();
    }

    /// Rotates: the old value dies, the new one is shown once. Never sent twice; call [`Astro::turn`] or [`Astro::may_rotate`] before.
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
        let answer = self.call("rotate", client, Method::POST, url, credential);
        let answer = answer.await?;
        let answered = Instant::now();
        let value = answer.value()?;
        // Metadata in an odd shape must not cost the value.
        let record = answer.json().ok().as_ref().map(wire::token);
        Ok(Rotated {
            value,
            token: record.filter(|token| !token.id.is_empty()),
            answered,
        })
    }

    /// A list on which a name, or an absence, can be relied: read again while it changes.
    async fn whole_list<T, I: Eq + Hash>(
        &self,
        credential: &Credential,
        organization: &str,
        entity: &Entity,
        read: impl Fn(&Value) -> T,
        id: impl Fn(&T) -> Option<I>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..LIST_TRIES {
            let pages = self.pages(credential, organization, entity, &read, &id);
            if let Some(list) = pages.await? {
                return Ok(list);
            }
        }
        Err(Error::Broken(format!(
            "the list of the tokens of {entity} does not add up: it was read {LIST_TRIES} times, and \
             each time its pages did not fit together"
        )))
    }

    /// All pages of a list, each record once; `None` when they do not add up, because the list changed while they were
    /// read. Each page begins with the last record of the one before: a count alone would miss that one token was
    /// deleted and another one created.
    async fn pages<T, I: Eq + Hash>(
        &self,
        credential: &Credential,
        organization: &str,
        entity: &Entity,
        read: impl Fn(&Value) -> T,
        id: impl Fn(&T) -> Option<I>,
    ) -> Result<Option<Vec<T>>, Error> {
        let mut all: Vec<T> = Vec::new();
        let mut total = None;
        let (filter, id_of_entity) = entity.filter();
        for _ in 0..MOST_PAGES {
            let offset = all.len().saturating_sub(1);
            let mut url = self.url(&[organization, "tokens"])?;
            url.query_pairs_mut()
                .append_pair("limit", &PAGE.to_string())
                .append_pair("offset", &offset.to_string())
                .append_pair("sorts", "createdAt:asc")
                .append_pair(filter, id_of_entity);
            let answer = self.read("list", url, credential).await?;
            let page = answer.page()?;
            if *total.get_or_insert(page.total_count) != page.total_count {
                return Ok(None);
            }
            // Reserved at once, because a long list is copied as it grows; bounded, because the count is only a claim.
            let promised = page.total_count.min(page.tokens.len() * MOST_PAGES);
            all.reserve_exact(promised.saturating_sub(all.len()));
            // One by one: the records of a whole page take several times the space of its text.
            let record = |record: &&RawValue| {
                let record = answer.decode(record.get().as_bytes())?;
                Ok(read(&record))
            };
            let (before, mut records) = (all.len(), page.tokens.iter().map(record));
            if let Some(last) = all.last() {
                let first = records.next().transpose()?;
                if first.is_none_or(|first| id(&first) != id(last)) {
                    return Ok(None);
                }
            }
            for record in records {
                all.push(record?);
            }
            if all.len() == before || all.len() >= page.total_count {
                break;
            }
        }
        let mut seen = HashSet::new();
        let mut ids = all.iter().filter_map(&id);
        let adds_up = total == Some(all.len()) && ids.all(|id| seen.insert(id));
        Ok(adds_up.then_some(all))
    }

    /// The record of one token, and of no other.
    async fn record(
        &self,
        credential: &Credential,
        organization: &str,
        token_id: &str,
    ) -> Result<Value, Error> {
        let url = self.url(&[organization, "tokens", token_id])?;
        let answer = self.read("get", url, credential).await?;
        let record = answer.json()?;
        let Token { id, odd, .. } = wire::token(&record);
        match odd {
            Some(field) => Err(answer.between(&format!(
                "the field {field} of the token's record is not as documented"
            ))),
            None if !is_same(&id, token_id) => {
                Err(answer.between("it is the record of another token"))
            }
            None => Ok(record),
        }
    }

    /// Whether there is a Workspace of this id that the credential may read.
    pub(super) async fn workspace(
        &self,
        credential: &Credential,
        organization: &str,
        workspace: &str,
    ) -> Result<(), Error> {
        let url = self.url(&[organization, "workspaces", workspace])?;
        let answer = self.read("workspace", url, credential).await?;
        let id = answer.json()?;
        let id = id.get("id").and_then(Value::as_str);
        match id.is_some_and(|id| is_same(id, workspace)) {
            true => Ok(()),
            false => Err(answer.between("it is no record of that Workspace")),
        }
    }

    async fn read(
        &self,
        operation: &'static str,
        url: Url,
        credential: &Credential,
    ) -> Result<Answer, Error> {
        self.0.limits.read(credential).await;
        let client = &self.0.reads;
        self.call(operation, client, Method::GET, url, credential)
            .await
    }

    /// One request, one answer; counted and timed.
    async fn call(
        &self,
        operation: &'static str,
        client: &Client,
        method: Method,
        url: Url,
        credential: &Credential,
    ) -> Result<Answer, Error> {
        self.0.limits.check_pause(credential)?;
        let authorization = credential
            .header()
            .ok_or_else(|| Error::Unreachable("the credential is no valid header".into()))?;
        let request = client
            .request(method, url)
            .header(AUTHORIZATION, authorization)
            .header(ACCEPT, "application/json");
        let (begun, is_read) = (Instant::now(), operation != "rotate");
        // Not the client's own timeout, which starts anew with each byte of some phases.
        let pace = &self.0.settings.pace;
        let limit = pace.vendor_timeout;
        let answer = tokio::time::timeout(limit, async {
            let response = request.send().await.map_err(transport)?;
            complete(response, is_read, pace.vendor_longest_pause).await
        })
        .await
        .unwrap_or_else(|_| Err(Error::Broken(format!("no answer within {limit:?}"))));
        let (code, result) = match answer {
            Ok(answer) => (
                answer.status.as_u16().to_string(),
                answer.accepted(credential),
            ),
            Err(error) => ("error".into(), Err(error)),
        };
        if let Ok(answer) = &result {
            *self.known_time() = answer.date.map(|date| (date, Instant::now()));
        }
        if let Some(pause) = result.as_ref().err().and_then(Error::pause) {
            self.0.limits.begin_pause(credential, pause);
        }
        debug!(operation, code, "called Astro");
        let metrics = &self.0.metrics;
        metrics.vendor_request(operation, &code, begun.elapsed());
        result
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

/// The whole answer, or why it did not come whole.
async fn complete(
    mut response: Response,
    is_read: bool,
    longest_pause: Duration,
) -> Result<Answer, Error> {
    let text = |name: HeaderName| response.headers().get(name)?.to_str().ok();
    let content_type = text(CONTENT_TYPE).unwrap_or_default();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    // The header is gone where the body was decoded.
    let encoding = text(CONTENT_ENCODING).filter(|it| !it.eq_ignore_ascii_case("identity"));
    let date = text(DATE).and_then(wire::date);
    let pause = text(RETRY_AFTER).and_then(|pause| wire::pause(pause, date));
    let mut answer = Answer {
        status: response.status(),
        content_type: content_type.to_ascii_lowercase(),
        encoding: encoding.map(str::to_owned),
        retry_after: pause.map(|it| it.min(longest_pause)),
        date,
        body: Zeroizing::new(Vec::with_capacity(16 * 1024)),
        room: None,
    };
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if answer.body.len() + chunk.len() > LONGEST_BODY {
            return Err(Error::Broken(format!(
                "a body of more than {LONGEST_BODY} bytes"
            )));
        }
        answer.body.extend_from_slice(&chunk);
        // The answer to a rotation waits for nothing: it holds a value.
        if is_read && answer.room.is_none() && answer.body.len() > LONG_BODY {
            // It is never closed.
            answer.room = ROOM.acquire().await.ok();
        }
    }
    Ok(answer)
}
