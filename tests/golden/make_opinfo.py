"""Writes opinfo.safetensors: samples of PyTorch's own operator tests (OpInfo) for the operations that Kiln has.

    make_opinfo.py            the samples in the repository: each form of arguments of every operation; those of linear
                              algebra, a feature of Kiln, in `linalg.safetensors`
    make_opinfo.py DIRECTORY  all samples, a file for each dtype, for the test `opinfo_samples` of kiln-tensor:
                              sample_inputs in `<dtype>.safetensors`, reference_inputs (large and extremal values)
                              in `reference_<dtype>.safetensors`; names of dtypes and operations after it choose some
    make_opinfo.py --missing  prints how many of OpInfo's operations have a counterpart in Kiln, and those without

A case of half precision also has `ref_out`, `ref_grad`: the same computed in f64 from the same inputs. So have, among all
samples, those of linear algebra in f32, and `ref_second`: their algorithms differ, and so do their rounding errors.
"""

import collections
import json
import os
import sys
import warnings
import zlib

import torch
from torch.testing._internal.common_methods_invocations import op_db

from golden import *
from opinfo_table import ELSEWHERE, LINALG, OPS, row_name

warnings.filterwarnings("ignore")

# Not by Kiln's rules: PyTorch's internal layouts, complex numbers.
SKIPPED_VARIANTS = {("norm", "nuc"), ("norm", "fro"), ("nn.functional.silu", "complex")}
DTYPES = {"float32": f32, "float64": f64, "float16": f16, "bfloat16": bf16, "int64": i64, "int32": i32, "uint8": u8, "bool": b8}
HELD = set(DTYPES.values())
HALF = {f16, bf16}
# Larger tensors, which a few reference samples have, say nothing new.
MOST_ELEMENTS = 20_000


class NotHeld(Exception):
    """A dtype that Kiln does not have."""


