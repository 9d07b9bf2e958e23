//! The list of intended differences from PyTorch, with reasons.

use crate::suite::Unlike;

/// Operations of the golden files that are no methods of tensors.
pub const ABSENT: &[(&str, &str)] =
    &[("smooth_l1_loss", LOSS), ("huber_loss", LOSS), ("binary_cross_entropy", LOSS), ("triplet_margin_loss", LOSS)];

const LOSS: &str = "a loss of kiln-nn, whose tests read the file as well";

macro_rules! unlike {
    ($($op:literal $case:literal $reports:literal: $why:expr;)*) => {
        &[$(Unlike { op: $op, case: $case, reports: $reports, why: $why }),*]
    };
}

/// Layers compute on floats; images and features of integers are converted once, by the user.
const FLOATS: &str = "layers take floats: integers are converted where the data are loaded";
const POWERS: &str = "PyTorch gives 0 for integers to negative powers, and an error if the power is a number";
const SATURATES: &str = "floats outside of an integer's range: C leaves open what becomes of them, here they saturate";
const SAVED_OUTPUT: &str =
    "from the saved, rounded output, as PyTorch does: which is nearer, by half a unit, is chance";
const ROUNDING: &str = "the gradient of a normalized single element is 0; PyTorch has what rounding leaves";
const VECTORS: &str =
    "at NaN the gradient passes; PyTorch's does, or does not, by dtype and by where the element lies in a vector";
const FRACTIONS: &str = "PyTorch drops the fraction of a factor of integers; here it is an error";
const SCORES: &str =
    "scores of some hundreds: both round them, PyTorch's results are as far from f64's (up to 5.6e-5 in f32)";

const UNREAD: &str = "with a beta of 0 the tensor is not read, so it has no gradient; PyTorch's is 0";
const CANCELS: &str = "large terms cancel, so that only rounding errors in f32 are left, Kiln's and PyTorch's";

const INFINITE: &str = "where PyTorch multiplies 0 by infinity and gets NaN";

const POLES: &str = "at poles of the polygamma functions infinity, where PyTorch divides by the rounded sine of a multiple of pi; of \
                     large negative numbers that sine costs it 4 digits in f32, 7 in f64";
const BESSEL: &str = "at infinity the limit, infinity, where PyTorch divides infinity by infinity";

const LIMITS: &str = "at infinity, and in PyTorch wherever the exponential of a difference overflows, its formula divides infinity by \
                      infinity; here it is the limit, 0";
const JUMPS: &str = "0 where the slope is 1 or -1 on both sides; PyTorch differentiates a quotient that is constant, and has what \
                     rounding leaves, or NaN";
const SERIES: &str =
    "the terms cancel near 0: here they are computed in f64, or by a series, with the limit at 0 where PyTorch has NaN";
const ROUNDED: &str = "PyTorch rounds the product with a number to half precision in between";

const CUBIC: &str =
    "terms of cubic weights cancel: both are as far from f64's results, by 2 to 4 millionths of the largest";

/// Among the cases that are checked in; each is used.
pub const UNLIKE: &[Unlike] = unlike! {
    "all" "*" "dtype bool": "PyTorch's answer is u8 for u8, which it calls history; here it is always bool";
    "any" "*" "dtype bool": "PyTorch's answer is u8 for u8, which it calls history; here it is always bool";
    "einsum" "*" "dtype": "a product of integers keeps its dtype, also where PyTorch finds that only a sum is asked for";
    "*" "*" "factorizations of matrices are computed on the CPU": "the error of other devices";
    "*" "*" "truth values cannot be added": "counting truth values by index needs integers; PyTorch ors them";
    "mse_loss" "mse_loss_broadcast_mean" "refused": "a target of another shape is almost always a mistake";
    "byte" "*" "output": SATURATES;
    "batch_norm" "*" "2 to 5 dimensions": "a vector without elements has no dimension of channels";
    "layer_norm" "*" "gradient": ROUNDING;
    "avg_pool2d" "*" "takes floats": FLOATS;
    "linear" "*" "takes floats": FLOATS;
    "avg_pool1d" "*" "takes floats": FLOATS;
    "im2col" "*" "takes floats": FLOATS;
    "avg_pool3d" "*" "takes floats": FLOATS;
    "conv1d" "*" "takes floats": FLOATS;
    "conv3d" "*" "takes floats": FLOATS;
    "conv_transpose1d" "*" "takes floats": FLOATS;
    "local_response_norm" "*" "takes floats": FLOATS;
    "pairwise_distance" "*" "takes floats": FLOATS;
    "matrix_power" "*" "requires_grad": "the identity, which does not depend on the matrix";
    "matrix_power" "*" "inverse": "matrices are not inverted yet";
    "rpow" "*" "negative powers": POWERS;
    "i0" "*edges" "expected NaN": BESSEL;
    "i1" "*edges" "expected NaN": BESSEL;
};

