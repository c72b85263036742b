//! Everything the simulator knows, and what tests may ask of it and do to it from outside.

use super::answer::Reply;
use super::call::Call;
use super::fault::{Fault, FaultHandle, Faults};
use super::registry::Registry;
use super::settings::{Budgets, Settings};
use super::token::{Issued, NewToken, Record, mint_id, person};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a condition.
const BREATH: Duration = Duration::from_millis(20);

/// One organization of the vendor's. Times are the vendor's, see [`Settings::clock_ahead`].
///
/// Methods that take a token's id panic if there is no such token, unless they return an `Option`.
pub struct World {
    organization: String,
    workspace: String,
    state: Mutex<State>,
    pub(super) faults: Faults,
    changes: watch::Sender<()>,
    stop: watch::Sender<bool>,
}

/// What changes in a [`World`].
pub(super) struct State {
    pub registry: Registry,
    pub settings: Settings,
    budgets: Budgets,
    requests: BTreeMap<u64, Request>,
    noted: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the vendor's names")]
pub enum Operation {
    List,
    Get,
    Rotate,
    Create,
    Update,
    Delete,
    ListOrganizations,
    ListWorkspaces,
    GetWorkspace,
}

/// A request that arrived.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What it asked for.
    pub operation: Operation,
    /// Id of the token (or Workspace) in its path.
    pub token_id: Option<String>,
    /// Id of the token whose value, live or dead, it came with; `None` for an unknown value.
    pub credential: Option<String>,
    /// Status of the answer, whether or not the client was still there to read it; `None` if there is
    /// none: not yet, or the connection was closed instead.
    pub status: Option<u16>,
    /// Header of that name.
    pub user_agent: Option<String>,
    /// When it arrived.
    pub at: Timestamp,
}

impl World {
    pub(super) fn new() -> World {
        let organization = mint_id();
        World {
            workspace: mint_id(),
            state: Mutex::new(State {
                registry: Registry::new(organization.clone()),
                settings: Settings::default(),
                budgets: Budgets::default(),
                requests: BTreeMap::new(),
                noted: 0,
            }),
            organization,
            faults: Faults::default(),
            changes: watch::Sender::new(()),
            stop: watch::Sender::new(false),
        }
    }

    /// Id of its one organization.
    pub fn organization(&self) -> &str {
        &self.organization
    }

    /// Id of a Workspace to use; any other text is one too as soon as a token has a role on it.
    pub fn workspace(&self) -> &str {
        &self.workspace
    }

    /// Creates a token as if by a person.
    pub fn create(&self, token: NewToken) -> Issued {
        self.change(|state| {
            let now = state.now();
            let (record, value) = state.registry.create(token, person(), now, &state.settings);
            Issued {
                id: record.id,
                value,
            }
        })
    }

    /// Rotates a token as if by a person; returns the new value.
    #[track_caller]
    pub fn rotate(&self, id: &str) -> String {
        self.try_rotate(id).expect("a token of this id")
    }

    /// Like [`World::rotate`], but `None` for an unknown token.
    pub fn try_rotate(&self, id: &str) -> Option<String> {
        self.change(|state| {
            let now = state.now();
            let rotated = state.registry.rotate(id, person(), now, &state.settings);
            rotated.map(|(_, value)| value)
        })
    }

    /// Deletes a token.
    #[track_caller]
    pub fn delete(&self, id: &str) {
        assert!(self.try_delete(id), "no token of this id");
    }

    /// Deletes a token; false for an unknown one.
    pub fn try_delete(&self, id: &str) -> bool {
        self.change(|state| state.registry.delete(id, state.now()))
    }

    /// Gives a token another name.
    #[track_caller]
    pub fn rename(&self, id: &str, name: impl Into<String>) {
        self.edit(id, |record| record.name = name.into());
    }

    /// Moves a token's `endAt`; the `exp` in its value stays.
    #[track_caller]
    pub fn set_end(&self, id: &str, end: Option<Timestamp>) {
        self.edit(id, |record| record.end_at = end);
    }

    /// Lets reads of the token show what changes from now on only so much later.
    pub fn set_lag(&self, id: &str, lag: SignedDuration) {
        self.change(|state| {
            let now = state.now();
            state.registry.set_lag(id, now, lag);
        });
    }

    /// Whether the value works now: that of an existing token, not expired, not rotated away.
    pub fn is_live(&self, value: &str) -> bool {
        let state = self.state();
        state.registry.is_live(value, state.now())
    }

    /// Id of the token that a value, live or dead, belongs to.
    pub fn token_of(&self, value: &str) -> Option<String> {
        self.state().registry.owner(value).map(str::to_owned)
    }

    /// The token's live value; `None` if it is unknown, deleted or expired.
    pub fn live_value(&self, id: &str) -> Option<String> {
        let state = self.state();
        let value = state.registry.live_value(id, state.now());
        value.map(str::to_owned)
    }

    /// Every value ever issued, oldest first.
    pub fn issued(&self) -> Vec<String> {
        self.state().registry.issued().map(str::to_owned).collect()
    }

