//! The demo: what happens to one token, told as it happens; every line is a fact that was checked.
//!
//! | variable | effect |
//! |---|---|
//! | `KEEP=1` | everything stays up after the story, until an interrupt |
//! | `DEMO_CLUSTER=existing` | takes place in the cluster of `KUBECONFIG`, else in a control plane of its own |
//! | `NO_COLOR` | no colours, also on a terminal |

mod cluster;
mod example;
mod screen;
mod stage;
mod story;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::cluster::Cluster;
use self::screen::Screen;
use self::stage::{NAMESPACE, Stage};
use crate::leak::Search;

/// As shells report a program that was interrupted.
const INTERRUPTED: u8 = 130;
const LEFT_ALONE: &str = "KUBECONFIG's cluster is left alone; DEMO_CLUSTER=existing would use it";

/// What the environment asks for.
struct Wishes {
    keep: bool,
    kubeconfig: Option<PathBuf>,
    existing: bool,
}

/// Everything the demo has started. Its fields are dropped in this order: the operator before its cluster.
struct Demo {
    stage: Option<Stage>,
    cluster: Option<Cluster>,
    screen: Screen,
    log: PathBuf,
}

/// The signals that end the demo.
struct Interrupts([Signal; 3]);

/// Plays the demo; nothing of it runs any more when this returns, in whatever way it ended.
pub async fn run() -> ExitCode {
    let screen = Screen::new();
    match prepare() {
        Ok((wishes, log, interrupts)) => play(screen, wishes, log, interrupts).await,
        Err(error) => {
            screen.fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> anyhow::Result<(Wishes, PathBuf, Interrupts)> {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok((Wishes::read()?, fresh_log()?, Interrupts::new()?))
}

async fn play(screen: Screen, wishes: Wishes, log: PathBuf, mut stop: Interrupts) -> ExitCode {
    let mut demo = Demo {
        stage: None,
        cluster: None,
        screen,
        log,
    };
    let told = tokio::select! {
        // First: an interrupt from a terminal ends the operator too.
        biased;
        () = stop.arrived() => None,
        told = demo.tell(&wishes) => Some(told),
    };
    let code = match told {
        None => {
            demo.screen.say("interrupted: stopping everything");
            ExitCode::from(INTERRUPTED)
        }
        Some(Err(error)) => {
            demo.screen.fail(&error);
            demo.show_log();
            ExitCode::FAILURE
        }
        Some(Ok(())) if wishes.keep => demo.stay(&mut stop).await,
        Some(Ok(())) => ExitCode::SUCCESS,
    };
    let mut remains = demo.cluster.iter().flat_map(Cluster::remains).peekable();
    if remains.peek().is_some() {
        demo.screen.say("To remove what it made in your cluster:");
    }
    for it in remains {
        demo.screen.say(format!("kubectl delete {it}"));
    }
    code
}

impl Demo {
    async fn tell(&mut self, wishes: &Wishes) -> anyhow::Result<()> {
        let screen = &self.screen;
        screen.title("astro-token-operator: the life of one token");
        let kubeconfig = wishes.kubeconfig.as_ref();
        let cluster = match kubeconfig.filter(|_| wishes.existing) {
            Some(kubeconfig) => self.cluster.insert(Cluster::existing(kubeconfig).await?),
            None => {
                if kubeconfig.is_some() {
                    screen.say(LEFT_ALONE);
                }
                screen.say("Starting etcd, kube-apiserver and kube-controller-manager ...");
                self.cluster.insert(Cluster::own().await?)
            }
        };
        screen.fact(cluster.describe().await?);
        screen.fact(cluster.furnish().await?);
        let stage = Stage::set(cluster, &self.log).await?;
        let stage = self.stage.insert(stage);
        story::tell(stage, screen).await?;
        screen.say(format!("The operator's log: {}", self.log.display()));
        Ok(())
    }

    /// Leaves everything up until an interrupt, with something to try.
    async fn stay(&self, stop: &mut Interrupts) -> ExitCode {
        let (Some(cluster), Some(stage)) = (&self.cluster, &self.stage) else {
            return ExitCode::FAILURE;
        };
        let (screen, example) = (&self.screen, &stage.example);
        screen.title("All of it stays up until you press Ctrl-C here. In another terminal:");
        screen.say(format!("export KUBECONFIG={}", cluster.kubeconfig()));
        if !is_on_path("kubectl") {
            screen.say("export PATH=\"$PATH:$(hack/kube-binaries.sh)\"");
        }
        screen.say("kubectl get wtr -A");
        screen.say(format!(
            "kubectl -n {NAMESPACE} annotate wtr {} --overwrite \\",
            example.name
        ));
        screen.say("  astro-token-operator.io/rotate=\"$(date +%s)\"");
        screen.say(format!(
            "kubectl -n {NAMESPACE} delete secret {}",
            example.target
        ));
        tokio::select! {
            biased;
            () = stop.arrived() => {
                screen.say("stopping everything");
                ExitCode::SUCCESS
            }
            () = stage.operator_ended() => {
                screen.fail(&anyhow::anyhow!("the operator has ended"));
                self.show_log();
                ExitCode::FAILURE
            }
        }
    }

    /// The end of the operator's log without what only developers read, and without a line that holds a value.
    fn show_log(&self) {
        const LINES: usize = 15;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let values = self.stage.as_ref().map(|stage| stage.astro.issued());
        let search = Search::new(&values.unwrap_or_default());
        let detail = |line: &str| line.contains(" DEBUG ") || line.contains(" TRACE ");
        let shown = |line: &&str| !detail(line) && !search.finds(line);
        let mut lines: Vec<&str> = text.lines().rev().filter(shown).take(LINES).collect();
        if lines.is_empty() {
            return;
        }
        lines.reverse();
        let log = self.log.display();
        self.screen
            .say(format!("the operator's log is {log}; its last lines:"));
        for line in lines {
            self.screen.say(format!("| {line}"));
        }
    }
}

impl Wishes {
    fn read() -> anyhow::Result<Self> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let kubeconfig = set("KUBECONFIG").map(PathBuf::from);
        let existing = match set("DEMO_CLUSTER") {
            None => false,
            Some(cluster) if cluster == "existing" => true,
            Some(cluster) => bail!("DEMO_CLUSTER={cluster:?}: it can be existing, or not set"),
        };
        ensure!(
            kubeconfig.is_some() || !existing,
            "DEMO_CLUSTER=existing needs KUBECONFIG to say which cluster"
        );
        Ok(Self {
            keep: set("KEEP").is_some_and(|keep| keep != "0"),
            kubeconfig,
            existing,
        })
    }
}

impl Interrupts {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn arrived(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// An empty file for the operator's log, in the folder that cargo builds in: it outlives the demo.
fn fresh_log() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let builds = program.parent().and_then(|folder| folder.parent());
    let folder = builds.context("a program in no folder")?.join("demo");
    std::fs::create_dir_all(&folder)?;
    let log = folder.join("operator.log");
    File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let here = std::env::current_dir()?;
    Ok(log.strip_prefix(here).map_or(log.clone(), PathBuf::from))
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
