"""Writes grad_scaler.json: the scale and the parameters after each iteration with torch.amp.GradScaler on the CPU.

A loss is the sum of the products of two parameters and `grads`, so that these are the gradients, as often as `accumulate`
says. Some are infinite or NaN, some overflow f32 only by the scale. With `clip`, gradients are unscaled and clipped to that
norm before the step. A case with two optimizers has a parameter for each; infinities of the first leave the second's step alone.
`restart` is the iteration before which scaler and optimizers are saved, made anew and loaded.
"""

import torch

from golden import inf, nan, plain, write_json

BIG = 1e35  # infinite in f32 times 4096, finite times 2048
PARAMS = [[0.5, -1.0, 2.0], [1.5, 0.25]]
GRADS = [
    [[0.1, -0.2, 0.3], [1.0, 0.5]],
    [[0.2, 0.1, -0.3], [0.5, -0.5]],
    [[BIG, 0.0, 0.1], [0.1, 0.2]],
    [[BIG, 0.5, 0.1], [0.3, 0.2]],
    [[0.3, -0.1, 0.0], [inf, 0.2]],
    [[0.3, 0.2, -0.7], [0.1, 0.9]],
    [[-0.3, 0.1, 0.5], [0.4, -0.9]],
    [[0.6, 0.2, 0.2], [0.2, 0.1]],
    [[nan, 0.2, 0.1], [-inf, 0.3]],
    [[0.1, 0.3, -0.2], [0.7, 0.2]],
    [[0.2, -0.4, 0.1], [0.3, nan]],
    [[0.5, 0.4, 0.3], [0.2, 0.1]],
    [[0.3, -0.2, 0.1], [-0.2, 0.6]],
    [[0.1, 0.3, 0.4], [0.5, 0.2]],
]
cases = []


def run(name, optimizer, scaler=None, clip=None, accumulate=1, apart=False, restart=None, **args):
    scaler_args = {"init_scale": 8192.0, "growth_interval": 3} | (scaler or {})
    params = [torch.tensor(values, requires_grad=True) for values in PARAMS]
    groups = [[param] for param in params] if apart else [params]

    def build():
        return [getattr(torch.optim, optimizer)(group, **args) for group in groups]

    optimizers, scaler = build(), torch.amp.GradScaler("cpu", **scaler_args)
    steps = []
    for number, grads in enumerate(GRADS):
        if number == restart:
            states = [one.state_dict() for one in optimizers], scaler.state_dict()
            optimizers, scaler = build(), torch.amp.GradScaler("cpu")
            scaler.load_state_dict(states[1])
            for one, state in zip(optimizers, states[0]):
                one.load_state_dict(state)
        for one in optimizers:
            one.zero_grad()
        for _ in range(accumulate):
            loss = sum((param * torch.tensor(grad)).sum() for param, grad in zip(params, grads))
            scaler.scale(loss / accumulate).backward()
        for one in optimizers:
            if clip is not None:
                scaler.unscale_(one)
                torch.nn.utils.clip_grad_norm_([p for group in one.param_groups for p in group["params"]], clip)
            scaler.step(one)
        scaler.update()
        tracker = scaler.state_dict()["_growth_tracker"]
        steps.append({"scale": scaler.get_scale(), "tracker": tracker, "params": [p.tolist() for p in params]})
    case = {"name": name, "optimizer": optimizer, "args": args, "scaler": scaler_args, "accumulate": accumulate}
    cases.append(plain(case | {"clip": clip, "apart": apart, "restart": restart, "steps": steps}))


run("sgd", "SGD", lr=0.1)
run("momentum", "SGD", lr=0.1, momentum=0.9, dampening=0.1)
run("momentum_clipped", "SGD", lr=0.1, momentum=0.9, nesterov=True, clip=0.5)
run("adam", "Adam", lr=0.1)
run("adam_clipped", "Adam", lr=0.1, clip=0.3, weight_decay=0.1)
run("adamw_amsgrad", "AdamW", lr=0.05, amsgrad=True, maximize=True)
run("adam_accumulated", "Adam", lr=0.1, accumulate=3)
run("adam_restarted", "Adam", lr=0.1, restart=7)
run("adam_apart", "Adam", lr=0.1, apart=True)
run("rmsprop_apart_clipped", "RMSprop", lr=0.01, centered=True, momentum=0.9, apart=True, clip=1.0)
run("adagrad", "Adagrad", lr=0.1, lr_decay=0.1)
run("adadelta", "Adadelta", lr=1.0, clip=2.0)
run("nadam", "NAdam", lr=0.02)
run("asgd", "ASGD", lr=0.02)
run("rprop_restarted", "Rprop", lr=0.02, restart=5)
run("factors", "SGD", lr=0.1, scaler={"growth_factor": 3.0, "backoff_factor": 0.25, "growth_interval": 2})

write_json("grad_scaler.json", {"initial": PARAMS, "grads": plain(GRADS), "cases": cases})
