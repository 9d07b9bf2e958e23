//! The table of what autocast does to the operands of each operation.
//!
//! The lists are those of PyTorch's CUDA autocast
//! (<https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference>), on every device, with one difference: `mean` is
//! computed in `f32`, as `sum` is. (PyTorch's list for the CPU leaves softmax, normalizations, powers and sums in the dtype
//! of their operands.) `tests/golden/autocast.json` has PyTorch's dtypes on both, and the test `autocast` of `golden_ops`
//! compares them.

/// The dtype that operands are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// That of the region: `bf16` or `f16`.
    Lower,
    /// `f32`.
    F32,
    /// The widest of the operands'.
    Widest,
    /// Each its own. Other operations, of which this one is composed, are not converted, either.
    Own,
}

macro_rules! policies {
    ($($policy:ident: $($name:literal)*;)*) => {
        /// The policy of an operation, by the name of its method; `None` where autocast changes nothing, or only operations
        /// of which this one is composed.
        #[must_use]
        // No name is listed twice.
        #[deny(unreachable_patterns)]
        pub fn policy(operation: &str) -> Option<Policy> {
            match operation {
                $($($name)|* => Some(Policy::$policy),)*
                _ => None,
            }
        }

        /// All rows of the table.
        pub const POLICIES: &[(Policy, &[&str])] = &[$((Policy::$policy, &[$($name),*])),*];
    };
}

policies! {
    Lower:
        // `mm`, `bmm` and `mv` are products by `matmul`, `linear_relu` and the fused convolutions parts of the plain ones.
        "matmul" "einsum" "linear" "prelu" "scaled_dot_product_attention"
        "addmm" "addmv" "addr" "baddbmm" "addbmm"
        "conv1d" "conv2d" "conv3d" "conv_transpose1d" "conv_transpose2d" "conv_transpose3d"
        "rnn_tanh_cell" "rnn_relu_cell" "lstm_cell" "gru_cell";
    F32:
        "exp" "expm1" "log" "log2" "log10" "log1p" "pow" "rpow" "square" "reciprocal" "rsqrt"
        // A number divided by a tensor is the tensor's reciprocal times the number.
        "rdiv"
        "acos" "asin" "tan" "cosh" "sinh" "erfinv" "softplus"
        "softmax" "log_softmax" "logsumexp" "sum" "mean" "prod" "cumsum" "cumprod" "norm" "renorm" "dist" "cdist"
        "pdist" "interpolate"
        "layer_norm" "group_norm" "rms_norm" "local_response_norm" "normalize" "cosine_similarity" "pairwise_distance"
        "cross_entropy" "nll_loss" "mse_loss" "l1_loss" "smooth_l1_loss" "huber_loss" "kl_div" "poisson_nll_loss"
        "gaussian_nll_loss" "binary_cross_entropy" "binary_cross_entropy_with_logits" "hinge_embedding_loss"
        "soft_margin_loss" "margin_ranking_loss" "cosine_embedding_loss" "triplet_margin_loss" "multi_margin_loss"
        "multilabel_margin_loss" "multilabel_soft_margin_loss" "ctc_loss"
        // Factorizations, which there are none of in half precision; PyTorch's CUDA autocast refuses them.
        "inv" "solve" "solve_triangular" "det" "slogdet" "cholesky" "qr" "svd" "svdvals" "eigh" "eigvalsh" "pinv" "lstsq"
        "lu" "lu_factor" "lu_solve" "matrix_rank" "matrix_norm" "matrix_exp" "cond";
    // Arithmetic, `where_cond`, `cat` and `stack` promote their operands always.
    Widest: "dot" "bilinear" "scatter_add" "index_put" "grid_sample";
    // Composed of operations with a policy, but operations of their own in PyTorch.
    Own: "affine_grid" "elu" "celu" "trace" "instance_norm" "nansum" "std_mean" "var_mean" "ldexp";
}
