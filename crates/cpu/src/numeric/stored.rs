//! The element types as they are stored, and the types that they are computed in.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use kiln_backend::{DType, Element, Scalar};

use crate::numeric::number::Number;

/// A truth value in memory. Not a `bool`: recycled memory may hold any byte, and that must not be undefined
/// behavior. Any nonzero byte reads as true; only 0 and 1 are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct Truth(pub(crate) u8);

/// An element type as it is stored.
pub(crate) trait Stored: Pod + Send + Sync {
    /// The matching run-time type.
    const DTYPE: DType;
    /// Whether memory can be used directly: `Compute` is `Self`.
    const DIRECT: bool;
    /// The compute type: `f32` for half precision, a byte of 0 or 1 for truth values.
    type Compute: Pod + Number + Send + Sync;
    /// The unsigned integer of the same size, as which elements are moved: code that ignores values is compiled for
    /// four sizes instead of eight types.
    type Bits: Pod + Send + Sync;
    fn load(self) -> Self::Compute;
    /// Rounds to the nearest (ties to even).
    fn store(value: Self::Compute) -> Self;
    /// Converts as Rust's `as` does.
    fn from_scalar(value: Scalar) -> Self;
    /// A number for arithmetic: not rounded to the stored type.
    fn number(value: Scalar) -> Self::Compute {
        Self::from_scalar(value).load()
    }
    /// [`load`](Stored::load) of a slice.
    #[inline(always)]
    fn load_slice(from: &[Self], to: &mut [Self::Compute]) {
        for (from, to) in from.iter().zip(to) {
            *to = from.load();
        }
    }
    /// [`store`](Stored::store) of a slice.
    #[inline(always)]
    fn store_slice(from: &[Self::Compute], to: &mut [Self]) {
        for (from, to) in from.iter().zip(to) {
            *to = Self::store(*from);
        }
    }
}

macro_rules! bits {
    (1) => {
        u8
    };
    (2) => {
        u16
    };
    (4) => {
        u32
    };
    (8) => {
        u64
    };
}

macro_rules! direct {
    ($($ty:ty as $bits:ty,)*) => {$(
        impl Stored for $ty {
            const DTYPE: DType = <$ty as Element>::DTYPE;
            const DIRECT: bool = true;
            type Compute = $ty;
            type Bits = $bits;
            #[inline(always)]
            fn load(self) -> $ty {
                self
            }
            #[inline(always)]
            fn store(value: $ty) -> $ty {
                value
            }
            fn from_scalar(value: Scalar) -> $ty {
                Element::from_scalar(value)
            }
        }
    )*};
}

