"""The operations that Kiln has, by the names of PyTorch's operator database (OpInfo), with their positional arguments."""

# The operations, by OpInfo's names, with the names of their positional arguments after the input. A row of Kiln's
# table (crates/tensor/tests/golden_ops) has the name without `nn.functional.`, `linalg.`, `special.`, `signal.windows.` and underscores around.
OPS = {
    line.split(":")[0].strip(): line.partition(":")[2].split()
    for line in """
abs
acos
acosh
add: other
all: dim keepdim
allclose: other
amax: dim keepdim
amin: dim keepdim
any: dim keepdim
arange: end step
argmax: dim keepdim
argmin: dim keepdim
argsort: dim descending
asin
asinh
atan
atan2: other
atanh
bitwise_and: other
bitwise_left_shift: other
bitwise_not
bitwise_right_shift: other
bitwise_or: other
bitwise_xor: other
bmm: mat2
bool
broadcast_to: size
byte
cat: dim
ceil
chunk: chunks dim
clamp: min max
clamp_max: max
clamp_min: min
clone
contiguous
cos
cosh
cummax: dim
cummin: dim
cumsum: dim
diag: diagonal
diagonal: offset dim1 dim2
digamma
div: other
dot: other
double
einsum: equation
eq: other
equal: other
erf
erfc
erfinv
exp
exp2
expand: size
expand_as: other
expm1
eye: m
fill: value
flatten: start_dim end_dim
flip: dims
float
floor
floor_divide: other
fmod: other
full: fill_value
full_like: fill_value
gather: dim index
gcd: other
ge: other
gt: other
half
bfloat16
i0
index_add: dim index source
index_put: indices values accumulate
index_select: dim index
int
isclose: other
isfinite
isinf
isnan
item
kthvalue: k dim keepdim
lcm: other
le: other
lerp: end weight
lgamma
linspace: end steps
log
log10
log1p
log2
log_softmax: dim
logical_and: other
logical_not
logical_or: other
logical_xor: other
logsumexp: dim keepdim
long
lt: other
mT
masked_fill: mask value
masked_select: mask
matmul: other
max: dim keepdim
maximum: other
mean: dim keepdim
median: dim keepdim
meshgrid
min: dim keepdim
minimum: other
mm: mat2
movedim: source destination
mul: other
mv: vec
narrow: dim start length
ne: other
neg
nonzero
norm: p dim keepdim
ones: size
ones_like
outer: vec2
permute: dims
polygamma: n
pow: exponent
prod: dim keepdim
reciprocal
remainder: other
repeat: sizes
repeat_interleave: repeats dim
reshape: shape
reshape_as: other
roll: shifts dims
round
rsqrt
rsub: other
scatter: dim index src
scatter_add: dim index src
searchsorted: values
select: dim index
sigmoid
sign
sin
sinh
slice: dim start end step
softmax: dim
sort: dim descending
split: split_size_or_sections dim
split_with_sizes: split_sizes dim
sqrt
square
squeeze: dim
stack: dim
std: dim
sub: other
sum: dim keepdim
t
take_along_dim: indices dim
tan
tanh
to: dtype non_blocking copy
topk: k dim largest sorted
trace
transpose: dim0 dim1
tril: diagonal
triu: diagonal
true_divide: other
trunc
unbind: dim
unflatten: dim sizes
unsqueeze: dim
var: dim
view: shape
view_as: other
where: condition other
zero_
zeros: size
zeros_like
T
__getitem__: index
__radd__: other
__rand__: other
__rdiv__: other
__rmatmul__: other
__rmod__: other
__rmul__: other
__ror__: other
__rpow__: base
__rsub__: other
__rxor__: other
linalg.vector_norm: ord dim keepdim
addbmm: batch1 batch2
addcdiv: tensor1 tensor2
addcmul: tensor1 tensor2
addmm: mat1 mat2
addmv: mat vec
addr: vec1 vec2
aminmax
argwhere
atleast_1d
atleast_2d
atleast_3d
baddbmm: batch1 batch2
bincount: weights minlength
block_diag
broadcast_tensors
bucketize: boundaries
cartesian_prod
cdist: other p compute_mode
column_stack
combinations: r with_replacement
copysign: other
corrcoef
count_nonzero: dim
cov
cumprod: dim
cumulative_trapezoid: x
deg2rad
diag_embed: offset dim1 dim2
diagflat: offset
diagonal_scatter: src offset dim1 dim2
diff: n dim prepend append
dist: other p
dsplit: indices_or_sections
dstack
float_power: exponent
fliplr
flipud
fmax: other
fmin: other
frac
heaviside: values
histc: bins min max
hsplit: indices_or_sections
hstack
hypot: other
index_copy: dim index source
index_fill: dim index value
inner: other
isin: test_elements
isneginf
isposinf
kron: other
ldexp: other
linalg.cross: other
cholesky_inverse: upper
cholesky_solve: input2 upper
linalg.cholesky
linalg.cond: p
linalg.det
linalg.eigh: UPLO
linalg.eigvalsh: UPLO
linalg.inv
linalg.lstsq: B
linalg.lu
linalg.lu_factor
linalg.lu_solve: pivots B
lu_solve: LU_data LU_pivots
linalg.matrix_norm: ord dim keepdim
linalg.matrix_power: n
linalg.matrix_rank
linalg.multi_dot
linalg.tensorinv: ind
linalg.tensorsolve: other dims
logdet
H
mH
constant_pad_nd: pad value
cross: other dim
linalg.norm: ord dim keepdim
logspace: end steps base
trapz: x
unsafe_split: split_size_or_sections dim
matrix_exp
pinverse: rcond
nextafter: other
special.ndtr
linalg.pinv
linalg.qr: mode
linalg.slogdet
linalg.solve: B
linalg.solve_triangular: B
linalg.svd: full_matrices
linalg.svdvals
linalg.vecdot: other
logaddexp: other
logaddexp2: other
logcumsumexp: dim
logit: eps
masked_scatter: mask source
msort
nan_to_num: nan posinf neginf
nanmean: dim keepdim
nanmedian: dim keepdim
nanquantile: q dim keepdim
nansum: dim keepdim
new_full: size fill_value
new_ones: size
new_zeros: size
nn.functional.channel_shuffle: groups
nn.functional.interpolate: size scale_factor mode align_corners
nn.functional.pdist: p
nn.functional.unfold: kernel_size dilation padding stride
nn.functional.upsample_bilinear: size scale_factor
nn.functional.upsample_nearest: size scale_factor
nn.functional.pixel_shuffle: upscale_factor
nn.functional.pixel_unshuffle: downscale_factor
positive
put: index source accumulate
quantile: q dim keepdim
rad2deg
ravel
rot90: k dims
scatter_reduce: dim index src reduce
index_reduce: dim index source reduce
frexp
linalg.vander: N
mode: dim keepdim
mvlgamma: p
renorm: p dim maxnorm
select_scatter: src dim index
sgn
signbit
sinc
slice_scatter: src dim start end step
signal.windows.bartlett
signal.windows.blackman
signal.windows.cosine
signal.windows.exponential
signal.windows.gaussian
signal.windows.general_cosine
signal.windows.general_hamming
signal.windows.hamming
signal.windows.hann
signal.windows.kaiser
signal.windows.nuttall
special.entr
special.i1
special.polygamma: n
special.xlog1py: other
std_mean: dim
take: index
tensor_split: indices_or_sections dim
tensordot: other dims
tile: dims
trapezoid: x
tril_indices: col offset
triu_indices: col offset
unfold: dimension size step
unique
unique_consecutive
unsafe_chunk: chunks dim
var_mean: dim
vdot: other
vsplit: indices_or_sections
vstack
xlogy: other
nn.functional.adaptive_avg_pool1d: output_size
nn.functional.adaptive_avg_pool2d: output_size
nn.functional.adaptive_avg_pool3d: output_size
nn.functional.adaptive_max_pool1d: output_size return_indices
nn.functional.adaptive_max_pool3d: output_size return_indices
nn.functional.avg_pool1d: kernel_size stride padding ceil_mode count_include_pad
nn.functional.avg_pool3d: kernel_size stride padding ceil_mode count_include_pad divisor_override
nn.functional.bilinear: input2 weight bias
nn.functional.conv1d: weight bias
nn.functional.conv3d: weight bias
nn.functional.conv_transpose1d: weight bias
nn.functional.conv_transpose3d: weight bias
nn.functional.cosine_similarity: other dim eps
nn.functional.instance_norm: running_mean running_var weight bias use_input_stats momentum eps
nn.functional.local_response_norm: size alpha beta k
nn.functional.max_pool1d: kernel_size stride padding dilation ceil_mode return_indices
nn.functional.max_unpool1d: indices kernel_size stride padding output_size
nn.functional.max_unpool2d: indices kernel_size stride padding output_size
nn.functional.max_unpool3d: indices kernel_size stride padding output_size
nn.functional.max_pool3d: kernel_size stride padding dilation ceil_mode return_indices
nn.functional.normalize: p dim eps
nn.functional.pairwise_distance: other p eps keepdim
nn.functional.rms_norm: normalized_shape weight eps
nn.functional.adaptive_max_pool2d: output_size return_indices
nn.functional.avg_pool2d: kernel_size stride padding ceil_mode count_include_pad divisor_override
nn.functional.batch_norm: running_mean running_var weight bias training momentum eps
nn.functional.binary_cross_entropy_with_logits: target
nn.functional.celu: alpha
nn.functional.conv2d: weight bias
nn.functional.conv_transpose2d: weight bias
nn.functional.cross_entropy: target
nn.functional.elu: alpha
nn.functional.embedding: indices
nn.functional.embedding_bag: indices offsets
nn.functional.grid_sample: grid mode padding_mode align_corners
grid_sampler_2d: grid interpolation_mode padding_mode align_corners
grid_sampler_3d: grid interpolation_mode padding_mode align_corners
_upsample_bilinear2d_aa: output_size align_corners scale_factors
nn.functional.gelu
nn.functional.glu: dim
nn.functional.group_norm: num_groups weight bias eps
nn.functional.hardshrink: lambd
nn.functional.hardsigmoid
nn.functional.hardswish
nn.functional.hardtanh: min_val max_val
nn.functional.l1_loss: target
nn.functional.layer_norm: normalized_shape weight bias eps
nn.functional.leaky_relu: negative_slope
nn.functional.linear: weight bias
nn.functional.logsigmoid
nn.functional.max_pool2d: kernel_size stride padding dilation ceil_mode return_indices
nn.functional.mish
nn.functional.mse_loss: target
nn.functional.nll_loss: target
nn.functional.one_hot: num_classes
nn.functional.pad: pad mode value
nn.functional.prelu: weight
nn.functional.relu
nn.functional.relu6
nn.functional.rrelu: lower upper training
nn.functional.scaled_dot_product_attention: key value attn_mask dropout_p is_causal scale enable_gqa
nn.functional.selu
nn.functional.silu
nn.functional.softmin: dim
nn.functional.softplus
nn.functional.softshrink: lambd
nn.functional.softsign
nn.functional.tanhshrink
nn.functional.threshold: threshold value
""".strip().splitlines()
}

