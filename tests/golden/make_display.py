"""Writes display.json: repr() of tensors (`tensors`) and of modules (`modules`).

A tensor is `data` (flat, row-major; "nan", "inf" and "-inf" are strings) or `arange` (0, 1, 2, ...
times `scale`, plus `shift`), of `shape` and `dtype`. With `grad_fn`, the tensor is not a leaf,
and its repr ends with that name.
"""

import torch
from torch import nn

from golden import *

tensors = []


def show(name, tensor, **source):
    values = tensor.detach().reshape(-1)
    data = plain([float(v) if tensor.is_floating_point() else v for v in values.tolist()])
    tensors.append({
        "name": name, "dtype": plain(tensor.dtype), "shape": list(tensor.shape), **(source or {"data": data}),
        "requires_grad": tensor.is_leaf and tensor.requires_grad,
        "grad_fn": type(tensor.grad_fn).__name__ if tensor.grad_fn else None,
        "repr": repr(tensor),
    })


def arange(name, shape, dtype=i64, scale=1, shift=0):
    count = torch.Size(shape).numel()
    show(name, (torch.arange(count, dtype=f64) * scale + shift).to(dtype).reshape(shape), arange={"scale": scale, "shift": shift})


VALUES = {
    # Whole numbers
    "integral": [1.0, 2.0],
    "integral_negative": [-1.0, 20.0, 300.0],
    "integral_zeros": [0.0, 0.0],
    "integral_negative_zero": [-0.0, 1.0],
    "integral_99999999": [99999999.0, 1.0],
    "integral_1e8": [1e8, 1.0],
    "integral_1e8_alone": [1e8],
    "integral_wide": [1.0, 123456.0],
    "integral_nan": [1.0, nan],
    "integral_inf": [1.0, inf, -inf],
    "integral_f32_max": [3.4028234663852886e38],
    # Fractions
    "fraction": [0.5, 1.25],
    "fraction_negative": [-0.5, 1.25, -100.125],
    "fraction_rounds": [0.12345, 0.99995, 0.00005],
    "fraction_zero": [0.0, 0.1],
    "fraction_nan": [0.5, nan, 2.0],
    "fraction_inf": [0.5, inf, -inf],
    "fraction_999": [0.5, 499.5],
    "fraction_1000": [0.5, 500.5],
    "fraction_ratio_1000": [0.25, 250.0],
    "fraction_ratio_over": [0.25, 250.5],
    "fraction_min_1e-4": [0.0001, 0.05],
    "fraction_below_1e-4": [0.00009, 0.05],
    "fraction_tiny": [1e-10],
    "fraction_denormal": [1e-40],
    "fraction_big": [123456.789],
    "fraction_1e8": [1e8 + 0.5, 1e8],
    "fraction_mixed": [1e-5, 1.0, 1e5],
    "fraction_mixed_negative": [-1e-5, 1.0, -1e5],
    "fraction_mixed_zero": [0.0, 1e-5, 1.0],
    "fraction_mixed_nan": [nan, 1e-5, 1e5, inf],
    "fraction_1e100": [1e100, 1.5],
    "fraction_carry": [9.99995, 0.5],
    "fraction_half_even": [0.00125, 0.12345, 0.12355, 2.5],
    # Only special values
    "nan": [nan],
    "inf": [inf, -inf],
    "nan_inf": [nan, inf],
    "minus_inf": [-inf],
}
SCALARS = {
    "zero": 0.0, "minus_zero": -0.0, "one": 1.0, "pi": 3.14159265, "minus": -2.5, "tiny": 1e-7, "big": 1e9,
    "big_fraction": 123456789.5, "nan": nan, "inf": inf, "minus_inf": -inf, "1e-4": 1e-4, "1e-5": 1e-5,
    "1000.5": 1000.5, "third": 1 / 3, "99999.99": 99999.99,
}
for dtype in [f32, f64]:
    for name, values in VALUES.items():
        show(f"{plain(dtype)}_{name}", const(values, dtype))
    for name, value in SCALARS.items():
        show(f"{plain(dtype)}_0d_{name}", const(value, dtype))
