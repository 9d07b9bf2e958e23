//! `relu_bias_grad`: the gradients of a bias and of the ReLU after it.

use kiln_backend::*;

use crate::{
    images::{ORDERS, Order, empty, image, wild},
    support::{FLOATS, MemoryLayout, Tensor, device, host, read, same, target, tensor},
};

/// ReLU's gradient in `out`, and its sums over all dimensions but the channels in `bias`.
fn both(on: &dyn Backend, grad: &Tensor, y: &Tensor, mut out: Tensor, mut bias: Tensor) -> Result<Vec<Tensor>> {
    let (grad, y) = (grad.view(), y.view());
    on.relu_bias_grad(ReluBiasGradArgs { grad, y, dim: 1, out: out.view_mut(), bias: bias.view_mut() }.checked()?)?;
    Ok(vec![out, bias])
}

#[test]
fn relu_bias_grad() {
    use MemoryLayout::{Dense, Sliced, Turned};
    for dtype in FLOATS {
        for dims in [[3, 5, 4, 3], [2, 40, 17, 17], [3, 2, 85, 67], [0, 4, 2, 2]] {
            for order in ORDERS {
                same(&format!("{dims:?} {order:?}"), |on| {
                    let (grad, y) = (image(on, dtype, dims, Order::Planes, 1), wild(on, dtype, dims, order));
                    let (out, bias) = (empty(on, dtype, dims, order), target(on, dtype, &dims[1..2], Sliced));
                    both(on, &grad, &y, out, bias)
                });
            }
        }
        for (dims, memory) in [
            ([64, 10], Dense),
            ([1000, 33], Dense),
            ([33, 70], Turned),
            ([24, 64], Turned),
            ([1, 7], Sliced),
            ([4, 0], Dense),
        ] {
            same(&format!("{dims:?} {memory:?}"), |on| {
                let (grad, y) = (tensor(on, dtype, &dims, Dense, 1), tensor(on, dtype, &dims, memory, 2));
                let (out, bias) = (target(on, dtype, &dims, memory), target(on, dtype, &dims[1..], Dense));
                both(on, &grad, &y, out, bias)
            });
        }
    }
}

/// Dense tensors of one layout, which kernels take 16 bytes at a time: planes and rows along memory, channels and columns
/// across it, in one stage and in two.
#[test]
fn relu_bias_grad_in_packs() {
    for dtype in FLOATS {
        for (dims, order) in [
            ([3, 5, 4, 6], Order::Planes),
            ([2, 3, 64, 72], Order::Planes),
            ([3, 24, 5, 3], Order::Pixels),
            ([2, 8, 70, 61], Order::Pixels),
            ([70, 40, 1, 1], Order::Planes),
            ([1, 16, 1, 1], Order::Planes),
        ] {
            same(&format!("{dims:?} {order:?} {dtype}"), |on| {
                let (grad, y) = (image(on, dtype, dims, order, 1), wild(on, dtype, dims, order));
                let (out, bias) = (empty(on, dtype, dims, order), target(on, dtype, &dims[1..2], MemoryLayout::Sliced));
                both(on, &grad, &y, out, bias)
            });
        }
    }
}

#[test]
fn relu_bias_grad_lets_through_what_was_above_0() {
    let Some(device) = device() else { return };
    for on in [device as &dyn Backend, kiln_cpu::backend().unwrap()] {
        let shape = Shape::new(&[2, 3]).unwrap();
        let given = |values: &[f64]| Tensor {
            buffer: on.adopt(host(DType::F32, values)).unwrap(),
            layout: Layout::contiguous(shape),
        };
        let (grad, y) = (given(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), given(&[1.0, 0.0, f64::NAN, 0.5, -0.0, 9.0]));
        let (out, bias) = (given(&[9.0; 6]), target(on, DType::F32, &[3], MemoryLayout::Dense));
        let results = both(on, &grad, &y, out, bias).unwrap();
        assert_eq!(read(on, &results[0]), [2.0, 0.0, 4.0, 5.0, 0.0, 7.0]);
        assert_eq!(read(on, &results[1]), [7.0, 0.0, 11.0]);
    }
}
