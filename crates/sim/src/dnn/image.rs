//! Images, volumes and filters in memory: their extents, strides and element types.
use super::attributes::Record;
use super::status::{Refusal, unsupported};
use crate::blas::problem::Data;

/// An image, a volume or a filter in memory: extents and strides in elements, of samples, channels, depth, height and width. An
/// image has a depth of 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its id, by which a variant pack gives it an address.
    pub uid: i64,
    /// The number of bytes that the address is a multiple of.
    pub alignment: u64,
    pub data: Data,
    pub dims: [usize; 5],
    /// Those of a dense tensor, whatever was given for an extent of 1.
    pub steps: [usize; 5],
    /// The stride of the channels as it was given.
    pub channel_step: usize,
}

/// Whether a tensor is dense in the order NHWC, if `last`, or NCHW (of volumes NDHWC and NCDHW); both can be.
fn is_dense(dims: [usize; 5], steps: [usize; 5], last: bool) -> bool {
    let dense = strides(dims, last);
    (0..5).all(|dim| dims[dim] == 1 || steps[dim] == dense[dim])
}

fn strides([_, c, d, h, w]: [usize; 5], last: bool) -> [usize; 5] {
    if last { [d * h * w * c, 1, h * w * c, w * c, c] } else { [c * d * h * w, d * h * w, h * w, w, 1] }
}

/// Values of a tensor with a depth of its own, or with the given value for it.
fn with_depth(values: &[i64], depth: i64) -> Option<[usize; 5]> {
    let all = match *values {
        [n, c, h, w] => [n, c, depth, h, w],
        [n, c, d, h, w] => [n, c, d, h, w],
        _ => return None,
    };
    Some(all.map(|value| value as usize))
}

impl Image {
    pub fn new(tensor: &Record) -> Result<Image, Refusal> {
        let (Some(dims), Some(steps)) = (with_depth(tensor.dims(), 1), with_depth(tensor.numbers(903), 1)) else {
            return Err(unsupported("the simulator has convolutions of two and three axes only"));
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
