//! API tokens as the vendor shows them, and the making of ids and values.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A token to be created; in JSON the vendor's `CreateApiTokenRequest` and further `roles`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewToken {
    /// Display name; need not be unique.
    pub name: String,
    /// May be empty.
    #[serde(default)]
    pub description: String,
    /// Level the token belongs to.
    pub scope: Scope,
    /// `STANDARD` unless said otherwise.
    #[serde(default)]
    pub kind: Kind,
    /// Role on the entity of its scope.
    pub role: String,
    /// Workspace or Deployment; absent for the organization.
    #[serde(default)]
    pub entity_id: Option<String>,
    /// The Workspace of the Deployment; absent: only an Organization Owner may manage the token.
    #[serde(default)]
    pub deployed_in: Option<String>,
    /// Lifetime in days; absent: it never expires.
    #[serde(default, rename = "tokenExpiryPeriodInDays")]
    pub expiry_days: Option<u32>,
    /// Roles besides the first.
    #[serde(default)]
    pub roles: Vec<Role>,
}

impl NewToken {
    /// A WORKSPACE token with the role `WORKSPACE_MEMBER`: what the operator rotates.
    pub fn workspace(name: impl Into<String>, workspace: impl Into<String>) -> NewToken {
        NewToken {
            entity_id: Some(workspace.into()),
            ..NewToken::of(Scope::Workspace, name, "WORKSPACE_MEMBER")
        }
    }

    /// A WORKSPACE token with the role `WORKSPACE_OWNER`: what the operator calls with.
    pub fn owner(name: impl Into<String>, workspace: impl Into<String>) -> NewToken {
        NewToken::workspace(name, workspace).role("WORKSPACE_OWNER")
    }

    /// A DEPLOYMENT token with the role `DEPLOYMENT_ADMIN`, of a Deployment in the Workspace.
    pub fn deployment(
        name: impl Into<String>,
        deployment: impl Into<String>,
        workspace: impl Into<String>,
    ) -> NewToken {
        NewToken {
            entity_id: Some(deployment.into()),
            deployed_in: Some(workspace.into()),
            ..NewToken::of(Scope::Deployment, name, "DEPLOYMENT_ADMIN")
        }
    }

    /// An ORGANIZATION token with the role `ORGANIZATION_MEMBER`, which alone sees no Workspace.
    pub fn organization(name: impl Into<String>) -> NewToken {
        NewToken::of(Scope::Organization, name, "ORGANIZATION_MEMBER")
    }

    /// With another role on the entity of its scope.
    pub fn role(self, role: impl Into<String>) -> NewToken {
        let role = role.into();
        NewToken { role, ..self }
    }

    /// With a further role, on a Workspace.
    pub fn also(mut self, workspace: impl Into<String>, role: impl Into<String>) -> NewToken {
        self.roles.push(Role {
            entity_type: "WORKSPACE".into(),
            entity_id: workspace.into(),
            role: role.into(),
        });
        self
    }

    /// With a lifetime in days.
    pub fn expires(self, days: u32) -> NewToken {
        NewToken {
            expiry_days: Some(days),
            ..self
        }
    }

    /// With a description.
    pub fn description(self, description: impl Into<String>) -> NewToken {
        let description = description.into();
        NewToken {
            description,
            ..self
        }
    }

    /// Of another kind.
    pub fn kind(self, kind: Kind) -> NewToken {
        NewToken { kind, ..self }
    }

    fn of(scope: Scope, name: impl Into<String>, role: &str) -> NewToken {
        NewToken {
            name: name.into(),
            description: String::new(),
            scope,
            kind: Kind::Standard,
            role: role.into(),
            entity_id: None,
            deployed_in: None,
            expiry_days: None,
            roles: Vec::new(),
        }
    }
}

/// A created token. Has no `Debug`: it holds a value.
#[derive(Clone, Serialize)]
pub struct Issued {
    /// Id of the token.
    pub id: String,
    /// Its first value.
    pub value: String,
}

/// Level a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the vendor's names")]
pub enum Scope {
    Deployment,
    Workspace,
    Organization,
}

/// Kind of token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs, reason = "the vendor's names")]
pub enum Kind {
    #[default]
    Standard,
    DirectAccess,
}

/// What a token may do where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// `DEPLOYMENT`, `WORKSPACE`, `ORGANIZATION`, `DAG` or `DAG_TAG`.
    pub entity_type: String,
    /// Id of that entity.
    pub entity_id: String,
    /// Built-in or custom role name.
    pub role: String,
}

