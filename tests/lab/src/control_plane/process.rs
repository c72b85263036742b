//! Programs and folders that do not outlive this process, however it ends.
//!
//! Each has a shell reading a pipe that this process holds open: the end of the pipe is the end of this process, or a
//! drop. A line on the pipe dismisses the guard instead.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;

/// Becomes the program `$@` and leaves a guard that kills it, orphaned so that the program need not reap it.
const GUARDED: &str = r#"
    exec 3<&0
    ({ read -r _ || kill -s KILL $$; } <&3 &)
    exec "$@" 3<&- </dev/null
"#;

/// Removes the folder `$1`, again while programs that are just being killed still write into it.
const SWEPT: &str = r#"
    read -r _ && exit
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf -- "$1" && exit
        sleep 0.5
    done
"#;

const LOG_TAIL_LINES: usize = 20;

/// A running program; killed on drop and when this process dies.
pub(super) struct Process {
    child: Child,
    log: PathBuf,
}

/// A temporary folder; removed on drop and when this process dies.
pub(super) struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Process {
    /// Starts `program` with all its output appended to the file `log`.
    pub(super) fn spawn(
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(&log)?;
        let child = shell(GUARDED)
            .arg(program)
            .args(arguments)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the program ended, if it did.
    pub(super) fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The end of what the program wrote, with the place of the rest.
    pub(super) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<&str> = text.lines().rev().take(LOG_TAIL_LINES).collect();
        lines.reverse();
        format!("{} ends with:\n{}", self.log.display(), lines.join("\n"))
    }

    /// Leaves the program running for good and returns its process id.
    pub(super) fn keep(mut self) -> u32 {
        dismiss(&mut self.child);
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.stdin.is_some() {
            // An error means that it has ended already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Scratch {
    /// A new folder among the machine's temporary files.
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("control-plane-")
            .tempdir()?;
        let sweeper = shell(SWEPT)
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sh")?;
        Ok(Self {
            path: folder.keep(),
            sweeper,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the folder where it is.
    pub(super) fn keep(mut self) {
        dismiss(&mut self.sweeper);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(pipe) = self.sweeper.stdin.take() {
            drop(pipe);
            let _ = self.sweeper.wait();
        }
    }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .stdin(Stdio::piped())
        // Memory is plenty here and processors are few: the collector of Go programs runs less often.
        .env("GOGC", "400")
        // Out of reach of an interrupt from the terminal: the pipe tells when to end.
        .process_group(0);
    command
}

/// Sends a guard away; from then on its child has no pipe.
fn dismiss(child: &mut Child) {
    if let Some(mut pipe) = child.stdin.take() {
        // An error means that there is no guard any more.
        let _ = pipe.write_all(b"\n");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_program_and_its_folder_go_away_when_our_ends_of_their_pipes_close() {
        let mut folder = Scratch::new().unwrap();
        let mut program = sleeper(&folder);
        drop(program.child.stdin.take());
        until(|| program.exited().unwrap().is_some());
        drop(folder.sweeper.stdin.take());
        until(|| !folder.path().exists());
    }

    #[test]
    fn a_dropped_program_is_gone_at_once_and_its_folder_too() {
        let folder = Scratch::new().unwrap();
        let path = folder.path().to_owned();
        let program = sleeper(&folder);
        let id = program.child.id();
        drop(program);
        assert!(!runs(id));
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_kept_stays() {
        let folder = Scratch::new().unwrap();
        let path = folder.path().to_owned();
        let id = sleeper(&folder).keep();
        folder.keep();
        assert!(runs(id));
        assert!(path.exists());
        let mut kill = shell("kill -s KILL $1");
        assert!(kill.arg(id.to_string()).status().unwrap().success());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_end_of_the_log_tells_why_a_program_ended() {
        let folder = Scratch::new().unwrap();
        let script = ["-c".to_owned(), "seq 100 >&2; exit 3".to_owned()];
        let log = folder.path().join("log");
        let mut program = Process::spawn(Path::new("sh"), &script, log).unwrap();
        until(|| {
            program
                .exited()
                .unwrap()
                .is_some_and(|status| status.code() == Some(3))
        });
        let tail = program.log_tail();
        assert!(tail.ends_with("\n99\n100"), "{tail}");
        assert!(!tail.contains("\n80\n"), "{tail}");
    }

    fn sleeper(folder: &Scratch) -> Process {
        let log = folder.path().join("log");
        Process::spawn(Path::new("sleep"), &["1000".to_owned()], log).unwrap()
    }

    fn runs(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    fn until(mut arrived: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !arrived() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
