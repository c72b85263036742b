//! An operator that works in some namespaces, without list and watch of Secrets: the least that it may see.

#[path = "bad_input.rs"]
mod bad_input;
#[path = "rotation.rs"]
mod rotation;

use crate::stage::{Mode, Shared, Stage};

/// As many as both suites have tests, and one more.
const NAMESPACES: usize = 34;

/// What befalls a Secret is noticed by an audit alone.
async fn patient() -> Stage {
    audited().await
}

async fn audited() -> Stage {
    const FLAGS: &[&str] = &["--leader-election=false"];
    static SHARED: Shared = Shared::of_namespaces(Mode::NAMESPACES_GET, FLAGS, NAMESPACES);
    SHARED.stage().await
}
