#!/usr/bin/env python3
"""Times LeNet and VGG16 in Kiln and in PyTorch, on the CPU.

The two take turns (Kiln, PyTorch, Kiln, ...), each in a process that lives throughout, so that whatever else the machine
does hits both. The figures are medians over the turns; the ratio is the median of each turn's own. Needs
`pip install torch torchvision`.

    python3 benches/compare_convnets.py [--threads 2] [--turns 5] [--program PATH] [WORKLOAD ...]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Workload and batch -> steps a turn.
WORKLOADS = {
    ("lenet-train", 64): 40,
    ("lenet-infer", 64): 80,
    ("vgg16-infer", 1): 1,
    ("vgg16-infer", 8): 1,
    ("vgg16-train", 8): 1,
}


class Kiln:
    """The bench program, answering over its standard streams."""

    def __init__(self, threads, program):
        if program is None:
            build = ["cargo", "bench", "--quiet", "--bench", "convnets", "--no-run", "--message-format", "json"]
            out = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
            program = [p for p in (json.loads(line).get("executable") for line in out.splitlines()) if p][-1]
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "KILN_BENCH_TURNS": "1"}
        self.process = subprocess.Popen([program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, name, batch, steps):
        self.process.stdin.write(f"{name} {batch} {steps}\n")
        self.process.stdin.flush()
        ms, peak = self.process.stdout.readline().split()
        return float(ms)


class PyTorch:
    """The same steps in this process."""

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        self.made = None

    def make(self, name, batch):
        import torch
        import torchvision
        from torch import nn

        torch.manual_seed(0)
        lenet = name.startswith("lenet")
        if lenet:
            model = nn.Sequential(
                nn.Conv2d(1, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2),
                nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
                nn.Linear(400, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, 10),
            )
        else:
            model = torchvision.models.vgg16()
        x = torch.rand(batch, 1, 32, 32) if lenet else torch.rand(batch, 3, 224, 224)
        y = torch.randint(0, 10, (batch,))
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

    def turn(self, name, batch, steps):
        if self.made is None or self.made[0] != (name, batch):
            self.made = None
            self.made = ((name, batch), self.make(name, batch))
        step = self.made[1]
        step()  # wakes the threads
        start = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - start) * 1e3 / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--program", help="a bench program that was built before")
    parser.add_argument("workloads", nargs="*", help="e.g. vgg16-infer; all by default")
    args = parser.parse_args()
    sides = [Kiln(args.threads, args.program), PyTorch(args.threads)]
    print("| workload | batch | Kiln, ms | images/s | PyTorch, ms | images/s | Kiln / PyTorch, speed |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (name, batch), steps in WORKLOADS.items():
        if args.workloads and name not in args.workloads:
            continue
        for side in sides:  # warms up
            side.turn(name, batch, steps)
        turns = [[side.turn(name, batch, steps) for side in sides] for _ in range(args.turns)]
        ours, theirs = (statistics.median(side) for side in zip(*turns))
        ratio = statistics.median(t / o for o, t in turns)
        rates = [f"{1000 * batch / ms:,.1f}" for ms in (ours, theirs)]
        print(f"| {name} | {batch} | {ours:.2f} | {rates[0]} | {theirs:.2f} | {rates[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
