"""Writes losses.safetensors: torch.nn.functional losses and their gradients."""

import torch
import torch.nn.functional as F

from golden import *

torch.manual_seed(0)
REDUCTIONS = ["none", "mean", "sum"]
s = Suite("losses", {op: getattr(F, op) for op in [
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "nll_loss", "cross_entropy", "triplet_margin_loss",
]}, no_grad=["weight", "pos_weight"])


def each(op, variants, reductions=REDUCTIONS):
    """Runs `op` for every suffix -> (inputs, args) and every reduction."""
    for suffix, (inputs, args) in variants.items():
        for reduction in reductions:
            s.run("_".join(filter(None, [op, suffix, reduction])), op, inputs, **args, reduction=reduction)


# --- Regression ------------------------------------------------------------------------------

TIED = [const([0.0, 1.0, -2.0, 3.0]), const([0.0, 0.0, 0.0, 3.5])]
for op in ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"]:
    each(op, {
        "": ([randn(3, 4), randn(3, 4)], {}),
        "kinks": (TIED, {}),
        "f32": ([randn(2, 3, dtype=f32), randn(2, 3, dtype=f32)], {}),
    })
    each(op, {"0d": ([randn(), randn()], {}), "empty": ([randn(0, 3), randn(0, 3)], {})}, ["mean"])
each("mse_loss", {"broadcast": ([randn(3, 4), randn(3, 1)], {})}, ["mean"])
each("smooth_l1_loss", {"beta": (TIED, {"beta": 0.5})})
each("huber_loss", {"delta": (TIED, {"delta": 2.0})})

# Of the third input the test has no gradient.
THREE = [randn(4, 3), randn(4, 3), randn(4, 3)]
each("triplet_margin_loss", {
    "": (THREE, {}),
    "swap": (THREE, {"swap": True, "margin": 0.3}),
    "norm": (THREE, {"p": 1.0}),
    "1d": ([randn(5), randn(5), randn(5)], {}),
})

# --- Binary --------------------------------------------------------------------------------------

LOGITS, LABELS = randn(3, 4), uniform(0, 1, 3, 4)
HUGE = [const([1e4, 1e4, -1e4, -1e4, 0.0]), const([1.0, 0.0, 1.0, 0.0, 0.5])]
each("binary_cross_entropy_with_logits", {
    "": ([LOGITS, LABELS], {}),
    "hard": ([LOGITS, randint(0, 2, 3, 4, dtype=f64)], {}),
    "weight": ([LOGITS, LABELS], {"weight": uniform(0.1, 2, 3, 4)}),
    "weight_row": ([LOGITS, LABELS], {"weight": uniform(0.1, 2, 4)}),
    "pos_weight": ([LOGITS, LABELS], {"pos_weight": uniform(0.5, 3, 4)}),
    "both": ([LOGITS, LABELS], {"weight": uniform(0.1, 2, 3, 1), "pos_weight": uniform(0.5, 3, 4)}),
    "huge": (HUGE, {}),
    "huge_pos_weight": (HUGE, {"pos_weight": const([2.0])}),
    "f32": ([randn(2, 3, dtype=f32), uniform(0, 1, 2, 3, dtype=f32)], {}),
    "huge_f32": ([value.float() for value in HUGE], {}),
})
each("binary_cross_entropy", {
    "": ([uniform(0.05, 0.95, 3, 4), LABELS], {}),
    "weight": ([uniform(0.05, 0.95, 3, 4), LABELS], {"weight": uniform(0.1, 2, 3, 4)}),
    "ends": ([const([0.0, 1.0, 0.0, 1.0]), const([0.0, 1.0, 1.0, 0.0])], {}),
})

# --- Classes -------------------------------------------------------------------------------------

WEIGHT = uniform(0.2, 2, 4)
CLASSES = randint(0, 4, 5)
SOME_IGNORED = const([2, -100, 0, -100, 3], i64)
IGNORE_ONE = const([1, 2, 1, 0, 3], i64)
ALL_IGNORED = const([-100] * 5, i64)

