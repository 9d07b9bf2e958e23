//! In-place operations, which change a tensor's memory.
//!
//! Autograd's rules are PyTorch's: while recording is on, a leaf that requires gradients (or a view of one) must not be
//! changed. Other tensors may be: the change becomes part of their history, and of the base's if the tensor is a view.

use kiln_backend::{Arguments, Backend, BinaryAssignArgs, BinaryOp, CopyArgs, DType, Error, Result, Scalar, ViewMut};
use kiln_derive::located;
use smallvec::smallvec;

use super::{
    binary::{arithmetic_as, promote},
    rhs::Rhs,
};
use crate::{
    autograd::{Edge, grad_enabled, no_grad, record},
    storage::lock_for_update,
    tensor::Tensor,
};

macro_rules! arithmetic {
    ($($method:ident $plain:ident $op:ident $doc:literal;)*) => {
        #[located]
        impl Tensor {$(
            #[doc = $doc]
            ///
            /// # Errors
            /// If the other operand does not broadcast to this tensor's shape, devices differ, the result is of a dtype
            /// that does not go into this tensor (a float into integers), the tensor is a broadcast view, or it is a
            /// leaf that requires gradients while recording is on.
            pub fn $method(&self, other: impl Into<Rhs>) -> Result<()> {
                let other: Rhs = other.into();
                if self.records_change(stringify!($method), other.tensor())? {
                    // The gradient may need the old values, which are about to be overwritten.
                    let old = if matches!(BinaryOp::$op, BinaryOp::Add | BinaryOp::Sub) { self.clone() } else { self.copy()? };
                    let new = old.$plain(other)?;
                    let new = self.cast_in_place(stringify!($method), &new)?;
                    return self.replace_by(stringify!($method), &new);
                }
                self.assign_as(stringify!($method), BinaryOp::$op, &other)
            }
        )*}
    };
}

arithmetic! {
    add_ add Add "`self += other`, in place.";
    sub_ sub Sub "`self -= other`, in place.";
    mul_ mul Mul "`self *= other`, in place.";
    div_ div Div "`self /= other`, in place; floats only.";
}

#[located]
impl Tensor {
    /// Copies the values of `source`, which broadcasts to this tensor's shape, into this tensor's memory; converts the
    /// dtype and moves between devices.
    ///
    /// # Errors
    /// If the shapes do not fit, the tensor is a broadcast view, or it is a leaf that requires gradients while
    /// recording is on.
    pub fn copy_(&self, source: &Tensor) -> Result<()> {
        source.layout().expand("copy_", self.shape())?;
        if self.records_change("copy_", Some(source))? {
            let (dtype, device) = (source.dtype(), source.device());
            let new = no_grad(|| source.to_device(self.device())?.to_dtype(self.dtype())?.expand(self.shape()))?;
            let shape = *source.shape();
            let new = record(new.detach(), "CopyBackwards", &[source], &[], move |ctx| {
                Ok(smallvec![Some(ctx.grad()?.sum_to(&shape)?.to_dtype(dtype)?.to_device(device)?)])
            })?;
            return self.replace_by("copy_", &new);
        }
        self.write_values("copy_", source)
    }

    /// Sets every element to `value`, in place.
    ///
    /// # Errors
    /// If the tensor is a broadcast view, or a leaf that requires gradients while recording is on.
    pub fn fill_(&self, value: impl Into<Scalar>) -> Result<()> {
        let value = value.into();
        self.overwrite("fill_", |backend, out| backend.fill(value, out))
    }

    /// Sets every element to 0, in place.
    ///
    /// # Errors
    /// If the tensor is a broadcast view, or a leaf that requires gradients while recording is on.
    pub fn zero_(&self) -> Result<()> {
        self.overwrite("zero_", |backend, out| backend.fill(Scalar::Int(0), out))
    }

    /// An in-place operation that does not depend on the old values.
    pub(crate) fn overwrite(
        &self,
        op: &'static str,
        write: impl FnOnce(&'static dyn Backend, ViewMut<'_>) -> Result<()>,
    ) -> Result<()> {
        let recorded = self.records_change(op, None)?;
        let (mut writing, []) = lock_for_update((&self.0.storage, self.layout()), []);
        write(self.0.storage.backend, writing.view())?;
        drop(writing);
        self.0.storage.bump_version();
        if recorded {
            // The gradient of the old values is 0, but it exists.
            let node = match op {
                "zero_" => "ZeroBackward0",
                "uniform_" => "UniformBackward0",
                "normal_" => "NormalBackward0",
                "bernoulli_" => "BernoulliBackward2",
                _ => "FillBackward2",
            };
            let blank =
                record(self.detach(), node, &[self], &[], |ctx| Ok(smallvec![Some(ctx.grad()?.zeros_like()?)]))?;
            self.rebase(&blank);
        }
        Ok(())
    }

