"""Writes autograd.json: names of backward nodes, and what the autograd tutorial computes.

`grad_fns` holds, for Python expressions over the tensors listed in `names`, the name of the
result's grad_fn (null: none); of a tuple, that of its first element. `tutorial` holds the tutorial's
tensors, and `errors` the messages of calls that raise.
"""

import torch
import torch.nn.functional as F

from golden import b8, f32, f64, i64, write_json

torch.manual_seed(0)

# Every floating tensor requires a gradient, except `c` and `target`.
DECLARED = {
    "x": "torch.rand(3, 4)", "y": "torch.rand(3, 4)", "s": "torch.rand(3, 3)", "m": "torch.rand(4, 2)", "v": "torch.rand(4)",
    "u": "torch.rand(4)", "z": "torch.rand(())", "b": "torch.rand(2, 3, 4)", "d": "torch.rand(2, 4, 5)", "W": "torch.rand(2, 4)",
    "bias": "torch.rand(2)", "one": "torch.rand(1, 3, 1)",
}
OTHERS = {
    "c": "torch.rand(3, 4)", "target": "torch.rand(3, 4)", "labels": "torch.tensor([0, 1, 2])", "i": "torch.tensor([0, 2])",
    "I": "torch.zeros(3, 2, dtype=torch.int64)", "mask": "torch.rand(3, 4) > 0.5",
}
EXPRESSIONS = """
x
x.detach()
x + y
x + 1
1 + x
x + c
c + c
x - y
x - 1
1 - x
x * y
x * 2
2 * x
x / y
x / 2
1 / x
-x
x ** 2
x ** 2.0
x ** y
2 ** x
x ** 0
x % 2
x // 2
x @ m
x @ v
v @ m
v @ u
b @ d
b @ m
x @ d
b @ v
b @ b.transpose(1, 2)
torch.matmul(x, m)
torch.mm(x, m)
torch.bmm(b, d)
torch.mv(x, v)
torch.dot(v, u)
torch.outer(v, u)
torch.addmm(bias, x, m)
x.pow(2)
x.square()
x.sum()
x.sum(0)
x.sum((0, 1))
x.sum(dim=1, keepdim=True)
x.mean()
x.mean(0)
x.mean(dim=(0, 1))
x.prod()
x.prod(0)
x.var()
x.var(0)
x.std()
x.std(0)
x.max()
x.min()
x.max(0)
x.min(0)
x.max(0).values
x.amax(0)
x.amin()
x.argmax()
torch.max(x, y)
torch.min(x, y)
torch.maximum(x, y)
torch.minimum(x, y)
x.norm()
x.norm(p=1)
x.norm(dim=1)
torch.norm(x)
torch.linalg.norm(x)
torch.linalg.vector_norm(x)
x.logsumexp(1)
x.cumsum(0)
x.relu()
torch.relu(x)
F.relu(x)
F.relu(x, inplace=False)
x.sigmoid()
x.tanh()
F.gelu(x)
F.gelu(x, approximate='tanh')
F.silu(x)
F.elu(x)
F.leaky_relu(x)
F.softplus(x)
x.softmax(1)
F.softmax(x, dim=1)
F.log_softmax(x, dim=1)
x.exp()
x.log()
x.log1p()
x.sqrt()
x.rsqrt()
x.reciprocal()
x.sin()
x.cos()
x.abs()
x.neg()
x.sign()
x.floor()
x.round()
x.clamp(0, 1)
x.clamp(min=0)
x.clamp(min=y)
x.view(4, 3)
x.view(-1)
x.reshape(4, 3)
x.reshape(3, 4)
x.t().reshape(3, 4)
x.t().reshape(-1)
x.flatten()
b.flatten(1)
v.flatten()
x.t().flatten()
x.t()
x.T
x.mT
v.t()
x.transpose(0, 1)
x.permute(1, 0)
x.contiguous()
x.t().contiguous()
x.squeeze()
one.squeeze(0)
one.squeeze((0, 2))
x.unsqueeze(0)
x.expand(2, 3, 4)
z.expand(2)
torch.broadcast_to(v, (3, 4))
torch.cat([x, y])
torch.stack([x, y])
x.chunk(2)
x.split(2)
x.split([1, 2])
x.unbind(0)
x[0]
x[0, 1]
x[:, 1]
x[1:]
x[:]
x[...]
x[:, ::2]
x[None]
x[..., 0]
x[i]
x[:, i]
x[mask]
x.select(0, 1)
x.narrow(1, 0, 2)
x.index_select(0, i)
x.gather(1, I)
x.take_along_dim(I, 1)
x.scatter(1, I[:, :1], y)
x.scatter(1, I[:, :1], 1.0)
x.scatter_add(1, I, y)
x.masked_fill(mask, 0.0)
x.masked_select(mask)
torch.where(mask, x, y)
torch.where(mask, x, 0.0)
x.clone()
x.sort()
x.sort().values
x.topk(2)
x.flip(0)
x.roll(1, 0)
x.roll(1)
x.repeat(2, 1)
x.tril()
x.triu()
s.diag()
v.diag()
s.diagonal()
s.trace()
torch.einsum('ij,jk->ik', x, m)
torch.einsum('bij,bjk->bik', b, d)
torch.einsum('ij->ji', x)
torch.einsum('ii->i', s)
torch.einsum('ii->', s)
torch.einsum('i,j->ij', v, u)
F.linear(x, W)
F.linear(x, W, bias)
F.linear(v, W)
F.linear(v, W, bias)
F.linear(b, W)
F.linear(b, W, bias)
torch.nn.Linear(4, 2)(x)
torch.nn.Linear(4, 2)(b)
torch.nn.Flatten()(b)
torch.nn.Flatten()(x)
torch.nn.Identity()(x)
torch.nn.Linear(4, 2).weight
F.binary_cross_entropy_with_logits(x, target)
F.binary_cross_entropy(x, target)
F.cross_entropy(x, labels)
F.cross_entropy(x, labels, label_smoothing=0.1)
F.cross_entropy(x, target)
F.cross_entropy(x, labels, reduction='none')
F.cross_entropy(x, labels, reduction='sum')
F.nll_loss(x, labels)
F.nll_loss(x, labels, reduction='none')
F.mse_loss(x, target)
F.mse_loss(x, target, reduction='none')
F.l1_loss(x, target)
F.smooth_l1_loss(x, target)
F.huber_loss(x, target)
F.dropout(x, 0.5)
F.dropout(x, 0.5, training=False)
F.dropout(x, 0.0)
F.layer_norm(x, (4,))
F.embedding(i, x)
F.one_hot(i)
x.to(torch.float64)
x.to(torch.float32)
x.double()
x.float()
x.half()
x.to(torch.int64)
x == y
x > 0
x.requires_grad_()
x.data
torch.zeros_like(x)
torch.ones(2, requires_grad=True)
x.clone().add_(1)
x.clone().mul_(2)
x.clone().sub_(y)
x.clone().div_(2)
x.clone().neg_()
x.clone().exp_()
x.clone().relu_()
x.clone().zero_()
x.clone().fill_(1.0)
x.clone().copy_(y)
x.clone().clamp_(0, 1)
x.clone().pow_(2)
x.clone().masked_fill_(mask, 0.0)
x.clone().squeeze_()
x.clone().t_()
x.clone().detach_()
torch.zeros(3, 4).add_(x)
torch.zeros(3, 4).copy_(x)
""".split("\n")[1:-1]

