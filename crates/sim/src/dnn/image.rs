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
    pub steps: [usize; 4],
    /// Whether it is channels-last, and whether it is channels-first; both if only one extent is not 1.
    pub last: bool,
    pub first: bool,
    /// The stride of the channels, which is given even if there is only one.
    pub channel_step: usize,
}

/// The element type for a number of the library (`cudnnDataType_t`).
pub fn data_of(number: i64) -> Option<Data> {
    Some(match number {
        0 => Data::F32,
        1 => Data::F64,
        2 => Data::F16,
        9 => Data::Bf16,
        _ => return None,
    })
}

impl Image {
    fn strides([_, c, h, w]: [usize; 4], last: bool) -> [usize; 4] {
        if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
    }

    pub fn new(tensor: &Record) -> Result<Image, Refusal> {
        let four = |attribute| <[i64; 4]>::try_from(tensor.numbers(attribute));
        let (Ok(dims), Ok(steps)) = (four(902), four(903)) else {
            return Err(unsupported("the simulator has convolutions of two axes only"));
        };
        let (dims, steps) = (dims.map(|dim| dim as usize), steps.map(|step| step as usize));
        let fits = |last| {
            let dense = Image::strides(dims, last);
            (0..4).all(|dim| dims[dim] == 1 || steps[dim] == dense[dim])
        };
        let (first, last) = (fits(false), fits(true));
        if !first && !last {
            return Err(unsupported("a tensor that is not dense as NCHW or NHWC"));
        }
        let count = dims.iter().try_fold(1usize, |count, dim| count.checked_mul(*dim));
        if count.is_none_or(|count| count > i32::MAX as usize) {
            return Err(unsupported("a tensor of 2^31 elements or more"));
        }
        let (uid, alignment) = (tensor.number(906, 0), tensor.number(900, 1) as u64);
        let data = data_of(tensor.number(901, 0));
        let data = data.ok_or(unsupported("no combination of types in the library's tables"))?;
        Ok(Image {
            uid,
            alignment,
            data,
            dims,
            steps: Image::strides(dims, !first),
            last,
            first,
            channel_step: steps[1],
        })
    }

    pub fn count(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn bytes(&self) -> usize {
        self.count() * self.data.bytes()
    }
}
