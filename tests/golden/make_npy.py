"""Writes npy/: arrays and archives by NumPy, of every dtype, byte order, memory order and version of the format, and
npy/values.json with their shapes and values."""

import json
import os
import zipfile

import numpy as np

from golden import HERE

FOLDER = os.path.join(HERE, "npy")
os.makedirs(FOLDER, exist_ok=True)
random = np.random.default_rng(0)
values = {}


def note(name, array):
    numbers = [int(v) if array.dtype.kind in "iub" else float(v) for v in array.flatten(order="C")]
    values[name] = {"dtype": str(array.dtype.newbyteorder("=")), "shape": list(array.shape), "values": numbers}


def save(name, array, version=None):
    with open(os.path.join(FOLDER, name), "wb") as file:
        np.lib.format.write_array(file, array, version=version, allow_pickle=False)
    note(name, array)


floats = (random.standard_normal((2, 3)) * 100).round(2)
save("plain.npy", floats.astype("<f4"))
save("scalar.npy", np.array(1.5))
save("empty.npy", np.zeros((0, 4), "<i8"))
save("vector.npy", np.arange(12, dtype="<i4"))
save("bytes.npy", np.array([[0, 255], [7, 128]], "u1"))
save("bools.npy", np.array([True, False, True]))
save("halves.npy", floats.astype("<f2"))
save("fortran.npy", np.asfortranarray(random.standard_normal((2, 3, 4))))
save("big_endian_fortran.npy", np.asfortranarray(floats.astype(">f8")))
save("version2.npy", floats.astype("<f4"), version=(2, 0))
save("version3.npy", floats.astype("<f4"), version=(3, 0))

arrays = {f"{order}{kind}": (floats if kind[0] == "f" else floats.round()).astype(f"{order}{kind}") for order in "<>" for kind in ["f2", "f4", "f8", "i2", "i4", "i8"]}
arrays |= {"i1": np.array([-128, 127, 0], "i1"), "<u2": np.array([65535, 1], "<u2"), ">u4": np.array([2**32 - 1, 7], ">u4")}
arrays |= {"<u8": np.array([2**63 - 1, 0], "<u8"), "folder/bool": np.array([[True], [False]]), "naïve": np.arange(3.0)}
np.savez(os.path.join(FOLDER, "plain.npz"), **arrays)
np.savez_compressed(os.path.join(FOLDER, "compressed.npz"), np.zeros((50, 40), "<f4"), last=np.asfortranarray(floats))
for name, array in arrays.items():
    note(f"plain.npz/{name}", array)
note("compressed.npz/arr_0", np.zeros((50, 40), "<f4"))
note("compressed.npz/last", floats)

# What cannot be a tensor.
np.save(os.path.join(FOLDER, "object.npy"), np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
np.save(os.path.join(FOLDER, "text.npy"), np.array(["ab", "c"]))
np.save(os.path.join(FOLDER, "complex.npy"), np.array([1j]))
np.save(os.path.join(FOLDER, "structure.npy"), np.zeros(2, [("x", "<f4"), ("y", "<i2")]))
np.save(os.path.join(FOLDER, "date.npy"), np.array(["2020-01-01"], "datetime64[D]"))
np.save(os.path.join(FOLDER, "large.npy"), np.array([2**63], "<u8"))
with zipfile.ZipFile(os.path.join(FOLDER, "other.npz"), "w") as archive:
    archive.writestr("notes.txt", "hello")

with open(os.path.join(FOLDER, "values.json"), "w") as file:
    json.dump(values, file)
    file.write("\n")
