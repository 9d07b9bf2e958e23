//! Converts scalars to the 64 bits that kernels take as arguments.

use kiln_backend::{DType, Element, Scalar, dispatch_dtype};

/// A number to compute with: the bits of an `f64` for float dtypes, of an `i64` for the others. The kernel converts it
/// to the dtype's compute type, `f32` for half precision.
pub(crate) fn number(dtype: DType, value: Scalar) -> u64 {
    rounded_number(dtype.accumulator(), value)
}

/// A number rounded to a dtype, encoded as [`number`] does.
pub(crate) fn rounded_number(dtype: DType, value: Scalar) -> u64 {
    match dispatch_dtype!(dtype, T => T::from_scalar(value).to_scalar()) {
        Scalar::Float(v) => v.to_bits(),
        Scalar::Int(v) => v as u64,
        Scalar::Bool(v) => u64::from(v),
    }
}

/// A number converted to a dtype, as the bits of an element in memory.
pub(crate) fn pattern(dtype: DType, value: Scalar) -> u64 {
    let mut bits = [0; 8];
    dispatch_dtype!(dtype, T => bits[..dtype.size()].copy_from_slice(bytemuck::bytes_of(&T::from_scalar(value))));
    u64::from_le_bytes(bits)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn numbers_are_rounded_to_what_they_are_used_as() {
        let third = Scalar::Float(1.0 / 3.0);
        assert_eq!(f64::from_bits(number(DType::F32, third)), f64::from(1.0f32 / 3.0));
        assert_eq!(f64::from_bits(number(DType::BF16, third)), f64::from(1.0f32 / 3.0));
        assert_eq!(f64::from_bits(number(DType::F16, Scalar::Int(70_000))), 70_000.0);
        assert_eq!(f64::from_bits(rounded_number(DType::BF16, third)), bf16::from_f64(1.0 / 3.0).to_f64());
        assert_eq!(number(DType::I32, Scalar::Int(-1)), u64::MAX);
        assert_eq!(number(DType::U8, Scalar::Int(257)), 1);
        assert_eq!(number(DType::Bool, Scalar::Float(0.5)), 1);
        assert_eq!(pattern(DType::I32, Scalar::Int(-1)), u64::from(u32::MAX));
        assert_eq!(pattern(DType::F16, Scalar::Int(1)), 0x3c00);
        assert_eq!(pattern(DType::F32, Scalar::Bool(true)), u64::from(1f32.to_bits()));
    }
}
