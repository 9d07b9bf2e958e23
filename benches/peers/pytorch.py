"""The workloads in PyTorch; `compare.py` asks for them, by lines as `benches/turns/mod.rs` answers them."""

import os
import sys
import time

import torch
from torch import nn

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")


def mlp():
    layers = [nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), (1, 28, 28)


def lenet():
    convs = [nn.Conv2d(1, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    convs += [nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    head = [nn.Linear(400, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, 10)]
    return nn.Sequential(*convs, *head), (1, 32, 32)


def vgg16():
    """torchvision's, whose import would count as memory."""
    layers, c = [], 3
    for o, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(count):
            layers += [nn.Conv2d(c, o, 3, padding=1), nn.ReLU(inplace=True)]
            c = o
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    layers += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers), (3, 224, 224)


def workload(name, batch):
    torch.manual_seed(0)
    model, image = {"mlp": mlp, "lenet": lenet, "vgg16": vgg16}[name.split("-")[0]]()
    model.to(DEVICE)
    x, y = torch.rand(batch, *image, device=DEVICE), torch.randint(0, 10, (batch,), device=DEVICE)
    if name.endswith("infer"):
        model.eval()

        def step():
            with torch.inference_mode():
                model(x)

        return step
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        loss = loss_fn(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
key, step = None, None
for line in sys.stdin:
    name, batch, steps = line.split()
    if key != (name, batch):
        step = None  # before the next is made: both might not fit into memory
        key, step = (name, batch), workload(name, int(batch))
    step()  # wakes the threads
    wait()
    start = time.perf_counter()
    for _ in range(int(steps)):
        step()
    wait()
    print((time.perf_counter() - start) * 1e3 / int(steps), flush=True)
