//! Two replicas are killed, ended, paused and cut off at random, and nothing is doubled or left unhealed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use lab::crash::Storm;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_over_two_replicas_doubles_nothing_and_leaves_nothing_unhealed() {
    let storm = Storm {
        replicas: 2,
        resources: 16,
        every: Duration::from_secs(5),
        lasts: Duration::from_secs(45),
        seed: fastrand::u64(..),
    };
    println!("{storm:?}");
    let aftermath = storm.blow().await.unwrap();
    println!("{aftermath}");
    assert!(aftermath.doubled.is_empty(), "{:#?}", aftermath.doubled);
    assert!(aftermath.unhealed.is_empty(), "{:#?}", aftermath.unhealed);
    assert!(aftermath.done > 0 && !aftermath.accidents.is_empty());
}
