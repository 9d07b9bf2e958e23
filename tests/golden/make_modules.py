"""Writes modules.safetensors: samples of PyTorch's own tests of its modules (module_db) for the modules that Kiln has, and
samples of modules and arguments that PyTorch's tests lack (`extra_modules.py`).

    make_modules.py            the samples in the repository: each form of arguments of every module, in f64
    make_modules.py DIRECTORY  all samples of all modules in `float32.safetensors` and `float64.safetensors`, for the test
                               `module_samples` of kiln-nn

A case has the module's name, the arguments of its constructor, its state dict (`state.<name>`), the inputs of `forward`
(`in0` …; `in0.1` is the second of a tuple), its named arguments (`arg.<name>`), the outputs, and, for
cotangents from a fixed random stream, the gradients of the inputs (`grad.in0`) and parameters (`grad.<name>`).
"""

import collections
import inspect
import json
import os
import sys
import warnings
import zlib

import torch
from safetensors.torch import save_file
from torch.testing._internal.common_modules import module_db

from extra_modules import EXTRA
from golden import HERE, f32, f64, plain

warnings.filterwarnings("ignore")

# What they are, not what they compute, is PyTorch's own: layers without known sizes, an option of one kernel.
SKIPPED = ("Lazy", "LinearCrossEntropyLoss")
# What draws random numbers while it trains.
DRAWING = (torch.nn.modules.dropout._DropoutNd, torch.nn.RReLU)
# The modules of PyTorch's own tests. Samples of ours of one of these have this in their names.
TESTED = {info.name for info in module_db}
OWN = "_own"
# The largest case that is checked in, in numbers.
LARGEST = 600
# The most samples of one module that are checked in.
MOST = 8


def flat(value, name, found):
    """The tensors in a value by name, and the value with them replaced by their names."""
    if isinstance(value, torch.Tensor):
        found[name] = value
        return name
    if isinstance(value, (list, tuple)):
        return [flat(v, f"{name}.{i}", found) for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return plain(value)
    if callable(value) and not isinstance(value, torch.nn.Module):
        return value.__name__
    if isinstance(value, torch.nn.LayerNorm):
        return {"normalized_shape": plain(value.normalized_shape)}
    if isinstance(value, (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)):
        bias = value.linear1.bias is not None
        return {
            "d_model": value.linear1.in_features, "nhead": value.self_attn.num_heads,
            "activation": value.activation.__name__, "dim_feedforward": value.linear1.out_features, "dropout": value.dropout.p, "bias": bias,
            "batch_first": value.self_attn.batch_first, "norm_first": value.norm_first,
        }
    raise NotImplementedError(f"{type(value).__name__}")


def bound(cls, call):
    """The arguments of a constructor by name, less those that are the default."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    given = dict(zip(names, call.args))
    if len(call.args) > len(names):  # nn.RNN takes *args
        given = dict(zip(["input_size", "hidden_size", "num_layers"], call.args))
    return {**given, **call.kwargs}


def case_of(info, sample, training, dtype, all_inputs=True):
    """One sample run: its description and its tensors; None if it cannot be written. Gradients are of all inputs, or only
    of the first."""
    cls = info.module_cls
    arguments = bound(cls, sample.constructor_input)
    arguments = {k: v for k, v in arguments.items() if k not in ("device", "dtype")}
    tensors = {}
    written = {key: flat(value, f"arg.{key}", tensors) for key, value in arguments.items()}
    forward = sample.forward_input
    if forward is None:
        return None
    inputs, named = {}, {}
    listed = [flat(value, f"in{i}", inputs) for i, value in enumerate(forward.args)]
    keywords = {key: flat(value, f"named.{key}", named) for key, value in forward.kwargs.items()}

    torch.manual_seed(zlib.crc32(json.dumps([info.name, plain(written)]).encode()))
    module = cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
    module.to(dtype).train(training)
    if any(isinstance(m, DRAWING) and getattr(m, "p", 1) > 0 for m in module.modules()) and training:
        return None
    state = {f"state.{key}": value.clone() for key, value in module.state_dict().items()}
    leaves = {**inputs, **named}
    leaves = {k: v.detach().clone().requires_grad_(v.is_floating_point() and (all_inputs or k == "in0")) for k, v in leaves.items()}

    def filled(value, name):
        if isinstance(value, torch.Tensor):
            return leaves[name]
        if isinstance(value, (list, tuple)):
            return type(value)(filled(v, f"{name}.{i}") for i, v in enumerate(value))
        return value

    args = [filled(value, f"in{i}") for i, value in enumerate(forward.args)]
    kwargs = {key: filled(value, f"named.{key}") for key, value in forward.kwargs.items()}
    outputs = {}
    flat(module(*args, **kwargs), "out", outputs)
    outputs = {k: v for k, v in outputs.items() if v is not None}
    generator = torch.Generator().manual_seed(1)
    parameters = dict(module.named_parameters())
    wanted = {f"grad.{k}": v for k, v in {**leaves, **parameters}.items() if v.requires_grad}
    roots = {k: v for k, v in outputs.items() if v.requires_grad}
    for key, value in {**state, **leaves, **outputs}.items():
        tensors[key] = value
    if roots and wanted:
        cotangents = []
        for key, value in roots.items():
            cotangent = torch.randn(value.shape, dtype=f64, generator=generator).to(value.dtype)
            tensors[f"cotangent.{key}"] = cotangent
            cotangents.append(cotangent)
        grads = torch.autograd.grad(list(roots.values()), list(wanted.values()), cotangents, allow_unused=True)
        tensors |= {key: grad for key, grad in zip(wanted, grads) if grad is not None}
    # Buffers that the forward pass has moved.
    for key, value in module.state_dict().items():
        if not torch.equal(value, state[f"state.{key}"]):
            tensors[f"after.{key}"] = value
    case = {
        "module": info.name.removeprefix("nn."), "args": written, "forward": listed, "named": keywords,
        "training": training, "printed": str(module),
    }
    return case, tensors


def form(case, tensors):
    """What tells two samples of a module apart: which arguments there are, and the ranks of the inputs."""
    kind = {k: v if isinstance(v, (bool, str)) else type(v).__name__ for k, v in case["args"].items()}
    ranks = [tensors[k].dim() for k in tensors if k.startswith("in")]
    # The mode tells something where there are moving averages.
    mode = case["training"] and any(k.startswith("after.") for k in tensors)
    return json.dumps([case["module"], kind, sorted(case["named"]), ranks, mode])


def modules(dtype, chosen):
    """All cases with their tensors; without a choice, those of PyTorch's own tests."""
    for info in module_db if chosen is None else [*module_db, *EXTRA]:
        name = info.name.removeprefix("nn.")
        if name.startswith(SKIPPED) or chosen is not None and name not in chosen:
            continue
        seen = collections.Counter()
        for training in (True, False):
            try:
                samples = list(info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training))
            except Exception as error:
                print(f"{info.name}: {error}", file=sys.stderr)
                continue
            for sample in samples:
                try:
                    try:
                        done = case_of(info, sample, training, dtype)
                    except RuntimeError:  # a target that must not want a gradient
                        done = case_of(info, sample, training, dtype, all_inputs=False)
                except (NotImplementedError, RuntimeError) as error:
                    print(f"{info.name}: not written: {error}", file=sys.stderr)
                    continue
                if done is None:
                    continue
                case, tensors = done
                # In evaluation most modules compute the same.
                key = json.dumps([case["args"], case["forward"], case["named"]]) + "".join(
                    f"{k}{tuple(v.shape)}" for k, v in tensors.items() if k.startswith(("in", "out"))
                )
                if not training and seen[key] and all(torch.equal(v, tensors[k]) for k, v in seen_outputs[key].items()):
                    continue
                seen[key] += 1
                if training:
                    seen_outputs[key] = {k: v for k, v in tensors.items() if k.startswith(("in", "out"))}
                own = OWN if info in EXTRA and info.name in TESTED else ""
                case["name"] = f"{name}{own}_{sum(seen.values())}"
                yield case, tensors


