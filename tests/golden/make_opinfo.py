"""Writes opinfo.safetensors: samples of PyTorch's own operator tests (OpInfo) for the operations that Kiln has.

    make_opinfo.py            the samples in the repository: each form of arguments of every operation; those of linear
                              algebra, a feature of Kiln, in `linalg.safetensors`
    make_opinfo.py DIRECTORY  all samples, a file for each dtype, for the test `opinfo_samples` of kiln-tensor:
                              sample_inputs in `<dtype>.safetensors`, reference_inputs (large and extremal values)
                              in `reference_<dtype>.safetensors`

A case of half precision also has `ref_out`, `ref_grad`: the same computed in f64 from the same inputs.
"""

import collections
import json
import os
import sys
import warnings
import zlib

import torch
from torch.testing._internal.common_methods_invocations import op_db

from golden import *

warnings.filterwarnings("ignore")

# The operations, by OpInfo's names, with the names of their positional arguments after the input. A row of Kiln's
# table (crates/tensor/tests/golden_ops) has the name without `nn.functional.`, `linalg.`, `special.` and underscores around.
OPS = {
    line.split(":")[0].strip(): line.partition(":")[2].split()
    for line in """
abs
acos
acosh
add: other
adaptive_avg_pool2d: output_size
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
linalg.cholesky
linalg.cond: p
linalg.det
linalg.eigh: UPLO
linalg.eigvalsh: UPLO
linalg.inv
linalg.lstsq: B
linalg.matrix_norm: ord dim keepdim
linalg.matrix_power: n
linalg.matrix_rank
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

# Not by Kiln's rules: PyTorch's internal layouts, complex numbers.
SKIPPED_VARIANTS = {("norm", "nuc"), ("norm", "fro"), ("nn.functional.silu", "complex")}
# `hermitian=True`, with which one triangle is read.
SKIPPED_VARIANTS |= {("linalg.pinv", "hermitian"), ("linalg.matrix_rank", "hermitian")}
DTYPES = {"float32": f32, "float64": f64, "float16": f16, "bfloat16": bf16, "int64": i64, "int32": i32, "uint8": u8, "bool": b8}
HELD = set(DTYPES.values())
HALF = {f16, bf16}
# Larger tensors, which a few reference samples have, say nothing new.
MOST_ELEMENTS = 20_000


# Operations of the feature `linalg`, in a file of their own; vectors' products and norms are in every build.
LINALG = {name for name in OPS if name.startswith("linalg.")} - {f"linalg.{n}" for n in ["cross", "matrix_power", "vander", "vecdot", "vector_norm"]}


class NotHeld(Exception):
    """A dtype that Kiln does not have."""


def row_name(name):
    return name.removeprefix("nn.functional.").removeprefix("linalg.").removeprefix("special.").strip("_") if name != "zero_" else "zero_"


def written(value, inputs):
    """An argument as plain JSON; tensors are appended to `inputs` and named."""
    if isinstance(value, torch.Tensor):
        if value.dtype not in HELD:
            raise NotHeld(f"{value.dtype}".removeprefix("torch."))
        inputs.append(value)
        return f"in{len(inputs) - 1}"
    if isinstance(value, slice):
        return {"slice": [written(v, inputs) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return "..."
    if isinstance(value, (list, tuple)):
        return [written(v, inputs) for v in value]
    if isinstance(value, complex):
        raise NotHeld("complex64")
    if isinstance(value, torch.dtype):
        if value not in HELD:
            raise NotHeld(str(value).removeprefix("torch."))
        return plain(value)
    if isinstance(value, (torch.memory_format, torch.layout, torch.device)):
        return str(value)
    return plain(value)


def index(value, inputs):
    """An index as it stands between brackets, in which a tuple is several items and a list one."""
    if isinstance(value, tuple):
        return {"tuple": [index(v, inputs) for v in value]}
    return {"list": list(value)} if isinstance(value, list) else written(value, inputs)


def mapped(value, change):
    """`value` with every tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(v, change) for v in value)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    return value


