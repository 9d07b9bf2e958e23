//! Random operands and arguments that often fit the operation that is called.

use kiln_tensor::{
    At, BagMode, BagOptions, BatchNorm, ClassLoss, ClassLossInput, Conv2d, Convolution, DType, GridMode, GridPadding,
    GridSample, InterpolateMode, NewAxis, PointwiseLossKind, Pooling, Reduction, Result, Rhs, Running, SlidingWindow,
    Tensor,
};

use super::choices::Choices;

/// The other tensor, or a number.
pub fn operand(y: &Tensor, r: &mut Choices) -> Rhs {
    if r.below(3) == 0 { Rhs::Scalar(r.scalar()) } else { Rhs::from(y) }
}

pub fn pair((values, indices): (Tensor, Tensor)) -> Vec<Tensor> {
    vec![values, indices]
}

/// What a call changed in place: the tensor itself, or (recorded, so that gradients flow) a copy of it.
pub fn changed(
    x: &Tensor,
    r: &mut Choices,
    change: impl FnOnce(&Tensor, &mut Choices) -> Result<()>,
) -> Result<Vec<Tensor>> {
    let target = match r.below(4) {
        0 => x.clone(),
        1 => x.detach(),
        2 => x.contiguous()?,
        _ => x.copy()?,
    };
    change(&target, r)?;
    Ok(vec![target])
}

pub fn index(r: &mut Choices) -> Vec<At> {
    (0..r.below(4))
        .map(|_| match r.below(6) {
            0 | 1 => At::Select(r.int()),
            2 => {
                let (start, end) = (r.int(), r.int());
                At::Slice { start: r.flag().then_some(start), end: r.flag().then_some(end), step: r.size() }
            }
            3 => kiln_tensor::IndexItem::at(&NewAxis),
            4 => At::Ellipsis,
            _ => At::List(if r.flag() { r.index() } else { r.mask() }),
        })
        .collect()
}

pub fn reduction(r: &mut Choices) -> Reduction {
    r.pick(&[Reduction::None, Reduction::Mean, Reduction::Sum])
}

pub fn weight(r: &mut Choices, x: &Tensor, dims: &[usize]) -> Option<Tensor> {
    (r.below(3) == 0).then(|| r.tensor_of(x.dtype(), dims))
}

/// The tensor, or images of its dtype, which few tensors are by chance.
pub fn images(x: &Tensor, r: &mut Choices) -> Tensor {
    if r.below(3) == 0 {
        return x.clone();
    }
    let dims = [r.below(3), r.below(3) + 1, r.below(5) + 1, r.below(5) + 1];
    let first = r.below(2);
    let images = r.tensor_of(x.dtype(), &dims[first..]);
    if r.flag() { images.channels_last().unwrap_or(images) } else { images }
}

/// The tensor, or a batch of its dtype with this many dimensions after the channels.
pub fn spatial(dims: usize, x: &Tensor, r: &mut Choices) -> Tensor {
    if r.below(4) == 0 {
        return x.clone();
    }
    let extents: Vec<usize> = (0..dims + 2).map(|dim| r.below(3) + usize::from(dim > 0)).collect();
    let first = r.below(2);
    r.tensor_of(x.dtype(), &extents[first..])
}

pub fn one_of(value: Result<Tensor>) -> Result<Vec<Tensor>> {
    Ok(vec![value?])
}

/// The tensor, or two 2×2 matrices of its dtype.
pub fn cube(x: &Tensor, r: &mut Choices) -> Tensor {
    if r.below(4) == 0 { x.clone() } else { r.tensor_of(x.dtype(), &[2, 2, 2]) }
}

pub fn pair_of(values: (Tensor, Tensor)) -> Result<Vec<Tensor>> {
    Ok(pair(values))
}

/// Numbers for each dimension: the usual one or one more, or now and then any.
pub fn each<const N: usize>(r: &mut Choices, usual: usize) -> [usize; N] {
    if r.below(6) == 0 { std::array::from_fn(|_| r.size()) } else { std::array::from_fn(|_| usual + r.below(2)) }
}

pub fn pooling_of<const N: usize>(r: &mut Choices) -> Pooling<N> {
    let pooling = Pooling::new(each(r, 1)).stride(each(r, 1)).padding(each(r, 0));
    if r.flag() { pooling.dilation(each(r, 1)).ceil_mode(r.flag()) } else { pooling }
}

pub fn rule<const N: usize>(r: &mut Choices) -> Convolution<N> {
    let groups = if r.below(4) == 0 { r.size() } else { 1 };
    Convolution { stride: each(r, 1), padding: each(r, 0), dilation: each(r, 1), groups }
}

