//! `linear`: a matrix product whose epilogue adds the bias and applies ReLU.

use kiln_backend::{Checked, Layout, LinearArgs, LinearBackend, ReluMask, Result};

use crate::{
    device::CpuBackend,
    engine::iter::Walk,
    gemm::{Epilogue, Gemm, GemmElem, Matrix},
    memory::view::{Source, Target},
    numeric::{dispatch::for_float, stored::Stored},
};

impl LinearBackend for CpuBackend {
    /// Keeps no masks: ReLU's gradient reads the output.
    fn linear(&self, args: Checked<LinearArgs>) -> Result<Option<ReluMask>> {
        for_float!("linear", args.x.dtype(), T => affine::<T>(args.into_inner()).map(|()| None))
    }
}

fn affine<T: Stored + GemmElem>(args: LinearArgs) -> Result<()> {
    const OP: &str = "linear";
    let [m, n, k] = args.extents();
    let LinearArgs { x, w, bias, activation, out } = args;
    let (x, w, out) = (Source::<T>::new(OP, x)?, Source::<T>::new(OP, w)?, Target::<T>::new(OP, out)?);
    let mut gathered = Vec::new();
    let bias: Option<&[T]> = match bias {
        None => None,
        Some(bias) => {
            let bias = Source::<T>::new(OP, bias)?;
            Some(match bias.slice() {
                Some(slice) => slice,
                None => {
                    Walk::new(bias.layout()).offsets(0..n, |_, offset| {
                        // SAFETY: an element of the checked layout.
                        gathered.push(unsafe { bias.ptr().offset(offset).read() });
                    });
                    &gathered
                }
            })
        }
    };
    let epilogue = match (bias, activation.is_relu()) {
        (None, false) => Epilogue::None,
        (None, true) => Epilogue::Relu,
        (Some(bias), false) => Epilogue::Bias(bias),
        (Some(bias), true) => Epilogue::BiasRelu(bias),
    };
    let strides = |layout: &Layout| (layout.strides()[0], layout.strides()[1]);
    let ((rsx, csx), (rsw, csw), (rso, cso)) = (strides(x.layout()), strides(w.layout()), strides(out.layout()));
    let product = Gemm {
        m,
        n,
        k,
        a: Matrix { start: x.ptr(), row_stride: rsx, column_stride: csx },
        // The weight is read transposed.
        b: Matrix { start: w.ptr(), row_stride: csw, column_stride: rsw },
        c: Matrix { start: out.ptr(), row_stride: rso, column_stride: cso },
        accumulate: false,
        epilogue,
    };
    // SAFETY: the layouts were checked against the buffers and have the product's shapes, so every element that the extents
    // and strides describe is inside; the output's elements are distinct and exclusively borrowed.
    unsafe { product.run() };
    Ok(())
}

#[cfg(test)]
mod tests {

    use kiln_backend::{Activation, Arguments};

    use super::*;
    use crate::{
        ops::matmul::tests::{FLOATS, input, naive},
        testing::{Tensor, assert_close, shape},
    };

    #[test]
    fn linear_adds_the_bias_and_clips() {
        for dtype in FLOATS {
            for (m, n, k) in [(3, 5, 4), (1, 33, 7), (0, 2, 3), (4, 6, 0), (65, 70, 130)] {
                for bias in [None, Some(Layout::contiguous(shape(&[n]))), Some(Layout::contiguous(shape(&[n])).flip(0))]
                {
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
}
