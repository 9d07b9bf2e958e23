"""Cases of ops.safetensors: arithmetic, functions of one tensor, the larger of two, comparisons, where."""

from ops_suite import *

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