/// Calls a convolution, also a transposed one, with operands that often fit.
pub fn convolution_of(
    dims: usize,
    x: &Tensor,
    y: &Tensor,
    r: &mut Choices,
    f: impl Fn(&Tensor, &Tensor, Option<&Tensor>, &mut Choices) -> Result<Vec<Tensor>>,
) -> Result<Vec<Tensor>> {
    let x = spatial(dims, x, r);
    let channels = if x.rank() > dims { x.dims()[x.rank() - dims - 1] } else { 1 };
    let extents: Vec<usize> = [channels; 2].into_iter().chain((0..dims).map(|_| r.below(2) + 1)).collect();
    let weight = if r.below(4) == 0 { y.clone() } else { r.tensor_of(x.dtype(), &extents) };
    let bias = r.flag().then(|| r.tensor_of(x.dtype(), &[channels]));
    f(&x, &weight, bias.as_ref(), r)
}

/// Operands of a recurrent cell, or of a layer of a few steps, that often fit: the products of the input and of the hidden
/// state, two states, the recurrent weight and its bias.
pub fn recurrent(x: &Tensor, y: &Tensor, gates: usize, layer: bool, r: &mut Choices) -> [Tensor; 6] {
    let (steps, n, h) = (r.below(4), r.below(3), r.below(3));
    let products = [steps, n, gates * h];
    let product = &products[usize::from(!layer)..];
    [product, product, &[n, h], &[n, h], &[gates * h, h], &[gates * h]].map(|dims| match r.below(24) {
        0 => x.clone(),
        1 => y.clone(),
        _ => r.tensor_of(x.dtype(), dims),
    })
}

/// Extents that memory holds.
pub fn shape_of_few(shape: &[usize]) -> Vec<usize> {
    shape.iter().map(|&extent| extent.min(4)).collect()
}

pub fn pooling(r: &mut Choices) -> Pooling {
    let mut two = |usual: usize| if r.below(3) == 0 { [r.size(), r.size()] } else { [usual, r.below(2) + usual] };
    let pooling = Pooling::new(two(1)).stride(two(1)).padding(two(0)).dilation(two(1));
    pooling.ceil_mode(r.flag())
}

pub fn convolution(
    x: &Tensor,
    y: &Tensor,
    r: &mut Choices,
    transposed: bool,
    f: impl Fn(&Tensor, &Tensor, Option<&Tensor>, &Conv2d) -> Result<Tensor>,
) -> Result<Tensor> {
    let x = images(x, r);
    let channels = if x.rank() >= 3 { x.dims()[x.rank() - 3] } else { 1 };
    // Of a transposed convolution, the input's channels come first.
    let dims = if transposed { [channels, 2, 3, 2] } else { [2, channels, 3, 2] };
    let weight = if r.below(4) == 0 { y.clone() } else { r.tensor_of(x.dtype(), &dims) };
    let bias = r.flag().then(|| r.tensor_of(x.dtype(), &[2]));
    let mut two = |usual: usize| if r.below(4) == 0 { [r.size(), r.size()] } else { [usual, r.below(2) + usual] };
    let (stride, padding, dilation) = (two(1), two(0), two(1));
    let groups = if r.below(4) == 0 { r.size() } else { 1 };
    f(&x, &weight, bias.as_ref(), &Conv2d { stride, padding, dilation, groups })
}

pub fn batch_norm(x: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let channels = [x.dims().get(1).copied().unwrap_or(1)];
    let (weight, bias) = (weight(r, x, &channels), weight(r, x, &channels));
    let (mean, var) = (r.tensor_of(x.dtype(), &channels).detach(), r.tensor_of(x.dtype(), &channels).detach());
    let running = r.flag().then_some(Running { mean: &mean, var: &var });
    x.batch_norm(weight.as_ref(), bias.as_ref(), running, r.flag(), r.float(), r.float())
}

pub fn batch_norm_with(x: &Tensor, y: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let channels = [x.dims().get(1).copied().unwrap_or(1)];
    let vectors = [(); 3].map(|()| weight(r, x, &channels));
    let (mean, var) = (r.tensor_of(x.dtype(), &channels).detach(), r.tensor_of(x.dtype(), &channels).detach());
    let count = Tensor::zeros((), (if r.below(8) == 0 { x.dtype() } else { DType::I64 }, x.device()))?;
    let (same, other) = (x.detach(), r.below(4) == 0);
    x.batch_norm_with(&BatchNorm {
        weight: vectors[0].as_ref(),
        bias: vectors[1].as_ref(),
        bias_before: vectors[2].as_ref(),
        running: r.flag().then_some(Running { mean: &mean, var: &var }),
        count: r.flag().then_some(&count),
        training: r.flag(),
        momentum: r.float(),
        eps: r.float(),
        residual: r.flag().then_some(if other { y } else { &same }),
        relu: r.flag(),
    })
}

