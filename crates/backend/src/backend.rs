//! The [`Backend`] trait: what a device can do.

use std::{any::Any, fmt};

use crate::{
    Affine, ArgReduceOp, BinaryOp, ClassLoss, Conv2d, DType, Distribution, Element, Error, HostVec, Layout,
    MemoryStats, NormGrads, OptimRule, OptimSlot, PointwiseLoss, Pool2d, PoolDivisor, Ramp, RandomState, ReduceOp,
    Result, RunningStats, Scalar, ScatterMode, SideOf, UnaryOp, dispatch_dtype,
};

/// A piece of a device's memory that holds elements of one type.
pub trait Buffer: Any + Send + Sync + fmt::Debug {
    /// The element type.
    fn dtype(&self) -> DType;
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether there are no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The contents as bytes, if they are host memory.
    fn host_bytes(&self) -> Option<&[u8]> {
        None
    }
    /// Whether they are host memory that a device reads directly ([`Backend::pinned`]).
    fn is_pinned(&self) -> bool {
        false
    }
    /// The contents as bytes to write to, if they are host memory. For `bool` only 0 and 1 may be written.
    fn host_bytes_mut(&mut self) -> Option<&mut [u8]> {
        None
    }
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
    /// For the backend that made it.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A tensor to read: a buffer seen through a layout.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The memory.
    pub buffer: &'a dyn Buffer,
    /// Where the elements lie in it.
    pub layout: &'a Layout,
}

impl View<'_> {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }
}

/// A tensor to write. No two indices of the layout lie at one place.
#[derive(Debug)]
pub struct ViewMut<'a> {
    /// The memory.
    pub buffer: &'a mut dyn Buffer,
    /// Where the elements lie in it.
    pub layout: &'a Layout,
}

impl ViewMut<'_> {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }
}

/// An operand of an element-wise operation: a tensor, or one number (converted to the tensor's dtype).
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A tensor, broadcast by its strides.
    Tensor(View<'a>),
    /// A number.
    Scalar(Scalar),
}

/// Host memory that something else than the CPU backend made and takes back.
pub trait HostMemory: Send + Sync + fmt::Debug {
    /// All of it, aligned to 64 bytes.
    fn bytes(&self) -> &[u8];
    /// To write to.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// The primitives of one device. Object-safe: tensors call it through `&'static dyn Backend`.
///
/// # Contract
/// The caller (`kiln-tensor`) has checked shapes, dtypes and devices, has broadcast operands to the output's
/// shape by strides, and hands outputs that overlap no input. A backend checks that layouts stay inside
/// their buffers before it touches memory, and values that only it sees (indices, labels); it returns a
/// typed error for both and never panics. Work may be asynchronous; [`download`](Backend::download) and
/// [`synchronize`](Backend::synchronize) wait.
///
/// Unless a method says otherwise, all operands have the output's shape, any strides, and one dtype.
/// Half precision is computed in `f32` and rounded once at the end of a primitive. Zero elements are no
/// error and no work.
pub trait Backend: Send + Sync + fmt::Debug {
    // ---- memory ----

    /// Uninitialised (but valid) memory for `len` elements.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Box<dyn Buffer>>;
    /// Takes over host memory: without a copy on the CPU, by an upload elsewhere.
    fn adopt(&self, data: HostVec) -> Result<Box<dyn Buffer>>;
    /// Memory filled from bytes in native order, as a mapped file holds them: one copy, to where the elements
    /// are wanted. For `bool` any byte but 0 is `true`.
    fn import(&self, dtype: DType, bytes: &[u8]) -> Result<Box<dyn Buffer>> {
        self.adopt(host_vec(dtype, bytes)?)
    }
    /// Page-locked host memory, all of it initialised, which the device reads directly: an [`import`](Backend::import)
    /// from it skips the copy that other memory is staged through. An error on devices that share the host's memory.
    fn pinned(&self, bytes: usize) -> Result<Box<dyn HostMemory>> {
        Err(Error::argument("pin_memory", format!("{self:?} cannot pin {bytes} bytes; a CUDA device can")))
    }
    /// A buffer of `len` elements at the beginning of host memory; the CPU has such buffers.
    fn wrap(&self, dtype: DType, len: usize, memory: Box<dyn HostMemory>) -> Result<Box<dyn Buffer>> {
        Err(Error::argument("pin_memory", format!("{len} elements of {dtype} in {memory:?} are none of {self:?}")))
    }
    /// Waits for the work before it and copies `len` elements from position `start` to the host.
    fn download(&self, src: &dyn Buffer, start: usize, dst: &mut [u8]) -> Result<()>;
    /// Waits until all work is done.
    fn synchronize(&self) -> Result<()>;
    /// Memory in use.
    fn memory_stats(&self) -> MemoryStats;
    /// Makes the peak equal to what is in use now.
    fn reset_peak_memory(&self);
    /// Gives free cached memory back to the system.
    fn empty_cache(&self);

