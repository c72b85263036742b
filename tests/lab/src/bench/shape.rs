//! How resources are spread over namespaces and Workspaces.

use std::fmt;

/// A way to spread them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Shape {
    /// All in one Workspace and one namespace.
    OneWorkspace,
    /// 100 Workspaces in a namespace each.
    Workspaces,
    /// 20 namespaces that name the same 100 Workspaces.
    Namespaces,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OneWorkspace, Self::Workspaces, Self::Namespaces];

    /// Number of namespaces and of Workspaces.
    pub fn size(self) -> (usize, usize) {
        match self {
            Self::OneWorkspace => (1, 1),
            Self::Workspaces => (100, 100),
            Self::Namespaces => (20, 100),
        }
    }

    /// The namespace and the Workspace of the nth resource.
    pub fn place(self, n: usize) -> (usize, usize) {
        let (namespaces, workspaces) = self.size();
        match self {
            Self::Namespaces => (n % namespaces, n / namespaces % workspaces),
            _ => (n % namespaces, n % workspaces),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneWorkspace => "one Workspace",
            Self::Workspaces => "100 Workspaces in a namespace each",
            Self::Namespaces => "20 namespaces with the same 100 Workspaces",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_place_of_a_shape_is_taken() {
        for shape in Shape::ALL {
            let places: BTreeSet<_> = (0..10_000).map(|n| shape.place(n)).collect();
            let (namespaces, workspaces) = shape.size();
            let expected = match shape {
                Shape::Namespaces => namespaces * workspaces,
                _ => namespaces,
            };
            assert_eq!(places.len(), expected, "{shape}");
        }
    }
}
