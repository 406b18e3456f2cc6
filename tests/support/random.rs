//! Numbers that only the seed decides, for tests that search.

/// A linear congruential generator, Knuth's MMIX.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// One of the numbers below `n`.
    pub(crate) fn below<N: TryFrom<u64>>(&mut self, n: N) -> N
    where
        u64: TryFrom<N>,
    {
        let n = u64::try_from(n).ok().unwrap();
        N::try_from(self.next() % n).ok().unwrap()
    }
}
