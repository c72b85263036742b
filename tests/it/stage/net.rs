//! What may stand between the operator and the vendor: a private certificate authority, and a forward proxy.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// Longest head of a request that the proxy reads, bytes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Longest time for one request of a test's own.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client for what is on this machine.
pub fn http() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.timeout(ANSWER_WITHIN).build().unwrap()
}

/// TLS in front of a plain server, for the name `localhost`; ends with the runtime it was opened on.
pub struct Terminator {
    pub port: u16,
    /// Certificate of the authority, PEM.
    pub authority: String,
}

/// A forward proxy for `http` and, by CONNECT, `https`; ends with the runtime it was opened on.
pub struct Proxy {
    pub url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Terminator {
    /// Opens one in front of `upstream`.
    pub async fn open(upstream: SocketAddr) -> Self {
        let (authority, config) = certify("localhost");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that does not trust us hangs up.
                    if let Ok(mut near) = acceptor.accept(near).await {
                        let mut far = TcpStream::connect(upstream).await?;
                        copy_bidirectional(&mut near, &mut far).await?;
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { port, authority }
    }
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

/// An authority of its own (PEM), and a server with its certificate for `name`.
fn certify(name: &str) -> (String, ServerConfig) {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "a private authority");
    let key = KeyPair::generate().unwrap();
    let pem = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);

    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new([name.to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (pem, config)
}
