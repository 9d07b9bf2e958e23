"""Compiles, assembles and disassembles the hot kernels."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .hot import is_hot
from .machine_code import Kernel

ROOT = Path(__file__).resolve().parent.parent.parent
KERNELS = ROOT / "kernels"


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
