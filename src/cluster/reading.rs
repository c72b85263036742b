//! Resources, read as far as the caller may read them: in all namespaces, otherwise in some, otherwise by their names.

use super::decode::Item;
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
    /// Those that cannot be read, and why.
    pub unreadable: Vec<(Key, String)>,
    /// Why these are not all that there are.
    pub unseen: Option<String>,
}

impl Known {
    fn add(&mut self, found: impl IntoIterator<Item = Item<WorkspaceTokenRotation>>) {
        for item in found {
            let key = item.key();
            match item.object {
                Ok(resource) => self.all.push(resource),
                Err(why) => self.unreadable.push((key, why)),
            }
        }
    }
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
    let everywhere: Api<Item<WorkspaceTokenRotation>> = Api::all(client.clone());
    let mut known = Known::default();
    let refused = match everywhere.list(&params).await {
        Ok(list) => {
            known.add(list);
            return Ok(known);
        }
        Err(error) if is_refusal(&error) => error,
        Err(error) => return Err(error),
    };
    match in_namespaces(client, namespaces).await {
        Ok(known) => Ok(Known {
            unseen: Some(unseen("namespaces", &refused)),
            ..known
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
) -> kube::Result<Known> {
    let mut known = Known::default();
    for namespace in BTreeSet::from_iter(namespaces) {
        let api: Api<Item<WorkspaceTokenRotation>> = Api::namespaced(client.clone(), &namespace);
        known.add(api.list(&ListParams::default()).await?);
    }
    Ok(known)
}

async fn by_names(
    client: &Client,
    names: impl IntoIterator<Item = Key>,
    refused: kube::Error,
) -> kube::Result<Known> {
    let mut names = names.into_iter().peekable();
    if names.peek().is_none() {
        return Err(refused);
    }
    let mut known = Known {
        unseen: Some(unseen("resources", &refused)),
        ..Known::default()
    };
    for Key { namespace, name } in names {
        let api: Api<Item<WorkspaceTokenRotation>> = Api::namespaced(client.clone(), &namespace);
        known.add(api.get_opt(&name).await?);
    }
    Ok(known)
}

fn unseen(what: &str, refused: &kube::Error) -> String {
    let refused = api_error(refused, LONGEST_MESSAGE);
    format!("of other {what} nothing is known: {refused}")
}
