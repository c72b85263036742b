//! Where the demo takes place: a control plane of its own, or, when asked for, the cluster of a kubeconfig.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt as _};

use super::stage::NAMESPACE;
use crate::control_plane::{ControlPlane, apply};
use crate::operator::{ACCOUNT, HOME, install};
use crate::resource::kind;

const CRD: &str = "workspacetokenrotations.astro-token-operator.io";
const CRD_FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../crds/workspacetokenrotations.yaml"
);

/// A cluster; one of our own is stopped and removed on drop.
pub struct Cluster {
    /// The administrator, or whoever the kubeconfig is.
    pub client: Client,
    own: Option<ControlPlane>,
    kubeconfig: PathBuf,
    url: String,
    /// What was made in a cluster that is not the demo's own.
    made: Vec<String>,
}

impl Cluster {
    /// Starts a control plane.
    pub async fn own() -> anyhow::Result<Self> {
        let plane = ControlPlane::start().await?;
        Ok(Self {
            client: plane.client(),
            kubeconfig: plane.kubeconfig(),
            url: plane.url(),
            own: Some(plane),
            made: Vec::new(),
        })
    }

    /// The cluster of `KUBECONFIG`.
    pub async fn existing(kubeconfig: &Path) -> anyhow::Result<Self> {
        let config = Config::from_kubeconfig(&KubeConfigOptions::default())
            .await
            .with_context(|| format!("KUBECONFIG={}", kubeconfig.display()))?;
        Ok(Self {
            url: config.cluster_url.to_string().trim_end_matches('/').into(),
            client: Client::try_from(config)?,
            own: None,
            kubeconfig: kubeconfig.to_owned(),
            made: Vec::new(),
        })
    }

    /// Version and address, from the API server itself.
    pub async fn describe(&self) -> anyhow::Result<String> {
        let version = self.client.apiserver_version().await?.git_version;
        let which = match self.own {
            Some(_) => "the demo's own",
            None => "your cluster",
        };
        Ok(format!("Kubernetes {version} at {}, {which}", self.url))
    }

    /// Brings in what the operator needs, and the namespace of the demo. Says what it was.
    pub async fn furnish(&mut self) -> anyhow::Result<String> {
        let what = match self.own {
            Some(_) => {
                install(&self.client, "deploy").await?;
                "CRD, service account and permissions of deploy/ applied"
            }
            None => {
                self.refuse_company().await?;
                self.define().await?
            }
        };
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.into());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("cannot create namespace {NAMESPACE}"))?;
        if self.own.is_none() {
            self.made.push(format!("namespace {NAMESPACE}"));
        }
        Ok(what.into())
    }

    /// Who the operator is here: a kubeconfig, and flags for it.
    pub async fn operator_access(&self) -> anyhow::Result<(PathBuf, Vec<String>)> {
        let Some(plane) = &self.own else {
            // A Lease would need a namespace of its own in a cluster that is not the demo's.
            let alone = "--leader-election=false".to_owned();
            return Ok((self.kubeconfig.clone(), vec![alone]));
        };
        let kubeconfig = plane.dir().join("operator.kubeconfig");
        plane
            .service_account_kubeconfig(HOME, ACCOUNT, &kubeconfig)
            .await?;
        Ok((kubeconfig, Vec::new()))
    }

    /// The kubeconfig for a person.
    pub fn kubeconfig(&self) -> impl std::fmt::Display {
        self.kubeconfig.display()
    }

    /// What the demo leaves in a cluster that is not its own, as arguments of `kubectl delete`, in their order.
    pub fn remains(&self) -> impl Iterator<Item = &String> {
        self.made.iter().rev()
    }

    /// The demo's operator works on all resources it sees, and any other operator would work on the demo's.
    async fn refuse_company(&self) -> anyhow::Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        if namespaces.get_opt(NAMESPACE).await?.is_some() {
            bail!(
                "the cluster has a namespace {NAMESPACE}, perhaps of an earlier demo\nkubectl delete namespace {NAMESPACE} removes it"
            );
        }
        let leases: Api<Lease> = Api::all(self.client.clone());
        let named = ListParams::default().fields("metadata.name=astro-token-operator");
        for lease in leases.list(&named).await? {
            let holder = lease
                .spec
                .as_ref()
                .and_then(|it| it.holder_identity.clone());
            if holder.is_some_and(|holder| !holder.is_empty()) {
                let namespace = lease.namespace().unwrap_or_default();
                bail!(
                    "an operator works in this cluster: see the Lease in {namespace}\nit and the demo would disturb each other"
                );
            }
        }
        if self.definitions().get_opt(CRD).await?.is_some() {
            let resources: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind());
            let some = resources.list(&ListParams::default().limit(1)).await?;
            if !some.items.is_empty() {
                bail!(
                    "the cluster has WorkspaceTokenRotations, and the demo must not touch them\nuse a cluster that has none"
                );
            }
        }
        Ok(())
    }

    /// Creates the CustomResourceDefinition when there is none.
    async fn define(&mut self) -> anyhow::Result<&'static str> {
        if self.definitions().get_opt(CRD).await?.is_some() {
            return Ok("the CRD is there already and not in use");
        }
        self.made.push(format!("crd {CRD}"));
        let yaml = std::fs::read_to_string(CRD_FILE).context(CRD_FILE)?;
        apply(&self.client, &yaml).await?;
        Ok("CRD created; nothing else outside of the demo's namespace")
    }

    fn definitions(&self) -> Api<CustomResourceDefinition> {
        Api::all(self.client.clone())
    }
}