    // ---- filling ----

    /// Sets every element.
    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()>;
    /// Sets element `i` (in row-major order) to `start + i * step`, computed in `f64` or `i64` by the kind
    /// of the scalars.
    fn ramp(&self, ramp: Ramp, out: ViewMut) -> Result<()>;
    /// Random numbers; [`RandomState`] says which.
    fn random(&self, distribution: Distribution, state: RandomState, out: ViewMut) -> Result<()>;

    // ---- element-wise ----

    /// Copies elements, converting the dtype as Rust's `as` does (nonzero is `true`, float to integer
    /// saturates).
    fn copy(&self, x: View, out: ViewMut) -> Result<()>;
    /// Floats; `Neg`, `Abs`, `Sign`, `Square`, `Relu` and the roundings also of integers.
    fn unary(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()>;
    /// The gradient of `op` from the incoming gradient and what the table says is saved (`None` for
    /// nothing).
    fn unary_grad(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()>;
    /// Arithmetic in the operands' dtype (`Div`, `Atan2` of floats only; no arithmetic of `bool`);
    /// comparisons of any dtype write `bool`. At least one operand is a tensor.
    fn binary(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
    /// The gradient of an arithmetic `op` for one side.
    fn binary_grad(&self, op: BinaryOp, side: SideOf, grad: View, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
    /// `out = op(out, b)`.
    fn binary_assign(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()>;
    /// `a` where `condition` (a `bool` tensor) is true, else `b`.
    fn select(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()>;
    /// Zero with probability `p` (`0 <= p < 1`), else `x * (1 / (1 - p))`, the factor rounded to the computing
    /// type. Element `n` is kept if its 32-bit word is at least `p * 2^32`. The gradient is the same function of
    /// the incoming gradient.
    fn dropout(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()>;
    /// Keeps the elements of each matrix (the last two dimensions) with `column - row <= diagonal` (lower)
    /// or `>= diagonal` (upper), and zeroes the others.
    fn triangle(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()>;

    // ---- reductions, scans, sorting ----

    /// Reduces the dimensions in which `out` has extent 1 and `x` may have more; `out` has `x`'s rank.
    fn reduce(&self, op: ReduceOp, x: View, out: ViewMut) -> Result<()>;
    /// Reduces dimension `dim`, which has extent 1 in both outputs. `values` may be left out.
    fn arg_reduce(&self, op: ArgReduceOp, x: View, dim: usize, values: Option<ViewMut>, indices: ViewMut)
    -> Result<()>;
    /// Running sums along `dim`; integers and `bool` into `i64`.
    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()>;
    /// A stable sort along `dim`, NaN as the largest; `indices` are positions in `x`.
    fn sort(&self, x: View, dim: usize, descending: bool, values: ViewMut, indices: ViewMut) -> Result<()>;
    /// For each value the number of elements of the sorted last dimension of `sorted` that are below it
    /// (`right`: not above it). `sorted` is `[…, n]`, `values` and `out` (`i64`) are `[…, m]`.
    fn search_sorted(&self, sorted: View, values: View, right: bool, out: ViewMut) -> Result<()>;
    /// Softmax along `dim`, or its logarithm.
    fn softmax(&self, x: View, dim: usize, log: bool, out: ViewMut) -> Result<()>;
    /// The gradient of [`softmax`](Backend::softmax) from its output `y`.
    fn softmax_grad(&self, grad: View, y: View, dim: usize, log: bool, out: ViewMut) -> Result<()>;

    // ---- indexing: `index` is `i64`; an index outside `0..size` is an error ----

    /// `out[…, i, …] = x[…, index[i], …]`: whole slices along `dim`.
    fn index_select(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, index[i], …] += x[…, i, …]`: the gradient of `index_select`.
    fn index_add(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, i, …] = x[…, index[…, i, …], …]`: `index` has the shape of `out`, and no extent above `x`'s
    /// except along `dim`.
    fn gather(&self, x: View, dim: usize, index: View, out: ViewMut) -> Result<()>;
    /// `out[…, index[…, i, …], …] = x[…, i, …]` (or `+=`) over the shape of `index`, which is nowhere larger
    /// than `x`'s, nor than `out`'s except along `dim`.
    fn scatter(&self, mode: ScatterMode, x: Operand, dim: usize, index: View, out: ViewMut) -> Result<()>;

    // ---- dense algebra ----

    /// `out = a · b` over the last two dimensions; the leading ones (as many in each, `a` and `b` broadcast
    /// by strides) are a batch. Floats accumulate in at least `f32`; integers wrap.
    fn matmul(&self, a: View, b: View, out: ViewMut) -> Result<()>;
    /// `out = x · wᵀ + bias`, then ReLU if asked: `x` is `[M, K]`, `w` `[N, K]`, `bias` `[N]`, `out` `[M, N]`.
    fn linear(&self, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()>;
    /// The gradients of a linear layer's parameters from its incoming one: `weight = gradᵀ · x`, and `bias` the sum of
    /// `grad`'s rows. `grad` is `[M, N]`, `x` `[M, K]`, `weight` `[N, K]`, `bias` `[N]`.
    fn linear_grad(&self, grad: View, x: View, weight: ViewMut, bias: ViewMut) -> Result<()> {
        self.matmul(View { layout: &grad.layout.transpose(0, 1), ..grad }, x, weight)?;
        let row = bias.layout.unsqueeze(0)?;
        self.reduce(ReduceOp::Sum, grad, ViewMut { layout: &row, ..bias })
    }

    /// Bytes (elements of `u8`) of the mask that [`linear_relu_masked`](Backend::linear_relu_masked) leaves for an output
    /// of so many rows and columns; 0 on devices that leave none.
    fn relu_mask_len(&self, _rows: usize, _columns: usize) -> usize {
        0
    }

    /// [`linear`](Backend::linear) with ReLU, which also leaves in `mask` which elements ReLU let through, in a form that
    /// only [`linear_relu_grad`](Backend::linear_relu_grad) of the same device reads. `false`: all but the mask was done.
    fn linear_relu_masked(&self, x: View, w: View, bias: Option<View>, out: ViewMut, _mask: ViewMut) -> Result<bool> {
        self.linear(x, w, bias, true, out)?;
        Ok(false)
    }

    /// Backwards through a linear layer and the ReLU (and bias) of the layer beneath it, whose output `y` was its input:
    /// `out = grad · w` where `y` is above 0 and 0 elsewhere, and `bias` the sum of `out`'s rows. `grad` is `[M, N]`,
    /// `w` `[N, K]`, `y` and `out` `[M, K]`, `bias` `[K]`; `mask` is what the layer beneath has left of its ReLU.
    fn linear_relu_grad(
        &self,
        grad: View,
        w: View,
        y: View,
        _mask: Option<View>,
        out: ViewMut,
        bias: Option<ViewMut>,
    ) -> Result<()> {
        linear_relu_grad_in_parts(self, grad, w, y, out, bias)
    }

    /// Backwards through a bias and the ReLU behind it, where `y = relu(… + bias)` and the bias belongs to dimension
    /// `dim`: `out` is `grad` where `y` is above 0 (or NaN) and 0 elsewhere, and `bias` (`[y's extent there]`) its sums
    /// over the other dimensions. `grad`, `y` and `out` have one shape.
    fn relu_bias_grad(&self, grad: View, y: View, dim: usize, out: ViewMut, bias: ViewMut) -> Result<()> {
        self.unary_grad(UnaryOp::Relu, grad, Some(y), ViewMut { buffer: &mut *out.buffer, layout: out.layout })?;
        let mut row = *bias.layout;
        for at in 0..out.layout.rank() {
            if at != dim {
                row = row.unsqueeze(at)?;
            }
        }
        self.reduce(ReduceOp::Sum, View { buffer: &*out.buffer, layout: out.layout }, ViewMut { layout: &row, ..bias })
    }

    // ---- convolution and pooling: images are [N, C, H, W] with any strides, channels-last ones included ----

    /// The convolution, plus bias, then ReLU if asked: `x` is `[N, C, H, W]`, `w` `[O, C / groups, kh, kw]`, `bias`
    /// `[O]`, `out` `[N, O, H', W']` of [`Conv2d::output`]'s size. Half precision is summed in `f32`. With no channels
    /// (`C = 0`) the sums are 0.
    fn conv2d(&self, rule: &Conv2d, x: View, w: View, bias: Option<View>, relu: bool, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the input, which is also the transposed convolution: `grad` is `[N, O, H', W']`,
    /// `out` `[N, C, H, W]`, of any size that `rule` maps to `grad`'s.
    fn conv2d_grad_input(&self, rule: &Conv2d, grad: View, w: View, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the weight: `out` is `[O, C / groups, kh, kw]`. (That of the bias is a sum.)
    fn conv2d_grad_weight(&self, rule: &Conv2d, grad: View, x: View, out: ViewMut) -> Result<()>;
    /// The largest element of each window; NaN counts as larger. `indices` (`i64`, of `out`'s shape) receives its
    /// position in the plane, `row * W + column`: of equal elements the first in row-major order, of NaNs the last.
    /// A window with no tap inside the input gives `-inf` and position -1.
    fn max_pool2d(&self, pool: &Pool2d, x: View, out: ViewMut, indices: Option<ViewMut>) -> Result<()>;
    /// Its gradient: each element of `out` (`[N, C, H, W]`) is the sum of `grad` over the windows that chose it, added
    /// in row-major order of the windows. A position outside the plane is an error, but -1 is skipped.
    fn max_pool2d_grad(&self, pool: &Pool2d, grad: View, indices: View, out: ViewMut) -> Result<()>;
    /// The sum of each window, divided; a window with no element inside the input gives 0.
    fn avg_pool2d(&self, pool: &Pool2d, divisor: PoolDivisor, x: View, out: ViewMut) -> Result<()>;
    /// Its gradient; `out` is `[N, C, H, W]`.
    fn avg_pool2d_grad(&self, pool: &Pool2d, divisor: PoolDivisor, grad: View, out: ViewMut) -> Result<()>;

    // ---- normalisation ----

    /// Batch normalisation while training: each channel of `x` (`[N, C, H, W]`, any strides) minus its mean, times
    /// `inv_std = 1 / sqrt(biased variance + eps)`, then scaled and shifted. `mean` and `inv_std` (`[C]`, of the
    /// accumulation type) receive what the gradient needs; `running` is moved.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        running: Option<RunningStats>,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()>;
    /// Batch normalisation with given statistics (`[C]`, of the accumulation type).
    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()>;
    /// The gradients of batch normalisation: of [`batch_norm`](Backend::batch_norm) if `training`, whose statistics
    /// depend on the input, else with the statistics as constants. `weight` is the scale.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm_grad(
        &self,
        training: bool,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()>;
    /// Normalises each row of `x` (`[M, N]`) as [`batch_norm`](Backend::batch_norm) does a channel; scale and shift are
    /// `[N]`, `mean` and `inv_std` `[M]`, of the accumulation type.
    fn layer_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()>;
    /// Its gradients.
    fn layer_norm_grad(
        &self,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()>;

    // ---- fused losses ----

    /// `loss` is a scalar, or `[N, S]` without reduction. `lse` (`[N, S]`, of the accumulation type: `f32`
    /// for half precision, else the input's) receives what the gradient needs, `total` (a scalar of the
    /// same type) the divisor of the mean. `target` is `[N, S]` of `i64`, or `[N, C, S]` of the input's
    /// dtype. A class outside `0..C` that is not ignored is an error.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn class_loss(
        &self,
        rule: &ClassLoss,
        x: View,
        target: View,
        weight: Option<View>,
        loss: ViewMut,
        lse: ViewMut,
        total: ViewMut,
    ) -> Result<()>;
    /// The gradient of [`class_loss`](Backend::class_loss) with respect to `x`; `grad` has the loss's shape.
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn class_loss_grad(
        &self,
        rule: &ClassLoss,
        grad: View,
        x: View,
        target: View,
        weight: Option<View>,
        lse: View,
        total: View,
        out: ViewMut,
    ) -> Result<()>;
    /// An element-wise loss; `out` is a scalar, or has the input's shape without reduction.
    fn pointwise_loss(&self, loss: &PointwiseLoss, out: ViewMut) -> Result<()>;
    /// Its gradient with respect to the input; `grad` has the loss's shape.
    fn pointwise_loss_grad(&self, loss: &PointwiseLoss, grad: View, out: ViewMut) -> Result<()>;

    // ---- optimizers ----

    /// One step of all parameters of a group with learning rate `lr`.
    fn optimizer_step(&self, rule: &OptimRule, lr: View, slots: &mut [OptimSlot]) -> Result<()>;
}

/// [`Backend::linear_relu_grad`] as a product and what is left to do after it.
///
/// # Errors
/// Those of the device.
pub fn linear_relu_grad_in_parts<B: Backend + ?Sized>(
    on: &B,
    grad: View,
    w: View,
    y: View,
    out: ViewMut,
    bias: Option<ViewMut>,
) -> Result<()> {
    let layout = Layout::contiguous(*out.layout.shape());
    let mut whole = on.alloc(grad.dtype(), layout.numel())?;
    on.matmul(grad, w, ViewMut { buffer: &mut *whole, layout: &layout })?;
    let whole = View { buffer: &*whole, layout: &layout };
    match bias {
        Some(bias) => on.relu_bias_grad(whole, y, 1, out, bias),
        None => on.unary_grad(UnaryOp::Relu, whole, Some(y), out),
    }
}

/// Bytes in native order as a vector of elements.
fn host_vec(dtype: DType, bytes: &[u8]) -> Result<HostVec> {
    if !bytes.len().is_multiple_of(dtype.size()) {
        return Err(Error::argument("import", format!("{} bytes are no whole number of {dtype}", bytes.len())));
    }
    let copy = |out: &mut [u8]| {
        out.copy_from_slice(bytes);
        Ok(())
    };
    dispatch_dtype!(dtype, T => Ok(T::into_host(T::read_vec(bytes.len() / dtype.size(), copy)?)))
}