/// A token's metadata: the vendor's `ApiToken` without its value.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the vendor's names")]
pub struct Record {
    pub id: String,
    pub name: String,
    pub description: String,
    pub scope: Scope,
    pub kind: Kind,
    pub short_token: String,
    pub start_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry_period_in_days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_rotated_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub roles: Vec<Role>,
    pub created_by: Value,
    pub updated_by: Value,
    /// The Workspace of its Deployment, which the vendor does not tell.
    #[serde(skip)]
    pub deployed_in: Option<String>,
}

impl Record {
    /// Whether it holds a role on the entity.
    pub(super) fn has_role_on(&self, entity_type: &str, entity_id: &str) -> bool {
        self.roles
            .iter()
            .any(|r| r.entity_type == entity_type && r.entity_id == entity_id)
    }

    /// Whether it may do everything.
    pub(super) fn owns_organization(&self) -> bool {
        self.roles.iter().any(|r| r.role == "ORGANIZATION_OWNER")
    }

    /// Whether it may manage the Workspace's tokens.
    pub(super) fn owns(&self, workspace: &str) -> bool {
        self.owns_organization()
            || self
                .roles
                .iter()
                .any(|r| r.entity_id == workspace && r.role == "WORKSPACE_OWNER")
    }

    /// Whether it may see the Workspace.
    pub(super) fn sees(&self, workspace: &str) -> bool {
        self.owns_organization() || self.has_role_on("WORKSPACE", workspace)
    }

    /// Whether it may look at the token.
    pub(super) fn may_read(&self, token: &Record) -> bool {
        self.owns_organization()
            || token.workspaces().any(|w| self.owns(w))
            || self.owns_deployment_of(token)
    }

    fn owns_deployment_of(&self, token: &Record) -> bool {
        token.deployed_in.as_ref().is_some_and(|w| self.owns(w))
    }

    /// Whether it may change, rotate and delete the token.
    pub(super) fn may_manage(&self, token: &Record) -> bool {
        self.owns_organization()
            || token.scope == Scope::Workspace && token.workspaces().any(|w| self.owns(w))
            || self.owns_deployment_of(token)
    }

    /// Whether its value is of no use at `now`.
    pub(super) fn expired(&self, now: Timestamp) -> bool {
        self.end_at.is_some_and(|end| end <= now)
    }

    /// How the vendor names it as the one who did something.
    pub(super) fn profile(&self) -> Value {
        json!({"id": self.id, "subjectType": "SERVICEKEY", "apiTokenName": self.name})
    }

    /// Ids of the Workspaces it has a role on.
    pub(super) fn workspaces(&self) -> impl Iterator<Item = &str> {
        self.roles
            .iter()
            .filter(|r| r.entity_type == "WORKSPACE")
            .map(|r| r.entity_id.as_str())
    }
}

/// How the vendor names a person who did something.
pub(super) fn person() -> Value {
    json!({
        "id": "clm0person00000000000000a",
        "subjectType": "USER",
        "fullName": "A Person",
        "username": "person@example.com",
    })
}

/// A new id in CUID form: 25 characters, the first a `c`.
pub(super) fn mint_id() -> String {
    format!("c{}", base36::<24>())
}

/// A new display form, not a part of any value.
pub(super) fn mint_short() -> String {
    base36::<10>()
}

/// A new value: shaped like a JWT of about 900 characters, with the claims clients look at.
pub(super) fn mint_value(record: &Record, organization: &str, now: Timestamp) -> String {
    let mut permissions = vec![format!("organizationId:{organization}")];
    permissions.extend(record.workspaces().map(|w| format!("workspaceId:{w}")));
    let key = "a1b2c3d4e5f60718293a4b5c6d7e8f90";
    let mut claims = json!({
        "apiTokenId": record.id,
        "aud": "astronomer-ee",
        "iat": now.as_second(),
        "isAstronomerGenerated": true,
        "iss": "https://api.example.com",
        "jti": uuid::Uuid::new_v4().to_string(),
        "kid": key,
        "nbf": record.start_at.as_second(),
        "org_id": organization,
        "permissions": permissions,
        "scope": "apiToken:v1",
        "sub": record.id,
        "version": "1.0",
    });
    if let Some(end) = record.end_at {
        claims["exp"] = end.as_second().into();
    }
    let header = json!({"alg": "RS256", "kid": key, "typ": "JWT"});
    format!(
        "{}.{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string()),
        URL_SAFE_NO_PAD.encode(random::<256>()),
    )
}

fn base36<const N: usize>() -> String {
    random::<N>()
        .iter()
        .map(|byte| char::from(b"0123456789abcdefghijklmnopqrstuvwxyz"[usize::from(byte % 36)]))
        .collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system gives random bytes");
    bytes
}
