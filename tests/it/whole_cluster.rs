//! An operator that works in a whole cluster, and may list and watch Secrets: the most that it may see.

#[path = "bad_input.rs"]
mod bad_input;
#[path = "rotation.rs"]
mod rotation;

use crate::stage::{Mode, Shared, Stage};

/// No audit helps: what happens here happens because a watch or a schedule says so.
async fn patient() -> Stage {
    const FLAGS: &[&str] = &["--leader-election=false", "--audit-interval=1h"];
    static SHARED: Shared = Shared::of_cluster(Mode::CLUSTER, FLAGS);
    SHARED.stage().await
}

/// What happens at the vendor is noticed within seconds.
pub async fn audited() -> Stage {
    static SHARED: Shared = Shared::of_cluster(Mode::CLUSTER, &["--leader-election=false"]);
    SHARED.stage().await
}
