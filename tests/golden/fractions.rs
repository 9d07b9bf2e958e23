//! Pseudo-random numbers in `[-0.5, 0.5)` that are the same in every language, as in `make_vgg.py`: a hash of their
//! indices.

/// The first `n` of the sequence with this number.
pub fn fractions(n: usize, seed: u32) -> Vec<f32> {
    const SCALE: f64 = 1.0 / (1u64 << 32) as f64;
    let mut values = vec![0.0; n];
    let mut start = seed.wrapping_mul(7919);
    // Tests are not optimized, and fill networks of a hundred million parameters: nothing here calls a function.
    for value in &mut values[..] {
        let x = (start as u64 * 2_654_435_761) as u32;
        let x = ((x ^ (x >> 15)) as u64 * 2_246_822_519) as u32;
        *value = ((x ^ (x >> 13)) as f64 * SCALE - 0.5) as f32;
        start = (start as u64 + 1) as u32;
    }
    values
}
