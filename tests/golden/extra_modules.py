"""Samples for `make_modules.py` of the modules that PyTorch's own tests of modules (module_db) lack."""

import types

import torch
from torch import nn
from torch.testing._internal.common_modules import FunctionInput, ModuleInput


def call(*args, **kwargs):
    """The arguments of a constructor."""
    return FunctionInput(*args, **kwargs)


# Row numbers, and where bags of them begin.
MATRIX, VECTOR, OFFSETS = torch.tensor([[0, 2, 1], [4, 2, 2]]), torch.tensor([3, 0, 2, 2, 4, 1]), torch.tensor([0, 2, 2, 6])

# A module, the arguments of its constructor, and its inputs or their shapes.
SAMPLES = [
    (nn.Upsample, call(scale_factor=2), [(2, 3, 4)]),
    (nn.Upsample, call(7), [(1, 2, 3, 4)]),
    (nn.Upsample, call((5, 7), mode="nearest-exact"), [(1, 2, 3, 4)]),
    (nn.Upsample, call(scale_factor=(2.5, 0.6), mode="nearest"), [(2, 2, 3, 5)]),
    (nn.Upsample, call(scale_factor=2.4, mode="linear"), [(2, 3, 4)]),
    (nn.Upsample, call(5, mode="linear", align_corners=True), [(2, 3, 4)]),
    (nn.Upsample, call((5, 7), mode="bilinear", align_corners=True), [(1, 2, 3, 4)]),
    (nn.Upsample, call((5, 2), mode="bilinear", align_corners=False), [(1, 2, 3, 4)]),
    (nn.Upsample, call(scale_factor=2, mode="bilinear"), [(1, 2, 3, 4)]),
    (nn.Upsample, call(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True), [(1, 2, 3, 4)]),
    (nn.Upsample, call((5, 7), mode="bicubic", align_corners=True), [(1, 2, 3, 4)]),
    (nn.Upsample, call(scale_factor=1.5, mode="bicubic", align_corners=False), [(1, 2, 3, 4)]),
    (nn.Upsample, call((3, 5, 4), mode="trilinear", align_corners=True), [(1, 1, 2, 3, 4)]),
    (nn.Upsample, call(scale_factor=(2, 1.5, 1), mode="trilinear"), [(1, 1, 2, 3, 4)]),
    (nn.Upsample, call((2, 3), mode="area"), [(1, 2, 3, 5)]),
    (nn.UpsamplingNearest2d, call(scale_factor=2), [(1, 2, 3, 4)]),
    (nn.UpsamplingNearest2d, call((5, 3)), [(1, 2, 3, 4)]),
    (nn.UpsamplingBilinear2d, call(scale_factor=(2, 1.5)), [(1, 2, 3, 4)]),
    (nn.UpsamplingBilinear2d, call(6), [(1, 2, 3, 4)]),
    (nn.PixelShuffle, call(2), [(1, 8, 2, 3)]),
    (nn.PixelShuffle, call(3), [(2, 2, 9, 1, 2)]),
    (nn.PixelUnshuffle, call(2), [(1, 2, 4, 6)]),
    (nn.PixelUnshuffle, call(3), [(1, 3, 6)]),
    (nn.ChannelShuffle, call(2), [(2, 6, 2, 2)]),
    (nn.ChannelShuffle, call(3), [(1, 6, 4)]),
    (nn.Unfold, call(2), [(2, 2, 3, 4)]),
    (nn.Unfold, call((2, 3), dilation=(1, 2), padding=(1, 2), stride=2), [(1, 2, 4, 5)]),
    (nn.Unfold, call(3, padding=1), [(2, 4, 5)]),
    (nn.Fold, call((3, 4), 2), [(2, 8, 6)]),
    (nn.Fold, call((4, 5), (2, 3), dilation=(1, 2), padding=(1, 2), stride=2), [(1, 12, 9)]),
    (nn.Fold, call(5, 2, stride=3), [(4, 4)]),
    (nn.EmbeddingBag, call(5, 3), [MATRIX]),
    (nn.EmbeddingBag, call(5, 3, mode="max"), [MATRIX]),
    (nn.EmbeddingBag, call(5, 2, mode="sum", padding_idx=2), [MATRIX]),
    (nn.EmbeddingBag, call(5, 2, padding_idx=2), [VECTOR, OFFSETS]),
    (nn.EmbeddingBag, call(5, 2, mode="max", include_last_offset=True), [VECTOR, OFFSETS]),
    (nn.EmbeddingBag, call(5, 2, mode="sum", include_last_offset=True), [VECTOR, OFFSETS, (6,)]),
    (nn.CosineSimilarity, call(), [(3, 5), (3, 5)]),
    (nn.CosineSimilarity, call(dim=0, eps=1e-6), [(3, 5, 2), (3, 1, 2)]),
    (nn.PairwiseDistance, call(), [(3, 5), (3, 5)]),
    (nn.PairwiseDistance, call(p=1, eps=1e-3, keepdim=True), [(3, 5), (1, 5)]),
    (nn.Unflatten, call(1, (2, 5)), [(3, 10)]),
    (nn.Unflatten, call(-2, (3, -1)), [(2, 6, 2)]),
    (nn.TripletMarginWithDistanceLoss, call(), [(4, 5)] * 3),
    (nn.TripletMarginWithDistanceLoss, call(margin=0.3, swap=True, reduction="sum"), [(4, 5)] * 3),
    (nn.TripletMarginWithDistanceLoss, call(reduction="none"), [(4, 5)] * 3),
    # In evaluation; what they draw is not PyTorch's.
    (nn.Dropout1d, call(0.2), [(2, 3, 4)]),
    (nn.Dropout3d, call(), [(2, 3, 1, 2, 2)]),
    (nn.AlphaDropout, call(0.25), [(2, 3)]),
    (nn.FeatureAlphaDropout, call(), [(2, 3, 4)]),
]


def inputs_of(module):
    """A function as module_db has it: the samples of one module."""

    def samples(info, device, dtype, requires_grad, training):
        generator = torch.Generator().manual_seed(len(module.__name__))

        def draw(shape):
            if isinstance(shape, torch.Tensor):
                return shape
            return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

        return [
            ModuleInput(constructor_input=arguments, forward_input=FunctionInput(*map(draw, shapes)))
            for cls, arguments, shapes in SAMPLES
            if cls is module
        ]

    return samples


# As the entries of module_db.
EXTRA = [
    types.SimpleNamespace(name=f"nn.{module.__name__}", module_cls=module, module_inputs_func=inputs_of(module))
    for module in dict.fromkeys(cls for cls, _, _ in SAMPLES)
]
