//! The machine that this process runs on.

/// The name of the host, which in a container is the pod's; `unknown` where the system does not say.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "unknown".into(),
        name => name.into(),
    }
}