for op, scores in [("nll_loss", Spec(lambda g: randn(5, 4).draw(g).log_softmax(1))), ("cross_entropy", randn(5, 4))]:
    each(op, {
        "": ([scores, CLASSES], {}),
        "weight": ([scores, CLASSES], {"weight": WEIGHT}),
        "ignored": ([scores, SOME_IGNORED], {}),
        "ignored_weight": ([scores, SOME_IGNORED], {"weight": WEIGHT}),
        "ignore_index": ([scores, IGNORE_ONE], {"ignore_index": 1}),
        "all_ignored": ([scores, ALL_IGNORED], {}),
        "1d": ([randn(4), const(2, i64)], {}),
        "1d_weight": ([randn(4), const(2, i64)], {"weight": WEIGHT}),
        "3d": ([randn(2, 4, 3), randint(0, 4, 2, 3)], {}),
        "3d_weight": ([randn(2, 4, 3), const([[0, 1, -100], [3, -100, 2]], i64)], {"weight": WEIGHT}),
        "4d": ([randn(2, 3, 2, 2), randint(0, 3, 2, 2, 2)], {}),
        "f32": ([randn(5, 4, dtype=f32), CLASSES], {}),
        "zero_weight": ([scores, const([0, 0, 0, 0, 0], i64)], {"weight": const([0.0, 1.0, 1.0, 1.0])}),
    })
    each(op, {"no_rows": ([randn(0, 4), const([], i64)], {})})

SMOOTH = {"label_smoothing": 0.1}
each("cross_entropy", {
    "extreme": ([const([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4]]), const([0, 0, 1], i64)], {}),
    "extreme_f32": ([const([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4]], f32), const([0, 0, 1], i64)], {}),
    "smooth": ([randn(5, 4), CLASSES], SMOOTH),
    "smooth_full": ([randn(5, 4), CLASSES], {"label_smoothing": 1.0}),
    "smooth_weight": ([randn(5, 4), CLASSES], {**SMOOTH, "weight": WEIGHT}),
    "smooth_ignored": ([randn(5, 4), SOME_IGNORED], SMOOTH),
    "smooth_ignored_weight": ([randn(5, 4), SOME_IGNORED], {**SMOOTH, "weight": WEIGHT}),
    "smooth_ignore_index_weight": ([randn(5, 4), IGNORE_ONE], {**SMOOTH, "weight": WEIGHT, "ignore_index": 1}),
    "smooth_all_ignored": ([randn(5, 4), ALL_IGNORED], SMOOTH),
    "smooth_1d": ([randn(4), const(1, i64)], SMOOTH),
    "smooth_3d": ([randn(2, 4, 3), const([[0, 1, -100], [3, -100, 2]], i64)], SMOOTH),
    "smooth_3d_weight": ([randn(2, 4, 3), const([[0, 1, -100], [3, -100, 2]], i64)], {**SMOOTH, "weight": WEIGHT}),
    "smooth_f32": ([randn(5, 4, dtype=f32), CLASSES], SMOOTH),
    "prob": ([randn(5, 4), probabilities(5, 4)], {}),
    "prob_weight": ([randn(5, 4), probabilities(5, 4)], {"weight": WEIGHT}),
    "prob_smooth": ([randn(5, 4), probabilities(5, 4)], SMOOTH),
    "prob_smooth_weight": ([randn(5, 4), probabilities(5, 4)], {**SMOOTH, "weight": WEIGHT}),
    "prob_3d": ([randn(2, 4, 3), probabilities(2, 4, 3)], {}),
    "prob_3d_smooth_weight": ([randn(2, 4, 3), probabilities(2, 4, 3)], {**SMOOTH, "weight": WEIGHT}),
    "prob_1d": ([randn(4), const([0.1, 0.2, 0.3, 0.4])], {}),
    "prob_f32": ([randn(5, 4, dtype=f32), probabilities(5, 4, dtype=f32)], {}),
})

s.write()
