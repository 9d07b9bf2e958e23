//! Reproducible random numbers on the host. Everything random in this crate is a pure function of a seed, an epoch and a purpose,
//! so a run can be repeated, or resumed in the middle, without replaying it.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

/// One pass over the data: the run's seed, and the index of the pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The run's seed.
    pub seed: u64,
    /// The index of the pass, from 0.
    pub number: u64,
}

impl Epoch {
    /// Pass `number` of the runs with this seed.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Epoch {
        Epoch { seed, number }
    }

    /// The random stream of this pass for one purpose. Streams of different purposes are independent. Purposes below
    /// 2^32 are reserved for Kiln's samplers.
    #[must_use]
    pub fn stream(self, purpose: u64) -> RandomStream {
        self.numbered_stream(purpose, 0)
    }

    /// One of many streams for one purpose, distinguished by ChaCha's nonce.
    pub(crate) fn numbered_stream(self, purpose: u64, number: u64) -> RandomStream {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([self.seed, self.number, purpose, TAG]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(number);
        RandomStream(rng)
    }
}

const TAG: u64 = u64::from_le_bytes(*b"kilndata");

/// A stream of random numbers: the 64-bit words of ChaCha8 with the key `seed ‖ epoch ‖ purpose ‖ "kilndata"`
/// (little-endian) and a nonce that is 0 except for transforms. The words, and everything drawn from them here, are
/// part of the crate's contract: they stay the same on every platform and in every later version.
#[derive(Clone, Debug)]
pub struct RandomStream(ChaCha8Rng);

impl RandomStream {
    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A uniform integer in `0..bound`; 0 if `bound` is 0. Without bias: the upper half of a word times `bound`, with rejection
    /// (Lemire, arXiv:1805.10941).
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let low = product as u64;
            // The threshold needs a division, so it is computed only when it can matter.
            if low >= bound || low >= bound.wrapping_neg().checked_rem(bound).unwrap_or(0) {
                return (product >> 64) as usize;
            }
        }
    }

    /// A uniform number in `[0, 1)`: the upper 53 bits of a word.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A uniform number in `[low, high)`.
    pub fn uniform_between(&mut self, low: f64, high: f64) -> f64 {
        low + self.uniform() * (high - low)
    }

    /// `true` with probability `p`.
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A number from the standard normal distribution (Box-Muller, using the cosine of each pair).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.uniform()).ln()).sqrt(), std::f64::consts::TAU * self.uniform());
        radius * angle.cos()
    }

    /// Shuffles the values uniformly (Fisher-Yates, from the end).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }

    /// A uniform random permutation of `0..n`.
    #[must_use]
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        self.shuffle(&mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_stable() {
        // Users who resume runs with a later version rely on these numbers: never update them.
        assert_eq!(Epoch::new(0, 0).stream(0).permutation(10), PERMUTATION);
        let mut stream = Epoch::new(42, 3).stream(1);
        assert_eq!([stream.next_u64(), stream.next_u64()], WORDS);
    }

    // From another implementation of ChaCha.
    const PERMUTATION: [usize; 10] = [9, 7, 6, 2, 5, 8, 0, 1, 4, 3];
    const WORDS: [u64; 2] = [0x5a607e7d7482b5cb, 0x1841c584b084ff16];

    #[test]
    fn seed_epoch_and_purpose_matter() {
        let words = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)].map(|(s, e, p)| Epoch::new(s, e).stream(p).next_u64());
        for (i, a) in words.iter().enumerate() {
            assert!(!words[..i].contains(a));
        }
    }

    #[test]
    fn even() {
        let mut stream = Epoch::new(7, 0).stream(0);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[stream.below(6)] += 1;
        }
        // Standard deviation 91: 5 of them.
        assert!(counts.iter().all(|&n| n.abs_diff(10_000) < 460), "{counts:?}");
        let mut firsts = [0u32; 4];
        for _ in 0..40_000 {
            firsts[stream.permutation(4)[3]] += 1;
        }
        assert!(firsts.iter().all(|&n| n.abs_diff(10_000) < 440), "{firsts:?}");
        assert_eq!(stream.below(0), 0);
        assert!((0..1000).map(|_| stream.uniform()).all(|u| (0.0..1.0).contains(&u)));
    }
}
