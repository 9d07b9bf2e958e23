"""The operations of ops.safetensors by name, and the suite in which the ops_*.py files run their cases."""

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


def rnn_tanh_layer(x, h, weight, reverse=False):
    return layer(torch.rnn_tanh, x, h[None], weight, None, reverse)


def rnn_relu_layer(x, h, weight, reverse=False):
    return layer(torch.rnn_relu, x, h[None], weight, None, reverse)


OPS = {
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "lstm_layer": lstm_layer,
    "gru_layer": gru_layer,
    "rnn_tanh_layer": rnn_tanh_layer,
    "rnn_relu_layer": rnn_relu_layer,
    "col2im": torch.nn.functional.fold,
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


MASK = const([[True, False, True], [False, False, True]], b8)
