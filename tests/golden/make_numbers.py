"""Writes numbers.safetensors: element-wise operations at the edges of arithmetic.

Numbers that half precision cannot hold, exact remainders, truth values, shifts,
rounding modes, promotion of bounds.
"""

import torch.nn.functional as F

from golden import *


def in_f32(f):
    """`f` of half-precision tensors, computed in f32 and rounded once. PyTorch rounds more often: numbers before they are
    used, quotients before they are truncated, the product with alpha."""

    def run(x, *y, **args):
        if x.dtype not in [f16, bf16]:
            return f(x, *y, **args)
        return f(x.float(), *(t.float() for t in y), **args).to(x.dtype)

    return run


OPS = {
    "rsub": lambda x, *y, **args: torch.rsub(x, *y, **args) if y else torch.rsub(x, **args),
    "rdiv": lambda x, other: other / x,
    "rpow": lambda x, base: base**x,
    "pow": lambda x, *y, **args: torch.pow(x, *y, **args),
    "maximum": lambda x, *y, **args: torch.maximum(x, *y) if y else x.clamp(min=args["other"]),
    "minimum": lambda x, *y, **args: torch.minimum(x, *y) if y else x.clamp(max=args["other"]),
    "clamp": lambda x, **args: torch.clamp(x, **args),
    "masked_fill": lambda x, mask, value: x.masked_fill(mask, value),
    "mul_": lambda x, **args: x.clone().mul_(args["other"]),
    "div_": lambda x, **args: x.clone().div_(args["other"]),
    "add_": lambda x, **args: x.clone().add_(args["other"]),
    "entr": torch.special.entr,
    "i1": torch.special.i1,
    "ndtr": torch.special.ndtr,
    "xlog1py": torch.special.xlog1py,
    "polygamma": lambda x, n: torch.polygamma(n, x),
    "sub_": lambda x, **args: x.clone().sub_(args["other"]),
}

s = Suite("numbers", OPS)


def each(op, variants, **common):
    """Runs `op` for every suffix -> (inputs, args)."""
    for suffix, (inputs, args) in variants.items():
        s.run(f"{op}_{suffix}" if suffix else op, op, inputs, **common, **args)


def each_in_f32(op, variants):
    """The same, in f32 if the first input is of half precision."""
    plain = s.ops.get(op) or find_op(op, s.ops)
    s.ops[op] = in_f32(plain)
    each(op, variants)
    s.ops[op] = plain


def short(dtype):
    return {f16: "f16", bf16: "bf16", f32: "f32", f64: "f64", i64: "i64", i32: "i32", u8: "u8", b8: "bool"}[dtype]


# --- Numbers enter in the computing type -----------------------------------------------------------

