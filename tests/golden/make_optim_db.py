"""Writes optim_db.safetensors: 20 steps of every optimizer of PyTorch with every input of its own tests (`optim_db`), and the
hyperparameters that its tests expect to be refused.

`gradients/stepK/gradI` are the gradients of all cases, `gradients/paramI` the parameters before the first step: a matrix,
a vector and a scalar-like tensor of one element; only the matrix for Muon. A case has `stepK/paramI` at some K, and the
optimizer's state after the tenth step as `state/I/NAME`. LBFGS reevaluates its loss, so its cases
minimize a function that the test also implements (`rosenbrock`), in six steps. All in f64.
"""

import warnings

import torch
from torch.testing._internal.common_optimizers import optim_db

from golden import *

STEPS, KEPT, RESUMED = 20, (1, 2, 6, 20), 10
# Counts and the like are kept in the default type.
torch.set_default_dtype(f64)
warnings.simplefilter("ignore")
s = Suite("optim_db")
generator = torch.Generator().manual_seed(11)


def draw(*shape):
    return torch.randn(shape, dtype=f64, generator=generator)


PARAMS = [draw(3, 4), draw(3), draw(1)]
GRADS = [[draw(3, 4), draw(3), draw(1)] for _ in range(STEPS)]
for i, param in enumerate(PARAMS):
    s.put("gradients", f"param{i}", param)
for step, grads in enumerate(GRADS, 1):
    for i, grad in enumerate(grads):
        s.put("gradients", f"step{step}/grad{i}", grad)


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def arguments(kwargs):
    """Learning rates that are tensors are numbers in Kiln."""
    return {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}


def run_lbfgs(name, kwargs):
    x = torch.tensor([-1.2, 1.0, 0.5, -0.3], requires_grad=True)
    sign = -1 if kwargs.get("maximize") else 1
    optimizer = torch.optim.LBFGS([x], **kwargs)

    def closure():
        optimizer.zero_grad()
        loss = sign * rosenbrock(x)
        loss.backward()
        return loss

    for step in range(1, 7):
        loss = optimizer.step(closure)
        s.put(name, f"step{step}/param0", x)
        s.put(name, f"step{step}/loss", loss)


def run(name, cls, kwargs):
    count = 1 if cls.__name__ == "Muon" else 3
    params = [param.clone().requires_grad_() for param in PARAMS[:count]]
    optimizer = cls(params, **kwargs)
    for step, grads in enumerate(GRADS, 1):
        for param, grad in zip(params, grads):
            param.grad = grad.clone()
        optimizer.step()
        if step in KEPT:
            for i, param in enumerate(params):
                s.put(name, f"step{step}/param{i}", param)
        if step == RESUMED:
            for i, param in enumerate(params):
                s.put(name, f"step{step}/param{i}", param)
            for i, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    if isinstance(value, torch.Tensor):
                        s.put(name, f"state/{i}/{key}", value)


more = {
    # What its inputs leave out.
    "RAdam": [{"eps": 1e-3, "betas": (0.5, 0.6)}],
    "ASGD": [{"t0": 3, "lambd": 0.1, "alpha": 0.5, "lr": 0.1}],
    "Adafactor": [{"eps": (1e-2, 0.1), "lr": 0.5}],
    "Adamax": [{"eps": 0.1, "betas": (0.5, 0.6)}],
    "Rprop": [{"lr": 0.1, "step_sizes": (0.05, 0.3)}],
    "Muon": [{"nesterov": False}],
}
for info in optim_db:
    cls = info.optim_cls
    if cls.__name__ == "SparseAdam":
        continue
    inputs = [entry.kwargs for entry in info.optim_inputs_func(device="cpu")] + more.get(cls.__name__, [])
    for index, kwargs in enumerate(inputs):
        name = f"{cls.__name__}_{index}"
        s.record(name, cls.__name__, arguments(kwargs))
        (run_lbfgs(name, kwargs) if cls.__name__ == "LBFGS" else run(name, cls, kwargs))
    for index, entry in enumerate(info.optim_error_inputs_func(device="cpu", dtype=f32)):
        kwargs = entry.optimizer_error_input.kwargs
        # How parameters are given, and tensors as hyperparameters, differ in Kiln: the test has cases of its own.
        if kwargs and not any(isinstance(part, torch.Tensor) for v in kwargs.values() for part in (v if isinstance(v, tuple) else [v])):
            s.record(f"{cls.__name__}_error{index}", f"{cls.__name__} error", kwargs)

s.write()
