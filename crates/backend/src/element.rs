//! The Rust types of elements: the trait [`Element`].

use std::fmt;

use crate::{
    dtype::DType,
    error::{ErrorKind, Result},
    half::round_to_odd,
    host::HostVec,
    scalar::Scalar,
};

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be an element of a tensor. Sealed: implemented for those of
/// [`dtype_table!`](crate::dtype_table).
pub trait Element:
    sealed::Sealed
    + bytemuck::NoUninit
    + bytemuck::CheckedBitPattern
    + fmt::Debug
    + PartialEq
    + Default
    + Send
    + Sync
    + 'static
{
    /// The matching run-time type.
    const DTYPE: DType;
    /// The value as a [`Scalar`]; floats widen to `f64`, integers to `i64`.
    fn to_scalar(self) -> Scalar;
    /// Converts as Rust's `as` does: floats are rounded or truncated, integers wrap, nonzero is `true`.
    fn from_scalar(value: Scalar) -> Self;
    /// Wraps a vector without copying it.
    fn into_host(values: Vec<Self>) -> HostVec;
    /// Makes a vector of `len` elements, whose bytes `read` writes. For `bool` any byte but 0 becomes `true`.
    ///
    /// # Errors
    /// What `read` returns, or [`ErrorKind::OutOfMemory`](ErrorKind::OutOfMemory).
    fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>>;
}

/// Zeroed memory, lazily from the system where possible, or an error if there is not enough.
fn zeros<T: bytemuck::Zeroable>(len: usize) -> Result<Vec<T>> {
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| {
        let requested = len.saturating_mul(size_of::<T>());
        let detail = "the allocator has no such block".to_owned();
        ErrorKind::OutOfMemory { device: "cpu".into(), requested, detail }.into()
    })
}

macro_rules! read_vec {
    (Bool, $len:ident, $read:ident) => {{
        let mut bytes: Vec<u8> = zeros($len)?;
        $read(&mut bytes)?;
        let mut values: Vec<bool> = zeros($len)?;
        values.iter_mut().zip(bytes).for_each(|(value, byte)| *value = byte != 0);
        Ok(values)
    }};
    ($other:ident, $len:ident, $read:ident) => {{
        let mut values: Vec<Self> = zeros($len)?;
        $read(bytemuck::cast_slice_mut(&mut values))?;
        Ok(values)
    }};
}

macro_rules! element {
    (|$v:ident| $to:expr, |$s:ident| $from:expr; $($ty:ty, $dtype:ident;)*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn to_scalar(self) -> Scalar { let $v = self; $to }
            fn from_scalar($s: Scalar) -> Self { $from as Self }
            fn into_host(values: Vec<Self>) -> HostVec { HostVec::$dtype(values) }
            fn read_vec(len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<Vec<Self>> {
                read_vec!($dtype, len, read)
            }
        }
    )*};
}

macro_rules! elements {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        element! { |v| Scalar::Float(v.into()), |s| s.to_f64(); $($f, $float;)* }
        $(element! { |v| Scalar::Float(v.to_f64()), |s| crate::half::$h::from_f32(round_to_odd(s.to_f64())); crate::half::$h, $half; })*
        element! { |v| Scalar::Int(v.into()), |s| s.to_i64(); $($i, $int;)* }
        element! { |v| Scalar::Bool(v), |s| s.to_bool(); bool, Bool; }
    };
}
crate::dtype_table!(elements);

impl DType {
    /// The number of bits of a float's significand, including the implicit one: 24 for `f32`; 0 for other dtypes. Integers
    /// of at most this many bits are exact, and `2^(1 - bits)` is the distance from 1 to the next number.
    #[must_use]
    pub fn significand_bits(self) -> u32 {
        let is_one = |bits: u32| {
            let value = Scalar::Float(1.0 + 2f64.powi(-(bits as i32)));
            crate::dispatch_dtype!(self, T => T::from_scalar(value).to_scalar().to_f64()) == 1.0
        };
        if self.is_float() {
            (1..=f64::MANTISSA_DIGITS).find(|&bits| is_one(bits)).unwrap_or(f64::MANTISSA_DIGITS)
        } else {
            0
        }
    }

