//! The element-wise operations of one tensor: **one row is one operation, on every device**.
//!
//! Two compilers read this file: Rust as this module, and C++ as kernels/unary_table.cuh, a symbolic link to it. They
//! see the same rows. Lines for Rust alone follow a comment that ends in a backslash: C++ continues the comment on the
//! next line, Rust does not.
//!
//! ```text
//! UNARY(Variant, method, "documentation",
//!       cost, value, integers,
//!       "grad_fn name", saved, cost, gradient)
//! ```
//!
//! - `value` is a formula in `x`, of type `R`: `f32` (also for half precision) or `f64`. A constant is written
//!   `R(0.5)`, a conditional `select(condition, a, b)`; functions are those of `functions` in kiln-cpu's real.rs and of
//!   kernels/real.cuh.
//! - `integers` is what the operation does with integers, whose arithmetic wraps: `ints(formula)` in `x` with the
//!   functions of kiln-cpu's int.rs and of kernels/integer.cuh, `ints_unchanged`, or `floats_only`.
//! - `gradient` is a formula in `g`, the incoming gradient, and `s`, which is the operation's `input`, its `output` or
//!   `nothing`, as `saved` says: the tape keeps nothing else.
//! - The two costs, of the value and of the gradient, are `CHEAP` if memory access dominates, else `COSTLY`: a GPU
//!   thread then takes one element at a time, and the CPU gives each thread fewer elements.

/// Passes the names that the formulas use, `(R x g s)`, and all rows of the table to the macro `$expand`.
// \
#[macro_export] macro_rules! unary_table { ($expand:path) => { $expand! { (R x g s)

UNARY(Neg, neg, "`-x`.",
      CHEAP, -x, ints(neg(x)),
      "NegBackward0", nothing, CHEAP, -g)
UNARY(Abs, abs, "`|x|`; its gradient at 0 is 0.",
      CHEAP, abs(x), ints(abs(x)),
      "AbsBackward0", input, CHEAP, g * sign(s))
UNARY(Sign, sign, "-1, 0 or 1 (0 of NaN, as in PyTorch); the gradient is 0.",
      CHEAP, sign(x), ints(sign(x)),
      "SignBackward0", nothing, CHEAP, R(0.0))
UNARY(Square, square, "`x * x`.",
      CHEAP, x * x, ints(mul(x, x)),
      "PowBackward0", input, CHEAP, g * (s + s))
UNARY(Reciprocal, reciprocal, "`1 / x`.",
      CHEAP, R(1.0) / x, floats_only,
      "ReciprocalBackward0", output, CHEAP, -g * s * s)
UNARY(Sqrt, sqrt, "Square root; NaN below 0.",
      CHEAP, sqrt(x), floats_only,
      "SqrtBackward0", output, COSTLY, g / (s + s))
UNARY(Rsqrt, rsqrt, "`1 / sqrt(x)`.",
      CHEAP, R(1.0) / sqrt(x), floats_only,
      "RsqrtBackward0", output, CHEAP, R(-0.5) * g * s * s * s)
UNARY(Exp, exp, "`e^x`.",
      COSTLY, exp(x), floats_only,
      "ExpBackward0", output, CHEAP, g * s)
UNARY(Exp2, exp2, "`2^x`.",
      COSTLY, exp2(x), floats_only,
      "Exp2Backward0", output, CHEAP, g * s * R(LN_2))
UNARY(Expm1, expm1, "`e^x - 1`, accurate near 0.",
      COSTLY, expm1(x), floats_only,
      "Expm1Backward0", output, CHEAP, g * (s + R(1.0)))
UNARY(Log, log, "Natural logarithm; NaN below 0, `-inf` at 0.",
      COSTLY, log(x), floats_only,
      "LogBackward0", input, CHEAP, g / s)
UNARY(Log2, log2, "Logarithm to base 2.",
      COSTLY, log2(x), floats_only,
      "Log2Backward0", input, COSTLY, g / (s * R(LN_2)))
UNARY(Log10, log10, "Logarithm to base 10.",
      COSTLY, log10(x), floats_only,
      "Log10Backward0", input, COSTLY, g / (s * R(LN_10)))
UNARY(Log1p, log1p, "`log(1 + x)`, accurate near 0.",
      COSTLY, log1p(x), floats_only,
      "Log1PBackward0", input, CHEAP, g / (s + R(1.0)))
// CUDA's library looks up bits of pi for huge angles, which takes a few dozen bytes of local memory in the kernels of
// sin, cos and tan. Ordinary angles do not access it.
UNARY(Sin, sin, "Sine of an angle in radians.",
      COSTLY, sin(x), floats_only,
      "SinBackward0", input, COSTLY, g * cos(s))
