//! The closed list of reasons for what is not as it should be: what each means, what the operator does, what you do.

use crate::text::line;
use std::fmt;

/// Longest message, characters.
const LONGEST_MESSAGE: usize = 1024;

/// Why a resource is not ready, or why its next rotation cannot happen; users read it in `kubectl get wtr` and build alerts on it.
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
    KubernetesUnavailable,
    OrganizationUnknown,
    PreviousInUse,
    RotatedElsewhere,
    RotationInDoubt,
    ScheduleTooFrequent,
    SecretNotOurs,
    SelfRotation,
    TargetConflict,
    TargetImmutable,
    TargetRefused,
    TargetTerminating,
    TargetTypeDiffers,
    TargetUnstable,
    TemplateFailed,
    TokenAmbiguous,
    TokenConflict,
    TokenExpired,
    TokenNeverExpires,
    TokenNotFound,
    TooManyRotations,
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

const RETRIES: &str = "Checks again automatically, at first after seconds, then every few minutes.";

/// Every reason, in alphabetical order; README's table is made from it.
pub const EXPLANATIONS: &[Explanation] = &[
    row(
        Reason::AwaitingFirstRotation,
        "The Secret holds no value yet.",
        "Rotates as soon as nothing prevents it.",
        "Wait. If `suspend` is set, unset it.",
    ),
    row(
        Reason::ClusterChanged,
        "The Secret was written by an operator in another cluster, as after a restore or a clone.",
        "Nothing: rotating here would invalidate the value that the other cluster uses.",
        "If this cluster should own the token now, annotate the Secret with `astro-token-operator.io/adopt: <resource name>`, and with another text after the name, such as `/2`, if that was used before.",
    ),
    row(
        Reason::Contested,
        "Another party rotated the token twice within 24 hours.",
        "Does not reclaim the token again until 24 hours after the last time.",
        "Find the other party that rotates this token, and stop one of the two.",
    ),
    row(
        Reason::CredentialsMissing,
        "The Secret or the key in `credentials.secretRef` does not exist or is empty.",
        RETRIES,
        "Create the Secret with a Workspace Owner API token.",
    ),
    row(
        Reason::CredentialsNotAllowed,
        "The resource names no credentials, and the operator's own credential may not be used in this namespace for this Workspace.",
        RETRIES,
        "Set `credentials.secretRef`, or ask the cluster administrator to add the namespace with the Workspace to `--default-credentials-namespaces`.",
    ),
    row(
        Reason::CredentialsRejected,
        "Astro rejects the credential (401): it has expired, was deleted or rotated, or is malformed.",
        RETRIES,
        "Put a valid API token into the Secret with the credentials.",
    ),
    row(
        Reason::Forbidden,
        "The credential is not allowed to manage this token (403).",
        RETRIES,
        "Use a credential that has the role Workspace Owner in the token's Workspace, or Organization Owner.",
    ),
    row(
        Reason::InvalidSpec,
        "A field of the spec is invalid.",
        "Nothing until the spec is changed.",
        "Fix the field named in the message.",
    ),
    row(
        Reason::KubernetesUnavailable,
        "The API server, or a webhook that it has to ask, does not answer properly, or the resource changes faster than it can be worked on.",
        "Rotates nothing. Retries with growing pauses.",
        "Repair what the message names, often a webhook that is down.",
    ),
    row(
        Reason::OrganizationUnknown,
        "The Organization is named neither by the spec, nor by the operator, nor by the credential.",
        RETRIES,
        "Set `organizationId`, or the operator's flag `--organization-id`.",
    ),
    row(
        Reason::PreviousInUse,
        "Of two tokens, the value that the Secret held before is still used, and a rotation that is due would end it.",
        "Waits until the value was not used for `schedule.waitForPrevious`, at most that long after the due time.",
        "Find the consumers that have not read the Secret since the last rotation, and restart them.",
    ),
    row(
        Reason::RotatedElsewhere,
        "Another party rotated the token, so the value in the Secret is no longer valid.",
        "Nothing with `externalRotation: Report` or while suspended. Otherwise it reclaims the token by rotating it once more.",
        "Request a rotation with the annotation `astro-token-operator.io/rotate`, or set `externalRotation: Reclaim`.",
    ),
    row(
        Reason::RotationInDoubt,
        "Astro was called and its answer did not arrive, so the value in the Secret may no longer be valid.",
        "Waits until the call can no longer take effect, asks Astro what happened, and rotates again if needed.",
        "Wait; if it does not end, check the status of Astro.",
    ),
    row(
        Reason::ScheduleTooFrequent,
        "The schedule asks for rotations closer together than the minimum interval.",
        "Nothing until the spec is changed.",
        "Rotate less often. The minimum is 5 minutes, or what the operator's flag `--minimum-interval` says.",
    ),
    row(
        Reason::SecretNotOurs,
        "The target Secret, or its key, belongs to another owner.",
        "Does not touch it, and checks again automatically.",
        "Choose another `target.name`, or let the operator take the Secret over: annotate it with `astro-token-operator.io/adopt: <resource name>`.",
    ),
    row(
        Reason::SelfRotation,
        "The token to rotate is the credential that the operator would call Astro with.",
        "Nothing: if the answer were lost, the operator would be locked out.",
        "Use another credential.",
    ),
    row(
        Reason::TargetConflict,
        "An older resource writes to the same Secret.",
        "Makes no call, and takes over as soon as the other resource is deleted.",
        "Choose another `target.name`, or delete one of the two resources.",
    ),
    row(
        Reason::TargetImmutable,
        "The target Secret is immutable.",
        "Does not rotate, and checks again automatically.",
        "Delete the Secret, or choose another `target.name`.",
    ),
    row(
        Reason::TargetRefused,
        "The API server refuses to store the Secret, because of a permission, a quota, an admission policy or the namespace.",
        "Does not rotate: a dry run of the write fails first. Checks again automatically.",
        "Fix what the message names.",
    ),
    row(
        Reason::TargetTerminating,
        "The target Secret is being deleted, and a finalizer keeps it for now.",
        "Does not write into it. Writes the value once the Secret is gone.",
        "Wait. If it does not end, remove the finalizer that the Secret's metadata names.",
    ),
    row(
        Reason::TargetTypeDiffers,
        "The Secret exists, and its type is not `target.type`.",
        "Does not rotate, and checks again automatically.",
        "Set `target.type` to the Secret's type, or delete the Secret.",
    ),
    row(
        Reason::TargetUnstable,
        "The value in the target Secret is deleted again and again, or what the operator writes beside it is undone.",
        "Replaces a deleted value by a rotation, with growing pauses: at once, then after 1, 5, 15 and 60 minutes, then every 6 hours. Writes the rest again, after 30 seconds at first and later every 30 minutes, with the value that is there, which stays valid.",
        "Find who deletes or changes the Secret, and stop that. The message names the field, and who wrote it where that is known.",
    ),
    row(
        Reason::TemplateFailed,
        "A template in `target.template` cannot be rendered.",
        "Nothing until the spec is changed.",
        "Fix the template named in the message.",
    ),
    row(
        Reason::TokenAmbiguous,
        "Several Workspace tokens have this name.",
        RETRIES,
        "Use `token.id`; the message lists the ids.",
    ),
    row(
        Reason::TokenConflict,
        "Another resource has stored a value of the same token, or, while none has, an older one rotates it.",
        "Makes no call, and takes over as soon as the other resource is deleted, or if that one has stored no value and does not show within a minute that it can rotate the token.",
        "Delete one of the two resources.",
    ),
    row(
        Reason::TokenExpired,
        "The token has expired, and rotating it does not renew it.",
        RETRIES,
        "Create a new token and name it in the spec; to rotate before it expires, set `schedule.beforeExpiry`.",
    ),
    row(
        Reason::TokenNeverExpires,
        "`beforeExpiry` is the only rule of the schedule, and the token does not expire.",
        "Nothing until the spec is changed.",
        "Add `schedule.every` or `schedule.cron`.",
    ),
    row(
        Reason::TokenNotFound,
        "The credential cannot see a token of the scope with this name or id.",
        RETRIES,
        "Check `token`, `workspaceId` or `token.deploymentId`, and the Workspace of the credential.",
    ),
    row(
        Reason::TooManyRotations,
        "The token was rotated as often as is allowed for now, requests and recoveries included.",
        "Rotates again at the time in the message: at most 3 times within the minimum interval, and 10 requests within 12 minimum intervals, which is an hour by default.",
        "Wait. Find who requests so many rotations.",
    ),
    row(
        Reason::ValueLost,
        "A new value was issued and lost before it was stored, so the value in the Secret is no longer valid.",
        "Rotates once more as soon as it is allowed to; after several in a row with growing pauses.",
        "Wait. If `suspend` is set, unset it.",
    ),
    row(
        Reason::ValueNotStored,
        "The new value is only in the operator's memory, because the API server does not store it.",
        "Retries for as long as the process runs. If the process ends first, rotates once more.",
        "Fix what the message names. Do not restart the operator.",
    ),
    row(
        Reason::VendorUnavailable,
        "A rotation is due, and Astro cannot be reached, does not answer properly, or answers with old records.",
        "Retries with growing pauses. Nothing was changed.",
        "Check the network, the operator's flag `--api-url` and the status page of Astro.",
    ),
    row(
        Reason::WrongScope,
        "The token is not a standard API token of the scope in `token.scope`, or it is for another Deployment.",
        RETRIES,
        "Fix `token`. `token.scope` is `Workspace` when absent.",
    ),
    row(
        Reason::WrongWorkspace,
        "The token has no role in `workspaceId`.",
        RETRIES,
        "Fix `workspaceId` or `token`.",
    ),
];

