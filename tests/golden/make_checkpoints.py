"""Writes pth/checkpoints/: files of torch.save as found in practice (old protocols, Python 2, objects of other classes
beside the tensors, whole models, TorchScript, torch.export), and expected.safetensors with the tensors in them; and
optim/: states of PyTorch's optimizers in the middle of a run, with the parameters of the continued run."""

import argparse
import collections
import dataclasses
import datetime
import enum
import os
import pathlib
import pickle
import struct
import sys
import types
import warnings
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "pth", "checkpoints")
os.makedirs(OUT, exist_ok=True)
torch.manual_seed(0)
expected = {}


def path(name):
    return os.path.join(OUT, name)


def expect(name, state):
    for key, tensor in state.items():
        expected[f"{name}/{key}"] = tensor.detach().contiguous().clone()


def foreign_module(name, **classes):
    """A module that the reader does not have."""
    module = types.ModuleType(name)
    for key, value in classes.items():
        value.__module__, value.__qualname__ = name, key
        setattr(module, key, value)
    sys.modules[name] = module
    parts = name.split(".")
    for i in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    return module


class AttributeDict(dict):
    """As pytorch_lightning.utilities.parsing has it."""

    def __getattr__(self, key):
        return self[key]


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Config:
    width: int = 3
    parent: object = None


class Node:
    """As omegaconf's nodes: a child knows its parent."""

    def __init__(self, parent, content):
        self.__dict__["_parent"], self.__dict__["_content"] = parent, content


foreign_module("pytorch_lightning.utilities.parsing", AttributeDict=AttributeDict)
foreign_module("project.config", Color=Color, Config=Config)
foreign_module("omegaconf.dictconfig", Node=Node)

