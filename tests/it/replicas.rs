//! Two replicas: killed, ended, paused and cut off at random, or both at work at once, they double nothing.

use crate::stage::{self, Stage};
use lab::astro::{Astro, Fault, Operation, Step};
use lab::crash::Storm;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_two_replicas_doubles_nothing_and_leaves_nothing_unhealed() {
    let storm = Storm {
        replicas: 2,
        resources: 16,
        every: Duration::from_secs(5),
        lasts: Duration::from_secs(45),
        pace: 0.3,
        seed: fastrand::u64(..),
    };
    println!("{storm:?}");
    let aftermath = storm.blow().await.unwrap();
    println!("{aftermath}");
    assert!(aftermath.doubled.is_empty(), "{:#?}", aftermath.doubled);
    assert!(aftermath.unhealed.is_empty(), "{:#?}", aftermath.unhealed);
    assert!(aftermath.done > 0 && !aftermath.accidents.is_empty());
}

/// Both act at once, as after a lease that was lost without noticing: the fence alone keeps them apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_believe_to_lead_rotate_each_token_once() {
    const RESOURCES: usize = 12;
    const ROUNDS: usize = 4;
    let astro = Astro::start().await.unwrap();
    // Both have planned before one of them has called.
    let slow = Step::Delay(Duration::from_millis(300));
    astro.fault(Fault::on(Operation::Get).before(slow));
    let stage = Stage::new(&astro).await;
    let mut both = Vec::new();
    for pod in ["--pod-name=one", "--pod-name=two"] {
        let flags = ["--leader-election=false", "--audit-interval=1h", pod];
        both.push(stage.operator(&flags).await);
    }
    let names: Vec<_> = (0..RESOURCES).map(|n| format!("twice-{n}")).collect();
    let mut tokens = Vec::new();
    for name in &names {
        tokens.push(stage.token(name));
        stage.create(name, json!({})).await;
    }
    for round in 1..=ROUNDS {
        for (name, token) in names.iter().zip(&tokens) {
            stage.until_rotated(name, round).await;
            assert_eq!(astro.rotations(&token.id), round, "{name}");
            assert!(stage.holds_live(name).await, "{name}");
        }
        for name in &names {
            stage.request(name, &format!("round {round}")).await;
        }
    }
    for operator in both {
        operator.stop().await.unwrap();
    }
    stage.assert_no_leak().await;
}

/// The list says that the value is dead, and the look that is to confirm it fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_whose_look_was_not_answered_looks_again_before_the_next_audit() {
    const SOON: Duration = Duration::from_secs(90);
    let astro = Astro::start().await.unwrap();
    let flags = ["--leader-election=false", "--audit-interval=1h"];
    let stage = Stage::new(&astro).await;
    let first = stage.operator(&flags).await;
    let token = stage.token("looked-at");
    stage.create("looked-at", json!({})).await;
    stage.until_rotated("looked-at", 1).await;
    first.stop().await.unwrap();

    stage::next_second().await;
    astro.rotate(&token.id);
    let silent = Fault::on(Operation::Get).token(&token.id).once();
    let silent = astro.fault(silent.before(Step::Close));
    let second = stage.operator(&flags).await;
    silent.reached().await;
    let reclaimed = astro.until(|astro| astro.rotations(&token.id) == 2);
    let reclaimed = tokio::time::timeout(SOON, reclaimed).await;
    reclaimed.expect("not before the next audit");
    stage.until_rotated("looked-at", 2).await;
    assert!(stage.holds_live("looked-at").await);
    second.stop().await.unwrap();
    stage.assert_no_leak().await;
}
