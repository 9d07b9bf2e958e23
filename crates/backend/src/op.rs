//! Descriptors of operations, as they are passed to a [`Backend`](crate::Backend).

use crate::{
    dtype::DType,
    error::{Error, Result},
};

/// Which tensor the gradient of a unary operation reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The operation's input.
    Input,
    /// The operation's output.
    Output,
    /// Neither.
    Nothing,
}

/// What a unary operation does with integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integers {
    /// It maps them to integers.
    Computed,
    /// It leaves them as they are.
    Unchanged,
    /// It does not take them.
    Refused,
}

macro_rules! saved {
    (input) => {
        Saved::Input
    };
    (output) => {
        Saved::Output
    };
    (nothing) => {
        Saved::Nothing
    };
}

macro_rules! integers {
    (ints) => {
        Integers::Computed
    };
    (ints_unchanged) => {
        Integers::Unchanged
    };
    (floats_only) => {
        Integers::Refused
    };
}

macro_rules! is_costly {
    (CHEAP) => {
        false
    };
    (COSTLY) => {
        true
    };
}

macro_rules! unary_enum {
    ($names:tt $(UNARY(
        $variant:ident, $method:ident, $doc:literal,
        $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
        $node:literal, $saved:ident, $grad_cost:ident, $gradient:expr
    ))*) => {
        /// An element-wise operation of one tensor. Made from [`unary_table!`](crate::unary_table).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum UnaryOp { $(#[doc = $doc] $variant,)* }

        impl UnaryOp {
            /// All of them, in the order of the table.
            pub const ALL: &'static [UnaryOp] = &[$(UnaryOp::$variant,)*];

            /// The name of the tensor's method.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(UnaryOp::$variant => stringify!($method),)* }
            }

            /// The name of the tape's node, as PyTorch has it.
            #[must_use]
            pub const fn node_name(self) -> &'static str {
                match self { $(UnaryOp::$variant => $node,)* }
            }

            /// The tensor that the gradient reads.
            #[must_use]
            pub fn saved(self) -> Saved {
                match self { $(UnaryOp::$variant => saved!($saved),)* }
            }

            /// What the operation does with integers.
            #[must_use]
            pub fn integers(self) -> Integers {
                match self { $(UnaryOp::$variant => integers!($ints),)* }
            }

            /// Whether computing the value takes longer than reading and writing memory.
            #[must_use]
            pub fn is_costly(self) -> bool {
                match self { $(UnaryOp::$variant => is_costly!($cost),)* }
            }

            /// Whether computing the gradient takes longer than reading and writing memory.
            #[must_use]
            pub fn has_costly_gradient(self) -> bool {
                match self { $(UnaryOp::$variant => is_costly!($grad_cost),)* }
            }
        }
    };
}
crate::unary_table!(unary_enum);

macro_rules! binary_enum {
    ($names:tt
     $(BINARY(
        $variant:ident, $method:ident, $doc:literal,
        $cost:ident, $value:expr, $ints:ident $(($int:expr))?,
        $node:literal, $grad_cost:ident, $lhs:expr, $rhs:expr
     ))*
     $(COMPARISON($compared:ident, $compare:ident, $compare_doc:literal, $($compare_row:tt)*))*
     $(BITWISE($combined:ident, $combine:ident, $combine_doc:literal, $($combine_row:tt)*))*
    ) => {
        /// An element-wise operation of two operands. Made from [`binary_table!`](crate::binary_table).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum BinaryOp {
            $(#[doc = $doc] $variant,)*
            $(#[doc = $compare_doc] $compared,)*
            /// Whether `a > b`.
            Gt,
            /// Whether `a >= b`.
            Ge,
            $(#[doc = $combine_doc] $combined,)*
        }

        impl BinaryOp {
            /// Those with a gradient, in the order of the table.
            pub const ARITHMETIC: &'static [BinaryOp] = &[$(BinaryOp::$variant,)*];
            /// The comparisons, which return truth values.
            pub const COMPARISONS: &'static [BinaryOp] = &[$(BinaryOp::$compared,)* BinaryOp::Gt, BinaryOp::Ge];
            /// The bitwise operations, on integers and truth values.
            pub const BITWISE: &'static [BinaryOp] = &[$(BinaryOp::$combined,)*];

            /// The name of the tensor's method.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(BinaryOp::$variant => stringify!($method),)*
                    $(BinaryOp::$compared => stringify!($compare),)*
                    BinaryOp::Gt => "gt",
                    BinaryOp::Ge => "ge",
                    $(BinaryOp::$combined => stringify!($combine),)*
                }
            }

            /// The name of the tape's node, as PyTorch has it; empty for those without a gradient.
            #[must_use]
            pub const fn node_name(self) -> &'static str {
                match self {
                    $(BinaryOp::$variant => $node,)*
                    _ => "",
                }
            }

            /// Whether the result is `bool` whatever the operands are.
            #[must_use]
            pub fn is_comparison(self) -> bool {
                BinaryOp::COMPARISONS.contains(&self)
            }

            /// Whether it is a bitwise operation.
            #[must_use]
            pub fn is_bitwise(self) -> bool {
                BinaryOp::BITWISE.contains(&self)
            }

            /// Whether it maps integers to integers.
            #[must_use]
            pub fn takes_integers(self) -> bool {
                match self {
                    $(BinaryOp::$variant => integers!($ints) != Integers::Refused,)*
                    _ => true,
                }
            }

            /// Checks that the operation supports operands of this dtype: comparisons support all, bitwise operations
            /// integers and bools, arithmetic floats and, where there is a formula, integers.
            ///
            /// # Errors
            /// [`ErrorKind::DType`](crate::ErrorKind::DType) if it does not.
            pub fn takes(self, dtype: DType) -> Result<()> {
                let expected = match dtype {
                    _ if self.is_comparison() => return Ok(()),
                    DType::Bool if self.is_bitwise() => return Ok(()),
                    DType::Bool => "it takes numbers",
                    dtype if dtype.is_float() && self.is_bitwise() => "it takes integer and bool tensors",
                    dtype if dtype.is_int() && !self.takes_integers() => "it takes floating-point tensors",
                    _ => return Ok(()),
                };
                Err(Error::dtype(self.name(), dtype, expected))
            }

            /// Whether computing the value takes longer than reading and writing memory.
            #[must_use]
            pub fn is_costly(self) -> bool {
                match self {
                    $(BinaryOp::$variant => is_costly!($cost),)*
                    _ => false,
                }
            }

            /// Whether computing the gradients takes longer than reading and writing memory.
            #[must_use]
            pub fn has_costly_gradient(self) -> bool {
                match self {
                    $(BinaryOp::$variant => is_costly!($grad_cost),)*
                    _ => false,
                }
            }
        }
    };
}
crate::binary_table!(binary_enum);

/// One of the two operands of a binary operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideOf {
    /// The first, `a`.
    Lhs,
    /// The second, `b`.
    Rhs,
}