SMALL = [0.001, 2.0, -3.0, 0.0, inf, nan, 6e-8]
for dtype in [f16, bf16]:
    x = const(SMALL, dtype)
    k = short(dtype)
    for op in ["mul", "mul_"]:
        each(op, {f"{k}_{n}": ([x], {"other": v}) for n, v in
                  {"1e5": 1e5, "1em8": 1e-8, "65536": 65536, "third": 1 / 3, "max": 3.4e38}.items()})
    for op in ["div", "div_"]:
        each(op, {f"{k}_{n}": ([x], {"other": v}) for n, v in {"70000": 70000.0, "1em8": 1e-8, "third": 1 / 3}.items()})
    for op in ["add", "sub", "add_", "sub_"]:
        each_in_f32(op, {f"{k}_{n}": ([x], {"other": v}) for n, v in {"1001": 1.001, "1e5": 1e5}.items()})
    each("rsub", {f"{k}_1001": ([x], {"other": 1.001})})
    each_in_f32("rdiv", {f"{k}_1e5": ([x], {"other": 1e5}), f"{k}_1em8": ([x], {"other": 1e-8})})
    each("div", {f"{k}_{m}_tenth": ([const([1.0, 2.0, -3.0, 7.5], dtype)], {"other": 0.1, "rounding_mode": m})
                 for m in ["floor", "trunc"]})
    # Comparisons round the number to the tensor's dtype, and so does `where`.
    for op in ["eq", "ne", "lt", "le", "gt", "ge"]:
        each(op, {f"{k}_{n}": ([const([1.0, 1.0009765625, 0.333, 65504.0], dtype)], {"other": v})
                  for n, v in {"10001": 1.0001, "third": 0.333, "1e5": 1e5}.items()}, grad=False)
    each("where", {f"{k}": ([const([True, False, True], b8), const([1.0, 2.0, 3.0], dtype)], {"other": 1.0001})})
    each("clamp", {f"{k}": ([const([1.0, 2.0, -3.0], dtype)], {"min": -1.001, "max": 1.001})})
    positive = const([0.001, 2.0, 3.0, 0.5], dtype)
    each_in_f32("pow", {f"{k}_{n}": ([positive], {"exponent": v}) for n, v in {"1001": 1.001, "third": 1 / 3}.items()})
    each_in_f32("rpow", {f"{k}_1001": ([positive], {"base": 1.001})})
    each_in_f32("maximum", {f"{k}_number": ([positive], {"other": 1.001})})
    each_in_f32("minimum", {f"{k}_number": ([positive], {"other": 1.001})})
    each_in_f32("remainder", {f"{k}_number": ([const([1.0, 2.0, -3.0, 5.5], dtype)], {"other": 1.001})})
    each_in_f32("fmod", {f"{k}_number": ([const([1.0, 2.0, -3.0, 5.5], dtype)], {"other": 1.001})})

# --- Remainders and quotients --------------------------------------------------------------------

A = [1e8, 3e9, 1.0, 5.0, -5.0, 5.0, -5.0, 7.5, -7.5, 7.5, -7.5, 0.0, -0.0, 1.0, inf, nan, 6.0, -6.0]
B = [3.0, 7.0, 0.1, inf, inf, -inf, -inf, 2.0, 2.0, -2.0, -2.0, 3.0, 3.0, 0.0, 2.0, 2.0, 2.0, 2.0]
INTS = ([7, -7, 7, -7, 6, 0], [2, 2, -2, -2, 3, 5])
for dtype in [f64, f32, f16, bf16]:
    k = short(dtype)
    pair = [const(A, dtype), const(B, dtype)]
    for op in ["remainder", "fmod"]:
        each_in_f32(op, {f"{k}_edges": (pair, {})})
        each_in_f32(op, {f"{k}_random": ([uniform(-9, 9, 5, 7, dtype=dtype), uniform(0.2, 3, 7, dtype=dtype)], {})})
    for mode in ["floor", "trunc"]:
        each_in_f32("div", {f"{k}_{mode}_edges": (pair, {"rounding_mode": mode})})
        each_in_f32("div", {f"{k}_{mode}_random":
                            ([uniform(-9, 9, 5, 7, dtype=dtype), uniform(0.2, 3, 7, dtype=dtype)], {"rounding_mode": mode})})
    each("floor_divide", {f"{k}_edges": (pair, {}), f"{k}_number": ([const(A, dtype)], {"other": 2.5})}, grad=False)
for dtype in [i64, i32]:
    k = short(dtype)
    pair = [const(values, dtype) for values in INTS]
    for op in ["remainder", "fmod", "floor_divide"]:
        each(op, {f"{k}_signs": (pair, {}), f"{k}_number": (pair[:1], {"other": -3}),
                  f"{k}_float": (pair[:1], {"other": 2.5})}, grad=False)
    each("div", {f"{k}_{mode}_signs": (pair, {"rounding_mode": mode}) for mode in ["floor", "trunc"]}, grad=False)
each("floor_divide", {"u8": ([const([200, 3, 255], u8), const([7, 7, 2], u8)], {}),
                      "lowest": ([const([-(2**63)], i64)], {"other": -1}),
                      "exact": ([const([2**62 + 1, -(2**62) - 1], i64)], {"other": 2})}, grad=False)
