//! Logs on stderr: what is printed, how, and what never is, whatever level the user asks for.

use std::{
    io::{self, IsTerminal},
    panic,
};

use crate::text::line;
use clap::ValueEnum;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, LevelFilter, ParseError, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// What is logged when the user asks for nothing: a quiet operator prints nothing.
///
/// The request log of the Kubernetes client is off, and so is the watcher's: they repeat, for every try, what the caller
/// gets as an error.
pub const DEFAULT_FILTER: &str =
    "warn,astro_token_operator=info,kube_client::client::builder=off,kube_runtime::watcher=off";

/// The most that a target may ever print, the longest prefix deciding: values pass through these crates.
///
/// Everything else that is not ours ends at DEBUG ([`HIGHEST`]). TRACE is where libraries print bytes and headers:
/// `reqwest::connect::verbose` what is read and written, `rustls` its handshakes, `kube_client` headers.
const CEILINGS: [(&str, LevelFilter); 4] = [
    ("astro_token_operator", LevelFilter::TRACE),
    // Whole replies that do not decode (WARN) and that say Status (TRACE), bodies of failed requests (DEBUG).
    ("kube_client::client", LevelFilter::OFF),
    // Method, URL and status of a request.
    ("kube_client::client::builder", LevelFilter::DEBUG),
    // Certificates that could not be reloaded.
    ("kube_client::client::tls", LevelFilter::DEBUG),
];

/// The ceiling of all targets that [`CEILINGS`] does not name.
const HIGHEST: LevelFilter = LevelFilter::DEBUG;

/// Longest line of text that is logged, characters.
const LONGEST_LINE: usize = 4096;

/// How a line of log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people, in colour on a terminal unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One flat JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not of the form `level` or `target=level,…`.
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] ParseError),
    /// Something else in the process logs already.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Logs to stderr from now on: a `filter` in the form of `RUST_LOG`, [`DEFAULT_FILTER`] when `None`.
/// A panic is logged with its place and without its message, which may quote a value.
pub fn init(format: Format, filter: Option<&str>) -> Result<(), Error> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
    let ansi = io::stderr().is_terminal() && !no_color;
    subscriber(format, filter, io::stderr, ansi)?.try_init()?;
    hide_panics();
    Ok(())
}

/// The same to a writer of a test's own, which looks for values in what it gets.
pub fn init_to(
    filter: &str,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Result<(), Error> {
    Ok(subscriber(Format::Text, Some(filter), writer, false)?.try_init()?)
}

fn subscriber(
    format: Format,
    filter: Option<&str>,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
    ansi: bool,
) -> Result<impl Subscriber + Send + Sync, Error> {
    let filter = EnvFilter::builder().parse(filter.unwrap_or(DEFAULT_FILTER))?;
    let ceilings = Targets::new().with_targets(CEILINGS).with_default(HIGHEST);
    let lines = match format {
        Format::Text => fmt::layer()
            .with_writer(OneLine(writer, ansi))
            .with_ansi(ansi)
            .compact()
            .boxed(),
        Format::Json => fmt::layer()
            .with_writer(writer)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    Ok(Registry::default().with(lines.with_filter(ceilings.and(filter))))
}

/// Writes each event as one line, whatever text of others is in it, and whichever crate logs it; and whether colours pass.
struct OneLine<W>(W, bool);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine(self.0.make_writer(), self.1)
    }
}

