//! Autocast: regions in which operations choose the dtype that they compute in, PyTorch's `torch.autocast`.

mod cache;
mod converted;
mod kept;
pub(crate) mod low_copy;
mod policy;

use std::{cell::Cell, marker::PhantomData};

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;
use smallvec::SmallVec;

use crate::tensor::Tensor;

pub(crate) use cache::clear as clear_cache;
pub(crate) use kept::{after_step, for_step};
pub use policy::{POLICIES, Policy, policy};

thread_local! {
    /// The low dtype of this thread's innermost region, if autocast is on there.
    static ACTIVE: Cell<Option<DType>> = const { Cell::new(None) };
    /// How many regions this thread is in, those included that are off.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is in a region of [`autocast`].
#[must_use]
pub fn is_autocast_enabled() -> bool {
    ACTIVE.get().is_some()
}

/// The low dtype of this thread's region of [`autocast`], if it is in one.
#[must_use]
pub fn autocast_dtype() -> Option<DType> {
    ACTIVE.get()
}

/// Ends the region when it is dropped. Cannot be sent to another thread.
#[must_use = "the region ends when the guard is dropped"]
#[derive(Debug)]
pub struct AutocastGuard {
    previous: Option<DType>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl AutocastGuard {
    fn new(low: Option<DType>) -> AutocastGuard {
        DEPTH.set(DEPTH.get() + 1);
        AutocastGuard { previous: ACTIVE.replace(low), stays_on_its_thread: PhantomData }
    }
}

impl Drop for AutocastGuard {
    fn drop(&mut self) {
        ACTIVE.set(self.previous);
        DEPTH.set(DEPTH.get() - 1);
        if DEPTH.get() == 0 {
            cache::clear();
        }
    }
}

/// Runs `f` in a region in which the operations of this thread choose their dtype, as `with torch.autocast(…, dtype):` does
/// (<https://docs.pytorch.org/docs/stable/amp.html>). `dtype` is `bf16` or `f16`; the parameters of the model stay in `f32`.
///
/// - Matrix products, linear layers, convolutions, recurrent cells and attention compute in `dtype`.
/// - Exponentials, logarithms, powers, sums, means, softmax, norms, layer and group normalization, and losses compute in
///   `f32`.
/// - Other operations compute in the dtype of their operands, if these differ in the widest. ([`policy`] is the table.)
/// - Only `f32`, `f16` and `bf16` are converted; `f64`, integers and truth values are not. Operations in place (`add_`) have
///   the dtype of the tensor that they change.
///
/// A parameter is converted once in a region, and again only after it has changed. Its [`grad`](Tensor::grad) is in its own dtype.
/// The backward pass computes in the dtypes that the forward pass had, wherever it runs: call it outside the region, as in
/// PyTorch, or inside. Gradients in `f16` need a `GradScaler`. Regions nest, [`autocast_off`] switches autocast off inside
/// one, and other threads are not in it.
///
/// ```
/// use kiln_tensor::{DType, Device, Tensor, autocast};
/// # fn main() -> kiln_tensor::Result<()> {
/// let weight = Tensor::randn([3, 8], Device::Cpu)?.requires_grad_(true)?;
/// let x = Tensor::randn([16, 8], Device::Cpu)?;
/// let loss = autocast(DType::BF16, || {
///     let y = x.linear(&weight, None)?;
///     assert_eq!(y.dtype(), DType::BF16);
///     y.square()?.mean(())
/// })?;
/// loss.backward()?;
/// assert_eq!((loss.dtype(), weight.grad().unwrap().dtype()), (DType::F32, DType::F32));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the dtype is not `bf16` or `f16`; those of `f`.
#[located(site)]
pub fn autocast<T>(dtype: DType, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let _guard = region(dtype)?;
    f()
}

/// A region of [`autocast`] that ends when the guard is dropped: `let _guard = autocast_guard(DType::BF16)?;`.
///
/// # Errors
/// If the dtype is not `bf16` or `f16`.
#[located(site)]
pub fn autocast_guard(dtype: DType) -> Result<AutocastGuard> {
    region(dtype)
}

fn region(dtype: DType) -> Result<AutocastGuard> {
    if !dtype.is_half() {
        return Err(Error::dtype("autocast", dtype, "the low dtype is bf16 or f16"));
    }
    Ok(AutocastGuard::new(Some(dtype)))
}

/// Runs `f` without autocast inside a region of it, as `with torch.autocast(…, enabled=False):` does. Operands keep the dtypes
/// that they have got: convert them with [`to_dtype`](Tensor::to_dtype).
pub fn autocast_off<T>(f: impl FnOnce() -> T) -> T {
    let _guard = autocast_off_guard();
    f()
}

/// Switches autocast off on this thread while the guard lives.
pub fn autocast_off_guard() -> AutocastGuard {
    AutocastGuard::new(None)
}

/// Restores the region of a forward pass for its backward pass.
pub(crate) fn restored(low: Option<DType>) -> AutocastGuard {
    AutocastGuard::new(low)
}

/// Runs an operation with its operands in the dtypes that the region gives them by the operation's [`policy`]; autocast is
/// off in `body`. Outside a region, and for operations without a policy, it just runs. For operations that are composed of
/// others, in other crates; those of this crate call it themselves.
///
/// # Errors
/// If memory runs out; those of `body`.
pub fn cast_operands<const N: usize, const M: usize, T>(
    operation: &str,
    operands: [&Tensor; N],
    optional: [Option<&Tensor>; M],
    body: impl FnOnce([&Tensor; N], [Option<&Tensor>; M]) -> Result<T>,
) -> Result<T> {
    let Some(low) = ACTIVE.get() else { return body(operands, optional) };
    let Some(policy) = policy(operation) else { return body(operands, optional) };
    let all = || operands.iter().copied().chain(optional.iter().copied().flatten());
    let target = target(policy, low, all());
    let convert = |tensor: &Tensor| in_dtype(tensor, target);
    let required: SmallVec<[Tensor; 4]> = operands.iter().map(|tensor| convert(tensor)).collect::<Result<_>>()?;
    let others: SmallVec<[Option<Tensor>; 4]> =
        optional.iter().map(|tensor| tensor.map(convert).transpose()).collect::<Result<_>>()?;
    let _off = AutocastGuard::new(None);
    body(std::array::from_fn(|i| &required[i]), std::array::from_fn(|i| others[i].as_ref()))
}

/// The operand in the dtype that the region gives it by the operation's [`policy`]; as it is where the policy needs to see
/// all operands. For layers that convert what they are given, and whose operations are converted one by one.
///
/// # Errors
/// If memory runs out.
pub fn cast_operand(operation: &str, operand: &Tensor) -> Result<Tensor> {
    let target = match (ACTIVE.get(), policy(operation)) {
        (Some(low), Some(Policy::Lower)) => Some(low),
        (Some(_), Some(Policy::F32)) => Some(DType::F32),
        _ => None,
    };
    in_dtype(operand, target)
}

/// [`cast_operands`] for a list.
pub(crate) fn cast_list<T>(
    operation: &str,
    operands: &[&Tensor],
    body: impl FnOnce(&[&Tensor]) -> Result<T>,
) -> Result<T> {
    let Some(low) = ACTIVE.get() else { return body(operands) };
    let Some(policy) = policy(operation) else { return body(operands) };
    let target = target(policy, low, operands.iter().copied());
    let converted: SmallVec<[Tensor; 4]> =
        operands.iter().map(|tensor| in_dtype(tensor, target)).collect::<Result<_>>()?;
    let _off = AutocastGuard::new(None);
    body(&converted.iter().collect::<SmallVec<[&Tensor; 4]>>())
}

/// The operand in the dtype of another one, if this is a region: for scale and shift of a normalization without a policy.
pub(crate) fn like(tensor: Option<&Tensor>, dtype: DType) -> Result<Option<Tensor>> {
    let target = ACTIVE.get().filter(|_| is_eligible(dtype)).map(|_| dtype);
    tensor.map(|tensor| in_dtype(tensor, target)).transpose()
}

/// Whether autocast converts tensors of this dtype.
fn is_eligible(dtype: DType) -> bool {
    dtype == DType::F32 || dtype.is_half()
}

/// The dtype that eligible operands are converted to.
fn target<'a>(policy: Policy, low: DType, operands: impl Iterator<Item = &'a Tensor>) -> Option<DType> {
    match policy {
        Policy::Lower => Some(low),
        Policy::F32 => Some(DType::F32),
        Policy::Widest => operands.map(Tensor::dtype).filter(|dtype| is_eligible(*dtype)).reduce(DType::promote),
        Policy::Own => None,
    }
}

fn in_dtype(tensor: &Tensor, target: Option<DType>) -> Result<Tensor> {
    match target {
        Some(dtype) if tensor.dtype() != dtype && is_eligible(tensor.dtype()) => converted::converted(tensor, dtype),
        _ => Ok(tensor.clone()),
    }
}
