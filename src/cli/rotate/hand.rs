//! One rotation by hand: the operator's evidence and plan, on a resource that has not been applied; the operator's own
//! sequence of effects, with the value going to stdout or into a Secret.

use super::account::Account;
use super::ask::{shown, warn};
use super::place::{Place, Site};
use crate::api::{Scope, Status, WorkspaceTokenRotation, request};
use crate::astro::error::{Error as VendorError, Kind};
use crate::astro::listing::Failure;
use crate::cli::cluster::Cluster;
use crate::cli::terminal;
use crate::clock::now;
use crate::cluster::client;
use crate::cluster::secret::{self, Draft, Landed};
use crate::cluster::store::Store;
use crate::decide::entity::Entity;
use crate::decide::evidence::{Access, Live, Observed, Settings, Stored, Token};
use crate::decide::pace::Pace;
use crate::decide::plan::{Rotation, Setback};
use crate::decide::requests::Requests;
use crate::operator::rotate::{Hands, Issued, rotate};
use crate::reason::{Blocked, Reason};
use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

/// Who owns a Secret that was written by hand: no resource can have this name, so the first that comes takes it over.
const BY_HAND: &str = "by_hand";

/// What a call came to.
pub(super) enum Handed {
    /// The value is where it belongs.
    Over(Box<Token>),
    /// This call has not rotated anything.
    Refused(String),
    /// Whether the token was rotated is not known.
    InDoubt(String),
}

/// One token, and where its value goes. Holds a credential, so it has no `Debug`.
pub(super) struct Hand {
    account: Account,
    resource: WorkspaceTokenRotation,
    token_id: String,
    settings: Arc<Settings>,
    site: Option<Site>,
    /// What the last call that failed came to.
    failed: Option<String>,
    /// When the last call ended.
    ended: Timestamp,
}

impl Hand {
    /// For a value that goes to stdout.
    pub(super) fn new(account: Account, token: &Token, pace: Pace) -> anyhow::Result<Self> {
        let Entity { scope, id } = &account.entity;
        let of = |it: Scope| Some(id).filter(|id| it == *scope && !id.is_empty());
        let resource = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1",
            "kind": "WorkspaceTokenRotation",
            // The request makes it due whatever is stored.
            "metadata": {"name": BY_HAND, "annotations": {request::ROTATE: BY_HAND}},
            "spec": {
                "workspaceId": of(Scope::Workspace),
                "organizationId": of(Scope::Organization),
                "token": {"id": token.id, "scope": scope, "deploymentId": of(Scope::Deployment)},
                "schedule": {"every": "365d"},
                "target": {"name": "stdout"},
            },
            // As of one that was looked at before: its request counts.
            "status": {},
        });
        Ok(Self {
            resource: serde_json::from_value(resource)?,
            token_id: token.id.clone(),
            account,
            settings: Arc::new(Settings {
                minimum_interval: SignedDuration::from_secs(1),
                pace,
                cluster: String::new(),
            }),
            site: None,
            failed: None,
            ended: now(),
        })
    }

    /// For a value that goes into a Secret.
    pub(super) async fn aim(
        &mut self,
        place: &Place,
        at: Cluster,
        token: &Token,
    ) -> anyhow::Result<()> {
        let site = Site::of(place, at, &self.account.entity, token).await?;
        self.settings = Arc::new(Settings {
            cluster: site.cluster.clone(),
            ..Settings::clone(&self.settings)
        });
        self.resource.metadata.namespace = Some(site.namespace.clone());
        self.resource.spec.target.name.clone_from(&place.name);
        self.resource.spec.target.key = Some(place.key.clone());
        self.site = Some(site);
        Ok(())
    }

    /// The evidence now; `known`: the record was read just now.
    pub(super) async fn look(&self, known: Option<Token>) -> anyhow::Result<Observed> {
        let now = now();
        let live = match known {
            Some(token) => Live::Token { token, fresh: true },
            None => self.live().await?,
        };
        let mut seen = Observed::begin(&self.resource, now, &self.settings);
        let credential = &self.account.grant.credential;
        seen.access = Access::Granted(credential.claims());
        (seen.records.token, seen.asked_at) = (live, Some(now));
        // Its only holder is this process, and it waits for its own calls.
        seen.holder_done_at = Some(self.ended);
        if let Some(site) = &self.site {
            seen.stored = site.stored(&self.resource).await.map_err(|error| {
                let secret = &self.resource.spec.target.name;
                let error = client::explain(&error);
                anyhow!("Secret {secret} cannot be looked at: {error}")
            })?;
        }
        // What was asked for there was not asked for here.
        if let Stored::Holds(held) = &mut seen.stored {
            held.stamp.requests = Requests::default();
        }
        Ok(seen)
    }

    async fn live(&self) -> anyhow::Result<Live> {
        let Account { astro, grant, .. } = &self.account;
        let read = astro.get(&grant.credential, &grant.organization, &self.token_id);
        match read.await {
            Ok(token) => Ok(Live::Token { token, fresh: true }),
            Err(error) if error.kind() == Kind::Unavailable => Ok(Failure::from(&error).live(true)),
            Err(error) => Err(self.account.error(&error)),
        }
    }

    /// Rehearse, call, hand over. Afterwards the call is pending, until a look tells what it came to.
    ///
    /// # Errors
    /// The token was rotated, and its value is lost.
    pub(super) async fn attempt(
        &mut self,
        seen: &Observed,
        rotation: &Rotation,
    ) -> anyhow::Result<Handed> {
        let (astro, grant) = (self.account.astro.clone(), self.account.grant.clone());
        astro.turn(&grant.credential).await;
        self.failed = None;
        let setback = match rotate(self, &astro, &grant, seen, rotation).await {
            Ok(handed) => return handed.map(Box::new).map(Handed::Over),
            Err(setback) => setback,
        };
        let failed = self.failed.take();
        self.ended = now();
        Ok(match setback {
            Setback::InDoubt(blocked) => Handed::InDoubt(failed.unwrap_or(blocked.message)),
            Setback::Definite { blocked, .. }
            | Setback::Refused(blocked)
            | Setback::Unavailable { blocked, .. } => {
                Handed::Refused(failed.unwrap_or(blocked.message))
            }
            Setback::Raced => Handed::Refused("the Secret changed meanwhile".into()),
        })
    }

    /// What was done, for people.
    pub(super) fn done(&self, token: &Token, now: Timestamp) -> String {
        let name = shown(&token.name);
        let until = match token.ends {
            Some(at) => format!(
                "expires in {}, {at}",
                terminal::short(at.duration_since(now))
            ),
            None => "does not expire".into(),
        };
        let value = match &self.site {
            Some(site) => {
                let secret = &self.resource.spec.target.name;
                format!(
                    "Its new value is in Secret {}/{secret}, and {until}.",
                    site.namespace
                )
            }
            None => format!("Its new value, which is not shown again, {until}."),
        };
        format!(
            "{} API token {name:?} ({}) was rotated. {value}",
            self.account.entity.scope, token.id
        )
    }
}

