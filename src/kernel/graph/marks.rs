//! Which slots a walk has seen.

/// One byte a slot: the number of the walk that saw it last. Clearing is counting on; the bytes are written only when the
/// count starts again.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    seen: Vec<u8>,
    walk: u8,
}

impl Marks {
    /// Begins a walk over `slots` slots, none seen.
    pub fn begin(&mut self, slots: usize) {
        if self.seen.len() != slots {
            self.seen.resize(slots, 0);
        }
        self.walk = self.walk.wrapping_add(1);
        if self.walk == 0 {
            self.seen.fill(0);
            self.walk = 1;
        }
    }

    /// Marks a slot; true where it was not marked before.
    ///
    /// # Panics
    /// Beyond the slots.
    #[inline(always)]
    pub fn mark(&mut self, slot: u32) -> bool {
        let seen = &mut self.seen[slot as usize];
        std::mem::replace(seen, self.walk) != self.walk
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_walk_begins_unmarked_also_after_the_count_wraps() {
        let mut marks = Marks::default();
        for walk in 0..600u32 {
            // Slots that come later are new to every walk, those of a larger graph before are forgotten.
            let slots = 10 + (walk % 3) as usize;
            marks.begin(slots);
            let own = walk % 10;
            assert!(marks.mark(own), "{walk}");
            assert!(!marks.mark(own), "{walk}");
            assert!(marks.mark((own + 1) % 10), "{walk}");
            assert!(marks.mark(slots as u32 - 1) || own == 9 || own == 8, "{walk}");
        }
        assert_eq!(marks.bytes(), 12);
    }
}
