//! Image tensors for the tests of pooling, normalization and bias gradients.

use kiln_backend::*;

use crate::support::{Tensor, host, numbers};

/// How an image lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    Planes,
    /// Channels last.
    Pixels,
    /// Rows before channels before images before columns, after an offset and with gaps.
    Odd,
}

pub const ORDERS: [Order; 3] = [Order::Planes, Order::Pixels, Order::Odd];

pub fn lay(dims: [usize; 4], order: Order) -> (Layout, usize) {
    let numel: usize = dims.iter().product();
    let turned = |order: [usize; 4], back: [usize; 4], gap: usize| {
        let mut wide = order.map(|d| dims[d]);
        wide[3] *= 1 + gap;
        let whole = Layout::contiguous(Shape::new(&wide).unwrap());
        (if gap == 0 { whole } else { whole.slice(3, gap, wide[3], 1 + gap) }).permute(&back)
    };
    match order {
        Order::Planes => (Layout::contiguous(Shape::new(&dims).unwrap()), numel),
        Order::Pixels => (turned([0, 2, 3, 1], [0, 3, 1, 2], 0), numel),
        Order::Odd => (turned([2, 1, 0, 3], [2, 1, 0, 3], 1), 2 * numel),
    }
}

pub fn image(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order, salt: u64) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &numbers(len, salt))).unwrap(), layout }
}

/// A gradient that goes along with `image(…, salt 1)`: its sums and those of its products with the image are large
/// compared with what rounding leaves.
pub fn along(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    let values: Vec<f64> = numbers(len, 1).into_iter().zip(numbers(len, 2)).map(|(x, v)| x + v + 3.0).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// An image with equal elements, NaNs and infinities.
pub fn wild(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    let mut values = numbers(len, 3);
    for (i, value) in values.iter_mut().enumerate() {
        *value = match i % 37 {
            5 => f64::NAN,
            11..=13 => f64::NEG_INFINITY,
            14 => f64::INFINITY,
            _ => (*value * 2.0).round() / 2.0,
        };
    }
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

pub fn empty(on: &dyn Backend, dtype: DType, dims: [usize; 4], order: Order) -> Tensor {
    let (layout, len) = lay(dims, order);
    Tensor { buffer: on.adopt(host(dtype, &vec![0.0; len])).unwrap(), layout }
}
