//! What the vendor says of the token: from a list that is shared, or read now.

use crate::api::{Role, TokenRef, WorkspaceTokenRotation};
use crate::astro::credential::Credential;
use crate::astro::error::{Error as VendorError, Kind};
use crate::astro::listing::{Failure, Key, Listing, Listings};
use crate::cluster::error::Error;
use crate::cluster::secret;
use crate::decide::entity::Entity;
use crate::decide::evidence::{Held, Live, Observed, Stored, Token};
use crate::decide::plan::Plan;
use crate::decide::plan::rules::plan;
use crate::decide::rivals::Claims;
use crate::decide::token::{Tokens, among};
use crate::decide::turn::next;
use crate::operator::grant::Grant;
use crate::operator::handles::Handles;
use crate::reason::Reason;
use kube::ResourceExt;
use secrecy::ExposeSecret;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What tokens are found with.
pub(super) struct Finder<'a> {
    pub(super) handles: &'a Handles,
    pub(super) listings: &'a Listings,
    /// Which tokens somebody names.
    pub(super) claims: &'a Mutex<Claims>,
}

/// Which list a resource's token is in.
pub(in crate::operator) fn list_key(resource: &WorkspaceTokenRotation) -> Key {
    let spec = &resource.spec;
    let credentials = spec.credentials.as_ref();
    Key {
        namespace: resource.namespace().unwrap_or_default(),
        credential: credentials.map(|it| it.secret_ref.clone()),
        organization: spec.organization_id.clone(),
        entity: Entity::of(spec),
    }
}

/// The list of the resource's entity, no older than `not_before`.
///
/// # Errors
/// When the API server gives no verdict on the credential.
pub(super) async fn listing(
    finder: &Finder<'_>,
    resource: &WorkspaceTokenRotation,
    not_before: Option<Instant>,
) -> Result<Listing, Error> {
    let Finder {
        handles,
        listings,
        claims,
    } = finder;
    let entity = Entity::of(&resource.spec);
    let is_wanted = |token: &Token| {
        let claims = claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.is_named(&entity, token)
    };
    let mut broken = None;
    let read = async || match handles.grants.of(resource).await {
        Ok(grant) => {
            let Grant {
                credential,
                organization,
                ..
            } = &grant;
            let of = (organization.as_str(), &entity);
            let list = listings.list(&handles.astro, credential, of, not_before, is_wanted);
            (list.await, Some(credential.claims()))
        }
        Err(Error::Refused(blocked)) => (Err(Failure::Denied(blocked)), None),
        Err(error) => {
            let message = error.to_string();
            broken = Some(error);
            (Err(Failure::Unread { message }), None)
        }
    };
    let key = list_key(resource);
    let listing = listings.get(&key, not_before, read).await;
    match broken {
        Some(error) => Err(error),
        None => Ok(listing),
    }
}

/// Whether a token of the resource may be in a list that was read before anybody asked for it.
pub(super) fn lacks(listing: &Listing, resource: &WorkspaceTokenRotation) -> bool {
    let is_lacking = |tokens: &Tokens| {
        let mut references = resource.spec.references();
        references.any(|(_, asked)| tokens.lacks(asked))
    };
    listing
        .value
        .0
        .as_ref()
        .is_ok_and(|tokens| is_lacking(tokens))
}

/// The token that a reference means in a list of its entity.
pub(super) fn in_listing(
    entity: &Entity,
    asked: &TokenRef,
    listing: &Listing,
    fresh: bool,
) -> Live {
    match &listing.value.0 {
        Ok(tokens) => among(entity, asked, tokens, fresh),
        Err(failure) => failure.clone().live(fresh),
    }
}

/// The token of this id in a list, whatever the spec names.
pub(super) fn with_id(id: &str, listing: &Listing) -> Live {
    let found = listing.value.0.as_ref().ok();
    match found.and_then(|tokens| tokens.with_id(id)) {
        Some(token) => Live::Token {
            token,
            fresh: false,
        },
        None => Live::NotAsked,
    }
}

/// What the vendor says now of the tokens: first of the one whose turn it is, and of the others only where that does not settle
/// what to do.
///
/// # Errors
/// When the API server gives no verdict on the credential.
pub(super) async fn read_all(
    finder: &Finder<'_>,
    seen: &mut Observed,
    grant: &Grant,
) -> Result<(), Error> {
    let first = next(seen).unwrap_or(Role::Token);
    for role in [first, first.other()] {
        let Some(asked) = seen.resource.spec.reference(role) else {
            continue;
        };
        let is_unknown = *seen.records.of(role) == Live::NotAsked;
        if role == first || is_unknown || plan(seen) == Plan::Look {
            let live = read(finder, seen, grant, (role, asked)).await?;
            let is_unavailable = matches!(live, Live::Unavailable { .. });
            *seen.records.of_mut(role) = live;
            if is_unavailable {
                return Ok(());
            }
        }
    }
    // The spec may mean another token by now than that of the value that is here.
    let former = seen.stored.value().filter(|_| seen.takes_turns());
    let Some(id) = former.map(|held| held.stamp.token_id.clone()) else {
        return Ok(());
    };
    let is_former = seen.record(&id).is_none() || seen.records.former != Live::NotAsked;
    if is_former && (seen.record(&id).is_none() || plan(seen) == Plan::Look) {
        seen.records.former = match get(finder.handles, grant, &id).await {
            Ok(token) => Live::Token { token, fresh: true },
            Err(error) => Failure::from(&error).live(true),
        };
    }
    Ok(())
}

