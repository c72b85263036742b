//! TLS in front of a plain server, with an authority of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// For the name `localhost`; ends with the runtime it was opened on.
pub struct Terminator {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    /// Certificate of the authority, PEM.
    pub authority: String,
}

impl Terminator {
    /// Opens one in front of `upstream`.
    ///
    /// # Errors
    /// When no certificate can be made, or there is no free port.
    pub async fn open(upstream: SocketAddr) -> anyhow::Result<Self> {
        let (authority, config) = certify("localhost")?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    near.set_nodelay(true)?;
                    // A client that does not trust us hangs up.
                    if let Ok(mut near) = acceptor.accept(near).await {
                        let mut far = TcpStream::connect(upstream).await?;
                        far.set_nodelay(true)?;
                        copy_bidirectional(&mut near, &mut far).await?;
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Ok(Self { port, authority })
    }
}

/// An authority of its own (PEM), and a server with its certificate for `name`.
fn certify(name: &str) -> anyhow::Result<(String, ServerConfig)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority
        .distinguished_name
        .push(DnType::CommonName, "a private authority");
    let key = KeyPair::generate()?;
    let pem = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);

    let key = KeyPair::generate()?;
    let server = CertificateParams::new([name.to_owned()])?;
    let server = server.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der());
    let key = key
        .map_err(anyhow::Error::msg)
        .context("the server's key")?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)?;
    Ok((pem, config))
}
