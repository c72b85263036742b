//! The closed list of `Ready=False` reasons: what each means, what the operator does, what you do.

use crate::text::line;
use std::fmt;

/// Longest message, characters.
const LONGEST_MESSAGE: usize = 1024;

/// Why a resource is not ready; users read it in `kubectl get wtr` and build alerts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "every variant is explained by its row in EXPLANATIONS"
)]
pub enum Reason {
    AwaitingFirstRotation,
    ClusterChanged,
    Contested,
    CredentialsMissing,
    CredentialsNotAllowed,
    CredentialsRejected,
    Forbidden,
    InvalidSpec,
    OrganizationUnknown,
    RotatedElsewhere,
    RotationInDoubt,
    ScheduleTooFrequent,
    SecretNotOurs,
    SelfRotation,
    TargetConflict,
    TargetImmutable,
    TargetRefused,
    TargetTypeDiffers,
    TemplateFailed,
    TokenAmbiguous,
    TokenConflict,
    TokenExpired,
    TokenNeverExpires,
    TokenNotFound,
    ValueLost,
    ValueNotStored,
    VendorUnavailable,
    WrongScope,
    WrongWorkspace,
}

/// One row of the documentation.
pub struct Explanation {
    /// The reason.
    pub reason: Reason,
    /// What it means.
    pub meaning: &'static str,
    /// What the operator does about it.
    pub operator: &'static str,
    /// What you do about it.
    pub remedy: &'static str,
}

/// Reason of `Ready=True`.
pub const LIVE: &str = "Live";

const fn row(
    reason: Reason,
    meaning: &'static str,
    operator: &'static str,
    remedy: &'static str,
) -> Explanation {
    Explanation {
        reason,
        meaning,
        operator,
        remedy,
    }
}

const RETRIES: &str = "Looks again by itself, at first after seconds, then every few minutes.";

