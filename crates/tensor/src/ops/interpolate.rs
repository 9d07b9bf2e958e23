//! Interpolation of signals, images and volumes to another size, one dimension after the other: each output is a sum of one, two or
//! four elements along a dimension.

use kiln_backend::{DType, Error, Result};
use kiln_derive::located;

use super::check;
use crate::{autocast::cast_operands, calc, creation::TensorOptions, tensor::Tensor};

/// How [`Tensor::interpolate`] computes values between elements. With `align_corners` the first and the last elements of input and
/// output are at the same places, otherwise their outer edges are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterpolateMode {
    /// The element at the place of an output, rounded down: PyTorch's `nearest`.
    #[default]
    Nearest,
    /// The element that contains the center of an output: `nearest-exact`.
    NearestExact,
    /// A line between two elements in each dimension: `linear`, `bilinear`, `trilinear`.
    Linear {
        /// Whether the corners' centers coincide.
        align_corners: bool,
    },
    /// A cubic convolution of four elements in each dimension (Keys, 1981, with -0.75): `bicubic`.
    Cubic {
        /// Whether the corners' centers coincide.
        align_corners: bool,
    },
    /// The average of the elements that an output covers: `area`.
    Area,
    /// [`Linear`](InterpolateMode::Linear) of images, in which an output of a smaller image is an average over all elements that it
    /// covers: PyTorch's `bilinear` with `antialias`.
    LinearAntialias {
        /// Whether the corners' centers coincide.
        align_corners: bool,
    },
    /// [`Cubic`](InterpolateMode::Cubic) with such averages: PyTorch's `bicubic` with `antialias`, for which the slope is -0.5.
    CubicAntialias {
        /// Whether the corners' centers coincide.
        align_corners: bool,
    },
}

#[located]
impl Tensor {
    /// Signals `[N, C, L]`, images `[N, C, H, W]` or volumes `[N, C, D, H, W]` of another size, one extent for all dimensions after the
    /// channels or one for each (<https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html>).
    ///
    /// # Errors
    /// If there are other dimensions, an extent is 0, cubic interpolation is not of images, or the elements are not
    /// floating-point (the nearest ones may be).
    pub fn interpolate(&self, size: &[usize], mode: InterpolateMode) -> Result<Tensor> {
        let size = self.for_each_dim(size)?;
        self.interpolated(&size, mode, None)
    }

    /// [`interpolate`](Tensor::interpolate) by factors, one for all dimensions or one for each: the size is rounded down, and the
    /// places of elements follow from the factors, as with PyTorch's `scale_factor`. (With its `recompute_scale_factor` they follow
    /// from the size, as in [`interpolate`](Tensor::interpolate).)
    ///
    /// # Errors
    /// Those of [`interpolate`](Tensor::interpolate), and if a factor is not a positive number.
    pub fn interpolate_by(&self, factors: &[f64], mode: InterpolateMode) -> Result<Tensor> {
        self.by_factors(factors, mode).map_err(|error| error.of_op("interpolate_by"))
    }

