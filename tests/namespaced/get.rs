//! Without list and watch of Secrets: the least that is possible.

#[path = "../bad_input/suite.rs"]
mod bad_input;
#[path = "../rotation/suite.rs"]
mod rotation;

const MODE: crate::stage::Mode = crate::stage::Mode::NAMESPACES_GET;
