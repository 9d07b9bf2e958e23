//! The tables of element-wise operations: **one line here adds one operation to Kiln's Rust side**.
//!
//! A table is a macro that hands all its lines to the macro named by the caller. This crate makes the
//! enums `UnaryOp` and `BinaryOp` from it, `kiln-cpu` the kernels, `kiln-tensor` the methods, their
//! documentation and their autograd nodes.
//!
//! The formulas are generic over a real type `T` (`f32`, `f64`; half precision is computed in `f32`), which
//! has the methods of Rust's floats, `sign`, and `T::of(0.5)` for constants. A gradient formula gets
//! the incoming gradient `g` and says which tensors it reads, so that nothing else is saved.

/// Element-wise functions of one tensor:
/// `Variant method "grad_fn name" |x| value, saves (input | output | nothing), |g, s| gradient, "doc";`
/// where `s` is what was saved.
#[macro_export]
macro_rules! unary_table {
    ($expand:path) => {
        $expand! {
            Neg neg "NegBackward0" |x| -x, nothing, |g, s| -g, "`-x`.";
            Abs abs "AbsBackward0" |x| x.abs(), input, |g, s| g * s.sign(), "`|x|`; its gradient at 0 is 0.";
            Sign sign "SignBackward0" |x| x.sign(), nothing, |g, s| T::of(0.0) * g, "-1, 0 or 1 (0 of NaN, as in PyTorch); the gradient is 0.";
            Square square "PowBackward0" |x| x * x, input, |g, s| g * (s + s), "`x * x`.";
            Reciprocal reciprocal "ReciprocalBackward0" |x| T::of(1.0) / x, output, |g, s| -g * s * s, "`1 / x`.";
            Sqrt sqrt "SqrtBackward0" |x| x.sqrt(), output, |g, s| g / (s + s), "Square root; NaN below 0.";
            Rsqrt rsqrt "RsqrtBackward0" |x| T::of(1.0) / x.sqrt(), output, |g, s| T::of(-0.5) * g * s * s * s, "`1 / sqrt(x)`.";
            Exp exp "ExpBackward0" |x| x.exp(), output, |g, s| g * s, "`e^x`.";
            Exp2 exp2 "Exp2Backward0" |x| x.exp2(), output, |g, s| g * s * T::of(std::f64::consts::LN_2), "`2^x`.";
            Expm1 expm1 "Expm1Backward0" |x| x.exp_m1(), output, |g, s| g * (s + T::of(1.0)), "`e^x - 1`, exact near 0.";
            Log log "LogBackward0" |x| x.ln(), input, |g, s| g / s, "Natural logarithm; NaN below 0, `-inf` at 0.";
            Log2 log2 "Log2Backward0" |x| x.log2(), input, |g, s| g / (s * T::of(std::f64::consts::LN_2)), "Logarithm to base 2.";
            Log10 log10 "Log10Backward0" |x| x.log10(), input, |g, s| g / (s * T::of(std::f64::consts::LN_10)), "Logarithm to base 10.";
            Log1p log1p "Log1PBackward0" |x| x.ln_1p(), input, |g, s| g / (s + T::of(1.0)), "`log(1 + x)`, exact near 0.";
            Sin sin "SinBackward0" |x| x.sin(), input, |g, s| g * s.cos(), "Sine of an angle in radians.";
            Cos cos "CosBackward0" |x| x.cos(), input, |g, s| -g * s.sin(), "Cosine of an angle in radians.";
            Tan tan "TanBackward0" |x| x.tan(), output, |g, s| g * (T::of(1.0) + s * s), "Tangent of an angle in radians.";
            Asin asin "AsinBackward0" |x| x.asin(), input, |g, s| g / (T::of(1.0) - s * s).sqrt(), "Inverse sine, in radians.";
            Acos acos "AcosBackward0" |x| x.acos(), input, |g, s| -g / (T::of(1.0) - s * s).sqrt(), "Inverse cosine, in radians.";
            Atan atan "AtanBackward0" |x| x.atan(), input, |g, s| g / (T::of(1.0) + s * s), "Inverse tangent, in radians.";
            Sinh sinh "SinhBackward0" |x| x.sinh(), input, |g, s| g * s.cosh(), "Hyperbolic sine.";
            Cosh cosh "CoshBackward0" |x| x.cosh(), input, |g, s| g * s.sinh(), "Hyperbolic cosine.";
            Tanh tanh "TanhBackward0" |x| x.tanh(), output, |g, s| g * (T::of(1.0) - s * s), "Hyperbolic tangent.";
            Sigmoid sigmoid "SigmoidBackward0" |x| x.sigmoid(), output, |g, s| g * s * (T::of(1.0) - s), "`1 / (1 + exp(-x))`.";
            Relu relu "ReluBackward0" |x| if x <= T::of(0.0) { T::of(0.0) } else { x }, output, |g, s| if s <= T::of(0.0) { T::of(0.0) } else { g }, "`max(x, 0)`; NaN stays NaN, and the gradient at 0 is 0.";
            Gelu gelu "GeluBackward0" |x| T::of(0.5) * x * (T::of(1.0) + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()), input, |g, s| g * (T::of(0.5) * (T::of(1.0) + (s * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()) + s * T::of(0.398_942_280_401_432_7) * (T::of(-0.5) * s * s).exp()), "Gaussian error linear unit `x * Φ(x)` (Hendrycks & Gimpel, 2016).";
            GeluTanh gelu_tanh "GeluBackward0" |x| x.gelu_tanh(), input, |g, s| g * s.gelu_tanh_slope(), "GELU by its tanh approximation (PyTorch's `approximate='tanh'`).";
            Silu silu "SiluBackward0" |x| x * x.sigmoid(), input, |g, s| g * s.sigmoid() * (T::of(1.0) + s * (T::of(1.0) - s.sigmoid())), "`x * sigmoid(x)`, also called swish.";
            Softplus softplus "SoftplusBackward0" |x| x.softplus(), input, |g, s| g * s.sigmoid(), "`log(1 + exp(x))`, without overflow.";
            LogSigmoid log_sigmoid "LogSigmoidBackward0" |x| -(-x).softplus(), input, |g, s| g * (-s).sigmoid(), "`log(sigmoid(x))`, without underflow.";
            Erf erf "ErfBackward0" |x| x.erf(), input, |g, s| g * T::of(std::f64::consts::FRAC_2_SQRT_PI) * (-s * s).exp(), "Error function.";
            Floor floor "FloorBackward0" |x| x.floor(), nothing, |g, s| T::of(0.0) * g, "Rounds down; the gradient is 0.";
            Ceil ceil "CeilBackward0" |x| x.ceil(), nothing, |g, s| T::of(0.0) * g, "Rounds up; the gradient is 0.";
            Round round "RoundBackward0" |x| x.round_ties_even(), nothing, |g, s| T::of(0.0) * g, "Rounds to the nearest integer, halves to even; the gradient is 0.";
            Trunc trunc "TruncBackward0" |x| x.trunc(), nothing, |g, s| T::of(0.0) * g, "Rounds towards 0; the gradient is 0.";
        }
    };
}

/// Element-wise functions of two operands, each a tensor or a number:
/// `Variant method "grad_fn name" |a, b| value, |g, a, b| gradient of a, |g, a, b| gradient of b, "doc";`
/// Division of integers and comparison are not here: `kiln-tensor` maps the first to floats, the second
/// has no gradient.
#[macro_export]
macro_rules! binary_table {
    ($expand:path) => {
        $expand! {
            Add add "AddBackward0" |a, b| a + b, |g, a, b| g, |g, a, b| g, "`a + b`.";
            Sub sub "SubBackward0" |a, b| a - b, |g, a, b| g, |g, a, b| -g, "`a - b`.";
            Mul mul "MulBackward0" |a, b| a * b, |g, a, b| g * b, |g, a, b| g * a, "`a * b`.";
            Div div "DivBackward0" |a, b| a / b, |g, a, b| g / b, |g, a, b| -g * (a / b) / b, "`a / b`; integers are divided as `f32`.";
            Pow pow "PowBackward0" |a, b| a.powf(b), |g, a, b| if b == T::of(0.0) { T::of(0.0) } else { g * b * a.powf(b - T::of(1.0)) }, |g, a, b| if a == T::of(0.0) && b >= T::of(0.0) { T::of(0.0) } else { g * a.powf(b) * a.ln() }, "`a^b`.";
            Maximum maximum "MaximumBackward0" |a, b| a.maximum(b), |g, a, b| if a == b { g * T::of(0.5) } else if a < b { T::of(0.0) } else { g }, |g, a, b| if a == b { g * T::of(0.5) } else if b < a { T::of(0.0) } else { g }, "The larger one; NaN if either is. Equal operands share the gradient; at NaN both get all of it.";
            Minimum minimum "MinimumBackward0" |a, b| a.minimum(b), |g, a, b| if a == b { g * T::of(0.5) } else if a > b { T::of(0.0) } else { g }, |g, a, b| if a == b { g * T::of(0.5) } else if b > a { T::of(0.0) } else { g }, "The smaller one; NaN if either is. Equal operands share the gradient; at NaN both get all of it.";
            Atan2 atan2 "Atan2Backward0" |a, b| a.atan2(b), |g, a, b| g * b / (a * a + b * b), |g, a, b| -g * a / (a * a + b * b), "The angle of the point `(b, a)`, in radians.";
            Remainder remainder "RemainderBackward0" |a, b| a - b * (a / b).floor(), |g, a, b| g, |g, a, b| -g * (a / b).floor(), "Python's `a % b`: the sign is that of `b`.";
        }
    };
}