UNARY(Cos, cos, "Cosine of an angle in radians.",
      COSTLY, cos(x), floats_only,
      "CosBackward0", input, COSTLY, -g * sin(s))
UNARY(Tan, tan, "Tangent of an angle in radians.",
      COSTLY, tan(x), floats_only,
      "TanBackward0", output, CHEAP, g * (R(1.0) + s * s))
UNARY(Asin, asin, "Inverse sine, in radians.",
      COSTLY, asin(x), floats_only,
      "AsinBackward0", input, COSTLY, g / sqrt(R(1.0) - s * s))
UNARY(Acos, acos, "Inverse cosine, in radians.",
      COSTLY, acos(x), floats_only,
      "AcosBackward0", input, COSTLY, -g / sqrt(R(1.0) - s * s))
UNARY(Atan, atan, "Inverse tangent, in radians.",
      COSTLY, atan(x), floats_only,
      "AtanBackward0", input, COSTLY, g / (R(1.0) + s * s))
UNARY(Sinh, sinh, "Hyperbolic sine.",
      COSTLY, sinh(x), floats_only,
      "SinhBackward0", input, COSTLY, g * cosh(s))
UNARY(Cosh, cosh, "Hyperbolic cosine.",
      COSTLY, cosh(x), floats_only,
      "CoshBackward0", input, COSTLY, g * sinh(s))
UNARY(Asinh, asinh, "Inverse hyperbolic sine.",
      COSTLY, asinh(x), floats_only,
      "AsinhBackward0", input, COSTLY, g / sqrt(s * s + R(1.0)))
UNARY(Acosh, acosh, "Inverse hyperbolic cosine; NaN below 1.",
      COSTLY, acosh(x), floats_only,
      "AcoshBackward0", input, COSTLY, g / sqrt(s * s - R(1.0)))
UNARY(Atanh, atanh, "Inverse hyperbolic tangent; infinite at -1 and 1, NaN beyond.",
      COSTLY, atanh(x), floats_only,
      "AtanhBackward0", input, COSTLY, g / (R(1.0) - s * s))
UNARY(Tanh, tanh, "Hyperbolic tangent.",
      COSTLY, tanh(x), floats_only,
      "TanhBackward0", output, CHEAP, g * (R(1.0) - s * s))
UNARY(Sigmoid, sigmoid, "`1 / (1 + exp(-x))`.",
      COSTLY, sigmoid(x), floats_only,
      "SigmoidBackward0", output, CHEAP, g * s * (R(1.0) - s))
UNARY(Relu, relu, "`max(x, 0)`; NaN stays NaN, and the gradient at 0 is 0.",
      CHEAP, select(x <= R(0.0), R(0.0), x), ints(maximum(x, R(0))),
      "ReluBackward0", output, CHEAP, select(s <= R(0.0), R(0.0), g))
UNARY(Gelu, gelu, "Gaussian error linear unit `x * Φ(x)` (Hendrycks & Gimpel, 2016).",
      COSTLY, gelu(x), floats_only,
      "GeluBackward0", input, COSTLY, g * gelu_slope(s))
UNARY(GeluTanh, gelu_tanh, "GELU by its tanh approximation (PyTorch's `approximate='tanh'`).",
      COSTLY, gelu_tanh(x), floats_only,
      "GeluBackward0", input, COSTLY, g * gelu_tanh_slope(s))
UNARY(Silu, silu, "`x * sigmoid(x)`, also called swish.",
      COSTLY, x * sigmoid(x), floats_only,
      "SiluBackward0", input, COSTLY, g * sigmoid(s) * (R(1.0) + s * (R(1.0) - sigmoid(s))))
UNARY(Mish, mish, "`x * tanh(softplus(x))` (Misra, 2019).",
      COSTLY, x * tanh(softplus(x)), floats_only,
      "MishBackward0", input, COSTLY, g * (tanh(softplus(s))
                                           + s * sigmoid(s) * (R(1.0) - tanh(softplus(s)) * tanh(softplus(s)))))
UNARY(Softplus, softplus, "`log(1 + exp(x))`, without overflow.",
      COSTLY, softplus(x), floats_only,
      "SoftplusBackward0", input, COSTLY, g * sigmoid(s))
UNARY(LogSigmoid, log_sigmoid, "`log(sigmoid(x))`, without underflow.",
      COSTLY, -softplus(-x), floats_only,
      "LogSigmoidBackward0", input, COSTLY, g * sigmoid(-s))
UNARY(Selu, selu, "`1.0507 * (x > 0 ? x : 1.6733 * (exp(x) - 1))` (Klambauer et al., 2017).",
      COSTLY, select(x <= R(0.0), R(SELU_SLOPE) * expm1(x), R(SELU_SCALE) * x), floats_only,
      "EluBackward0", input, COSTLY, g * select(s <= R(0.0), R(SELU_SLOPE) * exp(s), R(SELU_SCALE)))
