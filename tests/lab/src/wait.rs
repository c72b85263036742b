//! Waiting for what cannot be watched.

use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep, timeout_at};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks again and again until the answer is `Ok`; the `Err` of an answer is the state as it is.
///
/// # Errors
/// The error of a question that cannot be asked; and at the deadline what was waited for, with the last state.
pub async fn poll<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + within;
    let mut last = "no answer yet".to_owned();
    loop {
        match timeout_at(deadline, ask()).await {
            Ok(answer) => match answer? {
                Ok(wanted) => return Ok(wanted),
                Err(state) => last = state,
            },
            Err(_) => bail!("not within {within:?}: {what}; the last state: {last}"),
        }
        if Instant::now() + PAUSE > deadline {
            bail!("not within {within:?}: {what}; the last state: {last}");
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn it_ends_with_the_answer_or_with_the_last_state() {
        let mut asked = 0;
        let third = poll("the third", SOON, async || {
            asked += 1;
            Ok(if asked == 3 {
                Ok(asked)
            } else {
                Err(String::new())
            })
        });
        assert_eq!(third.await.unwrap(), 3);
        for hangs in [true, false] {
            let mut first = true;
            let never = poll::<()>("the end", SOON, async || {
                if hangs && !std::mem::take(&mut first) {
                    std::future::pending::<()>().await;
                }
                Ok(Err("still running".into()))
            });
            let said = never.await.unwrap_err().to_string();
            assert_eq!(
                said,
                "not within 200ms: the end; the last state: still running"
            );
        }
    }
}
