//! Whose turn it is, of several for whom somebody waits.

use std::collections::VecDeque;

/// Parties that take turns.
pub(super) struct Turns<P> {
    /// The first is served next.
    old: VecDeque<P>,
    /// Those that have not been served since somebody came to wait for them. They take turns with the others, so that one
    /// who comes does not wait for a round of a hundred with hundreds each.
    new: VecDeque<P>,
    /// Whether one that is not new goes first this time.
    new_waits: bool,
}

impl<P> Turns<P> {
    /// Somebody waits for a party for which nobody did.
    pub(super) fn come(&mut self, party: P) {
        self.new.push_back(party);
    }

    /// Takes out the party whose turn it is, of those that are open.
    pub(super) fn next(&mut self, mut is_open: impl FnMut(&P) -> bool) -> Option<P> {
        let queues = match self.new_waits {
            true => [&mut self.old, &mut self.new],
            false => [&mut self.new, &mut self.old],
        };
        let party = queues.into_iter().find_map(|queue| {
            let turn = queue.iter().position(&mut is_open)?;
            queue.remove(turn)
        })?;
        self.new_waits = !self.new_waits;
        Some(party)
    }

    /// Puts back one that had its turn, and for which more wait.
    pub(super) fn stay(&mut self, party: P) {
        self.old.push_back(party);
    }

    /// Gives back the memory of those that are gone.
    pub(super) fn shrink(&mut self) {
        self.old.shrink_to_fit();
        self.new.shrink_to_fit();
    }

    /// Places in memory.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.old.capacity() + self.new.capacity()
    }
}

impl<P> Default for Turns<P> {
    fn default() -> Self {
        Self {
            old: VecDeque::new(),
            new: VecDeque::new(),
            new_waits: false,
        }
    }
}
