"""What a fault is, and the suites that must find it."""

from dataclasses import dataclass, field


@dataclass
class Suite:
    """Tests: what cargo's `test` takes before `--`, and whether they run on the simulated device."""

    arguments: list
    simulated: bool = True
    environment: dict = field(default_factory=dict)


@dataclass
class Mutation:
    """A fault: the piece of source (which occurs once), what takes its place, and the tests that should see it."""

    name: str
    why: str
    file: str
    search: str
    replace: str
    tests: list
    suite: str = "against_cpu"


DEVICE = ["-p", "kiln-cuda", "--features", "kernels"]
SUITES = {
    "against_cpu": Suite([*DEVICE, "--test", "against_cpu"]),
    # Every block is an allocation, so that what leaves its own is named.
    "uncached": Suite([*DEVICE, "--test", "against_cpu"], environment={"KILN_CUDA_NO_MEMORY_CACHING": "1"}),
    "races": Suite([*DEVICE, "--test", "against_cpu"], environment={"KILN_SIM_ORDER": "random", "KILN_SIM_RACES": "1"}),
    "copies": Suite([*DEVICE, "--test", "copies"]),
    "faults": Suite([*DEVICE, "--test", "faults"]),
    # Padding few channels is what `convolution_benchmark` chooses.
    "padded": Suite([*DEVICE, "--test", "against_cpu"], environment={"KILN_SIM_SLOW_CHANNELS": "50"}),
    "captures": Suite([*DEVICE, "--test", "captures"]),
    "plan_cache": Suite([*DEVICE, "--test", "plan_cache"]),
    "captured": Suite(["-p", "kiln-tests", "--features", "cuda", "--test", "captured_cuda"]),
    "nccl": Suite(["-p", "kiln-distributed", "--features", "cuda", "--test", "nccl"]),
    "unit": Suite([*DEVICE, "--lib"], simulated=False),
    "tensor": Suite(["-p", "kiln-tensor", "--test", "suite"], simulated=False),
}
