//! `grid_sample` and `affine_grid`: images and volumes read at any places, with gradients of the places.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;
use smallvec::{SmallVec, smallvec};

use super::{check, interpolate::cubic_weights, pad::PadMode};
use crate::{
    autocast::cast_operands,
    autograd::{BackwardOptions, Ctx, Grads, enable_grad, grad_with, no_grad, record, untraced},
    calc,
    tensor::Tensor,
};

/// How [`Tensor::grid_sample`] computes values between elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GridMode {
    /// A line between two elements in each dimension: PyTorch's `bilinear`, also of volumes.
    #[default]
    Bilinear,
    /// The nearest element.
    Nearest,
    /// A cubic convolution of four elements in each dimension (Keys, 1981, with -0.75).
    Bicubic,
}

/// What [`Tensor::grid_sample`] reads outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GridPadding {
    /// Zeros.
    #[default]
    Zeros,
    /// The nearest element at the border.
    Border,
    /// The element that is there if everything is mirrored at the borders.
    Reflection,
}

/// The arguments of [`Tensor::grid_sample`] that have defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GridSample {
    /// How values are computed.
    pub mode: GridMode,
    /// What is outside.
    pub padding_mode: GridPadding,
    /// Whether -1 and 1 are the centers of the first and the last element, rather than their outer edges.
    pub align_corners: bool,
}

const OP: &str = "grid_sample";

#[located]
impl Tensor {
    /// The values of images `[N, C, H, W]` at the places of a grid `[N, H', W', 2]`: `[N, C, H', W']`; or of volumes `[N, C, D, H,
    /// W]` at those of `[N, D', H', W', 3]`. A place is x, y and z, each from -1 to 1 for what is inside
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.grid_sample.html>).
    ///
    /// # Errors
    /// If there are other dimensions, batches differ, the images have no pixels, the elements are not floating-point, or dtypes or
    /// devices differ.
    pub fn grid_sample(&self, grid: &Tensor, options: GridSample) -> Result<Tensor> {
        cast_operands(OP, [self, grid], [], |[x, grid], []| x.sampled(grid, options))
    }

    fn sampled(&self, grid: &Tensor, options: GridSample) -> Result<Tensor> {
        check::floats(OP, self)?;
        check::same_kind(OP, self, &[grid])?;
        let fits = |dims: usize| {
            let (x, grid) = (self.dims(), grid.dims());
            x.len() == dims + 2 && grid.len() == dims + 2 && x[0] == grid[0] && grid[dims + 1] == dims
        };
        let node = match (fits(2), fits(3)) {
            (true, _) => "GridSampler2DBackward0",
            (_, true) => "GridSampler3DBackward0",
            _ => {
                let expected = "[N, C, H, W] and [N, H', W', 2], or [N, C, D, H, W] and [N, D', H', W', 3]";
                return Err(Error::shapes(OP, self.shape(), grid.shape(), expected));
            }
        };
        if self.dims()[2..].contains(&0) {
            return Err(Error::shape(OP, "extents above 0", self.shape()));
        }
        let out = untraced(|| no_grad(|| sample(self, grid, options))).map_err(|error| error.of_op(OP))?;
        let out = record(out, node, &[self, grid], &[self, grid], move |ctx| {
            let inputs = [ctx.saved(0)?, ctx.saved(1)?];
            if ctx.create_graph {
                let grads = ctx.composed(&inputs, |inputs| sample(&inputs[0], &inputs[1], options))?;
                // The nearest elements do not depend on where exactly a place is.
                let or_zeros = |(i, grad): (usize, Option<Tensor>)| match grad {
                    None => ctx.when(i, || inputs[i].zeros_like()),
                    some => Ok(some),
                };
                return grads.into_iter().enumerate().map(or_zeros).collect();
            }
            recomputed(ctx, &inputs, options)
        })?;
        let mode = ["bilinear", "nearest", "bicubic"][options.mode as usize];
        let padding = ["zeros", "border", "reflection"][options.padding_mode as usize];
        let align_corners = options.align_corners;
        Ok(out.described(OP, || {
            [("mode", mode.into()), ("padding_mode", padding.into()), ("align_corners", align_corners.into())]
        }))
    }

    /// The grid of places, for [`grid_sample`](Tensor::grid_sample), to which each of these affine maps takes the pixels of images of
    /// this size: matrices `[N, 2, 3]` and the size `[N, C, H, W]` give `[N, H, W, 2]`, matrices `[N, 3, 4]` and `[N, C, D, H, W]`
    /// give `[N, D, H, W, 3]` (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.affine_grid.html>).
    ///
    /// # Errors
    /// If the shapes are others, the size has an extent of 0, or the elements are not floating-point.
    pub fn affine_grid(&self, size: &[usize], align_corners: bool) -> Result<Tensor> {
        cast_operands("affine_grid", [self], [], |[theta], []| theta.affine_places(size, align_corners))
    }

    fn affine_places(&self, size: &[usize], align_corners: bool) -> Result<Tensor> {
        const OP: &str = "affine_grid";
        check::floats(OP, self)?;
        let dims = size.len().saturating_sub(2);
        let expected = [size.first().copied().unwrap_or(0), dims, dims + 1];
        if !matches!(dims, 2 | 3) || self.dims() != expected || size.contains(&0) {
            let expected = format!("[N, 2, 3] and a size [N, C, H, W], or [N, 3, 4] and [N, C, D, H, W], not {size:?}");
            return Err(Error::shape(OP, expected, self.shape()));
        }
        let extents = &size[2..];
        let mut coordinates = Vec::new();
        for axis in (0..dims).rev() {
            let mut shape = vec![1; dims];
            shape[axis] = extents[axis];
            coordinates.push(centers(extents[axis], align_corners, self)?.reshape(shape)?.expand(extents)?);
        }
        coordinates.push(Tensor::ones(extents, self.options())?);
        let places = Tensor::stack(&coordinates, -1)?.reshape([extents.iter().product(), dims + 1])?;
        let grid = places.matmul(&self.transpose(1, 2)?)?;
        grid.reshape([&size[..1], extents, &[dims]].concat())
    }
}

