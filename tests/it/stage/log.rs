//! The leak test: every line that is logged in this process, at trace, passes here.

use astro_token_operator::process::telemetry;
use lab::leak::has_value;
use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing_subscriber::fmt::MakeWriter;

static LEAKED: AtomicBool = AtomicBool::new(false);

/// Whether a value was in some line so far.
pub fn has_leaked() -> bool {
    LEAKED.load(Ordering::Relaxed)
}

/// Begins, if it has not begun yet. SHOW_LOGS=debug shows what is logged, from that level on.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let level = std::env::var("SHOW_LOGS").unwrap_or_else(|_| "trace".into());
        telemetry::init_to(&level, Watcher).unwrap();
    });
}

struct Watcher;

impl Write for Watcher {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if has_value(line) {
            LEAKED.store(true, Ordering::Relaxed);
        }
        if std::env::var_os("SHOW_LOGS").is_some() {
            std::io::stderr().write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Watcher {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        Self
    }
}
