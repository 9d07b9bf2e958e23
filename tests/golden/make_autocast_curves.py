"""Writes autocast_curves.json: losses of 200 steps of LeNet and of a small transformer under bf16 autocast on the CPU.

Both sides compute the same parameters, images and tokens. Number i of stream j is

    h = ((i + 1) * 2654435761 + j * 40503) mod 2**32,  h ^= h >> 16,  h = h * 73244475 mod 2**32,  h ^= h >> 16
    value = h / 2**32

Element i (row-major) of parameter j (in the order of `named_parameters`) is (2 value - 1) / sqrt(fan_in) in f64, rounded to
f32, where fan_in is the number of elements per output of the last parameter with two dimensions or more; of normalizations,
it is PyTorch's 1 and 0. Pixels and tokens: see `images` and `sentences`.

Each loss is that of the batch before the step. `f32` are the losses without autocast. `spread` is the largest difference,
over 20 steps each, between `bf16` and runs with the samples of each batch in another order, whose sums are rounded
otherwise: what two correct runs differ by.
"""

import numpy as np
import torch
from torch import nn

from golden import bf16, f32, write_json

STEPS, BATCH = 200, 4
CLASSES, WIDTH, LENGTH, VOCABULARY = 10, 16, 8, 16


def stream(j, n):
    h = ((np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(2654435761) + np.uint64(j * 40503)) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    h = h * np.uint64(73244475) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2**32


def images(step):
    """Noise over a pattern of each class, and the classes."""
    pixels, classes = [], []
    for n in range(step * BATCH, (step + 1) * BATCH):
        label = int(stream(500, n + 1)[n] * CLASSES)
        pattern, noise = stream(600 + label, 32 * 32), stream(1000 + n, 32 * 32)
        pixels.append((3 * pattern + noise - 2).astype(np.float32).reshape(1, 32, 32))
        classes.append(label)
    return torch.from_numpy(np.stack(pixels)), torch.tensor(classes)


def sentences(step):
    """Each token is 3 times the one before plus 1, or now and then any: the tokens, and the ones that follow them."""
    rows = []
    for n in range(step * BATCH, (step + 1) * BATCH):
        draws, chances = stream(2000 + n, LENGTH + 1), stream(5000 + n, LENGTH + 1)
        row = [int(draws[0] * VOCABULARY)]
        for draw, chance in zip(draws[1:], chances[1:]):
            row.append(int(draw * VOCABULARY) if chance < 0.1 else (3 * row[-1] + 1) % VOCABULARY)
        rows.append(row)
    rows = torch.tensor(rows)
    return rows[:, :-1], rows[:, 1:]


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, CLASSES)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = torch.max_pool2d(torch.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Transformer(nn.Module):
    """A decoder of tokens, as GPT is: layers that see the tokens before, normalized first."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(LENGTH, WIDTH)
        layer = lambda: nn.TransformerEncoderLayer(
            WIDTH, 2, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layer1, self.layer2 = layer(), layer()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for layer in [self.layer1, self.layer2]:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))


def initialize(model):
    fan_in = 1
    with torch.no_grad():
        for j, (name, p) in enumerate(model.named_parameters()):
            if "norm" in name:
                continue
            if p.ndim > 1:
                fan_in = p[0].numel()
            values = ((2 * stream(j, p.numel()) - 1) / np.sqrt(fan_in)).astype(np.float32)
            p.copy_(torch.from_numpy(values).reshape(p.shape))
    return model


RUNS = {
    "lenet": (LeNet, images, lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9)),
    "transformer": (Transformer, sentences, lambda p: torch.optim.Adam(p, lr=0.005)),
}


def train(make, batches, optimizer, low, order=None):
    model = initialize(make())
    optimizer, losses = optimizer(model.parameters()), []
    for step in range(STEPS):
        x, y = batches(step)
        if order is not None:
            order_of = torch.randperm(BATCH, generator=torch.Generator().manual_seed(order * STEPS + step))
            x, y = x[order_of], y[order_of]
        with torch.autocast("cpu", bf16, enabled=low):
            out = model(x)
            loss = nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


torch.set_num_threads(1)
result = {}
for name, (make, batches, optimizer) in RUNS.items():
    low, wide = train(make, batches, optimizer, True), train(make, batches, optimizer, False)
    others = [train(make, batches, optimizer, True, order) for order in range(4)]
    spread = [
        max(abs(a - b) for run in others for a, b in zip(run[at : at + 20], low[at : at + 20])) for at in range(0, STEPS, 20)
    ]
    shorten = lambda values: [float(f"{value:.6g}") for value in values]
    result[name] = {"bf16": shorten(low), "f32": shorten(wide), "spread": shorten(spread)}
    print(name, low[::20], wide[::20], spread)
    print(max(abs(a - b) for a, b in zip(low, wide)))
write_json("autocast_curves.json", result)
