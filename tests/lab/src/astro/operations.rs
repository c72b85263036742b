//! What each operation does, and to whom it is allowed.

use super::answer::{Answer, invalid, refusal, render};
use super::call::Call;
use super::registry::Registry;
use super::settings::Settings;
use super::token::{Record, Scope};
use super::{Kind, Operation, World};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::cmp::Ordering;

/// Lets the call take effect.
pub(super) fn perform(world: &World, call: &Call) -> Answer {
    world
        .change(|state| {
            let mut desk = Desk {
                now: state.now(),
                registry: &mut state.registry,
                settings: &state.settings,
                organization: world.organization(),
                call,
            };
            desk.perform()
        })
        .unwrap_or_else(|refused| refused)
}

/// All that one operation has to do with.
struct Desk<'a> {
    registry: &'a mut Registry,
    settings: &'a Settings,
    organization: &'a str,
    now: Timestamp,
    call: &'a Call,
}

impl Desk<'_> {
    fn perform(&mut self) -> Result<Answer, Answer> {
        let bearer = self.call.bearer.as_deref().unwrap_or_default();
        let caller = self
            .registry
            .authenticate(bearer, self.now, self.settings)
            .ok_or_else(|| refusal(401, "Unauthorized"))?;
        let organization = self.call.organization.as_deref();
        permit(organization.is_none_or(|o| o == self.organization))?;
        match self.call.operation {
            Operation::List => self.list(&caller),
            Operation::Get => self.get(&caller),
            Operation::Rotate => self.rotate(&caller),
            Operation::Create => self.create(&caller),
            Operation::Update => self.update(&caller),
            Operation::Delete => self.delete(&caller),
            Operation::ListOrganizations => self.list_organizations(),
            Operation::ListWorkspaces => self.list_workspaces(&caller),
            Operation::GetWorkspace => self.get_workspace(&caller),
        }
    }

    fn list(&self, caller: &Record) -> Result<Answer, Answer> {
        let of_deployment = |record: &Record, id| record.has_role_on("DEPLOYMENT", id);
        let (workspace, deployment) = (
            self.call.param("workspaceId"),
            self.call.param("deploymentId"),
        );
        permit(match (workspace, deployment) {
            (Some(workspace), _) => caller.owns(workspace),
            (None, Some(id)) => self
                .registry
                .list(self.seen())
                .any(|record| of_deployment(record, id) && caller.may_manage(record)),
            (None, None) => caller.owns_organization(),
        })?;
        let kind: Option<Kind> = self
            .call
            .param("kind")
            .map(|kind| serde_json::from_value(kind.into()))
            .transpose()
            .map_err(|_| invalid("kind", "not one of the allowed values"))?;
        let organization_only = self.call.param("includeOnlyOrganizationTokens") == Some("true");
        let on = |record: &Record, param, entity| {
            let mut wanted = self.call.params(param);
            wanted.all(|id| record.has_role_on(entity, id))
        };
        let mut records: Vec<&Record> = self
            .registry
            .list(self.seen())
            .filter(|record| {
                on(record, "workspaceId", "WORKSPACE")
                    && on(record, "deploymentId", "DEPLOYMENT")
                    && on(record, "dagId", "DAG")
                    && on(record, "dagTags", "DAG_TAG")
                    && kind.is_none_or(|kind| record.kind == kind)
                    && (!organization_only || record.scope == Scope::Organization)
            })
            .collect();
        // The least significant key first: the sort is stable.
        for sort in self.call.params("sorts").rev() {
            let order =
                order(sort).ok_or_else(|| invalid("sorts", "not one of the allowed values"))?;
            records.sort_by(order);
        }
        self.page("tokens", &records, |r| render(r, None, self.settings))
    }

    fn get(&self, caller: &Record) -> Result<Answer, Answer> {
        let record = self.registry.get(self.call.id(), self.seen());
        let record = record.ok_or_else(unknown)?;
        permit(caller.may_read(record))?;
        Ok(Answer::ok(render(record, None, self.settings)))
    }

    fn rotate(&mut self, caller: &Record) -> Result<Answer, Answer> {
        let id = self.call.id();
        let record = self.managed(caller)?;
        permit(self.settings.self_rotation || caller.id != id)?;
        if record.expired(self.now) && !self.settings.rotates_expired {
            return Err(refusal(400, "Invalid request: the token is expired"));
        }
        let (record, value) = self
            .registry
            .rotate(id, caller.profile(), self.now, self.settings)
            .ok_or_else(unknown)?;
        self.registry.count_rotation(id);
        Ok(Answer::ok(render(&record, Some(&value), self.settings)))
    }

    fn create(&mut self, caller: &Record) -> Result<Answer, Answer> {
        let new = self.call.new_token(self.organization)?;
        permit(match (new.scope, &new.entity_id) {
            (Scope::Workspace, Some(workspace)) => caller.owns(workspace),
            _ => caller.owns_organization(),
        })?;
        let by = caller.profile();
        let (record, value) = self.registry.create(new, by, self.now, self.settings);
        Ok(Answer::ok(render(&record, Some(&value), self.settings)))
    }

    fn update(&mut self, caller: &Record) -> Result<Answer, Answer> {
        self.managed(caller)?;
        let (name, description) = self.call.new_name()?;
        let edit = |record: &mut Record, _| {
            record.name = name;
            if let Some(description) = description {
                record.description = description;
            }
        };
        let (id, by) = (self.call.id(), caller.profile());
        let record = self.registry.change(id, by, self.now, self.settings, edit);
        let record = record.ok_or_else(unknown)?;
        Ok(Answer::ok(render(&record, None, self.settings)))
    }

    fn delete(&mut self, caller: &Record) -> Result<Answer, Answer> {
        self.managed(caller)?;
        self.registry.delete(self.call.id(), self.now);
        Ok(Answer::no_content())
    }

    fn list_organizations(&self) -> Result<Answer, Answer> {
        let only = json!({
            "id": self.organization,
            "name": "Simulated",
            "product": "HOSTED",
            "isScimEnabled": false,
            "status": "ACTIVE",
            "supportPlan": "BASIC",
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
        });
        self.page("organizations", &[only], Value::clone)
    }

    fn list_workspaces(&self, caller: &Record) -> Result<Answer, Answer> {
        let wanted = |name, is: &str| {
            let mut all = self.call.params(name).peekable();
            all.peek().is_none() || all.any(|one| one == is)
        };
        let workspaces =
            self.registry.workspaces().iter().filter(|(id, _)| {
                caller.sees(id) && wanted("workspaceIds", id) && wanted("names", id)
            });
        let visible: Vec<_> = workspaces.collect();
        self.page("workspaces", &visible, |(id, since)| {
            self.workspace(id, **since)
        })
    }

    fn get_workspace(&self, caller: &Record) -> Result<Answer, Answer> {
        let id = self.call.id();
        let since = self.registry.workspaces().get(id).ok_or_else(unknown)?;
        permit(caller.sees(id))?;
        Ok(Answer::ok(self.workspace(id, *since)))
    }

    /// The token in question as it is, if the caller may manage it.
    fn managed(&self, caller: &Record) -> Result<&Record, Answer> {
        let record = self.registry.current(self.call.id());
        let record = record.ok_or_else(unknown)?;
        permit(caller.may_manage(record))?;
        Ok(record)
    }

    /// The time whose state reads show.
    fn seen(&self) -> Timestamp {
        let stale = self.now.saturating_sub(self.settings.stale);
        stale.unwrap_or(Timestamp::MIN)
    }

    /// The page asked for.
    fn page<T>(
        &self,
        name: &str,
        items: &[T],
        show: impl Fn(&T) -> Value,
    ) -> Result<Answer, Answer> {
        let (offset, limit) = self.call.window()?;
        let size = limit.min(self.settings.page_cap);
        let shown: Vec<Value> = items.iter().skip(offset).take(size).map(show).collect();
        let mut page = json!({"limit": limit, "offset": offset, "totalCount": items.len()});
        page[name] = shown.into();
        if self.settings.extra_fields {
            page["unheardOf"] = true.into();
        }
        Ok(Answer::ok(page))
    }

    fn workspace(&self, id: &str, since: Timestamp) -> Value {
        json!({
            "id": id,
            "name": id,
            "organizationId": self.organization,
            "cicdEnforcedDefault": false,
            "createdAt": since,
            "updatedAt": since,
        })
    }
}

/// How a sort key such as `name:asc` compares two tokens.
fn order(sort: &str) -> Option<impl Fn(&&Record, &&Record) -> Ordering> {
    let (key, direction) = sort.split_once(':')?;
    let compare: fn(&Record, &Record) -> Ordering = match key {
        "name" => |a, b| a.name.cmp(&b.name),
        "description" => |a, b| a.description.cmp(&b.description),
        "createdAt" => |a, b| a.created_at.cmp(&b.created_at),
        "updatedAt" => |a, b| a.updated_at.cmp(&b.updated_at),
        "tokenStartAt" => |a, b| a.start_at.cmp(&b.start_at),
        _ => return None,
    };
    let descending = match direction {
        "asc" => false,
        "desc" => true,
        _ => return None,
    };
    Some(move |a: &&Record, b: &&Record| {
        if descending {
            compare(b, a)
        } else {
            compare(a, b)
        }
    })
}

fn permit(allowed: bool) -> Result<(), Answer> {
    if allowed {
        Ok(())
    } else {
        Err(refusal(403, "Forbidden"))
    }
}

fn unknown() -> Answer {
    refusal(404, "Not found")
}
