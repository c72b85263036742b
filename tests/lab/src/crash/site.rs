//! Where a life of the operator can be cut: what its requests are, told from method, path and body alone.

use std::fmt;

use serde_json::Value;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum What {
    ReadCredential,
    ReadSecret,
    ReadResource,
    ListTokens,
    ReadToken,
    Rehearse,
    RecordIntent,
    Rotate,
    WriteSecret,
    WriteStatus,
    PublishEvent,
}

/// A request in one life of the operator, for one resource.
///
/// It is told by what came before it since the last rotate call: how often the operator looks and reports before that
/// depends on the time that its predecessor has left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// How many rotate calls came before it.
    pub rotates: usize,
    /// Its kind.
    pub what: What,
    /// How many of the kind came before it, since the last rotate call.
    pub nth: usize,
}

/// How far a request gets before its sender dies.
///
/// That the answer arrives and the sender dies then is the same as `Before` the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It never arrives.
    Before,
    /// It takes effect only after the death.
    Late,
    /// It has taken effect, and the answer never arrives.
    After,
    /// It has taken effect, and its sender, who does not die, gets the answer only when [`super::Gate::release`] says so.
    Held,
}

/// A request whose sender is to die, or to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trap {
    /// Which request.
    pub site: Site,
    /// How far it gets.
    pub end: End,
}

/// A request about one resource.
pub(super) struct About {
    /// The resource, the token or the Workspace it names.
    pub subject: String,
    pub what: What,
    /// The rotation whose intent it records.
    pub intent: Option<String>,
}

impl What {
    /// The ways to die in such a request that differ: a read that lands late changes nothing.
    pub fn ends(self) -> &'static [End] {
        match self {
            Self::ReadCredential
            | Self::ReadSecret
            | Self::ReadResource
            | Self::ListTokens
            | Self::ReadToken
            | Self::Rehearse => &[End::Before, End::After],
            Self::RecordIntent
            | Self::Rotate
            | Self::WriteSecret
            | Self::WriteStatus
            | Self::PublishEvent => &[End::Before, End::Late, End::After],
        }
    }
}

/// A request to the API server that is about a resource; the parts of a resource's names end at `-` or `.`.
pub(super) fn of_cluster(method: &str, path: &str, query: &str, body: &[u8]) -> Option<About> {
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let is = |what, name: &str| {
        let subject = name.split(['-', '.']).next().unwrap_or_default();
        Some(About {
            subject: subject.to_owned(),
            what,
            intent: None,
        })
    };
    let json = || serde_json::from_slice::<Value>(body).unwrap_or_default();
    match (method, path.as_slice()) {
        ("GET", ["api", "v1", "namespaces", _, "secrets", name]) => {
            let what = match name.ends_with("-owner") {
                true => What::ReadCredential,
                false => What::ReadSecret,
            };
            is(what, name)
        }
        ("PATCH", ["api", "v1", "namespaces", _, "secrets", name]) => {
            let what = match query.contains("dryRun") {
                true => What::Rehearse,
                false => What::WriteSecret,
            };
            is(what, name)
        }
        (
            "GET",
            [
                "apis",
                _,
                _,
                "namespaces",
                _,
                "workspacetokenrotations",
                name,
            ],
        ) => is(What::ReadResource, name),
        (
            "PATCH",
            [
                "apis",
                _,
                _,
                "namespaces",
                _,
                "workspacetokenrotations",
                name,
                "status",
            ],
        ) => {
            let intent = json()["status"]["pending"]["id"]
                .as_str()
                .map(str::to_owned);
            is(What::WriteStatus, name).map(|about| About { intent, ..about })
        }
        ("POST" | "PATCH", ["apis", "events.k8s.io", _, "namespaces", _, "events", ..]) => {
            let body = json();
            is(
                What::PublishEvent,
                body["regarding"]["name"].as_str().unwrap_or_default(),
            )
        }
        _ => None,
    }
}

/// A request to the vendor that is about a token, a Workspace or a Deployment.
pub(super) fn of_vendor(method: &str, path: &str, query: &str) -> Option<About> {
    let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (what, subject) = match (method, path.as_slice()) {
        ("GET", ["v1", "organizations", _, "tokens"]) => {
            let mut parameters = query.split('&');
            let entity = parameters.find_map(|it| {
                let (parameter, id) = it.split_once('=')?;
                matches!(parameter, "workspaceId" | "deploymentId").then_some(id)
            })?;
            (What::ListTokens, entity)
        }
        ("GET", ["v1", "organizations", _, "tokens", id]) => (What::ReadToken, *id),
        ("POST", ["v1", "organizations", _, "tokens", id, "rotate"]) => (What::Rotate, *id),
        _ => return None,
    };
    Some(About {
        subject: subject.to_owned(),
        what,
        intent: None,
    })
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)?;
        if self.nth > 0 {
            write!(f, " #{}", self.nth + 1)?;
        }
        if self.rotates > 0 {
            write!(f, " after {} calls", self.rotates)?;
        }
        Ok(())
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.end {
            End::Before => "before",
            End::Late => "sent, landing late,",
            End::After => "unanswered",
            End::Held => "answered later",
        };
        write!(f, "{end} {}", self.site)
    }
}
