"""Writes ops.safetensors: values and gradients of tensor operations."""

import torch

from golden import *

torch.manual_seed(0)


def index(x, index):
    """x[...]: an integer, [start, stop, step], None for a new axis, or "..."."""
    kinds = {int: lambda i: i, list: lambda s: slice(*s), type(None): lambda n: n, str: lambda e: Ellipsis}
    return x[tuple(kinds[type(i)](i) for i in index)]


def identity(n, x):
    return torch.eye(n, dtype=x.dtype)


def lstm_cell(x, hidden, c):
    """From the products of the weights, which PyTorch's cell adds."""
    n, h = c.shape
    return torch.lstm_cell(x + hidden, (torch.zeros_like(c), c), identity(4 * h, x), x.new_zeros(4 * h, h))


def gru_cell(x, hidden, h):
    """The hidden state's product is a bias, of each row its own."""
    n = h.shape[1]
    weights = identity(3 * n, x), x.new_zeros(3 * n, n), x.new_zeros(3 * n)
    rows = [torch.gru_cell(*[part[i : i + 1] for part in (x, h)], *weights, hidden[i]) for i in range(len(x))]
    return torch.cat(rows)


def layer(run, x, states, weight, bias, reverse):
    """A layer whose inputs are multiplied by 1."""
    weights = [identity(len(weight), x), weight] + ([] if bias is None else [torch.zeros_like(bias), bias])
    x = x.flip(0) if reverse else x
    y, *ends = run(x, states, weights, bias is not None, 1, 0.0, True, False, False)
    return y.flip(0) if reverse else y, *[end[0] for end in ends]


def lstm_layer(x, h, c, weight, reverse=False):
    return layer(torch.lstm, x, (h[None], c[None]), weight, None, reverse)


def gru_layer(x, h, weight, bias=None, reverse=False):
    return layer(torch.gru, x, h[None], weight, bias, reverse)


OPS = {
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "lstm_layer": lstm_layer,
    "gru_layer": gru_layer,
    "rsub": lambda x, other: other - x,
    "rdiv": lambda x, other: other / x,
    "rpow": lambda x, base: base**x,
    "pow": lambda x, *y, **args: torch.pow(x, *y, **args),
    "where": lambda c, *xy, **scalars: torch.where(c, *xy, *scalars.values()),
    "cat": lambda *xs, dim: torch.cat(xs, dim),
    "stack": lambda *xs, dim: torch.stack(xs, dim),
    "einsum": lambda *xs, equation: torch.einsum(equation, *xs),
    "expand": lambda x, size: x.expand(size),
    "repeat": lambda x, sizes: x.repeat(sizes),
    "masked_fill": lambda x, mask, value: x.masked_fill(mask, value),
    "to": lambda x, dtype: x.to(dtype),
    "index": index,
    # A view that is not contiguous, then a copy of it.
    "transpose_reshape": lambda x, dim0, dim1, shape: x.transpose(dim0, dim1).reshape(shape),
    # The same tensor on both sides, and used twice.
    "mul_self": lambda x: x * x,
    "matmul_self_t": lambda x: x @ x.t(),
}

s = Suite("ops", OPS)


def each(op, variants, **common):
    """Runs `op` for every suffix -> (inputs, args)."""
    for suffix, (inputs, args) in variants.items():
        s.run(f"{op}_{suffix}" if suffix else op, op, inputs, **common, **args)


# --- Binary arithmetic -----------------------------------------------------------------------

PAIRS = {
    "same": ((3, 4), (3, 4)),
    "row": ((3, 4), (4,)),
    "column": ((3, 4), (3, 1)),
    "both": ((3, 1), (1, 4)),
    "rank": ((2, 3, 4), (3, 1)),
    "0d": ((2, 3), ()),
    "0d_0d": ((), ()),
    "empty": ((0, 3), (3,)),
    "empty_one": ((2, 0), (2, 1)),
}
for op in ["add", "sub", "mul", "div"]:
    each(op, {k: ([randn(*a), uniform(0.5, 2, *b)], {}) for k, (a, b) in PAIRS.items()})
    each(op, {
        "scalar": ([randn(2, 3)], {"other": 2.5}),
        "scalar_int": ([randn(2, 3)], {"other": 3}),
        "f32": ([randn(2, 3, dtype=f32), uniform(0.5, 2, 3, dtype=f32)], {}),
        "f32_scalar": ([randn(2, 3, dtype=f32)], {"other": 0.1}),
        "i64": ([randint(-9, 9, 2, 3), randint(1, 9, 3)], {}),
        "i64_int": ([randint(-9, 9, 4)], {"other": 3}),
        "i64_float": ([randint(-9, 9, 4)], {"other": 0.5}),
    })
