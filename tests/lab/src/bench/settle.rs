//! Makes a fleet look as if the operator had rotated each of its tokens ten times, a month apart: what it would have
//! written is written directly, which takes a fraction of the time.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::fleet::Fleet;
use super::model::{MANAGER, Model, STATUS_MANAGER, Texts, rotation_id, seconds};
use super::now;
use super::shape::Shape;
use super::site::{Pace, Site};
use super::watching::{Watching, is_settled};
use crate::resource::kind;

/// The schedule of every fleet, as a spec has it.
pub const EVERY: &str = "30d";
const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);
const MODEL: &str = "pattern";

/// A model of the operator's own making: it is started, rotates one token, and is ended again.
///
/// # Errors
/// When that does not come about, with the end of the operator's log.
pub async fn make_model(site: &Site) -> anyhow::Result<Model> {
    let schedule = json!({ "every": EVERY });
    let fleet = Fleet::create(site, MODEL, (1, Shape::OneWorkspace), schedule).await?;
    let operator = site.operator(Pace::Unlimited, None, &[]).await?;
    let rotated = Watching::begin(&site.client, &fleet.label())
        .until("rotated first", 1, is_settled)
        .await;
    rotated.with_context(|| operator.log_tail())?;
    operator.kill().await?;
    let resource = fleet.resources().await?.pop().context("no model")?;
    let model = Model::of(&site.client, &resource).await?;
    // From now on it would only be counted with the others.
    fleet.delete().await?;
    Ok(model)
}

/// Lets the last rotation of each token be a month before `due`, at the vendor and in the cluster. Everybody is asked to
/// keep still meanwhile: the vendor's clock is set back.
///
/// # Errors
/// When the API server refuses something.
pub async fn settle(
    site: &Site,
    model: &Model,
    fleet: &Fleet,
    due: Timestamp,
) -> anyhow::Result<()> {
    let last = due - MONTH;
    for member in &fleet.members {
        // In the middle of the second: the vendor cuts off what is behind it.
        let then = last + SignedDuration::from_millis(500);
        let back = then.duration_since(now());
        site.astro.settings(|settings| settings.clock_ahead = back);
        site.astro.rotate(&member.token_id);
    }
    site.astro
        .settings(|settings| settings.clock_ahead = SignedDuration::ZERO);
    let short_tokens = site.astro.short_tokens();
    let (secret_params, status_params) = (
        PatchParams::apply(MANAGER).force(),
        PatchParams::apply(STATUS_MANAGER).force(),
    );
    fleet
        .each(async |member, resources| {
            let texts = Texts {
                name: member.name.clone(),
                token_id: member.token_id.clone(),
                short_token: short_tokens
                    .get(&member.token_id)
                    .context("no such token")?
                    .clone(),
                rotated_at: seconds(last),
                rotation_id: rotation_id(last),
            };
            let value = site.astro.live_value(&member.token_id);
            let secret = model.secret(&texts, None, &value.context("no live value")?)?;
            let secrets: Api<Secret> = Api::namespaced(site.client.clone(), &member.namespace);
            secrets
                .patch_metadata(&member.name, &secret_params, &Patch::Apply(secret))
                .await?;
            let kind = kind();
            let status = json!({
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "metadata": { "name": member.name },
                "status": model.settled(&texts, last, due)?,
            });
            resources
                .patch_status(&member.name, &status_params, &Patch::Apply(status))
                .await?;
            Ok(())
        })
        .await
}

/// Creates a fleet and settles it; all of it is due at the time that is returned, which is some time ahead: `lead`, beside
/// what it will take to write everything.
///
/// # Errors
/// When the API server refuses something.
pub async fn create(
    site: &Site,
    model: &Model,
    name: &str,
    kind: (usize, Shape),
    lead: Duration,
) -> anyhow::Result<(Fleet, Timestamp)> {
    let begun = Instant::now();
    // Older than its last rotation, which is a month ago.
    let back = SignedDuration::from_hours(-400 * 24);
    site.astro.settings(|settings| settings.clock_ahead = back);
    let fleet = Fleet::create(site, name, kind, json!({ "every": EVERY })).await?;
    // There are twice as many writes to come, and each is somewhat dearer.
    let lead = lead + 4 * begun.elapsed();
    let due = now() + SignedDuration::try_from(lead)?;
    let due = Timestamp::from_second(due.as_second() + 1)?;
    settle(site, model, &fleet, due).await?;
    Ok((fleet, due))
}
