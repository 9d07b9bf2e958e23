//! The order of images and volumes in memory, channels first or channels last, and which of them suits several operands.

use kiln_backend::{DType, Layout};

/// The order of the dimensions of images or volumes in memory. cuDNN calls them NCHW and NHWC, NCDHW and NDHWC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// NCHW
    ChannelsFirst,
    /// NHWC
    ChannelsLast,
}

impl Format {
    /// The strides of a dense tensor of these extents, of which the second are channels.
    pub(crate) fn strides<const R: usize>(self, dims: [usize; R]) -> [usize; R] {
        let (mut strides, mut step) = ([1; R], 1);
        let (channels, rest) = (1..2, (0..1).chain(2..R));
        let mut place = |dim: usize| {
            strides[dim] = step;
            step *= dims[dim];
        };
        // From the innermost to the outermost.
        match self {
            Format::ChannelsFirst => (0..R).rev().for_each(place),
            Format::ChannelsLast => channels.chain(rest.rev()).for_each(&mut place),
        }
        strides
    }

    /// Whether a tensor is dense in this order. A dimension of extent 1 may have any stride.
    pub(crate) fn fits<const R: usize>(self, layout: &Layout) -> bool {
        let Ok(dims) = <[usize; R]>::try_from(layout.dims()) else { return false };
        let strides = self.strides(dims);
        (0..R).all(|dim| dims[dim] == 1 || layout.strides()[dim] == strides[dim] as isize)
    }

    /// The order that needs the fewest copies of these operands, and which of them it copies. On a tie, the order of
    /// the first operand decides. cuDNN has no channels-last convolutions of `f64` images. All have `R` dimensions.
    pub(crate) fn of<const R: usize, const N: usize>(dtype: DType, operands: [&Layout; N]) -> (Format, [bool; N]) {
        let copies = |format: Format| operands.map(|layout| !format.fits::<R>(layout));
        let (first, last) = (copies(Format::ChannelsFirst), copies(Format::ChannelsLast));
        let cost = |copies: [bool; N]| (copies.iter().filter(|&&copy| copy).count(), copies[0]);
        let is_last = dtype != DType::F64 && cost(last) < cost(first);
        if is_last { (Format::ChannelsLast, last) } else { (Format::ChannelsFirst, first) }
    }
}

#[cfg(test)]
mod tests {
    use kiln_backend::Shape;

    use super::*;

    fn layout(dims: [usize; 4], order: [usize; 4]) -> Layout {
        let mut inverse = [0; 4];
        order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
        let permuted = order.map(|dim| dims[dim]);
        Layout::contiguous(Shape::new(&permuted).unwrap()).permute(&inverse)
    }

    const FIRST: [usize; 4] = [0, 1, 2, 3];
    const LAST: [usize; 4] = [0, 2, 3, 1];

    #[test]
    fn the_order_is_that_of_most_operands() {
        let (x, w) = ([2, 3, 5, 4], [6, 3, 3, 3]);
        let (first, last) = (layout(x, FIRST), layout(x, LAST));
        assert_eq!(first.dims(), last.dims());
        let (filter, filter_last) = (layout(w, FIRST), layout(w, LAST));
        assert_eq!(Format::of::<4, _>(DType::F32, [&first, &filter]), (Format::ChannelsFirst, [false, false]));
        assert_eq!(Format::of::<4, _>(DType::F32, [&last, &filter_last]), (Format::ChannelsLast, [false, false]));
        assert_eq!(Format::of::<4, _>(DType::F32, [&last, &filter]), (Format::ChannelsLast, [false, true]));
        assert_eq!(Format::of::<4, _>(DType::F32, [&first, &filter_last]), (Format::ChannelsFirst, [false, true]));
        assert_eq!(
            Format::of::<4, _>(DType::F32, [&first.flip(3), &filter_last]),
            (Format::ChannelsLast, [true, false])
        );
        assert_eq!(
            Format::of::<4, _>(DType::F32, [&first, &filter_last, &last]),
            (Format::ChannelsLast, [true, false, false])
        );
        assert_eq!(Format::of::<4, _>(DType::F64, [&last, &filter_last]), (Format::ChannelsFirst, [true, true]));
        // With one channel, both orders are the same.
        let gray = layout([2, 1, 5, 4], FIRST);
        assert_eq!(
            Format::of::<4, _>(DType::F32, [&gray, &layout([6, 1, 3, 3], LAST)]),
            (Format::ChannelsFirst, [false, false])
        );
        assert_eq!(Format::of::<4, _>(DType::F32, [&gray, &filter_last]), (Format::ChannelsLast, [false, false]));
        // Volumes.
        let volume = [2, 3, 4, 5, 6];
        assert_eq!(Format::ChannelsFirst.strides(volume), [360, 120, 30, 6, 1]);
        assert_eq!(Format::ChannelsLast.strides(volume), [360, 1, 90, 18, 3]);
        // A slice of the batch is dense, a slice of the channels is not.
        assert_eq!(Format::of::<4, _>(DType::F32, [&first.slice(0, 1, 2, 1)]), (Format::ChannelsFirst, [false]));
        assert_eq!(Format::of::<4, _>(DType::F32, [&first.slice(1, 0, 2, 1)]), (Format::ChannelsFirst, [true]));
    }
}