each("add", {"alpha": ([randn(2, 3), randn(3)], {"alpha": 0.5})})
each("sub", {"alpha": ([randn(2, 3), randn(3)], {"alpha": 2})})
each("rsub", {"float": ([randn(2, 3)], {"other": 1.0}), "i64": ([randint(-9, 9, 4)], {"other": 1})})
each("rdiv", {"float": ([uniform(0.5, 2, 2, 3)], {"other": 1.0}), "i64": ([randint(1, 9, 4)], {"other": 1})})
each("div", {
    "zero": ([const([1.0, -1.0, 0.0, nan]), const([0.0, 0.0, 0.0, 1.0])], {}),
    "i64_zero": ([const([1, -1, 0], i64), const([0, 0, 0], i64)], {}),
    "floor": ([const([7.0, -7.0, 7.0, -7.0]), const([2.0, 2.0, -2.0, -2.0])], {"rounding_mode": "floor"}),
    "trunc": ([const([7.0, -7.0, 7.0, -7.0]), const([2.0, 2.0, -2.0, -2.0])], {"rounding_mode": "trunc"}),
    "i64_floor": ([const([7, -7, 7, -7], i64), const([2, 2, -2, -2], i64)], {"rounding_mode": "floor"}),
    "i64_trunc": ([const([7, -7, 7, -7], i64), const([2, 2, -2, -2], i64)], {"rounding_mode": "trunc"}),
})
for op in ["floor_divide", "remainder"]:
    each(op, {
        "f64": ([const([7.0, -7.0, 7.0, -7.0, 0.5]), const([2.0, 2.0, -2.0, -2.0, 0.25])], {}),
        "i64": ([const([7, -7, 7, -7], i64), const([2, 2, -2, -2], i64)], {}),
    }, grad=op == "remainder")
s.run("mul_self", "mul_self", [randn(3)])

each("pow", {
    "tensor": ([uniform(0.2, 2, 2, 3), randn(3)], {}),
    "tensor_zero_base": ([const([0.0, 0.0, 0.0, 2.0]), const([0.0, 1.0, 2.0, 0.0])], {}),
    "tensor_f32": ([uniform(0.2, 2, 2, 3, dtype=f32), randn(2, 3, dtype=f32)], {}),
    "tensor_i64": ([randint(-4, 4, 5), randint(0, 4, 5)], {}),
    **{f"scalar_{k}": ([const([-2.0, -0.5, 0.0, 0.5, 2.0])], {"exponent": p})
       for k, p in {"0": 0, "1": 1, "2": 2, "3": 3, "m1": -1, "2f": 2.0, "half": 0.5, "1p5": 1.5}.items()},
    "scalar_i64": ([const([-2, 0, 3], i64)], {"exponent": 3}),
    "scalar_i64_float": ([const([0, 2, 3], i64)], {"exponent": 0.5}),
})
each("rpow", {
    "2": ([randn(2, 3)], {"base": 2}),
    "half": ([randn(2, 3)], {"base": 0.5}),
    "0": ([const([0.0, 1.0, 2.0])], {"base": 0.0}),
    "i64": ([const([0, 1, 5], i64)], {"base": 2}),
})

# --- Unary -----------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-8, -1e-8, 30.0, -30.0, 1e4, -1e4, inf, -inf, nan]
POSITIVE = ["sqrt", "log", "log1p", "rsqrt", "reciprocal"]
UNARY = POSITIVE + ["exp", "sin", "cos", "tanh", "sigmoid", "relu", "abs", "neg", "square", "silu", "softplus"]
for op in UNARY:
    def draw(*shape, dtype=f64, op=op):
        return uniform(0.1, 4, *shape, dtype=dtype) if op in POSITIVE else randn(*shape, dtype=dtype)
    each(op, {
        "": ([draw(3, 4)], {}),
        "0d": ([draw()], {}),
        "empty": ([draw(0, 3)], {}),
        "f32": ([draw(2, 3, dtype=f32)], {}),
        "special": ([const(SPECIAL)], {}),
    })
for op in ["sqrt", "exp", "log", "sin", "tanh", "sigmoid", "reciprocal"]:  # integers become floats
    each(op, {"i64": ([const([1, 2, 3], i64)], {})})
for op in ["relu", "abs", "neg", "square"]:  # integers stay
    each(op, {"i64": ([const([-2, 0, 3], i64)], {})})
for mode in ["none", "tanh"]:
    each("gelu", {
        mode: ([randn(3, 4)], {"approximate": mode}),
        f"{mode}_f32": ([randn(3, 4, dtype=f32)], {"approximate": mode}),
        f"{mode}_wide": ([const([-1e4, -40.0, -6.0, -1.0, 0.0, 1.0, 6.0, 40.0, 1e4])], {"approximate": mode}),
    })
each("leaky_relu", {"": ([const([-2.0, -0.0, 0.0, 3.0])], {"negative_slope": 0.1})})
each("elu", {"": ([const([-2.0, -0.0, 0.0, 3.0])], {"alpha": 1.5})})
for op in ["floor", "ceil", "round", "trunc", "sign"]:
    each(op, {"": ([const([-2.5, -1.5, -0.5, -0.2, 0.0, 0.2, 0.5, 1.5, 2.5, 3.7])], {})})
for op in ["isnan", "isinf", "isfinite"]:
    each(op, {"": ([const(SPECIAL)], {})}, grad=False)

CLAMPED = const([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, nan])
each("clamp", {
    "min": ([CLAMPED], {"min": -1.0}),
    "max": ([CLAMPED], {"max": 1.0}),
    "both": ([CLAMPED], {"min": -1.0, "max": 1.0}),
    "crossed": ([CLAMPED], {"min": 1.0, "max": -1.0}),
    "i64": ([const([-3, 0, 3], i64)], {"min": -1, "max": 2}),
    "i64_float": ([const([-3, 0, 3], i64)], {"min": -1.5, "max": 2}),
    "tensor": ([randn(2, 3)], {"min": const([-0.5, 0.0, 0.5]), "max": const([0.5, 0.5, 0.5])}),
    "tensor_ties": ([CLAMPED], {"min": torch.full((8,), -1.0, dtype=f64), "max": torch.full((8,), 1.0, dtype=f64)}),
    "tensor_all_equal": ([const([1.0, 1.0])], {"min": const([1.0, 2.0]), "max": const([1.0, 0.0])}),
    "tensor_min": ([CLAMPED], {"min": const(-1.0)}),
    "f32": ([CLAMPED.float()], {"min": -1.0, "max": 0.5}),
})
each("relu", {"ties_f32": ([const([-1.0, -0.0, 0.0, 1.0], f32)], {})})

