//! The admin API: what tests do through [`World`], as JSON over HTTP, for people and other processes.

use super::answer::refusal;
use super::{Fault, Issued, NewToken, Request, Settings, World};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

type Shared = State<Arc<World>>;

/// All admin routes, relative to `/admin`.
pub(super) fn router() -> Router<Arc<World>> {
    Router::new()
        .route("/", get(about))
        .route("/tokens", get(list).post(create))
        .route("/tokens/{id}", axum::routing::delete(delete))
        .route("/tokens/{id}/rotate", post(rotate))
        .route("/live", post(live))
        .route("/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/faults/{id}/release", post(release))
        .route("/settings", get(settings).patch(change_settings))
        .route("/requests", get(requests).delete(clear_requests))
        .route("/stop", post(stop))
}

async fn about(State(world): Shared) -> Json<Value> {
    Json(json!({"organization": world.organization(), "workspace": world.workspace()}))
}

async fn list(State(world): Shared) -> Json<Value> {
    let tokens = world.tokens().into_iter().map(|(record, live)| {
        let mut token = json!(record);
        token["live"] = live.into();
        token["rotations"] = world.rotations(&record.id).into();
        token
    });
    Json(tokens.collect())
}

async fn create(State(world): Shared, Json(token): Json<NewToken>) -> Json<Issued> {
    Json(world.create(token))
}

async fn rotate(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.try_rotate(&id) {
        Some(value) => Json(Issued { id, value }).into_response(),
        None => refusal(404, "no such token").into_response(),
    }
}

async fn delete(State(world): Shared, Path(id): Path<String>) -> Response {
    match world.try_delete(&id) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => refusal(404, "no such token").into_response(),
    }
}

#[derive(Deserialize)]
struct Asked {
    value: String,
}

async fn live(State(world): Shared, Json(asked): Json<Asked>) -> Json<Value> {
    let value = asked.value.trim();
    Json(json!({"live": world.is_live(value), "token": world.token_of(value)}))
}

async fn faults(State(world): Shared) -> Json<Value> {
    let faults = world.faults.handles().into_iter();
    Json(
        faults
            .map(|f| json!({"id": f.id(), "hits": f.hits(), "fault": f.fault()}))
            .collect(),
    )
}

async fn add_fault(State(world): Shared, Json(fault): Json<Fault>) -> Json<Value> {
    Json(json!({"id": world.fault(fault).id()}))
}

async fn clear_faults(State(world): Shared) -> StatusCode {
    world.clear_faults();
    StatusCode::NO_CONTENT
}

async fn release(State(world): Shared, Path(id): Path<u64>) -> Response {
    match world.faults.handles().into_iter().find(|f| f.id() == id) {
        Some(fault) => {
            fault.release();
            StatusCode::NO_CONTENT.into_response()
        }
        None => refusal(404, "no such fault").into_response(),
    }
}

async fn settings(State(world): Shared) -> Json<Settings> {
    Json(world.current_settings())
}

async fn change_settings(
    State(world): Shared,
    Json(changes): Json<Map<String, Value>>,
) -> Response {
    let mut settings = json!(world.current_settings());
    for (name, value) in changes {
        settings[name] = value;
    }
    match serde_json::from_value::<Settings>(settings) {
        Ok(new) => {
            world.settings(|settings| *settings = new.clone());
            Json(new).into_response()
        }
        Err(error) => refusal(400, &error.to_string()).into_response(),
    }
}

async fn requests(State(world): Shared) -> Json<Vec<Request>> {
    Json(world.requests())
}

async fn clear_requests(State(world): Shared) -> StatusCode {
    world.clear_requests();
    StatusCode::NO_CONTENT
}

async fn stop(State(world): Shared) -> StatusCode {
    world.stop();
    StatusCode::NO_CONTENT
}
