//! With a watch of Secrets in each namespace.

#[path = "../bad_input/suite.rs"]
mod bad_input;
#[path = "../rotation/suite.rs"]
mod rotation;

const MODE: crate::stage::Mode = crate::stage::Mode::NAMESPACES;