# --- Pairs: the larger one, comparisons, where --------------------------------------------------

TIES = [const([1.0, 2.0, 3.0, -0.0, nan, 5.0, inf]), const([1.0, 3.0, 2.0, 0.0, 4.0, nan, inf])]
for op in ["maximum", "minimum"]:
    each(op, {
        "": ([randn(3, 4), randn(4)], {}),
        "ties": (TIES, {}),
        "ties_broadcast": ([const([[1.0, 2.0], [2.0, 2.0]]), const([2.0])], {}),
        "i64": ([const([1, 5, 3], i64), const([2, 4, 3], i64)], {}),
        "mixed": ([const([1, 5, 3], i64), const([2.0, 4.0, 3.0], f32)], {}),
    })
for op in ["max", "min"]:
    each(op, {"pair_ties": (TIES, {})})
for op in ["eq", "ne", "lt", "le", "gt", "ge"]:
    each(op, {
        "": (TIES, {}),
        "broadcast": ([const([[1.0], [2.0]]), const([1.0, 2.0, 3.0])], {}),
        "scalar": ([const([1.0, 2.0, 3.0])], {"other": 2}),
        "i64_scalar": ([const([1, 2, 3], i64)], {"other": 1.5}),
        "mixed": ([const([1, 2, 3], i64), const([1.0, 2.5, 2.0], f32)], {}),
        "bool": ([const([True, False, True, False], b8), const([True, True, False, False], b8)], {}),
        "empty": ([randn(0, 3), randn(3)], {}),
    }, grad=False)
for op in ["logical_and", "logical_or", "logical_xor"]:
    each(op, {
        "": ([const([True, False, True, False], b8), const([True, True, False, False], b8)], {}),
        "f64": ([const([0.0, 2.0, nan, 0.0]), const([1.0, 0.0, 1.0, 0.0])], {}),
    }, grad=False)
each("logical_not", {"": ([const([True, False], b8)], {}), "f64": ([const([0.0, -0.0, 2.0])], {})}, grad=False)
MASK = const([[True, False, True], [False, False, True]], b8)
each("where", {
    "": ([MASK, randn(2, 3), randn(2, 3)], {}),
    "broadcast": ([MASK, randn(3), randn(2, 1)], {}),
    "broadcast_mask": ([const([True, False, True], b8), randn(2, 3), randn()], {}),
    "scalar": ([MASK, randn(2, 3)], {"other": 0.0}),
    "scalars": ([MASK], {"input": 1.5, "other": -1.0}),
    "scalars_int": ([MASK], {"input": 1, "other": 0}),
    "mixed": ([MASK, randint(0, 9, 3), randn(2, 3, dtype=f32)], {}),
    "blocks_nan": ([const([True, False], b8), const([1.0, 2.0]), const([nan, 4.0])], {}),
    "index": ([MASK], {}),
})

# --- Reductions ---------------------------------------------------------------------------------

DIMS = {
    "all": {},
    "dim0": {"dim": 0},
    "dim1_keep": {"dim": 1, "keepdim": True},
    "last": {"dim": -1},
    "dims": {"dim": [0, 2]},
    "dims_keep": {"dim": [0, -1], "keepdim": True},
}
for op in ["sum", "mean", "amax", "amin", "logsumexp"]:
    each(op, {k: ([randn(2, 3, 4)], a) for k, a in DIMS.items() if a or op not in ["logsumexp"]})
    each(op, {"f32": ([randn(2, 3, dtype=f32)], {"dim": 1})})
for op in ["var", "std"]:
    for correction in [0, 1]:
        each(op, {f"{k}_correction{correction}": ([randn(2, 3, 4)], {**a, "correction": correction}) for k, a in DIMS.items()})
    each(op, {
        "unbiased": ([randn(5)], {"unbiased": True}),
        "biased": ([randn(5)], {"unbiased": False}),
        "default": ([randn(5)], {}),
        "f32": ([randn(3, 4, dtype=f32)], {"dim": 1}),
        "constant": ([const([2.0, 2.0, 2.0])], {}),
        "one": ([const([2.0])], {}),
        "one_biased": ([const([2.0])], {"correction": 0}),
    })
for op in ["sum", "mean"]:
    each(op, {
        "0d": ([randn()], {}),
        "empty": ([randn(0, 3)], {}),
        "empty_dim0": ([randn(0, 3)], {"dim": 0}),
        "empty_dim1": ([randn(0, 3)], {"dim": 1}),
        "no_dims": ([randn(2, 3)], {"dim": []}),
        "f32_all": ([randn(3, 4, dtype=f32)], {}),
    })