/// The id of a token that is named, where the Secret is about it.
fn id_of_name(seen: &Observed, role: Role) -> Option<&String> {
    let (Stored::Holds(held) | Stored::Unread(held)) = &seen.stored else {
        return None;
    };
    let stamp = &held.stamp;
    match seen.records.of(role) {
        Live::Token { token, .. } => {
            let mut ids = [Some(&stamp.token_id), stamp.other.as_ref()]
                .into_iter()
                .flatten();
            ids.find(|id| **id == token.id)
        }
        _ => Some(&stamp.token_id).filter(|_| !seen.takes_turns()),
    }
}

/// The token of a reference as it is now: by id where the id is known, by list where only a name is.
async fn read(
    finder: &Finder<'_>,
    seen: &Observed,
    grant: &Grant,
    (role, spec): (Role, &TokenRef),
) -> Result<Live, Error> {
    let handles = finder.handles;
    let known = spec.id.as_ref().or_else(|| id_of_name(seen, role));
    if let Some(id) = known {
        match get(handles, grant, id).await {
            // A name that moved to another token is looked up again.
            Ok(token) if spec.name.as_ref().is_none_or(|name| *name == token.name) => {
                return Ok(Live::Token { token, fresh: true });
            }
            Ok(_) => {}
            Err(error) if error.kind() == Kind::NotFound && spec.id.is_none() => {}
            Err(error) => return Ok(Failure::from(&error).live(true)),
        }
    }
    let fresh = seen.pace().list_fresh;
    let recent = finder.listings.recent(&list_key(&seen.resource), fresh);
    let mut found = match recent {
        Some(recent) => recent,
        None => {
            let not_before = Instant::now().checked_sub(fresh);
            listing(finder, &seen.resource, not_before).await?
        }
    };
    // Its reading may have begun, for another resource, before this one asked for its token.
    if lacks(&found, &seen.resource) {
        found = listing(finder, &seen.resource, Some(Instant::now())).await?;
    }
    let entity = Entity::of(&seen.resource.spec);
    let listed = match in_listing(&entity, spec, &found, true) {
        Live::Token { token, .. } => token,
        unknown => return Ok(unknown),
    };
    // The list tells which token has the name; it may be older than our own last rotation.
    Ok(match get(handles, grant, &listed.id).await {
        Ok(token) if (&token.name, &token.scope) != (&listed.name, &listed.scope) => {
            Live::Unavailable {
                message: format!("token {} was changed while it was looked up", listed.id),
                retry_after: None,
            }
        }
        Ok(token) => Live::Token { token, fresh: true },
        Err(error) => Failure::from(&error).live(true),
    })
}

/// Whether the token of the stored value does not exist any more, where the one that the spec names was not found: a
/// mistyped name says nothing of the value, nor does a credential that may not see the token.
///
/// # Errors
/// When the API server gives no verdict on the credential.
pub(super) async fn is_gone(
    finder: &Finder<'_>,
    seen: &Observed,
    grant: &Grant,
) -> Result<bool, Error> {
    let is_missing = |live: &Live| matches!(live, Live::Refused { blocked, .. } if blocked.reason == Reason::TokenNotFound);
    let is_any = seen.records.all().into_iter().any(is_missing);
    let is_unknown = |held: &&Held| seen.record(&held.stamp.token_id).is_none();
    let Some(held) = seen.stored.value().filter(|_| is_any).filter(is_unknown) else {
        return Ok(false);
    };
    let id = &held.stamp.token_id;
    if !(get(finder.handles, grant, id).await).is_err_and(|error| error.kind() == Kind::NotFound) {
        return Ok(false);
    }
    let not_before = Instant::now().checked_sub(seen.pace().list_fresh);
    let listing = listing(finder, &seen.resource, not_before).await?;
    let (tokens, _) = listing.value;
    Ok(tokens.is_ok_and(|tokens| !tokens.has_id(id)))
}

async fn get(handles: &Handles, grant: &Grant, id: &str) -> Result<Token, VendorError> {
    let (credential, organization) = (&grant.credential, &grant.organization);
    handles.astro.get(credential, organization, id).await
}

/// Of which of these tokens the value under this key of this Secret is the live one: `Some(None)`: of none, and `None`: there is no
/// value; otherwise why that is not known.
pub(super) async fn is_live(
    handles: &Handles,
    resource: &WorkspaceTokenRotation,
    grant: &Grant,
    tokens: &[Token],
    (secret, key): (&str, &str),
) -> Result<Option<Option<String>>, Live> {
    let value = match secret::value(&handles.client, resource, secret, key, secret::LONGEST).await {
        Ok(Some((value, _))) => value,
        Ok(None) => return Ok(None),
        Err(error) => {
            return Err(Live::Unavailable {
                message: error.to_string(),
                retry_after: None,
            });
        }
    };
    let Ok(candidate) = Credential::adopt(value.expose_secret()) else {
        return Ok(Some(None));
    };
    let (organization, entity) = (&grant.organization, Entity::of(&resource.spec));
    for token in tokens {
        let verdict = handles
            .astro
            .is_live(&candidate, organization, &entity, token);
        match verdict.await {
            Ok(true) => return Ok(Some(Some(token.id.clone()))),
            Ok(false) => {}
            Err(error) => return Err(Failure::from(&error).live(true)),
        }
    }
    Ok(Some(None))
}
