//! Bounds on how much a device's rounding errors may change the results of a whole network, or of a training run.
//!
//! The bounds for a single sum of products are those of `crates/cuda/tests/against_cpu/sums.rs`: a sum of n terms, in
//! any order and in parts, has an error of at most γ Σ|x·w| with γ = nu / (1 − nu) (Higham, "Accuracy and Stability of
//! Numerical Algorithms", section 3.1), and, except with a probability of 10⁻²⁰, of at most 10 √n u Σ|x·w| (Higham and
//! Mary, "A New Approach to Probabilistic Rounding Error Analysis", 2019); rounding both factors to TensorFloat-32 adds
//! 2 · 2⁻¹¹; Winograd's and Fourier's transforms add a fraction of the largest value. Such an error is equivalent to an
//! exact sum with perturbed factors (backward error, Higham, section 3.5): Σ x·w (1 + δ) with |δ| within the bound.
//!
//! Results in half precision are compared with the CPU's in the same type: both round the same sums, and differ by one
//! unit in the last place if the errors of a sum cross the boundary between two numbers. For the short sums tested,
//! this happens for less than one value in 16, the ratio of 10 √n u of `f32` to the spacing of `f16`.
//!
//! The network itself propagates the errors from layer to layer and from step to step: the same computation is repeated
//! a few times on the CPU with each factor (weights and inputs) replaced by w (1 + δ), where δ is within the bounds,
//! differs between runs, and is the same in all steps of a run. The largest distance of these results from the exact
//! ones, in `f64`, is the effect of errors within the bounds; [`MARGIN`] times as much is allowed, because a few runs
//! do not hit the worst case. A wrong term, or a gradient that is not used, is a much larger error:
//! [`assert_trained_alike`] requires that the effect of rounding stays below a hundredth of what was learned. (A unit
//! whose sum is nearly 0 may or may not pass ReLU; with Adam, whose steps are as long for the smallest gradient as for
//! the largest, this effect grows most from step to step.)

use std::cell::RefCell;

use kiln::{Float32Precision, float32_matmul_precision, prelude::*, random_state, set_random_state};

/// The number of runs with errors.
const RUNS: u64 = 2;
/// How much larger than in these runs the distance may be.
pub const MARGIN: f64 = 4.0;

/// The errors of a run; none in the exact run.
pub struct Errors {
    /// The number of the run; 0 for the exact run.
    run: u64,
    /// The dtype whose rounding errors are simulated.
    dtype: DType,
    computed: DType,
    /// For each tensor, numbers between -1 and 1: the fraction of the bound by which its values are perturbed.
    shares: RefCell<Vec<Tensor>>,
}

/// The two parts of a bound.
#[derive(Clone, Copy)]
struct Bound {
    /// A factor of the value.
    of_value: f64,
    /// A factor of the largest value of the tensor.
    of_largest: f64,
}

/// The unit roundoff of a type.
fn unit(dtype: DType) -> f64 {
    let bits = match dtype {
        DType::F64 => 53,
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => 24,
    };
    2f64.powi(-bits)
}

impl Errors {
    /// No errors: for the device, which makes its own.
    pub fn none() -> Errors {
        Errors { run: 0, dtype: DType::F32, computed: DType::F32, shares: RefCell::default() }
    }

    /// The dtype to compute in.
    pub fn computed(&self) -> DType {
        self.computed
    }

    /// Whether factors are rounded to TensorFloat-32.
    fn tf32(&self) -> bool {
        self.dtype == DType::F32 && float32_matmul_precision() != Float32Precision::Highest
    }

    /// The bound for results of `dtype` that are sums of `terms` products.
    fn of_sum(&self, terms: usize) -> f64 {
        let n = terms as f64 + 1.0;
        // Tensor cores truncate instead of rounding.
        let (sum, rounding) =
            if self.tf32() { (2f64.powi(-23), 2.0 * 2f64.powi(-11)) } else { (unit(self.dtype), 0.0) };
        n.min(10.0 * n.sqrt()) * sum + rounding
    }

    /// The bound for a weight or a filter, whose products are summed over the inputs, or, in their gradients, over the
    /// outputs.
    fn of_parameter(&self, dims: &[usize], batch: usize) -> Bound {
        let [rows, columns, taps @ ..] = dims else {
            // A bias, or a parameter of batch normalization.
            return Bound { of_value: self.of_sum(batch), of_largest: 0.0 };
        };
        let taps = taps.iter().product::<usize>();
        self.with_transforms(*rows.max(columns) * taps, (dims.len() == 4).then_some(taps))
    }

