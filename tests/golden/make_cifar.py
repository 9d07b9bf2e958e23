"""Writes cifar/: batches of CIFAR's layouts, in both formats, with synthetic images. Pixel i of channel c of image k is
7k + 50c + i modulo 251. The files are not compressed, so there are few images.
"""

import pathlib
import pickle
import shutil

import numpy as np

OUT = pathlib.Path(__file__).parent / "cifar"
shutil.rmtree(OUT, ignore_errors=True)


def images(numbers):
    k, c, i = np.array(numbers)[:, None, None], np.arange(3)[:, None], np.arange(1024)
    return ((7 * k + 50 * c + i) % 251).astype(np.uint8).reshape(len(numbers), 3072)


def write(folder, name, data):
    (OUT / folder).mkdir(parents=True, exist_ok=True)
    (OUT / folder / name).write_bytes(data)


def python2(fields):
    """What Python 2's cPickle wrote for a dict of lists and arrays, protocol 2: its `str` is bytes here."""

    def string(b):
        return b"U" + bytes([len(b)]) + b if len(b) < 256 else b"T" + len(b).to_bytes(4, "little") + b

    def number(n):
        return b"K" + bytes([n]) if n < 256 else b"M" + n.to_bytes(2, "little")

    def value(v):
        if isinstance(v, list):
            return b"](" + b"".join(map(number, v)) + b"e"
        dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R(K\x03" + string(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
        return made + b"(K\x01" + number(v.shape[0]) + number(v.shape[1]) + b"\x86" + dtype + b"\x89" + string(v.tobytes()) + b"tb"

    out = b"\x80\x02}(" + b"".join(string(k.encode()) + value(v) for k, v in fields.items()) + b"u."
    back = pickle.loads(out, encoding="bytes")
    assert all(np.array_equal(back[k.encode()], v) for k, v in fields.items())
    return out


def batch(numbers, labels, python, binary, keys):
    """`labels` has one list for each key."""
    pixels = images(numbers)
    write(*python, python2({**{key: list(values) for key, values in zip(keys, labels)}, "data": pixels}))
    rows = [bytes(values) + pixels[i].tobytes() for i, values in enumerate(zip(*labels))]
    write(*binary, b"".join(rows))


# The coarse label comes first in binary batches.
for number in range(5):
    pair = [2 * number, 2 * number + 1]
    places = ("py10/cifar-10-batches-py", f"data_batch_{number + 1}"), (
        "bin10/cifar-10-batches-bin", f"data_batch_{number + 1}.bin")
    batch(pair, [pair], *places, ["labels"])
batch([10, 11], [[0, 1]], ("py10/cifar-10-batches-py", "test_batch"), ("bin10/cifar-10-batches-bin", "test_batch.bin"), ["labels"])
batch([98, 99], [[3, 4], [98, 99]], ("py100/cifar-100-python", "test"), ("bin100/cifar-100-binary", "test.bin"), ["coarse_labels", "fine_labels"])