for dtype in [f16, bf16]:
    for name in ["integral", "integral_nan", "fraction", "fraction_rounds", "fraction_negative", "fraction_mixed", "fraction_inf"]:
        show(f"{plain(dtype)}_{name}", const(VALUES[name], dtype))
    show(f"{plain(dtype)}_0d", const(0.1, dtype))
for dtype in [u8, torch.int8, torch.int16, i32, i64]:
    show(f"{plain(dtype)}_1d", const([0, 1, 100], dtype))
    show(f"{plain(dtype)}_0d", const(7, dtype))
for dtype in [u8, i32, i64, b8, f16, bf16, f32, f64]:
    show(f"{plain(dtype)}_empty", torch.empty(0, dtype=dtype))
    show(f"{plain(dtype)}_empty_2d", torch.empty(0, 3, dtype=dtype))
for shape in [(3, 0), (2, 0, 4)]:
    show(f"empty_{'x'.join(map(str, shape))}", torch.empty(shape))
show("empty_requires_grad", torch.empty(0, 3, requires_grad=True))
show("int_negative", const([[-1, 20], [300, -4000]], i64))
show("int_extremes", const([-(2**63), 2**63 - 1], i64))
show("int_zeros", torch.zeros(2, 3, dtype=i64))
show("bool_0d", const(True, b8))
show("bool_1d", const([True, False], b8))
show("bool_2d", const([[True, False, True], [False, False, True]], b8))
show("bool_true", torch.ones(2, 2, dtype=b8))

# Shapes
for shape in [(5,), (1, 1), (2, 3), (2, 2, 3), (2, 1, 2, 2), (1, 2, 1, 2, 3)]:
    arange(f"shape_{'x'.join(map(str, shape))}", shape)
    arange(f"shape_{'x'.join(map(str, shape))}_f32", shape, f32, 0.25, -0.5)

# Lines: 80 columns and where they break
for count in [17, 18, 19, 20, 25, 26, 60]:
    arange(f"line_i64_{count}", (count,))
for count in [8, 9, 10, 11, 30]:
    arange(f"line_f32_{count}", (count,), f32, 0.5)
arange("line_f32_integral", (30,), f32)
arange("line_f64", (12,), f64, 0.001)
arange("line_scientific", (12,), f32, 1000.5)
arange("line_rows", (3, 15), f32, 0.25)
arange("line_rows_i64", (2, 40))
arange("line_3d", (2, 2, 20), f32, 0.5)
show("line_bool", torch.tensor([True, False] * 15))
arange("suffix_fits", (2, 2), f64)
for count in range(3, 12):  # the suffix moves to its own line where it no longer fits
    arange(f"suffix_{count}", (count,), f64, 0.25)
    show(f"suffix_grad_{count}", (torch.arange(count) * 0.25).requires_grad_(), arange={"scale": 0.25, "shift": 0})

# More than 1000 elements: the first and last three of each dimension
for shape in [(1000,), (1001,), (31, 32), (32, 32), (2000, 2), (2, 2000), (6, 200), (7, 200), (12, 10, 10), (3, 20, 30), (4, 5, 6, 9)]:
    arange(f"summary_{'x'.join(map(str, shape))}", shape)
for shape in [(1200,), (40, 40), (11, 10, 10), (2, 8, 80)]:
    arange(f"summary_f32_{'x'.join(map(str, shape))}", shape, f32, 0.125)
arange("summary_f64", (50, 50), f64, 0.125)
arange("summary_f32_integral", (1100,), f32)
arange("summary_scientific", (1100,), f32, 1000.25)
arange("summary_bf16", (1100,), bf16)
arange("summary_i32", (30, 40), i32)
show("summary_bool", torch.zeros(40, 40, dtype=b8), arange={"scale": 0, "shift": 0})
show("summary_requires_grad", torch.zeros(2000, requires_grad=True), arange={"scale": 0, "shift": 0})
show("summary_grad_fn", torch.zeros(40, 40, requires_grad=True) + 0, arange={"scale": 0, "shift": 0})

