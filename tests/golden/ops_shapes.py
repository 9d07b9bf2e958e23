"""Cases of ops.safetensors: changes of shape, indexing, order."""

from ops_suite import *

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
