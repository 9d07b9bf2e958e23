"""Writes init.json: the distributions that the initializers draw from.

A uniform distribution is on [-bound, bound]; a normal one has mean zero and standard deviation
`std`. Each is checked here against a large sample drawn by PyTorch.
"""

import math

import torch
from torch import nn
from torch.nn import init

from golden import write_json

torch.manual_seed(0)

GAINS = [
    ("linear", None), ("conv1d", None), ("conv2d", None), ("conv3d", None), ("sigmoid", None),
    ("tanh", None), ("relu", None), ("leaky_relu", None), ("leaky_relu", 0.2), ("leaky_relu", 0.0),
    ("leaky_relu", math.sqrt(5)), ("selu", None),
]
SHAPES = [[512, 784], [10, 512], [3, 4], [1, 1], [8, 4, 3, 3], [6, 2, 5]]


def check(shape, distribution, value, draw):
    """Compares a sample's spread with the formula's."""
    count = math.prod(shape)
    sample = torch.cat([draw(torch.empty(shape)).reshape(-1) for _ in range(-(-20000 // count))])
    if distribution == "uniform":
        assert sample.abs().max() <= value * (1 + 1e-6) and sample.abs().max() > 0.99 * value, (shape, value)
    else:
        assert abs(sample.std().item() - value) < 0.03 * value, (shape, value)


def initializers():
    for shape in SHAPES:
        fan_in, fan_out = init._calculate_fan_in_and_fan_out(torch.empty(shape))
        fans = {"shape": shape, "fan_in": fan_in, "fan_out": fan_out}
        for g in [1.0, init.calculate_gain("relu"), 5 / 3]:
            std = g * math.sqrt(2 / (fan_in + fan_out))
            bound = math.sqrt(3) * std
            check(shape, "uniform", bound, lambda t: init.xavier_uniform_(t, gain=g))
            check(shape, "normal", std, lambda t: init.xavier_normal_(t, gain=g))
            yield {"init": "xavier_uniform_", **fans, "args": {"gain": g}, "bound": bound}
            yield {"init": "xavier_normal_", **fans, "args": {"gain": g}, "std": std}
        for mode, fan in [("fan_in", fan_in), ("fan_out", fan_out)]:
            for a, nonlinearity in [(0, "leaky_relu"), (math.sqrt(5), "leaky_relu"), (0.2, "leaky_relu"), (0, "relu"), (0, "tanh"), (0, "linear")]:
                args = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
                std = init.calculate_gain(nonlinearity, a) / math.sqrt(fan)
                bound = math.sqrt(3) * std
                check(shape, "uniform", bound, lambda t: init.kaiming_uniform_(t, **args))
                check(shape, "normal", std, lambda t: init.kaiming_normal_(t, **args))
                yield {"init": "kaiming_uniform_", **fans, "args": args, "bound": bound}
                yield {"init": "kaiming_normal_", **fans, "args": args, "std": std}


def linears():
    for fan_in, fan_out in [(784, 512), (512, 10), (20, 30), (1, 1), (5, 3)]:
        bound = 1 / math.sqrt(fan_in)
        layers = [nn.Linear(fan_in, fan_out) for _ in range(-(-2000 // fan_out))]
        for parameter in ["weight", "bias"]:
            largest = torch.cat([getattr(layer, parameter).detach().reshape(-1) for layer in layers]).abs().max()
            assert 0.99 * bound < largest <= bound * (1 + 1e-6), (fan_in, fan_out)
        yield {"in_features": fan_in, "out_features": fan_out, "weight_bound": bound, "bias_bound": bound}


def rejected():
    """Calls that raise, with the message."""
    for expr in [
        "init.calculate_gain('gelu')", "init.xavier_uniform_(torch.empty(3))", "init.kaiming_uniform_(torch.empty(3, 4), mode='fan')",
    ]:
        try:
            eval(expr)
        except Exception as error:
            yield {"expr": expr, "error": type(error).__name__, "message": str(error)}


value = {
    "calculate_gain": [
        {"nonlinearity": name, "param": param, "gain": float(init.calculate_gain(name, param))} for name, param in GAINS
    ],
    "linear": list(linears()),
    "initializers": list(initializers()),
    "errors": list(rejected()),
    # Drawn from normal distributions of this mean and standard deviation.
    "embedding": [{"num_embeddings": 10, "embedding_dim": 4, "mean": 0.0, "std": 1.0}],
}
write_json("init.json", value, sum(len(v) for v in value.values()))
