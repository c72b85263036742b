//! What a spec and a token must be before anything is done with them. Pure.

use crate::api::{GROUP, MANAGED_BY, Scope, Target, TokenRef, WorkspaceTokenRotationSpec};
use crate::decide::entity::Entity;
use crate::decide::evidence::{Live, Observed, Token};
use crate::decide::names::{is_key, is_object_name};
use crate::id::{is_id, is_same};
use crate::reason::{Blocked, Reason};

/// Most bytes that the names and texts of `target.labels` and `target.annotations` may have together.
pub const MOST_TEXT: usize = 4096;
/// Stands in `target.annotations`, with the number of bytes, where there were more.
pub const TOO_LONG: &str = "astro-token-operator.io/too-long";

/// What CEL checks on newer API servers, and what it cannot check.
///
/// # Errors
/// The first field that is wrong.
pub fn check_spec(spec: &WorkspaceTokenRotationSpec) -> Result<(), Blocked> {
    let invalid = |message: String| Err(Blocked::new(Reason::InvalidSpec, message));
    let ids = [
        ("workspaceId", &spec.workspace_id),
        ("organizationId", &spec.organization_id),
    ];
    check_ids(ids).or_else(&invalid)?;
    for (role, reference) in spec.references() {
        check_reference(reference)
            .or_else(|problem| invalid(format!("{}{problem}", role.field())))?;
    }
    check_scope(spec).or_else(|problem| invalid(problem.into()))?;
    check_target(&spec.target).or_else(|message| invalid(format!("target.{message}")))?;
    match &spec.credentials {
        Some(credentials) if !is_object_name(&credentials.secret_ref.name) => {
            invalid("credentials.secretRef.name is not a valid Secret name".into())
        }
        Some(credentials) if !is_key(credentials.secret_ref.key()) => {
            invalid("credentials.secretRef.key is not a valid Secret key".into())
        }
        Some(credentials)
            if credentials.secret_ref.name == spec.target.name
                && !spec.rotates_its_credential() =>
        {
            Err(Blocked::new(
                Reason::SelfRotation,
                "target and credentials.secretRef are the same Secret, which is only safe with an alternateToken and the same \
                 key; add that, or use another target or another credential",
            ))
        }
        _ => Ok(()),
    }
}

/// They become part of a URL.
fn check_ids<const N: usize>(ids: [(&str, &Option<String>); N]) -> Result<(), String> {
    let mut ids = ids.into_iter();
    let wrong = ids.find(|(_, id)| id.as_ref().is_some_and(|id| !is_id(id)));
    match wrong {
        Some((field, _)) => Err(format!(
            "{field} must be 1 to 64 letters, digits, - or _, as Astro shows it"
        )),
        None => Ok(()),
    }
}

/// What is wrong with a reference to a token, to follow its field.
fn check_reference(reference: &TokenRef) -> Result<(), String> {
    check_ids([
        (".id", &reference.id),
        (".deploymentId", &reference.deployment_id),
    ])?;
    match (&reference.name, &reference.id) {
        (Some(name), None) if name.is_empty() || name.chars().count() > 256 => {
            return Err(".name must have 1 to 256 characters".into());
        }
        (Some(_), None) | (None, Some(_)) => {}
        _ => return Err(": give exactly one of name and id".into()),
    }
    if reference.deployment_id.is_some() != (reference.scope == Some(Scope::Deployment)) {
        return Err(": give deploymentId with scope: Deployment, and with no other".into());
    }
    Ok(())
}

fn check_scope(spec: &WorkspaceTokenRotationSpec) -> Result<(), &'static str> {
    let (token, alternate) = (&spec.token, spec.alternate_token.as_ref());
    let scope = token.scope.unwrap_or_default();
    if spec.workspace_id.is_none() && scope == Scope::Workspace {
        return Err("give workspaceId, or token.scope: Deployment or Organization");
    }
    let Some(alternate) = alternate else {
        return match spec.schedule.wait_for_previous {
            Some(_) => Err("schedule.waitForPrevious only has a meaning with alternateToken"),
            None => Ok(()),
        };
    };
    if alternate.scope.is_some_and(|it| it != scope) {
        return Err("alternateToken must have the scope of token");
    }
    let (ours, theirs) = (&token.deployment_id, &alternate.deployment_id);
    if theirs.is_some() && theirs != ours {
        return Err("alternateToken must be for the Deployment of token");
    }
    let is_same_id = token.id.as_ref().is_some_and(|id| alternate.has_id(id));
    if is_same_id || token.name.is_some() && token.name == alternate.name {
        return Err("token and alternateToken must be two tokens");
    }
    Ok(())
}

