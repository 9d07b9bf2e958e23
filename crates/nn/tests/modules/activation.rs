//! Rows of the module tests: activations.

use kiln_nn::{
    CELU, ELU, GELU, GLU, Hardshrink, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish, PReLU,
    RReLU, ReLU, ReLU6, SELU, SiLU, Sigmoid, Softmax, Softmax2d, Softmin, Softplus, Softshrink, Softsign, Tanh,
    Tanhshrink, Threshold,
};

use crate::{case::Row, unary_rows};

/// A layer that prints `inplace=True` if the sample asks for it.
macro_rules! maybe_inplace {
    ($case:ident, $layer:expr) => {
        if $case.flag("inplace", false) { $layer.inplace() } else { $layer }
    };
}

pub const ROWS: &[Row] = unary_rows! {
    CELU |case| maybe_inplace!(case, CELU::new(case.float("alpha", 1.0)));
    ELU |case| maybe_inplace!(case, ELU::new(case.float("alpha", 1.0)));
    GELU |case| if case.option("approximate") == Some("tanh") { GELU::tanh() } else { GELU::new() };
    GLU |case| GLU::new(case.int("dim", -1));
    Hardshrink |case| Hardshrink::new(case.float("lambd", 0.5));
    Hardsigmoid |_case| Hardsigmoid::new();
    Hardswish |_case| Hardswish::new();
    Hardtanh |case| maybe_inplace!(case, Hardtanh::new(case.float("min_val", -1.0), case.float("max_val", 1.0)));
    LeakyReLU |case| maybe_inplace!(case, LeakyReLU::new(case.float("negative_slope", 0.01)));
    LogSigmoid |_case| LogSigmoid::new();
    LogSoftmax |case| LogSoftmax::new(case.int("dim", 1));
    Mish |case| maybe_inplace!(case, Mish::new());
    PReLU |case| PReLU::new(case.size("num_parameters", 1))?;
    RReLU |case| RReLU::new(case.float("lower", 0.125), case.float("upper", 1.0 / 3.0));
    ReLU |case| if case.flag("inplace", false) { ReLU::inplace() } else { ReLU::new() };
    ReLU6 |case| maybe_inplace!(case, ReLU6::new());
    SELU |case| maybe_inplace!(case, SELU::new());
    SiLU |case| maybe_inplace!(case, SiLU::new());
    Sigmoid |_case| Sigmoid::new();
    Softmax |case| Softmax::new(case.int("dim", 1));
    Softmax2d |_case| Softmax2d::new();
    Softmin |case| Softmin::new(case.int("dim", 1));
    Softplus |case| Softplus::new(case.float("beta", 1.0), case.float("threshold", 20.0));
    Softshrink |case| Softshrink::new(case.float("lambd", 0.5));
    Softsign |_case| Softsign::new();
    Tanh |_case| Tanh::new();
    Tanhshrink |_case| Tanhshrink::new();
    Threshold |case| maybe_inplace!(case, Threshold::new(case.float("threshold", 0.0), case.float("value", 0.0)));
};
