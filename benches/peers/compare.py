#!/usr/bin/env python3
"""Times training steps and inference of the MLP, LeNet, VGG16 and ResNet-18, and training steps of an LSTM, a GPT and
attention over 4,096 tokens, in Kiln, PyTorch (eager and compiled), candle and burn.

They take turns of a fraction of a second (Kiln, PyTorch, ..., Kiln, ...), each in a process that stays alive meanwhile, so that
other load on the machine affects all of them; after a third of the turns (`--processes`) all begin again in new ones, because one
program differs by up to 5 % from process to process. Times are medians over the turns; `Kiln's speed` is the median
of the ratios of the turns: above 1, Kiln is faster. Memory is the most that the process occupied, including its
libraries; with `--cuda` the most GPU memory that its tensors occupied after the first step, or what the process holds there
if it does not report that.

With `--cuda` everything is measured in f32 with TensorFloat-32 off and on, and in bf16 with channels-last images, and
workloads with convolutions with cuDNN's benchmark off and on. Both sides have the same settings, and are timed with CUDA
events. `--precision` and `--benchmark` select some. candle and burn run only in f32. `bf16` is a network in f32 under
autocast, on both sides.
PyTorch needs `pip install torch`; candle and burn are built by cargo, which takes minutes the first time. They have the
networks of images only. Frameworks that are missing are omitted, and a turn that takes longer than
`--limit` is reported as such.

    python3 benches/peers/compare.py                                    # everything, half an hour at least
    python3 benches/peers/compare.py --peers pytorch mlp-train lenet-train
    python3 benches/peers/compare.py --cpu avx2 --peers pytorch         # as on a CPU without AVX-512
    python3 benches/peers/compare.py --peers "" --before models-0f11    # Kiln and its bench program of another commit
    python3 benches/peers/compare.py --cuda                             # on a GPU
    python3 benches/peers/compare.py --cuda --precision bf16 --benchmark on --batches 256 vgg16-train
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time

PEERS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(PEERS.parent))

from turns import Failed, Program, Slow, build  # noqa: E402

# Workload -> batches, and those that only a GPU is given.
WORKLOADS = {
    "mlp-train": ([64, 512], [256]),
    "mlp-infer": ([64, 512], [256]),
    "lenet-train": ([64], [256]),
    "lenet-infer": ([64], [256]),
    "vgg16-train": ([8], [64, 256]),
    "vgg16-infer": ([1, 8], [64, 256]),
    "resnet18-train": ([8], [64, 256]),
    "resnet18-infer": ([1, 8], [64, 256]),
    "lstm-train": ([32], [256]),
    "gpt-train": ([16], [64]),
    "attention-train": ([1], [8]),
}
CONVOLUTIONS = ("lenet", "vgg16", "resnet18")
# What the programs of some frameworks do not have.
LACKING = dict.fromkeys(["candle", "burn"], ("lstm", "gpt", "attention"))
PRECISIONS = ["f32", "tf32", "bf16"]
BENCHMARKS = ["off", "on"]
TURN = 300  # milliseconds that a turn should last
PAUSE = 0.05  # seconds before a turn: threads of OpenMP keep a core busy for some milliseconds after their last work
# What restricts Kiln, and PyTorch's own kernels, MKL and oneDNN, to an instruction set.
LEVELS = {
    "avx2": {
        "KILN_CPU": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "avx512": {"KILN_CPU": "avx512"},
}


def kiln(args, features):
    program = args.program or build("bench", *features, "--bench", "models", "--no-run")
    return [program], {"KILN_BENCH_TURNS": args.device}


def before(args, features):
    return [args.before], {"KILN_BENCH_TURNS": args.device}


def pytorch(args, features):
    test = "import torch; assert torch.cuda.is_available()" if args.cuda else "import torch"
    subprocess.run([sys.executable, "-c", test], check=True, stderr=subprocess.DEVNULL)
    return [sys.executable, PEERS / "pytorch.py", args.device], {}


def compiled(args, features):
    command, env = pytorch(args, features)
    return [*command, "--compile"], env


def candle(args, features):
    features = features + (["--features", "mkl"] if args.mkl else [])
    return [build("build", "--release", *features, "--package", "candle-peer", cwd=PEERS), args.device], {}


def burn(args, features):
    return [build("build", "--release", *features, "--package", "burn-peer", cwd=PEERS), args.device], {}


SIDES = {"kiln": kiln, "kiln-before": before, "pytorch": pytorch, "pytorch-compiled": compiled, "candle": candle, "burn": burn}
# These have the settings.
SET = ["kiln", "kiln-before", "pytorch", "pytorch-compiled"]


def device_memory(pid):
    """MiB that a process holds on GPUs, which with an allocator that keeps what it has is its peak; None if unknown."""
    query = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        held = [line.split(",")[1] for line in lines if line.split(",")[0] == str(pid)]
        return sum(map(float, held)) if held else None
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return None


class Side:
    """One framework with one workload, in some settings."""

    def __init__(self, name, command, env, settings, args):
        self.name, self.settings, self.limit, self.on_gpu = name, settings, args.limit, args.cuda
        threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"], args.threads)
        precision, benchmark = settings
        settings = {"KILN_BENCH_PRECISION": precision, "KILN_BENCH_BENCHMARK": benchmark}
        self.command, self.env = command, {**threads, **settings, **LEVELS.get(args.cpu, {}), **env}
        # Of each turn that it took, by number: milliseconds. Peak memory of each process; what went wrong.
        self.program, self.times, self.peaks, self.outcome = None, {}, [], None

    def begin(self):
        self.program = Program(self.command, **self.env)

    def end(self):
        if not self.outcome:
            self.peaks.append(self.peak_memory())
        self.program.close()

    def turn(self, workload, batch, steps):
        """Milliseconds of a step; None once it was too slow or failed."""
        if self.outcome:
            return None
        time.sleep(PAUSE)
        try:
            answer = self.program.ask(f"{workload} {batch} {steps}", self.limit)
            if answer.startswith("error: "):
                self.outcome = answer.removeprefix("error: ").strip().replace("|", "/")[:100]
                return None
            return float(answer)
        except Slow:
            self.outcome = f"> {self.limit:g} s"
        except Failed:
            self.outcome = "failed"
        return None

    def peak_memory(self):
        """MiB."""
        if not self.on_gpu:
            return self.program.peak_memory()
        answer = self.program.ask("memory", self.limit).strip()
        return device_memory(self.program.process.pid) if answer == "unknown" else float(answer)

    def row(self, workload, batch, ours):
        """A line of the table; `ours` are the times of Kiln's turns."""
        precision, benchmark = self.settings
        what = f"| {workload} | {batch} | {precision}{', benchmark' if benchmark == 'on' else ''} | {self.name} |"
        if self.outcome:
            return f"{what} {self.outcome} | – | – | – |"
        memory = "–" if None in self.peaks else f"{max(self.peaks):,.0f}"
        ms = statistics.median(self.times.values())
        pairs = [ms / ours[turn] for turn, ms in self.times.items() if turn in ours]
        ratio = f"{statistics.median(pairs):.2f}" if pairs and self.name != "kiln" else "–"
        return f"{what} {ms:.3f} | {1000 * batch / ms:,.1f} | {memory} | {ratio} |"


