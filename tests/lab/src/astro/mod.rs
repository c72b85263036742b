//! A simulator of the vendor's API v1: one organization on loopback, with faults on demand.
//!
//! It never logs a value. It runs on a thread of its own, so a test may pause its own clock or block.

mod admin;
mod answer;
mod call;
mod fault;
mod http;
mod operations;
mod registry;
mod settings;
mod token;
pub(crate) mod wire;
mod world;

pub use answer::{Body, Damage, Reply};
pub use fault::{Fault, FaultHandle, Step};
pub use settings::{Limits, Settings};
pub use token::{Issued, Kind, NewToken, Role, Scope};
pub use world::{Operation, Request, World};

use anyhow::{Context, Result, ensure};
use axum::Router;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// A running simulator; cheap to clone; stops when the last handle is dropped.
///
/// What can be asked of it and done to it is in [`World`].
#[derive(Clone)]
pub struct Astro(Arc<Server>);

struct Server {
    world: Arc<World>,
    address: SocketAddr,
    /// `None` while it is down.
    runtime: Mutex<Option<Runtime>>,
    ended: watch::Sender<bool>,
}

impl Astro {
    /// Starts one on a free port of 127.0.0.1.
    pub async fn start() -> Result<Astro> {
        Astro::start_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts one on a loopback address; fails on any other, and when the port is taken.
    pub async fn start_on(address: SocketAddr) -> Result<Astro> {
        ensure!(address.ip().is_loopback(), "{address} is not loopback");
        let listener = listen(address)?;
        let server = Server {
            world: Arc::new(World::new()),
            address: listener.local_addr()?,
            runtime: Mutex::new(None),
            ended: watch::Sender::new(false),
        };
        server.serve(listener)?;
        Ok(Astro(Arc::new(server)))
    }

    /// Base URL of the API, `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.0.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Takes it off the network: connections end, new ones are refused, and requests that had not
    /// taken effect by now never do. What it knows is kept.
    pub async fn down(&self) -> Result<()> {
        let runtime = self.0.runtime().take();
        let stop = move || runtime.map(|r| r.shutdown_timeout(Duration::from_secs(10)));
        tokio::task::spawn_blocking(stop).await?;
        Ok(())
    }

    /// Puts it back on the network, on the same port; fails when another process has taken it.
    pub async fn up(&self) -> Result<()> {
        ensure!(self.0.runtime().is_none(), "it is up");
        self.0.serve(listen(self.0.address)?)
    }

    /// Waits until it was asked to stop over the admin API and has answered all requests it had.
    pub async fn ended(&self) {
        // Cannot fail: the sender is ours.
        let _ = self.0.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl Deref for Astro {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0.world
    }
}

impl Server {
    fn serve(&self, listener: TcpListener) -> Result<()> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("astro")
            .enable_all()
            .build()?;
        let port = {
            let _context = runtime.enter();
            wire::Port(tokio::net::TcpListener::from_std(listener)?)
        };
        let router = Router::new()
            .nest("/admin", admin::router())
            .fallback(http::serve)
            .with_state(self.world.clone())
            .into_make_service_with_connect_info::<wire::Line>();
        let (world, ended) = (self.world.clone(), self.ended.clone());
        runtime.spawn(async move {
            let stopped = async move { world.stopped().await };
            let served = axum::serve(port, router).with_graceful_shutdown(stopped);
            if let Err(error) = served.await {
                tracing::error!(%error, "the simulator broke down");
            }
            ended.send_replace(true);
        });
        *self.runtime() = Some(runtime);
        Ok(())
    }

    fn runtime(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime().take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
