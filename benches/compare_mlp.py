#!/usr/bin/env python3
"""Times one training step of the quickstart tutorial's MLP in Kiln and in PyTorch, on the CPU.

The two take turns (Kiln, PyTorch, Kiln, ...), so that whatever else the machine does hits both; of each the
median over the rounds is taken. Needs `pip install torch`.

    python3 benches/compare_mlp.py [--threads 2] [--rounds 5]
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
BATCHES = [64, 512]
GROUP = "mlp training step, cpu"


def kiln(threads):
    """Milliseconds a step, by batch size, as criterion estimates them."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    command = ["cargo", "bench", "--quiet", "--bench", "mlp", "--", "--noplot", "--quiet"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    target = pathlib.Path(env.get("CARGO_TARGET_DIR", ROOT / "target"))
    times = {}
    for batch in BATCHES:
        estimates = json.loads((target / "criterion" / GROUP / str(batch) / "new" / "estimates.json").read_text())
        times[batch] = estimates["median"]["point_estimate"] / 1e6
    return times


def pytorch(threads):
    """The same, measured in a process of its own."""
    command = [sys.executable, __file__, "--pytorch", "--threads", str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {int(batch): ms for batch, ms in json.loads(out).items()}


def measure_pytorch(threads):
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    times = {}
    for batch in BATCHES:
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        loss_fn = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        x, y = torch.rand(batch, 1, 28, 28), torch.randint(0, 10, (batch,))

        def step():
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        samples, end = [], time.perf_counter() + 2  # the first two seconds warm up
        while time.perf_counter() < end:
            step()
        end = time.perf_counter() + 5
        while time.perf_counter() < end:
            start = time.perf_counter()
            step()
            samples.append(time.perf_counter() - start)
        times[batch] = statistics.median(samples) * 1e3
    print(json.dumps(times))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.pytorch:
        measure_pytorch(args.threads)
        return
    rounds = []
    for number in range(args.rounds):
        rounds.append((kiln(args.threads), pytorch(args.threads)))
        print(f"round {number + 1} of {args.rounds}: {rounds[-1]}", file=sys.stderr)
    print("| batch | Kiln, ms | Kiln, images/s | PyTorch, ms | PyTorch, images/s | Kiln / PyTorch, speed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for batch in BATCHES:
        ours = statistics.median(k[batch] for k, _ in rounds)
        theirs = statistics.median(p[batch] for _, p in rounds)
        ratio = statistics.median(p[batch] / k[batch] for k, p in rounds)
        rates = [f"{1000 * batch / ms:,.0f}" for ms in (ours, theirs)]
        print(f"| {batch} | {ours:.2f} | {rates[0]} | {theirs:.2f} | {rates[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
