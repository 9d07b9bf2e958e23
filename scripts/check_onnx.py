#!/usr/bin/env python3
"""Checks files that Kiln exported: `check_onnx.py NAME.onnx…`. Each must pass onnx's checker (with shape inference). From the
inputs in NAME.expected.safetensors, ONNX Runtime must compute the outputs in the same file with an error of at most 1e-4,
relative to the largest output. Several cases in one file have names like `3/input`."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-4


def difference(session, case, where):
    """How far apart the outputs are at most, as a share of the largest value."""
    inputs = {port.name: case[port.name] for port in session.get_inputs()}
    worst = 0.0
    for port, got in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        want = case[port.name]
        assert got.shape == want.shape and got.dtype == want.dtype, (where, port.name, got.shape, want.shape)
        got, want = got.astype(np.float64), want.astype(np.float64)
        assert np.isfinite(want).all(), (where, port.name)
        if want.size:
            worst = max(worst, float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)))
    return worst


def check(path):
    onnx.checker.check_model(str(path), full_check=True)
    cases = {}
    for key, value in load_file(path.with_suffix(".expected.safetensors")).items():
        case, _, name = key.rpartition("/")
        cases.setdefault(case, {})[name] = value
    assert cases, f"{path}: nothing to compare with"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = max(difference(session, case, path) for case in cases.values())
    open_dims = [dim for port in session.get_inputs() for dim in port.shape if isinstance(dim, str)]
    batches = sorted(len(case[session.get_inputs()[0].name]) for case in cases.values())
    assert len(set(batches)) > 1 or not open_dims, f"{path}: the batch is open, but only one size is compared"
    print(f"{path}: opset {onnx.load(str(path), load_external_data=False).opset_import[0].version}, "
          f"open {open_dims}, batches of {batches}, largest difference {worst:.1e}")
    assert not worst > TOLERANCE, f"{path}: {worst} is more than {TOLERANCE}"


if len(sys.argv) < 2:
    sys.exit(__doc__)
for name in sys.argv[1:]:
    check(Path(name))
