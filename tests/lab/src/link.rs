//! A stretch of network between two programs on loopback, which can be slow, silent or down.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 16 * 1024;

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weather {
    /// They pass.
    Fair,
    /// Each chunk takes so much longer.
    Slow(Duration),
    /// They wait, and no error is reported.
    Silent,
    /// Connections are reset, the new ones too.
    Down,
}

/// A port that leads to another; gone when dropped.
pub struct Link {
    port: u16,
    weather: watch::Sender<Weather>,
    _server: AbortOnDropHandle<()>,
}

impl Link {
    /// Opens one to an address on this machine.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let weather = watch::Sender::new(Weather::Fair);
        let forecast = weather.subscribe();
        let server = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(relay(near, to, forecast.clone()));
            }
        });
        Ok(Self {
            port,
            weather,
            _server: AbortOnDropHandle::new(server),
        })
    }

    /// Its near end on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn relay(near: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let Ok(far) = TcpStream::connect(to).await else {
        return;
    };
    let reset = near.set_zero_linger();
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let there = pass(near_in, far_out, weather.clone());
    let back = pass(far_in, near_out, weather.clone());
    if reset.is_err() {
        return;
    }
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = weather.wait_for(|weather| *weather == Weather::Down) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        // Fails when the link is gone, and the connection with it.
        let _ = weather
            .wait_for(|weather| *weather != Weather::Silent)
            .await;
        let now = *weather.borrow();
        if let Weather::Slow(delay) = now {
            sleep(delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..read]).await?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_secs(10);
    const A_WHILE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn bytes_pass_wait_or_are_lost_with_their_connection() {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::open(echo.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = peer.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let connect = || TcpStream::connect(("127.0.0.1", link.port()));
        let mut client = connect().await.unwrap();
        let mut byte = [0];
        let mut ask = async |client: &mut TcpStream| {
            client.write_all(b"x").await?;
            client.read_exact(&mut byte).await
        };
        timeout(SOON, ask(&mut client)).await.unwrap().unwrap();

        link.set(Weather::Silent);
        let silent = timeout(A_WHILE, ask(&mut client)).await;
        assert!(silent.is_err(), "answered through a silent link");
        link.set(Weather::Fair);
        timeout(SOON, client.read_exact(&mut [0]))
            .await
            .unwrap()
            .unwrap();

        link.set(Weather::Down);
        assert!(timeout(SOON, ask(&mut client)).await.unwrap().is_err());
        let mut another = connect().await.unwrap();
        assert!(timeout(SOON, ask(&mut another)).await.unwrap().is_err());
        link.set(Weather::Fair);
        let mut third = connect().await.unwrap();
        timeout(SOON, ask(&mut third)).await.unwrap().unwrap();
    }
}
