//! Starts kernels for the primitives: found by family, operation and dtype, with typed arguments.

use kiln_backend::{DType, Error, Result};

use crate::launch::{Config, Family, Kernel};

/// What tells the kernels of one operation apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tag {
    /// The dtype.
    Of(DType),
    /// The size of the dtype, where elements are only moved.
    Bits(DType),
}

impl Tag {
    pub(crate) fn of(dtype: DType) -> Tag {
        Tag::Of(dtype)
    }

    pub(crate) fn bits(dtype: DType) -> Tag {
        Tag::Bits(dtype)
    }

    /// The kernel of a family.
    ///
    /// # Errors
    /// If the operation is not defined for the dtype.
    pub(crate) fn find<K>(self, family: &Family<K>, op: &'static str) -> Result<Kernel<K>> {
        let (found, dtype) = match self {
            Tag::Of(dtype) => (family.get(op, dtype), dtype),
            Tag::Bits(dtype) => (family.bits(op, dtype), dtype),
        };
        found.ok_or_else(|| Error::dtype(op, dtype, "convert the operands with `to_dtype`"))
    }
}

/// A bare number of blocks means blocks of the usual size.
impl From<u32> for Config {
    fn from(blocks: u32) -> Config {
        Config::linear(blocks)
    }
}

/// `launch!(device, FAMILY, op, tag, config, arguments…)`: queues the kernel `family_op_tag`.
///
/// This is sound if each argument is an address from a [`Tensor`](crate::view::Tensor) (which is in bounds, and may be
/// written if it was made from a `ViewMut`), null where the kernels' README allows it, or memory from
/// [`scratch`](crate::Device::scratch) of the size that the README gives, and if the grid describes the shape that all
/// of them were checked to have. All primitives keep to that.
macro_rules! launch {
    ($device:expr, $family:ident, $op:expr, $tag:expr, $config:expr, $($argument:expr),+ $(,)?) => {{
        let kernel = $tag.find(&$crate::launch::$family, $op)?;
        let config: $crate::launch::Config = $config.into();
        kernel.launch(($($argument,)+), |number, arguments| {
            // SAFETY: the arguments have the types of the kernel's parameters (the tuple would not compile otherwise),
            // and what they point to is as described above.
            unsafe { $device.start(number, config, arguments) }
        })
    }};
}
pub(crate) use launch;