weights = collections.OrderedDict(weight=torch.randn(3, 2), bias=torch.tensor([1.0, -2.0, 0.5]))
config = Config()
config.parent = config
omega = Node(None, {})
omega._content["child"] = Node(omega, {"lr": 0.1})
foreign = {
    "args": argparse.Namespace(lr=0.25, data=pathlib.PurePosixPath("data/x"), flags=[True, None]),
    "path": pathlib.Path("runs/1"),
    "windows": pathlib.PureWindowsPath("c:/x"),
    "hyper_parameters": AttributeDict(lr=0.5, layers=[1, 2]),
    "complex": 1.5 - 2j,
    "color": Color.RED,
    "config": config,
    "omega": omega,
    "when": datetime.datetime(2024, 5, 17, 1, 2, 3),
    "delta": datetime.timedelta(days=1),
    "dtype": torch.bfloat16,
    "numpy_dtype": np.dtype("float32"),
    "scalar": np.int16(-7),
    "complex_scalar": np.complex128(2 + 3j),
    "array": np.arange(4, dtype=np.int8),
    "objects": np.array([None, "x"], dtype=object),
    "device": torch.device("cuda:3"),
    "size": torch.Size([2, 5]),
    "layout": torch.strided,
    "generator": np.random.RandomState(0),
    "rng": 2**127 + 5,
    "slice": slice(1, 5, 2),
    "range": range(3),
    "function": torch.nn.functional.relu,
    "deque": collections.deque([1, 2], maxlen=3),
    "surrogate": os.fsdecode(b"caf\xe9"),
    "sparse": torch.eye(2).to_sparse(),
    "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    "bytearray": bytearray(b"\x01\x02"),
}
for protocol in [2, 3, 4, 5]:
    for legacy in [False, True]:
        name = f"foreign_{'legacy' if legacy else 'zip'}_{protocol}.pth"
        options = dict(pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        if protocol not in [2, 5]:
            # One file of each protocol, small.
            torch.save({"state_dict": weights, "args": foreign["args"]}, path(name), **options)
        else:
            torch.save({"state_dict": weights, **foreign}, path(name), **options)
        expect(name, weights)
# Of protocol 0 PyTorch cannot read its own files: the storages' names become texts.
torch.save(weights, path("legacy_1.pth"), pickle_protocol=1, _use_new_zipfile_serialization=False)
expect("legacy_1.pth", weights)

# As Python 2 wrote it: names are byte strings, an OrderedDict is made of a list of pairs.
def python_2():
    def short(text):
        return b"U" + bytes([len(text)]) + text

    def tensor(key, count, shape, strides):
        storage = b"(" + short(b"storage") + b"ctorch\nFloatStorage\n" + short(key) + short(b"cpu") + b"K" + bytes([count]) + b"NtQ"
        dims = lambda values: b"(" + b"".join(b"K" + bytes([v]) for v in values) + b"t"
        hooks = b"ccollections\nOrderedDict\n(]tR"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + dims(shape) + dims(strides) + b"\x89" + hooks + b"tR"

    pairs = [(b"weight", tensor(b"100", 6, [3, 2], [2, 1])), (b"bias", tensor(b"200", 3, [3], [1]))]
    body = b"".join(b"](" + short(name) + value + b"e" for name, value in pairs)
    obj = b"\x80\x02ccollections\nOrderedDict\n(](" + body + b"etR."
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    version = b"\x80\x02M\xe9\x03."
    machine = b"\x80\x02}(" + short(b"protocol_version") + b"M\xe9\x03" + short(b"little_endian") + b"\x88u."
    keys = b"\x80\x02](" + short(b"100") + short(b"200") + b"e."
    values = [weights["weight"], weights["bias"]]
    data = b"".join(struct.pack("<q", v.numel()) + v.numpy().tobytes() for v in values)
    return magic + version + machine + obj + keys + data


with open(path("python_2.pth"), "wb") as f:
    f.write(python_2())
back = torch.load(path("python_2.pth"), weights_only=False, encoding="latin1")
assert list(back) == ["weight", "bias"] and torch.equal(back["weight"], weights["weight"]), back
expect("python_2.pth", weights)

# Batch normalization from before it counted batches, of version 1 and without versions; and of version 2 without the
# count, which PyTorch refuses.
norm = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
norm(torch.randn(2, 1, 3, 3))
state = norm.state_dict()
versions = state._metadata
del state["1.num_batches_tracked"]
for name, version in [("norm_version_1.pth", 1), ("norm_version_2.pth", 2)]:
    versions["1"]["version"] = version
    torch.save(state, path(name))
torch.save(dict(state), path("norm_no_version.pth"))
torch.save({f"module.{k}": v for k, v in state.items()}, path("norm_parallel.pth"))
fresh = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
for name in ["norm_version_1.pth", "norm_no_version.pth"]:
    fresh.load_state_dict(torch.load(path(name)), strict=True)
    expect(name, fresh.state_dict())
try:
    fresh.load_state_dict(torch.load(path("norm_version_2.pth")), strict=True)
    raise AssertionError("PyTorch loads it")
except RuntimeError:
    pass

# What holds no state dict.
model = torch.nn.Sequential(torch.nn.Linear(2, 1))
torch.save(model, path("whole_zip.pth"))
torch.save(model, path("whole_legacy.pth"), _use_new_zipfile_serialization=False)
torch.save({"epoch": 1, "model": model}, path("whole_inside.pth"))
torch.save({"epoch": 1, "model": {"epoch": 2}, "state_dict": weights}, path("no_tensors_there.pth"))
x = torch.zeros(1, 2)
torch.jit.save(torch.jit.trace(model, x), path("script.pt"))
torch.export.save(torch.export.export(model, (x,)), path("exported.pt2"))


def without_paths(name):
    """Puts letters for the folder in which PyTorch is installed, which such files tell."""
    here = os.path.dirname(os.path.dirname(torch.__file__)).encode()
    hide = lambda data: data.replace(here, b"p" * len(here))
    if not zipfile.is_zipfile(path(name)):
        with open(path(name), "rb") as f:
            data = f.read()
        with open(path(name), "wb") as f:
            f.write(hide(data))
        return
    with zipfile.ZipFile(path(name)) as archive:
        members = [(info, hide(archive.read(info))) for info in archive.infolist()]
    with zipfile.ZipFile(path(name), "w") as archive:
        for info, data in members:
            archive.writestr(info.filename, data, info.compress_type)


for name in ["whole_legacy.pth", "script.pt", "exported.pt2"]:
    without_paths(name)
np.save(path("array.npy"), np.zeros(3, np.float32))
np.savez(path("arrays.npz"), a=np.zeros(3, np.float32))
with open(path("plain.pkl"), "wb") as f:
    pickle.dump({"a": 1}, f, 4)

save_file(expected, path("expected.safetensors"))

# Optimizers: three steps, the state that is saved, three more steps.
OPTIM = os.path.join(HERE, "pth", "optimizers")
os.makedirs(OPTIM, exist_ok=True)
kinds = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "sgd_dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
    "adamw_tensor_lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.05), foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.05),
    "rmsprop_all": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2),
    "adagrad_plain": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "groups": None,
}
runs = {}
for name, make in kinds.items():
    torch.manual_seed(1)
    net = torch.nn.Linear(3, 2)
    inputs, targets = torch.randn(4, 3), torch.randn(4, 2)
    if name == "groups":
        groups = [{"params": [net.weight], "lr": 0.2}, {"params": [net.bias], "momentum": 0.9}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    else:
        optimizer, scheduler = make(net.parameters()), None

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            ((net(inputs) - targets) ** 2).mean().backward()
            optimizer.step()
        if scheduler is not None:
            scheduler.step()

    steps(3)
    file = os.path.join(OPTIM, f"{name}.pth")
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    steps(3)
    if name == "groups":
        # The run went on with the rate that was saved.
        net.load_state_dict(torch.load(file)["model"])
        optimizer.load_state_dict(torch.load(file)["optimizer"])
        scheduler = None
        steps(3)
    runs |= {f"{name}/inputs": inputs, f"{name}/targets": targets}
    runs |= {f"{name}/{key}": value.detach().clone() for key, value in net.state_dict().items()}
save_file(runs, os.path.join(OPTIM, "expected.safetensors"))
lbfgs = torch.optim.LBFGS(net.parameters())
lbfgs.step(lambda: ((net(inputs) - targets) ** 2).mean())
lbfgs.zero_grad()


def closure():
    lbfgs.zero_grad()
    loss = ((net(inputs) - targets) ** 2).mean()
    loss.backward()
    return loss


lbfgs.step(closure)
torch.save({"optimizer": lbfgs.state_dict()}, os.path.join(OPTIM, "lbfgs.pth"))
