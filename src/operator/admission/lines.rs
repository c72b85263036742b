//! The order in which those who wait get a place.

use crate::api::Key;
use crate::operator::turns::Turns;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A line for each credential.
pub(super) struct Lines {
    /// Places that nobody has.
    free: usize,
    lines: HashMap<u128, Line>,
    /// The credentials for which somebody waits.
    turns: Turns<u128>,
    /// Who waits. Nobody does twice.
    waiting: HashSet<Arc<Key>>,
}

/// Who waits for a place for one credential.
#[derive(Default)]
struct Line {
    /// Places that were given out.
    held: usize,
    /// By namespace; the first one is served next.
    namespaces: VecDeque<VecDeque<Arc<Key>>>,
}

impl Lines {
    /// So many places in all.
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: places,
            lines: HashMap::new(),
            turns: Turns::default(),
            waiting: HashSet::new(),
        }
    }

    /// Has a resource wait at the end of the line of its namespace, unless it waits already.
    pub(super) fn join(&mut self, credential: u128, resource: &Arc<Key>) {
        if !self.waiting.insert(resource.clone()) {
            return;
        }
        let line = self.lines.entry(credential).or_default();
        if line.namespaces.is_empty() {
            self.turns.come(credential);
        }
        let mut namespaces = line.namespaces.iter_mut();
        let own = namespaces.find(|it| {
            it.front()
                .is_some_and(|one| one.namespace == resource.namespace)
        });
        match own {
            Some(own) => own.push_back(resource.clone()),
            None => line.namespaces.push_back([resource.clone()].into()),
        }
    }

    /// The next one that gets a place, and for which credential; `may` tells whether a credential may be used now.
    ///
    /// A credential gets one more only while more are free than it has: those for which the vendor does not answer, however
    /// many they are, leave some for others.
    pub(super) fn next(&mut self, mut may: impl FnMut(u128) -> bool) -> Option<(Arc<Key>, u128)> {
        let is_open = |credential: &u128| {
            let line = self.lines.get(credential);
            line.is_some_and(|line| line.held < self.free) && may(*credential)
        };
        let credential = self.turns.next(is_open)?;
        let line = self.lines.get_mut(&credential)?;
        let mut namespace = line.namespaces.pop_front()?;
        let resource = namespace.pop_front()?;
        if !namespace.is_empty() {
            line.namespaces.push_back(namespace);
        }
        if !line.namespaces.is_empty() {
            self.turns.stay(credential);
        }
        line.held += 1;
        self.free -= 1;
        self.waiting.remove(&resource);
        self.shrink();
        Some((resource, credential))
    }

    /// Takes back a place that was given for this credential.
    pub(super) fn leave(&mut self, credential: u128) {
        self.free += 1;
        if let Some(line) = self.lines.get_mut(&credential) {
            line.held = line.held.saturating_sub(1);
            if line.held == 0 && line.namespaces.is_empty() {
                self.lines.remove(&credential);
            }
        }
        self.shrink();
    }

    /// Gives memory back once nobody waits any more.
    fn shrink(&mut self) {
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
            self.turns.shrink();
        }
        if self.lines.is_empty() {
            self.lines.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> Arc<Key> {
        Arc::new(Key {
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    fn names(lines: &mut Lines, may: impl Fn(u128) -> bool) -> Vec<String> {
        std::iter::from_fn(|| lines.next(&may))
            .map(|(key, _)| key.name.clone())
            .collect()
    }

    #[test]
    fn credentials_take_turns_and_within_one_so_do_namespaces() {
        let mut lines = Lines::new(100);
        for name in ["a1", "a2", "a3"] {
            lines.join(1, &key("a", name));
        }
        lines.join(1, &key("b", "b1"));
        for name in ["c1", "c2"] {
            lines.join(2, &key("c", name));
        }
        assert_eq!(
            names(&mut lines, |_| true),
            ["a1", "b1", "c1", "a2", "c2", "a3"]
        );
    }

    #[test]
    fn one_that_comes_does_not_wait_for_a_round_of_all_others() {
        let mut lines = Lines::new(1_000);
        for credential in 0..100 {
            for n in 0..3 {
                lines.join(credential, &key(&credential.to_string(), &format!("{n}")));
            }
        }
        for _ in 0..250 {
            lines.next(|_| true).unwrap();
        }
        lines.join(100, &key("late", "late"));
        let next: Vec<_> = (0..2).filter_map(|_| lines.next(|_| true)).collect();
        assert!(next.iter().any(|(_, credential)| *credential == 100));
        // And whoever comes, those before get on.
        for late in 101..110 {
            lines.join(late, &key("late", &late.to_string()));
        }
        let next = (0..10).filter_map(|_| lines.next(|_| true));
        assert_eq!(next.filter(|(_, credential)| *credential < 100).count(), 5);
    }

    #[test]
    fn nobody_waits_twice_and_who_was_served_may_wait_again() {
        let mut lines = Lines::new(9);
        let one = key("a", "one");
        lines.join(1, &one);
        lines.join(1, &one);
        assert_eq!(names(&mut lines, |_| true), ["one"]);
        lines.join(1, &one);
        assert_eq!(names(&mut lines, |_| true), ["one"]);
    }

    #[test]
    fn one_credential_leaves_places_for_others_and_a_place_that_is_left_is_given_again() {
        let mut lines = Lines::new(8);
        for credential in [1, 2, 3, 4] {
            let namespace = credential.to_string();
            for n in 1..=9 {
                lines.join(credential, &key(&namespace, &format!("{n}")));
            }
            let served = names(&mut lines, |it| it == credential).len();
            assert_eq!(
                served,
                [4, 2, 1, 1][credential as usize - 1],
                "{credential}"
            );
        }
        assert_eq!(names(&mut lines, |_| true), Vec::<String>::new());
        lines.leave(4);
        assert_eq!(names(&mut lines, |_| true), ["2"]);
        lines.leave(1);
        assert_eq!(names(&mut lines, |it| it == 1), Vec::<String>::new());
    }

    #[test]
    fn who_may_not_be_used_now_keeps_nobody_else_waiting() {
        let mut lines = Lines::new(9);
        lines.join(1, &key("a", "a1"));
        lines.join(2, &key("b", "b1"));
        assert_eq!(names(&mut lines, |credential| credential != 1), ["b1"]);
        assert_eq!(names(&mut lines, |_| true), ["a1"]);
    }

    #[test]
    fn nothing_is_left_of_those_who_have_left() {
        let mut lines = Lines::new(4);
        for n in 0..1_000 {
            lines.join(n, &key(&format!("ns-{n}"), "name"));
        }
        let mut served = 0;
        while let Some((_, credential)) = lines.next(|_| true) {
            lines.leave(credential);
            served += 1;
        }
        assert_eq!(served, 1_000);
        assert_eq!(
            (
                lines.lines.capacity(),
                lines.waiting.capacity(),
                lines.turns.places()
            ),
            (0, 0, 0)
        );
        assert_eq!(lines.free, 4);
    }
}
