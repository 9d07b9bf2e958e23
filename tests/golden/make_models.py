"""Writes models.json: torchvision's networks: how they print, names and shapes of their tensors, the logits of some of them at
full size, and one training step of small ones: loss, logits, and a summary of each gradient."""

import json
import os

import torch
import torch.nn as nn
import torchvision
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from make_vgg import fill, fractions, image

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH, CLASSES = 4, 10

# Printed, and their state dicts compared by name and shape.
LISTED = ["alexnet", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50", "resnext50_32x4d", "vit_b_16"]
# The others of a family, which differ in numbers only: how many tensors and elements their state dicts have.
COUNTED = [
    "resnet34", "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
]
# One image of full size in evaluation mode.
FULL_SIZE = ["alexnet", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50", "vit_b_16"]


def fill_all(model):
    """All parameters by number; the running statistics stay 0 and 1."""
    for i, parameter in enumerate(model.parameters()):
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
        fill(parameter, i, (6 / fan_in) ** 0.5)


def made(name):
    return getattr(torchvision.models, name)(weights=None)


def full_size(name):
    model = made(name).eval()
    fill_all(model)
    with torch.inference_mode():
        return model(image(1, 224)).flatten().tolist()


def step(model, size):
    """In f64: a batch normalization of few pixels multiplies what f32 rounds."""
    fill_all(model)
    model, x = model.double(), image(BATCH, size).double()
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
        }
    buffers = {name: buffer.double().norm().item() for name, buffer in model.named_buffers()}
    return {"loss": loss.item(), "logits": logits.flatten().tolist(), "grads": grads, "buffers": buffers}


SHORT = {
    "basic": dict(block=BasicBlock, layers=[2, 1, 1, 1]),
    "bottleneck": dict(block=Bottleneck, layers=[1, 1, 1, 1]),
    "groups": dict(block=Bottleneck, layers=[1, 1, 1, 1], groups=8, width_per_group=8),
    "dilated": dict(
        block=Bottleneck, layers=[1, 1, 2, 1], width_per_group=16, replace_stride_with_dilation=[False, True, True]
    ),
}

# Of EfficientNet-B0: expansion, kernel, stride, input and output channels, blocks.
STAGES = [
    (1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3), (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1),
]


def narrow_efficientnet():
    """A third of the width and half of the depth, without anything random."""
    settings = [MBConvConfig(*stage, width_mult=0.3, depth_mult=0.5) for stage in STAGES]
    return EfficientNet(settings, dropout=0.0, stochastic_depth_prob=0.0, num_classes=CLASSES)


if __name__ == "__main__":
    out = {"listed": {}, "counted": {}, "full_size": {name: full_size(name) for name in FULL_SIZE}}
    for name in LISTED:
        model = made(name)
        out["listed"][name] = {
            "printed": str(model),
            "state": {key: list(value.shape) for key, value in model.state_dict().items()},
        }
    for name in COUNTED:
        state = made(name).state_dict()
        out["counted"][name] = [len(state), sum(value.numel() for value in state.values())]
    out["steps"] = {
        name: step(ResNet(num_classes=CLASSES, **options), 64) for name, options in SHORT.items()
    }
    narrow = torchvision.models.MobileNetV2(num_classes=CLASSES, width_mult=0.3, dropout=0.0)
    out["steps"]["mobilenet_v2"] = step(narrow, 64)
    out["steps"]["efficientnet"] = step(narrow_efficientnet(), 64)
    out["steps"]["vit"] = step(VisionTransformer(32, 8, 2, 4, 24, 40, num_classes=CLASSES), 32)
    with open(os.path.join(HERE, "models.json"), "w") as file:
        json.dump(out, file)
        file.write("\n")
