//! Tracing: lists the operations that a function of tensors performs, for exporters.
//!
//! Operations are traced at the point where the tape records them, whether their inputs require gradients or not, with
//! what [`Tensor::described`] adds about them. Operations without a gradient and constructors trace themselves
//! ([`Tensor::noted`]).

use std::{borrow::Cow, cell::RefCell, collections::HashSet, sync::Arc};

use kiln_backend::{Result, Scalar};
use kiln_derive::located;

use crate::{
    storage::{Made, swap_made, was_made},
    tensor::Tensor,
};

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// One operation of a [`Trace`].
#[derive(Clone)]
pub struct Step {
    /// The operation for an exporter, e.g. `softmax`; `None` if the operation does not describe itself.
    pub op: Option<&'static str>,
    /// The name of its node on the tape.
    pub node: Cow<'static, str>,
    /// Its tensor operands, in the order of the node's inputs.
    pub inputs: Vec<Tensor>,
    /// Its result.
    pub output: Tensor,
    /// The version of the result's memory; if it differs later, the result was changed in place.
    pub version: u32,
    /// Its other arguments, by name.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// An argument of an operation that is not a tensor.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is what its name says
pub enum Attribute {
    Int(i64),
    Float(f64),
    Ints(Vec<i64>),
    Text(&'static str),
}

macro_rules! attribute {
    ($($ty:ty: |$v:ident| $make:expr;)*) => {$(
        impl From<$ty> for Attribute {
            fn from($v: $ty) -> Attribute { $make }
        }
    )*};
}
attribute! {
    i64: |v| Attribute::Int(v);
    usize: |v| Attribute::Int(i64::try_from(v).unwrap_or(i64::MAX));
    bool: |v| Attribute::Int(v.into());
    f64: |v| Attribute::Float(v);
    &[usize]: |v| Attribute::Ints(v.iter().map(|&v| i64::try_from(v).unwrap_or(i64::MAX)).collect());
    Vec<i64>: |v| Attribute::Ints(v);
    &'static str: |v| Attribute::Text(v);
    Scalar: |v| if v.is_float() { Attribute::Float(v.to_f64()) } else { Attribute::Int(v.to_i64()) };
}

/// The operations that a function performed.
#[derive(Default)]
pub struct Trace {
    steps: Vec<Step>,
    /// The memory of all tensors made meanwhile.
    made: Made,
    /// Whether values may be read, which hides from the trace what is done with them.
    reads: bool,
}

impl Trace {
    /// The operations in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether the tensor's memory was allocated while the function ran. If no step has such a tensor as its output, it
    /// came from outside Kiln's operations, or its values are unset (`empty`).
    #[must_use]
    pub fn made(&self, tensor: &Tensor) -> bool {
        self.made.contains(&tensor.0.storage)
    }
}

impl Trace {
    /// For each step, the bytes of memory that it allocated: 0 for views and in-place changes.
    #[must_use]
    pub fn allocated(&self) -> Vec<usize> {
        let mut seen = HashSet::new();
        let bytes = |step: &Step| {
            let storage = &step.output.0.storage;
            let is_new = self.made(&step.output) && seen.insert(Arc::as_ptr(storage) as usize);
            let memory = storage.read();
            if is_new { memory.len() * memory.dtype().size() } else { 0 }
        };
        self.steps.iter().map(bytes).collect()
    }
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| &step.node)).finish()
    }
}

/// Runs `f` and lists the operations of this thread. Meanwhile it is an error to read values
/// ([`to_vec`](Tensor::to_vec), [`item`](Tensor::item)) that `f` computes, since what is done with them would hold for
/// these values only. Every tensor that is made keeps its memory until the trace is dropped.
///
/// Operations in a nested trace belong to the inner one only.
///
/// # Errors
/// Those of `f`.
#[located(site)]
pub fn trace<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Trace)> {
    run(Trace::default(), f)
}

/// As [`trace`], but values may be read: for counting operations, not for exporting them.
///
/// # Errors
/// Those of `f`.
#[located(site)]
pub fn trace_with_reads<T>(f: impl FnOnce() -> Result<T>) -> Result<(T, Trace)> {
    run(Trace { reads: true, ..Trace::default() }, f)
}

/// The number of steps so far in this thread's trace, if there is one.
#[must_use]
pub fn traced_steps() -> Option<usize> {
    TRACE.with_borrow(|trace| trace.as_ref().map(|trace| trace.steps.len()))
}

