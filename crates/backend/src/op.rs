//! Descriptors of operations, as they are handed to a [`Backend`](crate::Backend).

use crate::{DType, Scalar};

/// Which tensor the gradient of an element-wise function reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// The function's input.
    Input,
    /// Its output.
    Output,
    /// None.
    Nothing,
}

/// What an element-wise function does with integers.
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
        /// An element-wise function of one tensor. Made from [`unary_table!`](crate::unary_table).
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

            /// What it does with integers.
            #[must_use]
            pub fn integers(self) -> Integers {
                match self { $(UnaryOp::$variant => integers!($ints),)* }
            }

            /// Whether the arithmetic of the value takes longer than reading and writing memory.
            #[must_use]
            pub fn is_costly(self) -> bool {
                match self { $(UnaryOp::$variant => is_costly!($cost),)* }
            }

            /// Whether the arithmetic of the gradient takes longer than reading and writing memory.
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
        /// An element-wise function of two operands. Made from [`binary_table!`](crate::binary_table).
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
            /// Those that give truth values.
            pub const COMPARISONS: &'static [BinaryOp] = &[$(BinaryOp::$compared,)* BinaryOp::Gt, BinaryOp::Ge];
            /// Those of the bits of integers and of truth values.
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

            /// Whether it combines the bits of integers or truth values.
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

            /// Whether the arithmetic of the value takes longer than reading and writing memory.
            #[must_use]
            pub fn is_costly(self) -> bool {
                match self {
                    $(BinaryOp::$variant => is_costly!($cost),)*
                    _ => false,
                }
            }

            /// Whether the arithmetic of the gradients takes longer than reading and writing memory.
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

/// A reduction of some dimensions to one value each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReduceOp {
    /// Sum; 0 of nothing. Integers and `bool` are summed as `i64`, half precision as `f32`.
    Sum,
    /// Arithmetic mean of floats; NaN of nothing.
    Mean,
    /// Product; 1 of nothing. Integers as `i64`.
    Prod,
    /// Largest value; NaN if there is one. Not of nothing.
    Max,
    /// Smallest value; NaN if there is one. Not of nothing.
    Min,
    /// Whether any is nonzero, as `bool`.
    Any,
    /// Whether all are nonzero, as `bool`.
    All,
    /// Variance with the divisor `max(n - correction, 0)`, in two passes.
    Var {
        /// Bessel's correction is 1.
        correction: f64,
    },
    /// `log(sum(exp(x)))` without overflow; `-inf` of nothing.
    LogSumExp,
}

/// A reduction of one dimension to the position of one element. NaN counts as the largest for `Max` and as
/// the smallest for `Min`; of equal elements the first is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgReduceOp {
    /// The position of the largest element.
    Max,
    /// The position of the smallest element.
    Min,
}

/// What `scatter` does with the elements that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScatterMode {
    /// Overwrites. With repeated indices the last one in row-major order wins.
    Set,
    /// Adds, in row-major order (so the result is deterministic).
    Add,
}

/// A distribution to draw from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Reals in `[low, high)`: `low + u * (high - low)`, where `u` is the fraction made of the draw's top bits,
    /// as many as the dtype's significand has (24 for `f32`, 53, 11, 8); a result that rounds to `high` or above
    /// becomes the number below it.
    Uniform {
        /// The smallest value.
        low: f64,
        /// The bound that is not reached.
        high: f64,
    },
    /// The normal distribution (Box & Muller, 1958). Elements `2 i` and `2 i + 1` are `mean + std * r cos(2 pi b)`
    /// and `mean + std * r sin(2 pi b)` with `r = sqrt(-2 ln a)`: `a = (k + 1) / 2^24` where `k` is the top 24
    /// bits of the first's draw (53 of 64 for `f64`), and `b = k / 2^24` with those of the second's. Half
    /// precision is computed as `f32`. `normal.rs` of the CPU backend spells out the functions.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// 1 with probability `p`, else 0; any dtype.
    Bernoulli {
        /// Probability of 1.
        p: f64,
    },
    /// Integers in `low..high`, `low + (draw * (high - low)) / 2^64`; any dtype that can hold them.
    Integers {
        /// The smallest value.
        low: i64,
        /// The bound that is not reached.
        high: i64,
    },
}

/// A position in the Philox-4x32-10 stream (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
/// 2011). Counter block `offset + i` yields four 32-bit words; every backend maps element number and block
/// alike, so one seed gives the same numbers on every device.
///
/// Elements are numbered in row-major order of the output's shape. A 32-bit draw (`f32`, half precision,
/// Bernoulli, dropout) uses word `n % 4` of block `n / 4`; a 64-bit draw (`f64`, integers) uses words
/// `2 (n % 2)` (low half) and `2 (n % 2) + 1` (high half) of block `n / 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomState {
    /// The key.
    pub seed: u64,
    /// The first counter block.
    pub offset: u64,
}

impl RandomState {
    /// How many counter blocks `numel` draws use, with `words` 32-bit words (1 or 2) a draw.
    #[must_use]
    pub fn blocks(numel: usize, words: usize) -> u64 {
        (numel as u64).div_ceil(4 / words as u64)
    }
}

impl Distribution {
    /// How many 32-bit words a draw into `dtype` uses.
    #[must_use]
    pub fn words(&self, dtype: DType) -> usize {
        match self {
            Distribution::Integers { .. } => 2,
            Distribution::Bernoulli { .. } => 1,
            Distribution::Uniform { .. } | Distribution::Normal { .. } => 1 + usize::from(dtype == DType::F64),
        }
    }
}

/// Bounds of `arange`-like fills: element `i` is `start + i * step`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// The first element.
    pub start: Scalar,
    /// The difference of neighbours.
    pub step: Scalar,
}
