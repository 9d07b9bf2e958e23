"""The hot kernels, and what counts as an element of each."""

import re
from dataclasses import dataclass, field

DTYPES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "bits8": 1, "bits16": 2, "bits32": 4, "bits64": 8}


@dataclass
class Hot:
    """A kernel on the hot list: what an element is, whether loads or stores of the dtype count elements, those of packs, too
    (else those of its width alone: others are of indices), of packs perhaps those of one size in bytes, how many of these an
    element has, how many turns loops inside the main one make for an element (by depth), and the loads of a turn of the
    deepest."""

    name: str
    element: str
    counted: str = "store"
    packs: bool = True
    size: int = 0
    each: int = 1
    taps: list = field(default_factory=list)
    per_tap: int = 1


FLOATS = "(f32|f16|bf16)"
HOT = [
    Hot(f"unary_relu_{FLOATS}", "output"),
    Hot(f"unary_grad_relu_{FLOATS}", "input's gradient"),
    Hot(f"binary_add_{FLOATS}", "output"),
    Hot("copy_same_bits(16|32)", "element"),
    Hot("cast_f32_(f16|bf16)", "element"),
    Hot("cast_(f16|bf16)_f32", "element"),
    Hot(f"relu_bias_grad_packed_(along|across)_{FLOATS}", "input's gradient"),
    Hot(f"max_pool_packed_pixels_[23]_{FLOATS}", "output", size=16),
    Hot(f"max_pool_packed_rows16_[23]_{FLOATS}", "output", size=8),
    Hot(f"max_pool_packed_grad_(pixels|rows16)_[23]_{FLOATS}", "input's gradient"),
    Hot(f"mean_packed_grad_(pixels|planes)_{FLOATS}", "input's gradient"),
    Hot(f"dropout_apply_{FLOATS}", "output"),
    Hot(f"reduce_sum_{FLOATS}", "input", counted="load"),
    Hot(f"softmax_packed_(plain|log)_{FLOATS}", "output"),
    Hot(f"softmax_packed_grad_(plain|log)_{FLOATS}", "output"),
    Hot(f"class_loss_packed_labels_{FLOATS}", "class", counted="load", size=16),
    Hot(f"class_loss_packed_grad_labels_{FLOATS}", "class, without the pass that finds the largest", size=16),
    Hot(f"norm_packed_(along|across|rows)_{FLOATS}", "output, without the statistics"),
    Hot(f"norm_packed_grad_(along|across|rows)_{FLOATS}", "input's gradient, without the sums"),
    Hot(f"norm_packed_grad_columns_{FLOATS}", "input", counted="load", size=16, each=2),
    # Of a step that saves its gates; of a GRU, one whose state is also written apart.
    Hot(f"rnn_cell_(lstm|gru)_packed_{FLOATS}", "element of the state", each=6),
    Hot(f"rnn_cell_grad_lstm_packed_{FLOATS}", "element of the state", each=5),
    Hot(f"rnn_cell_grad_gru_packed_{FLOATS}", "element of the state", each=7),
    Hot("optim_(sgd|adagrad)_f32", "parameter", size=16, each=2),
    Hot("optim_(sgd|adagrad)_(f16|bf16)", "parameter", each=2),
    Hot("optim_(adam|rmsprop)_f32", "parameter", size=16, each=4),
    Hot("optim_(adam|rmsprop)_(f16|bf16)", "parameter", each=4),
    # Gradients in half precision. Of six stores on the path, two are of the rounded copy, as f16 or bf16: one of them happens.
    Hot("optim_(sgd|adagrad)_(f16|bf16)_f32", "parameter", size=16, each=3),
    Hot("optim_(adam|rmsprop)_(f16|bf16)_f32", "parameter", size=16, each=4),
    Hot(f"unscale_grads_{FLOATS}", "gradient"),
]


def is_hot(name):
    return next((hot for hot in HOT if re.fullmatch(hot.name, name)), None)


def row(kernel, hot):
    """Instructions and bytes per element, and the accesses of a turn of the main loop."""
    width = DTYPES[kernel.name.rsplit("_", 1)[1]]

    def counts(kind, size):
        counted = size == (hot.size or size) if hot.packs else size == width
        return size // width if kind == hot.counted and size % width == 0 and counted else 0

    header = kernel.main_loop(counts)
    cost = kernel.turn(header, hot.taps, hot.per_tap) if header is not None else None
    if cost is None:
        return None
    elements = sum(counts(hot.counted, size) * times for size, times in cost.count(hot.counted).items()) / hot.each
    return (cost.instructions / elements, cost.bytes() / elements, elements, cost) if elements else None
