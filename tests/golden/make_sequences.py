"""Writes sequences.safetensors: sequences of different lengths, padded and packed, and recurrent layers over packed ones:
values and gradients."""

import torch
from torch import nn
from torch.nn.utils import rnn

from golden import Suite, f64, randn

suite = Suite("sequences")


def packed(x, **args):
    """The elements, the batch sizes and the indices of a packed sequence, and the sequences padded again."""
    total, value = args.pop("total_length", None), args.pop("padding_value", 0.0)
    p = rnn.pack_padded_sequence(x, **args)
    padded, lengths = rnn.pad_packed_sequence(p, args["batch_first"], value, total)
    order = [] if p.sorted_indices is None else [p.sorted_indices, p.unsorted_indices]
    return [p.data, padded, p.batch_sizes, lengths, *order]


def padded(*sequences, batch_first, padding_value, lengths):
    x = rnn.pad_sequence(list(sequences), batch_first, padding_value)
    # `unpad_sequence` transposes its argument in place.
    return [x, *rnn.unpad_sequence(x.view_as(x), torch.tensor(lengths), batch_first)]


suite.ops = {"pack_padded_sequence": packed, "pad_sequence": padded}
for name, shape, args in [
    ("sorted", (4, 3, 2), {"lengths": [4, 2, 1], "batch_first": False, "enforce_sorted": True}),
    ("unsorted", (4, 5, 2), {"lengths": [2, 4, 2, 1, 3], "batch_first": False, "enforce_sorted": False}),
    ("batch_first", (3, 5, 2, 2), {"lengths": [3, 3, 4], "batch_first": True, "enforce_sorted": False}),
    ("scalars", (2, 3), {"lengths": [3, 1], "batch_first": True, "enforce_sorted": True}),
    ("total", (3, 2, 1), {"lengths": [1, 2], "batch_first": False, "enforce_sorted": False, "total_length": 5}),
    ("value", (3, 2, 1), {"lengths": [1, 3], "batch_first": True, "enforce_sorted": False, "padding_value": -1.5}),
]:
    if args["batch_first"] and len(args["lengths"]) != shape[0]:
        shape = (shape[1], shape[0], *shape[2:])
    suite.run(f"pack_{name}", "pack_padded_sequence", [randn(*shape)], **args)
for name, lengths, batch_first, value in [("plain", [2, 4, 0], False, 0.0), ("batch_first", [3, 1], True, 2.5)]:
    sequences = [randn(length, 2) for length in lengths]
    suite.run(f"pad_{name}", "pad_sequence", sequences, batch_first=batch_first, padding_value=value, lengths=lengths)


def recurrent(name, kind, lengths, enforce_sorted=False, states=True, **options):
    torch.manual_seed(len(suite.cases))
    inputs, hidden = 2, 3
    layer = getattr(nn, kind)(inputs, hidden, dtype=f64, **options)
    n, steps = len(lengths), max(lengths)
    x = torch.randn(n, steps, inputs, dtype=f64) if options.get("batch_first") else torch.randn(steps, n, inputs, dtype=f64)
    x.requires_grad_()
    count = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    sizes = [options.get("proj_size") or hidden, hidden][: 2 if kind == "LSTM" else 1]
    given = [torch.randn(count, n, size, dtype=f64, requires_grad=True) for size in sizes] if states else []
    p = rnn.pack_padded_sequence(x, torch.tensor(lengths), options.get("batch_first", False), enforce_sorted)
    out, ends = layer(p, (tuple(given) if kind == "LSTM" else given[0]) if states else None)
    y, _ = rnn.pad_packed_sequence(out, options.get("batch_first", False))
    outs = [y, *(ends if kind == "LSTM" else [ends])]
    cotangents = [torch.randn_like(t) for t in outs]
    leaves = [x, *given, *layer.parameters()]
    names = ["x", "h", "c"][: 1 + len(given)] + [name for name, _ in layer.named_parameters()]
    grads = torch.autograd.grad(outs, leaves, cotangents)
    args = {"lengths": lengths, "enforce_sorted": enforce_sorted, **options}
    suite.record(name, kind, args)
    for key, leaf, grad in zip(names, leaves, grads):
        suite.put(name, key, leaf)
        suite.put(name, f"{key}.grad", grad)
    for i, (out, cotangent) in enumerate(zip(outs, cotangents)):
        suite.put(name, f"out{i}", out)
        suite.put(name, f"cotangent{i}", cotangent)


for kind in ["RNN", "GRU", "LSTM"]:
    recurrent(f"{kind}_sorted", kind, [4, 3, 3, 1], enforce_sorted=True)
    recurrent(f"{kind}_stacked", kind, [2, 4, 1], num_layers=2, bidirectional=True)
    recurrent(f"{kind}_batch_first", kind, [1, 2, 2], batch_first=True, bidirectional=True, states=False, bias=False)
recurrent("LSTM_projected", "LSTM", [2, 3], proj_size=2, num_layers=2, bidirectional=True)
recurrent("RNN_relu", "RNN", [3], nonlinearity="relu")
suite.write()