macro_rules! direct_rows {
    (()
        $(FLOAT($float:ident, $f:ident, $float_name:ident, $float_size:tt, $($float_rest:tt)*))*
        $(HALF($($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $int_name:ident, $int_size:tt, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        direct!($($f as bits!($float_size),)* $($i as bits!($int_size),)*);
    };
}
kiln_backend::dtype_table!(direct_rows);

impl Stored for Truth {
    const DTYPE: DType = DType::Bool;
    const DIRECT: bool = false;
    type Compute = u8;
    type Bits = u8;
    #[inline(always)]
    fn load(self) -> u8 {
        u8::from(self.0 != 0)
    }
    #[inline(always)]
    fn store(value: u8) -> Truth {
        Truth(u8::from(value != 0))
    }
    fn from_scalar(value: Scalar) -> Truth {
        Truth(u8::from(value.to_bool()))
    }
}

impl Stored for bf16 {
    const DTYPE: DType = DType::BF16;
    const DIRECT: bool = false;
    type Compute = f32;
    type Bits = u16;
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn store(value: f32) -> bf16 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) >> 16;
        // Rounding could carry a NaN's payload into infinity or zero.
        let nan = (bits >> 16) | 0x40;
        bf16::from_bits(if value.is_nan() { nan } else { rounded } as u16)
    }
    fn from_scalar(value: Scalar) -> bf16 {
        bf16::store(value.to_f64().f32_odd())
    }
    fn number(value: Scalar) -> f32 {
        Element::from_scalar(value)
    }
}

/// `half` decides at run time whether the CPU converts in hardware: fine for slices, but slow for single elements,
/// which are therefore converted by plain arithmetic. Both round alike.
impl Stored for f16 {
    const DTYPE: DType = DType::F16;
    const DIRECT: bool = false;
    type Compute = f32;
    type Bits = u16;
    #[inline(always)]
    fn load(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let sign = (bits & 0x8000) << 16;
        let magnitude = (bits & 0x7FFF) << 13;
        // Multiplying by 2^112 corrects the exponent's bias and normalizes subnormals.
        let finite = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
        let special = f32::from_bits(magnitude | 0x7F80_0000);
        let value = if magnitude >= 0x0F80_0000 { special } else { finite };
        f32::from_bits(sign | value.to_bits())
    }
    #[inline(always)]
    fn store(value: f32) -> f16 {
        let sign = (value.to_bits() >> 16) & 0x8000;
        let magnitude = value.to_bits() & 0x7FFF_FFFF;
        // Normal results: rebias the exponent by -112 and round the 13 lost bits, ties to even. From 65520
        // on this reaches infinity.
        let odd = (magnitude >> 13) & 1;
        let normal = (magnitude.wrapping_sub(112 << 23).wrapping_add(0xFFF + odd)) >> 13;
        let normal = if magnitude >= 0x4780_0000 { 0x7C00 } else { normal };
        // Subnormal results: adding 0.5 makes the FPU round at the right bit.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3F00_0000);
        let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
        let nan = 0x7E00 | ((magnitude >> 13) & 0x3FF);
        let bits = if magnitude > 0x7F80_0000 { nan } else { finite };
        f16::from_bits((sign | bits) as u16)
    }
    fn from_scalar(value: Scalar) -> f16 {
        f16::store(value.to_f64().f32_odd())
    }
    fn number(value: Scalar) -> f32 {
        Element::from_scalar(value)
    }
    fn load_slice(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(&mut to[..from.len()]);
    }
    fn store_slice(from: &[f32], to: &mut [f16]) {
        to[..from.len()].convert_from_f32_slice(from);
    }
}

/// A half-precision type that matrix products read and write as `f32`, with the CPU's conversion instructions if it has
/// them.
pub(crate) trait Half: Copy {
    fn widen(self) -> f32;
    fn narrow(value: f32) -> Self;
    /// Converts a slice; `from` and `to` must have the same length.
    fn widen_slice(from: &[Self], to: &mut [f32]);
}

macro_rules! half {
    ($($h:ty)*) => {$(
        impl Half for $h {
            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }
            #[inline(always)]
            fn narrow(value: f32) -> $h {
                <$h>::from_f32(value)
            }
            #[inline(always)]
            fn widen_slice(from: &[$h], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }
        }
    )*};
}
half!(f16 bf16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(h.load().to_bits() == h.to_f32().to_bits() || h.is_nan() && h.load().is_nan(), "{bits:#x}");
            assert!(b.load().to_bits() == b.to_f32().to_bits() || b.is_nan() && b.load().is_nan(), "{bits:#x}");
            if !h.is_nan() {
                assert_eq!(f16::store(h.load()).to_bits(), bits);
            }
        }
        // Every 997th float, both signs, and the neighborhood of each rounding boundary.
        for bits in (0..u32::MAX).step_by(997) {
            let v = f32::from_bits(bits);
            if v.is_nan() {
                assert!(f16::store(v).is_nan() && bf16::store(v).is_nan());
            } else {
                assert_eq!(f16::store(v).to_bits(), f16::from_f32(v).to_bits(), "{v:e}");
                assert_eq!(bf16::store(v).to_bits(), bf16::from_f32(v).to_bits(), "{v:e}");
            }
        }
        for h in (0..0x7C00u16).map(f16::from_bits) {
            let next = f16::from_bits(h.to_bits() + 1);
            if next.is_infinite() {
                continue;
            }
            let tie = (h.to_f32() + next.to_f32()) / 2.0;
            for v in [tie, f32::from_bits(tie.to_bits() - 1), f32::from_bits(tie.to_bits() + 1)] {
                assert_eq!(f16::store(v).to_bits(), f16::from_f32(v).to_bits(), "{v:e}");
            }
        }
        for v in [65504.0f32, 65519.996, 65520.0, 65536.0, 1e30, f32::INFINITY] {
            assert_eq!(f16::store(v).to_bits(), f16::from_f32(v).to_bits(), "{v:e}");
        }
    }

    #[test]
    fn slices_convert_as_single_elements_do() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| !h.is_nan()).collect();
        let mut wide = vec![0.0; all.len()];
        f16::load_slice(&all, &mut wide);
        assert!(all.iter().zip(&wide).all(|(h, w)| h.load().to_bits() == w.to_bits()));
        let values: Vec<f32> = (0..u32::MAX).step_by(99_991).map(f32::from_bits).filter(|v| !v.is_nan()).collect();
        let mut narrow = vec![f16::ZERO; values.len()];
        f16::store_slice(&values, &mut narrow);
        assert!(values.iter().zip(&narrow).all(|(v, n)| f16::store(*v).to_bits() == n.to_bits()));
    }

    #[test]
    fn truth_reads_any_byte() {
        assert_eq!((Truth(7).load(), Truth::store(9), Truth(0).load()), (1, Truth(1), 0));
        assert_eq!(Truth::from_scalar(Scalar::Float(0.5)), Truth(1));
    }
}