# Operations of the feature `linalg`, in a file of their own; vectors' products and norms are in every build.
LINALG = {name for name in OPS if name.startswith("linalg.")} - {f"linalg.{n}" for n in ["cross", "matrix_power", "vander", "vecdot", "vector_norm"]}
LINALG |= {"cholesky_inverse", "cholesky_solve", "logdet", "lu_solve", "matrix_exp", "pinverse"}

# Operations whose samples are not compared here: layers and losses of kiln-nn, which its own tests compare, and draws from a
# generator that is not PyTorch's.
ELSEWHERE = set("""
bernoulli empty empty_like multinomial normal randint randn randn_like rand_like uniform
nn.functional.binary_cross_entropy nn.functional.cosine_embedding_loss nn.functional.ctc_loss nn.functional.dropout
nn.functional.alpha_dropout nn.functional.dropout2d nn.functional.dropout3d nn.functional.feature_alpha_dropout
nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool3d
nn.functional.gaussian_nll_loss nn.functional.hinge_embedding_loss nn.functional.huber_loss nn.functional.kl_div
nn.functional.margin_ranking_loss nn.functional.multi_head_attention_forward nn.functional.multi_margin_loss
nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss nn.functional.poisson_nll_loss
nn.functional.smooth_l1_loss nn.functional.soft_margin_loss nn.functional.triplet_margin_loss
""".split())

# Rows of Kiln's table that are not named as OpInfo's operations.
RENAMED = {
    "H": "t",
    "constant_pad_nd": "pad",
    "grid_sampler_2d": "grid_sample",
    "grid_sampler_3d": "grid_sample",
    "linalg.norm": "linalg_norm",
    "mH": "mT",
    "pinverse": "pinv",
    "nn.functional.unfold": "im2col",
    "trapz": "trapezoid",
    "unsafe_split": "split",
    "zero_": "zero_",
}


def row_name(name):
    """The row of an operation: its name without the module and underscores around."""
    for module in ["nn.functional.", "linalg.", "special.", "signal.windows."]:
        if name not in RENAMED:
            name = name.removeprefix(module)
    return RENAMED.get(name) or name.strip("_")
