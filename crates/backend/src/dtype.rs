//! Element types at run time: [`DType`], and macros that go from one to its Rust type.

use std::fmt;

macro_rules! dtype_enum {
    (() $($kind:ident($variant:ident, $name:ident, $torch:ident, $size:literal, $rank:literal, $doc:literal))*) => {
        /// The type of a tensor's elements. Names and meaning are PyTorch's
        /// (<https://docs.pytorch.org/docs/stable/tensor_attributes.html>). Made from [`dtype_table!`](crate::dtype_table).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DType { $(#[doc = $doc] $variant,)* }

        impl DType {
            /// All element types, in the order of the table.
            pub const ALL: [DType; [$(DType::$variant),*].len()] = [$(DType::$variant),*];

            /// Its row number in the table.
            #[must_use]
            pub const fn row(self) -> usize {
                self as usize
            }

            /// Size of one element in bytes.
            #[must_use]
            pub const fn size(self) -> usize {
                match self { $(DType::$variant => $size,)* }
            }

            /// The name: that of the Rust type.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => stringify!($name),)* }
            }

            /// PyTorch's name without `torch.`, e.g. `float32`.
            #[must_use]
            pub const fn torch_name(self) -> &'static str {
                match self { $(DType::$variant => stringify!($torch),)* }
            }

            /// Whether it is one of the floating-point types.
            #[must_use]
            pub const fn is_float(self) -> bool {
                match self { $(DType::$variant => is_float!($kind),)* }
            }

            /// Whether it is one of the floating-point types that are computed as `f32`.
            #[must_use]
            pub const fn is_half(self) -> bool {
                match self { $(DType::$variant => is_half!($kind),)* }
            }

            /// Whether it is one of the integer types (not `bool`).
            #[must_use]
            pub const fn is_int(self) -> bool {
                match self { $(DType::$variant => is_int!($kind),)* }
            }

            const fn rank(self) -> usize {
                match self { $(DType::$variant => $rank,)* }
            }
        }
    };
}

macro_rules! is_float {
    (FLOAT) => {
        true
    };
    (HALF) => {
        true
    };
    ($other:ident) => {
        false
    };
}

macro_rules! is_half {
    (HALF) => {
        true
    };
    ($other:ident) => {
        false
    };
}

macro_rules! is_int {
    (INT) => {
        true
    };
    ($other:ident) => {
        false
    };
}
crate::dtype_table!(dtype_enum);

impl DType {
    /// The type in which elements of this dtype are computed and summed: `f32` for half precision, else the dtype
    /// itself.
    #[must_use]
    pub const fn accumulator(self) -> DType {
        if self.is_half() { DType::F32 } else { self }
    }

    /// The smallest dtype that both can be converted to, PyTorch's `promote_types`: floats win over integers, integers
    /// over `bool`, and the wider dtype over the narrower one of its kind. `f16` and `bf16` promote to `f32`.
    #[must_use]
    pub const fn promote(self, other: DType) -> DType {
        if self.row() != other.row() && self.rank() == other.rank() {
            DType::F32
        } else if self.rank() < other.rank() {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Passes the Rust types of all dtypes to the macro `$expand`: `$expand!(f32 f64 …)`.
#[macro_export]
macro_rules! for_each_element {
    ($($expand:ident)::+) => {
        $crate::dtype_table!($crate::element_rows, $($expand)::+);
    };
}

/// The list of [`for_each_element!`].
#[doc(hidden)]
#[macro_export]
macro_rules! element_rows {
    (($($expand:ident)::+)
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        $($expand)::+!($($f)* $($crate::half::$h)* $($i)* bool);
    };
}

/// Runs `$body` with the name `$T` standing for the Rust type of a [`DType`].
#[macro_export]
macro_rules! dispatch_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::dtype_table!($crate::dispatch_rows, $dtype, $T, $body)
    };
}

/// The arms of [`dispatch_dtype!`].
#[doc(hidden)]
#[macro_export]
macro_rules! dispatch_rows {
    (($dtype:expr, $T:ident, $body:expr)
        $(FLOAT($float:ident, $f:ident, $($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        match $dtype {
            $($crate::DType::$float => { type $T = $f; $body })*
            $($crate::DType::$half => { type $T = $crate::half::$h; $body })*
            $($crate::DType::$int => { type $T = $i; $body })*
            $crate::DType::Bool => { type $T = bool; $body }
        }
    };
}
