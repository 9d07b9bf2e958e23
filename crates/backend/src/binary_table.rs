//! The element-wise operations of two operands, each a tensor or a number: **one row is one operation, on every
//! device**.
//!
//! Two compilers read this file, as they do the table of unary operations (unary_table.rs explains how):
//!
//! ```text
//! BINARY(Variant, method, "documentation",
//!        cost, value, integers,
//!        "grad_fn name", cost, gradient of a, gradient of b)
//! COMPARISON(Variant, method, "documentation", value)
//! BITWISE(Variant, method, "documentation", value)
//! ```
//!
//! - `BINARY`: formulas in `a`, `b` and, for the gradients, the incoming gradient `g`. Where a formula over integers is
//!   not defined for all operands, its function takes `status`, to which it reports them. A `pow` whose exponent is a
//!   number rather than a tensor avoids logarithms where it can.
//! - `COMPARISON`: takes elements of any dtype and returns truth values. (`a > b` is `b < a`.)
//! - `BITWISE`: takes integers and truth values (those that are arithmetic, such as `gcd`, integers only); no gradient.
//!
//! Division of integers is not in the table: `kiln-tensor` converts them to floats.

/// Passes the names that the formulas use, `(R a b g status)`, and all rows of the table to the macro `$expand`.
// \
#[macro_export] macro_rules! binary_table { ($expand:path) => { $expand! { (R a b g status)

BINARY(Add, add, "`a + b`.",
       CHEAP, a + b, ints(add(a, b)),
       "AddBackward0", CHEAP, g, g)
BINARY(Sub, sub, "`a - b`.",
       CHEAP, a - b, ints(sub(a, b)),
       "SubBackward0", CHEAP, g, -g)
BINARY(Mul, mul, "`a * b`.",
       CHEAP, a * b, ints(mul(a, b)),
       "MulBackward0", CHEAP, g * b, g * a)
BINARY(Div, div, "`a / b`; integers are divided as `f32`.",
       CHEAP, a / b, floats_only,
       "DivBackward0", COSTLY, g / b, -g * (a / b) / b)
BINARY(Pow, pow, "`a^b`.",
       COSTLY, pow(a, b), ints(pow(a, b, status)),
       "PowBackward0", COSTLY, select(b == R(0.0), R(0.0), g * b * pow(a, b - R(1.0))),
                               select(a == R(0.0) && b >= R(0.0), R(0.0), g * pow(a, b) * log(a)))
BINARY(Maximum, maximum, "The larger one; NaN if either is. Equal operands share the gradient; at NaN both get all of it.",
       CHEAP, maximum(a, b), ints(maximum(a, b)),
       "MaximumBackward0", CHEAP, select(a == b, g * R(0.5), select(a < b, R(0.0), g)),
                                  select(a == b, g * R(0.5), select(b < a, R(0.0), g)))
BINARY(Minimum, minimum, "The smaller one; NaN if either is. Equal operands share the gradient; at NaN both get all of it.",
       CHEAP, minimum(a, b), ints(minimum(a, b)),
       "MinimumBackward0", CHEAP, select(a == b, g * R(0.5), select(a > b, R(0.0), g)),
                                  select(a == b, g * R(0.5), select(b > a, R(0.0), g)))
BINARY(Atan2, atan2, "The angle of the point `(b, a)`, in radians; its gradients at `(0, 0)` are 0.",
       COSTLY, atan2(a, b), floats_only,
       "Atan2Backward0", COSTLY, select(a * a + b * b == R(0.0), R(0.0), g * b / (a * a + b * b)),
                                 select(a * a + b * b == R(0.0), R(0.0), -g * a / (a * a + b * b)))
BINARY(Remainder, remainder, "Python's `a % b`, exact: the sign is that of `b`.",
       COSTLY, remainder(a, b), ints(remainder(a, b, status)),
       "RemainderBackward0", COSTLY, g, -g * floor_divide(a, b))
BINARY(Fmod, fmod, "C's `fmod(a, b)`, exact: the sign is that of `a`.",
       COSTLY, fmod(a, b), ints(fmod(a, b, status)),
       "FmodBackward0", COSTLY, g, -g * trunc(a / b))
BINARY(FloorDivide, floor_divide, "Python's `a // b`: `a / b`, rounded down. Integers stay integers; the gradient is 0.",
       COSTLY, floor_divide(a, b), ints(floor_divide(a, b, status)),
       "DivBackward2", CHEAP, R(0.0), R(0.0))
BINARY(TruncDivide, trunc_divide, "`a / b`, rounded towards 0. Integers stay integers; the gradient is 0.",
       CHEAP, trunc(a / b), ints(trunc_divide(a, b, status)),
       "DivBackward2", CHEAP, R(0.0), R(0.0))

BINARY(Polygamma, polygamma, "The derivative of order `b` of the digamma function at `a`; the order is rounded down, and NaN is the result where it is negative.",
       COSTLY, polygamma(a, b), floats_only,
       "PolygammaBackward0", COSTLY, g * polygamma(a, b + R(1.0)), R(0.0))

COMPARISON(Eq, eq, "Whether `a == b`.", a == b)
COMPARISON(Ne, ne, "Whether `a != b`.", a != b)
COMPARISON(Lt, lt, "Whether `a < b`.", a < b)
COMPARISON(Le, le, "Whether `a <= b`.", a <= b)

BITWISE(And, bitwise_and, "Bitwise AND of integers or truth values.", a & b)
BITWISE(Or, bitwise_or, "Bitwise OR of integers or truth values.", a | b)
BITWISE(Xor, bitwise_xor, "Bitwise XOR of integers or truth values.", a ^ b)
BITWISE(ShiftLeft, bitwise_left_shift, "`a << b` of integers; 0 where `b` is negative or at least the number of bits.", shift_left(a, b))
BITWISE(ShiftRight, bitwise_right_shift, "`a >> b` of integers, filling with the sign bit; all sign bits where `b` is negative or at least the number of bits.", shift_right(a, b))
BITWISE(Gcd, gcd, "The greatest common divisor of integers, not negative; that of 0 and 0 is 0.", gcd(a, b))
BITWISE(Lcm, lcm, "The least common multiple of integers, not negative; 0 where one is 0.", lcm(a, b))

// \
}}}
