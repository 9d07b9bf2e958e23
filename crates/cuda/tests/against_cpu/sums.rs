//! Compares sums of products (matrix products, convolutions) within known error bounds.

use kiln_backend::*;

use crate::{
    reference::{Reference, set_reference},
    support::{MAX_NUMBER, RECORD, Tensor, device, read},
};

/// What is known of results that are sums of products, and how they are compared with the sums in `f64`.
///
/// How far apart they may be is what is known of the errors of such sums. With u the unit roundoff of the type that is summed
/// in (2⁻²⁴ for `f32`; 2⁻²³ where tensor cores sum, which truncate: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior
/// of NVIDIA tensor cores", 2021):
/// - a sum of n terms, in any order, also in parts (split-k), is within γ = nu / (1 − nu) times Σ|x·w| (Higham, "Accuracy and
///   Stability of Numerical Algorithms", section 3.1);
/// - factors that are rounded to TensorFloat-32, with 11 bits, add 2 · 2⁻¹¹ of that;
/// - the result is rounded to its own type, with a bias that the library does not add itself before that and after it;
/// - Winograd's F(4×4, 3×3) in `f32` has up to 20 times the errors of direct sums (Lavin and Gray, "Fast Algorithms for
///   Convolutional Neural Networks", 2016, measure 7 to 18), which grow as √n, relative to the largest Σ|x·w| of its tile;
/// - a Fourier transform of m points has errors of 3 log₂ m · u relative to the norms of its operands (Higham, theorem 24.2):
///   with tiles of 32×32 points these are √(1024 / taps) of those of the filter's own pixels.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// Of how many products each result is; the last one holds for all further results.
    terms: &'a [usize],
    /// A convolution by a filter of so many taps.
    taps: Option<usize>,
    /// How many numbers of about [`MAX_NUMBER`] are added to each sum.
    added: u8,
    tf32: bool,
}

impl<'a> Sums<'a> {
    /// Matrix products.
    pub const fn of(terms: &'a [usize]) -> Sums<'a> {
        Sums { terms, taps: None, added: 0, tf32: false }
    }

    /// Convolutions, which may be computed by transforms.
    pub const fn with_taps(self, taps: usize) -> Sums<'a> {
        Sums { taps: Some(taps), ..self }
    }

