//! What may stand between the operator and the vendor: a forward proxy.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Longest head of a request that the proxy reads, bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Longest time for one request of a test's own.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client for what is on this machine.
pub fn http() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.timeout(ANSWER_WITHIN).build().unwrap()
}

/// A forward proxy for `http` and, by CONNECT, `https`; ends with the runtime it was opened on.
pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Opens one.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let log = seen.clone();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                tokio::spawn(relay(near, log.clone()));
            }
        });
        Self { url, seen }
    }

    /// Method and target of the first request of each connection.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Connects `near` to whom its first request names.
async fn relay(mut near: TcpStream, log: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        if near.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    log.lock().unwrap().push(format!("{method} {target}"));
    let host = target.trim_start_matches("http://").split('/').next();
    let mut far = TcpStream::connect(host.unwrap()).await?;
    if method == "CONNECT" {
        near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await?;
    } else {
        // Servers take the absolute form of a target too.
        far.write_all(&head).await?;
    }
    copy_bidirectional(&mut near, &mut far).await?;
    Ok(())
}
