//! What a resource is told of another one with a better claim.

use super::known::Claim;
use super::record::Claimant;
use crate::reason::{Blocked, Reason};

/// What a rival keeps a resource from.
pub fn conflict(claim: Claim, rival: &Claimant, own: &Claimant) -> Blocked {
    let age = if rival < own { "older " } else { "" };
    let ((rivals, name), (namespace, _)) = (rival.names(), own.names());
    // The name of another tenant's namespace is not disclosed.
    let whose = match (rivals == namespace, age) {
        (true, age) => format!("the {age}resource {name}"),
        (false, "") => "a resource in another namespace".into(),
        (false, _) => "an older resource in another namespace".into(),
    };
    match claim {
        Claim::Secret(_) => Blocked::new(
            Reason::TargetConflict,
            format!(
                "{whose} writes the same Secret; choose another target.name or delete one of the two"
            ),
        ),
        Claim::TokenId(_) | Claim::TokenName { .. } => {
            let does = match age {
                "" => "has a value of the same token already",
                _ => "rotates the same token",
            };
            Blocked::new(
                Reason::TokenConflict,
                format!("{whose} {does}; delete one of the two"),
            )
        }
    }
}
