//! Filling with one number or with an arithmetic sequence.

use kiln_backend::{Arange, FillBackend, Result, Scalar, ViewMut};

use crate::{
    device::CpuBackend,
    engine::{
        elementwise::map1,
        par::{self, GRAIN},
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Target},
    numeric::{convert::Destination, dispatch::for_all, stored::Stored},
};

impl FillBackend for CpuBackend {
    fn fill(&self, value: Scalar, out: ViewMut) -> Result<()> {
        for_all!(out.buffer.dtype(), T => {
            let value = Input::<T>::Constant(<T as Stored>::from_scalar(value).load());
            map1(GRAIN, &value, &mut Target::<T>::new("fill", out)?, |x, out| out.copy_from_slice(x));
            Ok(())
        })
    }

    fn arange(&self, range: Arange, out: ViewMut) -> Result<()> {
        let Arange { start, step } = range;
        for_all!(out.buffer.dtype(), T => {
            let out = Target::<T>::new("arange", out)?;
            if start.is_float() || step.is_float() {
                let (start, step) = (start.to_f64(), step.to_f64());
                sequence(&out, |i| T::convert(start + i as f64 * step));
            } else {
                let (start, step) = (start.to_i64(), step.to_i64());
                sequence(&out, |i| T::convert(start.wrapping_add((i as i64).wrapping_mul(step))));
            }
            Ok(())
        })
    }
}

/// Element `i` in row-major order is `f(i)`.
fn sequence<T: Destination>(out: &Target<T>, f: impl Fn(usize) -> T::Compute + Sync) {
    par::ranges(out.numel(), GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let mut writer = unsafe { Writer::new(out) };
        for range in steps(range, TILE) {
            let start = range.start;
            writer.put(range, |out| {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = f(start + i);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use kiln_backend::DType;

    use super::*;
    use crate::testing::{SHAPES, Tensor, layouts};

    #[test]
    fn fills_every_layout() {
        for dtype in DType::ALL {
            for dims in SHAPES {
                for layout in layouts(dims) {
                    let mut out = Tensor::with_layout(dtype, layout, &vec![77.0; layout.numel()]);
                    let before = out.bytes().to_vec();
                    CpuBackend.fill(Scalar::Int(1), out.view_mut()).unwrap();
                    assert_eq!(out.values(), vec![1.0; layout.numel()]);
                    let changed = before.iter().zip(out.bytes()).filter(|(a, b)| a != b).count();
                    assert!(changed <= layout.numel() * dtype.size());
                }
            }
        }
    }

    #[test]
    fn aranges() {
        for (start, step, dtype, want) in [
            (Scalar::Int(3), Scalar::Int(-2), DType::I64, [3.0, 1.0, -1.0, -3.0]),
            (Scalar::Int(3), Scalar::Int(2), DType::F32, [3.0, 5.0, 7.0, 9.0]),
            (Scalar::Float(0.0), Scalar::Float(0.5), DType::F16, [0.0, 0.5, 1.0, 1.5]),
            (Scalar::Float(0.0), Scalar::Float(0.5), DType::I32, [0.0, 0.0, 1.0, 1.0]),
            (Scalar::Int(0), Scalar::Int(1), DType::Bool, [0.0, 1.0, 1.0, 1.0]),
        ] {
            for layout in layouts(&[2, 2]) {
                let mut out = Tensor::with_layout(dtype, layout, &[0.0; 4]);
                CpuBackend.arange(Arange { start, step }, out.view_mut()).unwrap();
                assert_eq!(out.values(), want);
            }
        }
        let mut out = Tensor::empty(DType::F64, &[100_000]);
        CpuBackend.arange(Arange { start: Scalar::Float(1.0), step: Scalar::Float(0.1) }, out.view_mut()).unwrap();
        assert!(out.values().iter().enumerate().all(|(i, &v)| v == 1.0 + i as f64 * 0.1));
    }
}
