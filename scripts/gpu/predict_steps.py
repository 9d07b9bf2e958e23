#!/usr/bin/env python3
"""Writes predicted_steps.txt: how long whole steps of training take on each GPU of scripts/gpu_profiles.txt, by what they move and
compute on the simulated device (docs/simulator.md). It needs what `cargo sim` needs, and some GB.

    python3 scripts/gpu/predict_steps.py                  # all of them: about a quarter of an hour
    python3 scripts/gpu/predict_steps.py resnet50_f32     # these; the other lines stay as they are

The simulated device takes minutes for large batches, so they are simulated with two samples and with three, or with three and four:
what a launch reads, writes and computes is a sum of a part for the parameters and one for the batch, and so follows for any number
of samples. (With fewer, the sums of small images are not divided among blocks, as they are with more.) The time of a launch is the
longest that follows from its bytes, instructions and operations, at that number of samples.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cost.budgets import read_budgets  # noqa: E402
from cost.devices import DEVICES  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = Path(__file__).resolve().parent / "predicted_steps.txt"
# The step, the batch that a GPU is measured with, and those that are simulated.
STEPS = [
    ("mlp_f32", 64, [64]),
    ("mlp_autocast_bf16", 64, [64]),
    ("lenet_f32", 64, [64]),
    ("vgg16_f32", 2, [2]),
    ("vgg16_bn_f32", 2, [2]),
    ("resnet50_f32", 64, [3, 4]),
    ("resnet50_autocast_bf16_nhwc", 128, [2, 3]),
    ("vgg16_bf16_nhwc", 256, [2, 3]),
    ("vgg16_bn_autocast_bf16_nhwc", 64, [2, 3]),
]
HEADER = """\
# Microseconds of a step of training (forward, backward, SGD with momentum) that follow from what it moves and computes, one
# launch after the other, by name and batch size: scripts/gpu/predict_steps.py writes this table.
# step {}
"""


def account(name, batch):
    """The launches of a step on the simulated device."""
    with tempfile.TemporaryDirectory() as reports:
        command = ["cargo", "sim", "test", "-q", "-p", "kiln-tests", "--features", "cuda", "--test", "mlp_cuda", "--",
                   "--ignored", "--exact", "steps::step_of_full_size"]
        settings = {"KILN_STEP": f"{name}:{batch}", "KILN_SIM_NO_VALUES": "1", "KILN_SIM_MEMORY": "12000000000",
                    "KILN_SIM_REPORT": reports, "KILN_REQUIRE_DEVICE": "1"}
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True)
        # An account is one of a marked part of a program; the program's own report has no number.
        found = list(Path(reports).glob("*-*.json"))
        if done.returncode or len(found) != 1:
            sys.exit(f"{name} with a batch of {batch} has no account:\n{done.stdout}{done.stderr}")
        return json.loads(found[0].read_text())["entries"]


def at_batch(accounts, batch):
    """(kernel or function, type of the factors, bytes, operations) of each launch."""
    sizes = list(accounts)
    launches = list(zip(*accounts.values()))
    names = [[(entry["name"], entry["data"]) for entry in entries] for entries in accounts.values()]
    if any(other != names[0] for other in names):
        sys.exit(f"the launches of batches of {sizes} are not the same, so none follow for {batch}")

    def follows(values):
        if len(values) == 1:
            return values[0]
        return values[0] + (values[1] - values[0]) * (batch - sizes[0]) / (sizes[1] - sizes[0])

    for entries in launches:
        moved = follows([entry["read"] + entry["written"] for entry in entries])
        yield entries[0]["name"], entries[0]["data"], moved, follows([entry["flops"] for entry in entries])


def seconds(launch, device, budgets):
    """As crates/sim/src/account_table.rs computes it."""
    name, data, moved, flops = launch
    times = [moved / device.bandwidth / 1e12]
    if name in budgets:
        elements = moved / budgets[name].bytes
        times.append(device.issue_picoseconds(elements * budgets[name].instructions_on(device.arch)) / 1e12)
    if data in device.rates:
        times.append(flops / device.rates[data] / 1e12)
    return max(times)


def main():
    asked, known = sys.argv[1:], [name for name, *_ in STEPS]
    if any(name not in known for name in asked):
        sys.exit(f"steps are {', '.join(known)}\n{__doc__}")
    budgets = read_budgets()
    lines = {tuple(line.split()[:2]): line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")}
    for name, batch, simulated in STEPS:
        if asked and name not in asked:
            continue
        launches = list(at_batch({size: account(name, size) for size in simulated}, batch))
        times = [sum(seconds(launch, device, budgets) for launch in launches) * 1e6 for device in DEVICES]
        lines[name, str(batch)] = f"{name:32}{batch:6} {'  '.join(f'{time:.1f}' for time in times)}"
        print(lines[name, str(batch)], flush=True)
    rows = [lines[name, str(batch)] for name, batch, _ in STEPS if (name, str(batch)) in lines]
    header = HEADER.format(" ".join(device.name.replace(" ", "_") for device in DEVICES))
    TABLE.write_text(header + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
