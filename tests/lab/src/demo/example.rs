//! The resource of the demo: the one that newcomers read first, `examples/minimal.yaml`.

use anyhow::Context as _;
use serde_json::{Value, json};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/minimal.yaml");

/// The example, and the names in it.
pub struct Example {
    /// Of the resource.
    pub name: String,
    /// Of the token at Astro.
    pub token: String,
    /// Of the Secret that gets the value.
    pub target: String,
    /// Of the Secret with the credential.
    pub credentials: String,
    object: Value,
}

impl Example {
    /// Reads the file.
    pub fn read() -> anyhow::Result<Self> {
        let yaml = std::fs::read_to_string(EXAMPLE).context(EXAMPLE)?;
        let object: Value = serde_saphyr::from_str(&yaml)?;
        let text = |path: &str| {
            let text = object.pointer(path).and_then(Value::as_str);
            let text = text.with_context(|| format!("{EXAMPLE} has no {path}"));
            text.map(str::to_owned)
        };
        Ok(Self {
            name: text("/metadata/name")?,
            token: text("/spec/token/name")?,
            target: text("/spec/target/name")?,
            credentials: text("/spec/credentials/secretRef/name")?,
            object,
        })
    }

    /// The resource for this Workspace, with a rotation every so often.
    pub fn resource(&self, workspace: &str, every: &str) -> Value {
        let mut object = self.object.clone();
        object["spec"]["workspaceId"] = workspace.into();
        object["spec"]["schedule"] = json!({ "every": every });
        object
    }
}