fn check_target(target: &Target) -> Result<(), String> {
    if !is_object_name(&target.name) {
        return Err("name is not a valid Secret name".into());
    }
    if !is_key(target.key()) {
        return Err("key may have 1 to 253 letters, digits, -, _ and .".into());
    }
    if target.type_.as_deref() == Some("kubernetes.io/service-account-token") {
        // With the right annotation Kubernetes would put the token of any ServiceAccount of the namespace into it.
        return Err(
            "type kubernetes.io/service-account-token is not for the operator to create".into(),
        );
    }
    let too_long = target.annotations.get(TOO_LONG);
    if let Some(length) = too_long.and_then(|length| length.parse::<usize>().ok()) {
        return Err(format!(
            "labels and target.annotations have {length} bytes together; they may have {MOST_TEXT}"
        ));
    }
    let prefix = format!("{GROUP}/");
    let ours = |key: &&String| key.starts_with(&prefix) || *key == MANAGED_BY.0;
    let (mut labels, mut annotations) = (target.labels.keys(), target.annotations.keys());
    match labels.find(ours).or_else(|| annotations.find(ours)) {
        Some(key) => Err(format!("labels and target.annotations may not set {key}")),
        None => Ok(()),
    }
}

/// Whether two references were found to mean one token: a rotation of the other one would be one of the same.
///
/// # Errors
/// The token.
pub fn check_pair(seen: &Observed) -> Result<(), Blocked> {
    match (&seen.records.token, &seen.records.alternate) {
        (Live::Token { token, .. }, Live::Token { token: other, .. }) if token.id == other.id => {
            let message = format!(
                "token and alternateToken both mean token {}; name two tokens",
                token.id
            );
            Err(Blocked::new(Reason::InvalidSpec, message))
        }
        _ => Ok(()),
    }
}

/// Whether there is anything to be done for it: one that asks for nothing sane, or is going away, is not worth a call.
pub fn is_workable(seen: &Observed) -> bool {
    seen.schedule.is_ok()
        && seen.resource.metadata.deletion_timestamp.is_none()
        && check_spec(&seen.resource.spec).is_ok()
}

/// That the credential is a value of none of the tokens: it would die with the first rotation of its token. The value in the
/// target itself is replaced before that, where two take turns.
///
/// # Errors
/// The token.
fn check_credential(seen: &Observed) -> Result<(), Blocked> {
    if seen.is_in_ring {
        return Err(Blocked::new(
            Reason::SelfRotation,
            "the credential is the value of a resource whose own credential is, directly or through others, the value of this \
             one, with one token each; give one of them an alternateToken, or another credential",
        ));
    }
    let spec = &seen.resource.spec;
    let own = seen
        .credential_of()
        .filter(|_| !spec.rotates_its_credential());
    let is_it = |own: &&String| {
        let mut references = spec.references();
        references.any(|(role, reference)| match seen.records.of(role).id() {
            Some(id) => is_same(id, own),
            None => reference.has_id(own),
        })
    };
    match own.filter(is_it) {
        Some(own) => Err(Blocked::new(
            Reason::SelfRotation,
            format!(
                "token {own} is the credential the operator calls the vendor with; use another credential"
            ),
        )),
        None => Ok(()),
    }
}

/// Scope and entity, before anything is rotated.
///
/// # Errors
/// Why this token is not the operator's to rotate.
pub fn check_token(seen: &Observed, token: &Token) -> Result<(), Blocked> {
    let spec = &seen.resource.spec;
    check_credential(seen)?;
    let entity = Entity::of(spec);
    let scope = entity.scope;
    if token.scope != scope.of_record() || token.kind != "STANDARD" {
        return Err(Blocked::new(
            Reason::WrongScope,
            format!(
                "token {} has scope {} and kind {}, and a standard {scope} API token is asked for; correct the token or the scope",
                token.id, token.scope, token.kind
            ),
        ));
    }
    if !entity.has(token) {
        let reason = match scope {
            Scope::Workspace => Reason::WrongWorkspace,
            Scope::Deployment | Scope::Organization => Reason::WrongScope,
        };
        return Err(Blocked::new(
            reason,
            format!(
                "token {} has no role in {entity}; correct {} or token",
                token.id,
                entity.field()
            ),
        ));
    }
    Ok(())
}
