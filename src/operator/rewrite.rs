//! A value that is in the cluster already, written anew: under another name or key, with other labels, or taken over.

use crate::astro::credential::Credential;
use crate::cluster::secret::{self, Draft};
use crate::decide::evidence::{Held, Observed, Stored};
use crate::decide::notice::Notice;
use crate::decide::plan::Setback;
use crate::decide::stamp::Stamp;
use kube::{Client, ResourceExt};
use secrecy::ExposeSecret;

/// Writes the target Secret from the value that `from` is the evidence of; returns the evidence as stored.
///
/// # Errors
/// What kept it from being done; nothing was written then.
pub(crate) async fn rewrite(
    client: &Client,
    seen: &Observed,
    from: &Held,
) -> Result<(Held, Notice), Setback> {
    let done = notice(seen, from);
    let resource = &seen.resource;
    let target = &resource.spec.target;
    let found = secret::value(client, resource, &from.secret, &from.stamp.key).await?;
    let Some((content, version)) = found else {
        return Err(Setback::Raced);
    };
    // Consumers get the exact value, whatever a file or a person has put around it.
    let Ok(value) = Credential::adopt(content.expose_secret()) else {
        return Err(Setback::Raced);
    };
    // The evidence is of the Secret as it was seen; a newer one may hold another value.
    if version != from.resource_version {
        return Err(Setback::Raced);
    }
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
    let held = secret::write(client, &draft, value.value()).await?;
    Ok((held, done))
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
