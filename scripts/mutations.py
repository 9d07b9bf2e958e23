#!/usr/bin/env python3
"""Mutation testing of the CUDA backend: plants faults in kernels and launch code, one at a time, and requires that the
suite on the simulated device detects each (docs/simulator.md).

    python3 scripts/mutations.py                 # all of scripts/mutation_list
    python3 scripts/mutations.py cumsum gather   # those whose names contain one of the words
    python3 scripts/mutations.py --list
    python3 scripts/mutations.py --check         # only whether every fault can be planted

It works on a copy of the checkout in target/mutations, so the checkout itself is unchanged. A fault is a piece of source and
its replacement. A piece that does not occur exactly once is an error, for which `--check` looks at all of them: the list has
to be kept in step with the source. The suites first run without a fault and must pass. Each fault must compile, and then make
its suite fail: by wrong values, by a finding of the simulator, or by not terminating.

It needs what `cargo sim` needs (a C++ compiler, and nvcc: NVCC names it if it is not on the PATH).
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mutation_list import MUTATIONS, SUITES

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = REPOSITORY / "target" / "mutations"
TREE = WORK / "tree"
# The simulator compiles these, so that a fault in a kernel needs neither nvcc nor another build of the backend.
KERNELS = WORK / "kernels"
# What takes longer is a fault that keeps a kernel from ending.
TIMEOUT = 600


def copy_checkout():
    """Copies what git knows of, and what it does not ignore. Files that are the same keep their times."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    ).stdout.split("\0")
    names = {name for name in names if name and os.path.lexists(REPOSITORY / name)}
    for old in TREE.rglob("*"):
        if (old.is_symlink() or not old.is_dir()) and str(old.relative_to(TREE)) not in names:
            old.unlink()
    for name in names:
        source, target = REPOSITORY / name, TREE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            if not target.is_symlink() or os.readlink(target) != os.readlink(source):
                target.unlink(missing_ok=True)
                target.symlink_to(os.readlink(source))
        elif source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            shutil.copyfile(source, target)
    KERNELS.mkdir(parents=True, exist_ok=True)
    for source in (TREE / "kernels").iterdir():
        target = KERNELS / source.name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            shutil.copyfile(source, target)


def run(command, extra=None):
    """The exit status of a command in the copy (None if it did not end), and what it printed."""
    environment = {
        **os.environ,
        "CUDA_COMPUTE_CAP": os.environ.get("CUDA_COMPUTE_CAP", "80"),
        "CARGO_TARGET_DIR": str(WORK / "target"),
        "CARGO_TERM_COLOR": "never",
        "KILN_REQUIRE_DEVICE": "1",
        "KILN_SIM_KERNELS": str(KERNELS),
        "RUST_BACKTRACE": "0",
        **(extra or {}),
    }
    process = subprocess.Popen(
        command, cwd=TREE, env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def build(suite):
    """Builds the simulator and the suite; what the compiler says if it cannot."""
    commands = [["cargo", "build", "-q", "-p", "kiln-sim", "--features", "device"]] if suite.simulated else []
    commands.append(["cargo", "test", "-q", *suite.arguments, "--no-run"])
    for command in commands:
        status, output = run(command)
        if status != 0:
            return output
    return None


def test(suite, names):
    """Runs the tests of a suite whose names hold one of `names`: what found the fault, or None if all passed."""
    command = ["cargo", "sim", "test"] if suite.simulated else ["cargo", "test"]
    status, output = run([*command, "-q", *suite.arguments, "--", *names], suite.environment)
    if status == 0:
        passed = sum(int(count) for count in re.findall(r"(\d+) passed", output))
        return None if passed > 0 else f"no test is called {' '.join(names)}"
    if status is None:
        return "it did not end"
    finding = re.search(r"^! (.*)", output, re.M)
    panic = re.search(r"panicked at .*\n(.*)", output)
    told = finding or panic
    return told.group(1)[:150] if told else output.strip()[-300:]


def check(chosen):
    """Ends the program if the piece that a fault replaces does not occur exactly once."""
    counts = [(one, (REPOSITORY / one.file).read_text().count(one.search)) for one in chosen]
    wrong = [f"{one.name}: {one.file} has {one.search!r} {count} times" for one, count in counts if count != 1]
    if wrong:
        sys.exit("\n".join([*wrong, "mend scripts/mutation_list"]))


def plant(mutation):
    """Plants a fault: the file and its text without it."""
    in_kernels = mutation.file.startswith("kernels/")
    path = KERNELS / Path(mutation.file).name if in_kernels else TREE / mutation.file
    text = path.read_text()
    path.write_text(text.replace(mutation.search, mutation.replace))
    return path, text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutations whose names hold one of them")
    parser.add_argument("--list", action="store_true", help="print the mutations and end")
    parser.add_argument("--check", action="store_true", help="end after looking whether each can be planted")
    options = parser.parse_args()
    chosen = [one for one in MUTATIONS if not options.words or any(word in one.name for word in options.words)]
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name}: {mutation.why}")
        return
    check(chosen)
    if options.check:
        print(f"{len(chosen)} faults can be planted")
        return
    TREE.mkdir(parents=True, exist_ok=True)
    copy_checkout()
    for name in dict.fromkeys(mutation.suite for mutation in chosen):
        tests = sorted({word for mutation in chosen if mutation.suite == name for word in mutation.tests})
        wrong = build(SUITES[name]) or test(SUITES[name], tests)
        if wrong:
            sys.exit(f"{name} fails without a fault: {wrong}")
    missed = []
    for mutation in chosen:
        begin = time.monotonic()
        suite = SUITES[mutation.suite]
        path, text = plant(mutation)
        try:
            wrong = build(suite)
            found = None if wrong else test(suite, mutation.tests)
        finally:
            path.write_text(text)
        seconds = f"{time.monotonic() - begin:.0f} s"
        if wrong:
            print(f"does not compile: {mutation.name} ({seconds}): {wrong[-500:]}", flush=True)
        elif found:
            print(f"found   {mutation.name} ({seconds}): {found}", flush=True)
        else:
            print(f"MISSED  {mutation.name} ({seconds}): {mutation.why}", flush=True)
        if wrong or not found:
            missed.append(mutation.name)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults were found")
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
