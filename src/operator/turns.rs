//! The order in which parties with somebody waiting are served.

use std::collections::VecDeque;

/// Parties that take turns.
pub(super) struct Turns<P> {
    /// The first is served next.
    old: VecDeque<P>,
    /// Those that have not been served since somebody began to wait for them. They alternate with the others, so that a
    /// newcomer does not wait until each of a hundred others has been served.
    new: VecDeque<P>,
    /// Whether one that is not new goes first this time.
    new_waits: bool,
}

impl<P> Turns<P> {
    /// Adds a party. Until now, nobody was waiting for it.
    pub(super) fn come(&mut self, party: P) {
        self.new.push_back(party);
    }

    /// Removes the next party that is open, and returns it.
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

    /// Puts back a party that was served and for which more are waiting.
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
