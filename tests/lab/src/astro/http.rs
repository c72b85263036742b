//! The way of a request from the wire to its effect and back, and what goes wrong on it.

use super::World;
use super::answer::{refusal, spoil};
use super::call::Call;
use super::operations::perform;
use super::wire::Line;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Answers one request.
pub(super) async fn serve(
    State(world): State<Arc<World>>,
    ConnectInfo(line): ConnectInfo<Line>,
    request: Request,
) -> Response {
    let call = match Call::read(request).await {
        Ok(call) => call,
        Err(answer) => return answer.into_response(),
    };
    // A server does not notice that its client has left: the work goes on in a task of its own.
    match tokio::spawn(work(world, line, call)).await {
        Ok(Some(response)) => response,
        // The line is cut, which ends this wait too.
        Ok(None) => std::future::pending().await,
        Err(_) => refusal(500, "the simulator itself failed").into_response(),
    }
}

/// Notes the call and handles it; `None`: the line is cut.
async fn work(world: Arc<World>, line: Line, call: Call) -> Option<Response> {
    let credential = call.bearer.as_deref().and_then(|v| world.token_of(v));
    let entry = world.note(&call, credential.as_deref());
    let response = handle(&world, &line, &call, credential.as_deref()).await;
    let response = response.filter(|_| !line.is_cut());
    world.conclude(entry, response.as_ref().map(|r| r.status().as_u16()));
    response
}

async fn handle(
    world: &World,
    line: &Line,
    call: &Call,
    credential: Option<&str>,
) -> Option<Response> {
    if let Some(reply) = world.over_limit(call.operation, credential) {
        return Some(reply.into_response());
    }
    let id = call.id.as_deref();
    let Some(met) = world.faults.meet(call.operation, id, credential) else {
        return Some(perform(world, call).into_response());
    };
    if let ControlFlow::Break(end) = met.walk(&met.fault.before, line).await {
        return end;
    }
    let answer = perform(world, call);
    if let ControlFlow::Break(end) = met.walk(&met.fault.after, line).await {
        return end;
    }
    Some(match met.fault.damage {
        Some(damage) if answer.status == 200 => spoil(answer, damage),
        _ => answer.into_response(),
    })
}