def compare(workload, batch, settings, commands, args):
    plain = settings == ("f32", "off")
    lacking = [name for name, networks in LACKING.items() if workload.startswith(networks)]
    names = [name for name in commands if (plain or name in SET) and name not in lacking]
    sides = [Side(name, *commands[name], settings, args) for name in names]
    for process in range(args.processes):
        turns = range(*(args.turns * i // args.processes for i in (process, process + 1)))
        take_turns([side for side in sides if not side.outcome], workload, batch, turns, args)
    for side in sides:
        print(side.row(workload, batch, sides[0].times if sides[0].name == "kiln" else {}), flush=True)


def take_turns(sides, workload, batch, turns, args):
    """These turns of each side, in new processes."""
    running = []
    try:
        for side in sides:
            side.begin()
            running.append(side)
        steps, rounds = {}, {}
        for side in sides:  # warms up; the first turn makes the workload
            ms = side.turn(workload, batch, 1)
            if ms is not None and ms < TURN:
                ms = side.turn(workload, batch, 3)
            if ms is not None:
                steps[side] = max(1, min(200, int(TURN / ms)))
                # Who takes many seconds for a step has fewer turns, about `--limit` in all.
                rounds[side] = max(1, int(500 * args.limit / args.processes / ms))
        for turn in turns:
            for side in sides:
                ms = side.turn(workload, batch, steps[side]) if turn - turns[0] < rounds.get(side, 0) else None
                if ms is not None:
                    side.times[turn] = ms
    finally:
        for side in running:
            side.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--processes", type=int, help="how often programs begin anew (default: 3, with --cuda 1)")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one turn (default: 120)")
    parser.add_argument("--peers", default="pytorch,pytorch-compiled,candle,burn", help="which others, e.g. pytorch")
    parser.add_argument("--precision", help="of f32, tf32, bf16; with --cuda all, else f32")
    parser.add_argument("--benchmark", help="of off, on; with --cuda both, else off")
    parser.add_argument("--batches", help="only these, e.g. 64,256")
    parser.add_argument("--skip", default="", help="workloads to leave out, e.g. vgg16-train,vgg16-infer")
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    parser.add_argument("--cpu", choices=LEVELS, help="Kiln and PyTorch at one instruction level; others choose their own")
    parser.add_argument("--mkl", action="store_true", help="candle with Intel's MKL, which has to be installed")
    parser.add_argument("--program", help="Kiln's bench program `models`, built before")
    parser.add_argument("--before", help="another commit's program `models`, which takes turns as well")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; all by default")
    args = parser.parse_args()
    args.device = "cuda" if args.cuda else "cpu"
    args.processes = max(1, min(args.processes or (1 if args.cuda else 3), args.turns))
    names = ["kiln", *(["kiln-before"] if args.before else []), *filter(None, args.peers.split(","))]
    precisions = (args.precision or ("f32,tf32,bf16" if args.cuda else "f32")).split(",")
    benchmarks = (args.benchmark or ("off,on" if args.cuda else "off")).split(",")
    asked = [(precisions, PRECISIONS), (benchmarks, BENCHMARKS), (names, SIDES), (args.workloads, WORKLOADS)]
    for name, known in [(name, known) for list, known in asked for name in list]:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    commands = {}
    for name in names:
        try:
            commands[name] = SIDES[name](args, ["--features", "cuda"] if args.cuda else [])
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print("| workload | batch | settings | framework | ms | samples/s | peak memory, MiB | Kiln's speed |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for workload, (batches, large) in WORKLOADS.items():
        if workload in args.skip.split(",") or args.workloads and workload not in args.workloads:
            continue
        batches = sorted(batches + (large if args.cuda else []))
        if args.batches:
            batches = [int(batch) for batch in args.batches.split(",")]
        for batch in batches:
            for settings in [(precision, benchmark) for precision in precisions for benchmark in benchmarks]:
                # There is nothing to search for without convolutions.
                if settings[1] == "off" or workload.startswith(CONVOLUTIONS):
                    compare(workload, batch, settings, commands, args)


if __name__ == "__main__":
    main()
