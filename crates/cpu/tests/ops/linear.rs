//! Tests of `linear`.

use kiln_backend::{Activation, Arguments, Layout, LinearArgs, LinearBackend};
use kiln_cpu::CpuBackend;

use crate::matmul::{FLOATS, input, naive};
use crate::testing::{Tensor, assert_close, shape};

#[test]
fn linear_adds_the_bias_and_clips() {
    for dtype in FLOATS {
        for (m, n, k) in [(3, 5, 4), (1, 33, 7), (0, 2, 3), (4, 6, 0), (65, 70, 130)] {
            for bias in [None, Some(Layout::contiguous(shape(&[n]))), Some(Layout::contiguous(shape(&[n])).flip(0))] {
                for relu in [false, true] {
                    let x = input(dtype, Layout::contiguous(shape(&[m, k])), 3);
                    let w = input(dtype, Layout::contiguous(shape(&[n, k])), 4);
                    let bias = bias.map(|layout| input(dtype, layout, 5));
                    let mut out = Tensor::empty(dtype, &[m, n]);
                    CpuBackend
                        .linear(
                            LinearArgs {
                                x: x.view(),
                                w: w.view(),
                                bias: bias.as_ref().map(Tensor::view),
                                activation: Activation::relu(relu),
                                out: out.view_mut(),
                            }
                            .checked()
                            .unwrap(),
                        )
                        .unwrap();
                    let wt = Tensor::with_layout(dtype, w.layout, &w.values());
                    let wt = Tensor { layout: wt.layout.transpose(0, 1), ..wt };
                    let add = bias.as_ref().map_or(vec![0.0; n], Tensor::values);
                    let want: Vec<f64> = naive(&x.values(), &wt.values(), [1, m, n, k])
                        .iter()
                        .enumerate()
                        .map(|(i, v)| v + add[i % n])
                        .map(|v| if relu { v.max(0.0) } else { v })
                        .map(|v| v / (k as f64 + 1.0))
                        .collect();
                    let got: Vec<f64> = out.values().iter().map(|v| v / (k as f64 + 1.0)).collect();
                    assert_close(&got, &want, dtype, 2e4, &format!("{m} {n} {k} {relu}"));
                }
            }
        }
    }
}