    fn by_factors(&self, factors: &[f64], mode: InterpolateMode) -> Result<Tensor> {
        let factors = self.for_each_dim(factors)?;
        if let Some(factor) = factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
            return Err(Error::argument(OP, format!("the factor {factor} is not a positive number")));
        }
        let size: Vec<usize> =
            self.dims()[2..].iter().zip(&factors).map(|(&n, factor)| (n as f64 * factor).floor() as usize).collect();
        self.interpolated(&size, mode, Some(&factors))
    }

    /// One value for each dimension after the channels.
    fn for_each_dim<T: Copy>(&self, values: &[T]) -> Result<Vec<T>> {
        if !(3..=5).contains(&self.rank()) {
            return Err(Error::shape(OP, "[N, C, L], [N, C, H, W] or [N, C, D, H, W]", self.shape()));
        }
        let dims = self.rank() - 2;
        match *values {
            [one] => Ok(vec![one; dims]),
            _ if values.len() == dims => Ok(values.to_vec()),
            _ => Err(Error::argument(OP, format!("{} values for {dims} dimensions", values.len()))),
        }
    }

    fn interpolated(&self, size: &[usize], mode: InterpolateMode, factors: Option<&[f64]>) -> Result<Tensor> {
        if size.iter().chain(&self.dims()[2..]).any(|&extent| extent == 0) {
            let expected = format!("extents above 0, and a size above 0, not {size:?}");
            return Err(Error::shape(OP, expected, self.shape()));
        }
        if mode == InterpolateMode::Area {
            check::floats(OP, self)?;
        }
        match (mode, size) {
            (InterpolateMode::Area, &[l]) => self.adaptive_avg_pool1d([l]),
            (InterpolateMode::Area, &[h, w]) => self.adaptive_avg_pool2d([h, w]),
            (InterpolateMode::Area, &[d, h, w]) => self.adaptive_avg_pool3d([d, h, w]),
            _ => cast_operands(OP, [self], [], |[x], []| x.between_elements(size, mode, factors)),
        }
    }

    /// All modes but the average.
    fn between_elements(&self, size: &[usize], mode: InterpolateMode, factors: Option<&[f64]>) -> Result<Tensor> {
        use InterpolateMode::{Cubic, CubicAntialias, Linear, LinearAntialias, Nearest, NearestExact};
        let map = |dim: usize| Map {
            n: self.dims()[dim],
            count: size[dim - 2],
            factor: factors.map(|factors| factors[dim - 2]),
            // Places are computed in `f32`, unless the elements are `f64`: in PyTorch, too, which decides what is the nearest.
            options: (if self.dtype() == DType::F64 { DType::F64 } else { DType::F32 }, self.device()).into(),
        };
        if matches!(mode, Nearest | NearestExact) {
            // One look-up for all dimensions, so that gradients in half precision are rounded once.
            let mut places: Option<Tensor> = None;
            for dim in 2..self.rank() {
                let along = map(dim).nearest(mode == NearestExact)?;
                places = Some(match places {
                    None => along,
                    Some(before) => before.mul(self.dims()[dim] as i64)?.unsqueeze(1)?.add(&along)?.flatten_all()?,
                });
            }
            let Some(places) = places else { return Ok(self.clone()) };
            let shape = [&self.dims()[..2], size].concat();
            return self.flatten(2, -1)?.index_select(2, &places)?.reshape(shape);
        }
        check::floats(OP, self)?;
        if matches!(mode, Cubic { .. } | CubicAntialias { .. } | LinearAntialias { .. }) && self.rank() != 4 {
            let expected = "images [N, C, H, W] for cubic interpolation and for antialiasing";
            return Err(Error::shape(OP, expected, self.shape()));
        }
        let along = |x: Tensor, dim: usize| {
            let taps = match mode {
                LinearAntialias { align_corners } => return map(dim).averaged(&x, dim, align_corners, false),
                CubicAntialias { align_corners } => return map(dim).averaged(&x, dim, align_corners, true),
                Cubic { align_corners } => map(dim).cubic(align_corners)?,
                Linear { align_corners } if size[dim - 2] != x.dims()[dim] => map(dim).linear(align_corners)?,
                _ => return Ok(x),
            };
            let mut shape = vec![1; x.rank() - dim];
            shape[0] = size[dim - 2];
            let part = |(places, weights): &(Tensor, Tensor)| {
                x.index_select(dim, &places.to_dtype(DType::I64)?)?.mul(&weights.reshape(&shape[..])?)
            };
            let first = part(&taps[0])?;
            taps[1..].iter().try_fold(first, |sum, tap| sum.add(&part(tap)?))
        };
        // Along rows first, as in PyTorch, and rounded once.
        (2..self.rank()).rev().try_fold(self.widened()?, along)?.to_dtype(self.dtype())
    }
}

const OP: &str = "interpolate";
/// The slope of the cubic convolution at a distance of one element.
const A: f64 = -0.75;

/// Where outputs are among the elements of a dimension.
struct Map {
    n: usize,
    count: usize,
    factor: Option<f64>,
    options: TensorOptions,
}

impl Map {
    fn last(&self) -> f64 {
        self.n as f64 - 1.0
    }

    /// The numbers of outputs.
    fn outputs(&self) -> Result<Tensor> {
        Tensor::arange(0, self.count as i64, self.options)
    }

    /// The distance of outputs, in elements, if not the corners but the edges coincide.
    fn step(&self) -> f64 {
        self.factor.map_or(self.n as f64 / self.count as f64, |factor| 1.0 / factor)
    }