each("atan2", {"zeros": ([const([0.0, -0.0, 0.0, 1.0]), const([0.0, 0.0, -0.0, 0.0])], {}),
               "f32_zeros": ([const([0.0, 1e-30, 0.0], f32), const([0.0, 1e-30, 2.0], f32)], {})})

# --- Truth values and bits -----------------------------------------------------------------------

ALL = {
    "bool": [const([True, False, True, False], b8), const([True, True, False, False], b8)],
    "i64": [const([0, 2, -3, 0], i64), const([1, 4, 0, 0], i64)],
    "u8": [const([0, 2, 3, 0], u8), const([1, 4, 0, 0], u8)],
    "f32": [const([0.0, 2.0, nan, 0.0], f32), const([1.0, inf, 0.0, -0.0], f32)],
    "bf16": [const([0.0, 2.0, nan, 0.0], bf16), const([1.0, inf, 0.0, -0.0], bf16)],
    "types": [const([0, 2, -3, 0], i64), const([1.0, inf, 0.0, -0.0], f32)],
}
for op in ["logical_and", "logical_or", "logical_xor"]:
    each(op, {k: (pair, {}) for k, pair in ALL.items()}, grad=False)
each("logical_not", {k: (pair[:1], {}) for k, pair in ALL.items()}, grad=False)
for op in ["bitwise_and", "bitwise_or", "bitwise_xor"]:
    each(op, {k: (ALL[k], {}) for k in ["bool", "i64", "u8"]}, grad=False)
    each(op, {f"{k}_3": (ALL[k][:1], {"other": 3}) for k in ["bool", "i64", "u8"]}, grad=False)
    each(op, {"bool_true": (ALL["bool"][:1], {"other": True})}, grad=False)
each("bitwise_not", {k: (ALL[k][:1], {}) for k in ["bool", "i64", "u8"]}, grad=False)
for op in ["bitwise_left_shift", "bitwise_right_shift"]:
    each(op, {
        "i64": ([const([5, -7, 1, -1, 5, -5], i64), const([1, 1, 63, 63, 64, 100], i64)], {}),
        "i64_negative": ([const([5, -7], i64), const([-1, -1], i64)], {}),
        "i32": ([const([5, -7, 1, -5], i32), const([1, 2, 31, 32], i32)], {}),
        "u8": ([const([200, 200, 200, 1], u8), const([1, 7, 8, 255], u8)], {}),
        "number": ([const([5, -7], i64)], {"other": 2}),
        "bool_number": ([const([True, False], b8)], {"other": 2}),
    }, grad=False)

T, U = const([True, False, True, False], b8), const([True, True, False, False], b8)
for op in ["add", "mul", "div", "maximum", "minimum", "atan2"]:
    each(op, {"bool_bool": ([T, U], {})}, grad=False)
for op in ["add", "mul", "div", "pow", "remainder", "fmod", "floor_divide"]:
    key = "exponent" if op == "pow" else "other"
    each(op, {"bool_int": ([T], {key: 2}), "bool_float": ([T], {key: 2.5})}, grad=False)
