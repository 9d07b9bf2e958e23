//! `where_cond`: element-wise choice between two operands.

use super::binary::fits;
use crate::{
    contract::{Arguments, Checked, has_dtype, same_shape},
    dtype::DType,
    error::Result,
    view::{Operand, View, ViewMut},
};

/// Arguments of [`where_cond`](WhereCondBackend::where_cond).
#[derive(Debug)]
pub struct WhereCondArgs<'a> {
    /// The condition that selects the operand, `bool`.
    pub condition: View<'a>,
    /// The values where the condition is true, of the dtype of `out`.
    pub a: Operand<'a>,
    /// The values elsewhere, of the dtype of `out`.
    pub b: Operand<'a>,
    /// The result.
    pub out: ViewMut<'a>,
}

impl Arguments for WhereCondArgs<'_> {
    fn check(&self) -> Result<()> {
        const OP: &str = "where";
        has_dtype(OP, DType::Bool, self.condition.dtype())?;
        same_shape(OP, &[self.condition.layout, self.out.layout])?;
        fits(OP, &self.a, self.out.dtype(), self.out.layout)?;
        fits(OP, &self.b, self.out.dtype(), self.out.layout)
    }
}

/// Chooses between two operands.
pub trait WhereCondBackend {
    /// `a` where `condition` is true, else `b`.
    fn where_cond(&self, args: Checked<WhereCondArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        scalar::Scalar,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (x, y) = (layout(&[2, 3]), layout(&[3]));
        let check = |(of, lc): (DType, _), (a, la): (DType, _)| {
            let (condition, a, mut out) = (Memory(of), Memory(a), Memory(DType::F32));
            let (a, b) = (Operand::Tensor(a.view(la)), Operand::Scalar(Scalar::Int(0)));
            WhereCondArgs { condition: condition.view(lc), a, b, out: out.view_mut(&x) }.check()
        };
        assert!(check((DType::Bool, &x), (DType::F32, &x)).is_ok());
        assert!(check((DType::U8, &x), (DType::F32, &x)).is_err());
        assert!(check((DType::Bool, &y), (DType::F32, &x)).is_err());
        assert!(check((DType::Bool, &x), (DType::F64, &x)).is_err());
        assert!(check((DType::Bool, &x), (DType::F32, &y)).is_err());
    }
}
