//! Resources out of files: YAML or JSON, several documents, lists; and what they would be once they were applied.

use crate::api::WorkspaceTokenRotation;
use crate::text::{line, scrub};
use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Longest text out of a file that is shown, characters.
const LONGEST: usize = 200;

/// What files hold.
#[derive(Default)]
pub struct Documents {
    /// The resources, in their order.
    pub resources: Vec<Document>,
    /// Of what other kind a document is, and where.
    pub skipped: Vec<String>,
}

/// A resource of a file.
pub struct Document {
    /// File and document.
    pub place: String,
    /// The resource; its namespace may be missing.
    pub resource: WorkspaceTokenRotation,
}

/// Reads files; `-` is the standard input.
///
/// # Errors
/// The first file that cannot be read, or is not what it should be.
pub fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Documents> {
    let mut all = Documents::default();
    for file in files.iter().map(AsRef::as_ref) {
        let (name, text) = match file.to_str() {
            Some("-") => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.context("the standard input cannot be read")?;
                ("the standard input".into(), text)
            }
            _ => {
                let text = std::fs::read_to_string(file);
                let name = file.display().to_string();
                (
                    name.clone(),
                    text.with_context(|| format!("{name} cannot be read"))?,
                )
            }
        };
        parse(&name, &text, &mut all)?;
    }
    Ok(all)
}

/// Reads the documents of one file.
fn parse(file: &str, text: &str, all: &mut Documents) -> anyhow::Result<()> {
    // Without its excerpt of the text: the file may hold a Secret too.
    let options = serde_saphyr::options! { with_snippet: false };
    let documents = serde_saphyr::from_multiple_with_options::<Value>(text, options)
        .map_err(|error| anyhow!("{file}: {}", line(&error.to_string(), LONGEST)))?;
    for (document, number) in documents.into_iter().zip(1..) {
        take(document, format!("{file}, document {number}"), all)?;
    }
    Ok(())
}

fn take(mut document: Value, place: String, all: &mut Documents) -> anyhow::Result<()> {
    if document.is_null() {
        return Ok(());
    }
    let text = |field: &str| match document[field].as_str() {
        Some(text) => Ok(line(text, LONGEST)),
        None => Err(anyhow!("{place}: {field}: missing")),
    };
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let ours = (
        WorkspaceTokenRotation::api_version(&()),
        WorkspaceTokenRotation::kind(&()),
    );
    let group = ours.0.split('/').next().unwrap_or_default();
    if kind == "List" || kind.strip_suffix("List") == Some(&*ours.1) {
        let Value::Array(items) = document["items"].take() else {
            bail!("{place}: items: missing");
        };
        for (item, number) in items.into_iter().zip(1..) {
            take(item, format!("{place}, item {number}"), all)?;
        }
        return Ok(());
    }
    if kind != ours.1 || api_version.split('/').next() != Some(group) {
        all.skipped.push(format!("{place}: skipped, a {kind}"));
        return Ok(());
    }
    if api_version != ours.0 {
        bail!("{place}: apiVersion: expected {}", ours.0);
    }
    // Status is the operator's; one in a file says nothing of the cluster.
    document["status"].take();
    let resource =
        resource(document).map_err(|problem| anyhow!("{place}: {}", scrub(&problem, LONGEST)))?;
    all.resources.push(Document { place, resource });
    Ok(())
}

/// A document as a resource; otherwise the first field that is wrong, and what is wrong with it.
fn resource(document: Value) -> Result<WorkspaceTokenRotation, String> {
    if document["metadata"]["name"]
        .as_str()
        .is_none_or(str::is_empty)
    {
        return Err("metadata.name: missing".into());
    }
    let mut unknown = None;
    let mut note = |path: serde_ignored::Path| {
        // A question mark stands for an optional field.
        let path = path.to_string().replace(".?", "");
        if !["apiVersion", "kind"].contains(&path.as_str()) {
            unknown.get_or_insert(path);
        }
    };
    let document = serde_ignored::Deserializer::new(document, &mut note);
    let resource = serde_path_to_error::deserialize(document)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    match unknown {
        Some(path) => Err(format!("{path}: unknown field")),
        None => Ok(resource),
    }
}