def oriented(columns, rows=None):
    """Columns with a sign that does not depend on the algorithm: that of their sum with these weights. Also for the rows that
    belong to them."""
    weights = torch.arange(1, columns.shape[-2] + 1, dtype=columns.dtype).cos().unsqueeze(-1)
    signs = (columns.detach() * weights).sum(-2).sign()
    return columns * signs.unsqueeze(-2), None if rows is None else rows * signs.unsqueeze(-1)


def results(op, sample):
    """The outputs, and the gradients for cotangents drawn from a fixed stream."""
    out = op(sample.input, *sample.args, **sample.kwargs)
    k = min(sample.input.shape[-2:]) if op.name in LINALG and sample.input.dim() > 1 else 0
    if op.name == "linalg.eigh":
        return [out[0], oriented(out[1])[0]]
    if op.name == "linalg.svd":
        u, vt = oriented(out[0][..., :k], out[2][..., :k, :])
        return [u, out[1], vt]
    if op.name == "linalg.qr" and out[0].numel() > 0:
        return list(oriented(out[0][..., :k], out[1][..., :k, :]))
    if op.name == "linalg.lstsq":
        return [out[0]]
    return [out] if isinstance(out, (torch.Tensor, bool, int, float)) else list(out)


def tensors_in(value, found):
    mapped(value, lambda t: found.append(t) or t)
    return found


