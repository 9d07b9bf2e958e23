//! The patterns of fused operations that there are engines for.
use super::fusion::Step::{Add, Relu, ReluGrad, Sums};
use super::image::Image;
use super::operation::Direction;
use super::problem::Problem;
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

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
