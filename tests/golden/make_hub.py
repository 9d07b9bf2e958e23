"""Writes hub.json: the files of weights that torchvision publishes for the networks that Kiln has."""

import json
import os

from torchvision.models import get_model_weights

NETWORKS = [
    "alexnet", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
    "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "vgg11", "vgg11_bn",
    "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16",
]
files = [
    {"net": net, "weights": weights.name, "file": os.path.basename(weights.url)}
    for net in NETWORKS
    for weights in get_model_weights(net)
    # Features of VGG16 for detectors, without a classifier.
    if weights.name != "IMAGENET1K_FEATURES"
]
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "hub.json"), "w") as file:
    json.dump(files, file, indent=0)
    file.write("\n")