each("sum", {
    "i32": ([const([1, 2, 3], i32)], {}),
    "i64": ([const([1, 2, 3], i64)], {}),
    "u8": ([const([200, 200], u8)], {}),
    "bool": ([MASK], {}),
    "bool_dim": ([MASK], {"dim": 1}),
    "dtype": ([const([1, 2, 3], i64)], {"dtype": f32}),
})
each("mean", {"i64_dtype": ([const([1, 2, 4], i64)], {"dtype": f64})})
for op in ["max", "min"]:
    each(op, {
        "all": ([randn(3, 4)], {}),
        "all_ties": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {}),
        "all_nan": ([const([1.0, nan, 3.0])], {}),
        "0d": ([randn()], {}),
        "dim0": ([randn(3, 4)], {"dim": 0}),
        "dim1_keep": ([randn(2, 3, 4)], {"dim": 1, "keepdim": True}),
        "dim_last_f32": ([randn(2, 3, dtype=f32)], {"dim": -1}),
        "dim_ties": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {"dim": 1}),
        "dim_nan": ([const([[1.0, nan, 3.0], [nan, nan, 1.0]])], {"dim": 1}),
        "0d_dim": ([randn()], {"dim": 0}),
        "i64": ([const([3, 1, 2], i64)], {}),
        "i64_dim": ([const([[3, 1, 2], [1, 5, 5]], i64)], {"dim": 1}),
        "bool": ([MASK], {}),
        "empty_dim": ([randn(0, 3)], {"dim": 1}),
    })
for op in ["amax", "amin"]:
    each(op, {
        "ties": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {"dim": 1}),
        "ties_all": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {}),
    })
for op in ["argmax", "argmin"]:
    each(op, {
        "all": ([randn(3, 4)], {}),
        "dim0": ([randn(3, 4)], {"dim": 0}),
        "dim1_keep": ([randn(2, 3, 4)], {"dim": 1, "keepdim": True}),
        "ties": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {"dim": 1}),
        "ties_all": ([const([[1.0, 3.0, 3.0], [3.0, 1.0, 1.0]])], {}),
        "nan": ([const([[1.0, nan, 3.0], [nan, nan, 1.0]])], {"dim": 1}),
        "0d": ([randn()], {}),
        "i64": ([const([3, 1, 2], i64)], {}),
    }, grad=False)
each("prod", {
    "all": ([randn(2, 3)], {}),
    "all_one_zero": ([const([2.0, 0.0, 3.0])], {}),
    "all_two_zeros": ([const([2.0, 0.0, 3.0, 0.0])], {}),
    "dim0": ([randn(3, 4)], {"dim": 0}),
    "dim1_keep": ([randn(2, 3, 4)], {"dim": 1, "keepdim": True}),
    "dim_zeros": ([const([[2.0, 0.0, 3.0], [0.0, 5.0, 0.0], [1.0, 2.0, 3.0]])], {"dim": 1}),
    "0d": ([randn()], {}),
    "empty": ([randn(0, 3)], {}),
    "i32": ([const([2, 3, 4], i32)], {}),
    "bool": ([MASK], {}),
})
for op in ["any", "all"]:
    each(op, {
        "": ([MASK], {}),
        "dim": ([MASK], {"dim": 1}),
        "f64": ([const([0.0, 2.0])], {}),
        "empty": ([const([], b8)], {}),
    }, grad=False)

EXTREME = const([[1e4, -1e4, 0.0], [-inf, 0.0, 1.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4 + 1]])
for op in ["softmax", "log_softmax", "logsumexp"]:
    each(op, {
        "rows": ([randn(3, 4)], {"dim": 1}),
        "first": ([randn(2, 3, 4)], {"dim": 0}),
        "middle": ([randn(2, 3, 4)], {"dim": 1}),
        "one": ([randn(3, 1)], {"dim": 1}),
        "0d": ([randn()], {"dim": 0}),
        "empty": ([randn(0, 3)], {"dim": 1}),
        "rows_f32": ([randn(3, 4, dtype=f32)], {"dim": -1}),
        "extreme": ([EXTREME], {"dim": 1}),
        "extreme_f32": ([EXTREME.float()], {"dim": 1}),
        "all_minus_inf": ([const([[-inf, -inf], [0.0, 1.0]])], {"dim": 1}),
        "inf": ([const([[inf, 0.0], [0.0, 1.0]])], {"dim": 1}),
    })
each("softmax", {"dtype": ([randn(2, 3, dtype=f32)], {"dim": 1, "dtype": f64})})
each("logsumexp", {"empty_dim": ([randn(0, 3)], {"dim": 0})})

each("norm", {
    f"{k}_{d}": ([randn(3, 4)], {"p": p, **a})
    for k, p in {"2": 2, "1": 1, "inf": inf, "minf": -inf, "0": 0, "3": 3}.items()
    for d, a in {"all": {}, "dim1": {"dim": 1}, "dim0_keep": {"dim": 0, "keepdim": True}}.items()
})
each("norm", {
    "default": ([randn(2, 3)], {}),
    "dims": ([randn(2, 3, 4)], {"p": 2, "dim": [0, 2]}),
    "f32": ([randn(3, 4, dtype=f32)], {"p": 2, "dim": 1}),
    "2_at_zero": ([torch.zeros(2, 2, dtype=f64)], {"p": 2}),
    "2_row_at_zero": ([const([[0.0, 0.0], [3.0, 4.0]])], {"p": 2, "dim": 1}),
    "1_at_zero": ([const([0.0, -2.0, 3.0])], {"p": 1}),
    "inf_ties": ([const([3.0, -3.0, 1.0])], {"p": inf}),
    "inf_at_zero": ([const([0.0, 0.0])], {"p": inf}),
    "3_at_zero": ([const([0.0, 0.0])], {"p": 3}),
    "half_at_zero": ([const([0.0, 4.0])], {"p": 0.5}),
    "0_zeros": ([const([0.0, 2.0, -1.0])], {"p": 0}),
    "empty": ([randn(0, 3)], {"p": 2}),
})

