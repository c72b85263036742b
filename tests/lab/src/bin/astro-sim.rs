//! `astro-sim`: the Astro simulator as a process, with an admin API.

use anyhow::Result;
use clap::Parser;
use lab::astro::{Astro, Limits};
use std::io::IsTerminal;
use std::net::SocketAddr;
use tracing_subscriber::EnvFilter;

/// Simulates the Astro API v1 on loopback, with the vendor's rate limits. For development only.
#[derive(Parser)]
// Wrapped commands could not be pasted.
#[command(after_long_help = EXAMPLES, term_width = 0)]
struct Args {
    /// Loopback address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8888")]
    listen: SocketAddr,
}

const EXAMPLES: &str = r#"Admin API, JSON, without authentication:

  A=http://127.0.0.1:8888/admin
  J='content-type: application/json'

  # ids of the organization and of a Workspace
  curl -s $A

  # create a token (the body is the vendor's CreateApiTokenRequest), answered with {"id", "value"}
  curl -s $A/tokens -H "$J" \
    -d '{"name": "ci", "scope": "WORKSPACE", "entityId": "W", "role": "WORKSPACE_MEMBER"}'
  # one to call with; an ORGANIZATION token may have "roles" on Workspaces besides
  curl -s $A/tokens -H "$J" \
    -d '{"name": "op", "scope": "WORKSPACE", "entityId": "W", "role": "WORKSPACE_OWNER"}'
  # all tokens, without values; delete one; rotate one as another party
  curl -s $A/tokens
  curl -s -X DELETE $A/tokens/ID
  curl -s -X POST $A/tokens/ID/rotate

  # is a value live? (from standard input, so that it is not in the process list)
  kubectl get secret ci -o go-template='{"value": "{{.data.token | base64decode}}"}' |
    curl -s $A/live -H "$J" -d @-

  # faults: the first that fits is used, "times" times or until cleared; optional "operation"
  # (list, get, rotate, create, update, delete ...), "token", "credential" (ids)
  #   before / after the effect: "hold", "close", "reset", "hangUp" (the rest still happens),
  #     {"delay": "2s"},
  #     {"answer": {"status": 503, "body": "json|text|html|empty", "headers": [["retry-after", "3"]]}}
  #   damage to a 200: cut, truncated, noToken, otherId, noLastRotatedAt, html
  curl -s $A/faults -H "$J" -d '{"operation": "rotate", "times": 1, "after": ["close"]}'
  curl -s $A/faults -H "$J" -d '{"operation": "rotate", "damage": "cut"}'
  curl -s $A/faults -H "$J" -d '{"operation": "rotate", "before": ["hangUp", {"delay": "5s"}]}'
  curl -s $A/faults
  curl -s -X POST $A/faults/1/release
  curl -s -X DELETE $A/faults

  # settings: see them all, change some
  curl -s $A/settings
  curl -s -X PATCH $A/settings -H "$J" -d '{"limits": null, "stale": "2s", "renewsEnd": false}'

  # the log of requests; clear it; stop
  curl -s $A/requests
  curl -s -X DELETE $A/requests
  curl -s -X POST $A/stop

The vendor's command line runs against it with ASTRO_DOMAIN=localhost and local.core set to http://127.0.0.1:8888.
"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new("lab=debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let Args { listen } = Args::parse();

    let astro = Astro::start_on(listen).await?;
    astro.settings(|settings| settings.limits = Some(Limits::default()));
    println!("url {}", astro.url());
    println!("organization {}", astro.organization());
    println!("workspace {}", astro.workspace());

    tokio::select! {
        () = astro.ended() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}