impl<W: io::Write> io::Write for OneLine<W> {
    /// An event is written by one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text: String = text.chars().take(LONGEST_LINE).collect();
        let mut pieces = text.trim_end_matches('\n').split('\u{1b}');
        let mut shown = line(pieces.next().unwrap_or_default(), LONGEST_LINE);
        for piece in pieces {
            if self.1 && is_colour(piece) {
                shown.push('\u{1b}');
            }
            shown += &line(piece, LONGEST_LINE);
        }
        shown.push('\n');
        self.0.write_all(shown.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether an escape character before this begins a colour, and nothing else that a terminal obeys.
fn is_colour(text: &str) -> bool {
    let rest = text.strip_prefix('[').unwrap_or_default();
    let digits = |c: char| c.is_ascii_digit() || c == ';';
    rest.trim_start_matches(digits).starts_with('m')
}

fn hide_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string);
        tracing::error!(place, "panicked");
    }));
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        process::Command,
        sync::{Arc, Mutex},
    };

    use axum::{Router, http::Response, routing::get};
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, Client, client::Body};
    use tokio::net::TcpListener;
    use tracing::subscriber::DefaultGuard;

    use super::*;

    const VALUE: &str = "eyJhbGciOi.value.of-a-token";

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// Logs into memory as long as the guard lives, on this thread.
        fn start(format: Format, filter: Option<&str>) -> (Self, DefaultGuard) {
            let log = Self::default();
            let writer = {
                let log = log.clone();
                move || log.clone()
            };
            let guard = subscriber(format, filter, writer, false)
                .unwrap()
                .set_default();
            (log, guard)
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reply_that_does_not_decode_is_not_logged() {
        let (log, _guard) = Log::start(Format::Text, Some("trace"));
        let reply = format!(r#"{{"data":{{"token":"{VALUE}"}},"immutable":7}}"#);
        for status in [200, 500] {
            let reply = reply.clone();
            let server = tower::service_fn(move |_| {
                let mut response = Response::new(Body::from(reply.clone().into_bytes()));
                *response.status_mut() = status.try_into().unwrap();
                async { Ok::<_, Infallible>(response) }
            });
            Api::<Secret>::default_namespaced(Client::new(server, "data"))
                .get("etl")
                .await
                .unwrap_err();
        }
        tracing::trace!("our own traces are");
        assert!(log.text().contains("our own traces are"));
        assert!(!log.text().contains(VALUE), "{}", log.text());
    }

    #[tokio::test]
    async fn the_bytes_of_a_connection_are_not_logged() {
        // Even a plain HTTP client of reqwest wants a TLS provider; another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = Router::new().route("/", get(|| async { VALUE }));
        tokio::spawn(axum::serve(listener, server).into_future());

        let (log, _guard) = Log::start(Format::Text, Some("trace,reqwest=trace"));
        let client = reqwest::Client::builder()
            .connection_verbose(true)
            .no_proxy()
            .build()
            .unwrap();
        let answer = client.get(&url).bearer_auth(VALUE).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), VALUE);
        // So what reqwest says does come through.
        assert!(log.text().contains("starting new connection"));
        assert!(!log.text().contains(VALUE), "{}", log.text());
    }

    #[test]
    fn an_operator_at_rest_prints_nothing_of_its_libraries() {
        let (log, _guard) = Log::start(Format::Text, None);
        tracing::debug!("detail");
        tracing::info!(target: "kube_runtime::controller", "press ctrl+c to shut down");
        tracing::error!(target: "kube_client::client::builder", "failed with error");
        assert_eq!(log.text(), "");
        tracing::info!("leading");
        assert!(log.text().contains("leading"));
    }

    #[test]
    fn an_event_is_one_bounded_line_whatever_text_is_in_it() {
        let text = "a\nb\r\n\u{1b}[2Jc\u{202e}d\u{9b}1m\u{7}";
        let long = "x".repeat(100_000);
        let colours = regex::Regex::new("\u{1b}\\[[0-9;]*m").unwrap();
        for ansi in [false, true] {
            let log = Log::default();
            let writer = {
                let log = log.clone();
                move || log.clone()
            };
            let subscriber = subscriber(Format::Text, None, writer, ansi).unwrap();
            let guard = subscriber.set_default();
            tracing::warn!(shown = %text, quoted = text, "{text}");
            tracing::warn!("{long}");
            drop(guard);
            let log = log.text();
            let lines: Vec<_> = log.split_terminator('\n').collect();
            assert_eq!(lines.len(), 2, "{log:?}");
            for line in lines {
                let plain = colours.replace_all(line, "");
                assert!(!plain.chars().any(char::is_control), "{plain:?}");
                assert!(!plain.contains('\u{202e}'), "{plain:?}");
                assert!(line.chars().count() < LONGEST_LINE + 100);
            }
        }
    }

    #[test]
    fn a_line_of_json_is_one_flat_object() {
        let (log, _guard) = Log::start(Format::Json, None);
        tracing::info_span!("reconcile").in_scope(|| tracing::info!(name = "etl", "rotated"));
        let line: serde_json::Value = serde_json::from_str(&log.text()).unwrap();
        assert_eq!(line["message"], "rotated");
        assert_eq!(line["name"], "etl");
        assert_eq!(line["level"], "INFO");
        assert!(line.get("span").is_none());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        let read = subscriber(Format::Text, Some("kube=loud"), io::stderr, false);
        assert!(matches!(read.err(), Some(Error::Filter(_))));
    }

    /// Runs in a process of its own, because the panic hook is the process's.
    #[test]
    fn a_panic_is_logged_without_its_message() {
        const CHILD: &str = "TELEMETRY_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            init(Format::Text, None).unwrap();
            let _ = panic::catch_unwind(|| panic!("{VALUE}"));
            return;
        }
        let module = module_path!().split_once("::").unwrap().1;
        let name = format!("{module}::a_panic_is_logged_without_its_message");
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let printed = String::from_utf8(child.stderr).unwrap();
        assert!(child.status.success(), "{printed}");
        assert!(
            printed.contains(&format!("panicked place=\"{}:", file!())),
            "{printed}"
        );
        assert!(!printed.contains(VALUE), "{printed}");
    }
}