# --- Shape ------------------------------------------------------------------------------------

each("reshape", {
    "": ([randn(2, 6)], {"shape": [3, 4]}),
    "infer": ([randn(2, 3, 4)], {"shape": [2, -1]}),
    "0d": ([randn(1, 1)], {"shape": []}),
    "empty": ([randn(0, 3)], {"shape": [3, 0]}),
    "i64": ([randint(0, 9, 2, 3)], {"shape": [6]}),
})
each("transpose_reshape", {"": ([randn(2, 3, 4)], {"dim0": 0, "dim1": 2, "shape": [4, 6]})})
each("flatten", {
    "": ([randn(2, 3, 4)], {}),
    "start": ([randn(2, 3, 4)], {"start_dim": 1}),
    "middle": ([randn(2, 3, 4, 2)], {"start_dim": 1, "end_dim": 2}),
    "0d": ([randn()], {}),
    "empty": ([randn(0, 3, 2)], {"start_dim": 1}),
})
each("transpose", {"": ([randn(2, 3)], {"dim0": 0, "dim1": 1}), "negative": ([randn(2, 3, 4)], {"dim0": -1, "dim1": -3})})
each("t", {"": ([randn(2, 3)], {}), "1d": ([randn(3)], {})})
each("permute", {"": ([randn(2, 3, 4)], {"dims": [2, 0, 1]}), "negative": ([randn(2, 3, 4)], {"dims": [-1, 0, -2]})})
each("squeeze", {
    "all": ([randn(1, 3, 1)], {}),
    "dim": ([randn(1, 3, 1)], {"dim": 0}),
    "dim_kept": ([randn(1, 3, 1)], {"dim": 1}),
    "dims": ([randn(1, 3, 1)], {"dim": [0, 1, 2]}),
})
each("unsqueeze", {k: ([randn(2, 3)], {"dim": d}) for k, d in {"first": 0, "middle": 1, "last": -1}.items()})
each("expand", {
    "row": ([randn(3)], {"size": [2, 3]}),
    "column": ([randn(3, 1)], {"size": [2, -1, 4]}),
    "0d": ([randn()], {"size": [2, 2]}),
    "empty": ([randn(1, 3)], {"size": [0, 3]}),
})
each("broadcast_to", {"": ([randn(3, 1)], {"size": [3, 2]})})
each("cat", {
    "dim0": ([randn(2, 3), randn(1, 3)], {"dim": 0}),
    "last": ([randn(2, 3), randn(2, 1), randn(2, 2)], {"dim": -1}),
    "empty": ([randn(0, 3), randn(2, 3)], {"dim": 0}),
    "legacy_empty": ([randn(0), randn(2, 3)], {"dim": 1}),
    "mixed": ([randint(0, 9, 2), randn(2, dtype=f32)], {"dim": 0}),
})
each("stack", {"dim0": ([randn(3), randn(3)], {"dim": 0}), "last": ([randn(2, 3), randn(2, 3)], {"dim": -1}), "0d": ([randn(), randn()], {"dim": 0})})
each("chunk", {
    "even": ([randn(6)], {"chunks": 3, "dim": 0}),
    "uneven": ([randn(2, 7)], {"chunks": 3, "dim": 1}),
    "fewer": ([randn(5)], {"chunks": 4, "dim": 0}),
})
each("split", {
    "size": ([randn(5, 2)], {"split_size_or_sections": 2, "dim": 0}),
    "sections": ([randn(2, 6)], {"split_size_or_sections": [1, 2, 3], "dim": 1}),
})
each("narrow", {"": ([randn(2, 5)], {"dim": 1, "start": 1, "length": 3}), "empty": ([randn(2, 5)], {"dim": 0, "start": 2, "length": 0})})
each("select", {"": ([randn(2, 3)], {"dim": 1, "index": 2}), "negative": ([randn(2, 3, 4)], {"dim": -1, "index": -2})})
each("index", {
    "int": ([randn(3, 4)], {"index": [1]}),
    "ints": ([randn(3, 4)], {"index": [-1, 2]}),
    "slice": ([randn(6)], {"index": [[1, 5, 2]]}),
    "step": ([randn(3, 7)], {"index": [[None, None, None], [None, None, 3]]}),
    "negative": ([randn(5)], {"index": [[-3, -1, None]]}),
    "out_of_range": ([randn(5)], {"index": [[3, 99, None]]}),
    "empty": ([randn(5)], {"index": [[4, 2, None]]}),
    "ellipsis": ([randn(2, 3, 4)], {"index": ["...", 0]}),
    "new_axis": ([randn(2, 3)], {"index": [[None, None, None], None, 1]}),
    "mixed": ([randn(4, 5, 3)], {"index": [[None, None, 2], 1, [1, None, None]]}),
})
each("flip", {"dim0": ([randn(3, 2)], {"dims": [0]}), "dims": ([randn(2, 3, 2)], {"dims": [0, -1]})})
each("roll", {
    "all": ([randn(2, 3)], {"shifts": 2}),
    "dim": ([randn(2, 3)], {"shifts": 1, "dims": 1}),
    "dims": ([randn(3, 4)], {"shifts": [1, -2], "dims": [0, 1]}),
})
each("repeat", {"": ([randn(2, 3)], {"sizes": [2, 2]}), "rank": ([randn(3)], {"sizes": [2, 1, 2]}), "zero": ([randn(3)], {"sizes": [0]})})
for op in ["tril", "triu"]:
    each(op, {f"{k}": ([randn(3, 4)], {"diagonal": d}) for k, d in {"main": 0, "above": 1, "below": -1}.items()})
    each(op, {"batch": ([randn(2, 3, 3)], {})})