# Autograd
x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
w = torch.tensor([0.25, 0.5], dtype=f64, requires_grad=True)
show("requires_grad", x)
show("requires_grad_f64", w)
show("requires_grad_0d", torch.tensor(1.5, requires_grad=True))
for name, value in {
    "add": x + 1, "mul": x * 2, "sub": x - 1, "div": x / 3, "matmul": x @ x, "sum": x.sum(), "mean": x.mean(), "slice": x[:, 1:],
    "select": x[0], "t": x.t(), "relu": x.relu(), "softmax": x.softmax(1), "f64_mul": w * 2, "f64_sum": w.sum(),
    "transpose_3d": x.reshape(1, 2, 2).transpose(0, 2), "long": torch.arange(12.0).requires_grad_() * 0.5,
    "addmm": nn.functional.linear(x, x, x[0]), "cross_entropy": nn.functional.cross_entropy(x, torch.tensor([0, 1])),
}.items():
    show(f"grad_fn_{name}", value)
show("detached", (x + 1).detach())
show("parameter_data", x.data)


class NeuralNetwork(nn.Module):
    """The quickstart tutorial's network."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 3), nn.ReLU(), NeuralNetwork()])
        self.head = nn.Identity()


class Empty(nn.Module):
    pass


MODULES = """
nn.Linear(4, 3)
nn.Linear(4, 3, bias=False)
nn.Bilinear(2, 3, 4)
nn.ReLU()
nn.ReLU(inplace=True)
nn.LeakyReLU()
nn.LeakyReLU(0.2)
nn.ELU()
nn.SiLU()
nn.Softplus()
nn.Sigmoid()
nn.Tanh()
nn.GELU()
nn.GELU(approximate='tanh')
nn.Softmax(dim=1)
nn.Softmax(dim=-1)
nn.LogSoftmax(dim=1)
nn.Dropout()
nn.Dropout(0.25)
nn.Dropout(0.2, inplace=True)
nn.Flatten()
nn.Flatten(0, 2)
nn.Unflatten(1, (2, 3))
nn.Identity()
nn.Embedding(10, 4)
nn.Embedding(10, 4, padding_idx=0)
nn.LayerNorm(8)
nn.LayerNorm([2, 3], eps=1e-6, elementwise_affine=False)
nn.BatchNorm1d(8)
nn.BatchNorm2d(8, momentum=0.2)
nn.Conv2d(1, 8, 3)
nn.Conv2d(1, 8, 3, stride=2, padding=1)
nn.Conv2d(4, 8, (3, 5), groups=2, bias=False)
nn.MaxPool2d(2)
nn.MaxPool2d(3, stride=2, padding=1)
nn.AvgPool2d(2)
nn.Sequential()
nn.Sequential(nn.Linear(4, 3), nn.ReLU())
nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Linear(3, 2))
nn.Sequential(*[nn.ReLU() for _ in range(11)])
nn.ModuleList([])
nn.ModuleList([nn.Linear(4, 4) for _ in range(3)] + [nn.ReLU()])
nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Tanh(), nn.Tanh(), nn.ReLU()])
nn.ModuleDict({'a': nn.Linear(2, 3), 'b': nn.ReLU()})
nn.MSELoss()
nn.MSELoss(reduction='sum')
nn.L1Loss()
nn.SmoothL1Loss()
nn.HuberLoss()
nn.NLLLoss()
nn.CrossEntropyLoss()
nn.CrossEntropyLoss(label_smoothing=0.1)
nn.CrossEntropyLoss(weight=torch.ones(3))
nn.BCELoss()
nn.BCEWithLogitsLoss()
nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))
NeuralNetwork()
Nested()
Empty()
""".split("\n")[1:-1]
modules = [{"expr": expr, "repr": repr(eval(expr))} for expr in MODULES]

write_json("display.json", {"tensors": tensors, "modules": modules}, len(tensors) + len(modules))