/// Every reason, in alphabetical order; README's table is made from it.
pub const EXPLANATIONS: &[Explanation] = &[
    row(
        Reason::AwaitingFirstRotation,
        "The Secret holds no value yet.",
        "Rotates as soon as nothing stands in the way.",
        "Wait; when `suspend` is set, unset it.",
    ),
    row(
        Reason::ClusterChanged,
        "The Secret was written by an operator in another cluster: a restore or a clone.",
        "Nothing: rotating here would kill the value the other cluster uses.",
        "If this cluster shall own the token now, annotate the Secret with `astro-token-operator.io/adopt: <resource name>`.",
    ),
    row(
        Reason::Contested,
        "Somebody else rotated the token twice within 24 hours.",
        "Stops reclaiming until 24 hours after its last reclaim.",
        "Find who else rotates this token and stop one of the two.",
    ),
    row(
        Reason::CredentialsMissing,
        "The Secret or key of `credentials.secretRef` does not exist or is empty.",
        RETRIES,
        "Create the Secret with a Workspace Owner's API token.",
    ),
    row(
        Reason::CredentialsNotAllowed,
        "The resource names no credentials, and the operator's own may not be used in this namespace.",
        RETRIES,
        "Set `credentials.secretRef`, or ask for the namespace in `--default-credentials-namespaces`.",
    ),
    row(
        Reason::CredentialsRejected,
        "The vendor does not accept the credential (401): expired, deleted, rotated away or malformed.",
        RETRIES,
        "Put a valid API token into the credentials Secret.",
    ),
    row(
        Reason::Forbidden,
        "The credential may not manage this token (403).",
        RETRIES,
        "Use a credential with the role Workspace Owner in the token's Workspace.",
    ),
    row(
        Reason::InvalidSpec,
        "A field of the spec has no usable value.",
        "Nothing until the spec changes.",
        "Mend the field the message names.",
    ),
    row(
        Reason::OrganizationUnknown,
        "Neither spec, operator nor credential names the Organization.",
        RETRIES,
        "Set `organizationId`, or `--organization-id` of the operator.",
    ),
    row(
        Reason::RotatedElsewhere,
        "Somebody else rotated the token; the Secret's value is dead.",
        "With `externalRotation: Report` or while suspended: nothing. Else it reclaims the token.",
        "Request a rotation with the annotation `astro-token-operator.io/rotate`, or set `externalRotation: Reclaim`.",
    ),
    row(
        Reason::RotationInDoubt,
        "The vendor was called and its answer did not arrive: the Secret's value may be dead.",
        "Waits until the call can no longer land, asks the vendor what happened, and rotates again where needed.",
        "Wait; if it lasts, look at the vendor's health.",
    ),
    row(
        Reason::ScheduleTooFrequent,
        "The schedule leaves less than the minimum interval between two rotations.",
        "Nothing until the spec changes.",
        "Rotate less often (minimum 5 minutes, `--minimum-interval`).",
    ),
    row(
        Reason::SecretNotOurs,
        "The target Secret, or its key, belongs to somebody else.",
        "Never touches it. Looks again by itself.",
        "Choose another `target.name`, or give it away: annotate it with `astro-token-operator.io/adopt: <resource name>`.",
    ),
    row(
        Reason::SelfRotation,
        "The token to rotate is the very credential the operator would call the vendor with.",
        "Nothing: a lost answer would lock it out.",
        "Use another credential.",
    ),
    row(
        Reason::TargetConflict,
        "An older resource writes the same Secret.",
        "Makes no call; takes over at once when the other goes.",
        "Choose another `target.name`, or delete one of the two.",
    ),
    row(
        Reason::TargetImmutable,
        "The target Secret is immutable.",
        "Rotates nothing. Looks again by itself.",
        "Delete the Secret or choose another `target.name`.",
    ),
    row(
        Reason::TargetRefused,
        "The API server refuses to store the Secret: permission, quota, admission or namespace.",
        "Found out by a rehearsal, before anything is rotated. Looks again by itself.",
        "Mend what the message names.",
    ),
    row(
        Reason::TargetTypeDiffers,
        "The Secret exists with another type than `target.type`.",
        "Rotates nothing. Looks again by itself.",
        "Set `target.type` to the Secret's type, or delete the Secret.",
    ),
    row(
        Reason::TemplateFailed,
        "A template of `target.template` does not render.",
        "Nothing until the spec changes.",
        "Mend the template the message names.",
    ),
    row(
        Reason::TokenAmbiguous,
        "Several Workspace tokens have the name.",
        RETRIES,
        "Use `token.id`; the message lists the ids.",
    ),
    row(
        Reason::TokenConflict,
        "An older resource rotates the same token.",
        "Makes no call; takes over at once when the other goes, or cannot work on the token and never did.",
        "Delete one of the two.",
    ),
    row(
        Reason::TokenExpired,
        "The token has expired, and rotating does not extend it.",
        RETRIES,
        "Create a new token and name it in the spec; rotate before expiry with `schedule.beforeExpiry`.",
    ),
    row(
        Reason::TokenNeverExpires,
        "`beforeExpiry` is the only rule and the token has no expiry.",
        "Nothing until the spec changes.",
        "Add `schedule.every` or `schedule.cron`.",
    ),
    row(
        Reason::TokenNotFound,
        "No Workspace token of that name or id can be seen with the credential.",
        RETRIES,
        "Check `token`, `workspaceId` and the credential's Workspace.",
    ),
    row(
        Reason::ValueLost,
        "A value was issued and lost before it was stored; the Secret's value is dead.",
        "Rotates once more as soon as it may.",
        "Wait; when `suspend` is set, unset it.",
    ),
    row(
        Reason::ValueNotStored,
        "The new value is in the operator's memory, and the API server refuses to store it.",
        "Tries again for as long as the process lives; if it dies, rotates once more.",
        "Mend what the message names. Do not restart the operator.",
    ),
    row(
        Reason::VendorUnavailable,
        "A rotation is due and the vendor cannot be reached or does not answer properly.",
        "Tries again with growing pauses; nothing was changed.",
        "Check the network, `--api-url` and the vendor's status page.",
    ),
    row(
        Reason::WrongScope,
        "The token is not a standard API token of WORKSPACE scope.",
        RETRIES,
        "Name a Workspace API token.",
    ),
    row(
        Reason::WrongWorkspace,
        "The token has no role in `workspaceId`.",
        RETRIES,
        "Correct `workspaceId` or `token`.",
    ),
];

impl Reason {
    /// The reason of this name, as it stands in a condition.
    pub fn from_name(name: &str) -> Option<Self> {
        EXPLANATIONS
            .iter()
            .map(|row| row.reason)
            .find(|reason| reason.to_string() == name)
    }

    /// Its row of the documentation.
    pub fn explain(self) -> &'static Explanation {
        &EXPLANATIONS[self as usize]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A reason with the facts of the case, as it stands in `Ready=False`.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// The reason.
    pub reason: Reason,
    /// What exactly, and what to do.
    pub message: String,
}

impl Blocked {
    /// A reason with its message, of which others wrote parts: bounded, on one line, without invisible characters.
    pub fn new(reason: Reason, message: impl AsRef<str>) -> Self {
        Self {
            reason,
            message: line(message.as_ref(), LONGEST_MESSAGE),
        }
    }
}

/// The list as a Markdown table.
pub fn markdown() -> String {
    let mut table = String::from(
        "| reason | what it means | what the operator does | what you do |\n|---|---|---|---|\n",
    );
    for row in EXPLANATIONS {
        table.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            row.reason, row.meaning, row.operator, row.remedy
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_in_its_own_row() {
        for (index, row) in EXPLANATIONS.iter().enumerate() {
            assert_eq!(row.reason as usize, index, "{} is out of order", row.reason);
        }
        assert_eq!(EXPLANATIONS.len(), Reason::WrongWorkspace as usize + 1);
    }
}
