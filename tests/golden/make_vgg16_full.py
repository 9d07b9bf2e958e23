"""Writes torchvision's VGG16 with random weights, two images and their logits to the safetensors file that is named.

It is not checked in: `tests/vgg16_logits.rs` says how it is used.
"""

import sys

import torch
import torchvision
from safetensors.torch import save_file

torch.manual_seed(0)
model = torchvision.models.vgg16().eval()
x = torch.rand(2, 3, 224, 224)
with torch.inference_mode():
    logits = model(x)
save_file({**model.state_dict(), "check.input": x, "check.logits": logits.clone()}, sys.argv[1])
