"""Writes promotion.json: the dtype of the result of two operands, by torch.promote_types and torch.result_type, for every pair
of dtypes, of tensors with and without dimensions and of numbers."""

import json
import os

import torch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
NUMBERS = {"float": 1.0, "int": 1, "bool": True}


def name(dtype):
    return str(dtype).removeprefix("torch.")


def operands():
    for dtype in DTYPES:
        yield f"{name(dtype)}[2]", torch.ones(2, dtype=dtype)
        yield f"{name(dtype)}[]", torch.ones((), dtype=dtype)
    yield from NUMBERS.items()


out = {
    "promote_types": {name(a): {name(b): name(torch.promote_types(a, b)) for b in DTYPES} for a in DTYPES},
    "result_type": {a: {b: name(torch.result_type(x, y)) for b, y in operands()} for a, x in operands()},
    # In-place arithmetic takes what can be cast back.
    "can_cast": {name(a): {name(b): torch.can_cast(a, b) for b in DTYPES} for a in DTYPES},
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "promotion.json"), "w") as file:
    json.dump(out, file, indent=1, sort_keys=True)
    file.write("\n")
