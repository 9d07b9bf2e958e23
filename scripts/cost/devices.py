"""GPUs for which times are predicted: scripts/gpu_profiles.txt."""

from dataclasses import dataclass
from pathlib import Path

PROFILES = Path(__file__).resolve().parent.parent / "gpu_profiles.txt"


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
    lines = PROFILES.read_text().splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return [Device(name.replace("_", " "), int(arch), int(processors), float(clock), float(bandwidth), int(warps), int(blocks),
                   int(shared) << 10, dict(zip(["f64", "f32", "tf32", "f16", "bf16"], map(float, [*rates[:4], rates[3]]))))
            for name, arch, processors, clock, bandwidth, warps, blocks, shared, *rates in rows]


DEVICES = read_devices()
