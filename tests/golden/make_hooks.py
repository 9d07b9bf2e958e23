"""Forward hooks of PyTorch: in which order they run, what they see, and the results and gradients where they change
inputs and outputs. Writes hooks.json."""

import torch
from torch import nn

from golden import write_json

torch.manual_seed(0)


def values(tensor):
    return tensor.detach().double().flatten().tolist()


def network():
    features = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
    pooled = nn.Sequential(nn.AvgPool2d((1, 2)), nn.Flatten())
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), features, pooled, nn.Linear(8, 2)).double()


def run(model, x, changes):
    """`changes`: [(path, when, factor, summand)]; a factor of None changes nothing."""
    events = []

    def before(path, factor, summand):
        def hook(module, args):
            events.append(["before", path, type(module).__name__, list(args[0].shape), args[0].sum().item()])
            return None if factor is None else args[0] * factor + summand

        return hook

    def after(path, factor, summand):
        def hook(module, args, out):
            events.append(["after", path, type(module).__name__, list(out.shape), out.sum().item()])
            return None if factor is None else out * factor + summand

        return hook

    handles = []
    for path, when, factor, summand in changes:
        module = model.get_submodule(path)
        if when == "before":
            handles.append(module.register_forward_pre_hook(before(path, factor, summand)))
        else:
            handles.append(module.register_forward_hook(after(path, factor, summand)))
    model.zero_grad()
    x = x.clone().requires_grad_(True)
    out = model(x)
    out.square().sum().backward()
    grads = {name: values(parameter.grad) for name, parameter in model.named_parameters()}
    for handle in handles:
        handle.remove()
    return {"changes": changes, "events": events, "out": values(out), "x_grad": values(x.grad), "grads": grads}


CHANGES = [
    [],
    # Two on each side, in the order of registration.
    [("0", "before", 2, 0), ("0", "before", 1, 3), ("0", "after", -1, 0), ("0", "after", 1, 2)],
    # Layers that are computed together with their neighbors otherwise.
    [("0", "after", None, 0), ("1", "before", 1, -0.1), ("1", "after", 2, 0)],
    [("2.0", "after", 1, 1), ("2.1", "before", 3, 0)],
    [("2.1", "after", 1, 1)],
    [("2.2", "before", 1, -0.5)],
    # Containers, and several at once.
    [("", "before", 0.5, 0), ("", "after", 3, 0), ("2", "after", 1, 1), ("2", "before", 1, 1), ("3", "after", -1, 0)],
]

model = network()
x = torch.randn(2, 1, 2, 3, dtype=torch.float64)
state = {name: values(tensor) for name, tensor in model.state_dict().items() if tensor.dtype == torch.float64}
cases = [run(model, x, changes) for changes in CHANGES]

# Norms of all parameters and of all gradients as one vector, and the order of `apply`.
order = []
model.apply(lambda module: order.append(type(module).__name__))
model.zero_grad()
model(x).square().sum().backward()
norms = {
    str(p): [
        torch.nn.utils.get_total_norm(list(model.parameters()), p).item(),
        torch.nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()], p).item(),
    ]
    for p in (1.0, 2.0, 3.5, float("inf"))
}

write_json("hooks.json", {"x": values(x), "state": state, "cases": cases, "apply": order, "norms": norms}, len(cases))
