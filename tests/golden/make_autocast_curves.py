"""Writes autocast_curves.json: losses of 200 steps of LeNet and of a small transformer, and of 100 of a narrow ResNet-18, under
autocast on the CPU, in bf16 and, with a GradScaler, in f16.

Both sides compute the same parameters, images and tokens. Number i of stream j is

    h = ((i + 1) * 2654435761 + j * 40503) mod 2**32,  h ^= h >> 16,  h = h * 73244475 mod 2**32,  h ^= h >> 16
    value = h / 2**32

Element i (row-major) of parameter j (in the order of `named_parameters`) is (2 value - 1) / sqrt(fan_in) in f64, rounded to
f32, where fan_in is the number of elements per output of the last parameter with two dimensions or more; of normalizations,
it is PyTorch's 1 and 0. Pixels and tokens: see `images` and `sentences`.

Each loss is that of the batch before the step. `f32` are the losses without autocast. `bf16 spread` is the largest
difference, over 20 steps each, between `bf16` and runs with the samples of each batch in another order, whose sums are
rounded otherwise: what two correct runs differ by; `f16 spread` likewise. `scale` is that of the scaler after the last step.
"""

import numpy as np
import torch
import torchvision
from torch import nn

from golden import bf16, f16, write_json

BATCH = 4
CLASSES, WIDTH, LENGTH, VOCABULARY = 10, 16, 8, 16


def stream(j, n):
    h = ((np.arange(n, dtype=np.uint64) + np.uint64(1)) * np.uint64(2654435761) + np.uint64(j * 40503)) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    h = h * np.uint64(73244475) % np.uint64(2**32)
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2**32


def images(step, batch=BATCH):
    """Noise over a pattern of each class, and the classes."""
    pixels, classes = [], []
    for n in range(step * batch, (step + 1) * batch):
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


class ResNet(torchvision.models.ResNet):
    """ResNet-18 with an eighth of its channels, for gray images."""

    def __init__(self):
        block = torchvision.models.resnet.BasicBlock
        super().__init__(block, [2, 2, 2, 2], num_classes=CLASSES)
        self.inplanes = 8
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8)
        self.layer1 = self._make_layer(block, 8, 2)
        self.layer2 = self._make_layer(block, 16, 2, stride=2)
        self.layer3 = self._make_layer(block, 32, 2, stride=2)
        self.layer4 = self._make_layer(block, 64, 2, stride=2)
        self.fc = nn.Linear(64, CLASSES)


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
            if any(norm in name for norm in ["norm", "bn", "downsample.1"]):
                continue
            if p.ndim > 1:
                fan_in = p[0].numel()
            values = ((2 * stream(j, p.numel()) - 1) / np.sqrt(fan_in)).astype(np.float32)
            p.copy_(torch.from_numpy(values).reshape(p.shape))
    return model


RUNS = {
    "lenet": (200, LeNet, images, lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9)),
    # With fewer images to a batch, normalization makes differences of rounding large.
    "resnet": (100, ResNet, lambda step: images(step, 4 * BATCH), lambda p: torch.optim.SGD(p, lr=0.002)),
    "transformer": (200, Transformer, sentences, lambda p: torch.optim.Adam(p, lr=0.005)),
}


def train(steps, make, batches, optimizer, low=None, order=None):
    """Losses, and the scale at the end, with each batch in an order."""
    model = initialize(make())
    optimizer, losses = optimizer(model.parameters()), []
    # No gradient is infinite with such scales: which step is skipped would depend on the last bits.
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=80, enabled=low == f16)
    for step in range(steps):
        x, y = batches(step)
        if order is not None:
            order_of = torch.randperm(len(x), generator=torch.Generator().manual_seed(order * steps + step))
            x, y = x[order_of], y[order_of]
        with torch.autocast("cpu", low, enabled=low is not None):
            out = model(x)
            loss = nn.functional.cross_entropy(out.flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses, scaler.get_scale()


def shorten(values):
    return [float(f"{value:.6g}") for value in values]


torch.set_num_threads(1)
result = {}
for name, run in RUNS.items():
    wide, _ = train(*run)
    result[name] = {"f32": shorten(wide)}
    print(name, shorten(wide[::20]))
    for dtype, low in {"bf16": bf16, "f16": f16}.items():
        losses, scale = train(*run, low)
        others = [train(*run, low, order)[0] for order in range(2)]
        windows = [slice(at, at + 20) for at in range(0, len(wide), 20)]
        spread = [max(abs(a - b) for other in others for a, b in zip(other[w], losses[w])) for w in windows]
        result[name] |= {dtype: shorten(losses), f"{dtype} spread": shorten(spread)}
        print(dtype, shorten(losses[::20]), shorten(spread), max(abs(a - b) for a, b in zip(losses, wide)), scale)
        if low == f16:
            result[name]["scale"] = scale
write_json("autocast_curves.json", result)