seen_outputs = {}


def write(path, cases):
    kept, tensors = [], {}
    for case, values in cases:
        kept.append(case)
        for key, value in values.items():
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            tensors[f"{case['name']}/{key}"] = copy.to(torch.uint8) if copy.dtype == torch.bool else copy
            if copy.dtype == torch.bool:
                case.setdefault("bools", []).append(key)
    save_file(tensors, path, metadata={"cases": json.dumps(kept, allow_nan=False, separators=(",", ":"))})
    os.chmod(path, 0o644)
    print(f"{os.path.basename(path)}: {len(kept)} cases, {os.path.getsize(path)} bytes")


def selected(cases):
    """One sample of each form, the smallest ones; of each module at least one. All of `extra_modules.py`."""
    best, smallest, chosen = {}, {}, {}
    extra = {info.name.removeprefix("nn.") for info in EXTRA if info.name not in TESTED}
    for case, tensors in cases:
        if case["module"] in extra or OWN in case["name"]:
            chosen[case["name"]] = (case, tensors)
            continue
        size = sum(value.numel() for value in tensors.values())
        key = form(case, tensors)
        if case["module"] not in smallest or size < smallest[case["module"]][0]:
            smallest[case["module"]] = (size, case, tensors)
        if size <= LARGEST and (key not in best or size < best[key][0]):
            best[key] = (size, case, tensors)
    by_module = collections.defaultdict(list)
    for size, case, tensors in best.values():
        by_module[case["module"]].append((size, case["name"], case, tensors))
    for module, (_, case, tensors) in smallest.items():
        chosen[case["name"]] = (case, tensors)
        for _, name, case, tensors in sorted(by_module[module], key=lambda entry: entry[:2])[:MOST]:
            chosen[name] = (case, tensors)
    return list(chosen.values())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for dtype in (f32, f64):
            write(os.path.join(sys.argv[1], f"{plain(dtype)}.safetensors"), modules(dtype, None))
    else:
        listed = open(os.path.join(HERE, "../../crates/nn/tests/modules/names.txt")).read().split()
        write(os.path.join(HERE, "modules.safetensors"), selected(modules(f64, set(listed))))