/// The centers of `n` elements between -1 and 1, in the dtype of `like`.
fn centers(n: usize, align_corners: bool, like: &Tensor) -> Result<Tensor> {
    if n == 1 {
        return Tensor::zeros([1], like.options());
    }
    let centers = Tensor::linspace(-1.0, 1.0, n, like.options())?;
    if align_corners { Ok(centers) } else { centers.mul((n as f64 - 1.0) / n as f64) }
}

/// The gradients, from a second computation of the values: so only the inputs are kept, not what is read at each place.
fn recomputed(ctx: &Ctx<'_>, inputs: &[Tensor; 2], options: GridSample) -> Result<Grads> {
    let leaf = |i: usize| inputs[i].detach().requires_grad_(ctx.needs(i));
    let leaves = [leaf(0)?, leaf(1)?];
    let out = enable_grad(|| sample(&leaves[0], &leaves[1], options))?;
    if !out.requires_grad() {
        return (0..2).map(|i| ctx.when(i, || inputs[i].zeros_like())).collect();
    }
    let wanted: SmallVec<[&Tensor; 2]> = (0..2).filter(|&i| ctx.needs(i)).map(|i| &leaves[i]).collect();
    let mut grads = grad_with(&[(out, Some(ctx.grad()?))], &wanted, BackwardOptions::default())?.into_iter();
    let mut next = |i: usize| ctx.when(i, || grads.next().flatten().map_or_else(|| inputs[i].zeros_like(), Ok));
    Ok(smallvec![next(0)?, next(1)?])
}

/// Elements of one dimension that are read for each place: their numbers, and their weights; one has no weight if it is alone.
type Taps = Vec<(Tensor, Option<Tensor>)>;

/// The values, of differentiable operations. Half precision is rounded once.
fn sample(x: &Tensor, grid: &Tensor, options: GridSample) -> Result<Tensor> {
    let (dims, extents) = (x.rank() - 2, &x.dims()[2..]);
    let (n, c, count) = (x.dims()[0], x.dims()[1], grid.numel() / grid.dims()[dims + 1]);
    // Zeros around the images are read by every place that is outside.
    let margin = usize::from(options.padding_mode == GridPadding::Zeros);
    let wide = x.widened()?;
    let padded = if margin == 1 { wide.pad(&vec![1; 2 * dims], PadMode::Constant(0.0))? } else { wide };
    let inside: usize = padded.dims()[2..].iter().product();
    let rows = padded.flatten(2, -1)?.transpose(1, 2)?.reshape([n * inside, c])?;
    let places = grid.widened()?.reshape([count, dims])?;
    // The first row of each place's image.
    let per_image = count / n.max(1);
    let images = Tensor::arange(0, n as i64, (DType::I64, x.device()))?.mul(inside as i64)?;
    let mut terms: Taps = vec![(images.unsqueeze(1)?.expand([n, per_image])?.flatten_all()?, None)];
    let mut stride = inside;
    for (axis, &extent) in extents.iter().enumerate() {
        let axis_of = Axis { extent, margin, options };
        let taps = axis_of.taps(&places.select(1, (dims - 1 - axis) as i64)?)?;
        stride /= extent + 2 * margin;
        let mut combined = Vec::with_capacity(terms.len() * taps.len());
        for (rows, weight) in &terms {
            for (number, factor) in &taps {
                let product = match (weight, factor) {
                    (Some(weight), Some(factor)) => Some(weight.mul(factor)?),
                    (weight, factor) => weight.clone().or_else(|| factor.clone()),
                };
                combined.push((rows.add(&number.mul(stride as i64)?)?, product));
            }
        }
        terms = combined;
    }
    let term = |(numbers, weight): &(Tensor, Option<Tensor>)| {
        let values = rows.index_select(0, numbers)?;
        weight.as_ref().map_or(Ok(values.clone()), |weight| values.mul(&weight.unsqueeze(1)?))
    };
    let first = term(&terms[0])?;
    let sum = terms[1..].iter().try_fold(first, |sum, next| sum.add(&term(next)?))?;
    let shape = [&[n, c], &grid.dims()[1..=dims]].concat();
    sum.reshape([n, per_image, c])?.transpose(1, 2)?.reshape(shape)?.to_dtype(x.dtype())
}

