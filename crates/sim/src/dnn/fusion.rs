//! What is fused to a convolution: the operations after it in a graph.
use super::attributes::{Kind, Record};
use super::image::Image;
use super::status::{Refusal, unsupported};

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