    fn with_transforms(&self, terms: usize, taps: Option<usize>) -> Bound {
        let mut of_largest = 0.0;
        if let (Some(taps), DType::F32) = (taps, self.dtype) {
            let root = (terms as f64).sqrt();
            let (winograd, fourier) = (20.0 * root, 30.0 * (1024.0 / taps as f64).sqrt());
            of_largest = winograd.max(fourier) * unit(self.dtype);
            if self.tf32() {
                of_largest += 20.0 * 2f64.powi(-11) / root;
            }
        }
        Bound { of_value: self.of_sum(terms), of_largest }
    }

    /// Perturbs values within a bound; `place` is the index of the tensor among those perturbed in each step.
    fn disturb(&self, values: &Tensor, place: usize, Bound { of_value, of_largest }: Bound) -> kiln::Result<()> {
        let mut shares = self.shares.borrow_mut();
        if place == shares.len() {
            // The random numbers of the run itself must stay those of the exact run.
            let others = random_state();
            set_random_state((self.run, (place as u64) << 32));
            let drawn = values.rand_like().and_then(|drawn| drawn.mul(2.0)?.sub(1.0));
            set_random_state(others);
            shares.push(drawn?);
        }
        let share = &shares[place];
        no_grad(|| {
            if [DType::F16, DType::BF16].contains(&self.dtype) {
                // To the adjacent number.
                let moved = share.abs()?.ge(15.0 / 16.0)?.to_dtype(self.dtype)?.mul(&share.sign()?)?;
                return values.mul_(&moved.mul(2.0 * unit(self.dtype))?.add(1.0)?);
            }
            values.mul_(&share.mul(of_value)?.add(1.0)?)?;
            if of_largest > 0.0 && values.numel() > 0 {
                let largest = values.abs()?.max(())?.to_dtype(DType::F64)?.item::<f64>()?;
                values.add_(&share.mul(of_largest * largest)?)?;
            }
            Ok(())
        })
    }

    /// Perturbs the leaves of a computation whose longest sum has so many terms.
    #[allow(dead_code, reason = "not every test computes without training")]
    pub fn disturb_leaf(&self, leaf: &Tensor, terms: usize) -> kiln::Result<()> {
        if self.run == 0 {
            return Ok(());
        }
        let place = self.shares.borrow().len();
        self.disturb(leaf, place, self.with_transforms(terms, None))
    }

    /// Runs `step`, forward from `x` and backward to the parameters, with errors; `batch` is the number of terms in the sums over
    /// a batch.
    pub fn during<T>(
        &self,
        parameters: &[Tensor],
        x: &Tensor,
        batch: usize,
        step: impl FnOnce() -> kiln::Result<T>,
    ) -> kiln::Result<T> {
        if self.run == 0 {
            return step();
        }
        let mut bounds: Vec<_> = parameters.iter().map(|w| self.of_parameter(w.dims(), batch)).collect();
        bounds.push(self.with_transforms(batch, None));
        let factors: Vec<&Tensor> = parameters.iter().chain([x]).collect();
        let exact = no_grad(|| factors.iter().map(|factor| factor.copy()).collect::<kiln::Result<Vec<_>>>())?;
        for (place, (factor, bound)) in factors.iter().zip(bounds).enumerate() {
            self.disturb(factor, place, bound)?;
        }
        let out = step()?;
        no_grad(|| factors.iter().zip(&exact).try_for_each(|(factor, exact)| factor.copy_(exact)))?;
        // Transforms of gradients.
        for (i, filter) in parameters.iter().filter(|w| w.rank() == 4).enumerate() {
            let bound = self.with_transforms(batch, Some(filter.dims()[2..].iter().product()));
            if let Some(grad) = filter.grad() {
                self.disturb(&grad, factors.len() + i, bound)?;
            }
        }
        Ok(out)
    }
}

