#!/usr/bin/env python3
"""Checks files that Kiln exported: `check_onnx.py NAME.onnx…`. Each must be valid for onnx's checker (with shapes
inferred), and ONNX Runtime must compute from the inputs in NAME.expected.safetensors the outputs there within 1e-4,
relative to the largest."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

TOLERANCE = 1e-4


def check(path):
    onnx.checker.check_model(str(path), full_check=True)
    expected = load_file(path.with_suffix(".expected.safetensors"))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {port.name: expected[port.name] for port in session.get_inputs()}
    worst = 0.0
    for port, got in zip(session.get_outputs(), session.run(None, inputs)):
        want = expected[port.name]
        assert got.shape == want.shape and got.dtype == want.dtype, (path, port.name, got.shape, want.shape)
        if want.size:
            got, want = got.astype(np.float64), want.astype(np.float64)
            worst = max(worst, float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)))
    open_dims = [dim for port in session.get_inputs() for dim in port.shape if isinstance(dim, str)]
    print(f"{path}: opset {onnx.load(str(path), load_external_data=False).opset_import[0].version}, "
          f"open {open_dims}, largest difference {worst:.1e}")
    assert worst <= TOLERANCE, f"{path}: {worst} is more than {TOLERANCE}"


if len(sys.argv) < 2:
    sys.exit(__doc__)
for name in sys.argv[1:]:
    check(Path(name))
