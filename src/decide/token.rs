//! Which token a resource means.

use crate::api::WorkspaceTokenRotation;
use crate::decide::evidence::{Live, Token};
use crate::id::is_same;
use crate::reason::{Blocked, Reason};

/// Ids of tokens with one name that are shown.
const MOST_IDS: usize = 10;

/// The token that `resource` means among those of its Workspace: by id, or by name among the Workspace tokens, exactly one.
/// `fresh`: they were read just now.
pub fn among(resource: &WorkspaceTokenRotation, tokens: &[Token], fresh: bool) -> Live {
    let spec = &resource.spec;
    let not_found = |what: &str| {
        let message = format!(
            "no token {what} in Workspace {}; check token, workspaceId and the credential's role",
            spec.workspace_id
        );
        Blocked::new(Reason::TokenNotFound, message)
    };
    let refused = |blocked| Live::Refused { blocked, fresh };
    let known = |token: &Token| match token.odd {
        None => Live::Token {
            token: token.clone(),
            fresh,
        },
        Some(field) => Live::Unavailable {
            message: format!(
                "in the list of Workspace {} the field {field} of the token's record is not as documented",
                spec.workspace_id
            ),
            retry_after: None,
        },
    };
    let (Some(name), None) = (&spec.token.name, &spec.token.id) else {
        let id = spec.token.id.as_deref().unwrap_or_default();
        let found = tokens.iter().find(|token| is_same(&token.id, id));
        return found.map_or_else(|| refused(not_found(&format!("with id {id}"))), known);
    };
    let of_name = || tokens.iter().filter(|token| token.name == *name);
    // One whose scope cannot be read may be a twin.
    let matching: Vec<_> = of_name()
        .filter(|token| token.scope == "WORKSPACE" || token.scope.is_empty())
        .collect();
    match matching[..] {
        [token] => known(token),
        [] => match of_name().next() {
            // Another rule says that its scope is wrong.
            Some(other) => known(other),
            None => refused(not_found(&format!("named {name:?}"))),
        },
        _ => {
            let ids = matching.iter().take(MOST_IDS);
            let ids: Vec<_> = ids.map(|token| token.id.as_str()).collect();
            refused(Blocked::new(
                Reason::TokenAmbiguous,
                format!(
                    "{} Workspace tokens are named {name:?}; use token.id, one of {}",
                    matching.len(),
                    ids.join(", ")
                ),
            ))
        }
    }
}

/// Whether `resource` is about this token of `workspace`: it names it, or it holds a value of it.
pub fn is_meant(resource: &WorkspaceTokenRotation, workspace: &str, token: &Token) -> bool {
    let (asked, spec) = (&resource.spec.token, &resource.spec);
    let status = resource.status.as_ref();
    let held = status.and_then(|status| status.token.as_ref());
    let named = asked.id.as_ref().is_some_and(|id| is_same(id, &token.id));
    named
        || held.is_some_and(|held| held.id == token.id)
        || asked.name.as_ref() == Some(&token.name) && spec.workspace_id == workspace
}
