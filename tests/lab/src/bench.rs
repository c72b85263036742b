//! What `make bench` measures, and how: the operator at work and at rest, beside a bare client on the same servers.

pub mod encrypted;
pub mod figures;
pub mod fleet;
pub mod floor;
pub mod herd;
pub mod hostile;
pub mod limits;
pub mod lists;
pub mod measure;
pub mod memory;
pub mod model;
pub mod neighbour;
pub mod peer;
pub mod report;
pub mod runs;
pub mod settle;
pub mod shape;
pub mod single;
pub mod site;
pub mod start;
pub mod text;
pub mod watching;

use jiff::Timestamp;

/// This machine's clock: due times are set by it and held against it.
#[expect(
    clippy::disallowed_methods,
    reason = "what is measured are times of the clock"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
