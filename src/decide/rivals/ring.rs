//! Resources whose credentials are each other's values.

use super::Claims;
use super::known::{Claim, Known};
use super::record::Record;
use crate::api::WorkspaceTokenRotation;

/// Most steps that are followed: nobody chains credentials farther.
const MOST: usize = 64;

impl Claims {
    /// Whether the credential of a resource is the value of another one, whose credential is that of a third one, and so on until
    /// its own, with one token each. Were two of their rotations cut off, none of the credentials would be valid any more. One of
    /// them with two tokens makes it safe, because its value is valid all the time.
    pub fn is_in_ring(&self, resource: &WorkspaceTokenRotation) -> bool {
        let Some((_, first)) = self.find(resource) else {
            return false;
        };
        let mut one = first;
        for _ in 0..MOST {
            let writer = one.credential.filter(|_| !one.takes_turns());
            match writer.and_then(|secret| self.writer(Claim::Secret(secret))) {
                Some(writer) if std::ptr::eq(writer, first) => return true,
                Some(writer) => one = writer,
                None => return false,
            }
        }
        false
    }

    /// Of the resources with a claim to a Secret the oldest, which is the one that writes it.
    fn writer(&self, secret: Claim) -> Option<&Known> {
        let all = self.with(secret).map(|(_, record)| record);
        let oldest: Option<&Record> = all.min_by(|one, other| one.claimant.cmp(&other.claimant));
        oldest.map(|record| &record.known)
    }
}
