//! What happens, act by act. Nothing is said before it was checked.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::api::ListParams;
use serde_json::json;

use super::screen::Screen;
use super::stage::{Held, Stage};
use crate::astro::{Fault, Operation, Step};
use crate::leak::Search;
use crate::resource::Status;

const OFTEN: &str = "10s";
const RARELY: (&str, SignedDuration) = ("30d", SignedDuration::from_hours(30 * 24));
const ROTATE: &str = "astro-token-operator.io/rotate";

/// Tells it all.
pub async fn tell(stage: &mut Stage, screen: &Screen) -> anyhow::Result<()> {
    stage.start_operator().await?;
    screen.fact(format!(
        "operator leads; Astro is a simulator at {}",
        stage.astro.url()
    ));
    let (first, held) = appear(stage, screen).await?;
    let held = schedule(stage, screen, &first, held).await?;
    crash(stage, screen, held).await?;
    let held = reclaim(stage, screen).await?;
    turn(stage, screen, held).await?;
    search(stage, screen).await?;
    conclude(stage, screen).await
}

async fn appear(stage: &Stage, screen: &Screen) -> anyhow::Result<(Status, Held)> {
    screen.title("1. A resource");
    stage.apply_example(OFTEN).await?;
    let example = &stage.example;
    screen.fact(format!(
        "wtr/{} applied: token {:?}, every {OFTEN}",
        example.name, example.token
    ));
    stage.until_secret().await?;
    screen.fact(format!("Secret {} created", example.target));
    let status = stage.until_rotated("Initial").await?;
    let held = stage.held_live(&status).await?;
    stage.check_dead("the token's first", &stage.token.value)?;
    stage.check_rotations(1)?;
    screen.fact(format!(
        "its value is live: Astro accepts it; short token {}",
        held.short
    ));
    let next = status.next_rotation.context("no next rotation in status")?;
    screen.fact(format!("Ready=True; next rotation at {}", clock(next)));
    Ok((status, held))
}

async fn schedule(
    stage: &Stage,
    screen: &Screen,
    first: &Status,
    old: Held,
) -> anyhow::Result<Held> {
    screen.title("2. The schedule");
    let status = stage.until_rotated("Scheduled").await?;
    let due = first.next_rotation.context("no next rotation in status")?;
    let last = status.last_rotation.as_ref();
    let at = last.context("no last rotation in status")?.at;
    ensure!(
        at >= due,
        "expected: a rotation at {due} or later\nfound:    it was at {at}"
    );
    let held = stage.held_live(&status).await?;
    stage.check_dead("the former", &old.value)?;
    stage.check_rotations(2)?;
    screen.fact(format!(
        "rotated at {}, {} s after it was due",
        clock(at),
        at.duration_since(due).as_secs()
    ));
    screen.fact(format!(
        "value live again, the former one dead; short token {}",
        held.short
    ));

    let (every, duration) = RARELY;
    stage
        .edit(json!({"spec": {"schedule": {"every": every}}}))
        .await?;
    let goal = format!("the next rotation {every} after the last one");
    let seen = stage.until(&goal, |resource, status| {
        let next = status.next_rotation.map(|next| next.duration_since(at));
        status.is_at_rest(resource.metadata.generation) && next == Some(duration)
    });
    stage.held_live(&seen.await?).await?;
    stage.check_rotations(2)?;
    screen.fact(format!(
        "schedule edited to every {every}: followed, and nothing was rotated"
    ));
    Ok(held)
}

