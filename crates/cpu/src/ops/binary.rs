//! Element-wise binary operations, their gradients and their in-place forms.

use std::sync::atomic::{AtomicBool, Ordering};

use kiln_backend::{
    BinaryArgs, BinaryAssignArgs, BinaryBackend, BinaryGradArgs, BinaryOp, Checked, DType, Error, Operand, Result,
    SideOf, ViewMut,
};

use crate::{
    device::CpuBackend,
    engine::{
        elementwise::{map2, map3, update1},
        par::GRAIN,
        tile::TILE,
    },
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::{for_all, for_bits, for_float, for_int},
        int::Int,
        real::{Float, Real},
        stored::{Stored, Truth},
    },
    ops::binary_kernels::{backward_of, bitwise_of, compare_of, forward_of, int_of, power},
};

/// The fewest elements that are worth a task of their own.
fn grain(is_costly: bool) -> usize {
    if is_costly { GRAIN / 8 } else { GRAIN }
}

/// The error for a loop that the table lacks; checked arguments never need one.
fn missing(op: BinaryOp, dtype: DType) -> Error {
    Error::dtype(op.name(), dtype, "it has no loop")
}

impl BinaryBackend for CpuBackend {
    fn binary(&self, args: Checked<BinaryArgs>) -> Result<()> {
        let dtype = args.dtype();
        let BinaryArgs { op, a, b, out } = args.into_inner();
        if op.is_comparison() {
            for_all!(dtype, T => {
                let (a, b) = (Input::<T>::rounded(op.name(), a)?, Input::<T>::rounded(op.name(), b)?);
                let mut out = Target::<Truth>::new(op.name(), out)?;
                map2(GRAIN, &a, &b, &mut out, compare_of::<<T as Stored>::Compute>(op));
                Ok(())
            })
        } else if op.is_bitwise() {
            for_bits!(dtype, T => {
                let kernel = bitwise_of::<<T as Stored>::Compute>(op).ok_or_else(|| missing(op, dtype))?;
                let (a, b) = (Input::<T>::new(op.name(), a)?, Input::<T>::new(op.name(), b)?);
                map2(GRAIN, &a, &b, &mut Target::<T>::new(op.name(), out)?, kernel);
                Ok(())
            }, other => Err(missing(op, other)))
        } else if dtype.is_int() {
            for_int!(op.name(), dtype, T => ints::<T>(op, a, b, out))
        } else {
            for_float!(op.name(), dtype, T => floats::<T>(op, a, b, out))
        }
    }

    fn binary_assign(&self, args: Checked<BinaryAssignArgs>) -> Result<()> {
        let BinaryAssignArgs { op, b, out } = args.into_inner();
        let dtype = out.dtype();
        if op.is_comparison() {
            let b = Input::<Truth>::new(op.name(), b)?;
            update1(GRAIN, &b, &mut Target::<Truth>::new(op.name(), out)?, compare_of::<u8>(op));
            return Ok(());
        }
        if op.is_bitwise() {
            return for_bits!(dtype, T => {
                let kernel = bitwise_of::<<T as Stored>::Compute>(op).ok_or_else(|| missing(op, dtype))?;
                let b = Input::<T>::new(op.name(), b)?;
                update1(GRAIN, &b, &mut Target::<T>::new(op.name(), out)?, kernel);
                Ok(())
            }, other => Err(missing(op, other)));
        }
        match dtype {
            dtype if dtype.is_int() => for_int!(op.name(), dtype, T => {
                let kernel = int_of::<T>(op).ok_or_else(|| missing(op, dtype))?;
                let b = Input::<T>::new(op.name(), b)?;
                let defined = AtomicBool::new(true);
                let kernel = |old: &[T], b: &[T], new: &mut [T]| {
                    if !kernel(old, b, new) {
                        defined.store(false, Ordering::Relaxed);
                    }
                };
                update1(GRAIN, &b, &mut Target::<T>::new(op.name(), out)?, kernel);
                all_defined(op, &defined)
            }),
            _ => for_float!(op.name(), dtype, T => {
                let b = Input::<T>::new(op.name(), b)?;
                let mut out = Target::<T>::new(op.name(), out)?;
                if let (BinaryOp::Pow, Input::Constant(exponent)) = (op, b) {
                    update1(GRAIN, &b, &mut out, |old, _, new| power(old, exponent, new));
                    return Ok(());
                }
                let kernel = forward_of::<<T as Stored>::Compute>(op).ok_or_else(|| missing(op, dtype))?;
                update1(grain(op.is_costly()), &b, &mut out, kernel);
                Ok(())
            }),
        }
    }

