"""Writes schedulers.json: the learning rate before any step of the scheduler and after each one.

`lrs[k]` is the rate after k calls of scheduler.step(); each call follows optimizer.step() of SGD
with `lr`. ReduceLROnPlateau's step k takes `metrics[k - 1]`. OneCycleLR also sets the momentum.
"""

import math

import torch
from torch.optim import lr_scheduler, swa_utils

from golden import plain, write_json

STEPS = 30
SCALES = {"inverse": lambda x: 1 / (1 + x), "wave": lambda x: (1 + math.cos(x)) / 2}
cases = []


def schedule(name, kind, lr=0.1, metrics=None, steps=STEPS, **args):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)

    def build(kind, args):
        if kind in ("SequentialLR", "ChainedScheduler"):
            parts = [build(part["scheduler"], part["args"]) for part in args["schedulers"]]
            if kind == "ChainedScheduler":
                return lr_scheduler.ChainedScheduler(parts)
            return lr_scheduler.SequentialLR(optimizer, parts, args["milestones"])
        if kind == "MultiplicativeLR":
            return lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: args["factor"] ** epoch)
        if "scale_fn" in args:
            args = {**args, "scale_fn": SCALES[args["scale_fn"]]}
        return getattr(lr_scheduler if kind != "SWALR" else swa_utils, kind)(optimizer, **args)

    scheduler = build(kind, args)
    group = optimizer.param_groups[0]
    lrs, momenta = [float(group["lr"])], [float(group["momentum"])]
    for step in range(steps):
        optimizer.step()
        scheduler.step(*([metrics[step]] if metrics else []))
        lrs.append(float(group["lr"]))
        momenta.append(float(group["momentum"]))
    case = {"name": name, "scheduler": kind, "lr": lr, "args": plain(args), "lrs": lrs}
    if kind in ("OneCycleLR", "CyclicLR"):
        case["momentums"] = momenta
    if metrics:
        case["metrics"] = plain(metrics)
    cases.append(case)


schedule("step", "StepLR", step_size=7)
schedule("step_gamma", "StepLR", step_size=1, gamma=0.9)
schedule("multi_step", "MultiStepLR", milestones=[5, 12, 20], gamma=0.5)
schedule("multi_step_repeated", "MultiStepLR", milestones=[10, 10, 3])
schedule("exponential", "ExponentialLR", gamma=0.95)
schedule("cosine", "CosineAnnealingLR", T_max=30)
schedule("cosine_eta_min", "CosineAnnealingLR", T_max=30, eta_min=0.01)
schedule("cosine_past_end", "CosineAnnealingLR", T_max=8, eta_min=0.001)
schedule("linear", "LinearLR")
schedule("linear_args", "LinearLR", start_factor=0.1, end_factor=0.7, total_iters=12)
schedule("constant", "ConstantLR", factor=0.25, total_iters=6)
for name, start, warm, rest in [("warmup_cosine", 0.1, 5, 25), ("warmup_cosine_short", 0.01, 10, 10)]:
    schedule(name, "SequentialLR", milestones=[warm], schedulers=[
        {"scheduler": "LinearLR", "args": {"start_factor": start, "end_factor": 1.0, "total_iters": warm}},
        {"scheduler": "CosineAnnealingLR", "args": {"T_max": rest, "eta_min": 0.001}},
    ])
schedule("constant_exponential", "SequentialLR", milestones=[4, 10], schedulers=[
    {"scheduler": "ConstantLR", "args": {"factor": 0.5, "total_iters": 4}},
    {"scheduler": "ExponentialLR", "args": {"gamma": 0.9}},
    {"scheduler": "StepLR", "args": {"step_size": 5, "gamma": 0.5}},
])
for strategy in ["cos", "linear"]:
    for three_phase in [False, True]:
        name = f"one_cycle_{strategy}{'_three_phase' if three_phase else ''}"
        schedule(name, "OneCycleLR", steps=29, max_lr=0.5, total_steps=30, anneal_strategy=strategy, three_phase=three_phase)
schedule("one_cycle_args", "OneCycleLR", max_lr=0.5, epochs=5, steps_per_epoch=7, pct_start=0.4, div_factor=10.0,
         final_div_factor=100.0, base_momentum=0.8, max_momentum=0.99)
