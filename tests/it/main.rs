//! The integration tests: the operator against real servers, one file for each subject.
//!
//! The modes in which the operator can be installed are covered by their extremes: the suites `rotation` and
//! `bad_input` run where it may see the most and where it may see the least, and whatever lies between is a mix of the
//! two. `permissions` alone has all four modes, because it compares rules that differ in each.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(
    clippy::duplicate_mod,
    reason = "the same tests once for each mode, by the module around them"
)]

// What the tests share: control planes, namespaces, operators in this process and beside it, the search for leaks.
mod stage;

// ── the operator at work ──

// The suites `rotation` and `bad_input` in some namespaces, with the fewest permissions.
mod some_namespaces;
// The same suites in a whole cluster.
mod whole_cluster;

// After a restore or an edit no live value is rotated, and a dead one is replaced once.
mod evidence;
// Admission policies that change, refuse or do not answer.
mod policies;
// An API server that asks to retry later.
mod held_back;
// Of the namespaces it is told of, it works in those where it may, and in no other.
mod scope;
// Two resources with a claim to one token or one Secret.
mod rivals;
// Two tokens that take turns.
mod turns;
// What a rotation costs: requests, passes and refusals.
mod counts;
// Tenants who share an operator cannot reach, crash, stall or slow each other.
mod tenants;
// What others undo, and what fails, again and again.
mod brakes;
// A value that the API server does not take is kept, reported and stored as soon as possible.
mod refused;

// ── its processes ──

// One leads; others follow it, and never two at once.
mod leader;
// What stays of values in memory, and what of its memory can get out.
mod memory;
// How it starts and ends, what it logs, and what its environment does to it.
mod process;
// Replicas that are killed, paused and cut off, or both at work at once, double nothing.
mod replicas;

// ── the commands ──

// `rotate --into-secret`, by the operator's rules.
mod by_hand;
// `plan`: what it says of every state, and that it writes nothing.
mod plan_command;
// `status`, `trigger`, `revoke`, completion, and the plugin's name.
mod status;
// The transcripts in docs/command-line.md.
mod transcripts;

// ── the vendor ──

// The client over real connections, and what it makes of every failure.
mod vendor;

// ── what is shipped ──

// The YAML of crds/, deploy/ and examples/.
mod manifests;
// The permissions in deploy/ are those that are used: by the API server's audit log.
mod permissions;
// What the README says.
mod readme;
