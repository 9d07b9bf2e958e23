"""Writes images.safetensors: values and gradients of convolution, pooling, normalization, padding, embedding and resampling."""

import torch
import torch.nn.functional as F

from golden import *


def max_pool2d(x, **args):
    return F.max_pool2d(x, return_indices=True, **args)


def fractional(pool):
    return lambda x, samples, **args: pool(x, _random_samples=samples.detach(), return_indices=True, **args)


def adaptive_max_pool2d(x, output_size):
    return F.adaptive_max_pool2d(x, output_size, return_indices=True)


def batch_norm(x, weight, bias, mean, var, training, momentum, eps):
    """The normalized input, and the running statistics afterwards."""
    mean, var = mean.detach().clone(), var.detach().clone()
    return [F.batch_norm(x, mean, var, weight, bias, training, momentum, eps), mean, var]


OPS = {
    "embedding": F.embedding,
    "embedding_bag": F.embedding_bag,
    "max_pool2d": max_pool2d,
    "adaptive_max_pool2d": adaptive_max_pool2d,
    "fractional_max_pool2d": fractional(F.fractional_max_pool2d),
    "fractional_max_pool3d": fractional(F.fractional_max_pool3d),
    "batch_norm": batch_norm,
    "conv2d_channels_last": lambda x, *rest, **args: F.conv2d(x.contiguous(memory_format=torch.channels_last), *rest, **args),
    "conv2d_transposed": lambda x, *rest, **args: F.conv2d(x.transpose(2, 3), *rest, **args),
    "pad": lambda x, pad, mode, value=0.0: F.pad(x, pad, mode, **({"value": value} if mode == "constant" else {})),
}

s = Suite("images", OPS, no_grad=["mean", "var"])

for name, (x, w, bias, args) in {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), True, {}),
    "padded": ((2, 3, 6, 5), (4, 3, 3, 3), True, {"padding": [1, 2]}),
    "strided": ((1, 2, 9, 8), (3, 2, 3, 2), False, {"stride": [2, 3], "padding": [1, 0]}),
    "dilated": ((1, 2, 9, 8), (3, 2, 3, 2), True, {"dilation": [2, 3]}),
    "groups": ((2, 4, 5, 5), (6, 2, 3, 3), True, {"groups": 2, "padding": [1, 1]}),
    "depthwise": ((2, 4, 5, 5), (8, 1, 3, 3), False, {"groups": 4}),
    "pointwise": ((2, 4, 3, 5), (3, 4, 1, 1), True, {}),
    "empty_batch": ((0, 2, 5, 5), (3, 2, 3, 3), True, {}),
    "unbatched": ((2, 5, 5), (3, 2, 3, 3), True, {}),
}.items():
    inputs = [randn(*x), randn(*w)] + ([randn(w[0])] if bias else [])
    s.run(f"conv2d_{name}", "conv2d", inputs, **args)
    if len(x) == 4:
        s.run(f"conv2d_channels_last_{name}", "conv2d_channels_last", inputs, **args)
s.run("conv2d_transposed", "conv2d_transposed", [randn(1, 2, 5, 7), randn(3, 2, 2, 3), randn(3)], stride=[1, 2])

for name, (x, w, bias, args) in {
    "plain": ((2, 3, 4, 3), (3, 2, 3, 2), True, {}),
    "strided": ((1, 2, 3, 4), (2, 3, 3, 3), True, {"stride": [2, 3], "padding": [1, 1], "output_padding": [1, 2]}),
    "groups": ((1, 4, 3, 3), (4, 2, 2, 3), False, {"groups": 2, "dilation": [2, 1]}),
    "unbatched": ((2, 3, 3), (2, 1, 3, 3), True, {"stride": [2, 2]}),
}.items():
    s.run(f"conv_transpose2d_{name}", "conv_transpose2d", [randn(*x), randn(*w)] + ([randn(w[1] * args.get("groups", 1))] if bias else []), **args)

