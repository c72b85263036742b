//! Each fault, seen from the client's side.

use super::{Lab, soon, status, success};
use lab::astro::{Damage, Fault, NewToken, Operation, Reply, Step};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::{Duration, Instant};

#[tokio::test]
async fn made_up_answers_come_in_all_forms_and_before_the_effect() {
    let lab = Lab::start().await;
    for (reply, kind, in_body) in [
        (Reply::json(500), Some("application/json"), "requestId"),
        (
            Reply::text(502).message("bad gateway"),
            Some("text/plain"),
            "bad gateway",
        ),
        (Reply::html(503), Some("text/html"), "<html>"),
        (Reply::empty(429).header("retry-after", "7"), None, ""),
        (
            Reply::empty(307).header("location", "http://elsewhere"),
            None,
            "",
        ),
    ] {
        lab.fault(rotate_fault().before(Step::Answer(reply.clone())));
        let response = lab.rotate().send().await.unwrap();
        assert_eq!(response.status(), reply.status);
        let headers = response.headers();
        assert_eq!(
            headers.get("content-type").map(|v| v.to_str().unwrap()),
            kind
        );
        for (name, value) in &reply.headers {
            assert_eq!(headers[name], value);
        }
        assert!(response.text().await.unwrap().contains(in_body));
    }
    assert_eq!(lab.rotations(), 0);
    assert!(lab.astro.is_live(&lab.token.value));

    lab.fault(rotate_fault().after(Step::Answer(Reply::json(504))));
    assert_eq!(status(lab.rotate()).await, 504);
    assert_eq!(lab.rotations(), 1);
}

#[tokio::test]
async fn a_connection_closes_without_an_answer_before_or_after_the_effect() {
    let lab = Lab::start().await;
    let rows = [
        (rotate_fault().before(Step::Close), false, 0),
        (rotate_fault().before(Step::Reset), true, 0),
        (rotate_fault().after(Step::Close), false, 1),
        (rotate_fault().after(Step::Reset), true, 1),
    ];
    for (fault, reset, rotations) in rows {
        // One connection is warm, one fresh: both must end.
        for warm in [true, false] {
            lab.astro.clear_requests();
            let (before, client) = (lab.rotations(), Lab::start().await.http);
            let request = lab.rotate().build().unwrap();
            if warm {
                lab.get_token().await;
            }
            lab.fault(fault.clone());
            let client = if warm { &lab.http } else { &client };
            let error = client.execute(request).await.unwrap_err();
            assert_eq!(error.status(), None);
            assert!(!error.is_connect() && error.is_request(), "{error:?}");
            let text = format!("{error:?}");
            assert_eq!(text.contains("ConnectionReset"), reset, "{text}");
            assert_eq!(lab.rotations() - before, rotations);
            let last = lab.astro.requests().pop().unwrap();
            assert_eq!((last.operation, last.status), (Operation::Rotate, None));
        }
    }
    lab.rotated().await;
}

#[tokio::test]
async fn a_cut_body_is_an_error_after_a_200_and_the_value_is_lost() {
    let lab = Lab::start().await;
    lab.fault(rotate_fault().damage(Damage::Cut));
    let response = lab.rotate().send().await.unwrap();
    assert_eq!(response.status(), 200);
    let error = response.bytes().await.unwrap_err();
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    assert_eq!(lab.rotations(), 1);
    assert!(!lab.astro.is_live(&lab.token.value));
}

#[tokio::test]
async fn a_200_can_be_wrong_in_many_ways() {
    let lab = Lab::start().await;
    let damaged = async |damage| {
        lab.fault(rotate_fault().damage(damage));
        let response = lab.rotate().send().await.unwrap();
        assert_eq!(response.status(), 200);
        response
    };
    let text = damaged(Damage::Truncated).await.text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());
    assert!(text.contains(&lab.astro.live_value(&lab.token.id).unwrap()));

    let json: Value = damaged(Damage::NoToken).await.json().await.unwrap();
    assert!(json.get("token").is_none() && json["id"].is_string());
    let json: Value = damaged(Damage::OtherId).await.json().await.unwrap();
    assert_ne!(json["id"], lab.token.id.as_str());
    let json: Value = damaged(Damage::NoLastRotatedAt).await.json().await.unwrap();
    assert!(json.get("lastRotatedAt").is_none() && json["token"].is_string());
    let response = damaged(Damage::Html).await;
    assert_eq!(response.headers()["content-type"], "text/html");
    assert_eq!(lab.rotations(), 5);

    lab.fault(Fault::on(Operation::Get).damage(Damage::OtherId));
    assert_ne!(lab.get_token().await["id"], lab.token.id.as_str());
    assert_eq!(
        status(lab.request(Method::GET, "/tokens/unknown")).await,
        404
    );
}

