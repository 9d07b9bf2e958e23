//! What is fused to a convolution: the operations after it in a graph, and the patterns that there are engines for.
use super::attributes::{Kind, Record};
use super::image::Image;
use super::operation::Direction;
use super::problem::Problem;
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

/// What is done to a convolution's result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Plus the element of a tensor like the result, or the number of its channel.
    Add,
    Relu,
    /// 0 where the element of a tensor like the result is not above 0.
    ReluGrad,
    /// The sums of each channel, added to what is in a tensor.
    Sums,
}

use Step::{Add, Relu, ReluGrad, Sums};

impl Step {
    /// An operation on the value so far, with its other operand and the value after it. `compute` is the type of sums.
    pub fn new<'a>(
        operation: &'a Record,
        value: &'a Record,
        compute: i64,
    ) -> Result<(Step, Option<Image>, &'a Record), Refusal> {
        let to_rule = if operation.kind == Kind::ReductionOperation { 1612 } else { 750 };
        let rule = |attribute| operation.number_in(to_rule, attribute, 0);
        let (step, precision, from, other, to) = match (operation.kind, rule(0), rule(1600)) {
            (Kind::PointwiseOperation, 0, _) => (Add, 1, 751, Some(752), Some(753)),
            (Kind::PointwiseOperation, 100, _) => (Relu, 1, 751, None, Some(753)),
            (Kind::PointwiseOperation, 200, _) => (ReluGrad, 1, 757, Some(751), Some(756)),
            (Kind::ReductionOperation, _, 0) => (Sums, 1601, 1610, Some(1611), None),
            _ => return Err(unsupported("other operations than sums, ReLU and its gradient after one convolution")),
        };
        if rule(precision) != compute {
            return Err(unsupported("an operation in another type than that of sums"));
        }
        if value.uid().is_none() || value.uid() != operation.part(from)?.uid() {
            return Err(unsupported("operations that are not joined"));
        }
        let other = other.map(|other| operation.part(other)).transpose()?;
        if other.is_some_and(|other| other.uid().is_none() || other.is_virtual()) {
            return Err(unsupported("an operand without a number, or without memory"));
        }
        if value.is_virtual() != to.is_some() || value.is_virtual() && value.number(901, 0) != compute {
            return Err(unsupported("sums of a tensor without memory, or another one between operations"));
        }
        let to = to.map_or(Ok(value), |to| operation.part(to))?;
        if value.dims() != to.dims() || to.uid().is_none() {
            return Err(unsupported("operations of different extents, or a result without a number"));
        }
        Ok((step, other.map(Image::new).transpose()?, to))
    }
}

impl Problem {
    /// Whether only engines that are compiled at run time do it: ReLU's gradient, and a sum of tensors that are not
    /// described alike.
    pub fn is_compiled(&self) -> bool {
        match (&self.steps[..], self.fused()) {
            ([ReluGrad, ..], _) => true,
            ([Add, Add, ..], [other, ..]) => other.alignment != self.target().alignment,
            _ => false,
        }
    }

    /// What is fused must be one of the patterns that the library has engines for.
    pub fn check_fusion(&self) -> Result<(), Refusal> {
        let target = self.target();
        let per_channel = |image: &Image, data| image.dims == [1, target.dims[1], 1, 1, 1] && image.data == data;
        let like = |image: &Image| (image.dims, image.steps, image.data) == (target.dims, target.steps, target.data);
        let fits = match (self.direction, &self.steps[..], self.fused()) {
            (_, [], []) => true,
            (Direction::Forward, [Add], [bias]) => per_channel(bias, self.data),
            // Kiln fuses nothing else for volumes.
            _ if self.volumes => false,
            (Direction::Forward, [Add, Relu], [bias]) => per_channel(bias, self.data),
            (Direction::Forward, [Add, Add, Relu], [other, bias]) => like(other) && per_channel(bias, self.data),
            (Direction::Data, [ReluGrad], [y]) => like(y),
            (Direction::Data, [ReluGrad, Sums], [y, sums]) => like(y) && per_channel(sums, Data::F32),
            _ => false,
        };
        if !fits {
            return Err(unsupported("no pattern that the simulator has engines for"));
        }
        if !self.is_compiled() {
            return Ok(());
        }
        let last = self.tensors.iter().all(|image| image.is_dense(true) && image.channel_step == 1);
        if !last || self.mirrored || self.data == Data::F64 {
            return Err(unsupported("engines that are compiled take dense NHWC, cross-correlation, and no f64"));
        }
        let words = |channels: usize| (channels * self.data.bytes()).is_multiple_of(4);
        let [x, w, _] = self.images().map(|image| image.dims);
        let fits = self.groups == 1 && x[1] > 1 && words(x[1]) && words(w[0]);
        if self.has_sums() && (!fits || self.stride != [1; 3] && self.dilation != [1; 3]) {
            return Err(unsupported("engines with sums take one group, pixels of whole words, strides or dilations"));
        }
        Ok(())
    }
}
