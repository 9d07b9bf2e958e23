//! The table of all public operations: the dtypes that each takes, how its gradient is recorded, and whether it works
//! in place. The gradient checks and the random-call tests iterate over it and fail for an operation that they do not
//! cover.

use kiln_backend::{BinaryOp, UnaryOp, binary_table, unary_table};

/// The dtypes that an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// All of them.
    Any,
    /// Floats and integers, not `bool`.
    Numbers,
    /// Floats.
    Floats,
    /// `i64`: class labels.
    Indices,
    /// `bool` and integers.
    Bits,
    /// `bool`.
    Masks,
}

/// How the gradient of an operation is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// By a node of this name; if PyTorch has several for one operation, the most common.
    Node(&'static str),
    /// By the nodes of the operations that it is composed of.
    Composed,
    /// The result has no gradient: it is an integer, a truth value, or not a tensor.
    None,
}

/// One public operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpInfo {
    /// The method of [`Tensor`](crate::Tensor).
    pub name: &'static str,
    /// The dtypes of its (first) operand.
    pub takes: Takes,
    /// Its gradient.
    pub gradient: Gradient,
    /// Whether it changes the tensor.
    pub in_place: bool,
}

impl OpInfo {
    const fn new(name: &'static str, takes: Takes, gradient: Gradient) -> OpInfo {
        // By PyTorch's convention, in-place operations end in an underscore.
        let bytes = name.as_bytes();
        OpInfo { name, takes, gradient, in_place: bytes[bytes.len() - 1] == b'_' }
    }

    /// Whether a gradient flows through it.
    #[must_use]
    pub const fn is_differentiable(&self) -> bool {
        !matches!(self.gradient, Gradient::None)
    }
}

/// A link to the method, so that building the documentation fails if there is none of this name.
macro_rules! link {
    ($name:ident) => {
        concat!("[`", stringify!($name), "`](crate::Tensor::", stringify!($name), ")")
    };
}

macro_rules! unary_ops {
    ($names:tt $(UNARY($variant:ident, $method:ident, $($row:tt)*))*) => {
        const UNARY: &[OpInfo] = &[$(
            OpInfo::new(stringify!($method), Takes::Numbers, Gradient::Node(UnaryOp::$variant.node_name())),
        )*];
    };
}
unary_table!(unary_ops);

macro_rules! binary_ops {
    ($names:tt
     $(BINARY($variant:ident, $method:ident, $($row:tt)*))*
     $(COMPARISON($compared:ident, $compare:ident, $($compare_row:tt)*))*
     $(BITWISE($combined:ident, $combine:ident, $($combine_row:tt)*))*
    ) => {
        const BINARY: &[OpInfo] = &[
            $(OpInfo::new(stringify!($method), Takes::Numbers, Gradient::Node(BinaryOp::$variant.node_name())),)*
            $(OpInfo::new(stringify!($compare), Takes::Any, Gradient::None),)*
            OpInfo::new("gt", Takes::Any, Gradient::None),
            OpInfo::new("ge", Takes::Any, Gradient::None),
            $(OpInfo::new(stringify!($combine), Takes::Bits, Gradient::None),)*
        ];
    };
}
binary_table!(binary_ops);

