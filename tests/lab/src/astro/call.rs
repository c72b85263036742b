//! One request: which operation it is, and what it asks for.

use super::Operation;
use super::answer::{Answer, invalid, refusal};
use super::token::{NewToken, Scope};
use axum::body::{Bytes, to_bytes};
use axum::extract::{Query, Request};
use axum::http::{HeaderMap, HeaderName, Method, header};
use serde_json::Value;

/// Larger bodies are refused; no operation needs as much.
const MAX_BODY: usize = 64 * 1024;

/// A request that was read. Has no `Debug`: it holds a value.
pub(super) struct Call {
    pub operation: Operation,
    pub organization: Option<String>,
    /// Of a token, or of a Workspace.
    pub id: Option<String>,
    pub bearer: Option<String>,
    pub user_agent: Option<String>,
    params: Vec<(String, String)>,
    body: Bytes,
}

impl Call {
    /// Tells the operation from method and path; the table is the whole API.
    pub async fn read(request: Request) -> Result<Call, Answer> {
        use Operation::*;
        let (head, body) = request.into_parts();
        let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
        let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
        let ["v1", "organizations", rest @ ..] = path.as_slice() else {
            return Err(refusal(404, "no such path"));
        };
        let table = match rest {
            [] => vec![(get, ListOrganizations)],
            [_, "tokens"] => vec![(get, List), (post, Create)],
            [_, "tokens", _] => vec![(get, Get), (post, Update), (delete, Delete)],
            [_, "tokens", _, "rotate"] => vec![(post, Rotate)],
            [_, "workspaces"] => vec![(get, ListWorkspaces)],
            [_, "workspaces", _] => vec![(get, GetWorkspace)],
            _ => return Err(refusal(404, "no such path")),
        };
        let entry = table.into_iter().find(|(method, _)| *method == head.method);
        let (_, operation) = entry.ok_or_else(|| refusal(405, "no such method"))?;
        let params = Query::<Vec<(String, String)>>::try_from_uri(&head.uri);
        let bearer = text(&head.headers, header::AUTHORIZATION);
        Ok(Call {
            operation,
            organization: rest.first().map(|&id| id.to_owned()),
            id: rest.get(2).map(|&id| id.to_owned()),
            bearer: bearer.and_then(|v| v.strip_prefix("Bearer ").map(str::to_owned)),
            user_agent: text(&head.headers, header::USER_AGENT),
            params: params.map_err(|_| invalid("query", "malformed"))?.0,
            body: to_bytes(body, MAX_BODY)
                .await
                .map_err(|_| refusal(400, "unreadable body"))?,
        })
    }

    /// Id of the token or Workspace in the path.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// First value of a query parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params(name).next()
    }

    /// All values of a query parameter.
    pub fn params(&self, name: &str) -> impl DoubleEndedIterator<Item = &str> {
        let named = self.params.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// `offset` and `limit`.
    pub fn window(&self) -> Result<(usize, usize), Answer> {
        let number = |name, default, max| match self.param(name).map(str::parse) {
            None => Ok(default),
            Some(Ok(n)) if n <= max => Ok(n),
            Some(_) => Err(invalid(name, "out of range")),
        };
        Ok((number("offset", 0, usize::MAX)?, number("limit", 20, 1000)?))
    }

    /// The token that a create asks for.
    pub fn new_token(&self, organization: &str) -> Result<NewToken, Answer> {
        let mut new: NewToken =
            serde_json::from_slice(&self.body).map_err(|_| invalid("body", "malformed"))?;
        check_length("name", &new.name, 1, 256)?;
        check_length("description", &new.description, 0, 500)?;
        if new.expiry_days.is_some_and(|d| !(1..=3650).contains(&d)) {
            return Err(invalid("tokenExpiryPeriodInDays", "out of range"));
        }
        match new.scope {
            Scope::Organization => new.entity_id = Some(organization.to_owned()),
            _ if new.entity_id.is_none() => return Err(invalid("entityId", "required")),
            _ => {}
        }
        // Not in the vendor's API, only in ours.
        new.roles.clear();
        new.deployed_in = None;
        Ok(new)
    }

    /// Name and, if it is to change, description that an update asks for.
    pub fn new_name(&self) -> Result<(String, Option<String>), Answer> {
        let body: Value =
            serde_json::from_slice(&self.body).map_err(|_| invalid("body", "malformed"))?;
        let field = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = field("name").ok_or_else(|| invalid("name", "required"))?;
        let description = field("description");
        check_length("name", &name, 1, 256)?;
        check_length(
            "description",
            description.as_deref().unwrap_or_default(),
            0,
            500,
        )?;
        Ok((name, description))
    }
}

fn check_length(field: &str, text: &str, min: usize, max: usize) -> Result<(), Answer> {
    if (min..=max).contains(&text.chars().count()) {
        Ok(())
    } else {
        Err(invalid(field, "length out of range"))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
