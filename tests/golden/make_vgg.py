"""Writes vgg.json: VGG16 of an eighth of the width, one step: loss, logits, and what can be said of each gradient shortly;
and the printed networks of torchvision."""

import json
import os

import torch
import torch.nn as nn
import torchvision
from torchvision.models.vgg import cfgs, make_layers

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, SIZE, BATCH, CLASSES = 8, 64, 4, 10


def fractions(n, seed):
    """Numbers in [-0.5, 0.5) that every language computes alike: a hash of their positions."""
    x = (torch.arange(n, dtype=torch.int64) + seed * 7919) * 2654435761 % 2**32
    x = (x ^ (x >> 15)) * 2246822519 % 2**32  # the product may wrap, its low half is right
    return ((x ^ (x >> 13)).double() / 2**32 - 0.5).float()


def fill(tensor, seed, scale):
    with torch.no_grad():
        tensor.copy_(fractions(tensor.numel(), seed).reshape(tensor.shape) * scale)


def step(batch_norm):
    layers = make_layers([c if c == "M" else c // WIDTH for c in cfgs["D"]], batch_norm=batch_norm)
    model = torchvision.models.VGG(layers, num_classes=CLASSES, init_weights=False)
    hidden = 4096 // WIDTH
    model.classifier = nn.Sequential(
        nn.Linear(512 // WIDTH * 49, hidden), nn.ReLU(), nn.Dropout(0.0),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(hidden, CLASSES),
    )
    for i, parameter in enumerate(model.parameters()):
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
        fill(parameter, i, (24 / fan_in) ** 0.5)
    x = fractions(BATCH * 3 * SIZE * SIZE, 1000).reshape(BATCH, 3, SIZE, SIZE) * 2
    y = torch.arange(BATCH) * 3 % CLASSES
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, y)
    loss.backward()
    grads = {}
    for i, (name, parameter) in enumerate(model.named_parameters()):
        g = parameter.grad.double().flatten()
        grads[name] = {
            "norm": g.norm().item(),
            "dot": (g * fractions(g.numel(), 2000 + i).double()).sum().item(),
            "first": g[:4].tolist(),
        }
    return {"loss": loss.item(), "logits": logits.flatten().tolist(), "grads": grads}


torch.manual_seed(0)
models = torchvision.models
out = {
    "plain": step(False),
    "batch_norm": step(True),
    "printed": {name: str(getattr(models, name)(init_weights=False)) for name in ["vgg16", "vgg11_bn"]},
    "names": list(models.vgg16(init_weights=False).state_dict()),
    "names_bn": list(models.vgg11_bn(init_weights=False).state_dict()),
}
with open(os.path.join(HERE, "vgg.json"), "w") as file:
    json.dump(out, file)
    file.write("\n")
