"""What kernels may cost: scripts/kernel_budgets.txt."""

from dataclasses import dataclass
from pathlib import Path

from .devices import DEVICES

BUDGETS = Path(__file__).resolve().parent.parent / "kernel_budgets.txt"
# Compilers differ; an increase beyond this factor means that the kernel has changed.
SLACK = 1.1
# The device whose memory a kernel must keep busy: issuing its instructions may take half of the time that its bytes take.
RULE, SHARE = "H100", 0.5


@dataclass
class Budget:
    """Of a kernel: instructions per element by architecture, and bytes per element."""

    instructions: dict
    bytes: float

    def instructions_on(self, arch):
        """Per element, of the machine code for the nearest architecture."""
        return self.instructions[max((one for one in self.instructions if one <= arch), default=min(self.instructions))]

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
        "# them off the machine code (`--check` in CI, `--write` makes this file). scripts/cost/hot.py says what an element is. The",
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
