//! Whether a new value could be stored, found out while there is none yet.

use super::write::{Draft, LONGEST_VALUE, apply, params};
use crate::cluster::error::Error;
use crate::reason::{Blocked, Reason};
use kube::Client;
use kube::api::PatchParams;
use secrecy::SecretString;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// Shortest stand-in for a value, bytes; vendor values have about a thousand.
const SHORTEST: usize = 8 * 1024;

/// Whether the new value could land at all: a dry run with a changed stand-in, same verb, same manager, and the answer is
/// what was sent.
///
/// # Errors
/// What stands in the way, before anything is rotated.
pub async fn rehearse(client: &Client, draft: &Draft<'_>) -> Result<(), Error> {
    let params = PatchParams {
        dry_run: true,
        ..params(draft)
    };
    let longest = LONGEST_VALUE.load(Ordering::Relaxed);
    let answer = apply(client, draft, &stand_in(SHORTEST.max(2 * longest)), &params).await;
    let answer = answer.map_err(|error| match error {
        // Nothing was written: it was a dry run.
        Error::Changed(blocked) => Error::Refused(blocked),
        error => error,
    })?;
    // What was read as absent is there by now: only a Secret that is stored has a version.
    let version = answer.pointer("/metadata/resourceVersion");
    if draft.resource_version.is_none() && version.is_some() {
        return Err(Error::Raced);
    }
    if answer.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(Error::Refused(Blocked::new(
            Reason::TargetTerminating,
            format!(
                "Secret {} is being deleted, and waits for its finalizers; the value is written once it is gone",
                draft.name
            ),
        )));
    }
    Ok(())
}

/// What looks like a value, and is at least as long as any: policies may refuse what looks so, and quotas what is so long.
///
/// Random, because a value equal to a foreign one would pass as co-owned; of data, because an immutable Secret lets a
/// change of metadata pass.
fn stand_in(length: usize) -> SecretString {
    let random = || Uuid::new_v4().simple().to_string();
    let signature = random().repeat(length / 32 + 1);
    format!("eyJ{}.eyJ{}.{signature}", random(), random()).into()
}