    /// The largest value of a floating-point dtype that is below a bound.
    #[must_use]
    pub fn largest_below(self, bound: f64) -> f64 {
        fn of<T: Element>(bound: f64) -> f64 {
            let nearest = T::from_scalar(Scalar::Float(bound));
            let value = |x: T| x.to_scalar().to_f64();
            if value(nearest) < bound {
                return value(nearest);
            }
            // The bits are a sign and a magnitude.
            let size = size_of::<T>();
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(bytemuck::bytes_of(&nearest));
            let (bits, sign) = (u64::from_le_bytes(bytes), 1 << (8 * size - 1));
            let below = match bits {
                0 => sign | 1,
                _ if bits == sign => sign | 1,
                _ if bits & sign == 0 => bits - 1,
                _ => bits + 1,
            };
            bytemuck::checked::try_pod_read_unaligned(&below.to_le_bytes()[..size]).map_or(f64::NAN, value)
        }
        crate::dispatch_dtype!(self, T => of::<T>(bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::half::{bf16, f16};

    #[test]
    fn numbers_are_rounded_once() {
        // Above the middle of two neighbors by less than `f32` resolves, and by the last bit that it does.
        for tail in [2f64.powi(-23), 2f64.powi(-40)] {
            for sign in [1.0, -1.0] {
                let number = |bits: i32| Scalar::Float(sign * (1.0 + 2f64.powi(-bits) + tail));
                assert_eq!(bf16::from_scalar(number(8)).to_f64(), sign * (1.0 + 2f64.powi(-7)), "{tail}");
                assert_eq!(f16::from_scalar(number(11)).to_f64(), sign * (1.0 + 2f64.powi(-10)), "{tail}");
            }
        }
        assert_eq!(bf16::from_scalar(Scalar::Float(1.0 + 2f64.powi(-8))).to_f64(), 1.0);
        assert_eq!(f16::from_scalar(Scalar::Float(1.0 + 2f64.powi(-11))).to_f64(), 1.0);
        assert!(
            f16::from_scalar(Scalar::Float(f64::NAN)).is_nan() && bf16::from_scalar(Scalar::Float(f64::NAN)).is_nan()
        );
        assert_eq!(f16::from_scalar(Scalar::Float(1e9)), f16::INFINITY);
        assert_eq!(bf16::from_scalar(Scalar::Float(-1e300)), bf16::NEG_INFINITY);
    }

    #[test]
    fn significands() {
        for (dtype, bits) in
            [(DType::F64, 53), (DType::F32, 24), (DType::F16, 11), (DType::BF16, 8), (DType::I32, 0), (DType::Bool, 0)]
        {
            assert_eq!(dtype.significand_bits(), bits, "{dtype}");
        }
    }

    #[test]
    fn the_next_smaller_value() {
        for (dtype, below_1) in [
            (DType::F16, f16::from_bits(0x3bff).to_f64()),
            (DType::BF16, bf16::from_bits(0x3f7f).to_f64()),
            (DType::F32, f64::from(1f32.next_down())),
            (DType::F64, 1f64.next_down()),
        ] {
            assert_eq!(dtype.largest_below(1.0), below_1);
            assert!(dtype.largest_below(0.0) < 0.0 && dtype.largest_below(-0.0) < 0.0);
            assert!(dtype.largest_below(-1.0) < -1.0);
        }
        assert_eq!(DType::BF16.largest_below(0.0), bf16::from_bits(0x8001).to_f64());
        assert_eq!(DType::BF16.largest_below(1.001), 1.0);
        assert_eq!(DType::BF16.largest_below(1.01), 1.007_812_5);
        assert_eq!(DType::F32.largest_below(0.1), f64::from(0.1f32.next_down()));
    }
}
