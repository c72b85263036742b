//! Prints of names and ids: sixteen bytes each, whatever their length.

use crate::decide::entity::Entity;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::NonZeroU64;

/// What stands for a text of some kind.
///
/// It is a hash of 127 bits under a key that this process has drawn and shows to nobody. So no two texts that anybody
/// could write have the same one, and equal prints count as equal texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Print(NonZeroU64, u64);

impl Print {
    /// Half of it, to find it by: of a few that have it the one that is meant has to be told by the whole.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

/// Makes prints that can be compared with each other.
#[derive(Default)]
pub struct Prints(RandomState);

impl Prints {
    /// Of a resource.
    pub fn resource(&self, namespace: &str, name: &str) -> Print {
        self.of(b'r', &[namespace, name], Case::Matters)
    }

    /// Of a Secret.
    pub fn secret(&self, namespace: &str, name: &str) -> Print {
        self.of(b's', &[namespace, name], Case::Matters)
    }

    /// Of a token, however its id is written.
    pub fn token(&self, id: &str) -> Print {
        self.of(b't', &[id], Case::OfFirstIgnored)
    }

    /// Of a token's name in an entity, however the id of that is written.
    pub fn token_name(&self, entity: &Entity, name: &str) -> Print {
        let scope = entity.scope.of_record();
        self.of(b'n', &[&entity.id, scope, name], Case::OfFirstIgnored)
    }

    fn of(&self, kind: u8, texts: &[&str], case: Case) -> Print {
        let half = |which: u8| {
            let mut state = self.0.build_hasher();
            state.write_u8(which);
            state.write_u8(kind);
            for (index, text) in texts.iter().enumerate() {
                match case {
                    Case::OfFirstIgnored if index == 0 => write_lower_case(&mut state, text),
                    _ => state.write(text.as_bytes()),
                }
                // No text has this byte.
                state.write_u8(0xff);
            }
            state.finish()
        };
        Print(NonZeroU64::MIN.saturating_add(half(0) >> 1), half(1))
    }
}

#[derive(Clone, Copy)]
enum Case {
    Matters,
    OfFirstIgnored,
}

fn write_lower_case(state: &mut impl Hasher, text: &str) {
    for piece in text.as_bytes().chunks(32) {
        let mut lower = [0; 32];
        let lower = &mut lower[..piece.len()];
        lower.copy_from_slice(piece);
        lower.make_ascii_lowercase();
        state.write(lower);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Scope;

    #[test]
    fn ids_are_alike_in_any_case_and_nothing_else_is() {
        let prints = Prints::default();
        let long = "Clm0123456789abcdefGHIJKLMNOPQRSTUVWXYZ-and-more";
        assert!(prints.token(long) == prints.token(&long.to_lowercase()));
        let name = |scope, id: &str, name| {
            let id = id.into();
            prints.token_name(&Entity { scope, id }, name)
        };
        assert!(name(Scope::Workspace, "WS", "CI") == name(Scope::Workspace, "ws", "CI"));
        let others = [
            name(Scope::Workspace, "ws", "ci"),
            name(Scope::Workspace, "ws", "CI"),
            name(Scope::Deployment, "ws", "CI"),
            name(Scope::Organization, "", "CI"),
            prints.token("ws"),
            prints.secret("a", "bc"),
            prints.secret("ab", "c"),
            prints.secret("A", "bc"),
            prints.resource("a", "bc"),
        ];
        for (index, one) in others.iter().enumerate() {
            assert!(!others[..index].contains(one), "{index}");
        }
        assert!(prints.token("a") != Prints::default().token("a"));
    }
}
