//! How much memory the operator takes: what it has resident, and what its control group is charged with.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::operator::Operator;

/// The memory limit of `deploy/`.
pub const SHIPPED_LIMIT: u64 = 128 * 1024 * 1024;

const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";
/// Between two looks at what is resident.
const LOOK: Duration = Duration::from_millis(50);

/// How often the removal of a control group is tried.
const REMOVALS: usize = 20;

/// Watches what a process has resident; ends when dropped.
pub struct Watch {
    most: Arc<AtomicU64>,
    is_reset: bool,
    _looks: AbortOnDropHandle<()>,
}

impl Watch {
    /// Begins with what is resident now.
    pub fn begin(operator: &Operator) -> Self {
        let most = Arc::<AtomicU64>::default();
        let (seen, id) = (most.clone(), operator.id());
        let looks = tokio::spawn(async move {
            while let Some(now) = resident(id) {
                seen.fetch_max(now, Ordering::Relaxed);
                sleep(LOOK).await;
            }
        });
        Self {
            most,
            // Where the kernel does not begin anew, the looks have to do.
            is_reset: operator.forget_most_resident().is_ok(),
            _looks: AbortOnDropHandle::new(looks),
        }
    }

    /// The most so far, bytes.
    pub fn most(&self, operator: &Operator) -> u64 {
        let looked = self.most.load(Ordering::Relaxed);
        let told = operator.most_resident().ok().filter(|_| self.is_reset);
        told.map_or(looked, |told| told.max(looked))
    }
}

/// What a process has resident, bytes; `None` when it has ended.
pub fn resident(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// A control group for one process, where one can be made: by root, in version 1 or 2. Removed on drop.
pub struct Cage {
    folder: PathBuf,
    is_v2: bool,
}

impl Cage {
    /// Makes one with this limit; the error says why there is none.
    ///
    /// # Errors
    /// When the system has no control groups for memory, or does not permit it.
    pub fn make(limit: Option<u64>) -> Result<Self, String> {
        let is_v2 = !Path::new(V1).join("memory.limit_in_bytes").exists();
        if is_v2 {
            let controllers = Path::new(V2).join("cgroup.subtree_control");
            // An error shows below: the group has no files for memory then.
            let _ = fs::write(controllers, "+memory");
        }
        let name = format!("operator-{}", uuid::Uuid::new_v4().simple());
        let folder = Path::new(if is_v2 { V2 } else { V1 }).join(name);
        let refused = |error| format!("no control group can be made here: {error}");
        fs::create_dir(&folder).map_err(refused)?;
        let cage = Self { folder, is_v2 };
        let limit = limit.map_or("max".to_owned(), |limit| limit.to_string());
        let limit = if limit == "max" && !is_v2 {
            "-1".to_owned()
        } else {
            limit
        };
        let file = if is_v2 {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        fs::write(cage.folder.join(file), limit).map_err(refused)?;
        Ok(cage)
    }

    /// The file of its members.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most it was charged with, page cache and the kernel's own included, bytes.
    pub fn most(&self) -> Option<u64> {
        let file = if self.is_v2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        fs::read_to_string(self.folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Whether a member was killed because of the limit.
    pub fn has_killed(&self) -> bool {
        let file = if self.is_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.is_some_and(|number| number.trim() != "0")
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Fails while a member is still dying.
        for _ in 0..REMOVALS {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