    /// Every value of the token and when it was issued, the one it was created with first.
    pub fn issues(&self, id: &str) -> Vec<(Instant, Arc<str>)> {
        self.state().registry.issues(id).to_vec()
    }

    /// How often a rotation of the token took effect over HTTP; 0 for an unknown token.
    pub fn rotations(&self, id: &str) -> usize {
        self.state().registry.rotations(id)
    }

    /// The vendor's short form of each token's value, by the token's id.
    pub fn short_tokens(&self) -> BTreeMap<String, String> {
        let state = self.state();
        let records = state.registry.list(state.now());
        records
            .map(|record| (record.id.clone(), record.short_token.clone()))
            .collect()
    }

    /// All requests that arrived since they were cleared, the oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.values().cloned().collect()
    }

    /// How many of these requests are such.
    pub fn count_requests(&self, is_such: impl Fn(&Request) -> bool) -> usize {
        let state = self.state();
        state.requests.values().filter(|it| is_such(it)).count()
    }

    /// Forgets the requests.
    pub fn clear_requests(&self) {
        self.change(|state| state.requests.clear());
    }

    /// Adds a fault, behind those there are.
    pub fn fault(&self, fault: Fault) -> FaultHandle {
        self.faults.add(fault)
    }

    /// Removes all faults and lets held requests go on.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Changes settings.
    pub fn settings(&self, change: impl FnOnce(&mut Settings)) {
        self.change(|state| change(&mut state.settings));
    }

    /// Waits until the condition holds; it is looked at soon after each change and each request.
    ///
    /// # Panics
    /// When that takes longer than a minute.
    pub async fn until(&self, condition: impl Fn(&World) -> bool) {
        let mut changes = self.changes.subscribe();
        let holds = timeout(PATIENCE, async {
            while !condition(self) {
                // Many may wait, and requests come by the dozen.
                sleep(BREATH).await;
                // Cannot fail: the sender is ours.
                let _ = changes.changed().await;
            }
        });
        if holds.await.is_err() {
            let requests = self.requests();
            let last = &requests[requests.len().saturating_sub(3)..];
            panic!(
                "the simulator is not as wanted after {PATIENCE:?}; {} requests, the last: {last:#?}",
                requests.len()
            );
        }
    }

    /// Makes the server end as soon as it has answered what it has.
    pub(super) fn stop(&self) {
        self.faults.clear();
        self.stop.send_replace(true);
    }

    /// Waits for [`World::stop`].
    pub(super) async fn stopped(&self) {
        // Cannot fail: the sender is ours.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// All tokens as they are, with whether each has a live value.
    pub(super) fn tokens(&self) -> Vec<(Record, bool)> {
        let state = self.state();
        let now = state.now();
        let live = |record: &Record| state.registry.live_value(&record.id, now).is_some();
        let records = state.registry.list(now);
        records.map(|r| (r.clone(), live(r))).collect()
    }

    /// A copy of the settings.
    pub(super) fn current_settings(&self) -> Settings {
        self.state().settings.clone()
    }

    /// Writes an arrived request into the log; returns its number there.
    pub(super) fn note(&self, call: &Call, credential: Option<&str>) -> u64 {
        self.change(|state| {
            state.noted += 1;
            let request = Request {
                operation: call.operation,
                token_id: call.id.clone(),
                credential: credential.map(str::to_owned),
                status: None,
                user_agent: call.user_agent.clone(),
                at: state.now(),
            };
            state.requests.insert(state.noted, request);
            state.noted
        })
    }

    /// Writes down how a request ended.
    pub(super) fn conclude(&self, number: u64, status: Option<u16>) {
        self.change(|state| {
            if let Some(request) = state.requests.get_mut(&number) {
                request.status = status;
                tracing::debug!(
                    operation = ?request.operation,
                    token = request.token_id,
                    credential = request.credential,
                    status,
                    "request",
                );
            }
        });
    }

    /// Counts a call; the answer to it if that was one too many.
    pub(super) fn over_limit(
        &self,
        operation: Operation,
        credential: Option<&str>,
    ) -> Option<Reply> {
        let mut state = self.state();
        let State {
            settings, budgets, ..
        } = &mut *state;
        let limits = settings.limits.as_ref()?;
        let allowed = budgets.spend(limits, credential?, operation, Instant::now());
        (!allowed).then(|| settings.limited.clone())
    }

    /// Changes the state and wakes those who wait for a change.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changes.send_replace(());
        result
    }

    #[track_caller]
    fn edit(&self, id: &str, edit: impl FnOnce(&mut Record)) {
        let known = self.change(|state| {
            let now = state.now();
            let edit = |record: &mut Record, _| edit(record);
            state
                .registry
                .change(id, person(), now, &state.settings, edit)
                .is_some()
        });
        assert!(known, "no token of this id");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The vendor's clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator is where time comes from"
    )]
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        now.saturating_add(self.settings.clock_ahead).unwrap_or(now)
    }
}

impl Operation {
    /// Its HTTP method.
    pub(super) fn method(self) -> &'static str {
        match self {
            Operation::Rotate | Operation::Create | Operation::Update => "POST",
            Operation::Delete => "DELETE",
            _ => "GET",
        }
    }
}
