#!/usr/bin/env python3
"""Computes how data parallel training scales on GPUs that are not here: the tables of docs/distributed.md.

    python3 scripts/scaling_model.py            # prints them
    python3 scripts/scaling_model.py --check    # compares them with the document, and fails if they differ

A step is its forward and backward pass on one GPU, layer by layer, and one all-reduce per bucket. Buckets are those of
`DistributedDataParallel` (crates/distributed/src/ddp/bucket.rs). An all-reduce begins when the bucket's last gradient is
there and the one before it is done; it moves 2 (n - 1) / n times the bucket over a rank's link.
"""

import argparse
import math
import pathlib
import sys

DOCUMENT = pathlib.Path(__file__).parent.parent / "docs" / "distributed.md"

MIB = 1 << 20
FIRST_BUCKET, OTHER_BUCKETS = 1 * MIB, 25 * MIB
BATCH = 256

# Seconds from the launch of an all-reduce to its first byte, and what goes around the ring or tree once: nccl-tests reports
# 20 to 50 µs for small messages between 8 GPUs, and more between nodes.
LATENCY_NODE, LATENCY_NODES = 30e-6, 60e-6

# name, ranks, bus bandwidth in bytes/s, latency. 480 and 370 GB/s: https://github.com/NVIDIA/nccl-tests/issues/212. The
# adapters: 94 % of 400 Gb/s, 88 % of 100 Gb/s, shared by a node's GPUs, whose own reduction is hidden behind it.
LINKS = [
    ("8 H100, NVLink 4, reduction in the switches", 8, 480e9, LATENCY_NODE),
    ("8 H100, NVLink 4", 8, 370e9, LATENCY_NODE),
    ("4 nodes of 8, a 400 Gb/s InfiniBand adapter a GPU", 32, 370e9, LATENCY_NODES),
    ("4 nodes of 8, one 400 Gb/s adapter a node", 32, 47e9, LATENCY_NODES),
    ("4 nodes of 8, 100 Gb/s Ethernet", 32, 11e9, LATENCY_NODES),
]


def vgg16():
    """Layers of VGG16 in forward order: the elements of each parameter, and the share of the time, by multiply-adds."""
    layers, channels, side = [], 3, 224
    for width, convolutions in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]:
        for _ in range(convolutions):
            layers.append(([width * channels * 9, width], width * channels * 9 * side * side))
            channels = width
        side //= 2
    for features, outputs in [(512 * 7 * 7, 4096), (4096, 4096), (4096, 1000)]:
        layers.append(([features * outputs, outputs], features * outputs))
    return layers


def resnet50():
    """Layers of ResNet-50 in forward order, with the time by the values of their outputs: its step is bound by memory."""
    layers = []

    def convolution(inputs, outputs, kernel, side):
        layers.append(([outputs * inputs * kernel * kernel, outputs, outputs], outputs * side * side))

    convolution(3, 64, 7, 112)
    channels, side = 64, 56
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(blocks):
            before = side
            if stage > 0 and block == 0:
                side //= 2
            convolution(channels, width, 1, before)
            convolution(width, width, 3, side)
            convolution(width, 4 * width, 1, side)
            if block == 0:
                convolution(channels, 4 * width, 1, side)
            channels = 4 * width
    layers.append(([channels * 1000, 1000], 1000))
    return layers


# name, layers, seconds of a step on one H100: VGG16 by 60 % of the 989 TFLOP/s of bf16, at three times the forward pass's
# 15.5 G multiply-adds an image; ResNet-50 at 3,000 images/s, which is assumed.
NETWORKS = [
    ("VGG16", vgg16(), 3 * 2 * 15.47e9 * BATCH / (0.6 * 989e12)),
    ("ResNet-50", resnet50(), BATCH / 3000),
]


def buckets(layers):
    """The bytes of each bucket, with the layer whose gradient completes it."""
    made, bytes_now = [], 0
    for layer in reversed(range(len(layers))):
        for elements in reversed(layers[layer][0]):
            bytes_now += math.ceil(elements * 4 / 64) * 64
            if bytes_now >= (OTHER_BUCKETS if made else FIRST_BUCKET):
                made.append((bytes_now, layer))
                bytes_now = 0
    if bytes_now:
        made.append((bytes_now, 0))
    return made


def step(layers, compute, ranks, bandwidth, latency, gradient_bytes=4):
    """The seconds of a step, those that all-reduces take in all, and those in which only they run."""
    forward, backward = compute / 3, compute * 2 / 3
    total = sum(time for _, time in layers)
    arrives, now = {}, forward
    for layer in reversed(range(len(layers))):
        now += backward * layers[layer][1] / total
        arrives[layer] = now
    end = busy = 0.0
    for size, layer in buckets(layers):
        takes = latency + 2 * (ranks - 1) / ranks * size * gradient_bytes / 4 / bandwidth
        end = max(end, arrives[layer]) + takes
        busy += takes
    return max(end, compute), busy, max(end - compute, 0.0)


def tables():
    """The tables, in Markdown."""
    lines = ["| network | gradients | buckets | compute | of it backward |", "| --- | --- | --- | --- | --- |"]
    for name, layers, compute in NETWORKS:
        made = buckets(layers)
        size = sum(size for size, _ in made)
        lines.append(
            f"| {name} | {size / MIB:.0f} MiB | {len(made)}, the last {made[-1][0] / MIB:.1f} MiB "
            f"| {compute * 1e3:.0f} ms | {compute * 2e3 / 3:.0f} ms |"
        )
    columns = "".join(f" {name}: all-reduces | not hidden | efficiency |" for name, _, _ in NETWORKS)
    lines += ["", f"| link |{columns}", "| --- |" + " --- | --- | --- |" * len(NETWORKS)]
    for name, ranks, bandwidth, latency in LINKS:
        cells = ""
        for _, layers, compute in NETWORKS:
            time, busy, exposed = step(layers, compute, ranks, bandwidth, latency)
            cells += f" {busy * 1e3:.1f} ms | {exposed * 1e3:.2f} ms | {compute / time:.1%} |"
        lines.append(f"| {name} |{cells}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the tables with docs/distributed.md")
    text = tables()
    if not parser.parse_args().check:
        print(text)
        _, layers, compute = NETWORKS[0]
        _, ranks, bandwidth, latency = LINKS[-1]
        halved = compute / step(layers, compute, ranks, bandwidth, latency, gradient_bytes=2)[0]
        print(f"\nVGG16 on {LINKS[-1][0]} with gradients of 2 bytes: {halved:.1%}")
    elif any(table not in DOCUMENT.read_text() for table in text.split("\n\n")):
        sys.exit(f"{DOCUMENT.name} does not hold these tables:\n{text}")


if __name__ == "__main__":
    main()
