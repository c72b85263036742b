//! `demo`: the life of one token on one screen, on a real API server, with a simulator in Astro's place.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    lab::demo::run().await
}
