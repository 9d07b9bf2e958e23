//! Images and filters in memory: their extents, strides and element types.
use super::attributes::Record;
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

/// An image or a filter in memory: extents and strides in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id, by which a variant pack gives it an address.
    pub uid: i64,
    /// The number of bytes that the address is a multiple of.
    pub alignment: u64,
    pub data: Data,
    pub dims: [usize; 4],
    /// Those of a dense tensor, whatever was given for an extent of 1.
    pub steps: [usize; 4],
    /// The stride of the channels as it was given.
    pub channel_step: usize,
}

/// Whether a tensor is dense in the order NHWC, if `last`, or NCHW; both can be.
fn is_dense(dims: [usize; 4], steps: [usize; 4], last: bool) -> bool {
    let dense = strides(dims, last);
    (0..4).all(|dim| dims[dim] == 1 || steps[dim] == dense[dim])
}

fn strides([_, c, h, w]: [usize; 4], last: bool) -> [usize; 4] {
    if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
}

impl Image {
    pub fn new(tensor: &Record) -> Result<Image, Refusal> {
        let four = |values: &[i64]| Some(<[i64; 4]>::try_from(values).ok()?.map(|value| value as usize));
        let (Some(dims), Some(steps)) = (four(tensor.dims()), four(tensor.numbers(903))) else {
            return Err(unsupported("the simulator has convolutions of two axes only"));
        };
        let last = !is_dense(dims, steps, false);
        if last && !is_dense(dims, steps, true) {
            return Err(unsupported("a tensor that is not dense as NCHW or NHWC"));
        }
        let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
        if count.is_none_or(|count| count > i32::MAX as usize) {
            return Err(unsupported("a tensor of 2^31 elements or more"));
        }
        let data = match tensor.number(901, 0) {
            0 => Data::F32,
            1 => Data::F64,
            2 => Data::F16,
            9 => Data::Bf16,
            _ => return Err(unsupported("no combination of types in the library's tables")),
        };
        Ok(Image {
            uid: tensor.uid().unwrap_or(0),
            alignment: tensor.number(900, 1) as u64,
            data,
            dims,
            steps: strides(dims, last),
            channel_step: steps[1],
        })
    }

    /// Whether it is dense in NHWC, if `last`, or in NCHW: in both, if only one extent is not 1.
    pub fn is_dense(&self, last: bool) -> bool {
        is_dense(self.dims, self.steps, last)
    }

    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn bytes(&self) -> usize {
        self.count() * self.data.bytes()
    }
}
