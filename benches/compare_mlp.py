#!/usr/bin/env python3
"""Times one training step of the quickstart tutorial's MLP in Kiln and in PyTorch, on the CPU.

The two take turns of a fraction of a second (Kiln, PyTorch, Kiln, ...), each in a process that lives throughout, so that
whatever else the machine does hits both. The figures are medians over the turns; the last one is the median of each
turn's own ratio. Needs `pip install torch`.

    python3 benches/compare_mlp.py [--threads 2] [--turns 60]
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = {64: 80, 512: 20}  # steps a turn, by batch size


class Kiln:
    """The bench program, answering over its standard streams."""

    def __init__(self, threads):
        build = ["cargo", "bench", "--quiet", "--bench", "mlp", "--no-run", "--message-format", "json"]
        out = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        programs = [json.loads(line).get("executable") for line in out.splitlines()]
        program = [p for p in programs if p][-1]
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "KILN_BENCH_TURNS": "1"}
        self.process = subprocess.Popen([program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, batch):
        self.process.stdin.write(f"{batch} {STEPS[batch]}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class PyTorch:
    """The same step in this process."""

    def __init__(self, threads):
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        self.steps = {}
        for batch in STEPS:
            model = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
            )
            loss_fn = nn.CrossEntropyLoss()
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
            x, y = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))

            def step(model=model, loss_fn=loss_fn, optimizer=optimizer, x=x, y=y):
                loss = loss_fn(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

            self.steps[batch] = step

    def turn(self, batch):
        step = self.steps[batch]
        step()  # wakes the threads
        start = time.perf_counter()
        for _ in range(STEPS[batch]):
            step()
        return (time.perf_counter() - start) * 1e3 / STEPS[batch]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=60)
    args = parser.parse_args()
    sides = [Kiln(args.threads), PyTorch(args.threads)]
    print("| batch | Kiln, ms | Kiln, images/s | PyTorch, ms | PyTorch, images/s | Kiln / PyTorch, speed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in STEPS:
        for _ in range(5):  # warms up
            for side in sides:
                side.turn(batch)
        turns = [[side.turn(batch) for side in sides] for _ in range(args.turns)]
        ours, theirs = (statistics.median(side) for side in zip(*turns))
        ratio = statistics.median(t / o for o, t in turns)
        rates = [f"{1000 * batch / ms:,.0f}" for ms in (ours, theirs)]
        print(f"| {batch} | {ours:.2f} | {rates[0]} | {theirs:.2f} | {rates[1]} | {ratio:.2f} |")
        quickest = [min(side) for side in zip(*turns)]
        print(f"batch {batch}: quickest turns {quickest[0]:.2f} and {quickest[1]:.2f} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
