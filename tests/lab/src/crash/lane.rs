//! One lane of the range: a namespace, a simulator, the gate before both, and the operator's binary, which dies there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::gate::Gate;
use super::ledger::{Account, Ledger};
use super::plan::{Plan, Task, Trouble};
use super::report::Report;
use super::site::{End, Site, Trap, What};
use crate::astro::{Astro, Issued, NewToken};
use crate::bench::now;
use crate::control_plane::{ControlPlane, apply};
use crate::leak::has_value;
use crate::manifests::permissions;
use crate::operator::{ACCOUNT, HOME, Operator};
use crate::resource::{Resource, kind, status};

/// A busy machine answers within it.
const VENDOR_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the operator takes a call for possibly under way after its caller has died, and for how long that is so for
/// each resource. All that lands late lands with the death, so this has to cover the time from a resource's first call
/// to the last resource's trap.
const LANDING: Duration = Duration::from_secs(5);
const LANDING_FOR_EACH: Duration = Duration::from_millis(60);
/// Longest wait for all traps, and for all to be healed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Who is at rest and asks for nothing for so long is done.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks at all that is waited for: changes come by the hundred.
const BREATH: Duration = Duration::from_millis(30);
/// Requests at a time while things are set up.
const CONCURRENCY: usize = 32;
const REQUEST: &str = "astro-token-operator.io/rotate";
const ADOPT: &str = "astro-token-operator.io/adopt";

/// Everything but the operator.
pub(super) struct Lane {
    namespace: String,
    astro: Astro,
    gate: Gate,
    ledger: Ledger,
    client: Client,
    kubeconfig: PathBuf,
    log: PathBuf,
    serial: usize,
    landing: Duration,
    /// A token and a Secret that must not be touched.
    bystander: (Issued, String),
}

/// A resource with its token. Its names all begin with its own, which is its Workspace and its Deployment too.
struct Case {
    name: String,
    plan: Plan,
    token: Issued,
    /// The one that takes turns with it, where two do.
    alternate: Option<Issued>,
    deaths: usize,
    /// Values that were lost, and calls that were given up, before its story began.
    lost_before: usize,
    given_up_before: usize,
}

impl Lane {
    /// Starts everything but the operator, on a control plane where the operator is installed for some namespaces.
    pub(super) async fn start(plane: &ControlPlane, number: usize) -> anyhow::Result<Self> {
        let namespace = format!("lane-{number}");
        let client = plane.client();
        let astro = Astro::start().await?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        let mut config = plane.config();
        config.default_namespace.clone_from(&namespace);
        let own = Client::try_from(config)?;
        for object in permissions("deploy/tenant", &[])? {
            apply(&own, &object.to_string()).await?;
        }
        let account = plane.service_account(HOME, ACCOUNT).await?;
        let gate = Gate::open(account, &astro.url()).await?;
        let kubeconfig = plane.dir().join(format!("{namespace}.kubeconfig"));
        gate.write_kubeconfig(&kubeconfig)?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let other = json!({"metadata": {"name": "bystander"}, "stringData": {"token": "mine"}});
        let other = secrets
            .create(&PostParams::default(), &serde_json::from_value(other)?)
            .await?;
        let version = other.resource_version().context("no resourceVersion")?;
        let token = astro.create(NewToken::workspace("bystander", "c00000"));
        Ok(Self {
            ledger: Ledger::begin(&client, &namespace),
            log: plane.dir().join(format!("{namespace}.log")),
            serial: 0,
            landing: LANDING,
            bystander: (token, version),
            namespace,
            astro,
            gate,
            client,
            kubeconfig,
        })
    }

