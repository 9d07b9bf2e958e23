"""Writes averages.safetensors: weights that are averaged while they change, and statistics recomputed for the average.

`model/K/NAME` is the state dict of a small network before the K-th update (from 1), `CASE/K/NAME` that of the average after
it; `batches/I` are inputs, from which `update_bn` computes the statistics `update_bn/NAME` of the last average of weights.
"""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, update_bn

from golden import *

s = Suite("averages")
torch.manual_seed(2)


def network():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)).double()


net = network()
cases = {
    "mean": AveragedModel(net),
    "mean_buffers": AveragedModel(net, use_buffers=True),
    "exponential": AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
    "exponential_buffers": AveragedModel(net, avg_fn=get_ema_avg_fn(0.3), use_buffers=True),
    "custom": AveragedModel(net, avg_fn=lambda a, b, n: torch.maximum(a, b) + n),
}
for name in cases:
    s.record(name, "average", {})
for step in range(1, 6):
    with torch.no_grad():
        for param in net.parameters():
            param.add_(torch.randn(param.shape, dtype=f64))
    # Statistics and counts change, too.
    net(torch.randn(6, 3, dtype=f64) * step)
    for key, value in net.state_dict().items():
        s.put("model", f"{step}/{key}", value)
    for name, average in cases.items():
        average.update_parameters(net)
        for key, value in average.state_dict().items():
            s.put(name, f"{step}/{key}", value)
batches = [torch.randn(5, 3, dtype=f64) + i for i in range(3)]
for i, batch in enumerate(batches):
    s.put("batches", f"{i}", batch)
cases["mean"].eval()
update_bn(batches, cases["mean"])
assert not cases["mean"].training
for key, value in cases["mean"].state_dict().items():
    s.put("update_bn", key, value)
s.write()