/// The exact results, and for each tensor the distance by which errors of `dtype` change it. `computed` has the dtypes in
/// which the exact run and the runs with errors are computed.
fn response(
    dtype: DType,
    computed: [DType; 2],
    run: &dyn Fn(&Errors) -> kiln::Result<Vec<Vec<f64>>>,
    apart: impl Fn(&[f64], &[f64]) -> Vec<f64>,
) -> kiln::Result<Vec<(Vec<f64>, Vec<f64>)>> {
    let errors = |run| Errors { run, dtype, computed: computed[usize::from(run > 0)], shares: RefCell::default() };
    let exact = run(&errors(0))?;
    let mut most: Vec<Vec<f64>> = exact.iter().map(|values| vec![0.0; values.len()]).collect();
    for number in 1..=RUNS {
        let moved = run(&errors(number))?;
        for ((most, moved), exact) in most.iter_mut().zip(&moved).zip(&exact) {
            most.iter_mut().zip(apart(moved, exact)).for_each(|(most, apart)| *most = most.max(MARGIN * apart));
        }
    }
    Ok(exact.into_iter().zip(most).collect())
}

fn distances(moved: &[f64], exact: &[f64]) -> Vec<f64> {
    moved.iter().zip(exact).map(|(moved, exact)| (moved - exact).abs()).collect()
}

/// Asserts that the losses of training runs in `f32` on devices are those of `train`, which does the same on the CPU in the
/// [dtype](Errors::computed) of the errors, and runs each step [`during`](Errors::during) errors.
pub fn assert_trained_alike(
    trainings: &[&[f32]],
    train: impl Fn(&Errors) -> kiln::Result<Vec<f64>>,
) -> kiln::Result<()> {
    let run = |errors: &Errors| Ok(vec![train(errors)?]);
    // A step depends on the parameters after the previous steps.
    let so_far = |moved: &[f64], exact: &[f64]| {
        let mut distances = distances(moved, exact);
        (1..distances.len()).for_each(|i| distances[i] = distances[i].max(distances[i - 1]));
        distances
    };
    // Errors within the bounds are large compared with those of `f32` on the CPU.
    let (exact, mut most) = response(DType::F32, [DType::F64, DType::F32], &run, so_far)?.remove(0);
    let ([first, .., last], [.., moved]) = (&exact[..], &most[..]) else { panic!("{exact:?}: no steps") };
    assert!(last < first, "it learns: {exact:?}");
    assert!(*moved <= 0.01 * (first - last), "bounds that say nothing: {most:?} of {exact:?}");
    // The loss is a mean of differences of logarithms: a few roundings of its own.
    most.iter_mut().zip(&exact).for_each(|(most, v)| *most += 8.0 * unit(DType::F32) * v.max(1.0));
    for got in trainings {
        assert_eq!(got.len(), exact.len());
        for (step, ((got, exact), most)) in got.iter().zip(&exact).zip(&most).enumerate() {
            let apart = (f64::from(*got) - exact).abs();
            assert!(apart <= *most, "step {step}: {got}, not {exact}: {apart:e} apart, of {most:e}");
        }
    }
    Ok(())
}

/// Asserts that the results of a computation in `dtype` on a device are those of `run`, which does the same on the CPU in
/// the [dtype](Errors::computed) of the errors, from leaves that [`Errors::disturb_leaf`] perturbs. They are compared
/// tensor by tensor, relative to the largest value of each.
#[allow(dead_code, reason = "not every test does")]
pub fn assert_computed_alike(
    name: &str,
    dtype: DType,
    got: &[Vec<f64>],
    run: impl Fn(&Errors) -> kiln::Result<Vec<Vec<f64>>>,
) -> kiln::Result<()> {
    let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let computed = if [DType::F16, DType::BF16].contains(&dtype) { dtype } else { DType::F64 };
    let results = response(dtype, [computed; 2], &run, distances)?;
    assert_eq!(got.len(), results.len(), "{name} {dtype}");
    for (i, (got, (exact, most))) in got.iter().zip(&results).enumerate() {
        assert_eq!(got.len(), exact.len(), "{name} {dtype}, tensor {i}");
        let most = largest(most) + 2.0 * unit(dtype) * largest(exact);
        let (apart, scale) = (largest(&distances(got, exact)), largest(exact));
        assert!(apart <= most, "{name} {dtype}, tensor {i}: {apart:e} apart, of {most:e}: {got:?}, not {exact:?}");
        assert!(
            most <= 0.25 * scale || scale == 0.0,
            "{name} {dtype}, tensor {i}: a bound that says nothing: {most:e} of {scale:e}"
        );
    }
    Ok(())
}
