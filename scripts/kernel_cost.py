#!/usr/bin/env python3
"""What the CUDA kernels cost, read off their machine code: instructions and bytes per element, registers, occupancy, and the
time per element that follows from issue rate and bandwidth on a few GPUs. No GPU is needed.

    python3 scripts/kernel_cost.py                          # the table of hot kernels below, on all profiles
    python3 scripts/kernel_cost.py 'unary_(relu|exp)_f32'   # kernels whose names match, of those in the table
    python3 scripts/kernel_cost.py --loops max_pool_largest_f32

It needs nvcc with ptxas beside it (NVCC, or PATH) and nvdisasm (`pip install nvidia-cuda-nvdisasm`; NVDISASM, beside nvcc, or
PATH).

How instructions are counted: the main loop is the innermost one that holds the accesses by which elements are counted (see
HOT). Of the ways through it the one with the most accesses to global memory is taken, and of these the shortest, because
blocks that are skipped are those of odd cases: 64-bit division, the last, incomplete pack. A loop inside the main loop counts
as often as HOT says; one without accesses (that which finds an element's place in a tensor of any strides) counts once. Bytes
are those that instructions ask for, whatever caches hold.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels"


@dataclass
class Device:
    """A GPU. Clocks are boost clocks; a multiprocessor issues 4 instructions for 32 lanes each a cycle."""

    name: str
    arch: int
    processors: int
    gigahertz: float
    bandwidth: float  # TB/s
    warps: int  # that a multiprocessor holds
    blocks: int
    shared: int  # bytes of shared memory of a multiprocessor

    def issue_picoseconds(self, instructions):
        """The time for so many instructions of a thread."""
        return instructions / (self.processors * 128 * self.gigahertz) * 1e3

    def memory_picoseconds(self, count):
        return count / self.bandwidth

    def occupancy(self, registers, shared, threads):
        warps = (threads + 31) // 32
        # Registers are given out to warps, by 256.
        by_registers = 65536 // max(-(-registers * 32 // 256) * 256 * warps, 1)
        by_shared = self.shared // (shared + 1024)
        return min(by_registers, by_shared, self.blocks, self.warps // warps) * warps / self.warps


# From NVIDIA's white papers of the architectures (A100 80 GB and H100 as SXM), and the CUDA programming guide's table of
# technical specifications.
DEVICES = [
    Device("A100", 80, 108, 1.41, 2.04, 64, 32, 164 << 10),
    Device("RTX 4090", 89, 128, 2.52, 1.01, 48, 24, 100 << 10),
    Device("H100", 90, 132, 1.98, 3.35, 64, 32, 228 << 10),
    Device("RTX 5090", 120, 170, 2.41, 1.79, 48, 24, 100 << 10),
]


@dataclass
class Hot:
    """A kernel on the hot list: what an element is, whether loads or stores of the dtype count elements, those of packs, too
    (else those of its width alone: others are of indices), how many turns loops inside the main one make for an element (by
    depth), and the loads of a turn of the deepest."""

    name: str
    element: str
    counted: str = "store"
    packs: bool = True
    taps: list = field(default_factory=list)
    per_tap: int = 1


FLOATS = "(f32|f16|bf16)"
HOT = [
    Hot(f"unary_relu_{FLOATS}", "output"),
    Hot(f"unary_grad_relu_{FLOATS}", "input's gradient"),
    Hot(f"binary_add_{FLOATS}", "output"),
    Hot(f"copy_same_bits(16|32)", "element"),
    Hot(f"relu_bias_grad_masked_{FLOATS}", "input's gradient"),
    Hot(f"max_pool_largest_{FLOATS}", "output of 2×2 windows", packs=False, taps=[2, 2]),
    Hot(f"max_pool_grad_gather_{FLOATS}", "input's gradient, in one window", packs=False, taps=[1, 1], per_tap=2),
    Hot(f"dropout_\\w+_{FLOATS}", "output"),
    Hot(f"reduce_sum_{FLOATS}", "input", counted="load"),
    Hot(f"softmax_\\w+_{FLOATS}", "output"),
    Hot(f"norm_\\w+_{FLOATS}", "output"),
    Hot(f"optim_\\w+_{FLOATS}", "parameter"),
]

WIDTHS = {"8": 1, "16": 2, "32": 4, "64": 8, "128": 16}
DTYPES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "bits8": 1, "bits16": 2, "bits32": 4, "bits64": 8}


@dataclass
class Instruction:
    opcode: str
    target: str = ""
    guarded: bool = False

    def access(self):
        """("load" or "store", bytes) of an access to global memory."""
        parts = self.opcode.split(".")
        if parts[0] not in ("LDG", "STG"):
            return None
        width = next((WIDTHS[part.lstrip("US")] for part in parts if part.lstrip("US") in WIDTHS), 4)
        return ("load" if parts[0] == "LDG" else "store", width)

    def ends(self):
        """Whether what follows is not reached by falling through."""
        return self.opcode.split(".")[0] in ("BRA", "EXIT", "RET", "JMP", "BRX") and not self.guarded


@dataclass
class Cost:
    """Of a way: its accesses to global memory, its instructions, and how many of them belong to odd cases."""

    loads: dict = field(default_factory=dict)
    stores: dict = field(default_factory=dict)
    instructions: int = 0
    odd: int = 0

    def plus(self, other, times=1):
        def add(a, b):
            return {width: a.get(width, 0) + times * b.get(width, 0) for width in {*a, *b}}

        return Cost(add(self.loads, other.loads), add(self.stores, other.stores),
                    self.instructions + times * other.instructions, self.odd + times * other.odd)

    def accesses(self):
        return sum(self.loads.values()) + sum(self.stores.values())

    def better(self, other):
        return other is None or (self.odd, -self.accesses(), self.instructions) < (
            other.odd, -other.accesses(), other.instructions)

    def count(self, kind):
        return self.loads if kind == "load" else self.stores

    def bytes(self):
        return sum(width * times for part in (self.loads, self.stores) for width, times in part.items())


class Kernel:
    """The code of a kernel, in basic blocks, and its natural loops."""

    def __init__(self, name, lines):
        self.name, code, labels = name, [], {}
        for line in lines:
            label = re.match(r"\s*(\.L_\w+):", line)
            if label:
                labels[label[1]] = len(code)
                continue
            found = re.match(r"\s*/\*[0-9a-f]+\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line)
            if found:
                guard, opcode, rest = found.groups()
                target = re.search(r"`\((\.L_\w+)\)", rest)
                # `BRA.U !UP0, …` is conditional, too, and a conditional call leaves a loop for good.
                guarded = bool(guard or re.match(r"\s*!?U?P\d", rest))
                jumps = target and (opcode.startswith("BRA") or opcode.startswith("CALL") and guarded)
                code.append(Instruction(opcode, target[1] if jumps else "", guarded))
        # A block begins where a jump leads, and behind one.
        starts = {0, *(labels[one.target] for one in code if one.target)}
        starts |= {i + 1 for i, one in enumerate(code) if one.target or one.ends()}
        starts = sorted(start for start in starts if start < len(code))
        number = {start: block for block, start in enumerate(starts)}
        self.blocks = [code[a:b] for a, b in zip(starts, [*starts[1:], len(code)])]
        self.next = []
        for block, inside in enumerate(self.blocks):
            after = {number[labels[one.target]] for one in inside if one.target and labels[one.target] in number}
            if not inside[-1].ends() and block + 1 < len(self.blocks):
                after.add(block + 1)
            self.next.append(after)
        self.loops = self.natural_loops()

    def order(self):
        """The blocks that are reached, each before those that it leads to but for jumps back."""
        seen, out, open_ = {0}, [], [(0, iter(sorted(self.next[0])))]
        while open_:
            block, after = open_[-1]
            for to in after:
                if to not in seen:
                    seen.add(to)
                    open_.append((to, iter(sorted(self.next[to]))))
                    break
            else:
                out.append(block)
                open_.pop()
        return out[::-1]

    def natural_loops(self):
        """The blocks of each loop by its header: all that lead to a jump back without passing the header."""
        order = self.order()
        place = {block: i for i, block in enumerate(order)}
        before = {block: [one for one in order if block in self.next[one]] for block in order}
        dominators = {block: set(order) for block in order}
        dominators[0] = {0}
        changed = True
        while changed:
            changed = False
            for block in order[1:]:
                new = set.intersection(*(dominators[one] for one in before[block])) | {block}
                if new != dominators[block]:
                    dominators[block], changed = new, True
        self.place = place
        loops = {}
        for block in order:
            for header in self.next[block]:
                if header not in dominators[block] or header == block and len(self.blocks[block]) == 1:
                    continue
                body, open_ = loops.setdefault(header, {header}), [block]
                while open_:
                    one = open_.pop()
                    if one not in body:
                        body.add(one)
                        open_.extend(before[one])
        return loops

    def main_loop(self, counts):
        """The header of the innermost loop with accesses that count elements; of several, of the one with the most."""
        def weight(header):
            of = [one.access() for block in self.loops[header] for one in self.blocks[block]]
            return sum(counts(*one) for one in of if one)

        holding = [header for header in self.loops if weight(header)]
        inner = [a for a in holding if not any(b != a and self.loops[b] < self.loops[a] for b in holding)]
        return max(inner, key=weight, default=None)

    def cost_of_block(self, block):
        cost = Cost()
        for one in self.blocks[block]:
            access = one.access()
            if access:
                cost.count(access[0])[access[1]] = cost.count(access[0]).get(access[1], 0) + 1
            cost.instructions += 1
            # Calls are those of 64-bit division, atomics those of the record of errors.
            name = one.opcode.split(".")[0]
            cost.odd += name in ("ATOMG", "ATOM", "RED", "REDG", "MEMBAR") or (name == "CALL" and not one.guarded)
        return cost

    def nested(self, header, body, taps, per_tap):
        """The cost of one turn of a loop inside the main one, and how many turns it makes."""
        cost = self.turn(header, taps[1:], per_tap) or Cost()
        if not cost.accesses() or not taps:
            return cost, 1
        loads = sum(cost.loads.values())
        inner = [one for one, blocks in self.loops.items() if one != header and blocks < body]
        deepest = all(not (self.turn(one, [], per_tap) or Cost()).accesses() for one in inner)
        # One that is unrolled takes several taps in a turn, and makes none if there are fewer.
        return cost, taps[0] * per_tap // loads if deepest else taps[0]

    def turn(self, header, taps, per_tap):
        """The cost of one turn of a loop, on the way that the top of this file describes."""
        body = self.loops[header]
        inside = {one: blocks for one, blocks in self.loops.items() if one != header and blocks < body}
        children = {one: blocks for one, blocks in inside.items()
                    if not any(blocks < other for other in inside.values())}
        owner = {block: child for child, blocks in children.items() for block in blocks}
        best, result = {header: Cost()}, None
        for block in sorted(body, key=self.place.get):
            cost = best.get(block)
            if cost is None or owner.get(block, block) != block:
                continue
            if block in children:
                cost = cost.plus(*self.nested(block, children[block], taps, per_tap))
                after = {to for one in children[block] for to in self.next[one] if to not in children[block]}
            else:
                cost, after = cost.plus(self.cost_of_block(block)), self.next[block]
            for to in after:
                if to == header:
                    result = cost if cost.better(result) else result
                elif to in body and cost.better(best.get(to)):
                    best[to] = cost
        return result


def tool(variable, name, beside=None):
    found = os.environ.get(variable)
    if not found and beside and (Path(beside).parent / name).is_file():
        found = str(Path(beside).parent / name)
    found = found or shutil.which(name)
    if not found:
        sys.exit(f"{name} was not found: set {variable}, or put it on PATH (see --help)")
    return found


def run(*words):
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, words))}:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def flags():
    """Those of the build."""
    text = (ROOT / "build" / "images.rs").read_text()
    return re.findall(r'"([^"]+)"', re.search(r"const FLAGS: [^=]*= \[(.*?)\];", text)[1])


def kernels_of(source, devices, tools, folder):
    """(arch, kernel, registers, shared bytes, threads) of a file."""
    nvcc, ptxas, nvdisasm = tools
    ptx = folder / f"{source.stem}.ptx"
    run(nvcc, *flags(), "-arch=compute_80", "-o", ptx, source)
    bounds = dict(re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", ptx.read_text()))
    for arch in sorted({device.arch for device in devices}):
        cubin = folder / f"{source.stem}.{arch}.cubin"
        told = run(ptxas, f"-arch=sm_{arch}", "-v", "-o", cubin, ptx)
        sizes = {}
        for name, used in re.findall(r"Compiling entry function '(\w+)'.*?\n(?:.*\n)*?.*?Used (.*)", told):
            shared = re.search(r"(\d+) bytes smem", used)
            sizes[name] = (int(used.split()[0]), int(shared[1]) if shared else 0)
        text = run(nvdisasm, "-c", cubin)
        for part in re.split(r"^\.text\.", text, flags=re.M)[1:]:
            name, body = part.split(":", 1)
            if name in sizes:
                kernel = Kernel(name, body.split("\n.section")[0].split("\n\t.section")[0].splitlines())
                yield arch, kernel, *sizes[name], int(bounds.get(name, 256))


def row(kernel, hot):
    """Instructions and bytes per element, and the accesses of a turn of the main loop."""
    width = DTYPES[kernel.name.rsplit("_", 1)[1]]

    def counts(kind, size):
        return size // width if kind == hot.counted and size % width == 0 and (hot.packs or size == width) else 0

    header = kernel.main_loop(counts)
    cost = kernel.turn(header, hot.taps, hot.per_tap) if header is not None else None
    if cost is None:
        return None
    elements = sum(counts(hot.counted, size) * times for size, times in cost.count(hot.counted).items())
    return (cost.instructions / elements, cost.bytes() / elements, elements, cost) if elements else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default=".", help="a regular expression that kernels' names match")
    parser.add_argument("--loops", action="store_true", help="print the loops of each kernel, too")
    arguments = parser.parse_args()
    nvcc = tool("NVCC", "nvcc")
    tools = nvcc, tool("PTXAS", "ptxas", nvcc), tool("NVDISASM", "nvdisasm", nvcc)
    families = {hot.name.split("_", 1)[0] for hot in HOT}
    sources = [path for path in sorted(KERNELS.glob("*.cu"))
               if any(re.search(rf"\b{family}\w*,", path.read_text()) for family in families)]
    print("| kernel | element | device | instructions | loads | stores | bytes | registers | occupancy | issue, ps | memory, ps "
          "| issue / memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda source: list(kernels_of(source, DEVICES, tools, Path(folder))), sources)
        for arch, kernel, registers, shared, threads in (one for of_file in found for one in of_file):
            hot = next((hot for hot in HOT if re.fullmatch(hot.name, kernel.name)), None)
            if hot is None or not re.search(arguments.name, kernel.name):
                continue
            if arguments.loops:
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


if __name__ == "__main__":
    main()
