"""Extracts the Fashion-MNIST subset in the repository: the first 600 training images and the
first 100 test images of each class, in the original order.

Usage: python3 make_subset.py DIRECTORY-OF-THE-FULL-DATA-SET
"""

import gzip
import hashlib
import os
import sys

import numpy as np

TARGET = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../crates/data/assets/fashion-mnist")
PER_CLASS = {"train": 600, "t10k": 100}

LICENSE = """The MIT License (MIT) Copyright © 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

ORIGIN = """# A subset of Fashion-MNIST

Images of clothing from Zalando Research's Fashion-MNIST,
<https://github.com/zalandoresearch/fashion-mnist> (MIT, see `LICENSE`): Han Xiao, Kashif Rasul and
Roland Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
Algorithms*, arXiv:1708.07747.

The full data set has 60,000 training and 10,000 test images of 28 × 28 gray pixels in 10 classes.
Here are the first 600 training and the first 100 test images of each class, 6,000 and 1,000 in
all, in the order and the format (gzip IDX) of the original files. `tests/golden/make_subset.py`
made them from the original files as Debian packages them (`dataset-fashion-mnist`).

The first checksum is of the file, the second of its contents unpacked.

| File | Bytes | SHA-256 of the file | SHA-256 unpacked |
| --- | --- | --- | --- |
{files}

The original files:

| File | Bytes | SHA-256 of the file | SHA-256 unpacked |
| --- | --- | --- | --- |
{originals}
"""


def row(path):
    with open(path, "rb") as file:
        packed = file.read()
    sums = [hashlib.sha256(data).hexdigest() for data in (packed, gzip.decompress(packed))]
    return f"| `{os.path.basename(path)}` | {len(packed)} | `{sums[0]}` | `{sums[1]}` |"


def read_idx(path):
    with gzip.open(path) as file:
        data = file.read()
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(header + array.tobytes())


def main(source):
    os.makedirs(TARGET, exist_ok=True)
    files, originals = [], []
    for split, count in PER_CLASS.items():
        names = [f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"]
        images, labels = (read_idx(os.path.join(source, name)) for name in names)
        kept = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
        for name, array in zip(names, [images, labels]):
            write_idx(os.path.join(TARGET, name), array[kept])
            files.append(row(os.path.join(TARGET, name)))
            originals.append(row(os.path.join(source, name)))
    for name, text in [
        ("LICENSE", LICENSE),
        ("ORIGIN.md", ORIGIN.format(files="\n".join(files), originals="\n".join(originals))),
    ]:
        with open(os.path.join(TARGET, name), "w", encoding="utf-8") as file:
            file.write(text)
    print("\n".join(files))


if __name__ == "__main__":
    main(*sys.argv[1:])
