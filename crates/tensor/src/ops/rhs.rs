//! `Rhs`: the second operand of `x.add(…)`, a tensor or a number.

use kiln_backend::{Operand, Scalar};

use crate::{storage::Reading, tensor::Tensor};

/// A tensor or a number. Converted by `Into`, so that `x.add(&y)`, `x.add(2)` and `x.add(0.5)` all work.
#[derive(Clone, Debug)]
pub enum Rhs {
    /// A tensor; its shape broadcasts with the other operand's.
    Tensor(Tensor),
    /// A number; it takes the dtype of the other operand, except that a float turns an integer tensor into `f32`.
    Scalar(Scalar),
}

impl Rhs {
    pub(crate) fn tensor(&self) -> Option<&Tensor> {
        match self {
            Rhs::Tensor(tensor) => Some(tensor),
            Rhs::Scalar(_) => None,
        }
    }

    /// A half-precision tensor converted to `f32`; anything else unchanged.
    pub(crate) fn widened(&self) -> kiln_backend::Result<Rhs> {
        match self {
            Rhs::Tensor(tensor) => tensor.widened().map(Rhs::Tensor),
            number @ Rhs::Scalar(_) => Ok(number.clone()),
        }
    }

    pub(crate) fn scalar(&self) -> Option<Scalar> {
        match self {
            Rhs::Tensor(_) => None,
            Rhs::Scalar(value) => Some(*value),
        }
    }
}

impl From<&Tensor> for Rhs {
    fn from(tensor: &Tensor) -> Rhs {
        Rhs::Tensor(tensor.clone())
    }
}

impl From<&Rhs> for Rhs {
    fn from(operand: &Rhs) -> Rhs {
        operand.clone()
    }
}

impl From<&&Tensor> for Rhs {
    fn from(tensor: &&Tensor) -> Rhs {
        Rhs::Tensor((*tensor).clone())
    }
}

impl From<Tensor> for Rhs {
    fn from(tensor: Tensor) -> Rhs {
        Rhs::Tensor(tensor)
    }
}

macro_rules! number {
    ($($ty:ty)*) => {$(
        impl From<$ty> for Rhs {
            fn from(value: $ty) -> Rhs { Rhs::Scalar(value.into()) }
        }
    )*};
}
kiln_backend::for_each_element!(number);
number!(Scalar u32 usize);

/// An operand that is locked for reading, as the backend takes it.
pub(crate) enum Locked<'a> {
    Tensor(Reading<'a>, kiln_backend::Layout),
    Scalar(Scalar),
}

impl Locked<'_> {
    pub fn operand(&self) -> Operand<'_> {
        match self {
            Locked::Tensor(reading, layout) => Operand::Tensor(reading.through(layout)),
            Locked::Scalar(value) => Operand::Scalar(*value),
        }
    }
}

impl Rhs {
    /// Locks the operand, broadcast to `shape`.
    pub(crate) fn lock(&self, op: &'static str, shape: &kiln_backend::Shape) -> kiln_backend::Result<Locked<'_>> {
        Ok(match self {
            Rhs::Tensor(t) => Locked::Tensor(t.read(), t.layout().expand(op, shape)?),
            Rhs::Scalar(value) => Locked::Scalar(*value),
        })
    }
}
