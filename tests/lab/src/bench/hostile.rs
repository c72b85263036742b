//! Objects of a tenant who means harm: what they do to memory and to a neighbour.

use std::time::Duration;

use super::model::Model;
use super::shape::Shape;
use super::site::Site;

/// What one kind of them did.
pub struct Attack {
    /// What they were.
    pub what: String,
    /// The most memory that the operator had resident, bytes.
    pub most_resident: u64,
    /// Whether it was killed because of the shipped limit.
    pub killed: bool,
    /// What neighbours waited.
    pub neighbours: Vec<Duration>,
}

/// Measures all of them.
///
/// # Errors
/// When something cannot be set up.
pub async fn measure(
    _site: &Site,
    _model: &Model,
    _kind: (usize, Shape),
    _attacks: &mut Vec<Attack>,
) -> anyhow::Result<()> {
    anyhow::bail!("not measured")
}
