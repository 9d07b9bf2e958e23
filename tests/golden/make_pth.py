"""Writes pth/: files of torch.save in both formats, pickles of plain data and of NumPy arrays in every
protocol, and pth/expected.safetensors with what the files hold."""

import collections
import io
import json
import os
import pickle
import zipfile

import numpy as np
import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "pth")
os.makedirs(OUT, exist_ok=True)
torch.manual_seed(0)
expected = {}


def save(name, value, legacy=False):
    # A fixed name inside the archive and a buffer: the same bytes every time.
    torch.save(value, os.path.join(OUT, name), _use_new_zipfile_serialization=not legacy)


def expect(name, state):
    for key, tensor in state.items():
        expected[f"{name}/{key}"] = tensor.detach().contiguous().clone()


def every_dtype():
    x = torch.tensor([[1.5, -0.0, float("inf")], [1e-3, -7.25, 3.0]])
    state = collections.OrderedDict()
    for dtype in [torch.float32, torch.float64, torch.float16, torch.bfloat16]:
        state[f"{dtype}".removeprefix("torch.")] = x.to(dtype)
    for dtype in [torch.int64, torch.int32, torch.uint8, torch.bool]:
        state[f"{dtype}".removeprefix("torch.")] = torch.tensor([0, 1, 1, 0, 7]).to(dtype)
    state["scalar"] = torch.tensor(3, dtype=torch.int64)
    state["empty"] = torch.zeros(0, 4)
    return state


def views():
    """Strides, offsets and shared storages."""
    base = torch.arange(60, dtype=torch.float32)
    return collections.OrderedDict(
        base=base,
        same=base,
        offset=base[7:19],
        matrix=base.view(12, 5),
        transposed=base.view(12, 5).t(),
        strided=base.view(3, 4, 5)[1:, ::2, 1::3],
        expanded=base[3:4].expand(2, 3),
        channels_last=base[:48].view(2, 3, 4, 2).to(memory_format=torch.channels_last),
        diagonal=base[:49].view(7, 7).diagonal(),
    )


dtypes, shared = every_dtype(), views()
for legacy in [False, True]:
    kind = "legacy" if legacy else "zip"
    save(f"dtypes_{kind}.pth", dtypes, legacy)
    save(f"views_{kind}.pth", shared, legacy)
    expect(f"dtypes_{kind}.pth", dtypes)
    expect(f"views_{kind}.pth", shared)

model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.BatchNorm1d(3))
model[0].weight.note = "a Python attribute"
optimizer = torch.optim.Adam(model.parameters())
model(torch.randn(5, 4)).sum().backward()
optimizer.step()
checkpoint = {
    "epoch": 12,
    "arch": "mlp",
    "best": 0.5,
    "nothing": None,
    "done": True,
    "shape": torch.Size([4, 3]),
    "dtype": torch.float16,
    "device": torch.device("cuda", 1),
    "tags": {"a"},
    "raw": b"\x00\xff",
    "milestones": collections.Counter([3, 3, 5]),
    "history": [(1, 0.25), (2, 0.125)],
    "accuracy": np.float64(0.75),
    "curve": np.arange(6, dtype=np.float32).reshape(2, 3),
    "optimizer": optimizer.state_dict(),
    "state_dict": model.state_dict(),
    "ema": {k: v * 0.5 for k, v in model.state_dict().items()},
}
save("checkpoint_zip.pth", checkpoint)
save("checkpoint_legacy.pth", checkpoint, legacy=True)
for name in ["checkpoint_zip.pth", "checkpoint_legacy.pth"]:
    expect(name, model.state_dict())
# Parameters themselves, one with a Python attribute.
save("parameters.pth", dict(model.named_parameters()))
expect("parameters.pth", dict(model.named_parameters()))
save("whole_model.pth", model)
save("one_tensor.pth", torch.ones(2))
save("int16.pth", {"x": torch.ones(2, dtype=torch.int16)})
save("uint16.pth", {"x": torch.ones(2, dtype=torch.uint16)})


