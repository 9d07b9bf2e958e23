//! `HostVec`: host memory of any element type, on its way to or from a device.

use crate::dtype::DType;

macro_rules! host_vec {
    (()
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        /// A vector of one of the element types: what a backend adopts when a tensor is made from host data.
        #[derive(Clone, Debug)]
        #[allow(missing_docs)] // one variant an element type
        pub enum HostVec {
            $($float(Vec<$f>),)*
            $($half(Vec<crate::half::$h>),)*
            $($int(Vec<$i>),)*
            Bool(Vec<bool>),
        }

        impl HostVec {
            /// The elements as writable bytes in native order; `None` for `bool`, for which not every byte is valid.
            #[must_use]
            pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
                match self {
                    $(HostVec::$float(v) => Some(bytemuck::cast_slice_mut(v)),)*
                    $(HostVec::$half(v) => Some(bytemuck::cast_slice_mut(v)),)*
                    $(HostVec::$int(v) => Some(bytemuck::cast_slice_mut(v)),)*
                    HostVec::Bool(_) => None,
                }
            }
        }
    };
}
crate::dtype_table!(host_vec);

/// Runs `$body` with `$v` bound to the vector inside, whatever its type.
macro_rules! each {
    ($host:expr, $v:ident => $body:expr) => {
        crate::dtype_table!(each_row, $host, $v, $body)
    };
}

macro_rules! each_row {
    (($host:expr, $v:ident, $body:expr) $($kind:ident($variant:ident, $($rest:tt)*))*) => {
        match $host { $(HostVec::$variant($v) => $body,)* }
    };
}

macro_rules! dtype_of {
    (($host:expr) $($kind:ident($variant:ident, $($rest:tt)*))*) => {
        match $host { $(HostVec::$variant(_) => DType::$variant,)* }
    };
}

impl HostVec {
    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        crate::dtype_table!(dtype_of, self)
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
