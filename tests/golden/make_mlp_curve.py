"""Writes mlp_curve.json: the quickstart tutorial's network on the Fashion-MNIST subset, loss by loss.

Both sides compute the same initial parameters. Element i (row-major) of parameter j (order: first
layer's weight, its bias, second layer's weight, ...) is, with fan_in that of its layer,

    h = ((i + 1) * 2654435761 + j * 40503) mod 2**32
    value = (h / 2**32 - 0.5) * 2 / sqrt(fan_in)      in f64, then rounded to f32

Batch s holds the images s*64 .. s*64+64 of the subset, modulo 6000, with pixels divided by 255
in f32. Each loss is that of the batch before the step. `losses_f64` is the same run with parameters
and pixels widened to f64 at the start.

Rounding differs between implementations, and occasionally puts a ReLU's input on the other side
of zero: from there on two correct f32 runs differ by far more than by rounding. `spread` is how much:
the largest relative difference from `losses`, step by step, of runs that add in a different order
(two threads; the rows of each batch shuffled) or in f64. `spread_f64` is the same for f64 runs.
"""

import numpy as np
import torch
from torch import nn

from golden import f32, f64, write_json
from make_subset import TARGET, read_idx

SIZES = [784, 512, 512, 10]
BATCH = 64
IMAGES = torch.from_numpy(read_idx(f"{TARGET}/train-images-idx3-ubyte.gz").copy()).float() / 255
LABELS = torch.from_numpy(read_idx(f"{TARGET}/train-labels-idx1-ubyte.gz").copy()).long()
RUNS = {
    "sgd": ("SGD", {"lr": 0.01}, 200),
    "adam": ("Adam", {"lr": 0.001}, 100),
}


def formula(j, shape, fan_in):
    i = np.arange(np.prod(shape), dtype=np.uint64)
    h = ((i + np.uint64(1)) * np.uint64(2654435761) + np.uint64(j * 40503)) % np.uint64(2**32)
    values = (h.astype(np.float64) / 2**32 - 0.5) * 2 / np.sqrt(np.float64(fan_in))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def network(dtype):
    layers = [nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:])]
    with torch.no_grad():
        for j, p in enumerate(p for layer in layers for p in (layer.weight, layer.bias)):
            p.copy_(formula(j, p.shape, layers[j // 2].in_features))
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).to(dtype)


def train(optimizer, args, steps, dtype=f32, threads=1, shuffle=None):
    torch.set_num_threads(threads)
    model = network(dtype)
    optimizer = getattr(torch.optim, optimizer)(model.parameters(), **args)
    generator = torch.Generator().manual_seed(shuffle or 0)
    criterion, losses = nn.CrossEntropyLoss(), []
    for step in range(steps):
        batch = torch.arange(step * BATCH, (step + 1) * BATCH) % len(IMAGES)
        if shuffle is not None:
            batch = batch[torch.randperm(BATCH, generator=generator)]
        loss = criterion(model(IMAGES[batch].to(dtype)), LABELS[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def spread(losses, others):
    """The largest relative difference of other curves, step by step."""
    return [float(f"{max(abs(x - loss) for x in rest) / loss:.1e}") for loss, *rest in zip(losses, *others)]


def main():
    result = {"sizes": SIZES, "batch": BATCH, "images": len(IMAGES), "parameter_samples": [
        {"parameter": j, "values": formula(j, (8,), fan_in).tolist()}
        for j, fan_in in enumerate(n for n in SIZES[:-1] for _ in range(2))
    ]}
    for name, run in RUNS.items():
        losses, wide = train(*run), train(*run, dtype=f64)
        two_threads = train(*run, threads=2)
        shuffled = [train(*run, shuffle=seed) for seed in range(8)]
        spreads = spread(losses, [wide, two_threads, *shuffled])
        spreads_wide = spread(wide, [train(*run, dtype=f64, shuffle=seed) for seed in range(2)])
        optimizer, args, steps = run
        result[name] = {
            "optimizer": optimizer, "args": args, "steps": steps, "losses": losses, "losses_f64": wide,
            "difference_two_threads": max(spread(losses, [two_threads])),
            "difference_f64": max(spread(losses, [wide])),
            "steps_within_1e-5": sum(max(spreads[: k + 1]) < 1e-5 for k in range(steps)),
            "steps_within_1e-4": sum(max(spreads[: k + 1]) < 1e-4 for k in range(steps)),
            "spread": spreads, "spread_f64": spreads_wide,
        }
        facts = {k: v for k, v in result[name].items() if not isinstance(v, (list, dict))}
        print(name, losses[0], losses[-1], max(spreads), max(spreads_wide), facts)
    write_json("mlp_curve.json", result)


if __name__ == "__main__":
    main()