for name, (x, args) in {
    "plain": ((2, 3, 6, 7), {"kernel_size": [2, 2]}),
    "ceil": ((1, 2, 7, 5), {"kernel_size": [3, 2], "stride": [2, 2], "padding": [1, 1], "ceil_mode": True}),
    "dilated": ((1, 2, 9, 8), {"kernel_size": [3, 2], "stride": [1, 2], "dilation": [2, 3]}),
    "unbatched": ((2, 5, 5), {"kernel_size": [3, 3], "stride": [1, 1]}),
    "empty_batch": ((0, 2, 5, 5), {"kernel_size": [2, 2]}),
}.items():
    s.run(f"max_pool2d_{name}", "max_pool2d", [randn(*x)], **args)
s.run("max_pool2d_ties", "max_pool2d", [const([[[[1.0, 1, 0, nan], [1, 1, nan, 0]]]])], kernel_size=[2, 2], grad=False)

for n, name, x, args in [
    (2, "plain", (2, 3, 7, 6), {"kernel_size": [2, 3], "output_size": [4, 3]}),
    (2, "one_window", (1, 1, 3, 5), {"kernel_size": 2, "output_size": [1, 4]}),
    (2, "unbatched", (2, 9, 9), {"kernel_size": 3, "output_size": 5}),
    (3, "plain", (2, 2, 5, 6, 4), {"kernel_size": [2, 3, 1], "output_size": [3, 2, 3]}),
    (3, "unbatched", (1, 4, 4, 4), {"kernel_size": 2, "output_size": 2}),
]:
    samples = uniform(0.0, 1.0, *([1, x[0]] if len(x) == n + 1 else x[:2]), n)
    s.run(f"fractional_max_pool{n}d_{name}", f"fractional_max_pool{n}d", [randn(*x), samples], **args)

for name, (x, args) in {
    "plain": ((2, 3, 6, 7), {"kernel_size": [2, 3]}),
    "padded": ((1, 2, 7, 5), {"kernel_size": [3, 2], "stride": [2, 1], "padding": [1, 1]}),
    "ceil": ((1, 2, 7, 6), {"kernel_size": [3, 2], "stride": [3, 4], "padding": [1, 1], "ceil_mode": True}),
    "inside": ((1, 2, 7, 6), {"kernel_size": [3, 2], "stride": [3, 4], "padding": [1, 1], "ceil_mode": True, "count_include_pad": False}),
    "divisor": ((2, 5, 5), {"kernel_size": [3, 3], "divisor_override": 4}),
}.items():
    s.run(f"avg_pool2d_{name}", "avg_pool2d", [randn(*x)], **args)

for name, (x, size) in {
    "smaller": ((2, 3, 7, 5), [3, 2]), "larger": ((1, 2, 3, 2), [5, 7]), "equal": ((1, 2, 4, 4), [4, 4]), "unbatched": ((2, 5, 6), [2, 3]),
}.items():
    s.run(f"adaptive_avg_pool2d_{name}", "adaptive_avg_pool2d", [randn(*x)], output_size=size)
    s.run(f"adaptive_max_pool2d_{name}", "adaptive_max_pool2d", [randn(*x)], output_size=size)

for name, x in {"2d": (6, 3), "3d": (2, 3, 4), "4d": (2, 3, 4, 2)}.items():
    for training in [True, False]:
        s.run(
            f"batch_norm_{name}_{'train' if training else 'eval'}", "batch_norm", [randn(*x), randn(3), randn(3)],
            mean=randn(3), var=uniform(0.5, 2, 3), training=training, momentum=0.3, eps=1e-3,
        )
s.run("layer_norm_plain", "layer_norm", [randn(2, 3, 4)], normalized_shape=[4], weight=randn(4), bias=randn(4), eps=1e-3)
s.run("layer_norm_two", "layer_norm", [randn(2, 3, 4)], normalized_shape=[3, 4], weight=randn(3, 4), eps=1e-3)
s.run("group_norm_plain", "group_norm", [randn(2, 6, 3, 2)], num_groups=3, weight=randn(6), bias=randn(6), eps=1e-3)
s.run("group_norm_bare", "group_norm", [randn(2, 4, 5)], num_groups=1, eps=1e-3)