fn run<T>(trace: Trace, f: impl FnOnce() -> Result<T>) -> Result<(T, Trace)> {
    /// Restores the outer trace, also when `f` panics.
    struct Restore(Option<Trace>, Option<Made>);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRACE.replace(self.0.take());
            swap_made(self.1.take());
        }
    }
    let restore = Restore(TRACE.replace(Some(trace)), swap_made(Some(Made::default())));
    let result = f();
    let steps = TRACE.take().unwrap_or_default();
    let made = swap_made(None).unwrap_or_default();
    drop(restore);
    Ok((result?, Trace { made, ..steps }))
}

fn with(f: impl FnOnce(&mut Trace)) {
    TRACE.with_borrow_mut(|trace| {
        if let Some(trace) = trace {
            f(trace);
        }
    });
}

/// Runs the parts of an operation that exporters see as one.
pub(crate) fn untraced<T>(f: impl FnOnce() -> T) -> T {
    /// Restores the trace, also when `f` panics.
    struct Restore(Option<Trace>);
    impl Drop for Restore {
        fn drop(&mut self) {
            TRACE.replace(self.0.take());
        }
    }
    let _restore = Restore(TRACE.take());
    f()
}

/// Whether this thread is tracing.
pub(crate) fn is_tracing() -> bool {
    TRACE.with_borrow(Option::is_some)
}

/// Adds an operation to the trace.
pub(crate) fn note(node: Cow<'static, str>, inputs: &[&Tensor], output: &Tensor) {
    with(|trace| {
        let inputs = inputs.iter().map(|&t| t.clone()).collect();
        let (output, version) = (output.clone(), output.version());
        trace.steps.push(Step { op: None, node, inputs, output, version, attributes: Vec::new() });
    });
}

/// Whether reading the tensor's values now would hide them from the trace.
pub(crate) fn hides(tensor: &Tensor) -> bool {
    TRACE.with_borrow(|trace| trace.as_ref().is_some_and(|trace| !trace.reads)) && was_made(&tensor.0.storage)
}

#[located(site)]
impl Tensor {
    /// Describes to exporters the operation that has just made this tensor. `attributes` is called only while tracing.
    pub(crate) fn described<const N: usize>(
        self,
        op: &'static str,
        attributes: impl FnOnce() -> [(&'static str, Attribute); N],
    ) -> Tensor {
        with(|trace| {
            if let Some(step) = trace.steps.last_mut().filter(|step| step.output.is_same(&self)) {
                step.op = Some(op);
                step.attributes = attributes().into();
            }
        });
        self
    }

    /// [`described`](Tensor::described) for an operation that the tape has not recorded, or not with all its operands:
    /// for example, running statistics get no gradient.
    pub(crate) fn noted<const N: usize>(
        self,
        op: &'static str,
        inputs: &[&Tensor],
        attributes: impl FnOnce() -> [(&'static str, Attribute); N],
    ) -> Tensor {
        note(Cow::Borrowed(op), inputs, &self);
        self.described(op, attributes)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn operations_are_noted_with_their_arguments() -> Result<()> {
        let w = Tensor::new(&[[1f32, 2.], [3., 4.]], Device::Cpu)?;
        let ((x, y), trace) = trace(|| {
            let x = Tensor::ones([3, 2], Device::Cpu)?;
            let y = x.linear_relu(&w, None)?.softmax(-1)?.sub(1.5)?;
            Ok((x, y))
        })?;
        let ops: Vec<_> = trace.steps().iter().map(|s| s.op.unwrap()).collect();
        assert_eq!(ops, ["constant", "linear", "softmax", "sub"]);
        assert!(trace.steps()[0].output.is_same(&x), "the result of a constructor");
        let steps = &trace.steps()[1..];
        assert_eq!(steps[0].attributes, [("relu", Attribute::Int(1))]);
        assert_eq!(steps[1].attributes, [("dim", Attribute::Int(1))]);
        assert_eq!(steps[2].attributes, [("rhs", Attribute::Float(1.5))]);
        assert!(steps[0].inputs[0].is_same(&x) && steps[0].inputs[1].is_same(&w) && steps[2].output.is_same(&y));
        assert!(trace.made(&x) && !trace.made(&w));
        assert!(!y.requires_grad() && y.grad_fn().is_none());
        Ok(())
    }

    #[test]
    fn values_are_not_read_in_a_trace_and_errors_end_it() -> Result<()> {
        let x = Tensor::ones(2, Device::Cpu)?;
        let message = trace(|| x.add(1)?.to_vec::<f32>()).unwrap_err().to_string();
        assert!(message.contains("trace"), "{message}");
        assert_eq!(x.add(1)?.to_vec::<f32>()?, [2., 2.]);
        let (_, outer) = trace(|| {
            trace(|| x.exp())?;
            x.sin()
        })?;
        assert_eq!(outer.steps().len(), 1);
        Ok(())
    }
}