impl Hands for Hand {
    type Done = anyhow::Result<Token>;

    fn holder(&self) -> String {
        BY_HAND.into()
    }

    /// A signal is answered by the one who waits for the rotation.
    fn is_stopping(&self) -> bool {
        false
    }

    async fn take_back(&mut self, _: &WorkspaceTokenRotation) {}

    async fn rehearse(&mut self, draft: &Draft<'_>) -> Result<(), Setback> {
        match &self.site {
            Some(site) => Ok(secret::rehearse(&site.client, draft).await?),
            None if is_cut_off() => Err(Setback::Refused(Blocked::new(
                Reason::TargetRefused,
                "nothing is reading stdout any more",
            ))),
            None => Ok(()),
        }
    }

    async fn record(&mut self, intent: &Status) -> Result<WorkspaceTokenRotation, Setback> {
        self.resource.status = Some(intent.clone());
        Ok(self.resource.clone())
    }

    fn failed(&mut self, error: &VendorError, _: &str) {
        self.failed = Some(match error.is_definite() {
            true => self.account.error(error).to_string(),
            false => error.to_string(),
        });
    }

    async fn hand_over(&mut self, mut issued: Issued) -> Result<Self::Done, Setback> {
        // It answers no request: otherwise one of the next owner's would count as answered.
        issued.stamp.requests = Requests::default();
        let handed = match &self.site {
            None => print(&issued.answer.value),
            Some(site) => store(site, &issued, &self.settings.pace).await,
        };
        Ok(handed.map(|()| issued.token))
    }
}

async fn store(site: &Site, issued: &Issued, pace: &Pace) -> anyhow::Result<()> {
    let mut told = false;
    let value = &issued.answer.value;
    let to = (&site.client, &Store::default());
    let landed = secret::land(to, issued.draft(), value, true, pace, |problem| {
        if !told {
            warn(&format!(
                "the token was rotated, and its new value cannot be stored: {problem}. It is in memory, and storing it is \
                 retried: do not end this command"
            ));
        }
        told = true;
    });
    match landed.await {
        Landed::Stored(_) => Ok(()),
        Landed::Superseded => Err(anyhow!(
            "the token was rotated, and another party has rotated it since: the Secret holds its value"
        )),
        Landed::NoPlace => Err(anyhow!(
            "the token was rotated, and its new value is lost: the namespace is gone; rotate it again into another"
        )),
    }
}

/// Whether stdout is a pipe that nothing reads from.
fn is_cut_off() -> bool {
    let stdout = std::io::stdout();
    let mut end = [PollFd::new(&stdout, PollFlags::empty())];
    let polled = poll(&mut end, Some(&Timespec::default()));
    polled.is_ok() && end[0].revents().contains(PollFlags::ERR)
}

fn print(value: &SecretString) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let line = zeroize::Zeroizing::new(format!("{}\n", value.expose_secret()));
    let printed = stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.flush());
    // Not as a cause: that nothing reads it is an error here, whatever it is elsewhere.
    printed.map_err(|error| {
        anyhow!("the token was rotated, and its new value is lost, because stdout cannot be written; rotate it again: {error}")
    })
}