each("diag", {
    **{f"matrix_{k}": ([randn(3)], {"diagonal": d}) for k, d in {"main": 0, "above": 1, "below": -2}.items()},
    **{f"vector_{k}": ([randn(3, 4)], {"diagonal": d}) for k, d in {"main": 0, "above": 2, "below": -1}.items()},
})

# --- Indexing and ordering ------------------------------------------------------------------------

each("index_select", {
    "dim0": ([randn(4, 2)], {"dim": 0, "index": const([3, 0, 0], i64)}),
    "dim1": ([randn(2, 4)], {"dim": 1, "index": const([2, 2], i64)}),
    "none": ([randn(2, 4)], {"dim": 1, "index": const([], i64)}),
})
each("gather", {
    "dim0": ([randn(3, 2)], {"dim": 0, "index": const([[2, 0], [1, 1]], i64)}),
    "dim1": ([randn(2, 3)], {"dim": 1, "index": const([[0, 0, 2, 1], [2, 1, 1, 1]], i64)}),
    "fewer_rows": ([randn(3, 3)], {"dim": 1, "index": const([[2], [0]], i64)}),
})
each("scatter", {
    "src": ([randn(3, 4)], {"dim": 1, "index": const([[0, 2], [3, 1]], i64), "src": randn(2, 2)}),
    "value": ([randn(3, 4)], {"dim": 1, "index": const([[0, 2], [3, 1]], i64), "value": 2.5}),
    "dim0": ([randn(3, 2)], {"dim": 0, "index": const([[2, 0]], i64), "src": randn(1, 2)}),
})
each("scatter_add", {
    "": ([randn(3, 4)], {"dim": 1, "index": const([[0, 0, 2], [3, 3, 3]], i64), "src": randn(2, 3)}),
    "dim0": ([randn(2, 3)], {"dim": 0, "index": const([[0, 1, 0], [0, 1, 1], [1, 1, 0]], i64), "src": randn(3, 3)}),
})
each("masked_fill", {
    "": ([randn(2, 3)], {"mask": MASK, "value": 7.0}),
    "minus_inf": ([randn(2, 3)], {"mask": MASK, "value": -inf}),
    "broadcast": ([randn(2, 3)], {"mask": const([[True], [False]], b8), "value": 0}),
    "i64": ([const([1, 2], i64)], {"mask": const([True, False], b8), "value": 9}),
})
each("masked_select", {"": ([randn(2, 3)], {"mask": MASK})})
each("one_hot", {"": ([const([0, 2, 1], i64)], {}), "classes": ([const([[0], [3]], i64)], {"num_classes": 5})})
for k, a in {"": {}, "descending": {"descending": True}, "dim0": {"dim": 0}}.items():
    each("sort", {k: ([randn(3, 4)], a)})
each("sort", {
    "stable": ([const([2.0, 1.0, 2.0, 1.0, 2.0])], {"stable": True}),
    "stable_descending": ([const([2.0, 1.0, 2.0, 1.0, 2.0])], {"stable": True, "descending": True}),
    "nan": ([const([2.0, nan, inf, -inf])], {"stable": True}),
    "nan_descending": ([const([2.0, nan, inf, -inf])], {"stable": True, "descending": True}),
    "i64": ([const([3, 1, 2], i64)], {}),
    "0d": ([randn()], {}),
    "empty": ([randn(0, 3)], {}),
})
each("argsort", {"": ([randn(2, 4)], {}), "descending": ([randn(2, 4)], {"dim": 0, "descending": True})}, grad=False)
each("topk", {
    "largest": ([randn(2, 5)], {"k": 3}),
    "smallest": ([randn(2, 5)], {"k": 2, "largest": False}),
    "dim0": ([randn(4, 3)], {"k": 2, "dim": 0}),
    "zero": ([randn(4)], {"k": 0}),
    "i64": ([const([3, 9, 5, 7], i64)], {"k": 2}),
    "nan": ([const([1.0, nan, 3.0])], {"k": 2}),
})
each("cumsum", {
    "dim0": ([randn(3, 2)], {"dim": 0}),
    "last": ([randn(2, 3, 4)], {"dim": -1}),
    "i32": ([const([1, 2, 3], i32)], {"dim": 0}),
    "bool": ([const([True, False, True], b8)], {"dim": 0}),
    "0d": ([randn()], {"dim": 0}),
    "empty": ([randn(0, 3)], {"dim": 0}),
})

TIES = [2.0, 3.0, 3.0, 1.0, 3.0, -0.0, 0.0, 2.0]
for op in ["cummax", "cummin"]:
    each(op, {
        "dim0": ([randn(3, 2)], {"dim": 0}),
        "last": ([randn(2, 3, 4)], {"dim": -1}),
        "long": ([randint(0, 9, 1, 70, dtype=f32)], {"dim": 1}),
        "columns": ([randint(0, 9, 4, 20, dtype=f32)], {"dim": 0}),
        "ties": ([const(TIES)], {"dim": 0}),
        "ties_f32": ([const(TIES, f32)], {"dim": 0}),
        "nan": ([const([2.0, nan, 3.0, nan, -inf, inf])], {"dim": 0}),
        "infinite": ([const([-inf, inf, -inf, inf, 0.0])], {"dim": 0}),
        "f16": ([const([1.0, 5.0, 5.0, 2.0], f16)], {"dim": 0}),
        "bf16": ([const([1.0, 5.0, 5.0, 2.0], bf16)], {"dim": 0}),
        "i64": ([const([3, 1, 3, 4, 1, 4], i64)], {"dim": 0}),
        "i32": ([const([[3, -1], [3, -4]], i32)], {"dim": 1}),
        "u8": ([const([3, 200, 3, 200], u8)], {"dim": 0}),
        "bool": ([const([False, True, False, True], b8)], {"dim": 0}),
        "0d": ([randn()], {"dim": 0}),
        "empty": ([randn(0, 3)], {"dim": 0}),
        "empty_line": ([randn(3, 0)], {"dim": 1}),
    })