    fn binary_grad(&self, args: Checked<BinaryGradArgs>) -> Result<()> {
        for_float!(args.op.name(), args.grad.dtype(), T => gradient::<T>(args.into_inner()))
    }
}

fn floats<T: Float>(op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
    let (a, b) = (Input::<T>::new(op.name(), a)?, Input::<T>::new(op.name(), b)?);
    let mut out = Target::<T>::new(op.name(), out)?;
    if let (BinaryOp::Pow, Input::Constant(exponent)) = (op, b) {
        map2(GRAIN, &a, &b, &mut out, |a, _, out| power(a, exponent, out));
        return Ok(());
    }
    let kernel = forward_of::<T::Compute>(op).ok_or_else(|| missing(op, T::DTYPE))?;
    map2(grain(op.is_costly()), &a, &b, &mut out, kernel);
    Ok(())
}

fn ints<T: Int>(op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
    let kernel = int_of::<T>(op).ok_or_else(|| missing(op, T::DTYPE))?;
    let (a, b) = (Input::<T>::new(op.name(), a)?, Input::<T>::new(op.name(), b)?);
    let defined = AtomicBool::new(true);
    let kernel = |a: &[T], b: &[T], out: &mut [T]| {
        if !kernel(a, b, out) {
            defined.store(false, Ordering::Relaxed);
        }
    };
    map2(GRAIN, &a, &b, &mut Target::<T>::new(op.name(), out)?, kernel);
    all_defined(op, &defined)
}

fn all_defined(op: BinaryOp, defined: &AtomicBool) -> Result<()> {
    if defined.load(Ordering::Relaxed) {
        return Ok(());
    }
    let message = if op == BinaryOp::Pow { "integers to negative powers are not integers" } else { "division by zero" };
    Err(Error::argument(op.name(), message))
}

fn gradient<T: Float>(args: BinaryGradArgs) -> Result<()> {
    let BinaryGradArgs { op, side, grad, a, b, out } = args;
    let grad = Input::Tensor(Source::<T>::new(op.name(), grad)?);
    let (a, b) = (Input::<T>::new(op.name(), a)?, Input::<T>::new(op.name(), b)?);
    let mut out = Target::<T>::new(op.name(), out)?;
    if let (BinaryOp::Pow, SideOf::Lhs, Input::Constant(exponent)) = (op, side, b) {
        map2(GRAIN, &grad, &a, &mut out, |grad, a, out| power_grad(grad, a, exponent, out));
        return Ok(());
    }
    let kernel = backward_of::<T::Compute>(op, side).ok_or_else(|| missing(op, T::DTYPE))?;
    map3(grain(op.has_costly_gradient()), &grad, &a, &b, &mut out, kernel);
    Ok(())
}

/// The table's gradient of `a^b` for one exponent: `g * b * a^(b - 1)`, and 0 for `b = 0`.
fn power_grad<T: Real>(grad: &[T], a: &[T], exponent: T, out: &mut [T]) {
    if exponent == T::of(0.0) {
        return out.fill(exponent);
    }
    for ((grad, a), out) in grad.chunks(TILE).zip(a.chunks(TILE)).zip(out.chunks_mut(TILE)) {
        power(a, exponent - T::of(1.0), out);
        for (&grad, out) in grad.iter().zip(out) {
            *out = grad * exponent * *out;
        }
    }
}
