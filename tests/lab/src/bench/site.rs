//! What runs beside the operator: a control plane and a simulator, with everything of the install.

use std::path::Path;
use std::process::Stdio;

use kube::{Client, Config};
use serde_json::json;
use tokio::process::Command;

use super::fleet::CREDENTIAL;
use super::memory::Cage;
use crate::astro::Astro;
use crate::control_plane::ControlPlane;
use crate::operator::{ACCOUNT, HOME, Operator, binary, install};
use crate::tls::Terminator;

/// No limit that counts: the flag must be a number.
const UNLIMITED: &str = "100000";

/// A control plane and a simulator.
pub struct Site {
    /// Its API server logs reads of credentials, and nothing else.
    pub plane: ControlPlane,
    /// The administrator's.
    pub client: Client,
    /// In the vendor's place.
    pub astro: Astro,
    /// Through which operators reach it, if not directly.
    front: Option<Terminator>,
}

/// The vendor limits with which the operator runs.
#[derive(Clone, Copy, PartialEq)]
pub enum Pace {
    /// Those that are shipped.
    Shipped,
    /// None, so that nothing but the work takes time.
    Unlimited,
}

impl Site {
    /// Starts both and installs all but the workload.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let reads_of_credentials = json!({
            "level": "Metadata",
            "verbs": ["get"],
            "resources": [{ "group": "", "resources": ["secrets"], "resourceNames": [CREDENTIAL] }],
        });
        let plane = ControlPlane::start_audited_by(reads_of_credentials).await?;
        let client = plane.client();
        install(&client, "deploy").await?;
        Ok(Self {
            plane,
            client,
            astro: Astro::start().await?,
            front: None,
        })
    }

    /// Has operators that are started from now on reach Astro over TLS.
    ///
    /// # Errors
    /// When there is no certificate or port for it.
    pub async fn encrypt(&mut self) -> anyhow::Result<()> {
        self.front = Some(Terminator::open(self.astro.address()).await?);
        Ok(())
    }

    /// Starts the operator as in production but for the vendor's pace, in a cage where there is one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn operator(
        &self,
        pace: Pace,
        cage: Option<&Cage>,
        more: &[&str],
    ) -> anyhow::Result<Operator> {
        let kubeconfig = self.plane.dir().join("operator.kubeconfig");
        self.plane
            .service_account_kubeconfig(HOME, ACCOUNT, &kubeconfig)
            .await?;
        // A restarted container continues at once.
        let mut flags = vec!["--pod-name=bench".to_owned()];
        match &self.front {
            None => flags.push(format!("--api-url={}", self.astro.url())),
            Some(front) => {
                let authority = self.plane.dir().join("authority.pem");
                std::fs::write(&authority, &front.authority)?;
                flags.push(format!("--api-url=https://localhost:{}/v1", front.port));
                flags.push(format!("--ca-bundle={}", authority.display()));
            }
        }
        if pace == Pace::Unlimited {
            flags.push(format!("--reads-per-second={UNLIMITED}"));
            flags.push(format!("--rotations-per-second={UNLIMITED}"));
        }
        flags.extend(more.iter().map(|&flag| flag.to_owned()));
        let log = self.plane.dir().join("operator.log");
        Operator::start_by(command(cage)?, &kubeconfig, &log, &flags)
    }

    /// The configuration of the operator's account.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn account(&self) -> anyhow::Result<Config> {
        self.plane.service_account(HOME, ACCOUNT).await
    }

    /// How often credentials have been read so far.
    ///
    /// # Errors
    /// When the audit log cannot be read.
    pub fn credential_reads(&self) -> anyhow::Result<usize> {
        let account = format!("system:serviceaccount:{HOME}:{ACCOUNT}");
        let log = self.plane.audit_log();
        // Without any such read there may be no file yet.
        let ours = |event: &&serde_json::Value| event["user"]["username"] == account.as_str();
        Ok(log.map_or(0, |log| log.iter().filter(ours).count()))
    }
}

/// The binary, or a shell that enters the cage and becomes it: so that all its memory is counted there.
fn command(cage: Option<&Cage>) -> anyhow::Result<Command> {
    let binary = binary()?;
    let Some(cage) = cage else {
        return Ok(Command::new(binary));
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo $$ >"$1" && shift && exec "$@""#, "sh"])
        .arg(cage.members())
        .arg(Path::new(&binary))
        .stdin(Stdio::null());
    Ok(command)
}