def tagged(name, state, to):
    """As if it had been saved on a GPU: the same file, with another location in its pickles."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    data = buffer.getvalue()
    old, new = b"X\x03\x00\x00\x00cpu", b"X" + len(to).to_bytes(4, "little") + to.encode()
    with open(os.path.join(OUT, name), "wb") as f:
        f.write(data.replace(old, new))
    expect(name, state)


tagged("cuda_legacy.pth", model.state_dict(), "cuda:1")


def rezip(source, target, edit, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(os.path.join(OUT, source)) as old, zipfile.ZipFile(os.path.join(OUT, target), "w") as new:
        for info in old.infolist():
            data = edit(info.filename, old.read(info))
            if data is not None:
                new.writestr(zipfile.ZipInfo(info.filename), data, method)


def on_gpu(name, data):
    if name.endswith("data.pkl"):
        return data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    return data


def big_endian(name, data):
    if name.endswith("byteorder"):
        return b"big"
    if "/data/" in name:
        size = {0: 4, 1: 8, 2: 2, 3: 2, 4: 8, 5: 4, 6: 1, 7: 1, 8: 8, 9: 1}[int(name.rsplit("/", 1)[1])]
        return np.frombuffer(data, f"V{size}").view(f"u{size}").byteswap().tobytes()
    return data


rezip("dtypes_zip.pth", "cuda_zip.pth", on_gpu)
expect("cuda_zip.pth", dtypes)
rezip("dtypes_zip.pth", "big_endian.pth", big_endian)
expect("big_endian.pth", dtypes)
# PyTorch 1.6 wrote neither the byte order nor the later records.
rezip("dtypes_zip.pth", "no_byteorder.pth", lambda n, d: d if "data" in n.split("/", 1)[1][:5] or "version" in n else None)
expect("no_byteorder.pth", dtypes)
rezip("dtypes_zip.pth", "compressed.pth", lambda n, d: d, zipfile.ZIP_DEFLATED)

for name in ["cuda_zip.pth", "big_endian.pth", "views_zip.pth", "checkpoint_zip.pth", "cuda_legacy.pth"]:
    loaded = torch.load(os.path.join(OUT, name), map_location="cpu", weights_only=False)
    state = loaded.get("state_dict", loaded)
    for key, tensor in state.items():
        assert torch.equal(tensor, expected[f"{name}/{key}"]), (name, key)
save_file(expected, os.path.join(OUT, "expected.safetensors"))

# Plain pickles.
plain = {
    "none": None,
    "flags": [True, False],
    "ints": (0, 255, -1, 65535, 70000, -(2**31), 2**40, -(2**70)),
    "float": -1.5,
    "text": "caf\u00e9 \u20ac \U0001f600 \\ \n",
    "bytes": b"\x00\x80\xff",
    "nested": [[], {}, (), (1,), (1, 2), (1, 2, 3), {"k": [1]}],
    "long list": list(range(300)),
    "long text": "x" * 300,
}
plain["again"] = plain["ints"]
array = np.arange(6, dtype=np.uint8).reshape(2, 3)
arrays = {
    "u1": array,
    "fortran": np.asfortranarray(array.astype(np.float32)),
    "big": array.astype(">i4"),
    "scalar": np.float64(0.75),
    "empty": np.zeros((0, 3), np.int64),
}
for protocol in range(6):
    for name, value in [("plain", plain), ("arrays", arrays)]:
        with open(os.path.join(OUT, f"{name}_{protocol}.pkl"), "wb") as f:
            pickle.dump(value, f, protocol)

# What Python 2's cPickle wrote of a CIFAR-10 batch, with two images of 4 values.
cifar = (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\x09e"
    b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01bq\n\x87q\x0bRq\x0c"
    b"(K\x01K\x02K\x04\x86q\rcnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11"
    b"(K\x03U\x01|q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x13b\x89U\x08\x01\x02\x03\x04\x05\x06\xfe\xffq\x14tq\x15b"
    b"U\tfilenamesq\x16]q\x17(U\x07a_s.pngq\x18U\x07b_s.pngq\x19eu."
)
back = pickle.loads(cifar, encoding="bytes")
assert back[b"data"].tolist() == [[1, 2, 3, 4], [5, 6, 254, 255]] and back[b"labels"] == [6, 9], back
with open(os.path.join(OUT, "cifar_2.pkl"), "wb") as f:
    f.write(cifar)
