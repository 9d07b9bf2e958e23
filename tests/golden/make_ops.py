"""Writes ops.safetensors: values and gradients of tensor operations."""

from ops_suite import *

# Each runs its cases; their order is that of the file.
import ops_elementwise, ops_reductions, ops_shapes

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
for suffix, dtype in [("", f64), ("f32", f32)]:
    for kind in ["rnn_tanh_layer", "rnn_relu_layer"]:
        for name, reverse in [("", False), ("reverse", True)]:
            operands = [randn(4, 2, 3, dtype=dtype), randn(2, 3, dtype=dtype), randn(3, 3, dtype=dtype)]
            each(kind, {"_".join(filter(None, [name, suffix])): (operands, {"reverse": reverse})})
each("col2im", {
    "": ([randn(2, 12, 4)], {"output_size": [3, 4], "kernel_size": [2, 3], "padding": [1, 0], "stride": [2, 1]}),
    "dilated": ([randn(8, 6)], {"output_size": [4, 4], "kernel_size": [2, 2], "dilation": [2, 1]}),
})

s.write()
