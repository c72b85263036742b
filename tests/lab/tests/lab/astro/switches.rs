//! Each setting, seen from the client's side.

use super::{Lab, names, status, success};
use jiff::{SignedDuration, Timestamp};
use lab::astro::{Limits, NewToken, Reply};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn calls_over_the_limit_are_answered_429() {
    let lab = Lab::start().await;
    let second = lab.astro.create(NewToken::owner("second", &lab.workspace));
    let rotate = format!("/tokens/{}/rotate", lab.token.id);
    let refused = async |value: &str| {
        let calls = (0..60).map(|_| lab.request_as(value, Method::POST, &rotate).send());
        let answers = futures::future::join_all(calls).await;
        let refused = answers.into_iter().flatten().filter(|a| a.status() == 429);
        refused
            .filter(|a| a.headers()["retry-after"] == "1")
            .count()
    };
    assert_eq!(refused(&lab.owner.value).await, 0);
    lab.astro.settings(|s| {
        s.limits = Some(Limits::default());
        s.limited = Reply::json(429).header("retry-after", "1");
    });
    // Ten calls are allowed at once, and some of the budget may come back meanwhile.
    for value in [&lab.owner.value, &second.value] {
        let before = lab.rotations();
        let refused = refused(value).await;
        assert!((1..=50).contains(&refused), "{refused}");
        assert_eq!(lab.rotations() - before, 60 - refused);
    }
    // Reads have a budget of their own.
    lab.get_token().await;

    lab.astro.settings(|s| {
        let shared = true;
        s.limits = Some(Limits {
            shared,
            ..Limits::default()
        });
    });
    refused(&lab.owner.value).await;
    let unspent = lab.astro.create(NewToken::owner("third", &lab.workspace));
    let refused = refused(&unspent.value).await;
    assert!(refused > 50, "{refused}");
}

#[tokio::test]
async fn reads_can_be_stale() {
    let lab = Lab::start().await;
    lab.astro
        .settings(|s| s.clock_ahead = SignedDuration::from_hours(2));
    lab.rotated().await;
    let fresh = lab.get_token().await;
    lab.astro.settings(|s| s.stale = Duration::from_secs(3600));
    let stale = lab.get_token().await;
    assert_ne!(stale["shortToken"], fresh["shortToken"]);
    assert!(stale.get("lastRotatedAt").is_none());
    assert_eq!(lab.list("").await["tokens"][1], stale);
    lab.astro.delete(&lab.token.id);
    assert_eq!(lab.get_token().await, stale);
    lab.astro
        .settings(|s| s.clock_ahead = SignedDuration::from_hours(4));
    assert_eq!(names(&lab.list("").await), ["owner"]);
}

#[tokio::test]
async fn the_end_is_renewed_or_kept() {
    let lab = Lab::start().await;
    let days = NewToken::workspace("days", &lab.workspace).expires(2);
    let id = lab.astro.create(days).id;
    let end = |token: &Value| -> Timestamp { token["endAt"].as_str().unwrap().parse().unwrap() };
    let rotate = async || success(lab.rotate_id(&id).send().await.unwrap()).await;
    let first = end(&lab.get(&format!("/tokens/{id}")).await);

    lab.astro
        .settings(|s| s.clock_ahead = SignedDuration::from_hours(24));
    lab.astro.settings(|s| s.renews_end = false);
    assert_eq!(end(&rotate().await), first);
    lab.astro.settings(|s| s.renews_end = true);
    let renewed = rotate().await;
    assert!(end(&renewed) >= first + SignedDuration::from_hours(24));
    assert_eq!(renewed["startAt"], renewed["lastRotatedAt"]);

    let value = lab.astro.live_value(&id).unwrap();
    lab.astro.set_end(&id, Some(Timestamp::now()));
    assert!(!lab.astro.is_live(&value));
    assert_eq!(lab.astro.live_value(&id), None);
    lab.astro.settings(|s| s.rotates_expired = false);
    assert_eq!(status(lab.rotate_id(&id)).await, 400);
    lab.astro.settings(|s| s.rotates_expired = true);
    let revived = rotate().await;
    assert!(lab.astro.is_live(revived["token"].as_str().unwrap()));
}

#[tokio::test]
async fn the_old_value_may_live_on_for_a_while() {
    let lab = Lab::start().await;
    lab.astro
        .settings(|s| s.old_value_lives = Duration::from_secs(3600));
    lab.rotated().await;
    assert!(lab.astro.is_live(&lab.token.value));
    lab.astro
        .settings(|s| s.clock_ahead = SignedDuration::from_hours(2));
    assert!(!lab.astro.is_live(&lab.token.value));
}

#[tokio::test]
async fn a_token_may_or_may_not_rotate_itself() {
    let lab = Lab::start().await;
    lab.astro.settings(|s| s.self_rotation = false);
    assert_eq!(status(lab.rotate_id(&lab.owner.id)).await, 403);
    lab.astro.settings(|s| s.self_rotation = true);
    assert_eq!(status(lab.rotate_id(&lab.owner.id)).await, 200);
    assert_eq!(status(lab.rotate()).await, 401);
}

#[tokio::test]
async fn bodies_vary() {
    let lab = Lab::start().await;
    lab.astro.settings(|s| s.nulls = true);
    let token = lab.get_token().await;
    for field in ["lastRotatedAt", "endAt", "token"] {
        assert_eq!(token.get(field), Some(&Value::Null), "{field}");
    }
    lab.astro.settings(|s| {
        s.nulls = false;
        s.extra_fields = true;
        s.short_token_changes = false;
        s.tells_last_rotation = false;
    });
    let rotated = lab.rotated().await;
    assert!(rotated.get("lastRotatedAt").is_none() && rotated["unheardOf"].is_object());
    assert_eq!(rotated["shortToken"], token["shortToken"]);
    assert_eq!(lab.list("").await["unheardOf"], true);

    lab.astro.settings(|s| {
        s.tells_last_rotation = true;
        s.fractional_seconds = true;
    });
    // One in a thousand times has no milliseconds by chance.
    let mut fractional = 0;
    for _ in 0..3 {
        let at = lab.rotated().await["lastRotatedAt"].clone();
        fractional += usize::from(at.as_str().unwrap().contains('.'));
    }
    assert!(fractional > 0);
    lab.list("").await;
    let used = lab.get(&format!("/tokens/{}", lab.owner.id)).await;
    assert!(used["lastUsedAt"].is_string());
}
