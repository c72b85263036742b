//! The control plane's certificates and keys, and the kubeconfigs made from them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use serde_json::{Value, json};

/// Longest silence of a server within an answer; a watch may have nothing to say for a while.
const SILENCE: Duration = Duration::from_secs(90);

/// What the administrator's client shows, and what it trusts.
pub(super) struct Credentials {
    authority: String,
    certificate: String,
    key: String,
}

impl Credentials {
    /// Makes an authority with a server's and an administrator's certificate, and the key that signs service account
    /// tokens. What kube-apiserver reads is written to `folder`: `ca.crt`, `server.crt`, `server.key`,
    /// `accounts.key` and `accounts.pub`.
    pub(super) fn issue(folder: &Path) -> anyhow::Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "local control plane");
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let mut server = CertificateParams::new(["127.0.0.1".into(), "localhost".into()])?;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server_key = KeyPair::generate()?;
        let server_pem = server.signed_by(&server_key, &issuer)?.pem();

        let mut admin = CertificateParams::default();
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        admin.distinguished_name.push(DnType::CommonName, "admin");
        admin
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        let admin_key = KeyPair::generate()?;
        let admin_pem = admin.signed_by(&admin_key, &issuer)?.pem();

        let accounts = KeyPair::generate()?;
        for (name, pem) in [
            ("ca.crt", &authority_pem),
            ("server.crt", &server_pem),
            ("server.key", &server_key.serialize_pem()),
            ("accounts.key", &accounts.serialize_pem()),
            ("accounts.pub", &accounts.public_key_pem()),
        ] {
            std::fs::write(folder.join(name), pem)?;
        }
        Ok(Self {
            authority: authority_pem,
            certificate: admin_pem,
            key: admin_key.serialize_pem(),
        })
    }

    /// A kubeconfig (JSON, which is YAML too) of the administrator.
    pub(super) fn admin(&self, server: &str) -> Value {
        let user = json!({
            "client-certificate-data": BASE64_STANDARD.encode(&self.certificate),
            "client-key-data": BASE64_STANDARD.encode(&self.key),
        });
        self.kubeconfig(server, "default", user)
    }

    /// A kubeconfig of whom `token` belongs to, with `namespace` as its default.
    pub(super) fn bearer(&self, server: &str, namespace: &str, token: &str) -> Value {
        self.kubeconfig(server, namespace, json!({ "token": token }))
    }

    fn kubeconfig(&self, server: &str, namespace: &str, user: Value) -> Value {
        let cluster = json!({
            "server": server,
            "certificate-authority-data": BASE64_STANDARD.encode(&self.authority),
        });
        let context = json!({ "cluster": "local", "user": "local", "namespace": namespace });
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "local", "cluster": cluster }],
            "users": [{ "name": "local", "user": user }],
            "contexts": [{ "name": "local", "context": context }],
            "current-context": "local",
        })
    }
}

/// A client's configuration from a kubeconfig: no proxy and no hidden retries between a test and its API server.
pub(super) async fn config(kubeconfig: Value) -> anyhow::Result<Config> {
    let kubeconfig: Kubeconfig =
        serde_json::from_value(kubeconfig).context("kubeconfig of the local control plane")?;
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = None;
    config.default_retry = false;
    // No test waits for an answer, or for the next word of a watch, without an end.
    config.connect_timeout = Some(SILENCE);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(SILENCE);
    Ok(config)
}
