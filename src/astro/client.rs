//! The client of the vendor's API v1: list, get and rotate Workspace API tokens.

use crate::astro::credential::Credential;
use crate::astro::error::{Error, Kind, refusal, transport};
use crate::astro::limits::{Limits, Turn};
use crate::astro::record::Details;
use crate::astro::wire::{self, DetailsRecord, Page, TokenRecord};
use crate::decide::evidence::Token;
use crate::decide::pace::Pace;
use crate::process::metrics::Metrics;
use reqwest::header::{ACCEPT, AUTHORIZATION, DATE, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::debug;
use zeroize::Zeroizing;

/// Largest page the vendor serves .
const PAGE: usize = 1000;
/// Pages read at most: a vendor that never says "done" must not keep us for ever.
const MOST_PAGES: usize = 100;
/// Longest body read, bytes.
const LONGEST_BODY: usize = 16 * 1024 * 1024;

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
            Err(error) => match error.kind() {
                Kind::CredentialRejected => Ok(false),
                Kind::Forbidden | Kind::NotFound => Ok(true),
                Kind::Unavailable => Err(error),
            },
        }
    }

    /// Waits for this credential's turn to rotate, so that the evidence for it is read after the wait.
    pub async fn turn(&self, credential: &Credential) -> Turn {
        self.0.limits.turn(credential).await
    }

    /// Forgets the budgets of credentials that were not used of late: tenants may bring as many as they like.
    pub fn forget_idle(&self) {
        self.0.limits.forget_idle();
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
        self.0.limits.read(credential).await;
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
        self.0.limits.check_pause(credential)?;
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
            self.0.limits.pause(credential, *retry_after);
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

/// `Retry-After` in seconds or as an HTTP date, bounded.
fn retry_after(response: &Response, longest: Duration) -> Option<Duration> {
    let text = |name| response.headers().get(name)?.to_str().ok();
    let pause = wire::pause(text(RETRY_AFTER)?, text(DATE))?;
    Some(pause.min(longest))
}
