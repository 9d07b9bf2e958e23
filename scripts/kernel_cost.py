#!/usr/bin/env python3
"""Computes the cost of the CUDA kernels from their machine code: instructions and bytes per element, registers, occupancy, and the
time per element that follows from issue rate and bandwidth on a few GPUs. No GPU is needed.

    python3 scripts/kernel_cost.py                          # the table of hot kernels below, on all profiles
    python3 scripts/kernel_cost.py 'unary_(relu|exp)_f32'   # kernels whose names match, of those in the table
    python3 scripts/kernel_cost.py --loops max_pool_largest_f32
    python3 scripts/kernel_cost.py --check                  # compares with scripts/kernel_budgets.txt
    python3 scripts/kernel_cost.py --write                  # writes that file anew

It needs nvcc with ptxas beside it (NVCC, or PATH) and nvdisasm (`pip install nvidia-cuda-nvdisasm`; NVDISASM, beside nvcc, or
PATH). With `--built target/debug` it takes the PTX that cargo's last build of the kernels has left there.

How instructions are counted: the main loop is the innermost one with the memory accesses that define an element (see HOT).
Of the paths through it, the one with the most accesses to global memory is taken, and of these the shortest, because the
blocks that it skips are for rare cases: 64-bit division, the last, incomplete pack. A loop inside the main loop counts as
often as HOT says; one without memory accesses (which computes an element's address in a tensor of any strides) counts once.
Bytes are those that instructions request, whether or not caches hold them.
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
    rates: dict  # TFLOP/s, by the type of the factors

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


def read_devices():
    """The GPUs of scripts/gpu_profiles.txt, which has the sources."""
    lines = (ROOT / "scripts" / "gpu_profiles.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return [Device(name.replace("_", " "), int(arch), int(processors), float(clock), float(bandwidth), int(warps), int(blocks),
                   int(shared) << 10, dict(zip(["f64", "f32", "tf32", "f16", "bf16"], map(float, [*rates, rates[-1]]))))
            for name, arch, processors, clock, bandwidth, warps, blocks, shared, *rates in rows]


DEVICES = read_devices()


@dataclass
class Hot:
    """A kernel on the hot list: what an element is, whether loads or stores of the dtype count elements, those of packs, too
    (else those of its width alone: others are of indices), of packs perhaps those of one size in bytes, how many of these an
    element has, how many turns loops inside the main one make for an element (by depth), and the loads of a turn of the
    deepest."""

    name: str
    element: str
    counted: str = "store"
    packs: bool = True
    size: int = 0
    each: int = 1
    taps: list = field(default_factory=list)
    per_tap: int = 1


FLOATS = "(f32|f16|bf16)"
HOT = [
    Hot(f"unary_relu_{FLOATS}", "output"),
    Hot(f"unary_grad_relu_{FLOATS}", "input's gradient"),
    Hot(f"binary_add_{FLOATS}", "output"),
    Hot("copy_same_bits(16|32)", "element"),
    Hot("cast_f32_(f16|bf16)", "element"),
    Hot("cast_(f16|bf16)_f32", "element"),
    Hot(f"relu_bias_grad_packed_(along|across)_{FLOATS}", "input's gradient"),
    Hot(f"max_pool_packed_pixels_[23]_{FLOATS}", "output", size=16),
    Hot(f"max_pool_packed_rows16_[23]_{FLOATS}", "output", size=8),
    Hot(f"max_pool_packed_grad_(pixels|rows16)_[23]_{FLOATS}", "input's gradient"),
    Hot(f"mean_packed_grad_(pixels|planes)_{FLOATS}", "input's gradient"),
    Hot(f"dropout_apply_{FLOATS}", "output"),
    Hot(f"reduce_sum_{FLOATS}", "input", counted="load"),
    Hot(f"softmax_packed_(plain|log)_{FLOATS}", "output"),
    Hot(f"softmax_packed_grad_(plain|log)_{FLOATS}", "output"),
    Hot(f"class_loss_packed_labels_{FLOATS}", "class", counted="load", size=16),
    Hot(f"class_loss_packed_grad_labels_{FLOATS}", "class, without the pass that finds the largest", size=16),
    Hot(f"norm_packed_(along|across|rows)_{FLOATS}", "output, without the statistics"),
    Hot(f"norm_packed_grad_(along|across|rows)_{FLOATS}", "input's gradient, without the sums"),
    Hot(f"norm_packed_grad_columns_{FLOATS}", "input", counted="load", size=16, each=2),
    # Of a step that saves its gates; of a GRU, one whose state is also written apart.
    Hot(f"rnn_cell_(lstm|gru)_packed_{FLOATS}", "element of the state", each=6),
    Hot(f"rnn_cell_grad_lstm_packed_{FLOATS}", "element of the state", each=5),
    Hot(f"rnn_cell_grad_gru_packed_{FLOATS}", "element of the state", each=7),
    Hot("optim_(sgd|adagrad)_f32", "parameter", size=16, each=2),
    Hot("optim_(sgd|adagrad)_(f16|bf16)", "parameter", each=2),
    Hot("optim_(adam|rmsprop)_f32", "parameter", size=16, each=4),
    Hot("optim_(adam|rmsprop)_(f16|bf16)", "parameter", each=4),
    # Gradients in half precision. Of six stores on the path, two are of the rounded copy, as f16 or bf16: one of them happens.
    Hot("optim_(sgd|adagrad)_(f16|bf16)_f32", "parameter", size=16, each=3),
    Hot("optim_(adam|rmsprop)_(f16|bf16)_f32", "parameter", size=16, each=4),
    Hot(f"unscale_grads_{FLOATS}", "gradient"),
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


def is_hot(name):
    return next((hot for hot in HOT if re.fullmatch(hot.name, name)), None)


def hot_entries(ptx):
    """PTX without the kernels that are not on the list, which would take most of the assembler's time."""
    parts = re.split(r"(?=^\t?(?:\.visible )?\.entry )", ptx, flags=re.M)

    def kept(part):
        name = re.match(r"\s*(?:\.visible )?\.entry (\w+)", part)
        # Functions and tables may follow the kernel.
        return part if not name or is_hot(name[1]) else part[part.index("\n}") + 2:]

    return "".join(map(kept, parts))