ERRORS = """
x.backward()
x.sum().detach().backward()
c.sum().backward()
torch.tensor([1, 2], requires_grad=True)
x.add_(1)
x.view(4, 3).add_(1)
x.numpy()
x.t().view(12)
x.reshape(5)
x.view(5, -1)
x @ x
torch.bmm(x, x)
torch.mm(b, m)
torch.dot(v, bias)
x + m
torch.cat([x, m])
torch.stack([x, m])
x.sum(2)
x[3]
x[0, 4]
x[0, 0, 0]
x.expand(2, 2)
x.squeeze(3)
x.item()
bool(x)
torch.tensor([1, 2]).mean()
F.cross_entropy(x, torch.tensor([0, 1]))
F.cross_entropy(x, torch.tensor([0, 1, 9]))
F.nll_loss(x, torch.tensor([0.0, 1.0, 2.0]))
F.binary_cross_entropy_with_logits(x, target[0])
F.linear(x, m)
x.transpose(0, 2)
x.permute(0, 0)
x.index_select(0, torch.tensor([5]))
x.gather(1, torch.zeros(4, 2, dtype=torch.int64))
torch.empty(0).max()
torch.empty(0).argmax()
F.one_hot(torch.tensor([-1]))
x.chunk(0)
x.split([1, 1])
x.topk(5)
torch.einsum('ij,jk->ik', x, x)
torch.tensor([1, 2]).clone().add_(0.5)
torch.tensor([1, 2]) ** -1
torch.tensor([1.0]) - torch.tensor([True])
torch.tensor([True]) - torch.tensor([True])
-torch.tensor([True])
torch.nn.Linear(4, 2)(m)
torch.optim.SGD([], lr=0.1)
torch.optim.SGD([x], lr=-1)
torch.optim.SGD([x], lr=0.1, nesterov=True)
torch.optim.SGD([x * 2], lr=0.1)
torch.optim.Adam([x], betas=(1.0, 0.9))
torch.nn.Dropout(1.5)
(lambda y: (y.sum().backward(), y.sum().backward()))(x * 2)
(lambda y: (y.backward(), y.backward()))((x * x).sum())
(lambda a: (a.exp_(), a.sum().backward()))(x.sigmoid())
(x * 2).backward(torch.ones(2))
torch.autograd.grad(x.sum(), y)
""".split("\n")[1:-1]


def scope():
    torch.manual_seed(0)
    names = {"torch": torch, "F": F}
    for name, code in DECLARED.items():
        names[name] = eval(code, names).requires_grad_()
    for name, code in OTHERS.items():
        names[name] = eval(code, names)
    return names


