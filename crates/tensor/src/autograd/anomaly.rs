//! Anomaly mode: finds the first operation whose result or gradient is not finite, as `torch.autograd.detect_anomaly`.

use std::{cell::Cell, marker::PhantomData, panic::Location};

use kiln_backend::{DType, Error, ErrorKind, Result, call_sites};
use kiln_derive::located;

use super::{
    mode::{grad_enabled, no_grad},
    trace::is_tracing,
};
use crate::{autocast::autocast_off_guard, tensor::Tensor};

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
    /// Whether results are looked at now: not those of a backward pass's parts, nor of the search itself.
    static OF_RESULTS: Cell<bool> = const { Cell::new(true) };
}

/// Operations whose results have numbers of their operands, or one given by the user: a mask of `-inf` is no anomaly.
const COPIES: &[&str] = &[
    "MaskedFillBackward0",
    "WhereBackward0",
    "FillBackward2",
    "CopyBackwards",
    "ConstantPadNdBackward0",
    "ScatterBackward0",
    "ScatterBackward1",
];

/// Whether this thread looks for anomalies.
#[must_use]
pub fn is_anomaly_enabled() -> bool {
    ENABLED.get()
}

/// Restores the mode when it is dropped. Cannot be sent to another thread.
#[must_use = "the mode ends when the guard is dropped"]
#[derive(Debug)]
pub struct AnomalyGuard {
    previous: bool,
    _watch: Option<call_sites::Watch>,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for AnomalyGuard {
    fn drop(&mut self) {
        ENABLED.set(self.previous);
    }
}

/// Switches [`detect_anomaly`] on or off on this thread while the guard lives: `let _guard = autograd::anomaly(true);`.
pub fn anomaly(enabled: bool) -> AnomalyGuard {
    let watch = enabled.then(call_sites::Watch::new);
    AnomalyGuard { previous: ENABLED.replace(enabled), _watch: watch, stays_on_its_thread: PhantomData }
}

/// Runs `f` and looks at the result of each operation, and at each gradient of a backward pass: the first one that has a NaN,
/// or an infinity that no operand had, is an error with the operation's name and the line that called it
/// ([`ErrorKind::Anomaly`]). For a gradient this is the line of the forward pass, which must have run in this mode as well.
/// (PyTorch's `torch.autograd.detect_anomaly` looks at gradients alone, and for NaN alone:
/// <https://docs.pytorch.org/docs/stable/autograd.html#anomaly-detection>.)
///
/// Operations that write numbers of the user, such as `masked_fill` with `-inf`, make no anomaly. Scaled gradients in `f16`
/// that overflow are one, though a `GradScaler` would skip the step. Every operation waits for the device, so a step cannot be
/// captured in this mode; it is for debugging.
///
/// ```
/// use kiln_tensor::{Device, ErrorKind, Tensor, autograd};
/// # fn main() -> kiln_tensor::Result<()> {
/// let x = Tensor::new(&[4.0f32, 0.0], Device::Cpu)?.requires_grad_(true)?;
/// let line = line!() + 1;
/// let error = autograd::detect_anomaly(|| x.sqrt()?.sum(())?.backward()).unwrap_err();
/// assert!(matches!(error.kind(), ErrorKind::Anomaly { op, .. } if op == "SqrtBackward0"));
/// assert_eq!(error.location().unwrap().line(), line);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of `f`.
#[located(site)]
pub fn detect_anomaly<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    let _guard = anomaly(true);
    f()
}

/// Looks at gradients alone while it lives: the parts of rules may pass through infinities.
pub(super) struct ResultsUnseen(bool);

impl ResultsUnseen {
    pub fn new() -> ResultsUnseen {
        ResultsUnseen(OF_RESULTS.replace(false))
    }
}

impl Drop for ResultsUnseen {
    fn drop(&mut self) {
        OF_RESULTS.set(self.0);
    }
}

