#!/usr/bin/env python3
"""Computes the cost of the CUDA kernels from their machine code: instructions and bytes per element, registers, occupancy, and the
time per element that follows from issue rate and bandwidth on a few GPUs. No GPU is needed.

    python3 scripts/kernel_cost.py                          # the hot kernels of scripts/cost/hot.py, on all profiles
    python3 scripts/kernel_cost.py 'unary_(relu|exp)_f32'   # kernels whose names match, of those in the table
    python3 scripts/kernel_cost.py --loops max_pool_largest_f32
    python3 scripts/kernel_cost.py --check                  # compares with scripts/kernel_budgets.txt
    python3 scripts/kernel_cost.py --write                  # writes that file anew

It needs nvcc with ptxas beside it (NVCC, or PATH) and nvdisasm (`pip install nvidia-cuda-nvdisasm`; NVDISASM, beside nvcc, or
PATH). With `--built target/debug` it takes the PTX that cargo's last build of the kernels has left there.

How instructions are counted: the main loop is the innermost one with the memory accesses that define an element (scripts/cost/hot.py).
Of the paths through it, the one with the most accesses to global memory is taken, and of these the shortest, because the
blocks that it skips are for rare cases: 64-bit division, the last, incomplete pack. A loop inside the main loop counts as
often as that table says; one without memory accesses (which computes an element's address in a tensor of any strides) counts once.
Bytes are those that instructions request, whether or not caches hold them.
"""

import argparse
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cost.assembly import KERNELS, built_ptx, kernels_of, tool
from cost.budgets import Budget, faults, read_budgets, write_budgets
from cost.devices import DEVICES
from cost.hot import HOT, is_hot, row


def print_costs(found, loops):
    print("| kernel | element | device | instructions | loads | stores | bytes | registers | occupancy | issue, ps | memory, ps "
          "| issue / memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
    for arch, kernel, registers, shared, threads in found:
        hot = is_hot(kernel.name)
        if loops:
            for body in kernel.loops.values():
                inside = [one for block in body for one in kernel.blocks[block]]
                accesses = sum(bool(one.access()) for one in inside)
                print(f"{kernel.name} for sm_{arch}: a loop of {len(inside)} instructions with {accesses} accesses")
        cost = row(kernel, hot)
        for device in (device for device in DEVICES if device.arch == arch):
            if cost is None:
                print(f"| `{kernel.name}` | {hot.element} | {device.name} | no main loop was found |")
                continue
            instructions, moved, elements, turn = cost
            issue, memory = device.issue_picoseconds(instructions), device.memory_picoseconds(moved)

            def accesses(of):
                return ", ".join(f"{times / elements:g}×{width}" for width, times in sorted(of.items()) if times)

            occupancy = device.occupancy(registers, shared, threads)
            print(f"| `{kernel.name}` | {hot.element} | {device.name} | {instructions:.1f} | {accesses(turn.loads)} "
                  f"| {accesses(turn.stores)} | {moved:.1f} | {registers} | {occupancy:.0%} | {issue:.2f} "
                  f"| {memory:.2f} | {issue / memory:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default=".", help="a regular expression that kernels' names match")
    parser.add_argument("--loops", action="store_true", help="print the loops of each kernel, too")
    parser.add_argument("--built", metavar="TARGET", help="take the PTX of cargo's last build in this folder")
    parser.add_argument("--check", action="store_true", help="fail if a kernel is above its budget")
    parser.add_argument("--write", action="store_true", help="write the table of budgets")
    arguments = parser.parse_args()
    nvcc = tool("NVCC", "nvcc")
    tools = nvcc, tool("PTXAS", "ptxas", nvcc), tool("NVDISASM", "nvdisasm", nvcc)
    built = built_ptx(arguments.built) if arguments.built else None
    # A kernel is in the file that declares its family: `norm_packed` rather than `norm`.
    families = {family: path for path in KERNELS.glob("*.cu")
                for family in re.findall(r"^FAMILY\((\w+)", path.read_text(), flags=re.M)}
    of_hot = [[family for family in families if hot.name.startswith(f"{family}_")] for hot in HOT]
    sources = sorted({families[max(found, key=len)] for found in of_hot})
    table = arguments.check or arguments.write
    devices = [device for device in DEVICES if not table or device.arch in (80, 90, 120)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda source: list(kernels_of(source, devices, tools, Path(folder), built)), sources)
        found = [one for of_file in jobs for one in of_file if is_hot(one[1].name) and re.search(arguments.name, one[1].name)]
    if not table:
        return print_costs(found, arguments.loops)
    measured, lost = {}, []
    for arch, kernel, *_ in sorted(found, key=lambda one: one[1].name):
        cost = row(kernel, is_hot(kernel.name))
        if cost is None:
            lost.append(f"no main loop was found in {kernel.name} for sm_{arch}")
            continue
        budget = measured.setdefault(kernel.name, Budget({}, 0))
        budget.instructions[arch], budget.bytes = cost[0], max(budget.bytes, cost[1])
    if arguments.write and not lost:
        write_budgets(measured)
    wrong = lost or list(faults(measured, read_budgets()))
    if wrong:
        sys.exit("\n".join([*wrong, "`python3 scripts/kernel_cost.py --write` makes the table anew, where that is right."]))
    print(f"{len(measured)} kernels are within their budgets")


if __name__ == "__main__":
    main()