# --- Products ---------------------------------------------------------------------------------

each("dot", {"": ([randn(4), randn(4)], {}), "empty": ([randn(0), randn(0)], {}), "i64": ([randint(0, 9, 3), randint(0, 9, 3)], {})})
each("outer", {"": ([randn(3), randn(4)], {})})
for name, shapes in {
    "1d_1d": ((3,), (3,)),
    "1d_2d": ((3,), (3, 4)),
    "2d_1d": ((2, 3), (3,)),
    "2d_2d": ((2, 3), (3, 4)),
    "1d_3d": ((3,), (2, 3, 4)),
    "3d_1d": ((2, 4, 3), (3,)),
    "3d_2d": ((2, 4, 3), (3, 2)),
    "2d_3d": ((4, 3), (2, 3, 2)),
    "3d_3d": ((2, 4, 3), (2, 3, 2)),
    "broadcast": ((2, 1, 2, 3), (4, 3, 2)),
    "broadcast_one": ((1, 2, 3), (2, 3, 2)),
    "empty_k": ((2, 0), (0, 3)),
    "empty_k_1d": ((0,), (0,)),
    "empty_k_batch": ((2, 2, 0), (2, 0, 3)),
    "empty_rows": ((0, 3), (3, 2)),
    "empty_batch": ((0, 2, 3), (3, 2)),
}.items():
    each("matmul", {name: ([randn(*shape) for shape in shapes], {})})
each("matmul", {
    "f32": ([randn(5, 7, dtype=f32), randn(7, 3, dtype=f32)], {}),
    "i64": ([randint(-5, 5, 2, 3), randint(-5, 5, 3, 2)], {}),
    "i64_batch": ([randint(-5, 5, 2, 2, 3), randint(-5, 5, 3, 2)], {}),
    "wide": ([randn(17, 33), randn(33, 9)], {}),
})
s.run("matmul_self_t", "matmul_self_t", [randn(2, 3)])
each("mm", {"": ([randn(2, 3), randn(3, 4)], {})})
each("bmm", {"": ([randn(2, 2, 3), randn(2, 3, 4)], {})})
each("mv", {"": ([randn(2, 3), randn(3)], {})})
# A tensor of the product's shape is added, and one that broadcasts to it.
for op, whole, part, factors in [
    ("addmm", (2, 4), (4,), [(2, 3), (3, 4)]),
    ("addmv", (2,), (1,), [(2, 3), (3,)]),
    ("addr", (2, 3), (3,), [(2,), (3,)]),
    ("baddbmm", (2, 3, 4), (3, 1), [(2, 3, 5), (2, 5, 4)]),
    ("addbmm", (3, 4), (4,), [(2, 3, 5), (2, 5, 4)]),
]:
    each(op, {
        "": ([randn(*shape) for shape in [whole, *factors]], {}),
        "part": ([randn(*shape) for shape in [part, *factors]], {"beta": 0.5, "alpha": -1.5}),
        "number": ([randn(*shape) for shape in [(), *factors]], {"alpha": 2.0}),
        "f32": ([randn(*shape, dtype=f32) for shape in [whole, *factors]], {"beta": 0.3, "alpha": 0.7}),
        "i64": ([randint(-5, 5, *shape) for shape in [part, *factors]], {"beta": 2, "alpha": -3}),
    })
for op, shape in [("baddbmm", (3, 4)), ("addbmm", (3, 4))]:
    each(op, {"empty_batch": ([randn(*shape), randn(0, 3, 5), randn(0, 5, 4)], {"beta": 0.5})})
for k, shape in {"1d": (3,), "2d": (5, 3), "3d": (2, 4, 3), "empty": (0, 3)}.items():
    each("linear", {k: ([randn(*shape), randn(2, 3)], {}), f"{k}_bias": ([randn(*shape), randn(2, 3), randn(2)], {})})
each("linear", {"f32": ([randn(4, 3, dtype=f32), randn(2, 3, dtype=f32), randn(2, dtype=f32)], {})})
for name, (equation, shapes) in {
    "mm": ("ij,jk->ik", [(2, 3), (3, 4)]),
    "bmm": ("bij,bjk->bik", [(2, 3, 4), (2, 4, 2)]),
    "diagonal": ("ii->i", [(3, 3)]),
    "trace": ("ii->", [(3, 3)]),
    "outer": ("i,j->ij", [(3,), (4,)]),
    "transpose": ("ij->ji", [(2, 3)]),
    "bilinear": ("bi,ij,bj->b", [(2, 3), (3, 4), (2, 4)]),
    "ellipsis": ("...ij->...ji", [(2, 3, 4)]),
    "ellipsis_mm": ("...ij,jk->...ik", [(2, 2, 3), (3, 2)]),
    "implicit": ("ij,jk", [(2, 3), (3, 4)]),
    "implicit_order": ("ba", [(2, 3)]),
    "sum": ("ij->", [(2, 3)]),
    "row_sum": ("ij->i", [(2, 3)]),
    "dot": ("i,i->", [(3,), (3,)]),
    "mul": ("ij,ij->ij", [(2, 3), (2, 3)]),
    "heads": ("bqhd,bkhd->bhqk", [(2, 3, 2, 2), (2, 4, 2, 2)]),
    "spaces": (" i j , j k -> i k ", [(2, 3), (3, 2)]),
    "size_one": ("ij,ij->ij", [(2, 3), (1, 3)]),
}.items():
    each("einsum", {name: ([randn(*shape) for shape in shapes], {"equation": equation})})

