"""Samples for `make_modules.py` of the modules, and of the arguments, that PyTorch's own tests of modules (module_db) lack."""

import types

import torch
from torch import nn
from torch.testing._internal.common_modules import FunctionInput, ModuleInput


def call(*args, **kwargs):
    """The arguments of a constructor."""
    return FunctionInput(*args, **kwargs)


# Row numbers, and where bags of them begin.
MATRIX, VECTOR, OFFSETS = torch.tensor([[0, 2, 1], [4, 2, 2]]), torch.tensor([3, 0, 2, 2, 4, 1]), torch.tensor([0, 2, 2, 6])

CLASSES = torch.tensor([0, 6, 2, 9, 4])


def positions(*planes):
    """Where maxima were: for each plane of a single channel, the places of `shape` in it."""
    return torch.tensor([[plane] for plane in planes])


def decoder_layer(**options):
    torch.manual_seed(3)
    return nn.TransformerDecoderLayer(4, 2, dim_feedforward=8, dropout=0.0, **options)


# A module, the arguments of its constructor, and its inputs: tensors, sizes of results, or the shapes of what is drawn.
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
    (nn.EmbeddingBag, call(5, 2, max_norm=0.5, norm_type=1.0, scale_grad_by_freq=True), [MATRIX]),
    (nn.EmbeddingBag, call(5, 2, mode="sum", scale_grad_by_freq=True, padding_idx=0), [VECTOR, OFFSETS]),
    (nn.EmbeddingBag, call(5, 3, mode="max", max_norm=1.0), [VECTOR, OFFSETS]),
    (nn.Embedding, call(5, 3, max_norm=1.0), [MATRIX]),
    (nn.Embedding, call(5, 3, padding_idx=2, scale_grad_by_freq=True), [VECTOR]),
    (nn.Embedding, call(5, 2, padding_idx=-1, max_norm=0.25, norm_type=1.5, scale_grad_by_freq=True), [MATRIX]),
    (nn.AdaptiveLogSoftmaxWithLoss, call(8, 10, [3, 7], div_value=2.0, head_bias=True), [(5, 8), CLASSES]),
    (nn.AdaptiveLogSoftmaxWithLoss, call(8, 12, [2, 4, 10]), [(5, 8), CLASSES]),
    (nn.AdaptiveLogSoftmaxWithLoss, call(6, 10, [5], div_value=1.5), [(6,), torch.tensor(7)]),
    (nn.MaxUnpool1d, call(2), [(2, 1, 2), positions([1, 2], [0, 3])]),
    (nn.MaxUnpool1d, call(3, stride=2, padding=1), [(1, 1, 3), positions([0, 1, 3]), torch.Size([1, 1, 6])]),
    (nn.MaxUnpool2d, call(2), [(2, 1, 1, 2), positions([[0, 7]], [[5, 3]])]),
    (nn.MaxUnpool2d, call((3, 2), stride=(2, 1), padding=(1, 0)), [(1, 1, 2, 2), positions([[1, 1], [6, 5]])]),
    (nn.MaxUnpool2d, call(2, stride=2), [(1, 1, 1, 1), positions([[5]]), torch.Size([3, 2])]),
    (nn.MaxUnpool3d, call(2), [(1, 1, 1, 1, 2), positions([[[6, 11]]])]),
    (nn.MaxUnpool3d, call((1, 2, 2), stride=(1, 2, 1)), [(1, 1, 2, 1, 1), positions([[[1]], [[7]]])]),
    (nn.CosineSimilarity, call(), [(3, 5), (3, 5)]),
    (nn.CosineSimilarity, call(dim=0, eps=1e-6), [(3, 5, 2), (3, 1, 2)]),
    (nn.PairwiseDistance, call(), [(3, 5), (3, 5)]),
    (nn.PairwiseDistance, call(p=1, eps=1e-3, keepdim=True), [(3, 5), (1, 5)]),
    (nn.Unflatten, call(1, (2, 5)), [(3, 10)]),
    (nn.Unflatten, call(-2, (3, -1)), [(2, 6, 2)]),
    (nn.TripletMarginWithDistanceLoss, call(), [(4, 5)] * 3),
    (nn.TripletMarginWithDistanceLoss, call(margin=0.3, swap=True, reduction="sum"), [(4, 5)] * 3),
    (nn.TripletMarginWithDistanceLoss, call(reduction="none"), [(4, 5)] * 3),
    (nn.TripletMarginLoss, call(), [(4, 5)] * 3),
    (nn.TripletMarginLoss, call(margin=0.3, p=1.0, eps=1e-3, swap=True, reduction="sum"), [(4, 5)] * 3),
    (nn.TripletMarginLoss, call(reduction="none"), [(5,)] * 3),
    (nn.Hardsigmoid, call(), [(3, 4)]),
    (nn.Flatten, call(), [(2, 3, 2)]),
    (nn.Flatten, call(0, 1), [(2, 3, 2)]),
    (nn.Identity, call(), [(2, 3)]),
    (nn.TransformerDecoder, call(decoder_layer(), 2), [(3, 2, 4), (5, 2, 4)]),
    (nn.TransformerDecoder, call(decoder_layer(batch_first=True, activation="gelu"), 1, nn.LayerNorm(4)), [(2, 3, 4), (2, 5, 4)]),
    # In evaluation; what they draw is not PyTorch's.
    (nn.RReLU, call(), [(3, 4)]),
    (nn.RReLU, call(0.2, 0.5), [(3, 4)]),
    (nn.Dropout, call(0.3), [(2, 3)]),
    (nn.Dropout2d, call(), [(2, 3, 2, 2)]),
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
            if isinstance(shape, (torch.Tensor, torch.Size)):
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