def grad_fn(expr):
    value = eval(expr, scope())
    value = value if isinstance(value, torch.Tensor) else value[0]
    return type(value.grad_fn).__name__ if value.grad_fn else None


def error(expr):
    try:
        value = eval(expr, scope())
    except Exception as raised:
        return {"expr": expr, "error": type(raised).__name__, "message": str(raised)}
    raise AssertionError(f"{expr} gave {value}")


def tutorial():
    """The figures that https://docs.pytorch.org/tutorials/beginner/basics/autogradqs_tutorial.html prints."""
    x, y = torch.ones(5), torch.zeros(3)
    w, b = torch.randn(5, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    z = torch.matmul(x, w) + b
    loss = F.binary_cross_entropy_with_logits(z, y)
    loss.backward()
    result = {
        "one_layer": {
            "w": w.tolist(), "b": b.tolist(), "z": z.tolist(), "loss": loss.item(), "z_grad_fn": type(z.grad_fn).__name__,
            "loss_grad_fn": type(loss.grad_fn).__name__, "w_grad": w.grad.tolist(), "b_grad": b.grad.tolist(),
            "w_grad_repr": repr(w.grad), "b_grad_repr": repr(b.grad),
        }
    }
    with torch.no_grad():
        inside = torch.matmul(x, w) + b
    result["requires_grad"] = {
        "z": z.requires_grad, "no_grad": inside.requires_grad, "detach": z.detach().requires_grad, "again": (torch.matmul(x, w) + b).requires_grad,
    }

    for key, shape in [("eye_4_5", (4, 5)), ("eye_5", (5, 5))]:
        inp = torch.eye(*shape, requires_grad=True)
        out = (inp + 1).pow(2).t()
        grads = []
        for call in range(3):
            if call == 2:
                inp.grad.zero_()
            out.backward(torch.ones_like(out), retain_graph=True)
            grads.append(inp.grad.clone())
        result[key] = {
            "expr": "(inp + 1).pow(2).t().backward(ones_like, retain_graph=True)", "first": grads[0].tolist(), "second": grads[1].tolist(),
            "after_zeroing": grads[2].tolist(), "first_repr": repr(grads[0]), "second_repr": repr(grads[1]), "after_zeroing_repr": repr(grads[2]),
            "out_grad_fn": type(out.grad_fn).__name__,
        }

    inp = torch.eye(5, requires_grad=True)
    (1 / (inp + 1) ** 2).sum().backward()
    result["reciprocal_eye_5"] = {"expr": "(1 / (inp + 1) ** 2).sum().backward()", "grad": inp.grad.tolist(), "repr": repr(inp.grad)}

    ones = torch.ones(2, 2, requires_grad=True)
    grads = []
    for _ in range(2):
        ones.sum().backward()
        grads.append(ones.grad.tolist())
    result["ones_accumulate"] = {"expr": "ones(2, 2).sum().backward() twice", "first": grads[0], "second": grads[1]}

    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    q = 3 * a**3 - b**2
    q.backward(gradient=torch.tensor([1.0, 1.0]))
    result["polynomial"] = {"expr": "q = 3 * a**3 - b**2, with gradient ones", "a": a.tolist(), "b": b.tolist(), "q_repr": repr(q), "a_grad": a.grad.tolist(), "b_grad": b.grad.tolist()}

    a = torch.tensor(2.0, requires_grad=True)
    first = torch.autograd.grad(a**3, a, create_graph=True)[0]
    second = torch.autograd.grad(first, a, create_graph=True)[0]
    third = torch.autograd.grad(second, a)[0]
    result["higher_order"] = {"expr": "d/da a**3 at 2, three times", "derivatives": [first.item(), second.item(), third.item()], "first_requires_grad": first.requires_grad}
    return result


def facts():
    """Whether gradients are kept, and where."""
    leaf = torch.ones(2, requires_grad=True)
    middle = leaf * 2
    kept = middle * 3
    kept.retain_grad()
    kept.sum().backward()
    return {
        "leaf_is_leaf": leaf.is_leaf, "middle_is_leaf": middle.is_leaf, "no_grad_tensor_is_leaf": torch.ones(2).is_leaf,
        "detached_is_leaf": middle.detach().is_leaf, "leaf_grad": leaf.grad.tolist(), "retained_grad": kept.grad.tolist(),
        "detach_shares_storage": middle.detach().data_ptr() == middle.data_ptr(),
        "next_functions_of_add": [type(f[0]).__name__ for f in (leaf * 2 + leaf).grad_fn.next_functions],
        "accumulate_name": type((leaf + 1).grad_fn.next_functions[0][0]).__name__,
    }


grad_fns = {expr: grad_fn(expr) for expr in EXPRESSIONS}
errors = [error(expr) for expr in ERRORS]
write_json(
    "autograd.json",
    {"names": {**DECLARED, **OTHERS}, "grad_fns": grad_fns, "tutorial": tutorial(), "facts": facts(), "errors": errors},
    len(grad_fns) + len(errors),
)
