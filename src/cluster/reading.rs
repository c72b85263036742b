//! Resources, read as far as the caller may read them: in all namespaces, otherwise in some, otherwise by their names.

use super::error::LONGEST_MESSAGE;
use crate::api::{Key, WorkspaceTokenRotation};
use crate::text::api_error;
use kube::api::ListParams;
use kube::{Api, Client};
use std::collections::BTreeSet;

/// What could be read.
#[derive(Default)]
pub struct Known {
    /// The resources.
    pub all: Vec<WorkspaceTokenRotation>,
    /// Why these are not all that there are.
    pub unseen: Option<String>,
}

/// All resources; where they may not be listed, those of `namespaces`; where these may not be listed either, those of
/// `names`.
///
/// # Errors
/// The refusal when none of that is allowed, and whatever else is not an answer.
pub async fn resources(
    client: &Client,
    namespaces: impl IntoIterator<Item = String>,
    names: impl IntoIterator<Item = Key>,
) -> kube::Result<Known> {
    let params = ListParams::default();
    let everywhere: Api<WorkspaceTokenRotation> = Api::all(client.clone());
    let refused = match everywhere.list(&params).await {
        Ok(list) => {
            return Ok(Known {
                all: list.items,
                unseen: None,
            });
        }
        Err(error) if is_refusal(&error) => error,
        Err(error) => return Err(error),
    };
    match in_namespaces(client, namespaces).await {
        Ok(all) => Ok(Known {
            all,
            unseen: Some(unseen("namespaces", &refused)),
        }),
        Err(refused) if is_refusal(&refused) => by_names(client, names, refused).await,
        Err(error) => Err(error),
    }
}

/// Whether the API server says no.
pub fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn in_namespaces(
    client: &Client,
    namespaces: impl IntoIterator<Item = String>,
) -> kube::Result<Vec<WorkspaceTokenRotation>> {
    let mut all = Vec::new();
    for namespace in BTreeSet::from_iter(namespaces) {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(client.clone(), &namespace);
        all.extend(api.list(&ListParams::default()).await?.items);
    }
    Ok(all)
}

async fn by_names(
    client: &Client,
    names: impl IntoIterator<Item = Key>,
    refused: kube::Error,
) -> kube::Result<Known> {
    let (mut all, mut names) = (Vec::new(), names.into_iter().peekable());
    if names.peek().is_none() {
        return Err(refused);
    }
    for Key { namespace, name } in names {
        let api: Api<WorkspaceTokenRotation> = Api::namespaced(client.clone(), &namespace);
        all.extend(api.get_opt(&name).await?);
    }
    Ok(Known {
        all,
        unseen: Some(unseen("resources", &refused)),
    })
}

fn unseen(what: &str, refused: &kube::Error) -> String {
    let refused = api_error(refused, LONGEST_MESSAGE);
    format!("of other {what} nothing is known: {refused}")
}
