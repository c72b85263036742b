//! With what credential and in which Organization a resource's calls are made.

use crate::api::{Scope, WorkspaceTokenRotation};
use crate::astro::credential::Credential;
use crate::astro::shared::{Reading, Shared};
use crate::clock::now;
use crate::cluster::error::Error;
use crate::cluster::secret;
use crate::decide::allowed::Allowed;
use crate::decide::entity::Entity;
use crate::decide::pace::Pace;
use crate::id::is_id;
use crate::reason::{Blocked, Reason};
use crate::text::scrub;
use kube::{Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest JSON of a Secret with a credential, bytes: hundreds of resources may name one each.
const LONGEST_SECRET: usize = 256 * 1024;

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

/// What a call to the vendor needs. Holds a value, so it has no `Debug`.
#[derive(Clone)]
pub struct Grant {
    /// The credential.
    pub credential: Credential,
    /// The Organization id.
    pub organization: String,
    /// The credential was read a moment ago, for another one who needs it too.
    pub is_shared: bool,
}

/// Finds the grant of each resource; every reference stays in the resource's namespace.
#[derive(Clone)]
pub struct Grants {
    client: Client,
    own: DefaultCredential,
    organization: Option<String>,
    /// Credentials by where they are. Many resources name the same one, and each of them has it read.
    shared: Arc<Shared<Place, Result<Credential, Arc<Error>>>>,
    /// For how long they are.
    fresh: Duration,
}

/// Where a credential is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    namespace: String,
    secret: String,
    key: String,
}

impl Grants {
    /// With the operator's own credential and its `--organization-id`.
    pub fn new(
        client: Client,
        own: DefaultCredential,
        organization: Option<String>,
        pace: &Pace,
    ) -> Self {
        Self {
            client,
            own,
            organization,
            shared: Arc::default(),
            fresh: pace.credential_fresh,
        }
    }

    /// Has the credential of `resource` read anew: it was refused, and may have been replaced since it was read.
    pub fn forget(&self, resource: &WorkspaceTokenRotation) {
        if let Some(place) = Place::of(resource) {
            self.shared.retain(|it, _| *it != place);
        }
    }

    /// Has the credentials in this Secret read anew: it was written just now.
    pub fn forget_secret(&self, namespace: &str, name: &str) {
        self.shared
            .retain(|it, _| it.namespace != namespace || it.secret != name);
    }

    /// The credential and Organization for `resource`.
    ///
    /// # Errors
    /// `Refused` when a person has to fix something; `Unavailable` when the API server gives no verdict.
    pub async fn of(&self, resource: &WorkspaceTokenRotation) -> Result<Grant, Error> {
        let (credential, is_shared) = match Place::of(resource) {
            Some(place) => self.of_secret(resource, place).await?,
            None => (of_operator(resource, &self.own)?, false),
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
            is_shared,
        })
    }

    /// The credential that is there, and whether it was read for another one.
    async fn of_secret(
        &self,
        resource: &WorkspaceTokenRotation,
        place: Place,
    ) -> Result<(Credential, bool), Error> {
        let (mut is_shared, asked) = (true, Instant::now());
        // Fresh when it was asked for: otherwise, where a read takes long, each of those who wait would read it anew.
        let serves = |reading: &Reading<Result<_, _>>| match reading.value {
            Ok(_) => asked.saturating_duration_since(reading.began()) < self.fresh,
            Err(_) => reading.rested() < self.fresh,
        };
        let read = async || {
            is_shared = false;
            read(&self.client, resource, &place).await.map_err(Arc::new)
        };
        let reading = self.shared.get(&place, serves, read).await;
        if !is_shared {
            self.wipe_later();
        }
        match reading.value {
            Ok(credential) => Ok((credential, is_shared)),
            Err(error) => Err(error.shared()),
        }
    }

    /// No value stays in memory for longer than it is of use.
    fn wipe_later(&self) {
        let (shared, fresh) = (Arc::downgrade(&self.shared), self.fresh);
        tokio::spawn(async move {
            tokio::time::sleep(fresh * 2).await;
            if let Some(shared) = shared.upgrade() {
                shared.retain(|_, reading| reading.age() < fresh);
            }
        });
    }
}

impl Place {
    /// Of the credential that a spec names; `None`: it leaves that to the operator.
    fn of(resource: &WorkspaceTokenRotation) -> Option<Self> {
        let secret = &resource.spec.credentials.as_ref()?.secret_ref;
        Some(Self {
            namespace: resource.namespace().unwrap_or_default(),
            secret: secret.name.clone(),
            key: secret.key().to_owned(),
        })
    }
}

async fn read(
    client: &Client,
    resource: &WorkspaceTokenRotation,
    Place {
        secret: name, key, ..
    }: &Place,
) -> Result<Credential, Error> {
    let missing = |problem: &str| {
        denied(
            Reason::CredentialsMissing,
            format!(
                "credentials: key {key} of Secret {name} {problem}; create it with a Workspace Owner's API token"
            ),
        )
    };
    match secret::value(client, resource, name, key, LONGEST_SECRET).await {
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
    let entity = Entity::of(&resource.spec);
    let entry = match entity.scope {
        Scope::Workspace => format!("{namespace}={}", entity.id),
        Scope::Deployment | Scope::Organization => namespace.clone(),
    };
    let not_allowed = |why: String, remedy: &str| {
        denied(
            Reason::CredentialsNotAllowed,
            format!(
                "spec.credentials is absent, and {why}; set spec.credentials.secretRef, or have the cluster administrator \
                 {remedy}add {entry} to --default-credentials-namespaces of the operator"
            ),
        )
    };
    let Some(source) = &own.source else {
        let why = "the operator has no credential of its own".to_owned();
        return Err(not_allowed(why, "give it one and "));
    };
    if !own.allowed.allows(&namespace, &entity) {
        let why = format!(
            "resources of namespace {namespace} may not use the operator's own credential for {entity}"
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
