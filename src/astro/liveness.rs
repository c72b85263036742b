//! Whether a value is the live one of a token: the value itself is asked, where versions and records do not tell.

use crate::api::Scope;
use crate::astro::client::Astro;
use crate::astro::credential::Credential;
use crate::astro::error::{Error, Kind};
use crate::decide::entity::Entity;
use crate::decide::evidence::Token;
use crate::id::is_same;
use jiff::SignedDuration;

/// How much older than the last rotation a value may say it is: clocks differ.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(60);

impl Astro {
    /// Whether `candidate` is the live value of the token of `record`, which is for `entity`; at most three reads. What
    /// cannot be shown to be live is not.
    ///
    /// # Errors
    /// When there is no verdict for now.
    pub async fn is_live(
        &self,
        candidate: &Credential,
        organization: &str,
        entity: &Entity,
        record: &Token,
    ) -> Result<bool, Error> {
        let is_of_it = |id: &str| is_same(id, &record.id);
        if !candidate.own_token_id().is_some_and(is_of_it) {
            return Ok(false);
        }
        let itself = self.get(candidate, organization, &record.id).await;
        if let Some(verdict) = verdict(itself)? {
            return Ok(verdict);
        }
        // Astro answered 403 or 404, as it may to a value that is live and to one that is not. Each role in a Workspace
        // may read that.
        if entity.scope == Scope::Workspace {
            let workspace = self.workspace(candidate, organization, &entity.id).await;
            if let Ok(Some(verdict)) = verdict(workspace) {
                return Ok(verdict);
            }
        }
        // With a broken signature it is certainly no credential: if that gets the same answer, the answer tells nothing.
        let Some(broken) = candidate.with_broken_signature() else {
            return Ok(false);
        };
        let control = self.get(&broken, organization, &record.id).await;
        let tells_apart = verdict(control)? == Some(false);
        // A gateway may check signatures alone, and that of a value which was rotated away stays valid.
        let rotated = record.version.rotated_at.as_ref().map(|at| at.0);
        let is_older = match (candidate.issued(), rotated) {
            (Some(issued), Some(rotated)) => rotated.duration_since(issued) > CLOCKS_APART,
            _ => false,
        };
        Ok(tells_apart && !is_older)
    }
}

/// Live, or not, by Astro's own word; `None`: that word tells neither.
fn verdict<T>(answer: Result<T, Error>) -> Result<Option<bool>, Error> {
    match answer {
        Ok(_) => Ok(Some(true)),
        Err(error) => match error.kind() {
            Kind::CredentialRejected => Ok(Some(false)),
            Kind::Forbidden | Kind::NotFound => Ok(None),
            Kind::Unavailable => Err(error),
        },
    }
}
