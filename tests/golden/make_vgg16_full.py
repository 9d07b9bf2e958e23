"""Writes the files for the ignored test of `tests/suite/vgg16_logits.rs` to a given folder: torchvision's VGG16 with random weights,
in both formats of `torch.save` and as safetensors (1.7 GB, so not in the repository), two images and their logits."""

import os
import sys

import torch
import torchvision
from safetensors.torch import save_file

folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
torch.manual_seed(0)
model = torchvision.models.vgg16().eval()
x = torch.rand(2, 3, 224, 224)
with torch.inference_mode():
    logits = model(x).clone()
state = model.state_dict()
torch.save(state, os.path.join(folder, "vgg16.pth"))
torch.save(state, os.path.join(folder, "vgg16_legacy.pth"), _use_new_zipfile_serialization=False)
save_file(state, os.path.join(folder, "vgg16.safetensors"))
save_file({"input": x, "logits": logits}, os.path.join(folder, "check.safetensors"))
