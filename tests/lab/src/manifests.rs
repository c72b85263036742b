//! What `deploy/` installs, as `kubectl kustomize` renders it: of kustomize only what is used there. A test compares.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Every object of a kustomization of this repository, such as `deploy/namespaced`, with components of
/// `deploy/components` that its file only offers.
///
/// # Errors
/// When a file is missing, or asks for what is not understood here.
pub fn shipped(kustomization: &str, components: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut objects = render(&path(kustomization))?;
    for component in components {
        let folder = path("deploy/components").join(component);
        customize(&mut objects, &folder)?;
    }
    Ok(objects)
}

/// All but the workload: what a test needs that runs the operator itself.
///
/// # Errors
/// See [`shipped`].
pub fn permissions(kustomization: &str, components: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut objects = shipped(kustomization, components)?;
    objects.retain(|object| object["kind"] != "Deployment");
    Ok(objects)
}

/// Every object of the kustomization in a folder.
///
/// # Errors
/// See [`shipped`].
pub fn render(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    let kustomization = kustomization(folder)?;
    for entry in list(&kustomization, "resources") {
        let entry = folder.join(entry.as_str().context("a resource is a path")?);
        objects.extend(match entry.is_dir() {
            true => render(&entry)?,
            false => serde_saphyr::from_multiple(&read(&entry)?)?,
        });
    }
    customize(&mut objects, folder)?;
    Ok(objects)
}

/// Applies the patches and components of a kustomization. Its images are those the files have already.
fn customize(objects: &mut [Value], folder: &Path) -> anyhow::Result<()> {
    let kustomization = kustomization(folder)?;
    for patch in list(&kustomization, "patches") {
        let file = folder.join(patch["path"].as_str().context("a patch has a path")?);
        let body: Value = serde_saphyr::from_str(&read(&file)?)?;
        let target = patch.get("target").unwrap_or(&body);
        let mut matching = objects
            .iter_mut()
            .filter(|object| is_target(target, object))
            .peekable();
        ensure!(
            patch.get("target").is_some() || matching.peek().is_some(),
            "{} is for nothing",
            file.display()
        );
        for object in matching {
            match body.as_array() {
                Some(operations) => edit(object, operations)
                    .with_context(|| format!("{} does not fit", file.display()))?,
                None => merge(object, &body),
            }
        }
    }
    for component in list(&kustomization, "components") {
        let component = component.as_str().context("a component is a path")?;
        customize(objects, &folder.join(component))?;
    }
    Ok(())
}

/// By kind and name: a target has both directly, a patch without a target as objects do.
fn is_target(target: &Value, object: &Value) -> bool {
    let name = target.get("name").unwrap_or(&target["metadata"]["name"]);
    object["kind"] == target["kind"] && object["metadata"]["name"] == *name
}

/// A JSON patch of tests and replacements.
fn edit(object: &mut Value, operations: &[Value]) -> anyhow::Result<()> {
    for operation in operations {
        let path = operation["path"]
            .as_str()
            .context("an operation has a path")?;
        let place = object.pointer_mut(path).context(path.to_owned())?;
        match operation["op"].as_str() {
            Some("test") => ensure!(*place == operation["value"], "{path} is {place}"),
            Some("replace") => *place = operation["value"].clone(),
            other => anyhow::bail!("unknown operation {other:?}"),
        }
    }
    Ok(())
}

/// A strategic merge: objects of lists are the same when they have the same name.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from))
            if from.iter().all(|it| it["name"].is_string()) =>
        {
            for value in from {
                match into.iter_mut().find(|it| it["name"] == value["name"]) {
                    Some(same) => merge(same, value),
                    None => into.push(value.clone()),
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn kustomization(folder: &Path) -> anyhow::Result<Value> {
    Ok(serde_saphyr::from_str(&read(
        &folder.join("kustomization.yaml"),
    )?)?)
}

fn list<'k>(kustomization: &'k Value, what: &str) -> impl Iterator<Item = &'k Value> + use<'k> {
    kustomization[what].as_array().into_iter().flatten()
}

fn path(relative: &str) -> PathBuf {
    Path::new(ROOT).join(relative)
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
