//! Checks which fusions of a convolution the simulator has engines for.
use super::chain::Step;
use super::direction::Direction;
use super::image::Image;
use super::problem::Problem;
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

impl Problem {
    /// The tensors of what is fused, in the order of the operations.
    pub fn extra(&self) -> impl Iterator<Item = &Image> {
        self.steps.iter().filter_map(Step::operand).chain(&self.sums)
    }

    /// Whether only engines that are compiled at run time do it: ReLU's gradient, and a sum of tensors that are not described
    /// alike.
    pub fn is_compiled(&self) -> bool {
        match self.steps[..] {
            [Step::ReluGrad(_)] => true,
            [Step::Add(other), Step::Add(_), Step::Relu] => other.alignment != self.target().alignment,
            _ => false,
        }
    }

    /// What is fused must be one of the patterns that the library has engines for.
    pub fn check_fusion(&self) -> Result<(), Refusal> {
        let target = self.target();
        let per_channel = |image: &Image| image.dims == [1, target.dims[1], 1, 1] && image.data == self.data;
        let like = |image: &Image| {
            let Image { dims, steps, data, .. } = *target;
            (image.dims, image.steps, image.data) == (dims, steps, data)
        };
        let fits = match (self.direction, &self.steps[..], &self.sums) {
            (_, [], None) => true,
            (Direction::Forward, [Step::Add(bias)] | [Step::Add(bias), Step::Relu], None) => per_channel(bias),
            (Direction::Forward, [Step::Add(other), Step::Add(bias), Step::Relu], None) => {
                like(other) && per_channel(bias)
            }
            (Direction::Data, [Step::ReluGrad(y)], _) => like(y),
            _ => false,
        };
        if !fits {
            return Err(unsupported("no pattern that the simulator has engines for"));
        }
        if !self.is_compiled() {
            return Ok(());
        }
        let last = self.images().into_iter().chain(self.extra()).all(|image| image.last && image.channel_step == 1);
        if !last || self.mirrored || self.data == Data::F64 {
            return Err(unsupported("engines that are compiled take dense NHWC, cross-correlation, and no f64"));
        }
        let words = |channels: usize| (channels * self.data.bytes()).is_multiple_of(4);
        let apart = |steps: [usize; 2]| steps != [1, 1];
        let channels = self.x.dims[1];
        let fits = self.groups == 1 && channels > 1 && words(channels) && words(self.w.dims[0]);
        if self.sums.is_some() && (!fits || apart(self.stride) && apart(self.dilation)) {
            return Err(unsupported("engines with sums take one group, pixels of whole words, strides or dilations"));
        }
        Ok(())
    }
}
