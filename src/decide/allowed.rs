//! Who may use the operator's own credential: the resources of which namespaces, and for which Workspaces. Pure.

use crate::api::Scope;
use crate::decide::entity::Entity;
use crate::decide::names::is_namespace;
use crate::id::{canonical, is_id, is_same};

/// One entry: `data=clm8q7f6q000008lcgyougpsk`, or one that leaves out the Workspace, or has `*` for all namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None`: all namespaces.
    namespace: Option<String>,
    /// `None`: whatever Workspace the credential reaches.
    workspace: Option<String>,
}

/// All entries. They add up.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Vec<Entry>);

impl Entry {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (namespace, workspace) = match text.trim().split_once('=') {
            Some((namespace, workspace)) => (namespace, Some(canonical(workspace.to_owned()))),
            None => (text.trim(), None),
        };
        if namespace != "*" && !is_namespace(namespace) {
            return Err("expected NAMESPACE=WORKSPACE, where * stands for all namespaces".into());
        }
        if workspace.as_ref().is_some_and(|id| !is_id(id)) {
            return Err(
                "after = the id of a Workspace is expected: 1 to 64 letters, digits, - or _, as Astro shows it"
                    .into(),
            );
        }
        Ok(Self {
            namespace: (namespace != "*").then(|| namespace.to_owned()),
            workspace,
        })
    }
}

impl From<Vec<Entry>> for Allowed {
    fn from(entries: Vec<Entry>) -> Self {
        Self(entries)
    }
}

impl Allowed {
    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether resources of a namespace may use the credential for tokens of an entity. An entry that names a Workspace is good
    /// for no other scope: a Deployment's token does not tell which Workspace that is in.
    pub fn allows(&self, namespace: &str, entity: &Entity) -> bool {
        self.0.iter().any(|entry| {
            let is_here = entry.namespace.as_ref().is_none_or(|it| it == namespace);
            let bound = entry.workspace.as_ref();
            let is_of =
                |bound: &String| entity.scope == Scope::Workspace && is_same(bound, &entity.id);
            is_here && bound.is_none_or(is_of)
        })
    }

    /// The namespaces that no Workspace is named for, as they were written.
    pub fn unbound(&self) -> Vec<&str> {
        let unbound = self.0.iter().filter(|entry| entry.workspace.is_none());
        let names = unbound.map(|entry| entry.namespace.as_deref().unwrap_or("*"));
        names.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(entries: &[&str]) -> Allowed {
        let entries = entries.iter().map(|it| Entry::parse(it).unwrap());
        entries.collect::<Vec<_>>().into()
    }

    #[test]
    fn entries_add_up_and_each_allows_what_it_names_and_nothing_else() {
        let cuid = "clm8q7f6q000008lcgyougpsk";
        let upper = cuid.to_uppercase();
        for (entries, namespace, workspace, expected) in [
            (&["data"][..], "data", "ws", true),
            (&["data"], "data2", "ws", false),
            (&["*"], "any", "ws", true),
            (&["data=ws"], "data", "ws", true),
            (&["data=ws"], "data", "other", false),
            (&["data=ws"], "ml", "ws", false),
            (&["*=ws"], "ml", "ws", true),
            (&["*=ws"], "ml", "other", false),
            (&["data=ws", "data=other"], "data", "other", true),
            (&["data=ws", "ml=other"], "data", "other", false),
            (&["data=ws", "*=all"], "data", "all", true),
            (&["data=ws", "data"], "data", "other", true),
            (&["data=ws", "ml"], "data", "other", false),
            (&[" data=ws "], "data", "ws", true),
            (&["data=WS"], "data", "ws", true),
            (&[&format!("data={upper}")], "data", cuid, true),
            (&[&format!("data={cuid}")], "data", &upper, true),
            (&[], "data", "ws", false),
        ] {
            let of = |scope| {
                let id = workspace.into();
                allowed(entries).allows(namespace, &Entity { scope, id })
            };
            assert_eq!(
                of(Scope::Workspace),
                expected,
                "{entries:?} {namespace} {workspace}"
            );
            let is_unbound = allowed(entries).allows(
                namespace,
                &Entity {
                    scope: Scope::Workspace,
                    id: "whatever".into(),
                },
            );
            for scope in [Scope::Deployment, Scope::Organization] {
                assert_eq!(of(scope), is_unbound, "{entries:?} {namespace} {scope}");
            }
        }
    }

    #[test]
    fn what_bounds_no_workspace_is_named() {
        let entries = ["data=ws", "ml", "*=x", "*"];
        assert_eq!(allowed(&entries).unbound(), ["ml", "*"]);
        assert!(allowed(&["data=ws", "*=ws"]).unbound().is_empty());
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let long = "x".repeat(64);
        for (text, words) in [
            ("", "NAMESPACE=WORKSPACE"),
            (" ", "NAMESPACE=WORKSPACE"),
            ("=ws", "NAMESPACE=WORKSPACE"),
            ("=", "NAMESPACE=WORKSPACE"),
            ("Data", "NAMESPACE=WORKSPACE"),
            ("-data", "NAMESPACE=WORKSPACE"),
            ("data-=ws", "NAMESPACE=WORKSPACE"),
            ("team.data=ws", "NAMESPACE=WORKSPACE"),
            ("da*=ws", "NAMESPACE=WORKSPACE"),
            ("**", "NAMESPACE=WORKSPACE"),
            ("data ml", "NAMESPACE=WORKSPACE"),
            (&long, "NAMESPACE=WORKSPACE"),
            ("data=", "id of a Workspace"),
            ("data=a=b", "id of a Workspace"),
            ("data==b", "id of a Workspace"),
            ("data=*", "id of a Workspace"),
            ("data= ws", "id of a Workspace"),
            ("data=../ws", "id of a Workspace"),
        ] {
            let error = Entry::parse(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
