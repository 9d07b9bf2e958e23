"""The workloads in PyTorch; started by `compare.py`, which sends the same lines as to `benches/turns/mod.rs`.

    pytorch.py cpu|cuda [--compile]

The settings are those of `benches/settings/mod.rs`, from the same variables, and are printed to standard error with
PyTorch's own: KILN_BENCH_PRECISION is `f32`, `tf32` or `bf16` (parameters in f32, and `torch.autocast`), KILN_BENCH_BENCHMARK
`off` or `on`.
"""

import os
import sys
import time

import torch
from torch import nn

DEVICE = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
COMPILE = "--compile" in sys.argv
PRECISION = os.environ.get("KILN_BENCH_PRECISION", "f32").split(",")[0]
PRECISIONS = {
    "f32": "f32",
    "tf32": "tf32",
    "bf16": "f32 parameters, autocast to bf16, channels-last",
}
BENCHMARK = os.environ.get("KILN_BENCH_BENCHMARK", "off").split(",")[0]


def apply_settings():
    if PRECISION not in PRECISIONS or BENCHMARK not in ("off", "on"):
        sys.exit(f"KILN_BENCH_PRECISION={PRECISION}, KILN_BENCH_BENCHMARK={BENCHMARK}: unknown")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    # Products and convolutions alike: PyTorch allows TF32 in convolutions unless it is told not to.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISION == "tf32"
    torch.backends.cudnn.benchmark = BENCHMARK == "on"
    settings = {
        "PyTorch": torch.__version__,
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "mode": "torch.compile" if COMPILE else "eager",
        "precision": PRECISIONS[PRECISION],
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "clock": "CUDA events" if DEVICE.type == "cuda" else "the host's",
    }
    print("; ".join(f"{name}: {value}" for name, value in settings.items()), file=sys.stderr, flush=True)


def mlp():
    layers = [nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), (1, 28, 28)


def lenet():
    convs = [nn.Conv2d(1, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    convs += [nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
    head = [nn.Linear(400, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Linear(84, 10)]
    return nn.Sequential(*convs, *head), (1, 32, 32)


def vgg16():
    """torchvision's, whose import would count as memory."""
    layers, c = [], 3
    for o, count in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(count):
            layers += [nn.Conv2d(c, o, 3, padding=1), nn.ReLU(inplace=True)]
            c = o
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(25088, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    layers += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers), (3, 224, 224)


class BasicBlock(nn.Module):
    def __init__(self, c, o, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, o, 3, stride, padding=1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, padding=1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity()
        if stride != 1 or c != o:
            self.downsample = nn.Sequential(nn.Conv2d(c, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


def resnet18():
    """torchvision's, as above."""
    layers = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, padding=1))
    for c, o, stride in [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]:
        layers += [BasicBlock(c, o, stride), BasicBlock(o, o, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers), (3, 224, 224)


class LstmClassifier(nn.Module):
    def __init__(self, width=256, layers=2, classes=10):
        super().__init__()
        self.lstm, self.head = nn.LSTM(width, width, layers), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.lstm(x)[0][-1])


class Gpt(nn.Module):
    def __init__(self, symbols=256, context=128, layers=4, heads=4, width=256):
        super().__init__()
        self.symbols, self.positions = nn.Embedding(symbols, width), nn.Embedding(context, width)
        options = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        blocks = [nn.TransformerEncoderLayer(width, heads, 4 * width, **options) for _ in range(layers)]
        self.blocks, self.norm, self.head = nn.ModuleList(blocks), nn.LayerNorm(width), nn.Linear(width, symbols)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        x = self.symbols(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            x = block(x, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(x)).flatten(0, 1)


class Attention(nn.Module):
    def __init__(self, batch):
        super().__init__()
        drawn = [nn.Parameter(torch.randn(batch, 8, 4096, 64)) for _ in range(3)]
        self.query, self.key, self.value = drawn

    def forward(self, _):
        return nn.functional.scaled_dot_product_attention(self.query, self.key, self.value)


def sequences(name, batch):
    """A model over sequences, its input and its target, as in `benches/sequences/mod.rs`."""
    if name == "lstm":
        return LstmClassifier(), torch.rand(64, batch, 256), torch.randint(0, 10, (batch,))
    if name == "gpt":
        return Gpt(), torch.randint(0, 256, (batch, 128)), torch.randint(0, 256, (batch * 128,))
    return Attention(batch), torch.zeros(()), torch.rand(batch, 8, 4096, 64)


def images(name, batch):
    """A model of images, its input and its target."""
    model, image = {"mlp": mlp, "lenet": lenet, "vgg16": vgg16, "resnet18": resnet18}[name]()
    return model, torch.rand(batch, *image), torch.randint(0, 10, (batch,))


def workload(name, batch):
    torch.manual_seed(0)
    network = name.split("-")[0]
    model, x, y = (sequences if network in ["lstm", "gpt", "attention"] else images)(network, batch)
    model, x, y = model.to(DEVICE), x.to(DEVICE), y.to(DEVICE)
    training, autocast = name.endswith("train"), PRECISION == "bf16"
    if autocast and x.is_floating_point():
        x = x.to(torch.bfloat16)
    if autocast and x.dim() == 4:
        model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    if not training:
        model.eval()
    forward = torch.compile(model) if COMPILE else model

    def logits():
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
            return forward(x)

    if not training:

        def step():
            with torch.inference_mode():
                logits()

        return step
    loss_fn = nn.MSELoss() if network == "attention" else nn.CrossEntropyLoss()
    rule = torch.optim.AdamW if network == "gpt" else torch.optim.SGD
    optimizer = rule(model.parameters(), lr=1e-3)

    def step():
        # In half precision the network, not the loss.
        loss = loss_fn(logits().float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def wait():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(step, steps):
    """Milliseconds of a step: on a GPU between two events, on the CPU by the host's clock."""
    if DEVICE.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / steps
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) * 1e3 / steps


def serve():
    key, step = None, None
    for line in sys.stdin:
        if line.strip() == "memory":
            known = DEVICE.type == "cuda"
            print(torch.cuda.max_memory_allocated() / 2**20 if known else "unknown", flush=True)
            continue
        name, batch, steps = line.split()
        try:
            if key != (name, batch):
                step = None  # before the next is made: both might not fit into memory
                key, step = (name, batch), workload(name, int(batch))
                step()  # makes what is made once, of which memory does not count
                wait()
                if DEVICE.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
            step()  # wakes the threads
            wait()
            print(timed(step, int(steps)), flush=True)
        except Exception as error:  # as the other programs: what fails is an answer
            key, step = None, None
            print(f"error: {type(error).__name__}: {error}".splitlines()[0], flush=True)


apply_settings()
serve()
