//! Everything in `examples/` works as it is.

use super::{cluster, documents, path, read};
use astro_token_operator::api::WorkspaceTokenRotation;
use astro_token_operator::decide::schedule::Schedule;
use astro_token_operator::decide::validate::check_spec;
use jiff::SignedDuration;
use lab::control_plane::apply;
use std::path::PathBuf;

#[test]
fn every_example_is_what_the_operator_accepts() {
    for file in examples() {
        for document in documents(&file) {
            if document["kind"] != "WorkspaceTokenRotation" {
                continue;
            }
            let resource: WorkspaceTokenRotation =
                serde_json::from_value(document.clone()).unwrap();
            // A field that does not exist would have been passed over.
            let again = serde_json::to_value(&resource.spec).unwrap();
            assert_eq!(again, document["spec"], "{}", file.display());
            assert_eq!(check_spec(&resource.spec), Ok(()));
            let minimum = SignedDuration::from_mins(5);
            assert_eq!(
                Schedule::parse(&resource.spec.schedule, minimum).err(),
                None
            );
        }
    }
}

#[tokio::test]
async fn every_example_is_what_the_api_server_accepts() {
    let (_, client) = cluster("examples").await;
    for file in examples() {
        let applied = apply(&client, &read(&file)).await;
        applied.unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
    }
}

fn examples() -> Vec<PathBuf> {
    let files = std::fs::read_dir(path("examples")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}