    /// Lets all plans happen at once, each to a resource of its own, and reports on each; `whole` asks for the whole last
    /// life in the trace, up to the event.
    ///
    /// # Errors
    /// When the API server refuses what is to be set up, or something went wrong that belongs to no one case:
    /// a leak, a write where nothing was to be written.
    pub(super) async fn play(
        &mut self,
        plans: Vec<Plan>,
        whole: bool,
    ) -> anyhow::Result<Vec<Report>> {
        let number = u32::try_from(plans.len())?;
        self.landing = LANDING + LANDING_FOR_EACH * number;
        let mut cases = Vec::new();
        for plan in plans {
            self.serial += 1;
            cases.push(self.case(format!("c{:05}", self.serial), plan));
        }
        each(&cases, async |case| self.prepare(case).await).await?;
        self.give_a_past(&mut cases).await?;
        next_second().await;
        each(&cases, async |case| self.set_task(case).await).await?;
        // And what another party did is told apart from what the operator does about it.
        next_second().await;
        let lives = cases.iter().map(|case| case.plan.traps.len()).max();
        let lives = lives.unwrap_or_default();
        for life in 0..lives {
            self.live_and_die(&mut cases, life).await?;
        }
        each(&cases, async |case| match case.plan.task {
            Task::Deleted if lives > 0 => self.create_resource(case).await,
            _ => Ok(()),
        })
        .await?;
        let operator = self.be_born([])?;
        let ends = |case: &Case| match whole {
            true => self.is_done(case),
            false => self.is_at_rest(case),
        };
        let healed = self.wait(&cases, ends).await;
        operator.kill().await?;
        let reports = cases
            .into_iter()
            .map(|case| self.report(case, healed))
            .collect();
        self.check_the_rest().await?;
        self.clean_up().await?;
        Ok(reports)
    }

    fn case(&self, name: String, plan: Plan) -> Case {
        let create = |token: &str| {
            let token = self.astro.create(match plan.task {
                Task::SelfTurn => NewToken::owner(token, &name),
                _ if plan.is_for_a_deployment() => NewToken::deployment(token, &name, &name),
                _ => NewToken::workspace(token, &name),
            });
            self.gate.alias(&token.id, &name);
            token
        };
        let token = create(&name);
        let alternate = (plan.task.takes_turns()).then(|| create(&format!("{name}-b")));
        Case {
            name,
            plan,
            token,
            alternate,
            deaths: 0,
            lost_before: 0,
            given_up_before: 0,
        }
    }

    /// Everything that is there before the operator has anything to do.
    async fn prepare(&self, case: &Case) -> anyhow::Result<()> {
        let Case { name, token, .. } = case;
        let owner = NewToken::owner(format!("{name}-owner"), name);
        let owner = self.astro.create(owner).value;
        self.create_secret(json!({
            "metadata": {"name": format!("{name}-owner")}, "stringData": {"token": owner},
        }))
        .await?;
        if matches!(case.plan.task, Task::Adopted | Task::SelfTurn) {
            self.create_secret(json!({
                "metadata": {"name": case.target(), "annotations": {ADOPT: name}},
                "stringData": {"token": token.value},
            }))
            .await?;
        }
        match case.plan.task {
            task if task.needs_a_past() => self.create_resource(case).await,
            _ => Ok(()),
        }
    }

    /// The first rotations, undisturbed.
    async fn give_a_past(&self, cases: &mut [Case]) -> anyhow::Result<()> {
        let operator = self.be_born([])?;
        let settled = self
            .wait(cases, |case| {
                !case.plan.task.needs_a_past() || self.is_settled(case, &case.old_target())
            })
            .await;
        let tail = operator.log_tail();
        operator.kill().await?;
        ensure!(settled, "not all first rotations were done: {tail}");
        for case in cases {
            case.lost_before = self.books(case, &case.old_target()).lost;
            case.given_up_before = self.gate.given_up(&case.name);
        }
        Ok(())
    }

    /// What the operator finds when it starts, and what will go wrong then.
    async fn set_task(&self, case: &Case) -> anyhow::Result<()> {
        let id = &case.next().id;
        if let Some(fault) = case.plan.trouble.fault(id, VENDOR_TIMEOUT) {
            self.astro.fault(fault);
        }
        if case.plan.trouble == Trouble::Stale {
            // Longer than the operator waits for a call to land.
            let lag = SignedDuration::try_from(self.landing + VENDOR_TIMEOUT)?;
            self.astro.set_lag(id, lag);
        }
        let edit = match case.plan.task {
            Task::First | Task::Adopted => return self.create_resource(case).await,
            Task::Requested | Task::Deleted | Task::Turn | Task::SelfTurn => {
                json!({"metadata": {"annotations": {REQUEST: "now"}}})
            }
            Task::Moved => json!({"spec": {"target": {"name": case.target()}}}),
            Task::Reclaimed | Task::TurnReclaimed => {
                self.astro.rotate(&case.token.id);
                return Ok(());
            }
        };
        let (params, patch) = (PatchParams::default(), Patch::Merge(edit));
        self.resources().patch(&case.name, &params, &patch).await?;
        Ok(())
    }

