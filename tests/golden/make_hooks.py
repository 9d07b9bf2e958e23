"""Hooks of PyTorch's modules: in which order they run, what they see, and the results and gradients where they change inputs,
outputs and gradients. Writes hooks.json."""

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
    """`changes`: [(path, when, factor, summand)]; a factor of None changes nothing. The path "*" stands for all modules."""
    events = []

    def note(when, path, module, tensor, total):
        shape = None if tensor is None else list(tensor.shape)
        events.append([when, path, type(module).__name__, shape, total])

    def hook_of(when, path, factor, summand):
        def changed(tensor):
            return None if factor is None else tensor * factor + summand

        def before(module, args):
            note(when, path, module, args[0], args[0].sum().item())
            return changed(args[0])

        def after(module, args, out):
            note(when, path, module, out, out.sum().item())
            return changed(out)

        def backward_pre(module, grad_output):
            note(when, path, module, grad_output[0], grad_output[0].sum().item())
            return None if factor is None else (changed(grad_output[0]),)

        def backward(module, grad_input, grad_output):
            note(when, path, module, grad_input[0], (grad_input[0].sum() + 10 * grad_output[0].sum()).item())
            return None if factor is None else (changed(grad_input[0]),)

        return {"before": before, "after": after, "backward_pre": backward_pre, "backward": backward}[when]

    METHODS = {
        "before": "forward_pre",
        "after": "forward",
        "backward_pre": "full_backward_pre",
        "backward": "full_backward",
    }
    handles = []
    for path, when, factor, summand in changes:
        hook = hook_of(when, path, factor, summand)
        if path == "*":
            register = getattr(torch.nn.modules.module, f"register_module_{METHODS[when]}_hook")
        else:
            register = getattr(model.get_submodule(path), f"register_{METHODS[when]}_hook")
        handles.append(register(hook))
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
    # Gradients: two hooks on each side, together with hooks of the computation, of layers and of containers.
    [("0", "backward", 2, 0), ("0", "backward", 1, 1), ("0", "backward_pre", 3, 0), ("0", "backward_pre", 1, -1)],
    [("0", "backward", None, 0), ("0", "before", 2, 1), ("0", "after", 3, 0), ("4", "backward", 2, 0)],
    [("1", "backward_pre", 2, 0), ("2.1", "backward", 1, 0.5), ("2.2", "backward", None, 0)],
    [("", "backward", 2, 1), ("", "backward_pre", 1, 1), ("2", "backward", -1, 0), ("3", "backward_pre", None, 0)],
    # Of all modules, before and beside those of one.
    [("*", "before", None, 0), ("*", "after", None, 0)],
    [("1", "after", 1, 1), ("*", "after", 1.5, 0), ("1", "before", 2, 0), ("*", "before", 1, 0.25)],
    [("*", "backward", None, 0), ("*", "backward_pre", None, 0)],
    [("0", "backward", 2, 0), ("*", "backward", 1, 0.5), ("0", "backward_pre", 1, 1), ("*", "backward_pre", 2, 0)],
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
