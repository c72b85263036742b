//! With what credential and in which Organization a resource's calls are made.

use crate::api::WorkspaceTokenRotation;
use crate::astro::credential::Credential;
use crate::clock::now;
use crate::cluster::error::Error;
use crate::cluster::secret;
use crate::decide::allowed::Allowed;
use crate::id::is_id;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use kube::{Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;

/// The operator's own credential, and who may use it.
#[derive(Clone, Default)]
pub struct DefaultCredential {
    /// Where it comes from.
    pub source: Option<Source>,
    /// Whose resources may do without one of their own.
    pub allowed: Allowed,
}

/// Where the operator's own credential comes from. May hold a value, so it has no `Debug`.
#[derive(Clone)]
pub enum Source {
    /// Given once, by environment.
    Value(SecretString),
    /// A file that is read anew for each use, so that it may be rotated too.
    File(PathBuf),
}

impl Source {
    /// The credential as it is now.
    ///
    /// # Errors
    /// What is wrong with it, to follow its name; without quoting it.
    pub fn read(&self) -> Result<Credential, String> {
        match self {
            Self::Value(value) => Credential::parse(value.expose_secret()).map_err(str::to_owned),
            Self::File(path) => match std::fs::read(path) {
                Ok(content) => {
                    let content = zeroize::Zeroizing::new(content);
                    Credential::read(&content).map_err(str::to_owned)
                }
                Err(error) => Err(format!(
                    "cannot be read: {}",
                    scrub(&error.to_string(), 200)
                )),
            },
        }
    }
}

/// What a call to the vendor needs.
#[derive(Clone)]
pub struct Grant {
    /// The credential.
    pub credential: Credential,
    /// The Organization id.
    pub organization: String,
}

/// Finds the grant of each resource; every reference stays in the resource's namespace.
#[derive(Clone)]
pub struct Grants {
    /// For single calls to the API server.
    pub client: Client,
    /// The operator's own credential.
    pub own: DefaultCredential,
    /// The operator's `--organization-id`.
    pub organization: Option<String>,
}

impl Grants {
    /// The credential and Organization for `resource`.
    ///
    /// # Errors
    /// `Refused` when a person has to fix something; `Unavailable` when the API server gives no verdict.
    pub async fn of(&self, resource: &WorkspaceTokenRotation) -> Result<Grant, Error> {
        let credential = match &resource.spec.credentials {
            Some(credentials) => {
                let secret = &credentials.secret_ref;
                of_secret(&self.client, resource, &secret.name, secret.key()).await?
            }
            None => of_operator(resource, &self.own)?,
        };
        // By its own claim: a call would only be refused.
        if let Some(at) = credential.expires().filter(|at| *at <= now()) {
            return Err(denied(
                Reason::CredentialsRejected,
                format!("the credential expired at {at}; replace it with a valid API token"),
            ));
        }
        let organization = (resource.spec.organization_id.as_deref())
            .or(self.organization.as_deref())
            // The author of the credential wrote its claims too.
            .or(credential.organization_id().filter(|id| is_id(id)))
            .filter(|id| !id.is_empty())
            .ok_or_else(|| {
                denied(
                    Reason::OrganizationUnknown,
                    "neither spec, operator nor credential names the Organization; set spec.organizationId",
                )
            })?
            .to_owned();
        Ok(Grant {
            credential,
            organization,
        })
    }
}

async fn of_secret(
    client: &Client,
    resource: &WorkspaceTokenRotation,
    name: &str,
    key: &str,
) -> Result<Credential, Error> {
    let missing = |problem: &str| {
        denied(
            Reason::CredentialsMissing,
            format!(
                "credentials: key {key} of Secret {name} {problem}; create it with a Workspace Owner's API token"
            ),
        )
    };
    match secret::value(client, resource, name, key).await {
        Ok(Some((content, _))) => Credential::read(content.expose_secret()).map_err(missing),
        Ok(None) => Err(missing("does not exist or is empty")),
        Err(Error::Refused(blocked)) => Err(denied(
            Reason::CredentialsMissing,
            format!(
                "credentials: Secret {name} cannot be read: {}",
                blocked.message
            ),
        )),
        Err(error) => Err(error),
    }
}

fn of_operator(
    resource: &WorkspaceTokenRotation,
    own: &DefaultCredential,
) -> Result<Credential, Error> {
    let namespace = resource.namespace().unwrap_or_default();
    let workspace = &resource.spec.workspace_id;
    let not_allowed = |why: String, remedy: &str| {
        denied(
            Reason::CredentialsNotAllowed,
            format!(
                "spec.credentials is absent, and {why}; set spec.credentials.secretRef, or have the cluster administrator \
                 {remedy}add {namespace}={workspace} to --default-credentials-namespaces of the operator"
            ),
        )
    };
    let Some(source) = &own.source else {
        let why = "the operator has no credential of its own".to_owned();
        return Err(not_allowed(why, "give it one and "));
    };
    if !own.allowed.allows(&namespace, workspace) {
        let why = format!(
            "resources of namespace {namespace} may not use the operator's own credential for Workspace {workspace}"
        );
        return Err(not_allowed(why, ""));
    }
    source.read().map_err(|problem| {
        denied(
            Reason::CredentialsMissing,
            format!("the operator's own credential {problem}"),
        )
    })
}

fn denied(reason: Reason, message: impl AsRef<str>) -> Error {
    Error::Refused(Blocked::new(reason, message))
}
