//! Tests of `random`.

use kiln_backend::{Arguments, DType, Distribution, RandomArgs, RandomBackend, RandomState, Result};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, layouts, philox};

const STATE: RandomState = RandomState { seed: 0xDEAD_BEEF_1234, offset: 3 };

fn random(distribution: Distribution, out: &mut Tensor) -> Result<()> {
    CpuBackend.random(RandomArgs { distribution, state: STATE, out: out.view_mut() }.checked()?)
}

fn draw_into(distribution: Distribution, dtype: DType, n: usize) -> Vec<f64> {
    let mut out = Tensor::empty(dtype, &[n]);
    random(distribution, &mut out).unwrap();
    out.values()
}

fn all_words(n: usize) -> Vec<u32> {
    philox(STATE, n.div_ceil(4))
}

fn word64(words: &[u32], n: usize) -> u64 {
    u64::from(words[2 * n]) | u64::from(words[2 * n + 1]) << 32
}

#[test]
fn uniform_uses_the_documented_words() {
    let (n, words) = (1501, all_words(3004));
    let unit = Distribution::Uniform { low: 0.0, high: 1.0 };
    for (dtype, bits) in [(DType::F32, 24), (DType::F16, 11), (DType::BF16, 8)] {
        let want: Vec<f64> = words[..n].iter().map(|w| f64::from(w >> (32 - bits)) / f64::from(1u32 << bits)).collect();
        assert_eq!(draw_into(unit, dtype, n), want, "{dtype}");
    }
    let want: Vec<f64> = (0..n).map(|i| (word64(&words, i) >> 11) as f64 / (1u64 << 53) as f64).collect();
    assert_eq!(draw_into(unit, DType::F64, n), want);
}

#[test]
fn uniform_never_reaches_the_bound() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        for (low, high) in [(0.0, 1.0), (-3.0, 5.0), (1000.0, 1000.1), (-1.0, 0.0), (-0.1, 1e-9), (7.0, 8.0)] {
            let bound = Tensor::new(dtype, &[1], &[low]).values()[0];
            for v in draw_into(Distribution::Uniform { low, high }, dtype, 5000) {
                assert!(v < high.max(bound + 1e-300) && v >= bound, "{dtype} {low} {high}: {v}");
            }
        }
    }
    assert_eq!(draw_into(Distribution::Uniform { low: 2.0, high: 2.0 }, DType::F32, 3), [2.0; 3]);
}

#[test]
fn bernoulli_and_integers() {
    let words = all_words(2000);
    for dtype in DType::ALL {
        let want: Vec<f64> =
            words[..999].iter().map(|&w| f64::from(u8::from(f64::from(w) < 0.3 * 2f64.powi(32)))).collect();
        assert_eq!(draw_into(Distribution::Bernoulli { p: 0.3 }, dtype, 999), want);
    }
    assert!(draw_into(Distribution::Bernoulli { p: 1.0 }, DType::F32, 99).iter().all(|&v| v == 1.0));
    assert!(draw_into(Distribution::Bernoulli { p: 0.0 }, DType::F32, 99).iter().all(|&v| v == 0.0));
    let range = Distribution::Integers { low: -5, high: 12 };
    let want: Vec<f64> = (0..999).map(|i| ((u128::from(word64(&words, i)) * 17) >> 64) as f64 - 5.0).collect();
    for dtype in [DType::I64, DType::I32, DType::F32, DType::F16] {
        assert_eq!(draw_into(range, dtype, 999), want);
    }
    let all = Distribution::Integers { low: i64::MIN, high: i64::MAX };
    let values = draw_into(all, DType::I64, 1000);
    assert!(values.iter().any(|&v| v < -4e18) && values.iter().any(|&v| v > 4e18));
}

#[test]
fn layout_and_threads_do_not_matter() {
    let n = 30_000;
    for (distribution, dtype) in [
        (Distribution::Uniform { low: 0.0, high: 1.0 }, DType::F32),
        (Distribution::Normal { mean: 0.0, std: 1.0 }, DType::F64),
        (Distribution::Normal { mean: 0.0, std: 1.0 }, DType::F32),
        (Distribution::Integers { low: 0, high: 100 }, DType::U8),
    ] {
        let want = draw_into(distribution, dtype, n);
        for layout in layouts(&[3, 100, 100]) {
            let mut out = Tensor::with_layout(dtype, layout, &vec![0.0; n]);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            pool.install(|| random(distribution, &mut out)).unwrap();
            assert_eq!(out.values(), want);
        }
    }
}
