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
