//! A value that is in the cluster already, written anew: under another name or key, with other labels, or taken over.

use crate::astro::credential::Credential;
use crate::cluster::error::Error;
use crate::cluster::secret::{self, Draft};
use crate::decide::evidence::{Held, Observed, Stored};
use crate::decide::notice::Notice;
use crate::decide::plan::Setback;
use crate::decide::stamp::Stamp;
use crate::decide::tries::Came;
use crate::operator::handles::Handles;
use kube::ResourceExt;
use secrecy::ExposeSecret;

/// What came of a rewrite.
pub(crate) enum Rewrite {
    /// It is written, and this is the evidence as stored, and what a person should hear of it.
    Done(Box<Held>, Notice),
    /// It is not, or not for long.
    Tried(Came),
    /// Another party came before, or there was no verdict.
    Failed(Setback),
}

/// Writes the target Secret from the value that `from` is the evidence of.
pub(crate) async fn rewrite(handles: &Handles, seen: &Observed, from: &Held) -> Rewrite {
    let done = notice(seen, from);
    match write(handles, seen, from).await {
        Ok(Some(held)) => Rewrite::Done(Box::new(held), done),
        Ok(None) => Rewrite::Tried(Came::NoValue),
        Err(Error::Changed(blocked)) => Rewrite::Tried(Came::Changed(blocked)),
        // A Secret that is being deleted refuses nothing for long.
        Err(Error::Refused(blocked)) if !blocked.reason.passes() => {
            Rewrite::Tried(Came::Refused(blocked))
        }
        Err(error) => Rewrite::Failed(error.into()),
    }
}

/// The evidence as stored; `None`: there is no value that could be written.
async fn write(handles: &Handles, seen: &Observed, from: &Held) -> Result<Option<Held>, Error> {
    let client = &handles.client;
    let resource = &seen.resource;
    let target = &resource.spec.target;
    let (secret, key) = (&from.secret, &from.stamp.key);
    let found = secret::value(client, resource, secret, key, secret::LONGEST).await?;
    let Some((content, version)) = found else {
        return Ok(None);
    };
    // The evidence is of the Secret as it was seen; a newer one may hold another value.
    if version != from.resource_version {
        return Err(Error::Raced);
    }
    // Consumers get the exact value, whatever a file or a person has put around it.
    let Ok(value) = Credential::adopt(content.expose_secret()) else {
        return Ok(None);
    };
    let draft = Draft {
        owner: resource,
        name: target.name.clone(),
        stamp: Stamp {
            owner: resource.name_any(),
            key: target.key().into(),
            cluster: seen.settings.cluster.clone(),
            ..from.stamp.clone()
        },
        resource_version: match from.secret == target.name {
            true => version,
            false => seen.stored.resource_version(),
        },
        replaces: None,
        force: true,
    };
    // What a policy makes of it is found out while the value is still there.
    secret::rehearse(client, &draft).await?;
    let held = secret::write((client, &handles.secrets), &draft, value.value()).await?;
    Ok(Some(held))
}

/// What a person should hear of it once it is done.
fn notice(seen: &Observed, from: &Held) -> Notice {
    let target = &seen.resource.spec.target.name;
    let (reason, message) = match &seen.stored {
        Stored::Consented { .. } => (
            "Adopted",
            format!("Secret {target} was taken over with its live value"),
        ),
        _ if from.secret != *target => (
            "Moved",
            format!(
                "the live value was copied from Secret {} to {target}; the former is no longer kept up and may be deleted",
                from.secret
            ),
        ),
        Stored::Holds(held) if from.stamp.fence != held.stamp.fence => (
            "Rewritten",
            format!(
                "Secret {target} was marked, so that the value of an earlier rotation, which was lost, cannot be stored in it any \
                 more; its value stays"
            ),
        ),
        _ => (
            "Rewritten",
            format!("Secret {target} was brought in line with the spec; its value stays"),
        ),
    };
    Notice {
        reason: reason.into(),
        message,
        action: "Rewrite".into(),
        rotation_id: None,
        warning: false,
    }
}