    /// With a bias of [`numbers`](crate::support::numbers).
    pub const fn with_bias(self) -> Sums<'a> {
        Sums { added: 1, ..self }
    }

    /// With a bias and a residual, each of which may be added on its own.
    pub const fn with_residual(self) -> Sums<'a> {
        Sums { added: 4, ..self }
    }

    /// Factors of `f32` may be rounded.
    pub const fn with_tf32(self, tf32: bool) -> Sums<'a> {
        Sums { tf32, ..self }
    }

    /// Runs `case` on the device, and compares all that it returns.
    pub fn same(self, name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
        let _others_too = RECORD.read();
        self.compare(name, case);
    }

    /// [`same`](Self::same) for tests that hold the lock themselves.
    pub fn compare(self, name: &str, case: impl Fn(&dyn Backend) -> Result<Vec<Tensor>>) {
        let Some(device) = device() else { return };
        let run = |on: &dyn Backend, reference: Option<Reference>| -> Vec<(DType, Vec<f64>)> {
            set_reference(reference);
            let out = case(on);
            set_reference(None);
            let out = out.unwrap_or_else(|error| panic!("{name} on {on:?}: {error}"));
            out.iter().map(|tensor| (tensor.buffer.dtype(), read(on, tensor))).collect()
        };
        let (got, cpu) = (run(device, None), kiln_cpu::backend().unwrap());
        let [exact, magnitudes] = [Reference::Exact, Reference::Magnitudes].map(|reference| run(cpu, Some(reference)));
        assert_eq!((got.len(), got.len()), (exact.len(), magnitudes.len()), "{name}");
        for (k, (dtype, got)) in got.iter().enumerate() {
            let (exact, magnitudes) = (&exact[k].1, &magnitudes[k].1);
            assert_eq!((got.len(), got.len()), (exact.len(), magnitudes.len()), "{name}: result {k}");
            let n = self.terms.get(k).or(self.terms.last()).map_or(1, |&n| n);
            let bound = self.bound(*dtype, n);
            let largest = magnitudes.iter().fold(0.0, |most: f64, v| most.max(*v));
            for (i, (got, want)) in got.iter().zip(exact).enumerate() {
                let (most, apart) = (bound.of(magnitudes[i], largest, *want), (got - want).abs());
                assert!(
                    apart <= most,
                    "{name}: element {i} of result {k} ({dtype}) is {got}, not {want}: {apart:e} apart, of {most:e}"
                );
            }
        }
    }

    /// For a result that is a sum of `n` products.
    fn bound(self, dtype: DType, n: usize) -> ErrorBound {
        let (n, power) = (n as f64 + 1.0, |exponent: i32| 2f64.powi(exponent));
        // Summed in, rounded to, half the smallest number.
        let (mut sum, rounding, smallest) = match dtype {
            DType::F64 => (power(-53), power(-53), 0.0),
            DType::F16 => (power(-23), power(-11), power(-25)),
            DType::BF16 => (power(-23), power(-8), 0.0),
            _ => (power(-24), power(-24), 0.0),
        };
        let tf32 = self.tf32 && dtype == DType::F32;
        if tf32 {
            sum = power(-23);
        }
        let mut of_sum = n * sum / (1.0 - n * sum);
        if tf32 {
            of_sum += 2.0 * power(-11);
        }
        let mut of_largest = 0.0;
        if let (Some(taps), DType::F32) = (self.taps, dtype) {
            let (winograd, fourier) = (20.0 * n.sqrt(), 3.0 * 10.0 * (1024.0 / taps as f64).sqrt());
            of_largest = sum * winograd.max(fourier);
            if tf32 {
                of_largest += 20.0 * power(-11) / n.sqrt();
            }
        }
        // In double precision the reference is no more exact than the device.
        let both = if dtype == DType::F64 { 2.0 } else { 1.0 };
        let bias = (self.added > 0).then_some(f64::from(self.added) * MAX_NUMBER);
        let before = if self.added > 1 { 2.0 } else { 1.0 };
        ErrorBound { of_sum: both * of_sum, of_largest, rounding: both * rounding, before, bias, smallest }
    }
}

/// The parts of the bound that [`Sums`] explains.
struct ErrorBound {
    /// Times Σ|x·w| of the element.
    of_sum: f64,
    /// Times the largest Σ|x·w|.
    of_largest: f64,
    /// Times the result, each time that it is rounded.
    rounding: f64,
    /// How often the sum is rounded before the last number is added.
    before: f64,
    /// The largest bias, if there is one.
    bias: Option<f64>,
    /// What the type cannot resolve near 0.
    smallest: f64,
}

impl ErrorBound {
    fn of(&self, magnitude: f64, largest: f64, want: f64) -> f64 {
        let error = self.of_sum * magnitude + self.of_largest * largest;
        // What is rounded is the sum with its error, once without its bias.
        let sum = want.abs() + error;
        let first = self.bias.map_or(0.0, |bias| self.rounding * (sum + bias) + self.smallest) * self.before;
        error + first + self.rounding * (sum + first) + self.smallest
    }
}

/// The bounds are narrower than a term of the sum, so that one that is missing is seen, and wide enough for sums as they are.
#[test]
fn bounds_are_no_wider_than_a_term() {
    for (dtype, n) in [(DType::F32, 300), (DType::F64, 300), (DType::F16, 300), (DType::BF16, 40)] {
        let bound = Sums::of(&[]).with_bias().bound(dtype, n);
        // Factors of about 1.
        assert!(bound.of(n as f64, n as f64, (n as f64).sqrt()) < 0.5, "{dtype}");
    }
    for (tf32, most) in [(false, 0.01), (true, 0.5)] {
        let bound = Sums::of(&[]).with_taps(9).with_tf32(tf32).bound(DType::F32, 160);
        assert!(bound.of(160.0, 160.0, 12.0) < most);
    }
    // Numbers that are all rounded down by half a unit.
    let direct = Sums::of(&[]).bound(DType::F32, 100);
    assert!(direct.of(100.0, 100.0, 100.0) > 100.0 * 100.0 * 2f64.powi(-25));
}