/// Extents of few elements.
pub fn small(r: &mut Choices) -> Vec<i64> {
    (0..r.below(4)).map(|_| r.below(5) as i64 - 1).collect()
}

pub fn linear(x: &Tensor, y: &Tensor, r: &mut Choices, relu: bool) -> Result<Tensor> {
    let weight = if r.flag() { r.tensor_of(x.dtype(), &[2, x.dims().last().copied().unwrap_or(1)]) } else { y.clone() };
    let bias = if r.flag() { Some(r.tensor_of(x.dtype(), &[2])) } else { None };
    if relu { x.linear_relu(&weight, bias.as_ref()) } else { x.linear(&weight, bias.as_ref()) }
}

pub fn class_loss(x: &Tensor, y: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let without: Vec<usize> = match x.dims() {
        [] | [_] => vec![],
        [n, _, rest @ ..] => [&[*n], rest].concat(),
    };
    let target = match r.below(4) {
        0 => y.clone(),
        1 => r.tensor_of(x.dtype(), x.dims()),
        _ => r.tensor_of(DType::I64, &without),
    };
    let classes = x.dims().get(x.rank().min(2).wrapping_sub(1)).copied().unwrap_or(1);
    let weight = weight(r, x, &[classes]);
    let rule = ClassLoss {
        input: if r.flag() { ClassLossInput::Logits } else { ClassLossInput::LogProbs },
        reduction: reduction(r),
        ignore_index: r.below(3) as i64 - 1,
        label_smoothing: if r.flag() { 0.0 } else { r.float() },
    };
    x.class_loss(&target, weight.as_ref().map(|w| w.detach()).as_ref(), &rule)
}

pub fn pointwise_loss(x: &Tensor, y: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let kind = r.pick(&[PointwiseLossKind::Mse, PointwiseLossKind::L1, PointwiseLossKind::BceWithLogits]);
    let target = if r.below(3) == 0 { y.clone() } else { r.tensor_of(x.dtype(), x.dims()) };
    let (weight, positive) = (weight(r, x, x.dims()), weight(r, x, &[]));
    x.pointwise_loss(kind, &target, weight.as_ref(), positive.as_ref(), reduction(r))
}

pub fn interpolate_mode(r: &mut Choices) -> InterpolateMode {
    let align_corners = r.flag();
    r.pick(&[
        InterpolateMode::Nearest,
        InterpolateMode::NearestExact,
        InterpolateMode::Linear { align_corners },
        InterpolateMode::Cubic { align_corners },
        InterpolateMode::Area,
        InterpolateMode::LinearAntialias { align_corners },
        InterpolateMode::CubicAntialias { align_corners },
    ])
}

pub fn grid_sample(x: &Tensor, y: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let dims = 2 + r.below(2);
    let images = spatial(dims, x, r);
    let mut extents = images.dims().to_vec();
    extents.resize(dims + 2, 1);
    extents[1..=dims].fill_with(|| r.below(3));
    extents[dims + 1] = dims;
    let grid = if r.below(4) == 0 { y.clone() } else { r.tensor_of(x.dtype(), &extents) };
    let options = GridSample {
        mode: r.pick(&[GridMode::Bilinear, GridMode::Nearest, GridMode::Bicubic]),
        padding_mode: r.pick(&[GridPadding::Zeros, GridPadding::Border, GridPadding::Reflection]),
        align_corners: r.flag(),
    };
    images.grid_sample(&grid, options)
}

pub fn embedding_bag(x: &Tensor, y: &Tensor, r: &mut Choices) -> Result<Tensor> {
    let table = if r.flag() { x.clone() } else { r.tensor_of(x.dtype(), &[5, 2]) };
    let (indices, offsets) = (r.index(), r.index());
    let mode = r.pick(&[BagMode::Sum, BagMode::Mean, BagMode::Max]);
    let weights = match r.below(3) {
        0 => Some(r.tensor_of(table.dtype(), indices.dims())),
        1 => Some(y.clone()),
        _ => None,
    };
    let options = BagOptions {
        mode,
        padding_idx: r.flag().then(|| r.size()),
        per_sample_weights: weights.as_ref().filter(|_| mode == BagMode::Sum),
        include_last_offset: r.flag(),
        scale_grad_by_freq: r.flag(),
    };
    table.embedding_bag(&indices, r.flag().then_some(&offsets), &options)
}

pub fn sliding_window(r: &mut Choices) -> SlidingWindow {
    SlidingWindow { kernel_size: each(r, 0), dilation: each(r, 0), padding: each(r, 0), stride: each(r, 0) }
}
