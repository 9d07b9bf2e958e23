//! Random tensors: `rand`, `randn`, `randint`, `randperm`, and the generator behind them.

use kiln_backend::{Arguments, DType, Distribution, Error, RandomArgs, RandomState, Result, Shape};
use kiln_derive::located;
use parking_lot::Mutex;

use super::{extents::Extents, options::TensorOptions};
use crate::tensor::Tensor;

/// One generator for all devices, so that the numbers do not depend on the device.
static GENERATOR: Mutex<RandomState> = Mutex::new(RandomState { seed: 0x4b69_6c6e, offset: 0 });

/// Seeds the generator and restarts its stream. Without it every run starts from the same fixed seed, so runs repeat by
/// default (unlike PyTorch's).
pub fn manual_seed(seed: u64) {
    *GENERATOR.lock() = RandomState { seed, offset: 0 };
}

/// The generator's state. A run that saves and restores it draws the same numbers as an uninterrupted one.
#[must_use]
pub fn random_state() -> (u64, u64) {
    let state = GENERATOR.lock();
    (state.seed, state.offset)
}

/// Restores the generator to a state from [`random_state`].
pub fn set_random_state((seed, offset): (u64, u64)) {
    *GENERATOR.lock() = RandomState { seed, offset };
}

/// Advances the generator by the blocks that launched work has drawn.
pub(crate) fn advance_random_state(blocks: u64) {
    let mut state = GENERATOR.lock();
    state.offset = state.offset.wrapping_add(blocks);
}

/// Takes one block out of the stream, as the seed of random numbers that are drawn elsewhere: `(seed, offset)`. It
/// never repeats, except after the same [`manual_seed`].
#[must_use]
pub fn take_random_seed() -> (u64, u64) {
    let state = take(1, 1);
    (state.seed, state.offset)
}

/// Takes the next `numel` draws of `words` 32-bit words each from the stream.
pub(crate) fn take(numel: usize, words: usize) -> RandomState {
    let mut state = GENERATOR.lock();
    let taken = *state;
    state.offset = state.offset.wrapping_add(RandomState::blocks(numel, words));
    taken
}

#[located]
impl Tensor {
    fn random(op: &'static str, shape: Shape, distribution: Distribution, options: TensorOptions) -> Result<Tensor> {
        let TensorOptions { device, requires_grad, .. } = options;
        let dtype = options.dtype_or(DType::F32);
        let integers = matches!(distribution, Distribution::Integers { .. } | Distribution::Bernoulli { .. });
        if !integers && !dtype.is_float() {
            return Err(Error::dtype(op, dtype, "it draws floating-point numbers"));
        }
        let state = take(shape.numel(), distribution.words(dtype));
        Tensor::compute(device, dtype, shape, |backend, out| {
            backend.random(RandomArgs { distribution, state, out }.checked()?)
        })?
        .noted(op, &[], || [])
        .requires_grad_(requires_grad)
    }

    /// Numbers drawn uniformly from `[0, 1)`.
    ///
    /// # Errors
    /// If the dtype is not floating-point, or the device is not available.
    pub fn rand(shape: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let uniform = Distribution::Uniform { low: 0.0, high: 1.0 };
        Self::random("rand", shape.to_shape("rand")?, uniform, options.into())
    }

    /// Numbers drawn from the standard normal distribution.
    ///
    /// # Errors
    /// If the dtype is not floating-point, or the device is not available.
    pub fn randn(shape: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let normal = Distribution::Normal { mean: 0.0, std: 1.0 };
        Self::random("randn", shape.to_shape("randn")?, normal, options.into())
    }

    /// Integers drawn uniformly from `low..high`; `i64` unless the options name a dtype.
    ///
    /// # Errors
    /// If the range is empty, or the device is not available.
    pub fn randint(low: i64, high: i64, shape: impl Extents, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let options: TensorOptions = options.into();
        let options = options.dtype(options.dtype_or(DType::I64));
        if low >= high {
            return Err(Error::argument("randint", format!("the range {low}..{high} is empty")));
        }
        Self::random("randint", shape.to_shape("randint")?, Distribution::Integers { low, high }, options)
    }

    /// The numbers `0..n` in random order, as `i64`.
    ///
    /// # Errors
    /// If the device is not available.
    pub fn randperm(n: usize, options: impl Into<TensorOptions>) -> Result<Tensor> {
        let options: TensorOptions = options.into();
        let options = options.dtype(DType::I64);
        let full = Distribution::Integers { low: i64::MIN, high: i64::MAX };
        // Sorts random keys. Equal keys (1 in 2^64 per pair) keep their order, a negligible bias.
        let keys = Self::random("randperm", Shape::new(&[n])?, full, options)?;
        Ok(keys.sort(0, false)?.1)
    }

    /// [`rand`](Tensor::rand) with this tensor's shape, dtype and device; for another dtype,
    /// `Tensor::rand(x.shape(), x.options().dtype(…))`.
    ///
    /// # Errors
    /// If the dtype is not floating-point.
    pub fn rand_like(&self) -> Result<Tensor> {
        Tensor::rand(self.shape(), self.options())
    }

    /// [`randn`](Tensor::randn) with this tensor's shape, dtype and device.
    ///
    /// # Errors
    /// If the dtype is not floating-point.
    pub fn randn_like(&self) -> Result<Tensor> {
        Tensor::randn(self.shape(), self.options())
    }

    /// [`randint`](Tensor::randint) with this tensor's shape, dtype and device.
    ///
    /// # Errors
    /// If the range is empty.
    pub fn randint_like(&self, low: i64, high: i64) -> Result<Tensor> {
        if low >= high {
            return Err(Error::argument("randint_like", format!("the range {low}..{high} is empty")));
        }
        Self::random("randint_like", *self.shape(), Distribution::Integers { low, high }, self.options())
    }

    /// Fills the tensor in place with numbers drawn uniformly from `[low, high)`.
    ///
    /// # Errors
    /// If the dtype is not floating-point, or the tensor is a leaf that requires gradients while recording is on.
    pub fn uniform_(&self, low: f64, high: f64) -> Result<()> {
        self.random_("uniform_", Distribution::Uniform { low, high })
    }

    /// Fills the tensor in place with numbers drawn from a normal distribution.
    ///
    /// # Errors
    /// If the dtype is not floating-point, or the tensor is a leaf that requires gradients while recording is on.
    pub fn normal_(&self, mean: f64, std: f64) -> Result<()> {
        self.random_("normal_", Distribution::Normal { mean, std })
    }

    fn random_(&self, op: &'static str, distribution: Distribution) -> Result<()> {
        if !self.dtype().is_float() {
            return Err(Error::dtype(op, self.dtype(), "it draws floating-point numbers"));
        }
        let state = take(self.numel(), distribution.words(self.dtype()));
        self.overwrite(op, |backend, out| backend.random(RandomArgs { distribution, state, out }.checked()?))
            .map_err(|error| error.of_op(op))
    }
}