schedule("one_cycle_no_momentum", "OneCycleLR", steps=29, max_lr=0.5, total_steps=30, cycle_momentum=False)

for name, args in [("", {}), ("_long", {"total_iters": 40, "power": 0.5}), ("_power", {"total_iters": 12, "power": 2.5})]:
    schedule(f"polynomial{name}", "PolynomialLR", **args)
schedule("multiplicative", "MultiplicativeLR", factor=0.98)
for name, args in [("", {"T_0": 7}), ("_mult", {"T_0": 3, "T_mult": 2, "eta_min": 0.01}), ("_one", {"T_0": 1, "T_mult": 3})]:
    schedule(f"warm_restarts{name}", "CosineAnnealingWarmRestarts", **args)
for name, args in [
    ("triangular", {"step_size_up": 4}),
    ("triangular2", {"step_size_up": 3, "step_size_down": 5, "mode": "triangular2"}),
    ("exp_range", {"step_size_up": 4, "mode": "exp_range", "gamma": 0.95, "base_momentum": 0.7, "max_momentum": 0.99}),
    ("no_momentum", {"step_size_up": 4, "cycle_momentum": False}),
    ("per_cycle", {"step_size_up": 3, "scale_fn": "inverse", "scale_mode": "cycle"}),
    ("per_step", {"step_size_up": 3, "scale_fn": "wave", "scale_mode": "iterations"}),
    ("defaults", {}),
]:
    schedule(f"cyclic_{name}", "CyclicLR", base_lr=0.01, max_lr=0.3, **args)
schedule("chained", "ChainedScheduler", schedulers=[
    {"scheduler": "ConstantLR", "args": {"factor": 0.1, "total_iters": 2}},
    {"scheduler": "ExponentialLR", "args": {"gamma": 0.9}},
    {"scheduler": "StepLR", "args": {"step_size": 5, "gamma": 0.5}},
])
for name, args in [("", {}), ("_linear", {"anneal_strategy": "linear", "anneal_epochs": 6}), ("_at_once", {"anneal_epochs": 0})]:
    schedule(f"swa{name}", "SWALR", swa_lr=0.02, **args)

# A loss that falls, stalls, falls a little, stalls again and rises.
FALLING = [1.0, 0.8, 0.7, 0.65, 0.65, 0.66, 0.65, 0.65, 0.65, 0.6, 0.5999, 0.5998, 0.5997, 0.5996, 0.5995,
           0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]
RISING = [1 - value / 2 for value in FALLING]
SHIFTED = [value - 0.7 for value in FALLING]
assert len(FALLING) == STEPS
for name, metrics, args in [
    ("plateau_defaults", FALLING, {}),
    ("plateau_patience", FALLING, {"patience": 2}),
    ("plateau_max", RISING, {"mode": "max", "factor": 0.5, "patience": 2}),
    ("plateau_rel", FALLING, {"patience": 1, "threshold": 0.05, "threshold_mode": "rel"}),
    ("plateau_rel_negative", SHIFTED, {"patience": 1, "threshold": 0.05, "threshold_mode": "rel"}),
    ("plateau_abs", FALLING, {"patience": 1, "threshold": 0.04, "threshold_mode": "abs"}),
    ("plateau_max_abs", RISING, {"mode": "max", "patience": 1, "threshold": 0.02, "threshold_mode": "abs"}),
    ("plateau_cooldown", FALLING, {"patience": 1, "factor": 0.5, "cooldown": 3}),
    ("plateau_min_lr", FALLING, {"patience": 0, "factor": 0.5, "min_lr": 0.01}),
    ("plateau_eps", FALLING, {"patience": 0, "factor": 0.5, "eps": 0.01}),
    ("plateau_zero_threshold", FALLING, {"patience": 2, "threshold": 0.0}),
    ("plateau_nan", [1.0, math.nan] * 5 + FALLING[:20], {"patience": 3}),
]:
    schedule(name, "ReduceLROnPlateau", metrics=metrics, **args)

write_json("schedulers.json", {"cases": cases}, len(cases))