    /// The distance of outputs, in elements, for aligned corners or edges.
    fn scale(&self, align_corners: bool) -> f64 {
        match align_corners {
            true if self.count > 1 => self.last() / (self.count as f64 - 1.0),
            true => 0.0,
            false => self.step(),
        }
    }

    /// `x`, of which an output in dimension `dim`, 2 or 3, is an average over as many elements as lie between outputs: a product
    /// with a matrix of weights `[outputs, elements]`. The weights are those of Pillow, which PyTorch has taken over.
    fn averaged(&self, x: &Tensor, dim: usize, align_corners: bool, cubic: bool) -> Result<Tensor> {
        let scale = self.scale(align_corners);
        let widening = scale.max(1.0);
        let reach = if cubic { 2.0 } else { 1.0 } * widening;
        let elements = Tensor::arange(0, self.n as i64, self.options)?;
        let centers = self.outputs()?.add(0.5)?.mul(scale)?.unsqueeze(1)?;
        // The first element that counts, and the one after the last.
        let first = centers.sub(reach)?.add(0.5)?.trunc()?.clamp_min(0.0)?;
        let end = centers.add(reach)?.add(0.5)?.trunc()?.clamp_max(self.n as f64)?;
        let counts = elements.ge(&first)?.logical_and(&elements.lt(&end)?)?;
        let t = elements.sub(&centers)?.add(0.5)?.div(widening)?.abs()?;
        let weights = if cubic {
            let near = calc!((&t * 1.5 - 2.5) * &t * &t + 1.0)?;
            let far = calc!(((&t * -0.5 + 2.5) * &t - 4.0) * &t + 2.0)?;
            t.lt(1.0)?.where_cond(&near, &t.lt(2.0)?.where_cond(&far, 0.0)?)?
        } else {
            t.neg()?.add(1.0)?.clamp_min(0.0)?
        };
        let weights = counts.where_cond(&weights, 0.0)?;
        let sums = weights.sum_keepdim(1)?;
        let weights = weights.div(&sums.eq(0.0)?.where_cond(1.0, &sums)?)?;
        if dim == 2 { weights.matmul(x) } else { x.matmul(&weights.t()?) }
    }

    /// The places of outputs, in elements.
    fn places(&self, align_corners: bool) -> Result<Tensor> {
        if align_corners {
            return self.outputs()?.mul(self.scale(true));
        }
        self.outputs()?.add(0.5)?.mul(self.step())?.sub(0.5)
    }

    /// The nearest elements.
    fn nearest(&self, exact: bool) -> Result<Tensor> {
        let places = self.outputs()?.add(if exact { 0.5 } else { 0.0 })?.mul(self.step())?;
        places.floor()?.clamp(0.0, self.last())?.to_dtype(DType::I64)
    }

    /// The two elements around each output, and their weights.
    fn linear(&self, align_corners: bool) -> Result<Vec<(Tensor, Tensor)>> {
        let places = self.places(align_corners)?.clamp(0.0, self.last())?;
        let first = places.floor()?;
        let weight = places.sub(&first)?;
        Ok(vec![(first.clone(), weight.neg()?.add(1.0)?), (first.add(1.0)?.clamp(0.0, self.last())?, weight)])
    }

    /// The four elements around each output, and their weights.
    fn cubic(&self, align_corners: bool) -> Result<Vec<(Tensor, Tensor)>> {
        let places = self.places(align_corners)?;
        let first = places.floor()?;
        let tap = |(tap, weight)| Ok((first.add(f64::from(tap) - 1.0)?.clamp(0.0, self.last())?, weight));
        (0u8..).zip(cubic_weights(&places.sub(&first)?)?).map(tap).collect()
    }
}

/// The weights of the four elements around places at these distances, from 0 to 1, after the second of them.
pub(super) fn cubic_weights(after: &Tensor) -> Result<[Tensor; 4]> {
    let near = |t: &Tensor| calc!((t * (A + 2.0) - (A + 3.0)) * t * t + 1.0);
    let far = |t: &Tensor| calc!(((t * A - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A);
    let before = after.neg()?.add(1.0)?;
    Ok([far(&after.add(1.0)?)?, near(after)?, near(&before)?, far(&before.add(1.0)?)?])
}