/// Checks the result of an operation.
pub(super) fn check_result(node: &str, inputs: &[&Tensor], out: &Tensor) -> Result<()> {
    if !ENABLED.get() || !OF_RESULTS.get() || is_tracing() {
        return Ok(());
    }
    let site = call_sites::current();
    // What an operation computes for itself may be infinite where it is not used.
    if site.is_some_and(|site| !site.is_outermost) && !grad_enabled() {
        return Ok(());
    }
    let Some(found) = Found::in_tensor(out)? else { return Ok(()) };
    let of_operands = inputs.iter().map(|input| Found::in_tensor(input)).collect::<Result<Vec<_>>>()?;
    let first = of_operands.iter().position(Option::is_some);
    if !found.has_nan && (first.is_some() || COPIES.contains(&node)) {
        return Ok(());
    }
    let before = first.map_or_else(String::new, |i| format!("; operand {i} was not finite before"));
    let name = site.and_then(|site| site.operation).unwrap_or(node);
    let message = format!("the result ({node}) {found}{before}");
    Err(anomalous(name, message, site.map(|site| site.location)))
}

/// Checks the gradient of an input that a rule has computed from the gradients of the outputs.
pub(super) fn check_gradient(
    node: &str,
    site: Option<&'static Location<'static>>,
    arrived: &[Option<Tensor>],
    input: usize,
    grad: &Tensor,
) -> Result<()> {
    if !ENABLED.get() {
        return Ok(());
    }
    let Some(found) = Found::in_tensor(grad)? else { return Ok(()) };
    let mut came = None;
    for (output, grad) in arrived.iter().enumerate().filter_map(|(i, grad)| Some((i, grad.as_ref()?))) {
        if Found::in_tensor(grad)?.is_some() {
            came.get_or_insert(output);
        }
    }
    if !found.has_nan && came.is_some() {
        return Ok(());
    }
    let before = came.map_or_else(String::new, |i| format!("; the gradient of output {i} was not finite before"));
    let line = match site {
        Some(site) => format!("; the operation was called at {site}"),
        None => "; the forward pass did not run in anomaly mode, which would tell the line".to_owned(),
    };
    Err(anomalous(node, format!("the gradient of input {input} {found}{before}{line}"), site))
}

fn anomalous(op: &str, message: String, site: Option<&'static Location<'static>>) -> Error {
    let error = Error::from(ErrorKind::Anomaly { op: op.to_owned(), message });
    match site {
        Some(site) => error.called_from(site, "", None),
        None => error,
    }
}

/// The numbers of a tensor that are not finite.
struct Found {
    shape: kiln_backend::Shape,
    dtype: DType,
    count: i64,
    has_nan: bool,
    /// The first one, and where it is.
    first: f64,
    at: Vec<usize>,
}

impl Found {
    fn in_tensor(tensor: &Tensor) -> Result<Option<Found>> {
        if !tensor.dtype().is_float() || tensor.numel() == 0 {
            return Ok(None);
        }
        kiln_backend::unless_capturing("detect_anomaly", "it reads the results of each operation")?;
        let (_unseen, _region) = (ResultsUnseen::new(), autocast_off_guard());
        no_grad(|| {
            let tensor = tensor.detach();
            let finite = tensor.isfinite()?;
            if finite.all(())?.item::<bool>()? {
                return Ok(None);
            }
            let wild = finite.logical_not()?;
            let first = wild.flatten_all()?.to_dtype(DType::I64)?.argmax(())?.item::<i64>()?;
            let (mut rest, mut at) = (first as usize, vec![0; tensor.rank()]);
            for (index, extent) in at.iter_mut().zip(tensor.dims()).rev() {
                (*index, rest) = (rest % extent, rest / extent);
            }
            Ok(Some(Found {
                shape: *tensor.shape(),
                dtype: tensor.dtype(),
                count: wild.sum(())?.item::<i64>()?,
                has_nan: tensor.isnan()?.any(())?.item::<bool>()?,
                first: tensor.flatten_all()?.select(0, first)?.item::<f64>()?,
                at,
            }))
        })
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Found { shape, dtype, count, first, at, .. } = self;
        write!(f, "of shape {shape}, {dtype}, is not finite: {count} of {}, first {first} at {at:?}", shape.numel())
    }
}
