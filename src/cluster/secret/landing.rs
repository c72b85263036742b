//! Stores a value that exists nowhere else.

use super::write::{Draft, api, write};
use crate::cluster::decode::Item;
use crate::cluster::error::Error;
use crate::decide::evidence::{Held, Stored};
use crate::decide::managed::Metadata;
use crate::decide::ownership;
use crate::decide::pace::Pace;
use crate::decide::version::Drift;
use backon::{BackoffBuilder, ExponentialBuilder};
use kube::{Client, ResourceExt};
use secrecy::SecretString;

/// How a value was got rid of.
pub enum Landed {
    /// It is in the Secret.
    Stored(Box<Held>),
    /// The Secret already holds another one, which is not older: another process went on without us, and the vendor's
    /// record tells which one is live.
    Superseded,
    /// The namespace is gone, and with it all that could use the value.
    NoPlace,
}

/// Stores a value that exists nowhere else: tries for as long as the process lives.
///
/// `fresh` says that the draft's resourceVersion was read just now; otherwise the Secret is read again first, so that a
/// process that was paused does not overwrite the work of the one that took over. A Secret that was not there is read
/// again in any case: it may be another party's by now.
pub async fn land(
    client: &Client,
    mut draft: Draft<'_>,
    value: &SecretString,
    mut fresh: bool,
    pace: &Pace,
    mut failing: impl FnMut(&Error),
) -> Landed {
    let secrets = api(client, draft.owner);
    let read = |found: Option<Item<Metadata>>| found.map(Item::read).transpose();
    let name = draft.name.clone();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(pace.write_retry)
        .with_max_delay(pace.write_longest_retry)
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        let place = match fresh && draft.resource_version.is_some() {
            true => Place::Free,
            false => match secrets.get_opt(&name).await.and_then(read) {
                Ok(found) => {
                    draft.force = found.is_some();
                    draft.resource_version = found.as_ref().and_then(ResourceExt::resource_version);
                    found.map_or(Place::Free, |found| place(&found, &draft))
                }
                // The write itself will tell.
                Err(_) => Place::Free,
            },
        };
        fresh = false;
        let outcome = match place {
            Place::Free => write(client, &draft, value).await,
            Place::Foreign(error) => Err(error),
            Place::Taken => return Landed::Superseded,
        };
        match outcome {
            Ok(held) => return Landed::Stored(Box::new(held)),
            Err(Error::Raced) => tokio::time::sleep(pace.write_retry).await,
            Err(Error::Unavailable(kube::Error::Api(status)))
                if status.code == 404 && draft.resource_version.is_none() =>
            {
                return Landed::NoPlace;
            }
            Err(error) => {
                failing(&error);
                let pause = pauses.next().unwrap_or(pace.write_longest_retry);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// What a Secret that was read again is to a value in hand.
enum Place {
    /// The value may be written there.
    Free,
    /// It holds a value that is not known to be older.
    Taken,
    /// It is another party's.
    Foreign(Error),
}

fn place(found: &Metadata, draft: &Draft<'_>) -> Place {
    let cluster = &draft.stamp.cluster;
    match ownership::read(found, draft.owner, cluster, |_| true) {
        Stored::Foreign(blocked) => Place::Foreign(Error::Refused(blocked)),
        Stored::Absent { .. } | Stored::Consented { .. } => Place::Free,
        Stored::Holds(held) | Stored::Unread(held) => {
            let (theirs, ours) = (&held.stamp, &draft.stamp);
            let is_planned = draft.replaces.as_ref() == Some(theirs);
            let is_older = theirs.token_id == ours.token_id
                && ours.compare(&theirs.version) == Drift::StoredNewer;
            match is_planned || is_older {
                true => Place::Free,
                false => Place::Taken,
            }
        }
    }
}
