//! As shipped against a vendor with the limits that it documents: how long a herd takes, and whether a call is one too many.

use std::time::Duration;

use super::herd::{self, Herd};
use super::model::Model;
use super::settle;
use super::shape::Shape;
use super::site::{Pace, Site};
use super::start;
use crate::astro::Limits;

/// At ten rotations a second they take a minute with one credential.
const MOST: usize = 600;
const LEAD: Duration = Duration::from_secs(60);
const NAME: &str = "limited";

/// A herd at the vendor's pace.
pub struct Limited {
    /// How it went.
    pub herd: Herd,
    /// Resources.
    pub tokens: usize,
    /// What the vendor's limit makes of it at the least.
    pub least: Duration,
}

/// Has resources with one credential rotated at once.
///
/// # Errors
/// When that does not come about.
pub async fn measure(site: &Site, model: &Model, tokens: usize) -> anyhow::Result<Limited> {
    let tokens = tokens.min(MOST);
    let kind = (tokens, Shape::OneWorkspace);
    let (fleet, due) = settle::create(site, model, NAME, kind, LEAD).await?;
    let limits = Limits::default();
    // The vendor lets as many pass at once as in a second.
    let least = Duration::from_secs(tokens as u64) / limits.post;
    let least = least.saturating_sub(Duration::from_secs(1));
    site.astro
        .settings(|settings| settings.limits = Some(limits));
    let (_, operator, _cage) = start::measure(site, tokens, Pace::Shipped).await?;
    let herd = herd::measure(site, &fleet, due, &operator, None).await;
    site.astro.settings(|settings| settings.limits = None);
    operator.kill().await?;
    Ok(Limited {
        herd: herd?,
        tokens,
        least,
    })
}