class Samples:
    def __init__(self, path):
        self.path, self.tensors, self.cases = path, {}, []

    def put(self, name, key, value):
        self.tensors[f"{name}/{key}"] = value.detach().resolve_conj().clone(memory_format=torch.contiguous_format)

    def add(self, op, name, sample):
        """Runs a sample; whether there is a case for it now."""
        if type(op).__name__ == "BinaryUfuncInfo" and not isinstance(sample.input, torch.Tensor):
            if not isinstance(sample.args[0], torch.Tensor):
                return False
            # A number on the left is a tensor without dimensions.
            sample.input = torch.tensor(sample.input, dtype=sample.args[0].dtype)
        drawn = sample.kwargs.get("training") and op.name == "nn.functional.rrelu"
        if drawn or sample.kwargs.get("dropout_p", 0) > 0:
            return False  # drawn from PyTorch's generator
        inputs, case = [], {"name": name, "op": row_name(op.name), "args": {}}
        try:
            listed = isinstance(sample.input, (list, tuple))
            listed = listed and all(isinstance(tensor, torch.Tensor) for tensor in sample.input)
            if not isinstance(sample.input, torch.Tensor) and not listed:
                case["args"]["input"] = written(sample.input, inputs)
            for tensor in sample.input if listed else [sample.input]:
                if isinstance(tensor, torch.Tensor):
                    written(tensor, inputs)
            names = OPS[op.name]
            if not names:  # further tensors, as in `meshgrid(x, y, z)`
                written(list(sample.args), inputs)
            # More arguments than names are one list written out, as in `x.permute(0, 1)`.
            many = len(sample.args) > len(names) > 0
            args = {names[0]: list(sample.args)} if many else dict(zip(names, sample.args))
            for key, value in {**args, **sample.kwargs}.items():
                case["args"][key] = (index if key in ("index", "indices") else written)(value, inputs)
        except NotHeld as dtype:
            self.cases.append({**case, "args": {}, "lacks": f"dtype {dtype}"})
            return True
        if sum(t.numel() for t in inputs) > MOST_ELEMENTS:
            return False
        kept = [t.detach().clone() for t in inputs]
        try:
            outs = results(op, sample)
        except Exception:
            return False
        outs = [out if isinstance(out, torch.Tensor) else torch.tensor(out) for out in outs]
        if any(out.dtype not in HELD for out in outs):
            self.cases.append({**case, "args": {}, "lacks": f"dtype {outs[0].dtype}".replace("torch.", "")})
            return True
        self.cases.append(case)
        for i, tensor in enumerate(kept):
            self.put(name, f"in{i}", tensor)
        for i, out in enumerate(outs):
            self.put(name, f"out{i}", out)
        cotangents = self.gradients(name, "grad", inputs, outs, None, op.supports_gradgrad)
        if outs[0].dtype in HALF or any(t.dtype in HALF for t in inputs):
            self.reference(op, name, sample, cotangents)
        return True

    def gradients(self, name, key, inputs, outs, cotangents, second=False):
        differentiable = [(i, out) for i, out in enumerate(outs) if out.requires_grad]
        wanted = [(i, value) for i, value in enumerate(inputs) if value.requires_grad]
        if not differentiable or not wanted:
            return None
        if cotangents is None:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            cotangents = []
            for i, out in differentiable:
                cotangents.append(torch.randn(out.shape, dtype=f64, generator=generator).to(out.dtype))
                self.put(name, f"cotangent{i}", cotangents[-1])
        # What an operation returns as it is, such as `x.float()` of f32, is a root only under another name.
        roots = [out.view_as(out) for _, out in differentiable]
        given = [c.to(out.dtype) for c, out in zip(cotangents, roots)]
        second = second and all(out.dtype in (f32, f64) for out in roots)
        try:
            grads = torch.autograd.grad(roots, [v for _, v in wanted], given, allow_unused=True, create_graph=second)
        except RuntimeError:  # no derivative, e.g. of `remainder` with respect to its divisor in some forms
            for i, _ in differentiable:
                self.tensors.pop(f"{name}/cotangent{i}", None)
            return None
        for (i, _), value in zip(wanted, grads):
            if value is not None:
                self.put(name, f"{key}{i}", value.to_dense() if value.is_sparse else value)
        if second:
            self.second_gradients(name, wanted, grads)
        return cotangents

    def second_gradients(self, name, wanted, grads):
        """The gradients of the sum of products of the gradients with further cotangents."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} second".encode()))
        roots = [(i, grad) for (i, _), grad in zip(wanted, grads) if grad is not None and grad.requires_grad]
        given = [torch.randn(grad.shape, dtype=f64, generator=generator).to(grad.dtype) for _, grad in roots]
        if not roots:
            return
        try:
            found = torch.autograd.grad([grad for _, grad in roots], [v for _, v in wanted], given, allow_unused=True)
        except RuntimeError as error:
            print(f"{name}: second derivatives: {str(error)[:100]}", file=sys.stderr)
            return
        if all(value is None for value in found):
            return
        for (i, _), cotangent in zip(roots, given):
            self.put(name, f"second_cotangent{i}", cotangent)
        for (i, leaf), value in zip(wanted, found):
            self.put(name, f"second{i}", torch.zeros_like(leaf) if value is None else value)

    def reference(self, op, name, sample, cotangents):
        def wide(t):
            return t.detach().to(f64).requires_grad_(t.requires_grad) if t.dtype in HALF else t

        args, kwargs, input = mapped(list(sample.args), wide), mapped(dict(sample.kwargs), wide), mapped(sample.input, wide)
        kwargs = {k: f64 if v in HALF else v for k, v in kwargs.items()} if "dtype" in kwargs else kwargs
        sample = type("Wide", (), {"input": input, "args": args, "kwargs": kwargs})
        try:
            outs = results(op, sample)
            if not all(isinstance(out, torch.Tensor) for out in outs):
                return
            inputs = tensors_in(list(kwargs.values()), tensors_in(args, tensors_in([input], [])))
            for i, out in enumerate(outs):
                if out.dtype == f64:
                    self.put(name, f"ref_out{i}", out)
            if cotangents is not None:
                self.gradients(name, "ref_grad", inputs, outs, cotangents)
        except Exception:
            return

    def write(self):
        metadata = json.dumps(self.cases, allow_nan=False, separators=(",", ":"))
        save_file(self.tensors, self.path, metadata={"cases": metadata})
        os.chmod(self.path, 0o644)
        print(f"{os.path.basename(self.path)}: {len(self.cases)} cases, {os.path.getsize(self.path)} bytes")


def operations(dtype):
    for op in op_db:
        if op.name in OPS and (op.name, op.variant_test_name) not in SKIPPED_VARIANTS and dtype in op.supported_dtypes("cpu"):
            yield op


def samples(op, dtype, reference):
    torch.manual_seed(0)
    grad = op.supports_autograd and dtype.is_floating_point and dtype in op.supported_backward_dtypes("cpu")
    variant = f".{op.variant_test_name}" if op.variant_test_name else ""
    name = f"{str(dtype).removeprefix('torch.')}/{op.name}{variant}"
    try:
        inputs = list((op.reference_inputs if reference else op.sample_inputs)("cpu", dtype, requires_grad=grad))
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return
    for i, sample in enumerate(inputs):
        yield f"{name}/{i}", sample


def form(sample):
    """What sets a sample apart from others of its operation: argument names, kinds of values, ranks, emptiness."""

    def kind(value):
        if isinstance(value, torch.Tensor):
            return (str(value.dtype), value.dim(), value.numel() == 0)
        if isinstance(value, (list, tuple)):
            return (len(value), *(kind(v) for v in value[:2]))
        if isinstance(value, (bool, str, type(None), torch.dtype)):
            return str(value)
        return (type(value).__name__, isinstance(value, (int, float)) and value < 0, value == 0)

    return (kind(sample.input), kind(list(sample.args)), tuple((k, kind(v)) for k, v in sample.kwargs.items()))


def elements(sample):
    return sum(t.numel() for t in tensors_in([sample.input, list(sample.args), dict(sample.kwargs)], []))


def every(directory, dtypes):
    os.makedirs(directory, exist_ok=True)
    for dtype_name, dtype in DTYPES.items():
        if dtypes and dtype_name not in dtypes:
            continue
        for reference in [False, True]:
            if reference and dtype in HALF:
                continue
            out = Samples(os.path.join(directory, f"{'reference_' if reference else ''}{dtype_name}.safetensors"))
            for op in operations(dtype):
                for name, sample in samples(op, dtype, reference):
                    out.add(op, name, sample)
            out.write()


# Of an operation, this many forms are checked in, the smallest samples first, of at most so many elements.
MOST_FORMS, MOST_CHOSEN = 3, 32


def chosen(file, is_in):
    out, counts = Samples(os.path.join(HERE, file)), collections.Counter()

    def add(op, sample, kind):
        row = row_name(op.name)
        counts[row] += out.add(op, f"{row}_{kind}{counts[row]}", sample)

    for dtype, most in [(f32, MOST_FORMS), (i64, 1), (bf16, 1)]:
        for op in filter(is_in, operations(dtype)):
            if type(op).__name__ == "UnaryUfuncInfo" and dtype != f32:
                continue
            forms = collections.OrderedDict()
            ordered = sorted(samples(op, dtype, False), key=lambda s: elements(s[1]))
            for i, (name, sample) in enumerate(ordered):
                # Of operations whose samples are all large, the smallest one.
                if elements(sample) <= MOST_CHOSEN or i == 0 and dtype == f32:
                    forms.setdefault(form(sample), (name, sample))
            for _, sample in list(forms.values())[:most]:
                add(op, sample, "")
    # Extremal values: infinities, NaN, the largest and smallest numbers.
    for dtype in [f32, i64]:
        for op in filter(is_in, operations(dtype)):
            if type(op).__name__ in ("UnaryUfuncInfo", "BinaryUfuncInfo"):
                wild = [s for s in samples(op, dtype, True) if 0 < elements(s[1]) <= 120][-1:]
                for _, sample in wild:
                    add(op, sample, "extremal_")
    out.write()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        every(sys.argv[1], sys.argv[2:])
    else:
        chosen("opinfo.safetensors", lambda op: op.name not in LINALG)
        chosen("linalg.safetensors", lambda op: op.name in LINALG)