# --- Constructors -------------------------------------------------------------------------------

CONSTRUCTORS = [
    ("eye", {"square": {"n": 3}, "wide": {"n": 2, "m": 4}, "f64": {"n": 3, "m": 1, "dtype": f64}, "empty": {"n": 0}}),
    ("arange", {
        "end": {"end": 5}, "start": {"start": 2, "end": 6}, "step": {"start": 1, "end": 10, "step": 3},
        "down": {"start": 5, "end": 0, "step": -2}, "float": {"end": 2.5}, "fraction": {"start": 0, "end": 1, "step": 0.1},
        "f64": {"start": 1, "end": 2, "step": 0.25, "dtype": f64}, "int_as_f32": {"end": 4, "dtype": f32}, "empty": {"end": 0},
    }),
    ("linspace", {
        "": {"start": 0, "end": 1, "steps": 5}, "f64": {"start": -1, "end": 1, "steps": 7, "dtype": f64},
        "down": {"start": 3, "end": -3, "steps": 10}, "one": {"start": 2, "end": 5, "steps": 1}, "none": {"start": 0, "end": 1, "steps": 0},
        "i64": {"start": 0, "end": 10, "steps": 4, "dtype": i64},
    }),
    ("full", {
        "float": {"size": [2, 2], "fill_value": 1.5}, "int": {"size": [2], "fill_value": 3},
        "bool": {"size": [2], "fill_value": True}, "0d": {"size": [], "fill_value": 2.0},
    }),
]
for op, variants in CONSTRUCTORS:
    each(op, {k: ([], args) for k, args in variants.items()})

# --- Which dtype comes out --------------------------------------------------------------------------

DTYPES = {"bool": b8, "u8": u8, "i32": i32, "i64": i64, "f16": f16, "bf16": bf16, "f32": f32, "f64": f64}
NAMES = list(DTYPES)
for i, a in enumerate(NAMES):
    for b in NAMES[i:]:
        s.run(f"promote_{a}_{b}", "add", [const([1, 0, 1], DTYPES[a]), const([1, 1, 0], DTYPES[b])], grad=False)
for name, vector, scalar in [("f32_0d_f64", f32, f64), ("i64_0d_f32", i64, f32), ("i32_0d_i64", i32, i64), ("f16_0d_f32", f16, f32), ("bool_0d_i64", b8, i64), ("u8_0d_f64", u8, f64)]:
    s.run(f"promote_{name}", "mul", [const([1, 0, 1], vector), const(2, scalar)], grad=False)
for name, dtype in DTYPES.items():
    each("mul", {f"{name}_by_int": ([const([1, 0, 1], dtype)], {"other": 2}), f"{name}_by_float": ([const([1, 0, 1], dtype)], {"other": 0.5}), f"{name}_by_bool": ([const([1, 0, 1], dtype)], {"other": True})}, grad=False)
    each("to", {f"{name}": ([const([0.0, 1.0, 2.75, 100.0])], {"dtype": dtype})})
each("to", {
    "truncates": ([const([-1.9, -0.5, 0.5, 1.9])], {"dtype": i64}),
    "bool_nan": ([const([nan, 0.0, -0.0, 1e-30])], {"dtype": b8}),
    "u8_wraps": ([const([255, 256, 257, -1], i64)], {"dtype": u8}),
    "f16_overflow": ([const([65504.0, 65520.0, 1e-8, 0.1])], {"dtype": f16}),
    "bf16_rounds": ([const([1.00390625, 1.01171875, 3.3895e38, 0.1])], {"dtype": bf16}),
    "f32_gradient": ([randn(2, 3)], {"dtype": f32}),
})

# --- Recurrent cells and layers ---------------------------------------------------------------------

for suffix, dtype in [("", f64), ("f32", f32)]:
    each("lstm_cell", {suffix: ([randn(3, 8, dtype=dtype), randn(3, 8, dtype=dtype), randn(3, 2, dtype=dtype)], {})})
    each("gru_cell", {suffix: ([randn(3, 6, dtype=dtype), randn(3, 6, dtype=dtype), randn(3, 2, dtype=dtype)], {})})
    for name, reverse in [("", False), ("reverse", True)]:
        both = "_".join(filter(None, [name, suffix]))
        states = [randn(2, 3, dtype=dtype) for _ in range(2)]
        each("lstm_layer", {both: ([randn(4, 2, 12, dtype=dtype), *states, randn(12, 3, dtype=dtype)], {"reverse": reverse})})
        operands = [randn(4, 2, 9, dtype=dtype), states[0], randn(9, 3, dtype=dtype)]
        each("gru_layer", {both: ([*operands, randn(9, dtype=dtype)], {"reverse": reverse})})
each("gru_layer", {"no_bias": ([randn(2, 3, 6), randn(3, 2), randn(6, 2)], {})})

s.write()
