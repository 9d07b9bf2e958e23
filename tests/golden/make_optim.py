"""Writes optim.safetensors: parameters after each of six optimizer steps, and gradient clipping.

Optimizer cases: `param0`, `param1` before the first step; `stepK/gradI` (absent where the gradient
is None) and `stepK/paramI` for K = 1..6. "groups", where present, holds the options of one
parameter group per parameter. Clipping cases: `gradI` before, `outI` after, and `total_norm`.
"""

import zlib

import torch

from golden import *

STEPS = 6
s = Suite("optim")


def gradients(name, dtype):
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def draw(*shape):
        return torch.randn(shape, dtype=f64, generator=generator).to(dtype)

    params = [draw(3, 2), draw(2)]
    return params, [[draw(3, 2), draw(2)] for _ in range(STEPS)]


def optimize(name, optimizer, dtype=f32, groups=None, edit=None, **args):
    """`edit(step, grads)` changes a step's gradients in place (step counts from 1)."""
    values, steps = gradients(name, dtype)
    params = [value.requires_grad_() for value in values]
    s.record(name, optimizer, {**args, **({"groups": groups} if groups else {})})
    for i, param in enumerate(params):
        s.put(name, f"param{i}", param)
    given = [{"params": [p], **options} for p, options in zip(params, groups)] if groups else params
    instance = getattr(torch.optim, optimizer)(given, **args)
    for step, grads in enumerate(steps, 1):
        if edit:
            edit(step, grads)
        for i, (param, grad) in enumerate(zip(params, grads)):
            param.grad = grad
            if grad is not None:
                s.put(name, f"step{step}/grad{i}", grad)
        instance.step()
        for i, param in enumerate(params):
            s.put(name, f"step{step}/param{i}", param)


VARIANTS = {
    "SGD": {
        "plain": {"lr": 0.1},
        "momentum": {"lr": 0.1, "momentum": 0.9},
        "dampening": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
        "nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        "weight_decay": {"lr": 0.1, "weight_decay": 0.01},
        "maximize": {"lr": 0.1, "maximize": True},
        "all": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
    },
    "Adam": {
        "plain": {"lr": 0.01},
        "betas_eps": {"lr": 0.01, "betas": [0.8, 0.99], "eps": 1e-3},
        "weight_decay": {"lr": 0.01, "weight_decay": 0.1},
        "amsgrad": {"lr": 0.01, "amsgrad": True},
        "maximize": {"lr": 0.01, "maximize": True},
        "all": {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
    },
    "AdamW": {
        "plain": {"lr": 0.01},
        "weight_decay": {"lr": 0.01, "weight_decay": 0.5},
        "amsgrad": {"lr": 0.01, "amsgrad": True},
        "all": {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
    },
    "RMSprop": {
        "plain": {"lr": 0.01},
        "centered": {"lr": 0.01, "centered": True},
        "momentum": {"lr": 0.01, "momentum": 0.9},
        "weight_decay": {"lr": 0.01, "weight_decay": 0.1},
        "all": {"lr": 0.01, "alpha": 0.9, "centered": True, "momentum": 0.9, "weight_decay": 0.1},
    },
    "Adadelta": {
        "plain": {"lr": 1.0},
        "rho_eps": {"lr": 0.5, "rho": 0.7, "eps": 1e-3},
        "all": {"lr": 0.5, "weight_decay": 0.1, "maximize": True},
    },
    "Adagrad": {
        "plain": {"lr": 0.1},
        "lr_decay": {"lr": 0.1, "lr_decay": 0.1},
        "weight_decay": {"lr": 0.1, "weight_decay": 0.1},
        "initial": {"lr": 0.1, "initial_accumulator_value": 0.5},
        "all": {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    },
}


def some_missing(step, grads):
    """The second parameter has no gradient in steps 1 and 4; the first one is all zero in step 3."""
    if step in (1, 4):
        grads[1] = None
    if step == 3:
        grads[0].zero_()


for optimizer, variants in VARIANTS.items():
    for variant, args in variants.items():
        optimize(f"{optimizer}_{variant}", optimizer, **args)
    optimize(f"{optimizer}_f64", optimizer, f64, **variants["all"])
    optimize(f"{optimizer}_missing", optimizer, edit=some_missing, **variants["all"])
    optimize(f"{optimizer}_defaults", optimizer, f64)
optimize("SGD_groups", "SGD", lr=0.1, groups=[{}, {"lr": 0.01, "momentum": 0.9}])
optimize("Adam_groups", "Adam", lr=0.1, groups=[{"betas": [0.5, 0.9]}, {"lr": 0.01, "weight_decay": 0.1}])


def clip(name, function, grads, **args):
    params = [torch.zeros_like(g).requires_grad_() for g in grads]
    for i, (param, grad) in enumerate(zip(params, grads)):
        s.put(name, f"grad{i}", grad)
        param.grad = grad.clone()
    total = getattr(torch.nn.utils, function)(params, **args)
    s.record(name, function, args)
    for i, param in enumerate(params):
        s.put(name, f"out{i}", param.grad)
    if total is not None:
        s.put(name, "total_norm", total)


for dtype in [f32, f64]:
    grads = gradients("clip", dtype)[1][0]
    for label, p in {"1": 1.0, "2": 2.0, "inf": inf, "3": 3.0}.items():
        clip(f"clip_norm_{label}_{plain(dtype)}", "clip_grad_norm_", grads, max_norm=0.5, norm_type=p)
    clip(f"clip_norm_not_reached_{plain(dtype)}", "clip_grad_norm_", grads, max_norm=100.0)
    clip(f"clip_value_{plain(dtype)}", "clip_grad_value_", grads, clip_value=0.5)
zeros = [torch.zeros(3, 2), torch.zeros(2)]
clip("clip_norm_zero", "clip_grad_norm_", zeros, max_norm=1.0)
clip("clip_norm_nan", "clip_grad_norm_", [const([1.0, nan]), const([2.0])], max_norm=1.0)
clip("clip_norm_infinite", "clip_grad_norm_", [const([1.0, inf]), const([2.0])], max_norm=1.0)
clip("clip_norm_one_short", "clip_grad_norm_", [const([1.0]), const([-0.0])], max_norm=1.0)
clip("clip_value_special", "clip_grad_value_", [const([nan, inf, -inf]), const([-0.5, 0.5])], clip_value=0.5)

s.write()