/// What a file's resource would be once it was applied: `present` is the cluster's, `index` tells those apart that are not
/// there yet.
pub fn applied(
    file: &WorkspaceTokenRotation,
    present: Option<&WorkspaceTokenRotation>,
    now: Timestamp,
    index: usize,
) -> WorkspaceTokenRotation {
    let Some(present) = present else {
        let mut new = file.clone();
        new.metadata.creation_timestamp = Some(Time(now));
        // Ordered as the files are: of two that are created in one second the smaller is the older.
        new.metadata.uid = Some(format!("not-created-{index:06}"));
        new.metadata.generation = Some(1);
        new.metadata.resource_version = None;
        return new;
    };
    let mut next = present.clone();
    // An apply leaves alone what others have annotated, such as a request to rotate.
    for (name, value) in file.labels() {
        next.labels_mut().insert(name.clone(), value.clone());
    }
    for (name, value) in file.annotations() {
        next.annotations_mut().insert(name.clone(), value.clone());
    }
    if next.spec != file.spec {
        next.spec = file.spec.clone();
        next.metadata.generation = next.metadata.generation.map(|generation| generation + 1);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCE: &str = "apiVersion: astro-token-operator.io/v1alpha1
kind: WorkspaceTokenRotation
metadata: {name: NAME}
spec: {workspaceId: w, token: {name: t}, schedule: {every: 1d}, target: {name: s}}
";

    fn named(name: &str) -> String {
        RESOURCE.replace("NAME", name)
    }

    fn parsed(text: &str) -> anyhow::Result<Documents> {
        let mut all = Documents::default();
        parse("f", text, &mut all).map(|()| all)
    }

    #[test]
    fn documents_lists_and_json_are_read_and_others_are_named() {
        let item = |name: &str| named(name).trim_end().replace('\n', "\n  ");
        let text = format!(
            "{}---\n# nothing\n---\napiVersion: v1\nkind: Secret\n---\napiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
            named("a"),
            item("b"),
            item("c")
        );
        let all = parsed(&text).unwrap();
        let names: Vec<_> = all
            .resources
            .iter()
            .map(|it| it.resource.name_any())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(
            all.resources[2].place.ends_with("item 2"),
            "{}",
            all.resources[2].place
        );
        assert_eq!(all.skipped.len(), 1);
        assert!(all.skipped[0].ends_with("skipped, a Secret"));

        let json = serde_json::to_string(&all.resources[0].resource).unwrap();
        assert_eq!(
            parsed(&json).unwrap().resources[0].resource,
            all.resources[0].resource
        );
        assert!(parsed("").unwrap().resources.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_file_document_and_field_and_no_value_is_shown() {
        let second = |text: &str| format!("{}---\n{text}", named("a"));
        for (text, words) in [
            (
                second(&named("b").replace("every", "evry")),
                "f, document 2: spec.schedule.evry: unknown",
            ),
            (
                second(&named("b").replace("token: {name: t}, ", "")),
                "f, document 2: spec: missing field `token`",
            ),
            (
                named("a").replace("every: 1d", "every: [1]"),
                "f, document 1: spec.schedule.every: invalid type: sequence, expected a string",
            ),
            (
                named("a").replace("name: s", "name: s, deletionPolicy: Keep"),
                "f, document 1: spec.target.deletionPolicy: unknown variant `Keep`, expected `Retain` or `Delete`",
            ),
            (
                named("a").replace("name: NAME", "").replace("name: a", ""),
                "f, document 1: metadata.name: missing",
            ),
            (second("kind: Secret"), "f, document 2: apiVersion: missing"),
            (
                named("b").replace("v1alpha1", "v9"),
                "f, document 1: apiVersion: expected",
            ),
            (
                "apiVersion: v1\nkind: List\n".into(),
                "f, document 1: items: missing",
            ),
            ("data: {token: top-secret-value\n".into(), "f: "),
        ] {
            let Err(error) = parsed(&text) else {
                panic!("{text} was read")
            };
            let error = error.to_string();
            assert!(error.starts_with(words), "{error}");
            assert!(!error.contains("top-secret"), "{error}");
        }
    }

    #[test]
    fn what_is_applied_keeps_the_cluster_s_identity_and_takes_the_file_s_wishes() {
        let now = Timestamp::UNIX_EPOCH;
        let file = parsed(&named("a")).unwrap().resources.remove(0).resource;
        let new = applied(&file, None, now, 3);
        assert_eq!(new.creation_timestamp(), Some(Time(now)));
        assert!(
            new.uid()
                .is_some_and(|uid| uid < applied(&file, None, now, 4).uid().unwrap())
        );

        let mut present = file.clone();
        present.metadata.uid = Some("u".into());
        present.metadata.generation = Some(7);
        present.metadata.resource_version = Some("9".into());
        present
            .annotations_mut()
            .insert("rotate".into(), "once".into());
        present.status = Some(Default::default());
        let same = applied(&file, Some(&present), now, 0);
        assert_eq!(same, present);
        let mut edited = file;
        edited.spec.schedule.every = Some("2d".into());
        edited.annotations_mut().insert("team".into(), "x".into());
        let next = applied(&edited, Some(&present), now, 0);
        assert_eq!(
            (next.metadata.generation, next.uid()),
            (Some(8), Some("u".into()))
        );
        assert_eq!((&next.spec, &next.status), (&edited.spec, &present.status));
        assert_eq!(next.annotations().len(), 2);
    }
}
