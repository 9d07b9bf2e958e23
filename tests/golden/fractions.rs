//! Pseudo-random numbers in `[-0.5, 0.5)` that are the same in every language, as in `make_vgg.py`: a hash of their
//! indices.

/// The first `n` of the sequence with this number.
pub fn fractions(n: usize, seed: u32) -> Vec<f32> {
    let hash = |i: usize| {
        let x = (i as u32).wrapping_add(seed.wrapping_mul(7919)).wrapping_mul(2_654_435_761);
        let x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519);
        (f64::from(x ^ (x >> 13)) / 2f64.powi(32) - 0.5) as f32
    };
    (0..n).map(hash).collect()
}