each("add", {"bool_true": ([T], {"other": True})}, grad=False)
each("mul", {"bool_false": ([T], {"other": False})}, grad=False)
for op in ["sign", "square", "reciprocal", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos",
           "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "sigmoid", "erf"]:
    each(op, {"bool": ([T], {})}, grad=False)
each("clamp", {"bool_int": ([T], {"min": 0, "max": 1}), "bool_float": ([T], {"min": 0.5, "max": 2.5})}, grad=False)

# --- Options ---------------------------------------------------------------------------------------

for dtype in [f64, f32, f16, bf16]:
    k = short(dtype)
    for op in ["add", "sub", "rsub"]:
        each_in_f32(op, {f"{k}_alpha": ([randn(3, 4, dtype=dtype), randn(4, dtype=dtype)], {"alpha": 1.7}),
                         f"{k}_alpha_broadcast": ([randn(3, 1, dtype=dtype), randn(2, 1, 4, dtype=dtype)], {"alpha": -2}),
                         f"{k}_alpha_number": ([randn(3, 4, dtype=dtype)], {"other": 0.3, "alpha": 2.5})})
    each("lerp", {f"{k}_{n}": ([randn(3, 4, dtype=dtype), randn(3, 4, dtype=dtype)], {"weight": w})
                  for n, w in {"small": 0.301, "large": 0.7, "one": 1.0, "beyond": -1.3}.items()})
    each("lerp", {f"{k}_tensor": ([randn(3, 4, dtype=dtype), randn(4, dtype=dtype), uniform(-1.5, 1.5, 3, 1, dtype=dtype)], {})})
    each("softplus", {f"{k}_beta": ([randn(3, 4, dtype=dtype)], {"beta": 2.0, "threshold": 1.5}),
                      f"{k}_small_beta": ([randn(3, 4, dtype=dtype)], {"beta": 0.1})})
    each("round", {f"{k}_{d}": ([uniform(-200, 200, 9, dtype=dtype)], {"decimals": d}) for d in [0, 1, 2, -1, -2]})
for op in ["add", "sub", "rsub"]:
    each(op, {"i64_alpha": ([const([1, -2, 3], i64), const([4, 5, -6], i64)], {"alpha": 3}),
              "u8_alpha": ([const([1, 2, 3], u8), const([4, 5, 100], u8)], {"alpha": 3}),
              "i64_alpha_float_number": ([const([1, -2, 3], i64)], {"other": 0.5, "alpha": 1.5})}, grad=False)
each("add", {"bool_alpha": ([T, U], {"alpha": True})}, grad=False)

X32, X64 = const([-2.5, -1.0, 0.5, 3.0], f32), const([-3, -1, 0, 4], i64)
each("clamp", {
    "f32_i64_bounds": ([X32], {"min": const([-1, -1, -1, -1], i64), "max": const([1, 1, 1, 1], i64)}),
    "i64_f32_bounds": ([X64], {"min": const([-1.5] * 4, f32), "max": const([1.5] * 4, f32)}),
    "i64_f64_scalar": ([X64], {"min": const(-1.5, f64)}),
    "f32_f64_scalar": ([X32], {"max": const(1.5, f64)}),
    "f32_f64_bounds": ([X32], {"max": const([1.5] * 4, f64)}),
    "f16_f32_bounds": ([X32.half()], {"min": const([-1.0] * 4, f32)}),
    "f16_bf16_bounds": ([X32.half()], {"min": const([-1.0] * 4, bf16)}),
    "i32_i64_bounds": ([X64.int()], {"max": const([2, 2, 2, 2], i64)}),
    "u8_number": ([const([1, 200], u8)], {"min": 2, "max": 100}),
    "i64_float_max": ([X64], {"max": 2.5}),
})

# --- Rows of the table -----------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-8, -1e-8, 30.0, -30.0, 1e4, -1e4, inf, -inf, nan]
each("mish", {
    "": ([randn(3, 4)], {}),
    "0d": ([randn()], {}),
    "empty": ([randn(0, 3)], {}),
    **{short(t): ([randn(2, 3, dtype=t)], {}) for t in [f32, f16, bf16]},
    "special": ([const(SPECIAL)], {}),
})

# --- Special functions ------------------------------------------------------------------------------

BETWEEN = [0.5, -0.5, 0.3, -0.9, 1.5, -1.5, 2.5, -2.75, 3.7, -10.25, 11.0, -11.5, 1e-3, -1e-3]
EDGES = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, -3.0, -50.0, 1e-8, -1e-8, 1e-40, 1e4, -1e4, 3e38, inf, -inf, nan]
for op in ["asinh", "acosh", "atanh", "erfc", "erfinv", "lgamma", "digamma", "i0", "i1"]:
    each(op, {f"{short(t)}": ([const(BETWEEN, t)], {}) for t in [f64, f32, f16, bf16]})
    each(op, {f"{short(t)}_edges": ([const(EDGES, t)], {}) for t in [f64, f32, f16, bf16]}, grad=False)
    each(op, {"i64": ([const([0, 1, 2, 7], i64)], {}), "u8": ([const([0, 1, 2, 7], u8)], {}), "bool": ([T], {})}, grad=False)