    /// Whether an in-place operation with `source` must be recorded.
    pub(crate) fn records_change(&self, op: &'static str, source: Option<&Tensor>) -> Result<bool> {
        if self.layout().may_overlap() {
            return Err(Error::shape(
                op,
                "a tensor whose elements do not share memory, not a broadcast view",
                self.shape(),
            ));
        }
        if !grad_enabled() || !(self.requires_grad() || source.is_some_and(Tensor::requires_grad)) {
            return Ok(false);
        }
        let leaf = |t: &Tensor| matches!(t.edge(), Some(Edge::Leaf(_)));
        if leaf(self) {
            let message = "a leaf that requires gradients is changed in place; do it in `no_grad`";
            return Err(Error::autograd(op, message));
        }
        if let Some(base) = &self.0.view_of {
            if leaf(&base.tensor) {
                let message = "a view of a leaf that requires gradients is changed in place; do it in `no_grad`";
                return Err(Error::autograd(op, message));
            }
            if base.untraced {
                let message = "a view that was made without recording is changed in place while recording is on";
                return Err(Error::autograd(op, message));
            }
            if base.tensor.layout().may_overlap() {
                return Err(Error::autograd(op, "a view of a broadcast view is changed in place"));
            }
        }
        if !self.dtype().is_float() {
            return Err(Error::dtype(op, self.dtype(), "gradients need floats"));
        }
        Ok(true)
    }

    /// Replaces this tensor's values and history by those of `new`, which has its shape and dtype.
    pub(crate) fn replace_by(&self, op: &'static str, new: &Tensor) -> Result<()> {
        if new.shape() != self.shape() {
            return Err(Error::shapes(
                op,
                self.shape(),
                new.shape(),
                "the result must have the shape of the tensor that is changed",
            ));
        }
        if new.dtype() != self.dtype() {
            return Err(Error::dtypes(op, self.dtype(), new.dtype()));
        }
        self.write_values(op, new)?;
        self.rebase(new);
        Ok(())
    }

    /// Makes the history of `new` that of this tensor, whose memory has been changed.
    fn rebase(&self, new: &Tensor) {
        let Some(Edge::Node { node, output }) = new.edge() else { return };
        match &self.0.view_of {
            None => self.set_history(node, output),
            Some(base) => {
                let base = &base.tensor;
                let slices = crate::autograd::copy_slices_node(self, base, base.edge(), Edge::Node { node, output });
                base.set_history(slices, 0);
                // This view's own history is derived anew from the base when it is needed.
            }
        }
    }

    /// Copies values, not recorded on the tape.
    fn write_values(&self, op: &'static str, source: &Tensor) -> Result<()> {
        let moved;
        let source = if source.device() != self.device() || source.shares_memory(self) {
            moved = no_grad(|| {
                if source.device() == self.device() { source.copy() } else { source.to_device(self.device()) }
            })?;
            &moved
        } else {
            source
        };
        let layout = source.layout().expand(op, self.shape())?;
        let (mut writing, [reading]) =
            lock_for_update((&self.0.storage, self.layout()), [Some((&*source.0.storage, &layout))]);
        if let Some(reading) = &reading {
            self.0.storage.backend.copy(CopyArgs { x: reading.view(), out: writing.view() }.checked()?)?;
        }
        drop(writing);
        self.0.storage.bump_version();
        Ok(())
    }

    /// `self = op(self, other)`, not recorded on the tape, for gradients and optimizers.
    pub(crate) fn assign(&self, op: BinaryOp, other: &Tensor) -> Result<()> {
        self.assign_as(op.name(), op, &other.into())
    }

    fn assign_as(&self, name: &'static str, op: BinaryOp, other: &Rhs) -> Result<()> {
        if op == BinaryOp::Div && !self.dtype().is_float() {
            return Err(Error::dtype(name, self.dtype(), "the result would be of another dtype"));
        }
        if let Rhs::Tensor(tensor) = other
            && tensor.dtype() != self.dtype()
        {
            tensor.layout().expand(name, self.shape())?;
            let new = no_grad(|| arithmetic_as(name, op, &self.into(), other))?;
            return self.write_values(name, &self.cast_in_place(name, &new)?);
        }
        // For truth values some operations are others by name.
        let (op, ..) = promote(name, op, &self.into(), other)?;
        let storage = &self.0.storage;
        match other {
            Rhs::Scalar(value) => {
                let is_higher_kind = value.is_float() && !self.dtype().is_float()
                    || matches!(value, Scalar::Int(_)) && self.dtype() == DType::Bool;
                if is_higher_kind {
                    return Err(Error::dtype(name, self.dtype(), "the result would be another kind of number"));
                }
                let (mut writing, []) = lock_for_update((storage, self.layout()), []);
                storage.backend.binary_assign(
                    BinaryAssignArgs { op, b: kiln_backend::Operand::Scalar(*value), out: writing.view() }.checked()?,
                )?;
            }
            Rhs::Tensor(other) => {
                let own;
                let other = if other.shares_memory(self) {
                    own = no_grad(|| other.copy())?;
                    &own
                } else {
                    other
                };
                let layout = other.layout().expand(name, self.shape())?;
                let (mut writing, [reading]) =
                    lock_for_update((storage, self.layout()), [Some((&*other.0.storage, &layout))]);
                if let Some(reading) = &reading {
                    storage.backend.binary_assign(
                        BinaryAssignArgs { op, b: kiln_backend::Operand::Tensor(reading.view()), out: writing.view() }
                            .checked()?,
                    )?;
                }
            }
        }
        storage.bump_version();
        Ok(())
    }
}
