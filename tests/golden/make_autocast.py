"""Writes autocast.json: the dtypes of results under PyTorch's autocast, by device type, operation and dtypes of operands.

The operations are those of the golden files that make_ops.py, make_numbers.py, make_images.py, make_losses.py and
make_opinfo.py write, one case each. Operands that are floats are converted to the dtypes of a variant, and the operation
runs in a region of bf16: on the CPU as it is, and for CUDA with fake tensors, which pass through the dispatcher as CUDA
tensors do and need no GPU. `null` is an error of PyTorch's.
"""

import inspect
import warnings

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.common_methods_invocations import op_db

import golden
from golden import *
from opinfo_table import row_name

warnings.filterwarnings("ignore")

# The operations of the scripts themselves, without the files that they write.
write, golden.Suite.write = golden.Suite.write, lambda self: None
import make_images, make_losses, make_numbers, make_ops

golden.Suite.write = write

SUITES = {"ops": make_ops.OPS, "images": make_images.OPS, "losses": {}, "numbers": make_numbers.OPS, "opinfo": None}
NAMED = {}
for op in op_db:
    NAMED.setdefault(row_name(op.name), op.op)
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in [f16, bf16, f32, f64, i64, i32, u8, b8]}
# The dtype of the first operand that is a float, and of the others.
VARIANTS = {
    "f32": (f32, f32),
    "bf16": (bf16, bf16),
    "f16": (f16, f16),
    "f64": (f64, f64),
    "bf16, f32": (bf16, f32),
    "f32, bf16": (f32, bf16),
    "f64, f32": (f64, f32),
}


def argument(value, tensors):
    """An argument of a case as Python has it."""
    if isinstance(value, str):
        named = {"inf": inf, "-inf": -inf, "nan": nan, "...": Ellipsis, **DTYPES}
        return tensors[int(value[2:])] if value[:2] == "in" and value[2:].isdigit() else named.get(value, value)
    if isinstance(value, list):
        return [argument(v, tensors) for v in value]
    if isinstance(value, dict) and len(value) == 1:
        [(kind, of)] = value.items()
        of = [argument(v, tensors) for v in of]
        return {"slice": lambda v: slice(*v), "tuple": tuple, "list": list}[kind](of)
    return value


def names_in(value):
    if isinstance(value, str):
        return {value}
    if isinstance(value, (list, dict)):
        return set().union(*(names_in(v) for v in (value.values() if isinstance(value, dict) else value)))
    return set()


def call(suite, case, tensors):
    """The results of a case."""
    ops, op, args = SUITES[suite], case["op"], case["args"]
    used = names_in(args)
    positional = [tensor for i, tensor in enumerate(tensors) if f"in{i}" not in used]
    named = {key: argument(value, tensors) for key, value in args.items()}
    if suite == "opinfo":
        function = NAMED[op]
        if op in ("cat", "stack", "meshgrid", "einsum", "broadcast_tensors"):
            out = function(named.pop("equation"), positional) if op == "einsum" else function(positional, **named)
        else:
            named = {key: value for key, value in named.items() if key != "input"}
            if "input" in args:
                positional.insert(0, argument(args["input"], tensors))
            try:
                out = function(*positional, **named)
            except TypeError:  # Python's operators take no keywords
                out = function(*positional, *named.values())
    else:
        out = find_op(op, ops)(*positional, **named)
    outs = [out] if isinstance(out, torch.Tensor) else list(out)
    if not all(isinstance(value, torch.Tensor) for value in outs):
        raise TypeError("not a tensor")
    return outs


def dtypes(device, suite, case, tensors, dtypes):
    """The dtypes of the results in a region of bf16, or None."""
    first, others = dtypes
    seen, converted = False, []
    for tensor in tensors:
        if tensor.is_floating_point():
            tensor = tensor.to(others if seen else first)
            seen = True
        converted.append(tensor)
    try:
        if device == "cpu":
            with torch.no_grad(), torch.autocast("cpu", bf16):
                outs = call(suite, case, converted)
        else:
            with FakeTensorMode(), torch.no_grad():
                fakes = [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in converted]
                torch.set_autocast_enabled("cuda", True)
                torch.set_autocast_dtype("cuda", bf16)
                torch.autocast_increment_nesting()
                try:
                    outs = call(suite, case, fakes)
                finally:
                    torch.autocast_decrement_nesting()
                    torch.clear_autocast_cache()
                    torch.set_autocast_enabled("cuda", False)
    except Exception:
        return None
    return [str(out.dtype).removeprefix("torch.") for out in outs]


def shortest(results):
    """Dtypes as text, those of several results joined."""
    return {variant: None if found is None else " ".join(found) for variant, found in results.items()}


chosen = {}
for suite in SUITES:
    with safe_open(os.path.join(HERE, f"{suite}.safetensors"), "pt") as file:
        keys = set(file.keys())
        for case in json.loads(file.metadata()["cases"]):
            # `x.__rdiv__(y)` of tensors is not what `y / x` calls.
            if "lacks" in case or (suite, case["op"]) == ("opinfo", "rdiv"):
                continue
            count = next(i for i in range(100) if f"{case['name']}/in{i}" not in keys)
            tensors = [file.get_tensor(f"{case['name']}/in{i}") for i in range(count)]
            floats = [tensor for tensor in tensors if tensor.is_floating_point()]
            if not floats or any(tensor.numel() == 0 for tensor in tensors):
                continue
            # The case with the most operands that are floats, and of these the one whose operands have dimensions.
            rank = (len(floats), min(tensor.ndim > 0 for tensor in floats))
            if case["op"] not in chosen or rank > chosen[case["op"]][0]:
                if dtypes("cpu", suite, case, tensors, (f32, f32)) is not None:
                    chosen[case["op"]] = (rank, suite, case, tensors)

ops = {}
for op, (rank, suite, case, tensors) in sorted(chosen.items()):
    variants = {name: kinds for name, kinds in VARIANTS.items() if rank[0] > 1 or "," not in name}
    ops[op] = {"case": case["name"]}
    for device in ["cuda", "cpu"]:
        ops[op][device] = shortest({name: dtypes(device, suite, case, tensors, kinds) for name, kinds in variants.items()})
write_json("autocast.json", {"ops": ops}, len(ops))
