//! The vendor, and as whom it is called.

use crate::api::Scope;
use crate::args::AstroArgs;
use crate::astro::client::Astro;
use crate::astro::error::{Error as VendorError, Kind};
use crate::astro::record::Details;
use crate::clock::now;
use crate::decide::entity::Entity;
use crate::decide::pace::Pace;
use crate::id::is_id;
use crate::operator::grant::Grant;
use crate::operator::run as operator;
use crate::process::metrics::Metrics;
use anyhow::{Context, anyhow, bail};
use std::num::NonZeroU32;

/// The vendor, and as whom it is called.
pub(super) struct Account {
    pub(super) astro: Astro,
    pub(super) grant: Grant,
    pub(super) entity: Entity,
}

impl Account {
    pub(super) fn new(
        args: &AstroArgs,
        (scope, id): (Scope, Option<&String>),
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let credential = match operator::credential_source(args)? {
            Some(source) => source
                .read()
                .map_err(|problem| anyhow!("the credential {problem}"))?,
            None => bail!(
                "no credential: set ASTRO_API_TOKEN to the API token of a Workspace Owner, or name a file that holds it with --api-token-file"
            ),
        };
        let of_claim = |claim: Option<&str>| claim.filter(|it| is_id(it)).map(str::to_owned);
        let organization = args.organization_id.clone();
        let organization = organization.or_else(|| of_claim(credential.organization_id()));
        let organization = organization.context(
            "no Organization: the credential names none; give --organization-id, or check that it is an API token of Astro's",
        )?;
        let workspace = || of_claim(credential.workspace_id());
        let id = match scope {
            Scope::Workspace => id.cloned().or_else(workspace).context(
                "no Workspace: the credential is not for a single one; give --workspace-id",
            )?,
            Scope::Deployment | Scope::Organization => id.cloned().unwrap_or_default(),
        };
        // One person, one token: any limit will do.
        let budgets = (NonZeroU32::MAX, NonZeroU32::MAX);
        Ok(Self {
            astro: operator::vendor(args, budgets, pace, Metrics::new())?,
            entity: Entity { scope, id },
            grant: Grant {
                credential,
                organization,
                is_shared: false,
            },
        })
    }

    pub(super) async fn details(&self, id: &str) -> anyhow::Result<Details> {
        let details = self
            .astro
            .details(&self.grant.credential, &self.grant.organization, id);
        details.await.map_err(|error| self.error(&error))
    }

    pub(super) async fn list(&self) -> anyhow::Result<Vec<Details>> {
        let (credential, organization) = (&self.grant.credential, &self.grant.organization);
        let list = self
            .astro
            .list_details(credential, organization, &self.entity);
        list.await.map_err(|error| self.error(&error))
    }

    /// What the vendor answered, and what to do about it here.
    pub(super) fn error(&self, error: &VendorError) -> anyhow::Error {
        use crate::astro::error::Error::{Between, Unreachable};
        let remedy = match (error.kind(), error) {
            (Kind::CredentialRejected, _) => match self.grant.credential.expires() {
                Some(at) if at <= now() => {
                    format!("the credential expired at {at}; create a new one")
                }
                _ => {
                    "the credential is no valid API token: it may have been rotated, deleted or cut"
                        .into()
                }
            },
            (Kind::Forbidden, _) => match self.entity.scope {
                Scope::Organization => "the credential needs the role Organization Owner".into(),
                Scope::Workspace | Scope::Deployment => {
                    "the credential needs the role Workspace Owner in the token's Workspace".into()
                }
            },
            (Kind::NotFound, _) => {
                let entity = match self.entity.scope {
                    Scope::Workspace => format!("--workspace-id ({}) and ", self.entity.id),
                    Scope::Deployment => format!("--deployment-id ({}) and ", self.entity.id),
                    Scope::Organization => String::new(),
                };
                format!(
                    "check the token's id, {entity}--organization-id ({})",
                    self.grant.organization
                )
            }
            (Kind::Unavailable, Between { .. } | Unreachable(_)) => {
                "check the network and --api-url".into()
            }
            (Kind::Unavailable, _) => "try again".into(),
        };
        anyhow!("{error}; {remedy}")
    }
}