impl Reason {
    /// The reason with this name, as it appears in a condition.
    pub fn from_name(name: &str) -> Option<Self> {
        EXPLANATIONS
            .iter()
            .map(|row| row.reason)
            .find(|reason| reason.to_string() == name)
    }

    /// Whether `Ready` is false with it. With any other, `Ready` speaks of the stored value alone, and stays true while that
    /// is live.
    pub fn is_about_value(self) -> bool {
        matches!(
            self,
            Self::AwaitingFirstRotation
                | Self::ClusterChanged
                | Self::Contested
                | Self::RotatedElsewhere
                | Self::RotationInDoubt
                | Self::SecretNotOurs
                | Self::TargetConflict
                // Another resource may rotate the token at any time.
                | Self::TokenConflict
                | Self::TokenExpired
                | Self::ValueLost
                | Self::ValueNotStored
        )
    }

    /// Whether it is about a token, and so may be about another one than that of the stored value.
    pub fn is_about_token(self) -> bool {
        matches!(
            self,
            Self::Contested
                | Self::RotatedElsewhere
                | Self::RotationInDoubt
                | Self::TokenConflict
                | Self::TokenExpired
                | Self::TokenNotFound
                | Self::ValueLost
                | Self::ValueNotStored
        )
    }

    /// Whether the operator goes on by itself, which is `Reconciling`; otherwise a person has to act, which is `Stalled`.
    pub fn passes(self) -> bool {
        matches!(
            self,
            Self::AwaitingFirstRotation
                | Self::KubernetesUnavailable
                | Self::PreviousInUse
                | Self::RotatedElsewhere
                | Self::RotationInDoubt
                | Self::TargetTerminating
                | Self::TargetUnstable
                | Self::TooManyRotations
                | Self::ValueLost
                | Self::ValueNotStored
                | Self::VendorUnavailable
        )
    }

    /// Its row in the documentation.
    pub fn explain(self) -> &'static Explanation {
        &EXPLANATIONS[self as usize]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A reason with the details of the case, as it appears in a condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// The reason.
    pub reason: Reason,
    /// The details of the case.
    pub message: String,
}

impl Blocked {
    /// A reason with its message, parts of which come from others: bounded, on one line, without invisible characters.
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