def built_ptx(target):
    """The folder of the newest build of the kernels with PTX for sm_80."""
    found = sorted(Path(target).glob("build/kiln-cuda-*/out/pool2d.80.ptx"), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"no build of kiln-cuda in {target} has left PTX for sm_80 (CUDA_COMPUTE_CAP=80,…)")
    return found[-1].parent


def kernels_of(source, devices, tools, folder, built=None):
    """(arch, kernel, registers, shared bytes, threads) of a file."""
    nvcc, ptxas, nvdisasm = tools
    ptx = folder / f"{source.stem}.ptx"
    if built:
        text = (built / f"{source.stem}.80.ptx").read_text()
    else:
        run(nvcc, *flags(), "-arch=compute_80", "-o", ptx, source)
        text = ptx.read_text()
    text = hot_entries(text)
    ptx.write_text(text)
    bounds = dict(re.findall(r"\.entry (\w+)\([^)]*\)\s*\.maxntid (\d+)", text))
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
        counted = size == (hot.size or size) if hot.packs else size == width
        return size // width if kind == hot.counted and size % width == 0 and counted else 0

    header = kernel.main_loop(counts)
    cost = kernel.turn(header, hot.taps, hot.per_tap) if header is not None else None
    if cost is None:
        return None
    elements = sum(counts(hot.counted, size) * times for size, times in cost.count(hot.counted).items()) / hot.each
    return (cost.instructions / elements, cost.bytes() / elements, elements, cost) if elements else None


BUDGETS = ROOT / "scripts" / "kernel_budgets.txt"
# Compilers differ; an increase beyond this factor means that the kernel has changed.
SLACK = 1.1
# The device whose memory a kernel must keep busy: issuing its instructions may take half of the time that its bytes take.
RULE, SHARE = "H100", 0.5


@dataclass
class Budget:
    """Of a kernel: instructions per element by architecture, and bytes per element."""

    instructions: dict
    bytes: float

    def share(self):
        device = next(device for device in DEVICES if device.name == RULE)
        return device.issue_picoseconds(self.instructions[device.arch]) / device.memory_picoseconds(self.bytes)


def read_budgets():
    budgets, archs = {}, None
    for line in BUDGETS.read_text().splitlines():
        words = line.split()
        if line.startswith("kernel"):
            archs = [int(word.removeprefix("sm_")) for word in words if word.startswith("sm_")]
        elif words and not line.startswith("#"):
            numbers = [float(word) for word in words[1:len(archs) + 2]]
            budgets[words[0]] = Budget(dict(zip(archs, numbers)), numbers[-1])
    return budgets


def write_budgets(measured):
    archs = sorted(next(iter(measured.values())).instructions)
    heads = "".join(f"{f'sm_{arch}':>8}" for arch in archs)
    lines = [
        "# What the hot kernels may cost: instructions and bytes per element of their main loops, as scripts/kernel_cost.py reads",
        "# them off the machine code (`--check` in CI, `--write` makes this file). What an element is stands in its table HOT. The",
        f"# last column is the time that issuing takes as a part of what memory takes on an {RULE}: at most {SHARE}.",
        f"{'kernel':44}{heads}{'bytes':>8}{'issue/memory':>14}",
    ]
    for name, budget in measured.items():
        numbers = "".join(f"{budget.instructions[arch]:8.1f}" for arch in archs)
        lines.append(f"{name:44}{numbers}{budget.bytes:8.2f}{budget.share():14.2f}")
    BUDGETS.write_text("\n".join(lines) + "\n")


def faults(measured, budgets):
    """What is above the table, or missing in it."""
    for name in sorted({*measured} ^ {*budgets}):
        yield f"{name} is in {'the kernels' if name in measured else 'the table'} alone"
    for name in [name for name in measured if name in budgets]:
        now, then = measured[name], budgets[name]
        for arch, count in now.instructions.items():
            if count > then.instructions[arch] * SLACK:
                yield f"{name} has {count:.1f} instructions per element on sm_{arch}, above {then.instructions[arch]:.1f}"
        if now.bytes > then.bytes * 1.01:
            yield f"{name} moves {now.bytes:.2f} bytes per element, above {then.bytes:.2f}"
        if now.share() > SHARE:
            yield f"{name} issues for {now.share():.2f} of its memory's time on an {RULE}, above {SHARE}"


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