async fn crash(stage: &mut Stage, screen: &Screen, old: Held) -> anyhow::Result<()> {
    screen.title("3. SIGKILL in the middle of a rotation");
    let lost_answer = Fault::on(Operation::Rotate)
        .token(&stage.token.id)
        .once()
        .after(Step::Hold);
    let answer = stage.astro.fault(lost_answer);
    stage
        .edit(json!({"metadata": {"annotations": {ROTATE: "please"}}}))
        .await?;
    let goal = "a call to Astro for the rotation that was asked for";
    stage.patiently(goal, answer.reached()).await?;
    stage.check_rotations(3)?;
    screen.fact("a rotation was asked for; Astro has done it and not answered yet");

    stage.kill_operator().await?;
    let killed = Instant::now();
    answer.release();
    let goal = "the intent in status.pending";
    let recorded = |status: &Status| {
        status.pending.as_ref().is_some_and(|pending| {
            pending.reason == "Requested" && pending.replaces.short_token == old.short
        })
    };
    stage.until(goal, |_, status| recorded(status)).await?;
    screen.fact("operator killed with SIGKILL; its intent stands in status.pending");
    let held = stage.held().await?;
    ensure!(
        held.value == old.value,
        "expected: the Secret as it was\nfound:    another value in it"
    );
    stage.check_dead("the Secret's", &held.value)?;
    screen.fact("the Secret's value is dead; the new one was lost with the process");

    let started = Instant::now();
    stage.start_operator().await?;
    screen.fact(format!(
        "operator started again: leads after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let doubted = |status: &Status| status.ready() == ("False", "RotationInDoubt");
    let goal = "Ready=False with the reason RotationInDoubt";
    // On a machine so slow that the time of doubt is over, there is none to be seen.
    let seen = stage.until(goal, |_, status| {
        doubted(status) || status.cause() == "Lost"
    });
    if doubted(&seen.await?) {
        screen.fact("Ready=False (RotationInDoubt) until no call can land any more");
    }
    let status = stage.until_rotated("Lost").await?;
    let healed = killed.elapsed();
    let held = stage.held_live(&status).await?;
    stage.check_rotations(4)?;
    screen.fact(format!(
        "healed {:.1} s after the kill: value live; short token {}",
        healed.as_secs_f64(),
        held.short
    ));
    screen.fact("4 rotations so far: the crash cost one");
    Ok(())
}

async fn reclaim(stage: &Stage, screen: &Screen) -> anyhow::Result<Held> {
    screen.title("4. A rotation by another party");
    let old = stage.held().await?;
    stage.astro.rotate(&stage.token.id);
    let rotated = Instant::now();
    stage.check_dead("the Secret's", &old.value)?;
    screen.fact("a person rotated the token at Astro: the Secret's value is dead");
    let status = stage.until_rotated("Reclaimed").await?;
    let noticed = rotated.elapsed();
    let held = stage.held_live(&status).await?;
    stage.check_rotations(5)?;
    screen.fact(format!(
        "reclaimed {:.1} s later: value live; short token {}",
        noticed.as_secs_f64(),
        held.short
    ));
    Ok(held)
}

async fn turn(stage: &Stage, screen: &Screen, old: Held) -> anyhow::Result<()> {
    screen.title("5. Two tokens, and no moment without a valid value");
    let (second, name) = &stage.second;
    stage
        .edit(json!({"spec": {"alternateToken": {"name": name}}}))
        .await?;
    let goal = "an edit that is followed";
    let seen = stage.until(goal, |resource, status| {
        status.is_at_rest(resource.metadata.generation)
    });
    stage.held_live(&seen.await?).await?;
    screen.fact(format!(
        "alternateToken {name:?} added: followed, and nothing was rotated"
    ));
    stage
        .edit(json!({"metadata": {"annotations": {ROTATE: "the other one"}}}))
        .await?;
    let status = stage.until_rotated("Requested").await?;
    let held = stage.held_live_of(second, &status).await?;
    stage.check_live("the former", &old.value)?;
    stage.check_rotations(5)?;
    screen.fact(format!(
        "a rotation was asked for: it took the other token; short token {}",
        held.short
    ));
    screen.fact("the former value is live too, until the next rotation");
    Ok(())
}

/// Looks for values in everything the operator has ever said.
async fn search(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    screen.title("6. Where the values are");
    // The last thing it says.
    stage.until_event("Requested").await?;
    let everything = ListParams::default();
    let events = stage.events().list(&everything).await?;
    let resources = stage.resources_text().await?;
    let log = std::fs::read(&stage.log)?;
    let log = String::from_utf8_lossy(&log);
    let values = stage.astro.issued();
    let search = Search::new(&values);
    for (place, text) in [
        ("the operator's log", &*log),
        ("an event", serde_json::to_string(&events.items)?.as_str()),
        ("a resource", &resources),
        ("the metrics", &stage.metrics().await?),
    ] {
        ensure!(
            !text.is_empty(),
            "expected: {place} to look into\nfound:    nothing"
        );
        ensure!(
            !search.finds(text),
            "expected: no value, nor a part of one, in {place}\nfound:    there is one"
        );
    }
    let secret = stage.secrets().get(&stage.example.target).await?;
    ensure!(
        search.finds(&serde_json::to_string(&secret)?),
        "expected: a search that finds the value in the Secret\nfound:    it does not"
    );
    screen.fact(format!(
        "{} values were issued; a search finds the one in the Secret",
        values.len()
    ));
    screen.fact(format!(
        "and none in {} log lines (trace), {} events, status and metrics",
        log.lines().count(),
        events.items.len()
    ));
    Ok(())
}

async fn conclude(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    let story = stage.until("a status", |_, _| true).await?.story();
    let expected = [
        "Initial",
        "Scheduled",
        "Requested/Lost",
        "Lost",
        "Reclaimed",
        "Requested",
    ];
    ensure!(
        story == expected,
        "expected: the history {expected:?}\nfound:    {story:?}"
    );
    screen.title("All of this was checked");
    screen.fact(format!(
        "{} facts in {:.0} s; {} rotations: 5 with a reason, 1 for the crash",
        screen.facts() + 1,
        screen.seconds(),
        story.len()
    ));
    Ok(())
}

/// The time of the day, UTC.
fn clock(time: Timestamp) -> impl std::fmt::Display {
    time.strftime("%H:%M:%S UTC")
}
