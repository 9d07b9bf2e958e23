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
