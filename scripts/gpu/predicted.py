#!/usr/bin/env python3
"""Compares the times that follow from bytes, instructions and floating-point operations with those that a GPU has taken, as three
tables: of operations, of the hot kernels, and of whole steps of training.

    predicted.py DEVICE OPERATIONS TIMES

DEVICE has the output of the example `device_info`, by which the GPU's figures are found in scripts/gpu_profiles.txt. OPERATIONS
is what the bench `ops` has written to `KILN_BENCH_ROWS`; instructions per element are those of scripts/kernel_budgets.txt. TIMES
has the lines `kernel NAME ELEMENTS BYTES SECONDS` of the test `times_of_kernels`, one for each hot kernel, and the lines
`step NAME BATCH SECONDS` of `times_of_steps`; what is predicted for steps is in predicted_steps.txt. A prediction is the longest
of the three times, without the launch: small operations take longer.
"""

import re
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cost.budgets import read_budgets  # noqa: E402
from cost.devices import DEVICES  # noqa: E402

PREDICTED_STEPS = Path(__file__).resolve().parent / "predicted_steps.txt"


def found(text):
    """The GPU whose figures are taken, and what is to be said of it."""
    line = re.search(r"cuda:0\s+(.*), compute capability (\d+)\.(\d+)", text)
    if not line:
        sys.exit(f"there is no GPU in the report:\n{text}")
    name, arch = line[1], 10 * int(line[2]) + int(line[3])
    known = next((device for device in DEVICES if device.name.lower() in name.lower()), None)
    if known:
        return known, f"{name}, by the figures of {known.name}."
    older = [device for device in DEVICES if device.arch <= arch]
    known = max(older or DEVICES, key=lambda device: device.arch)
    return known, f"{name} is not in gpu_profiles.txt: predictions are those for {known.name}, and so is their distance."


def issue(device, budgets, kernel, elements):
    """Seconds that issuing the instructions of a kernel takes."""
    if kernel not in budgets:
        sys.exit(f"{kernel} is not in kernel_budgets.txt")
    return device.issue_picoseconds(elements * budgets[kernel].instructions_on(device.arch)) / 1e12


def compared(times, seconds):
    """The cells for what bounds it, the prediction, the measured time and their ratio, by predicted seconds."""
    bound = max(times, key=times.get)
    ratio = f"{seconds / times[bound]:.2f}" if times[bound] else "–"
    return f"{bound} | {times[bound] * 1e3:.4f} | {seconds * 1e3:.4f} | {ratio}"


def operations(lines, device, budgets):
    print("| operation | settings | kernel | bound by | predicted, ms | measured, ms | measured / predicted |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for line in lines:
        name, settings, factors, seconds, flops, moved, kernel, elements = line.rstrip("\n").split("\t")
        times = {"memory": int(moved) / device.bandwidth / 1e12, "math": int(flops) / device.rates[factors] / 1e12}
        if kernel != "-":
            times["issue"] = issue(device, budgets, kernel, int(elements))
        print(f"| {name} | {settings} | {kernel} | {compared(times, float(seconds))} |")


def kernels(text, device, budgets):
    print("\n| kernel | elements | bound by | predicted, ms | measured, ms | measured / predicted |")
    print("| --- | --- | --- | --- | --- | --- |")
    missing = dict.fromkeys(budgets)
    for name, elements, moved, seconds in re.findall(r"^kernel (\S+) (\d+) (\d+) (\S+)$", text, flags=re.M):
        missing.pop(name, None)
        times = {"memory": int(moved) / device.bandwidth / 1e12, "issue": issue(device, budgets, name, int(elements))}
        print(f"| {name} | {elements} | {compared(times, float(seconds))} |")
    if missing:
        sys.exit(f"not measured: {', '.join(missing)}")


def read_steps():
    """Microseconds of a step by GPU, by the step's name and batch."""
    lines = PREDICTED_STEPS.read_text().splitlines()
    names = next(line.removeprefix("# step").split() for line in lines if line.startswith("# step"))
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {(row[0], row[1]): dict(zip(names, map(float, row[2:]))) for row in rows}


def steps(text, device):
    predicted = read_steps()
    print("\n| step | batch | predicted, ms | measured, ms | measured / predicted |\n| --- | --- | --- | --- | --- |")
    for name, batch, seconds in re.findall(r"^step (\S+) (\d+) (\S+)$", text, flags=re.M):
        if (name, batch) not in predicted:
            sys.exit(f"{PREDICTED_STEPS.name} has no {name} with a batch of {batch}")
        time = predicted.pop((name, batch))[device.name.replace(" ", "_")] / 1e6
        print(f"| {name} | {batch} | {time * 1e3:.4f} | {float(seconds) * 1e3:.4f} | {float(seconds) / time:.2f} |")
    for name, batch in predicted:
        print(f"| {name} | {batch} | {predicted[name, batch][device.name.replace(' ', '_')] / 1e3:.4f} | not measured | – |")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    about, rows, times = (Path(path).read_text() for path in sys.argv[1:])
    device, said = found(about)
    print(f"{said}\n")
    budgets = read_budgets()
    operations(rows.splitlines(), device, budgets)
    kernels(times, device, budgets)
    steps(times, device)


if __name__ == "__main__":
    main()