/// Among all of OpInfo's samples.
pub const UNLIKE_SAMPLES: &[Unlike] = unlike! {
    "*" "*" "more than 8 dimensions": "tensors have at most 8 dimensions";
    "int" "*" "output": SATURATES;
    "long" "*" "output": SATURATES;
    "expm1" "float16*" "gradient": SAVED_OUTPUT;
    "tan" "float16*" "gradient": SAVED_OUTPUT;
    "conv2d" "*" "takes floats": FLOATS;
    "conv_transpose2d" "*" "takes floats": FLOATS;
    "max_pool2d" "*" "takes floats": FLOATS;
    "conv_transpose3d" "*" "takes floats": FLOATS;
    "max_pool1d" "*" "takes floats": FLOATS;
    "max_pool3d" "*" "takes floats": FLOATS;
    "pow" "*" "negative powers": POWERS;
    "scatter" "*" "reduce": "deprecated in PyTorch, but for `add`, which is scatter_add";
    "addbmm" "*" "no gradient": UNREAD;
    "addbmm" "*" "must be integers": FRACTIONS;
    "addmv" "*" "must be integers": FRACTIONS;
    "baddbmm" "*" "must be integers": FRACTIONS;
    "bilinear" "*" "takes floats": FLOATS;
    "msort" "*" "gradient": "which of several equal elements comes first is not determined, and so neither is which has a gradient";
    "corrcoef" "bfloat16*" "gradient": "it is 0, of terms that cancel; rounding leaves 0.004";
    "baddbmm" "*" "no gradient": UNREAD;
    "cdist" "float32*" "second derivative": CANCELS;
    "conv3d" "float32*" "gradient": CANCELS;
    "conv_transpose3d" "float32*" "gradient": CANCELS;
    "cov" "float32*" "input 1": CANCELS;
    "cov" "float16*" "second derivative of input 1": CANCELS;
    "cov" "bfloat16*" "second derivative of input 1": CANCELS;
    "cov" "float64*" "element": "PyTorch adds up weights of f32 in f32";
    "cumprod" "float32*" "second derivative": CANCELS;
    "grid_sample" "float32*" "gradient": CUBIC;
    "grid_sample" "float32*" "second derivative": CUBIC;
    "logcumsumexp" "float32*" "gradient": CANCELS;
    "normalize" "float32*" "second derivative": CANCELS;
    "*" "*" "dtype complex": "there are no complex numbers";
    "celu" "float64*" "gradient": "PyTorch takes alpha as f32 has it";
    "celu" "*" "gradient": VECTORS;
    "hardshrink" "*" "gradient": VECTORS;
    "hardtanh" "*" "gradient": VECTORS;
    "relu6" "*" "gradient": VECTORS;
    "selu" "*" "gradient": VECTORS;
    "softshrink" "*" "gradient": VECTORS;
    "hardsigmoid" "float64*" "gradient": "PyTorch multiplies by 1/6 as f32 has it";
    "hardtanh" "uint8*" "output": "PyTorch wraps the bound -1 around to 255";
    "softmin" "uint8*" "output": "PyTorch negates bytes before it converts them";
    "softsign" "*" "gradient": "at infinity the limit, 0; PyTorch's two steps give NaN";
    "scaled_dot_product_attention" "float32*" "element": SCORES;
    "scaled_dot_product_attention" "float16*" "gradient": SCORES;
    "scaled_dot_product_attention" "bfloat16*" "gradient": SCORES;
    "selu" "*" "second derivative": "at 0, where the slope jumps, that of the left side; PyTorch has 0";
    "mish" "*" "second derivative": "at infinity the limit, 0; PyTorch has NaN";
    "atan2" "*" "second derivative": INFINITE;
    "pow" "*" "second derivative": INFINITE;
    "rpow" "*" "second derivative": INFINITE;
    "i0" "*" "expected NaN": BESSEL;
    "i1" "*" "expected NaN": BESSEL;
    "i1" "float32*" "second derivative": CANCELS;
    "digamma" "*" "gradient": POLES;
    "lgamma" "*" "second derivative": POLES;
    "mvlgamma" "*" "second derivative": POLES;
    "polygamma" "float32*" "element": POLES;
    "polygamma" "float64*" "gradient": POLES;
    "polygamma" "float64*" "expected NaN": "at infinity the limit, 0, where PyTorch's zeta function has NaN";
    "addcdiv" "float*" "of input 2": ROUNDED;
    "copysign" "*" "second derivative": JUMPS;
    "float_power" "*" "second derivative": INFINITE;
    "logaddexp" "*" "second derivative": LIMITS;
    "sinc" "*" "second derivative": SERIES;
    "sinc" "float32*" "gradient": SERIES;
    "elu" "*" "gradient": "at NaN, PyTorch's gradient is NaN in whole vectors and the incoming one in what is left over; here NaN";
};

/// Those of linear algebra.
#[cfg(feature = "linalg")]
pub const UNLIKE_LINALG: &[Unlike] = unlike! {
    "cholesky_inverse" "*" "gradient": TRIANGLE;
    "cholesky_solve" "*" "gradient of input 1": TRIANGLE;
};
#[cfg(feature = "linalg")]
const TRIANGLE: &str = "the triangle that is not read has no gradient; PyTorch's formula fills it";
#[cfg(not(feature = "linalg"))]
pub const UNLIKE_LINALG: &[Unlike] = &[];
