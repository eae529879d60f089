//! Whose turn it is: sources take steps in proportion to their shares, spread evenly. A function of the shares and the
//! step number alone, so that a run can be resumed, or extended.

/// The turns of sources.
pub(super) struct Turns {
    /// Of the steps; they add up to 1.
    shares: Vec<f64>,
    /// Batches that each source has given before step `at`.
    given: Vec<u64>,
    at: u64,
}

impl Turns {
    /// `wanted` shares where a source names one, else in proportion to its `batches` of an epoch.
    pub(super) fn new(wanted: &[Option<f64>], batches: &[u64]) -> Self {
        let named: f64 = wanted.iter().flatten().sum();
        let unnamed = |(wanted, batches): (&Option<f64>, &u64)| match wanted {
            None => *batches,
            Some(_) => 0,
        };
        let rest: u64 = wanted.iter().zip(batches).map(unnamed).sum();
        // Where every source names its share, they are what counts, whatever they add up to.
        let whole = if rest == 0 { named } else { 1.0 };
        let share = |(wanted, batches): (&Option<f64>, &u64)| match wanted {
            Some(share) => share / whole,
            None => (1.0 - named) * *batches as f64 / rest as f64,
        };
        let shares: Vec<f64> = wanted.iter().zip(batches).map(share).collect();
        Self { given: vec![0; shares.len()], shares, at: 0 }
    }

    /// The source of a step, and how many batches it has given before.
    pub(super) fn turn(&mut self, step: u64) -> (usize, u64) {
        if step < self.at {
            self.given.fill(0);
            self.at = 0;
        }
        while self.at < step {
            let next = self.next();
            self.given[next] += 1;
            self.at += 1;
        }
        let next = self.next();
        (next, self.given[next])
    }

    /// The source that lags furthest behind its share.
    fn next(&self) -> usize {
        let behind = |at: usize| self.shares[at] * (self.at + 1) as f64 - self.given[at] as f64;
        let first = |best: usize, at: usize| if behind(at) > behind(best) { at } else { best };
        (0..self.shares.len()).reduce(first).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_kept_at_every_step() {
        let mut turns = Turns::new(&[Some(0.5), None, None], &[1, 30, 10]);
        let mut given = [0u64; 3];
        for step in 0..400 {
            let (source, before) = turns.turn(step);
            assert_eq!(before, given[source]);
            given[source] += 1;
            for (given, share) in given.iter().zip([0.5, 0.375, 0.125]) {
                assert!((*given as f64 - share * (step + 1) as f64).abs() < 1.5, "step {step}");
            }
        }
        assert_eq!(given, [200, 150, 50]);
        // Earlier ones again, as after a look back.
        assert_eq!(turns.turn(0), (0, 0));
        let mut all = Turns::new(&[Some(0.2), Some(0.2)], &[7, 9]);
        assert_eq!([0, 1, 2, 3].map(|step| all.turn(step).0), [0, 1, 0, 1]);
    }
}
