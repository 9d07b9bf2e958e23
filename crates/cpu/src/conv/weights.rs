//! The weights of a convolution as a matrix.

/// One group's weights: `rows` output channels by `columns`, which are `input channels * taps` and, if `bias` is set,
/// one more column with the biases.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a, T> {
    pub(crate) values: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bias: bool,
}
