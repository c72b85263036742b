//! A herd with Astro over TLS, for what that adds to the operator's processor time: it has a connection of its own for each
//! rotation.

use std::time::Duration;

use super::herd::{self, Herd};
use super::model::Model;
use super::settle;
use super::shape::Shape;
use super::site::{Pace, Site};
use super::start;

const LEAD: Duration = Duration::from_secs(60);
const NAME: &str = "encrypted";

/// Has so many resources rotated at once.
///
/// # Errors
/// When that does not come about.
pub async fn measure(site: &mut Site, model: &Model, kind: (usize, Shape)) -> anyhow::Result<Herd> {
    let (fleet, due) = settle::create(site, model, NAME, kind, LEAD).await?;
    site.encrypt().await?;
    let (_, operator, _cage) = start::measure(site, kind.0, Pace::Unlimited).await?;
    let herd = herd::measure(site, &fleet, due, &operator, None).await;
    operator.kill().await?;
    herd
}