UNARY(Relu6, relu6, "`min(max(x, 0), 6)`; the gradient at 0 and 6 is 0.",
      CHEAP, select(x <= R(0.0), R(0.0), select(x >= R(6.0), R(6.0), x)), ints(minimum(maximum(x, R(0)), R(6))),
      "HardtanhBackward0", input, CHEAP, select(s <= R(0.0) || s >= R(6.0), R(0.0), g))
UNARY(Hardsigmoid, hardsigmoid, "`min(max(x + 3, 0), 6) / 6`; the gradient at -3 and 3 is 0.",
      CHEAP, select(x <= R(-3.0), R(0.0), select(x >= R(3.0), R(1.0), (x + R(3.0)) / R(6.0))), floats_only,
      "HardsigmoidBackward0", input, CHEAP, select(s > R(-3.0) && s < R(3.0), g / R(6.0), R(0.0)))
UNARY(Hardswish, hardswish, "`x * min(max(x + 3, 0), 6) / 6` (Howard et al., 2019).",
      CHEAP, x * select(x <= R(-3.0), R(0.0), select(x >= R(3.0), R(1.0), (x + R(3.0)) / R(6.0))), floats_only,
      "HardswishBackward0", input, CHEAP, select(s <= R(-3.0), R(0.0), select(s < R(3.0), g * (s / R(3.0) + R(0.5)), g)))
UNARY(Softsign, softsign, "`x / (1 + |x|)`.",
      CHEAP, x / (R(1.0) + abs(x)), floats_only,
      "DivBackward0", input, COSTLY, g / ((R(1.0) + abs(s)) * (R(1.0) + abs(s))))
UNARY(Tanhshrink, tanhshrink, "`x - tanh(x)`.",
      COSTLY, x - tanh(x), floats_only,
      "SubBackward0", input, COSTLY, g * tanh(s) * tanh(s))
UNARY(Erf, erf, "Error function.",
      COSTLY, erf(x), floats_only,
      "ErfBackward0", input, COSTLY, g * R(FRAC_2_SQRT_PI) * exp(-s * s))
UNARY(Erfc, erfc, "Complementary error function, `1 - erf(x)`, accurate also where it is near 0.",
      COSTLY, erfc(x), floats_only,
      "ErfcBackward0", input, COSTLY, -g * R(FRAC_2_SQRT_PI) * exp(-s * s))
UNARY(Erfinv, erfinv, "Inverse of the error function; infinite at -1 and 1, NaN beyond.",
      COSTLY, erfinv(x), floats_only,
      "ErfinvBackward0", input, COSTLY, g / R(FRAC_2_SQRT_PI) * exp(erfinv(s) * erfinv(s)))
UNARY(Lgamma, lgamma, "`log(|Γ(x)|)`; infinite at 0 and the negative integers.",
      COSTLY, lgamma(x), floats_only,
      "LgammaBackward0", input, COSTLY, g * digamma(s))
UNARY(Digamma, digamma, "The derivative of `log(Γ(x))`; infinite at 0, NaN at the negative integers.",
      COSTLY, digamma(x), floats_only,
      "DigammaBackward0", input, COSTLY, g * polygamma(s, R(1.0)))
UNARY(I0, i0, "Modified Bessel function of the first kind, of order 0.",
      COSTLY, i0(x), floats_only,
      "I0Backward0", input, COSTLY, g * i1(s))
UNARY(I1, i1, "Modified Bessel function of the first kind, of order 1.",
      COSTLY, i1(x), floats_only,
      "SpecialI1Backward0", input, COSTLY, select(s == R(0.0), g * R(0.5), g * (i0(s) - i1(s) / s)))
UNARY(Floor, floor, "Rounds down; the gradient is 0.",
      CHEAP, floor(x), ints_unchanged,
      "FloorBackward0", nothing, CHEAP, R(0.0))
UNARY(Ceil, ceil, "Rounds up; the gradient is 0.",
      CHEAP, ceil(x), ints_unchanged,
      "CeilBackward0", nothing, CHEAP, R(0.0))
UNARY(Round, round, "Rounds to the nearest integer, halves to even; the gradient is 0.",
      CHEAP, rint(x), ints_unchanged,
      "RoundBackward0", nothing, CHEAP, R(0.0))
UNARY(Trunc, trunc, "Rounds towards 0; the gradient is 0.",
      CHEAP, trunc(x), ints_unchanged,
      "TruncBackward0", nothing, CHEAP, R(0.0))

// \
}}}