    /// One life of the operator, up to where every resource is in its trap.
    async fn live_and_die(&self, cases: &mut [Case], life: usize) -> anyhow::Result<()> {
        let trap = |case: &Case| case.plan.traps.get(life).copied();
        let traps = cases.iter();
        let traps = traps.filter_map(|case| Some((case.name.clone(), trap(case)?)));
        let operator = self.be_born(traps)?;
        self.wait(cases, |case| {
            let name = &case.name;
            // What was deleted in an earlier life has nothing to do in this one.
            trap(case).is_none()
                || self.ledger.resource(name).is_none()
                || self.gate.is_frozen(name)
                || self.gate.is_open(name) && self.is_done(case)
        })
        .await;
        for case in cases.iter_mut() {
            case.deaths += usize::from(self.gate.is_frozen(&case.name));
        }
        if life == 0 {
            each(cases, async |case| match case.plan.task {
                Task::Deleted => self.delete_resource(case).await,
                _ => Ok(()),
            })
            .await?;
        }
        operator.kill().await
    }

    /// Starts the operator; what its predecessor has sent and what was to land late lands now.
    fn be_born(&self, traps: impl IntoIterator<Item = (String, Trap)>) -> anyhow::Result<Operator> {
        self.gate.arm(traps);
        let flags = [
            format!("--api-url={}", self.gate.vendor_url()),
            format!("--vendor-timeout={}s", VENDOR_TIMEOUT.as_secs()),
            format!("--landing-time={}s", self.landing.as_secs()),
            // Longer than any call is in flight, and no longer, because two tokens wait for that.
            format!(
                "--rest-time={}s",
                (self.landing + 3 * VENDOR_TIMEOUT).as_secs()
            ),
            format!("--namespaces={}", self.namespace),
            "--pace=0.1".into(),
            // The successor in the same pod knows that its predecessor is dead.
            "--pod-name=pod".into(),
            "--leader-election=false".into(),
            "--vendor-connect-timeout=1s".into(),
            "--write-budget=2s".into(),
            "--audit-interval=1h".into(),
            // Many rotations follow one another here that would be days apart.
            "--minimum-interval=1s".into(),
            "--rotations-per-second=1000".into(),
            // Many are held at the same place until all have come to theirs.
            "--concurrent-rotations=1000".into(),
            "--reads-per-second=1000".into(),
            "--log-filter=trace".into(),
        ];
        let operator = Operator::start(&self.kubeconfig, &self.log, &flags)?;
        self.gate.bury();
        Ok(operator)
    }

    /// Waits until `wanted` holds for all; false when it does not in time.
    async fn wait(&self, cases: &[Case], wanted: impl Fn(&Case) -> bool) -> bool {
        let (mut requests, mut objects) = (self.gate.changes(), self.ledger.changes());
        let mut waiting: Vec<&Case> = cases.iter().collect();
        let arrived = timeout(PATIENCE + self.landing * 2, async {
            loop {
                waiting.retain(|case| !wanted(case));
                if waiting.is_empty() {
                    return;
                }
                tokio::select! {
                    _ = requests.changed() => sleep(BREATH).await,
                    _ = objects.changed() => sleep(BREATH).await,
                    // A trap on the way that was not taken does not spring any more.
                    () = sleep(QUIET), if waiting.iter().all(|case| self.is_at_rest(case)) => return,
                }
            }
        });
        arrived.await.is_ok()
    }

    /// Ready, with nothing in flight and the live value in this Secret.
    fn is_settled(&self, case: &Case, secret: &str) -> bool {
        self.ledger.resource(&case.name).is_some_and(|resource| {
            status(&resource).is_at_rest(resource.metadata.generation)
                && self.account(case, secret).live
        })
    }

    fn is_at_rest(&self, case: &Case) -> bool {
        let handled = || {
            let resource = self.ledger.resource(&case.name);
            resource.is_some_and(|it| status(&it).handled_request.is_some())
        };
        self.is_settled(case, &case.target()) && (!case.plan.task.is_requested() || handled())
    }

    /// At rest, and the event about it was sent in this life.
    fn is_done(&self, case: &Case) -> bool {
        let trace = self.gate.trace(&case.name);
        let last = |what| trace.iter().rposition(|site| site.what == what);
        last(What::PublishEvent) > last(What::WriteSecret) && self.is_at_rest(case)
    }