macro_rules! ops {
    ($($takes:ident { $($name:ident $gradient:tt)* })*) => {
        /// Operations that are not rows of the tables of element-wise operations:
        $($(#[doc = link!($name)])*)*
        pub const OTHERS: &[OpInfo] =
            &[$($(OpInfo::new(stringify!($name), Takes::$takes, ops!(@ $gradient)),)*)*];
    };
    (@ -) => { Gradient::None };
    (@ +) => { Gradient::Composed };
    (@ $node:literal) => { Gradient::Node($node) };
}

/// Calls a macro with the operations that are not rows of `unary_table!` and `binary_table!`, grouped by the dtypes
/// they take, each with its gradient: `-` for none, `+` for the gradients of the operations that it is composed of, or
/// the name of its node. Suites generate one test for each.
#[doc(hidden)]
#[macro_export]
macro_rules! structured_operations {
    ($then:ident) => {
        $then! {
            Any {
                // Copies and conversions.
                copy "CloneBackward0" contiguous "CloneBackward0" channels_last + is_channels_last - to_dtype "ToCopyBackward0" to_device "ToCopyBackward0"
                pin_memory - is_pinned -
                // Views.
                transpose "TransposeBackward0" swapaxes "TransposeBackward0" mt "TransposeBackward0" t "TBackward0"
                permute "PermuteBackward0" movedim "PermuteBackward0" narrow "SliceBackward0" slice "SliceBackward0"
                select "SelectBackward0" squeeze "SqueezeBackward1" unsqueeze "UnsqueezeBackward0"
                expand "ExpandBackward0" expand_as "ExpandBackward0" broadcast_to "ExpandBackward0"
                reshape "ViewBackward0" view "ViewBackward0" view_as "ViewBackward0" unflatten "ViewBackward0"
                flatten "ViewBackward0" flatten_all "ViewBackward0" diagonal "DiagonalBackward0"
                split "SplitBackward0" chunk "SplitBackward0" unbind "UnbindBackward0" meshgrid "ExpandBackward0"
                meshgrid_xy "TransposeBackward0" i +
                // Joining and rearranging.
                cat "CatBackward0" stack "StackBackward0" flip "FlipBackward0" roll "RollBackward0"
                pad "ConstantPadNdBackward0" repeat "RepeatBackward0" repeat_interleave + tril "TrilBackward0" triu "TriuBackward0"
                diag "DiagonalBackward0_copy"
                atleast_1d + atleast_2d + atleast_3d + hstack + vstack + dstack + column_stack + ravel + tile +
                broadcast_tensors + block_diag + cartesian_prod + combinations + tensor_split + hsplit + vsplit + dsplit +
                rot90 + fliplr + flipud + unfold + diag_embed + diagflat +
                // Indexing.
                index_fill + index_copy + masked_scatter + scatter_reduce + index_reduce + take + put + diagonal_scatter +
                select_scatter + slice_scatter + unique - unique_dim - unique_consecutive -
                unique_consecutive_dim - isin - bucketize - msort +
                index_select "IndexSelectBackward0" gather "GatherBackward0" take_along_dim "GatherBackward0"
                scatter "ScatterBackward0" scatter_add "ScatterAddBackward0" index_add "IndexAddBackward0"
                index_add_alpha "IndexAddBackward0" index_put "ScatterBackward0"
                masked_fill "MaskedFillBackward0" masked_select "MaskedSelectBackward0" nonzero -
                // Order.
                sort "SortBackward0" argsort - topk "TopkBackward0" kthvalue "KthvalueBackward0" median "MedianBackward1"
                kthvalue_keepdim "KthvalueBackward0" median_keepdim "MedianBackward1" median_all "MedianBackward0"
                max "MaxBackward1" max_keepdim "MaxBackward1" min "MinBackward1" min_keepdim "MinBackward1"
                amax "AmaxBackward0" amax_keepdim "AmaxBackward0" amin "AminBackward0" amin_keepdim "AminBackward0"
                max_dim "MaxBackward0" max_dim_keepdim "MaxBackward0" min_dim "MinBackward0" min_dim_keepdim "MinBackward0"
                argmax - argmax_keepdim - argmin - argmin_keepdim - searchsorted - searchsorted_with -
                // Sums.
                sum "SumBackward1" sum_keepdim "SumBackward1" prod "ProdBackward1" prod_keepdim "ProdBackward1"
                cumsum "CumsumBackward0" cummax "CummaxBackward0" cummin "CumminBackward0" trace "TraceBackward0"
                count_nonzero - nan_to_num + nansum + nansum_keepdim + aminmax + nanmedian + nanmedian_all + bincount -
                cov + corrcoef + cumprod + mode + vander + diff + trapezoid + cumulative_trapezoid +
                // Predicates.
                signbit - heaviside - isposinf - isneginf -
                any - any_keepdim - all - all_keepdim - logical_and - logical_or - logical_xor - logical_not -
                isnan - isinf - isfinite - isclose - isclose_equal_nan - allclose - allclose_equal_nan - equal -
                // In-place operations. (The gradient is that of the values written.)
                t_ "TBackward0" copy_ "CopyBackwards" fill_ "FillBackward2" zero_ "ZeroBackward0"
                bernoulli_ "BernoulliBackward2" masked_fill_ "MaskedFillBackward0" scatter_ "ScatterBackward0"
                scatter_add_ "ScatterAddBackward0" index_add_ "IndexAddBackward0" index_put_ + i_assign +
            }
            Numbers {
                add_alpha "AddBackward0" sub_alpha "SubBackward0" rsub "RsubBackward0" rsub_alpha "RsubBackward0"
                rpow "PowBackward2" add_alpha_ "AddBackward0" sub_alpha_ "SubBackward0" div_rounding "DivBackward2"
                add_ "AddBackward0" sub_ "SubBackward0" mul_ "MulBackward0" clamp_ "ClampBackward1"
                clamp "ClampBackward1" clamp_min "ClampBackward1" clamp_max "ClampBackward1"
                hardtanh "HardtanhBackward0" threshold "ThresholdBackward0"
                matmul "MmBackward0" mm "MmBackward0" bmm "BmmBackward0" mv "MvBackward0" dot "DotBackward0"
                outer "MulBackward0" einsum +
                addmm + addmv + baddbmm + addbmm + addr + addcmul + addcdiv + inner + tensordot + kron + cross +
                logaddexp + logaddexp2 + xlogy + xlog1py + entr + hypot + copysign + ldexp + sinc + logit + frac +
                deg2rad + rad2deg + fmax + fmin + float_power + mvlgamma + ndtr +
            }
            Floats {
                div_ "DivBackward0" uniform_ "UniformBackward0" normal_ "NormalBackward0"
                mean "MeanBackward1" mean_keepdim "MeanBackward1" var "VarBackward0" var_keepdim "VarBackward0"
                std "StdBackward0" std_keepdim "StdBackward0"
                nextafter + frexp + renorm + std_mean + std_mean_keepdim + var_mean + var_mean_keepdim + nanmean + nanmean_keepdim + quantile +
                nanquantile + histc - logcumsumexp + vecdot + matrix_power + dist + cdist + pdist + interpolate + interpolate_by + im2col + col2im + pixel_shuffle +
                pixel_unshuffle + channel_shuffle + logsumexp "LogsumexpBackward0" logsumexp_keepdim "LogsumexpBackward0"
                norm "LinalgVectorNormBackward0" norm_keepdim "LinalgVectorNormBackward0"
                softmax "SoftmaxBackward0" log_softmax "LogSoftmaxBackward0"
                softplus_beta "SoftplusBackward0" round_decimals "RoundBackward1"
                leaky_relu "LeakyReluBackward0" elu "EluBackward0" celu "CeluBackward0" prelu +
                hardshrink "HardshrinkBackward0" softshrink "SoftshrinkBackward0" rrelu + glu + softmin "SoftmaxBackward0"
                lerp "LerpBackward0" dropout "NativeDropoutBackward0"
                scaled_dot_product_attention "ScaledDotProductFlashAttentionForCpuBackward0"
                linear "AddmmBackward0" linear_relu "ReluBackward0"
                lstm_cell "ThnnFusedLstmCellBackward0" gru_cell "ThnnFusedGruCellBackward0"
                lstm_layer "LstmLayerBackward0" gru_layer "GruLayerBackward0"
                rnn_tanh_layer "RnnTanhLayerBackward0" rnn_relu_layer "RnnReluLayerBackward0"
                conv2d "ConvolutionBackward0" conv2d_relu "ReluBackward0" conv2d_add_relu "ReluBackward0"
                conv_transpose2d "ConvolutionBackward0"
                max_pool2d "MaxPool2DWithIndicesBackward0" max_pool2d_with_indices "MaxPool2DWithIndicesBackward0"
                avg_pool2d "AvgPool2DBackward0" adaptive_avg_pool2d "AdaptiveAvgPool2DBackward0"
                adaptive_max_pool2d "AdaptiveMaxPool2DBackward0" adaptive_max_pool2d_with_indices "AdaptiveMaxPool2DBackward0"
                batch_norm "NativeBatchNormBackward0" batch_norm_with "ReluBackward0"
                layer_norm "NativeLayerNormBackward0" group_norm +
                conv1d + conv3d "ConvolutionBackward0" conv_transpose1d + conv_transpose3d "ConvolutionBackward0"
                max_pool1d + max_pool1d_with_indices + max_pool3d + max_pool3d_with_indices + avg_pool1d + avg_pool3d +
                adaptive_avg_pool1d + adaptive_avg_pool3d + adaptive_max_pool1d + adaptive_max_pool1d_with_indices +
                adaptive_max_pool3d + adaptive_max_pool3d_with_indices + lp_pool1d + lp_pool2d + lp_pool3d +
                max_unpool1d "MaxUnpool2DBackward0" max_unpool2d "MaxUnpool2DBackward0"
                max_unpool3d "MaxUnpool3DBackward0" fractional_max_pool2d + fractional_max_pool2d_with_indices +
                fractional_max_pool3d + fractional_max_pool3d_with_indices +
                instance_norm + rms_norm + local_response_norm + normalize + bilinear + cosine_similarity +
                pairwise_distance + embedding "EmbeddingBackward0" embedding_renorm_ - embedding_bag "EmbeddingBagBackward0"
                grid_sample "GridSampler2DBackward0" affine_grid +
                class_loss "NllLossBackward0" pointwise_loss "MseLossBackward0"
                bernoulli "BernoulliBackward0" multinomial -
            }
            Indices { one_hot - }
            Bits { bitwise_not - }
            Masks { where_cond "WhereBackward0" }
        }
    };
}
structured_operations!(ops);

const fn joined<const N: usize>(parts: [&[OpInfo]; 3]) -> [OpInfo; N] {
    let mut all = [OTHERS[0]; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let mut i = 0;
        while i < parts[part].len() {
            all[at] = parts[part][i];
            (at, i) = (at + 1, i + 1);
        }
        part += 1;
    }
    all
}

/// All public operations, one line each.
pub const OPS: &[OpInfo] = &joined::<{ UNARY.len() + BINARY.len() + OTHERS.len() }>([UNARY, BINARY, OTHERS]);