for mode, pad in {"constant": [1, 2, -1, 3], "reflect": [2, 1, 0, 3], "replicate": [2, 1, 4, 0], "circular": [3, 0, 1, 2]}.items():
    s.run(f"pad_{mode}", "pad", [randn(2, 2, 4, 4)], pad=pad, mode=mode, **({"value": 1.5} if mode == "constant" else {}))
s.run("embedding_plain", "embedding", [randint(0, 5, 2, 3), randn(5, 4)])
s.run("embedding_padding", "embedding", [randint(0, 3, 8), randn(3, 2)], padding_idx=1)
for name, (x, w, args) in {
    "output_padding_below_dilation": ((1, 2, 3, 4), (2, 3, 3, 2), {"dilation": [2, 3], "output_padding": [1, 2]}),
    "output_padding_above_stride": ((2, 2, 3, 2), (2, 1, 2, 3), {"stride": [2, 1], "padding": [1, 2], "dilation": [4, 2], "output_padding": [3, 1]}),
}.items():
    s.run(f"conv_transpose2d_{name}", "conv_transpose2d", [randn(*x), randn(*w), randn(w[1])], **args)

for mode in ["bilinear", "bicubic"]:
    for name, size, align_corners in [("smaller", [3, 2], False), ("larger", [8, 9], False), ("mixed", [4, 10], True), ("one", [1, 1], True)]:
        s.run(
            f"interpolate_antialias_{mode}_{name}", "interpolate", [randn(2, 2, 7, 6)],
            size=size, mode=mode, align_corners=align_corners, antialias=True,
        )
    s.run(f"interpolate_antialias_{mode}_factor", "interpolate", [randn(1, 2, 9, 8)], scale_factor=[0.45, 0.3], mode=mode, antialias=True)
for name, theta, size in [("images", (2, 2, 3), [2, 3, 4, 5]), ("volumes", (1, 3, 4), [1, 1, 2, 3, 4]), ("pixel", (2, 2, 3), [2, 1, 1, 3])]:
    for align_corners in [False, True]:
        s.run(f"affine_grid_{name}_{align_corners}", "affine_grid", [randn(*theta)], size=size, align_corners=align_corners)
for padding_mode in ["zeros", "border", "reflection"]:
    for align_corners in [False, True]:
        settings = {"padding_mode": padding_mode, "align_corners": align_corners}
        for mode in ["bilinear", "nearest", "bicubic"]:
            # Far outside as well: reflection turns several times.
            x, grid = randn(2, 2, 4, 3), uniform(-3, 3, 2, 3, 5, 2)
            s.run(f"grid_sample_{mode}_{padding_mode}_{align_corners}", "grid_sample", [x, grid], mode=mode, **settings)
        x, grid = randn(1, 2, 3, 2, 4), uniform(-2, 2, 1, 2, 2, 3, 3)
        s.run(f"grid_sample_volume_{padding_mode}_{align_corners}", "grid_sample", [x, grid], mode="bilinear", **settings)
# Places exactly on the corners, where the gradient of a place depends on the rule for borders.
corners = [[[[-1.0, -1.0], [1.0, -1.0]], [[0.0, 1.0], [1.0, 1.0]]]]
for padding_mode in ["zeros", "border", "reflection"]:
    s.run(f"grid_sample_corners_{padding_mode}", "grid_sample", [randn(1, 2, 3, 3), const(corners)], padding_mode=padding_mode, align_corners=True)
for mode in ["sum", "mean", "max"]:
    numbers = const([4, 1, 4, 0, 2, 5, 2, 1, 3], i64)
    s.run(f"embedding_bag_{mode}", "embedding_bag", [numbers, randn(6, 3)], offsets=const([0, 2, 2, 7], i64), mode=mode)
    s.run(
        f"embedding_bag_{mode}_padding", "embedding_bag", [numbers, randn(6, 3)],
        offsets=const([0, 3, 3, 9], i64), mode=mode, padding_idx=2, include_last_offset=True,
    )
    s.run(f"embedding_bag_{mode}_matrix", "embedding_bag", [randint(0, 6, 3, 4), randn(6, 2)], mode=mode)

s.write()
