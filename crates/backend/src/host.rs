//! Host memory of any element type, on its way into or out of a device.

use half::{bf16, f16};

use crate::{DType, Element};

/// A vector of one of the element types: what a backend adopts when a tensor is made from host data.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // one variant an element type
pub enum HostVec {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// Runs `$body` with `$v` bound to the vector inside, whatever its type.
macro_rules! each {
    ($host:expr, $v:ident => $body:expr) => {
        match $host {
            HostVec::F32($v) => $body,
            HostVec::F64($v) => $body,
            HostVec::F16($v) => $body,
            HostVec::BF16($v) => $body,
            HostVec::I64($v) => $body,
            HostVec::I32($v) => $body,
            HostVec::U8($v) => $body,
            HostVec::Bool($v) => $body,
        }
    };
}

impl HostVec {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        fn of<T: Element>(_: &[T]) -> DType {
            T::DTYPE
        }
        each!(self, v => of(v))
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        each!(self, v => v.len())
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as bytes in native order.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        each!(self, v => bytemuck::cast_slice(v))
    }
}
