#!/usr/bin/env python3
"""Times training steps and inference of the MLP, LeNet and VGG16 in Kiln, PyTorch, candle and burn.

They take turns of a fraction of a second (Kiln, PyTorch, ..., Kiln, ...), each in a process that lives throughout a
workload, so that whatever else the machine does hits all. Times are medians over the turns; `Kiln's speed` is the median of
each turn's own ratio: above 1, Kiln is faster. Memory is the most that the process occupied, its libraries included; with
`--cuda` what it holds on the GPU.
PyTorch needs `pip install torch`; candle and burn are built by cargo, which takes minutes the first time. What is not there
is left out, and a turn that takes longer than `--limit` is reported as such.

    python3 benches/peers/compare.py                                    # everything, half an hour at least
    python3 benches/peers/compare.py --peers pytorch mlp-train lenet-train
    python3 benches/peers/compare.py --cuda                             # on a GPU
"""

import argparse
import pathlib
import statistics
import subprocess
import sys

PEERS = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(PEERS.parent))

from turns import Failed, Program, Slow, build  # noqa: E402

# Workload -> batches, and those that only a GPU is given.
WORKLOADS = {
    "mlp-train": ([64, 512], []),
    "mlp-infer": ([64, 512], []),
    "lenet-train": ([64], []),
    "lenet-infer": ([64], []),
    "vgg16-train": ([8], [64]),
    "vgg16-infer": ([1, 8], [64]),
}
TURN = 300  # milliseconds that a turn should last


def kiln(args, features):
    program = args.program or build("bench", *features, "--bench", "models", "--no-run")
    return [program], {"KILN_BENCH_TURNS": args.device}


def pytorch(args, features):
    test = "import torch; assert torch.cuda.is_available()" if args.cuda else "import torch"
    subprocess.run([sys.executable, "-c", test], check=True, stderr=subprocess.DEVNULL)
    return [sys.executable, PEERS / "pytorch.py", args.device], {}


def candle(args, features):
    features = features + (["--features", "mkl"] if args.mkl else [])
    return [build("build", "--release", *features, "--package", "candle-peer", cwd=PEERS), args.device], {}


def burn(args, features):
    return [build("build", "--release", *features, "--package", "burn-peer", cwd=PEERS), args.device], {}


SIDES = {"kiln": kiln, "pytorch": pytorch, "candle": candle, "burn": burn}


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
    """One framework with one workload."""

    def __init__(self, name, command, env, args):
        self.name, self.limit, self.on_gpu = name, args.limit, args.cuda
        threads = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"], args.threads)
        self.program = Program(command, **threads, **env)
        self.times, self.outcome = [], None

    def turn(self, workload, batch, steps):
        """Milliseconds of a step; None once it was too slow or failed."""
        if self.outcome:
            return None
        try:
            return float(self.program.ask(f"{workload} {batch} {steps}", self.limit))
        except Slow:
            self.outcome = f"> {self.limit:g} s"
        except Failed:
            self.outcome = "failed"
        return None

    def row(self, workload, batch, ours):
        """A line of the table; `ours` are the times of Kiln's turns."""
        peak = device_memory(self.program.process.pid) if self.on_gpu else self.program.peak_memory()
        memory = "–" if peak is None or self.outcome else f"{peak:,.0f}"
        if self.outcome:
            return f"| {workload} | {batch} | {self.name} | {self.outcome} | – | {memory} | – |"
        ms = statistics.median(self.times)
        pairs = [theirs / kiln for theirs, kiln in zip(self.times, ours)]
        ratio = f"{statistics.median(pairs):.2f}" if pairs and self.name != "kiln" else "–"
        return f"| {workload} | {batch} | {self.name} | {ms:.2f} | {1000 * batch / ms:,.1f} | {memory} | {ratio} |"


def compare(workload, batch, commands, args):
    sides = [Side(name, command, env, args) for name, (command, env) in commands.items()]
    try:
        steps = {}
        for side in sides:  # warms up; the first turn makes the workload
            ms = side.turn(workload, batch, 1)
            if ms is not None and ms < TURN:
                ms = side.turn(workload, batch, 3)
            if ms is None:
                side.rounds = 0
                continue
            steps[side] = max(1, min(200, int(TURN / ms)))
            # Who takes many seconds for a step has fewer turns, about `--limit` in all.
            side.rounds = max(1, min(args.turns, int(500 * args.limit / ms)))
        for turn in range(args.turns):
            for side in sides:
                ms = side.turn(workload, batch, steps[side]) if turn < side.rounds else None
                if ms is not None:
                    side.times.append(ms)
        for side in sides:
            print(side.row(workload, batch, sides[0].times if sides[0].name == "kiln" else []), flush=True)
    finally:
        for side in sides:
            side.program.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one turn (default: 120)")
    parser.add_argument("--peers", default="pytorch,candle,burn", help="which others, e.g. pytorch")
    parser.add_argument("--skip", default="", help="workloads to leave out, e.g. vgg16-train,vgg16-infer")
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    parser.add_argument("--mkl", action="store_true", help="candle with Intel's MKL, which has to be installed")
    parser.add_argument("--program", help="Kiln's bench program `models`, built before")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; all by default")
    args = parser.parse_args()
    args.device = "cuda" if args.cuda else "cpu"
    names = ["kiln", *filter(None, args.peers.split(","))]
    for name, known in [(n, SIDES) for n in names] + [(w, WORKLOADS) for w in args.workloads]:
        if name not in known:
            parser.error(f"{name} is none of {', '.join(known)}")
    commands = {}
    for name in names:
        try:
            commands[name] = SIDES[name](args, ["--features", "cuda"] if args.cuda else [])
        except subprocess.CalledProcessError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    print("| workload | batch | framework | ms | images/s | peak memory, MiB | Kiln's speed |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for workload, (batches, large) in WORKLOADS.items():
        if workload in args.skip.split(",") or args.workloads and workload not in args.workloads:
            continue
        for batch in batches + (large if args.cuda else []):
            compare(workload, batch, commands, args)


if __name__ == "__main__":
    main()
