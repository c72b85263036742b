//! Whether a document has the shape of the CustomResourceDefinition: no unknown field, none missing, each of its type. Pure.

use crate::api::WorkspaceTokenRotation;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// What a resource may hold beside its spec; status is the operator's to write.
const BESIDE: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// The first field of a resource that is not as the CustomResourceDefinition has it, and what is wrong with it.
pub fn complaint(resource: &Value) -> Option<String> {
    static SPEC: LazyLock<Value> = LazyLock::new(|| {
        let crd = json!(WorkspaceTokenRotation::crd());
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
    });
    let unknown = |field: &&String| *field != "spec" && !BESIDE.contains(&field.as_str());
    if let Some(field) = resource.as_object()?.keys().find(unknown) {
        return Some(format!("{field}: unknown field"));
    }
    match &resource["metadata"]["name"] {
        Value::String(name) if !name.is_empty() => {}
        _ => return Some("metadata.name: missing".into()),
    }
    match &resource["spec"] {
        Value::Null => Some("spec: missing".into()),
        spec => of_schema(&SPEC, spec, "spec"),
    }
}

fn of_schema(schema: &Value, value: &Value, path: &str) -> Option<String> {
    let is_right = match schema["type"].as_str() {
        Some("object") => return of_object(schema, value, path),
        Some("array") => return of_array(schema, value, path),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64(),
        _ => true,
    };
    if !is_right {
        let kind = schema["type"].as_str().unwrap_or_default();
        return Some(format!(
            "{path}: expected a {kind}, found {}",
            kind_of(value)
        ));
    }
    let choices: Vec<_> = schema["enum"].as_array().into_iter().flatten().collect();
    if choices.is_empty() || choices.contains(&value) {
        return None;
    }
    let choices = choices.iter().filter_map(|choice| choice.as_str());
    let choices: Vec<_> = choices.collect();
    Some(format!("{path}: expected one of {}", choices.join(", ")))
}

fn of_object(schema: &Value, value: &Value, path: &str) -> Option<String> {
    let Some(object) = value.as_object() else {
        let found = kind_of(value);
        return Some(format!("{path}: expected an object, found {found}"));
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let is_missing = |name: &&str| object.get(*name).is_none_or(Value::is_null);
    if let Some(name) = required.filter_map(Value::as_str).find(is_missing) {
        return Some(format!("{path}.{name}: missing"));
    }
    let known = &schema["properties"];
    object.iter().find_map(|(name, inner)| {
        let path = format!("{path}.{name}");
        let others = &schema["additionalProperties"];
        match known.get(name).or(others.is_object().then_some(others)) {
            // Null is the same as absent.
            Some(_) if inner.is_null() => None,
            Some(schema) => of_schema(schema, inner, &path),
            None => {
                let known: Vec<_> = known.as_object()?.keys().map(String::as_str).collect();
                let known = known.join(", ");
                Some(format!("{path}: unknown field; expected one of {known}"))
            }
        }
    })
}

fn of_array(schema: &Value, value: &Value, path: &str) -> Option<String> {
    let Some(items) = value.as_array() else {
        return Some(format!("{path}: expected a list, found {}", kind_of(value)));
    };
    let mut items = items.iter().enumerate();
    items.find_map(|(index, item)| of_schema(&schema["items"], item, &format!("{path}[{index}]")))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let right = json!({
            "apiVersion": "astro-token-operator.io/v1alpha1", "kind": "WorkspaceTokenRotation",
            "metadata": {"name": "x"},
            "spec": {
                "workspaceId": "w", "token": {"name": "t"}, "schedule": {"every": "1d", "cron": null},
                "target": {"name": "s", "labels": {"any": "thing"}, "deletionPolicy": "Delete"},
            },
        });
        assert_eq!(complaint(&right), None);
        for (pointer, value, words) in [
            ("/metadata/name", Value::Null, "metadata.name: missing"),
            ("/spec", Value::Null, "spec: missing"),
            (
                "/spec/workspaceId",
                Value::Null,
                "spec.workspaceId: missing",
            ),
            ("/spec/target", json!({}), "spec.target.name: missing"),
            (
                "/spec/token",
                json!("t"),
                "spec.token: expected an object, found a string",
            ),
            (
                "/spec/schedule/every",
                json!(5),
                "spec.schedule.every: expected a string, found a number",
            ),
            (
                "/spec/target/labels/any",
                json!(true),
                "spec.target.labels.any: expected a string",
            ),
            (
                "/spec/target/deletionPolicy",
                json!("Maybe"),
                "spec.target.deletionPolicy: expected one of Retain, Delete",
            ),
            (
                "/spec/schedule",
                json!({"evry": "1d"}),
                "spec.schedule.evry: unknown field; expected one of beforeExpiry, cron, every",
            ),
        ] {
            let mut wrong = right.clone();
            *wrong.pointer_mut(pointer).unwrap() = value;
            let said = complaint(&wrong).unwrap_or_default();
            assert!(said.starts_with(words), "{pointer}: {said:?}");
        }
        let mut wrong = right;
        wrong["sepc"] = json!({});
        assert_eq!(complaint(&wrong).as_deref(), Some("sepc: unknown field"));
    }
}
