"""Shared by the make_*.py scripts: runs a table of cases through PyTorch and
writes one .safetensors file per suite.

A case is (name, op, inputs, args). Inputs are tensors or specs such as
`randn(3, 4)`, drawn from a generator seeded with the case's name, so that
adding a case never changes another. An argument that is itself a tensor is
written as the next input and named in the arguments ("index": "in1").
"""

import json
import math
import os
import zlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
f16, bf16, f32, f64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
u8, i32, i64, b8 = torch.uint8, torch.int32, torch.int64, torch.bool
inf, nan = math.inf, math.nan


class Spec:
    """An input that is drawn when its case runs."""

    def __init__(self, draw):
        self.draw = draw


def randn(*shape, dtype=f64):
    """Standard normal values."""
    return Spec(lambda g: torch.randn(shape, dtype=f64, generator=g).to(dtype))


def uniform(lo, hi, *shape, dtype=f64):
    """Values in [lo, hi)."""
    return Spec(lambda g: (lo + (hi - lo) * torch.rand(shape, dtype=f64, generator=g)).to(dtype))


def randint(lo, hi, *shape, dtype=i64):
    """Integers in [lo, hi)."""
    return Spec(lambda g: torch.randint(lo, hi, shape, generator=g).to(dtype))


def probabilities(*shape, dtype=f64):
    """Positive values that sum to 1 over dimension 1."""
    return Spec(lambda g: torch.randn(shape, dtype=f64, generator=g).softmax(1).to(dtype))


def const(values, dtype=f64):
    return torch.tensor(values, dtype=dtype)


def plain(value):
    """Python value -> plain JSON: "inf", "-inf", "nan" and dtype names are strings."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def find_op(op, table):
    """The Python function for an op: the suite's own, torch.*, or torch.nn.functional.*."""
    return table.get(op) or getattr(torch, op, None) or getattr(F, op)


class Suite:
    def __init__(self, name, ops=None, no_grad=()):
        self.name, self.ops, self.no_grad = name, ops or {}, set(no_grad)
        self.tensors, self.cases = {}, []

    def put(self, case, key, value):
        # The copy is contiguous and shares nothing with the other tensors.
        copy = value.detach().resolve_conj().clone(memory_format=torch.contiguous_format)
        assert self.tensors.setdefault(f"{case}/{key}", copy) is copy, f"{case}/{key} twice"

    def record(self, name, op, args):
        assert all(c["name"] != name for c in self.cases), f"{name} twice"
        self.cases.append({"name": name, "op": op, "args": plain(args)})

    def run(self, name, op, inputs=(), /, grad=True, **args):
        """Runs a case and keeps its inputs, outputs, cotangents and gradients."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        leaves = []

        def leaf(value, differentiable):
            value = value.draw(generator) if isinstance(value, Spec) else value.clone()
            leaves.append(value.requires_grad_(grad and differentiable and value.is_floating_point()))
            return value

        positional = [leaf(value, True) for value in inputs]
        named, written = dict(args), dict(args)
        for key, value in args.items():
            if isinstance(value, (Spec, torch.Tensor)):
                written[key] = f"in{len(leaves)}"
                named[key] = leaf(value, key not in self.no_grad)

        outs = find_op(op, self.ops)(*positional, **named)
        outs = [outs] if isinstance(outs, torch.Tensor) else list(outs)
        self.record(name, op, written)
        for i, value in enumerate(leaves):
            self.put(name, f"in{i}", value)
        for i, value in enumerate(outs):
            self.put(name, f"out{i}", value)

        differentiable = [(i, out) for i, out in enumerate(outs) if out.requires_grad]
        wanted = [(i, value) for i, value in enumerate(leaves) if value.requires_grad]
        if not differentiable or not wanted:
            return
        cotangents = []
        for i, out in differentiable:
            cotangent = torch.randn(out.shape, dtype=f64, generator=generator).to(out.dtype)
            self.put(name, f"cotangent{i}", cotangent)
            cotangents.append(cotangent)
        grads = torch.autograd.grad(
            [out for _, out in differentiable], [v for _, v in wanted], cotangents, allow_unused=True
        )
        for (i, _), value in zip(wanted, grads):
            if value is not None:
                self.put(name, f"grad{i}", value)

    def write(self):
        path = os.path.join(HERE, f"{self.name}.safetensors")
        metadata = json.dumps(self.cases, allow_nan=False, separators=(",", ":"))
        save_file(self.tensors, path, metadata={"cases": metadata})
        # save_file leaves the file readable by its owner only.
        os.chmod(path, 0o644)
        print(f"{self.name}.safetensors: {len(self.cases)} cases, {os.path.getsize(path)} bytes")


def write_json(name, value, count=None):
    """Writes a JSON object whose lists of objects, and objects of objects, have one line each."""

    def compact(item):
        return json.dumps(item, allow_nan=False, ensure_ascii=False)

    def lines(item):
        if isinstance(item, list) and item and isinstance(item[0], (dict, list)):
            return "[\n" + ",\n".join("  " + compact(v) for v in item) + "\n ]"
        if isinstance(item, dict) and item:
            return "{\n" + ",\n".join(f"  {compact(k)}: {compact(v)}" for k, v in item.items()) + "\n }"
        return compact(item)

    value = {"torch": torch.__version__.split("+")[0], **value}
    path = os.path.join(HERE, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f" {compact(k)}: {lines(v)}" for k, v in value.items()) + "\n}\n")
    print(f"{name}: {'' if count is None else f'{count} cases, '}{os.path.getsize(path)} bytes")
