"""Cases of ops.safetensors: reductions, softmax, norms."""

from ops_suite import *

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