#[tokio::test]
async fn a_held_request_waits_for_its_release_even_when_its_client_leaves() {
    let lab = Lab::start().await;
    let hold = lab.fault(rotate_fault().before(Step::Hold));
    let call = tokio::spawn(lab.rotate().send());
    soon(hold.reached()).await;
    assert_eq!((lab.rotations(), hold.hits()), (0, 1));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(lab.rotations(), 0);
    hold.release();
    lab.rotated_times(1).await;

    let hold = lab.fault(rotate_fault().after(Step::Hold));
    let call = tokio::spawn(lab.rotate().send());
    soon(hold.reached()).await;
    assert_eq!(lab.rotations(), 2);
    assert!(!call.is_finished());
    hold.release();
    let rotated = success(call.await.unwrap().unwrap()).await;
    assert!(lab.astro.is_live(rotated["token"].as_str().unwrap()));

    let hold = lab.fault(Fault::on(Operation::Rotate).before(Step::Hold));
    let calls = [
        tokio::spawn(lab.rotate().send()),
        tokio::spawn(lab.rotate().send()),
    ];
    soon(hold.reached_times(2)).await;
    lab.astro.clear_faults();
    for call in calls {
        success(call.await.unwrap().unwrap()).await;
    }
    assert_eq!(lab.rotations(), 4);
}

#[tokio::test]
async fn a_slow_rotation_lands_after_its_client_gave_up() {
    let lab = Lab::start().await;
    let delay = Duration::from_millis(300);
    let begun = Instant::now();
    lab.fault(rotate_fault().before(Step::Delay(delay)));
    let error = lab.rotate().timeout(delay / 3).send().await.unwrap_err();
    assert!(error.is_timeout());
    lab.rotated_times(1).await;
    assert!(begun.elapsed() >= delay);

    lab.fault(rotate_fault().after(Step::Delay(delay)));
    let begun = Instant::now();
    lab.rotated().await;
    assert!(begun.elapsed() >= delay);
}

#[tokio::test]
async fn a_late_rotation_lands_after_its_connection_closed() {
    let lab = Lab::start().await;
    let (begun, delay) = (Instant::now(), Duration::from_millis(300));
    lab.fault(rotate_fault().late(delay));
    let error = lab.rotate().send().await.unwrap_err();
    assert!(!error.is_timeout() && error.status().is_none());
    lab.rotated_times(1).await;
    assert!(begun.elapsed() >= delay);

    let late = lab.fault(rotate_fault().before(Step::HangUp).before(Step::Hold));
    lab.rotate().send().await.unwrap_err();
    soon(late.reached()).await;
    assert_eq!(lab.rotations(), 1);
    late.release();
    lab.rotated_times(2).await;
    lab.rotated().await;
    let statuses: Vec<_> = lab.astro.requests().iter().map(|r| r.status).collect();
    assert_eq!(statuses, [None, None, Some(200)]);
}

#[tokio::test]
async fn faults_are_used_in_order_and_only_where_they_fit() {
    let lab = Lab::start().await;
    let other = lab
        .astro
        .create(NewToken::workspace("other", &lab.workspace));
    let second = lab.astro.create(NewToken::owner("second", &lab.workspace));
    let answer = |fault: Fault, status| lab.fault(fault.before(Step::Answer(Reply::json(status))));
    let path = format!("/tokens/{}", lab.token.id);
    let get = || lab.request(Method::GET, &path);

    answer(Fault::on(Operation::Get).times(2), 500);
    answer(Fault::on(Operation::Get).once(), 503);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(status(get()).await.as_u16());
    }
    assert_eq!(seen, [500, 500, 503, 200]);

    let by_token = answer(Fault::any().token(&lab.token.id), 501);
    assert_eq!(status(get()).await, 501);
    assert_eq!(status(lab.rotate()).await, 501);
    assert_eq!(status(lab.rotate_id(&other.id)).await, 200);
    by_token.clear();
    assert_eq!((status(get()).await, by_token.hits()), (StatusCode::OK, 2));

    answer(Fault::any().credential(&second.id), 403);
    assert_eq!(status(get()).await, 200);
    assert_eq!(
        status(lab.request_as(&second.value, Method::GET, &path)).await,
        403
    );
    lab.astro.clear_faults();
    assert_eq!(
        status(lab.request_as(&second.value, Method::GET, &path)).await,
        200
    );
}

fn rotate_fault() -> Fault {
    Fault::on(Operation::Rotate).once()
}
