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
        use InterpolateMode::{Cubic, Linear, Nearest, NearestExact};
        let map = |dim: usize| Map {
            n: self.dims()[dim],
            count: size[dim - 2],
            factor: factors.map(|factors| factors[dim - 2]),
            // Places are computed in `f32`, unless the elements are `f64`: in PyTorch, too, which decides what is the nearest.
            options: (if self.dtype() == DType::F64 { DType::F64 } else { DType::F32 }, self.device()).into(),
        };
        if matches!(mode, Nearest | NearestExact) {
            let along = |x: Tensor, dim: usize| x.index_select(dim, &map(dim).nearest(mode == NearestExact)?);
            return (2..self.rank()).try_fold(self.clone(), along);
        }
        check::floats(OP, self)?;
        if matches!(mode, Cubic { .. }) && self.rank() != 4 {
            return Err(Error::shape(OP, "images [N, C, H, W] for cubic interpolation", self.shape()));
        }
        let along = |x: Tensor, dim: usize| {
            let taps = match mode {
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

    /// The places of outputs, in elements.
    fn places(&self, align_corners: bool) -> Result<Tensor> {
        if align_corners {
            let step = if self.count > 1 { self.last() / (self.count as f64 - 1.0) } else { 0.0 };
            return self.outputs()?.mul(step);
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
        let distance = |tap: f64| places.sub(&first)?.sub(tap)?.abs();
        let tap = |tap: f64| {
            let t = distance(tap)?;
            let weight = if tap == 0.0 || tap == 1.0 {
                calc!((t * (A + 2.0) - (A + 3.0)) * &t * &t + 1.0)?
            } else {
                calc!(((t * A - 5.0 * A) * &t + 8.0 * A) * &t - 4.0 * A)?
            };
            Ok((first.add(tap)?.clamp(0.0, self.last())?, weight))
        };
        [-1.0, 0.0, 1.0, 2.0].into_iter().map(tap).collect()
    }
}
