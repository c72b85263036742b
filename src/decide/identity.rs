//! Who holds a lease or works on a rotation: one process of one pod.

use std::fmt;
use uuid::Uuid;

/// A process: `<pod>/<process>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pod: String,
    process: String,
    /// Whether `pod` is known to be the pod's name, so that no other live process has it.
    certain: bool,
}

impl Identity {
    /// `pod` is the pod's name from the downward API; without it the name of the `host` tells people who it is, and
    /// proves nothing. `process` is random for each start.
    pub fn new(pod: Option<String>, host: String, process: Uuid) -> Self {
        let certain = pod.is_some();
        Self {
            pod: pod.unwrap_or(host),
            process: process.simple().to_string(),
            certain,
        }
    }

    /// Whether `holder` is an earlier process of this very pod. It is dead then: a container is started again only after
    /// the last one ended. Never true when the pod's name was not given.
    pub fn succeeds(&self, holder: &str) -> bool {
        self.certain
            && holder
                .split_once('/')
                .is_some_and(|(pod, process)| pod == self.pod && process != self.process)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pod, self.process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pod: Option<&str>) -> Identity {
        Identity::new(pod.map(str::to_owned), "host".into(), Uuid::new_v4())
    }

    #[test]
    fn only_an_earlier_process_of_a_pod_that_is_certain_is_succeeded() {
        let us = identity(Some("pod-a"));
        assert!(us.succeeds("pod-a/before"));
        assert!(!us.succeeds(&us.to_string()));
        assert!(!us.succeeds("pod-b/before"));
        assert!(!us.succeeds("pod-a"));
        assert!(!us.succeeds(""));

        let guess = identity(None);
        assert!(!guess.succeeds(&format!("{}/before", guess.pod)));
    }
}