    /// The requests of the last life, up to the event about the Secret where there was one: what follows it, such as an
    /// audit, depends on how long that life was for the others.
    fn trace(&self, name: &str) -> Vec<Site> {
        let mut trace = self.gate.trace(name);
        let first = |what, from: usize| trace[from..].iter().position(|site| site.what == what);
        if let Some(written) = first(What::WriteSecret, 0)
            && let Some(told) = first(What::PublishEvent, written)
        {
            trace.truncate(written + told + 1);
        }
        trace
    }

    fn account(&self, case: &Case, secret: &str) -> Account {
        let mut account = self.books(case, secret);
        account.lost = account.lost.saturating_sub(case.lost_before);
        // What another party was shown is not ours to store.
        account.lost -= usize::from(case.plan.task.is_reclaimed() && account.lost > 0);
        account
    }

    fn books(&self, case: &Case, secret: &str) -> Account {
        let issues = case.tokens().map(|token| self.astro.issues(&token.id));
        let issues: Vec<_> = issues.collect();
        self.ledger.account(secret, &case.old_target(), &issues)
    }

    fn report(&self, case: Case, healed: bool) -> Report {
        let account = self.account(&case, &case.target());
        let rotations = case.tokens().map(|token| self.astro.rotations(&token.id));
        let rotations = rotations.sum::<usize>() - case.lost_before;
        let broken = self.broken_promise(&case, &account, rotations, healed);
        Report {
            broken: broken.map(|it| format!("{it}\n{}", self.said(&case.name))),
            deaths: case.deaths,
            trace: self.trace(&case.name),
            plan: case.plan,
            account,
            rotations,
        }
    }

