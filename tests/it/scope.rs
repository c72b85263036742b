//! Of the namespaces it is told of, the operator works in those where it may; and in no other.

use crate::stage::{self, Mode, Operator, Stage};
use lab::astro::Astro;
use lab::control_plane::ControlPlane;
use serde_json::json;

const MODE: Mode = Mode::NAMESPACES;

async fn stage_in(plane: &ControlPlane, astro: &Astro, namespace: &str) -> Stage {
    stage::create_namespace(plane, namespace).await;
    Stage::in_namespace(plane, astro, namespace.to_owned()).await
}

#[tokio::test]
async fn a_namespace_without_a_role_or_that_is_not_there_yet_is_served_as_soon_as_it_can_be() {
    let plane = stage::plane().await;
    let astro = Astro::start().await.unwrap();
    let [served, bare, absent, other] = [(); 4].map(|()| stage::fresh_name());
    let named = [served.clone(), bare.clone(), absent.clone()];
    let good = stage_in(plane, &astro, &served).await;
    let bare = stage_in(plane, &astro, &bare).await;
    // It has its Role, and the operator is not told of it.
    let other = stage_in(plane, &astro, &other).await;
    for stage in [&good, &other] {
        stage::permit(plane, MODE, &stage.namespace).await;
    }
    let mut waiting = Vec::new();
    for stage in [&bare, &other] {
        let token = stage.token("ci");
        stage.create("ci", json!({})).await;
        waiting.push((stage, token));
    }

    let account = plane.service_account(stage::HOME, MODE.account()).await;
    let mut flags = MODE.flags(&named);
    flags.push("--leader-election=false".into());
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let operator = Operator::start(account.unwrap(), &astro, &flags);
    good.token("ci");
    good.create("ci", json!({})).await;
    good.until_rotated("ci", 1).await;
    for (stage, token) in &waiting {
        let resource = stage.resources().get("ci").await.unwrap();
        assert_eq!(resource.status, None, "worked on in {}", stage.namespace);
        assert_eq!(astro.rotations(&token.id), 0);
    }

    stage::permit(plane, MODE, &bare.namespace).await;
    bare.until_rotated("ci", 1).await;
    let late = stage_in(plane, &astro, &absent).await;
    stage::permit(plane, MODE, &absent).await;
    late.token("ci");
    late.create("ci", json!({})).await;
    late.until_rotated("ci", 1).await;
    let untouched = other.resources().get("ci").await.unwrap();
    assert_eq!(untouched.status, None, "it was not told of this namespace");
    operator.stop().await.unwrap();
    for stage in [good, bare, late] {
        stage.assert_no_leak().await;
    }
}
