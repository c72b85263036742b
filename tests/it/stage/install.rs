//! How the operator is installed, and what its accounts may do then.

use super::{HOME, create_namespace};
use kube::Client;
use lab::control_plane::ControlPlane;
use serde_json::{Value, json};

/// The names of everything that is shipped: in `deploy/`, and in `deploy/tenant`.
const SHIPPED: [&str; 2] = [HOME, "astro-token-operator-tenant"];

/// How the operator is installed: what it may see of the cluster.
#[derive(Clone, Copy)]
pub struct Mode {
    /// In some namespaces, by Roles.
    pub namespaced: bool,
    /// Without list and watch of Secrets.
    pub get_secrets: bool,
}

impl Mode {
    pub const CLUSTER: Self = Self {
        namespaced: false,
        get_secrets: false,
    };
    pub const CLUSTER_GET: Self = Self {
        get_secrets: true,
        ..Self::CLUSTER
    };
    pub const NAMESPACES: Self = Self {
        namespaced: true,
        ..Self::CLUSTER
    };
    pub const NAMESPACES_GET: Self = Self {
        get_secrets: true,
        ..Self::NAMESPACES
    };

    /// Everything that is installed once, but the workload.
    pub fn permissions(self) -> Vec<Value> {
        let install = match self.namespaced {
            true => "deploy/namespaced",
            false => "deploy",
        };
        lab::manifests::permissions(install, self.components()).unwrap()
    }

    /// What is applied to a namespace that is to be served.
    pub fn tenant_permissions(self) -> Vec<Value> {
        match self.namespaced {
            true => lab::manifests::permissions("deploy/tenant", self.components()).unwrap(),
            false => Vec::new(),
        }
    }

    /// The account of operators in this mode on a control plane where several modes are installed at once.
    pub fn account(self) -> &'static str {
        match (self.namespaced, self.get_secrets) {
            (false, false) => HOME,
            (false, true) => "in-the-cluster-get",
            (true, false) => "in-namespaces",
            (true, true) => "in-namespaces-get",
        }
    }

    pub fn name(self) -> String {
        let place = match self.namespaced {
            true => "some namespaces",
            false => "the whole cluster",
        };
        format!("in {place}, {:?}", self.components())
    }

    fn components(self) -> &'static [&'static str] {
        match self.get_secrets {
            true => &["get-secrets"],
            false => &[],
        }
    }

    /// Flags for an operator that works in these namespaces, which only counts where it has to be told.
    pub fn flags(self, namespaces: &[String]) -> Vec<String> {
        let namespaces = format!("--namespaces={}", namespaces.join(","));
        let namespaces = self.namespaced.then_some(namespaces);
        let access = self.get_secrets.then(|| "--secret-access=get".to_owned());
        namespaces.into_iter().chain(access).collect()
    }
}

/// Brings the CRD and the permissions of a mode into a cluster, under the names that are shipped.
pub async fn furnish(plane: &ControlPlane, mode: Mode) {
    for object in mode.permissions() {
        apply(&plane.client(), &object).await;
    }
}

/// The same for an account of the mode's own, beside those of other modes.
pub async fn furnish_beside(plane: &ControlPlane, mode: Mode) {
    for mut object in mode.permissions() {
        if object["kind"] != "CustomResourceDefinition" {
            rename(&mut object, mode.account());
            apply(&plane.client(), &object).await;
        }
    }
}

/// Installs the operator, but for the workload, on a control plane of a test's own, with one namespace to work in;
/// returns what that took.
pub async fn install(plane: &ControlPlane, mode: Mode, namespace: &str) -> Vec<Value> {
    furnish(plane, mode).await;
    create_namespace(plane, namespace).await;
    for object in mode.tenant_permissions() {
        apply(&client_in(plane, namespace), &object).await;
    }
    [mode.permissions(), mode.tenant_permissions()].concat()
}

/// Lets the mode's account work in a namespace, as `kubectl apply -k deploy/tenant` does.
pub async fn permit(plane: &ControlPlane, mode: Mode, namespace: &str) {
    for mut object in mode.tenant_permissions() {
        rename(&mut object, mode.account());
        apply(&client_in(plane, namespace), &object).await;
    }
}

/// Lets the mode's account have its Lease in a namespace, as it has one in the operator's own.
pub async fn permit_to_lead(plane: &ControlPlane, mode: Mode, namespace: &str) {
    let at_home = |object: &Value| object["metadata"]["namespace"] == HOME;
    let of_access = |object: &Value| object["apiVersion"] == "rbac.authorization.k8s.io/v1";
    for mut object in mode.permissions() {
        if at_home(&object) && of_access(&object) {
            rename(&mut object, mode.account());
            object["metadata"]["namespace"] = namespace.into();
            apply(&plane.client(), &object).await;
        }
    }
}

/// Gives what is shipped for the operator's account to another one.
fn rename(object: &mut Value, account: &str) {
    let give = |name: &mut Value| {
        if let Some(shipped) = SHIPPED.iter().find(|it| *name == **it) {
            *name = shipped.replace(HOME, account).into();
        }
    };
    if object["kind"] != "Namespace" {
        give(&mut object["metadata"]["name"]);
    }
    if let Some(role) = object.get_mut("roleRef") {
        give(&mut role["name"]);
    }
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        give(&mut subject["name"]);
    }
}

fn client_in(plane: &ControlPlane, namespace: &str) -> Client {
    let mut config = plane.config();
    config.default_namespace = namespace.into();
    Client::try_from(config).unwrap()
}

pub async fn apply(client: &Client, object: &Value) {
    let applied = lab::control_plane::apply(client, &object.to_string()).await;
    applied.unwrap();
}

/// A service account with the operator's ClusterRole, but these verbs on Secrets; as YAML.
pub fn permissions(name: &str, verbs: Value) -> String {
    let shipped = lab::manifests::permissions("deploy", &[]).unwrap();
    let mut role = shipped
        .into_iter()
        .find(|it| it["kind"] == "ClusterRole" && it["metadata"]["name"] == HOME)
        .unwrap();
    role["metadata"]["name"] = name.into();
    let rules = role["rules"].as_array_mut().unwrap().iter_mut();
    let mut secrets = rules.filter(|rule| rule["resources"] == json!(["secrets"]));
    secrets.next().unwrap()["verbs"] = verbs;
    assert!(secrets.next().is_none());
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": HOME},
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": HOME}],
    });
    [account, role, binding]
        .map(|it| it.to_string())
        .join("\n---\n")
}
