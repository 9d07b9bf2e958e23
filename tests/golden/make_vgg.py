"""Writes vgg.json: one training step of a VGG16 of an eighth of the width: loss, logits, and a summary of each gradient;
the logits of VGG16 itself; and the printed networks of torchvision. Also pth/vgg16_narrow.pth and .safetensors: the parameters
of a VGG16 of a 64th of the width, an image and its logits. Also the names of ImageNet's classes, an asset of `crates/models`."""

import json
import os

import torch
import torch.nn as nn
import torchvision
from safetensors.torch import save_file
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


def network(divisor, batch_norm=False):
    layers = make_layers([c if c == "M" else c // divisor for c in cfgs["D"]], batch_norm=batch_norm)
    model = torchvision.models.VGG(layers, num_classes=CLASSES, init_weights=False)
    hidden = 4096 // divisor
    model.classifier = nn.Sequential(
        nn.Linear(512 // divisor * 49, hidden), nn.ReLU(), nn.Dropout(0.0),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(hidden, CLASSES),
    )
    return model


def fill_all(model):
    for i, parameter in enumerate(model.parameters()):
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
        fill(parameter, i, (24 / fan_in) ** 0.5)


def image(batch, size):
    return fractions(batch * 3 * size * size, 1000).reshape(batch, 3, size, size) * 2


def full_size():
    """The logits of VGG16 as it is."""
    model = torchvision.models.vgg16(init_weights=False).eval()
    fill_all(model)
    with torch.inference_mode():
        return model(image(1, 224)).flatten().tolist()


def narrow_files():
    """Parameters as PyTorch and as safetensors write them."""
    model = network(64).eval()
    fill_all(model)
    state = model.state_dict()
    with torch.inference_mode():
        check = {"check.logits": model(image(1, 224)).clone()}
    torch.save(state, os.path.join(HERE, "pth", "vgg16_narrow.pth"))
    save_file({**state, **check}, os.path.join(HERE, "pth", "vgg16_narrow.safetensors"))


def step(batch_norm):
    model = network(WIDTH, batch_norm)
    fill_all(model)
    x = image(BATCH, SIZE)
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


if __name__ == "__main__":
    torch.manual_seed(0)
    models = torchvision.models
    out = {
        "plain": step(False),
        "batch_norm": step(True),
        "full_size": full_size(),
        "printed": {name: str(getattr(models, name)(init_weights=False)) for name in ["vgg16", "vgg11_bn"]},
        "names": list(models.vgg16(init_weights=False).state_dict()),
        "names_bn": list(models.vgg11_bn(init_weights=False).state_dict()),
    }
    with open(os.path.join(HERE, "vgg.json"), "w") as file:
        json.dump(out, file)
        file.write("\n")

    narrow_files()
    categories = models.VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    with open(os.path.join(HERE, "../../crates/models/assets/imagenet/classes.txt"), "w") as file:
        file.writelines(name + "\n" for name in categories)
