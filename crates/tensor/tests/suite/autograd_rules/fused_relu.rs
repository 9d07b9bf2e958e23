//! ReLU's gradient as part of the backward pass of the next convolution or pooling.

use kiln_tensor::{
    Conv2d, Device, Pooling, Result, Tensor,
    autograd::{self},
};

use super::RETAIN;
use crate::common::compare::assert_close;

/// Fusing cannot be observed: gradients are those of the separate operations, also if something else uses the tensor between
/// them or has hooks on it.
#[test]
fn gradients_through_stacked_convolutions() -> Result<()> {
    gradients_through(|h, v| h.conv2d(v, None, &RULE))
}

#[test]
fn gradients_through_a_convolution_and_pooling() -> Result<()> {
    gradients_through(|h, _| h.max_pool2d(&Pooling::new([2, 2])))?;
    gradients_through(|h, _| h.max_pool2d(&Pooling::new([3, 3]).stride([2, 2]).padding([1, 1])))?;
    gradients_through(|h, _| h.adaptive_max_pool2d([3, 2]))?;
    // The maxima that were kept are no longer what they were.
    gradients_through(|h, _| {
        let y = h.max_pool2d(&Pooling::new([2, 2]))?;
        y.add_(-0.3)?;
        Ok(y)
    })
}

const RULE: Conv2d = Conv2d { stride: [1, 1], padding: [1, 1], dilation: [1, 1], groups: 1 };

/// Compares the gradients of a convolution, ReLU and what is `next` with those of separate operations.
fn gradients_through(next: fn(&Tensor, &Tensor) -> Result<Tensor>) -> Result<()> {
    let leaf = |dims: &[usize], salt: usize| -> Result<Tensor> {
        let count = dims.iter().product::<usize>();
        let values: Vec<f64> = (0..count).map(|i| ((i * 7 + salt) % 11) as f64 / 5.0 - 1.0).collect();
        Tensor::from_vec(values, dims, Device::Cpu)?.requires_grad_(true)
    };
    type Watch = fn(&Tensor) -> Result<Option<Tensor>>;
    let watches: [Watch; 5] = [
        |_| Ok(None),
        |h| h.register_hook(|grad| grad.mul(2).map(Some)).map(|_| None),
        |h| h.retain_grad().map(|()| None),
        |h| h.mul(3)?.sum(()).map(Some),
        |h| Ok(Some(h.narrow(0, 0, 1)?.sum(())?)),
    ];
    for (i, watch) in watches.into_iter().enumerate() {
        for (bias, frozen, last) in [(true, false, false), (true, true, true), (false, false, true)] {
            let run = |fused: bool| -> Result<Vec<Tensor>> {
                let (x, w, v) = (leaf(&[2, 2, 4, 3], 1)?, leaf(&[3, 2, 3, 3], 2)?, leaf(&[2, 3, 3, 3], 3)?);
                let b = leaf(&[3], 4)?.requires_grad_(!frozen)?;
                let b = bias.then_some(&b);
                let input = if last { x.channels_last()? } else { x.clone() };
                let h = if fused { input.conv2d_relu(&w, b, &RULE)? } else { input.conv2d(&w, b, &RULE)?.relu()? };
                let more = watch(&h)?;
                // Not 0 where ReLU lets nothing through, so that a gradient arrives there.
                let y = next(&h, &v)?.add(0.5)?;
                let mut loss = y.mul(&y)?.sum(())?;
                if let Some(more) = more {
                    loss = loss.add(&more)?;
                }
                let roots = [(loss.clone(), None)];
                let mut asked = autograd::grad_with(&roots, &[&h, &w], RETAIN)?;
                asked.extend(autograd::grad_with(&roots, &[&w], RETAIN)?);
                loss.backward()?;
                let of_leaves = [&x, &w, &v].into_iter().chain(b).chain([&h]).filter_map(Tensor::grad);
                Ok(asked.into_iter().flatten().chain(of_leaves).collect())
            };
            let (got, want) = (run(true)?, run(false)?);
            assert_eq!(got.len(), want.len(), "{i} {bias} {frozen}");
            got.iter().zip(&want).for_each(|(got, want)| assert_close(got, want));
        }
    }
    Ok(())
}