def written(value, inputs):
    """An argument as plain JSON; tensors are appended to `inputs` and named."""
    if isinstance(value, torch.Tensor):
        if value.dtype not in HELD:
            raise NotHeld(f"{value.dtype}".removeprefix("torch."))
        inputs.append(value)
        return f"in{len(inputs) - 1}"
    if isinstance(value, slice):
        return {"slice": [written(v, inputs) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return "..."
    if isinstance(value, (list, tuple)):
        return [written(v, inputs) for v in value]
    if isinstance(value, complex):
        raise NotHeld("complex64")
    if isinstance(value, torch.dtype):
        if value not in HELD:
            raise NotHeld(str(value).removeprefix("torch."))
        return plain(value)
    if isinstance(value, (torch.memory_format, torch.layout, torch.device)):
        return str(value)
    return plain(value)


def index(value, inputs):
    """An index as it stands between brackets, in which a tuple is several items and a list one."""
    if isinstance(value, tuple):
        return {"tuple": [index(v, inputs) for v in value]}
    return {"list": list(value)} if isinstance(value, list) else written(value, inputs)


def mapped(value, change):
    """`value` with every tensor in it changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(v, change) for v in value)
    if isinstance(value, dict):
        return {k: mapped(v, change) for k, v in value.items()}
    return value


def oriented(columns, rows=None):
    """Columns with a sign that does not depend on the algorithm: that of their sum with these weights. Also for the rows that
    belong to them."""
    weights = torch.arange(1, columns.shape[-2] + 1, dtype=columns.dtype).cos().unsqueeze(-1)
    signs = (columns.detach() * weights).sum(-2).sign()
    return columns * signs.unsqueeze(-2), None if rows is None else rows * signs.unsqueeze(-1)


def results(op, sample):
    """The outputs, and the gradients for cotangents drawn from a fixed stream."""
    out = op(sample.input, *sample.args, **sample.kwargs)
    is_matrix = isinstance(sample.input, torch.Tensor) and sample.input.dim() > 1
    k = min(sample.input.shape[-2:]) if op.name in LINALG and is_matrix else 0
    if op.name == "linalg.eigh":
        return [out[0], oriented(out[1])[0]]
    if op.name == "linalg.svd":
        u, vt = oriented(out[0][..., :k], out[2][..., :k, :])
        return [u, out[1], vt]
    if op.name == "linalg.qr" and out[0].numel() > 0:
        return list(oriented(out[0][..., :k], out[1][..., :k, :]))
    if op.name == "linalg.lstsq":
        return [out[0]]
    return [out] if isinstance(out, (torch.Tensor, bool, int, float)) else list(out)


def tensors_in(value, found):
    mapped(value, lambda t: found.append(t) or t)
    return found


class Samples:
    def __init__(self, path, exact_linalg=False):
        self.path, self.tensors, self.cases = path, {}, []
        self.exact_linalg = exact_linalg

    def put(self, name, key, value):
        self.tensors[f"{name}/{key}"] = value.detach().resolve_conj().clone(memory_format=torch.contiguous_format)

    def add(self, op, name, sample):
        """Runs a sample; whether there is a case for it now."""
        if type(op).__name__ == "BinaryUfuncInfo" and not isinstance(sample.input, torch.Tensor):
            if not isinstance(sample.args[0], torch.Tensor):
                return False
            # A number on the left is a tensor without dimensions.
            sample.input = torch.tensor(sample.input, dtype=sample.args[0].dtype)
        drawn = sample.kwargs.get("training") and op.name == "nn.functional.rrelu"
        if drawn or sample.kwargs.get("dropout_p", 0) > 0:
            return False  # drawn from PyTorch's generator
        inputs, case = [], {"name": name, "op": row_name(op.name), "args": {}}
        try:
            listed = isinstance(sample.input, (list, tuple))
            listed = listed and all(isinstance(tensor, torch.Tensor) for tensor in sample.input)
            if not isinstance(sample.input, torch.Tensor) and not listed:
                case["args"]["input"] = written(sample.input, inputs)
            for tensor in sample.input if listed else [sample.input]:
                if isinstance(tensor, torch.Tensor):
                    written(tensor, inputs)
            names = OPS[op.name]
            if not names:  # further tensors, as in `meshgrid(x, y, z)`
                written(list(sample.args), inputs)
            # More arguments than names are one list written out, as in `x.permute(0, 1)`.
            many = len(sample.args) > len(names) > 0
            args = {names[0]: list(sample.args)} if many else dict(zip(names, sample.args))
            for key, value in {**args, **sample.kwargs}.items():
                case["args"][key] = (index if key in ("index", "indices") else written)(value, inputs)
        except NotHeld as dtype:
            self.cases.append({**case, "args": {}, "lacks": f"dtype {dtype}"})
            return True
        if sum(t.numel() for t in inputs) > MOST_ELEMENTS:
            return False
        kept = [t.detach().clone() for t in inputs]
        try:
            outs = results(op, sample)
        except Exception:
            return False
        outs = [out if isinstance(out, torch.Tensor) else torch.tensor(out) for out in outs]
        if any(out.dtype not in HELD for out in outs):
            self.cases.append({**case, "args": {}, "lacks": f"dtype {outs[0].dtype}".replace("torch.", "")})
            return True
        self.cases.append(case)
        for i, tensor in enumerate(kept):
            self.put(name, f"in{i}", tensor)
        for i, out in enumerate(outs):
            self.put(name, f"out{i}", out)
        cotangents = self.gradients(name, "grad", inputs, outs, None, op.supports_gradgrad)
        if outs[0].dtype in HALF or any(t.dtype in HALF for t in inputs):
            self.reference(op, name, sample, cotangents, HALF)
        elif self.exact_linalg and op.name in LINALG and f32 in [t.dtype for t in inputs]:
            self.reference(op, name, sample, cotangents, {f32})
        return True

    def gradients(self, name, key, inputs, outs, cotangents, second=False):
        differentiable = [(i, out) for i, out in enumerate(outs) if out.requires_grad]
        wanted = [(i, value) for i, value in enumerate(inputs) if value.requires_grad]
        if not differentiable or not wanted:
            return None
        if cotangents is None:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            cotangents = []
            for i, out in differentiable:
                cotangents.append(torch.randn(out.shape, dtype=f64, generator=generator).to(out.dtype))
                self.put(name, f"cotangent{i}", cotangents[-1])
        # What an operation returns as it is, such as `x.float()` of f32, is a root only under another name.
        roots = [out.view_as(out) for _, out in differentiable]
        given = [c.to(out.dtype) for c, out in zip(cotangents, roots)]
        second = second and all(out.dtype in (f32, f64) for out in roots)
        leaves = [v for _, v in wanted]
        try:
            grads = torch.autograd.grad(roots, leaves, given, allow_unused=True, retain_graph=second)
        except RuntimeError:  # no derivative, e.g. of `remainder` with respect to its divisor in some forms
            for i, _ in differentiable:
                self.tensors.pop(f"{name}/cotangent{i}", None)
            return None
        for (i, _), value in zip(wanted, grads):
            if value is not None:
                self.put(name, f"{key}{i}", value.to_dense() if value.is_sparse else value)
        if second:
            self.second_gradients(name, wanted, roots, given, key)
        return cotangents

    def second_gradients(self, name, wanted, roots, given, key):
        """The gradients of the sum of products of the gradients with further cotangents."""
        try:
            grads = torch.autograd.grad(roots, [v for _, v in wanted], given, allow_unused=True, create_graph=True)
        except RuntimeError as error:
            print(f"{name}: recorded gradients: {str(error)[:100]}", file=sys.stderr)
            return
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name} second".encode()))
        roots = [(i, grad) for (i, _), grad in zip(wanted, grads) if grad is not None and grad.requires_grad]
        is_reference = key == "ref_grad"
        given = [torch.randn(grad.shape, dtype=f64, generator=generator).to(f32 if is_reference else grad.dtype) for _, grad in roots]
        given = [cotangent.to(grad.dtype) for cotangent, (_, grad) in zip(given, roots)]
        if not roots:
            return
        try:
            found = torch.autograd.grad([grad for _, grad in roots], [v for _, v in wanted], given, allow_unused=True)
        except RuntimeError as error:
            print(f"{name}: second derivatives: {str(error)[:100]}", file=sys.stderr)
            return
        if all(value is None for value in found):
            return
        for (i, _), cotangent in zip(roots, given):
            if not is_reference:
                self.put(name, f"second_cotangent{i}", cotangent)
        for (i, leaf), value in zip(wanted, found):
            self.put(name, f"{'ref_' if is_reference else ''}second{i}", torch.zeros_like(leaf) if value is None else value)

    def reference(self, op, name, sample, cotangents, narrow):
        def wide(t):
            return t.detach().to(f64).requires_grad_(t.requires_grad) if t.dtype in narrow else t

        args, kwargs, input = mapped(list(sample.args), wide), mapped(dict(sample.kwargs), wide), mapped(sample.input, wide)
        kwargs = {k: f64 if v in narrow else v for k, v in kwargs.items()} if "dtype" in kwargs else kwargs
        sample = type("Wide", (), {"input": input, "args": args, "kwargs": kwargs})
        try:
            outs = results(op, sample)
            if not all(isinstance(out, torch.Tensor) for out in outs):
                return
            inputs = tensors_in(list(kwargs.values()), tensors_in(args, tensors_in([input], [])))
            for i, out in enumerate(outs):
                if out.dtype == f64:
                    self.put(name, f"ref_out{i}", out)
            if cotangents is not None:
                self.gradients(name, "ref_grad", inputs, outs, cotangents, f32 in narrow and op.supports_gradgrad)
        except Exception:
            return

    def write(self):
        metadata = json.dumps(self.cases, allow_nan=False, separators=(",", ":"))
        save_file(self.tensors, self.path, metadata={"cases": metadata})
        os.chmod(self.path, 0o644)
        print(f"{os.path.basename(self.path)}: {len(self.cases)} cases, {os.path.getsize(self.path)} bytes")


def operations(dtype):
    for op in op_db:
        if op.name in OPS and (op.name, op.variant_test_name) not in SKIPPED_VARIANTS and dtype in op.supported_dtypes("cpu"):
            yield op


def samples(op, dtype, reference):
    torch.manual_seed(0)
    grad = op.supports_autograd and dtype.is_floating_point and dtype in op.supported_backward_dtypes("cpu")
    variant = f".{op.variant_test_name}" if op.variant_test_name else ""
    name = f"{str(dtype).removeprefix('torch.')}/{op.name}{variant}"
    try:
        inputs = list((op.reference_inputs if reference else op.sample_inputs)("cpu", dtype, requires_grad=grad))
    except Exception as error:
        print(f"{name}: {error}", file=sys.stderr)
        return
    for i, sample in enumerate(inputs):
        yield f"{name}/{i}", sample


def form(sample):
    """What sets a sample apart from others of its operation: argument names, kinds of values, ranks, emptiness."""

    def kind(value):
        if isinstance(value, torch.Tensor):
            return (str(value.dtype), value.dim(), value.numel() == 0)
        if isinstance(value, (list, tuple)):
            return (len(value), *(kind(v) for v in value[:2]))
        if isinstance(value, (bool, str, type(None), torch.dtype)):
            return str(value)
        return (type(value).__name__, isinstance(value, (int, float)) and value < 0, value == 0)

    return (kind(sample.input), kind(list(sample.args)), tuple((k, kind(v)) for k, v in sample.kwargs.items()))


def elements(sample):
    return sum(t.numel() for t in tensors_in([sample.input, list(sample.args), dict(sample.kwargs)], []))


def every(directory, names):
    os.makedirs(directory, exist_ok=True)
    dtypes, wanted = set(names) & set(DTYPES), set(names) - set(DTYPES)
    assert wanted <= set(OPS), f"not in the table: {wanted - set(OPS)}"
    for dtype_name, dtype in DTYPES.items():
        if dtypes and dtype_name not in dtypes:
            continue
        for reference in [False, True]:
            if reference and dtype in HALF:
                continue
            out = Samples(os.path.join(directory, f"{'reference_' if reference else ''}{dtype_name}.safetensors"), exact_linalg=True)
            for op in operations(dtype):
                if wanted and op.name not in wanted:
                    continue
                for name, sample in samples(op, dtype, reference):
                    out.add(op, name, sample)
            out.write()


# Of an operation, this many forms are checked in, the smallest samples first, of at most so many elements.
MOST_FORMS, MOST_CHOSEN = 3, 32


def chosen(file, is_in):
    out, counts = Samples(os.path.join(HERE, file)), collections.Counter()

    def add(op, sample, kind):
        row = row_name(op.name)
        counts[row] += out.add(op, f"{row}_{kind}{counts[row]}", sample)

    def smallest(dtype, most):
        for op in filter(is_in, operations(dtype)):
            if type(op).__name__ == "UnaryUfuncInfo" and dtype != f32:
                continue
            forms = collections.OrderedDict()
            ordered = sorted(samples(op, dtype, False), key=lambda s: elements(s[1]))
            for i, (name, sample) in enumerate(ordered):
                # Of operations whose samples are all large, the smallest one.
                if elements(sample) <= MOST_CHOSEN or i == 0 and dtype == f32:
                    forms.setdefault(form(sample), (name, sample))
            for _, sample in list(forms.values())[:most]:
                add(op, sample, "")
    for dtype, most in [(f32, MOST_FORMS), (i64, 1), (bf16, 1)]:
        smallest(dtype, most)
    # Extremal values: infinities, NaN, the largest and smallest numbers.
    for dtype in [f32, i64]:
        for op in filter(is_in, operations(dtype)):
            if type(op).__name__ in ("UnaryUfuncInfo", "BinaryUfuncInfo"):
                wild = [s for s in samples(op, dtype, True) if 0 < elements(s[1]) <= 120][-1:]
                for _, sample in wild:
                    add(op, sample, "extremal_")
    for dtype in [f16, u8, b8]:
        smallest(dtype, 1)
    out.write()


def print_missing():
    names = {op.name for op in op_db}
    unknown = sorted((set(OPS) | set(ELSEWHERE)) - names)
    assert not unknown, f"not in op_db: {unknown}"
    compared, elsewhere = len(names & set(OPS)), len(names & set(ELSEWHERE))
    print(f"op_db: {len(op_db)} entries of {len(names)} operations; {compared} compared here, {elsewhere} elsewhere; missing:")
    print(*sorted(names - set(OPS) - set(ELSEWHERE)), sep="\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--missing"]:
        print_missing()
    elif len(sys.argv) > 1:
        every(sys.argv[1], sys.argv[2:])
    else:
        chosen("opinfo.safetensors", lambda op: op.name not in LINALG)
        chosen("linalg.safetensors", lambda op: op.name in LINALG)
