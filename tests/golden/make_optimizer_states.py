"""Writes pth/optimizers/: the states after three steps of the optimizers that make_checkpoints.py does not cover, and in
more_expected.safetensors the parameters after three more steps."""

import os

import torch
from safetensors.torch import save_file

OPTIM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pth", "optimizers")
kinds = {
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=0.5, rho=0.8, weight_decay=0.01),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, weight_decay=0.1, eps=(None, 0.01)),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.05, betas=(0.8, 0.95)),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.05, t0=2, lambd=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.05, betas=(0.8, 0.9)),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.05, etas=(0.4, 1.5)),
    "muon": lambda p: torch.optim.Muon(list(p)[:1], lr=0.05, ns_steps=6, adjust_lr_fn="match_rms_adamw"),
}
runs = {}
for name, make in kinds.items():
    torch.manual_seed(1)
    net = torch.nn.Linear(3, 2)
    inputs, targets = torch.randn(4, 3), torch.randn(4, 2)
    optimizer = make(net.parameters())

    def steps(count):
        for _ in range(count):
            optimizer.zero_grad()
            ((net(inputs) - targets) ** 2).mean().backward()
            optimizer.step()

    steps(3)
    file = os.path.join(OPTIM, f"{name}.pth")
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    steps(3)
    runs |= {f"{name}/inputs": inputs, f"{name}/targets": targets}
    runs |= {f"{name}/{key}": value.detach().clone() for key, value in net.state_dict().items()}
file = os.path.join(OPTIM, "more_expected.safetensors")
save_file(runs, file)
os.chmod(file, 0o644)
