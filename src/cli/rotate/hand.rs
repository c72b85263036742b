//! A rotation by hand: the operator's evidence and sequence, for a resource that nobody has applied.

use super::place::{Place, Site};
use super::{Account, choose};
use crate::api::{WorkspaceTokenRotation, request};
use crate::cli::{Cluster, terminal};
use crate::clock::now;
use crate::cluster::secret::{self, Draft, Landed};
use crate::decide::evidence::{Access, Held, Live, Observed, Settings, Token, rotation_id};
use crate::decide::pace::Pace;
use crate::decide::plan::Rotation;
use crate::decide::status;
use crate::operator::rotate::rehearsal;
use crate::reason::Reason;
use anyhow::{anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::io::Write;
use std::sync::Arc;
use uuid::Uuid;

/// Who owns a Secret that was written by hand: no resource can have this name, so the first that comes takes it over.
const BY_HAND: &str = "by_hand";

/// What a call came to.
pub(super) enum Handed {
    /// The value is where it belongs.
    Over(Token),
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
}

impl Hand {
    /// For a value that goes to stdout.
    pub(super) fn new(account: Account, token: &Token, pace: Pace) -> anyhow::Result<Self> {
        let resource = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1",
            "kind": "WorkspaceTokenRotation",
            // The request makes it due whatever is stored.
            "metadata": {"name": BY_HAND, "annotations": {request::ROTATE: BY_HAND}},
            "spec": {
                "workspaceId": account.workspace,
                "token": {"id": token.id},
                "schedule": {"every": "365d"},
                "target": {"name": "stdout"},
            },
            // As of one that was looked at before: its request counts.
            "status": {},
        });
        let settings = Settings {
            minimum_interval: SignedDuration::from_secs(1),
            pace,
            cluster: String::new(),
        };
        Ok(Self {
            resource: serde_json::from_value(resource)?,
            token_id: token.id.clone(),
            account,
            settings: Arc::new(settings),
            site: None,
        })
    }

    /// For a value that goes into a Secret.
    pub(super) async fn aim(
        &mut self,
        place: &Place,
        at: Cluster,
        token: &Token,
    ) -> anyhow::Result<()> {
        let site = Site::of(place, at, &self.account.workspace, token).await?;
        let settings = Settings {
            cluster: site.cluster.clone(),
            ..Settings::clone(&self.settings)
        };
        self.settings = Arc::new(settings);
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
        seen.access = Access::Granted {
            own_token_id: self.account.credential.own_token_id().map(str::to_owned),
        };
        (seen.live, seen.asked_at) = (live, Some(now));
        seen.holder_is_done = true;
        if let Some(site) = &self.site {
            seen.stored = site.stored(&self.resource).await.map_err(|error| {
                let secret = &self.resource.spec.target.name;
                let error = crate::cluster::client::explain(&error);
                anyhow!("Secret {secret} cannot be looked at: {error}")
            })?;
        }
        Ok(seen)
    }

    async fn live(&self) -> anyhow::Result<Live> {
        let Account {
            astro,
            credential,
            organization,
            ..
        } = &self.account;
        match astro.get(credential, organization, &self.token_id).await {
            Ok(token) => Ok(Live::Token { token, fresh: true }),
            Err(error) if error.blocked().reason == Reason::VendorUnavailable => {
                Ok(Live::Unavailable {
                    message: error.to_string(),
                    retry_after: error.retry_after(),
                })
            }
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
        let id = rotation_id(seen.now, Uuid::new_v4().as_u128());
        let mut draft = rehearsal(seen, rotation, id.clone());
        // Nobody's request: the next owner's would else count as answered.
        draft.held.request = None;
        if let Err(why) = self.rehearse(&draft).await {
            return Ok(Handed::Refused(why));
        }
        let mut held = draft.held;
        self.resource.status = Some(status::begin(seen, rotation, id, BY_HAND.into()));

        let Account {
            astro,
            credential,
            organization,
            ..
        } = &self.account;
        let _turn = astro.turn(credential).await;
        let rotated = match astro.rotate(credential, organization, &self.token_id).await {
            Ok(rotated) => rotated,
            Err(error) if error.is_definite() => {
                return Ok(Handed::Refused(self.account.error(&error).to_string()));
            }
            Err(error) => return Ok(Handed::InDoubt(error.to_string())),
        };

        // From here on the value exists nowhere else.
        let token = rotated.token.unwrap_or_else(|| rotation.token.clone());
        held.token_id.clone_from(&token.id);
        held.version = token.version.clone();
        held.expires = token.ends;
        match &self.site {
            None => print(&rotated.value)?,
            Some(site) => self.store(site, held, &rotated.value).await?,
        }
        Ok(Handed::Over(token))
    }

    /// Whether the value can be handed over at all, found out while there is none yet.
    async fn rehearse(&self, draft: &Draft<'_>) -> Result<(), String> {
        match &self.site {
            Some(site) => {
                let rehearsed = secret::rehearse(&site.client, draft).await;
                rehearsed.map_err(|error| error.to_string())
            }
            None if is_cut_off() => {
                Err("whoever should read the value from stdout has ended".into())
            }
            None => Ok(()),
        }
    }

    async fn store(&self, site: &Site, held: Held, value: &SecretString) -> anyhow::Result<()> {
        let draft = Draft {
            owner: &self.resource,
            held,
            force: true,
        };
        let mut told = false;
        let landed = secret::land(
            &site.client,
            draft,
            value,
            true,
            &self.settings.pace,
            |problem| {
                if !told {
                    super::warn(&format!(
                        "the token was rotated, and its new value cannot be stored: {problem}. It is in memory, and tried again: do not end this command"
                    ));
                }
                told = true;
            },
        );
        match landed.await {
            Landed::Stored(_) => Ok(()),
            Landed::Superseded => {
                bail!(
                    "the token was rotated, and somebody else has rotated it since: the Secret holds their value"
                )
            }
            Landed::NoPlace => bail!(
                "the token was rotated, and its new value is lost: the namespace is gone; rotate it again into another"
            ),
        }
    }

    /// What was done, for people.
    pub(super) fn done(&self, token: &Token, now: Timestamp) -> String {
        let name = choose::shown(&token.name);
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
            "Workspace API token {name:?} ({}) was rotated. {value}",
            token.id
        )
    }
}

/// Whether stdout is a pipe that nobody reads from.
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
    // Not as a cause: that nobody reads is an error here, whatever it is elsewhere.
    printed.map_err(|error| {
        anyhow!("the token was rotated, and its new value is lost, because stdout cannot be written; rotate it again: {error}")
    })
}