/// One dimension of the images.
struct Axis {
    extent: usize,
    /// The zeros on each side.
    margin: usize,
    options: GridSample,
}

impl Axis {
    fn last(&self) -> f64 {
        self.extent as f64 - 1.0
    }

    /// What is read for coordinates between -1 and 1.
    fn taps(&self, coordinates: &Tensor) -> Result<Taps> {
        let size = self.extent as f64;
        let at = if self.options.align_corners {
            calc!((coordinates + 1.0) * 0.5 * (size - 1.0))?
        } else {
            calc!(((coordinates + 1.0) * size - 1.0) * 0.5)?
        };
        match self.options.mode {
            GridMode::Nearest => Ok(vec![(self.number(&self.within(&at)?.round()?)?, None)]),
            GridMode::Bilinear => {
                let at = self.within(&at)?;
                let first = at.floor()?.detach();
                let weight = at.sub(&first)?;
                let before = weight.neg()?.add(1.0)?;
                Ok(vec![(self.number(&first)?, Some(before)), (self.number(&first.add(1.0)?)?, Some(weight))])
            }
            GridMode::Bicubic => {
                let first = at.floor()?.detach();
                let weights = cubic_weights(&at.sub(&first)?)?;
                let tap =
                    |(tap, weight)| Ok((self.number(&self.within(&first.add(f64::from(tap) - 1.0)?)?)?, Some(weight)));
                (0u8..).zip(weights).map(tap).collect()
            }
        }
    }

    /// Where a place outside reads instead. At the border and beyond, the gradient is 0, as PyTorch's.
    fn within(&self, at: &Tensor) -> Result<Tensor> {
        let at = match self.options.padding_mode {
            GridPadding::Zeros => return Ok(at.clone()),
            GridPadding::Border => at.clone(),
            GridPadding::Reflection => self.reflected(at)?,
        };
        let inside = at.gt(0.0)?.logical_and(&at.lt(self.last())?)?;
        inside.where_cond(&at, &at.detach().clamp(0.0, self.last())?)
    }

    /// Mirrored at the centers or the edges of the first and the last element, as often as needed.
    fn reflected(&self, at: &Tensor) -> Result<Tensor> {
        let (low, span) = if self.options.align_corners { (0.0, self.last()) } else { (-0.5, self.extent as f64) };
        if span == 0.0 {
            return at.zeros_like();
        }
        let from_low = at.sub(low)?;
        let distance = from_low.lt(0.0)?.where_cond(&from_low.neg()?, &from_low)?;
        let turns = distance.div(span)?.floor()?.detach();
        let rest = distance.sub(&turns.mul(span)?)?;
        let back = turns.remainder(2.0)?.eq(1.0)?;
        back.where_cond(&rest.neg()?.add(span)?, &rest)?.add(low)
    }

    /// The number of an element, among zeros on each side if there are any.
    fn number(&self, at: &Tensor) -> Result<Tensor> {
        let margin = self.margin as f64;
        at.detach().clamp(-margin, self.last() + margin)?.add(margin)?.to_dtype(DType::I64)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::{autograd::grad_with, device::Device};

    /// Of the nearest elements, too, places have a gradient, which is 0; with `create_graph` as without.
    #[test]
    fn places_of_the_nearest_elements_have_gradients_of_zeros() -> Result<()> {
        let x = Tensor::ones([1, 2, 3, 3], Device::Cpu)?.requires_grad_(true)?;
        let grid = Tensor::zeros([1, 2, 2, 2], Device::Cpu)?.requires_grad_(true)?;
        for options in [BackwardOptions::default(), BackwardOptions::create_graph()] {
            let y = x.grid_sample(&grid, GridSample { mode: GridMode::Nearest, ..GridSample::default() })?.sum(())?;
            let grads = grad_with(&[(y, None)], &[&x, &grid], options)?;
            let values: Vec<Vec<f32>> =
                grads.iter().flatten().map(|grad| grad.flatten_all()?.to_vec()).collect::<Result<_>>()?;
            let center = [0., 0., 0., 0., 4., 0., 0., 0., 0.];
            assert_eq!(values, [[center, center].concat(), vec![0.; 8]]);
        }
        Ok(())
    }
}