for op in ["i0", "i1"]:
    each(op, {"large": ([const([19.5, -20.5, 40.0, 300.0, -705.0])], {}),
              "f32_large": ([const([19.5, -20.5, 40.0, -85.0], f32)], {})})
each("acosh", {"one": ([const([1.0, 1.0000001, 1.5, 1e10, 1e300])], {})})
each("erfinv", {"tails": ([const([1 - 1e-3, -1 + 1e-9, 1 - 1e-15, 1e-300, -0.99999])], {}),
                "f32_tails": ([const([0.999, -0.9999, 0.99999994, 1e-30], f32)], {})})
for n in range(5):
    each("polygamma", {f"{n}_{short(t)}": ([const(BETWEEN, t)], {"n": n}) for t in [f64, f32]})
    each("polygamma", {f"{n}_{short(t)}": ([const([0.5, 1.5, 2.5, 3.75, 30.0], t)], {"n": n}) for t in [f16, bf16]})
each("polygamma", {"large": ([const([1e4, 1e8, 1e30])], {"n": 1}), "high": ([const([0.5, 3.0, 12.0, 40.0])], {"n": 12}),
                   "i64": ([const([1, 2, 7], i64)], {"n": 2})}, grad=False)
for op in ["gcd", "lcm"]:
    each(op, {short(t): ([const([12, 0, 7, 100, 6, 0, 35], t), const([18, 5, 7, 75, 0, 0, 6], t)], {}) for t in [i64, i32, u8]},
         grad=False)
    each(op, {"signs": ([const([-12, 12, -12, -7], i64), const([18, -18, -18, 0], i64)], {}),
              "broadcast": ([const([[4], [6]], i32), const([2, 9, 10], i32)], {}),
              "types": ([const([4, 6], i32), const([10, 9], i64)], {})}, grad=False)

# --- Composed functions ------------------------------------------------------------------------------

# Every pair of points where a function jumps, bends or ends; equal ones among them.
POINTS = [0.0, -0.0, 1.0, -1.0, 0.5, inf, -inf, nan]
PAIRS = [[a for a in POINTS for _ in POINTS], [b for _ in POINTS for b in POINTS]]
each("float_power", {f"{short(t)}_points": ([const(values, t) for values in PAIRS], {}) for t in [f64, f32, bf16]})
for op in ["copysign", "fmax", "fmin", "hypot", "logaddexp", "logaddexp2", "xlog1py", "xlogy"]:
    each_in_f32(op, {f"{short(t)}_points": ([const(values, t) for values in PAIRS], {}) for t in [f64, f32, bf16]})
for op in ["entr", "frac", "logit", "ndtr", "sinc"]:
    each_in_f32(op, {f"{short(t)}_points": ([const(POINTS + [2.0, -2.5, 1e-20], t)], {}) for t in [f64, f32, bf16]})
each("logit", {f"{short(t)}_eps": ([const(POINTS + [0.1, 0.9], t)], {"eps": 0.25}) for t in [f64, f32]})
for t in [f64, f32, bf16]:
    largest, smallest = torch.finfo(t).max, torch.finfo(t).tiny * torch.finfo(t).eps
    limits = [largest, -largest, smallest, -smallest, torch.finfo(t).tiny, 1.5, 3.0, 4.0]
    steps = [[*limits, *limits, *PAIRS[0]], [inf] * 8 + [-inf] * 8 + PAIRS[1]]
    each("nextafter", {f"{short(t)}_points": ([const(values, t) for values in steps], {})})

s.write()