    /// What the operator told people about a resource, in all its lives.
    fn said(&self, name: &str) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let name = format!("name=\"{name}\"");
        let levels = [" INFO ", " WARN ", " ERROR "];
        let is_told =
            |line: &&str| line.contains(&name) && levels.iter().any(|it| line.contains(it));
        log.lines()
            .filter(is_told)
            .map(|line| format!("  {line}\n"))
            .collect()
    }

    /// The first promise that does not hold at rest.
    fn broken_promise(
        &self,
        case: &Case,
        account: &Account,
        rotations: usize,
        healed: bool,
    ) -> Option<String> {
        let summary = || {
            let resource = self.ledger.resource(&case.name);
            resource.map_or_else(
                || "no resource".into(),
                |it| format!("{}, {:?}", status(&it).summary(), status(&it).story()),
            )
        };
        if !healed && !self.is_at_rest(case) {
            let live = account.live;
            return Some(format!("not healed: live value {live}, {}", summary()));
        }
        let causes = case.plan.task.causes();
        // A call that lands after it was given up kills the value that was stored since: once more.
        let late = case.plan.traps.iter().any(|trap| {
            case.plan.trouble == Trouble::Slow
                && trap.site.what == What::Rotate
                && trap.end == End::Late
        });
        let (fewest, most) = (
            causes.start() + account.lost,
            causes.end() + account.lost + usize::from(late),
        );
        if !(fewest..=most).contains(&rotations) {
            let lost = account.lost;
            return Some(format!(
                "{rotations} rotations for {causes:?} causes and {lost} lost values: {}",
                summary()
            ));
        }
        let given_up = self.gate.given_up(&case.name) - case.given_up_before;
        let most = case.deaths + case.plan.trouble.loses() + given_up;
        if account.lost > most {
            let lost = account.lost;
            return Some(format!("{lost} values lost in {most} accidents"));
        }
        let value = self.ledger.value(&case.target()).unwrap_or_default();
        let of = self.astro.token_of(&value);
        let mut tokens = case.tokens();
        let is_expected = match case.plan.task {
            task if task.is_always_live() => of.as_ref() == Some(&case.next().id),
            _ => tokens.any(|token| of.as_ref() == Some(&token.id)),
        };
        if !is_expected {
            return Some("the Secret holds a value of another token".into());
        }
        if case.plan.task.is_always_live() && !account.dead.is_empty() {
            return Some(format!("a dead value for {:?}", account.dead));
        }
        self.gate.broken(&case.name).into_iter().next()
    }

    /// What is no single resource's promise: nothing else is touched, no value is anywhere but in Secrets.
    async fn check_the_rest(&self) -> anyhow::Result<()> {
        let strange = self.gate.strange();
        ensure!(
            strange.is_empty(),
            "writes that nobody asked for: {strange:?}"
        );
        let (token, version) = &self.bystander;
        ensure!(
            self.astro.rotations(&token.id) == 0,
            "a bystander was rotated"
        );
        let other = self.secrets().get_metadata("bystander").await?;
        ensure!(
            other.resource_version().as_ref() == Some(version),
            "a Secret of another party was touched"
        );
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = events.list(&ListParams::default()).await?;
        let resources: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind());
        let resources = resources.list(&ListParams::default()).await?;
        let texts = [
            ("the log", std::fs::read(&self.log)?),
            ("an event", serde_json::to_vec(&events.items)?),
            ("a status", serde_json::to_vec(&resources.items)?),
        ];
        for (place, text) in texts {
            ensure!(!has_value(&text), "a value is in {place}");
        }
        Ok(())
    }

    /// Removes everything but the bystanders.
    async fn clean_up(&self) -> anyhow::Result<()> {
        let (one, all) = (DeleteParams::default(), ListParams::default());
        self.resources().delete_collection(&one, &all).await?;
        let others = all.fields("metadata.name!=bystander");
        self.secrets().delete_collection(&one, &others).await?;
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        events
            .delete_collection(&one, &ListParams::default())
            .await?;
        self.astro.clear_faults();
        self.astro.clear_requests();
        self.gate.forget();
        self.ledger.forget();
        std::fs::write(&self.log, "")?;
        Ok(())
    }

    async fn create_secret(&self, secret: Value) -> anyhow::Result<()> {
        let secret = serde_json::from_value(secret)?;
        self.secrets()
            .create(&PostParams::default(), &secret)
            .await?;
        Ok(())
    }

    async fn create_resource(&self, case: &Case) -> anyhow::Result<()> {
        let name = &case.name;
        let token = match case.plan.is_for_a_deployment() {
            true => json!({"name": name, "scope": "Deployment", "deploymentId": name}),
            false => json!({"name": name}),
        };
        let credential = match case.plan.task {
            Task::SelfTurn => case.old_target(),
            _ => format!("{name}-owner"),
        };
        let alternate = case
            .alternate
            .as_ref()
            .map(|_| json!({"name": format!("{name}-b")}));
        let resource: DynamicObject = serde_json::from_value(json!({
            "apiVersion": kind().api_version,
            "kind": kind().kind,
            "metadata": {"name": name},
            "spec": {
                "workspaceId": name,
                "token": token,
                "alternateToken": alternate,
                "schedule": {"every": "1d"},
                "credentials": {"secretRef": {"name": credential}},
                "target": {"name": case.old_target()},
            },
        }))?;
        let resources: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind());
        resources.create(&PostParams::default(), &resource).await?;
        Ok(())
    }

    async fn delete_resource(&self, case: &Case) -> anyhow::Result<()> {
        let (resources, params) = (self.resources(), DeleteParams::default());
        resources.delete(&case.name, &params).await?;
        Ok(())
    }

    fn resources(&self) -> Api<Resource> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

impl Case {
    /// Its tokens.
    fn tokens(&self) -> impl Iterator<Item = &Issued> {
        std::iter::once(&self.token).chain(&self.alternate)
    }

    /// The one that is to be rotated.
    fn next(&self) -> &Issued {
        self.alternate.as_ref().unwrap_or(&self.token)
    }

    /// The Secret that is to hold the value in the end.
    fn target(&self) -> String {
        match self.plan.task {
            Task::Moved => format!("{}-moved", self.name),
            _ => self.old_target(),
        }
    }

    /// The one it was created with.
    fn old_target(&self) -> String {
        format!("{}-secret", self.name)
    }
}

/// Waits for the next whole second: the vendor's times have no fractions, and its record tells values apart by them.
async fn next_second() {
    let into = now().subsec_nanosecond().unsigned_abs();
    sleep(Duration::from_secs(1).saturating_sub(Duration::from_nanos(into.into()))).await;
}

/// Some at a time, all in the end.
async fn each(
    cases: &[Case],
    act: impl AsyncFn(&Case) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let acts = cases.iter().map(|case| act(case));
    stream::iter(acts)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}
