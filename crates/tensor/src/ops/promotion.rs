//! Which dtype operands of several dtypes are brought to: PyTorch's `result_type`.

use kiln_backend::{DType, Scalar};

use super::rhs::Rhs;
use crate::Tensor;

/// The dtype of a result of `first` and others. Tensors with dimensions decide; tensors of no dimensions and, last,
/// numbers count only if they are of a higher kind: `bool`, then integers, then floats.
pub(crate) fn result_type(first: &Tensor, others: &[&Rhs]) -> DType {
    let (mut dimensional, mut scalar, mut number) = (None, None, None);
    let mut tensor = |t: &Tensor| {
        let slot = if t.rank() > 0 { &mut dimensional } else { &mut scalar };
        *slot = Some(slot.map_or(t.dtype(), |dtype: DType| dtype.promote(t.dtype())));
    };
    tensor(first);
    others.iter().filter_map(|other| other.tensor()).for_each(tensor);
    for other in others {
        let Rhs::Scalar(value) = other else { continue };
        let dtype = match value {
            Scalar::Float(_) => DType::F32,
            Scalar::Int(_) => DType::I64,
            Scalar::Bool(_) => DType::Bool,
        };
        number = Some(number.map_or(dtype, |known: DType| known.promote(dtype)));
    }
    combined(dimensional, combined(scalar, number)).unwrap_or_else(|| first.dtype())
}

/// What counts more, unless what counts less is of a higher kind.
fn combined(higher: Option<DType>, lower: Option<DType>) -> Option<DType> {
    let (Some(high), Some(low)) = (higher, lower) else { return higher.or(lower) };
    let is_higher_kind = low.is_float() && !high.is_float() || high == DType::Bool;
    Some(if is_higher_kind { high.promote(low) } else { high })
}
