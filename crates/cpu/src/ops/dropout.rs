//! Dropout: zeroes random elements and scales up the others.

use kiln_backend::{Checked, DropoutArgs, DropoutBackend, Result, bernoulli_threshold};

use crate::{
    device::CpuBackend,
    engine::{
        par::{self, GRAIN},
        reader::Reader,
        simd::multiversion,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{
        dispatch::for_float,
        real::{Float, Real},
    },
    ops::random::Draws,
};

const OP: &str = "dropout";

impl DropoutBackend for CpuBackend {
    fn dropout(&self, args: Checked<DropoutArgs>) -> Result<()> {
        for_float!(OP, args.x.dtype(), T => typed::<T>(args.into_inner()))
    }
}

fn typed<T: Float>(DropoutArgs { p, state, x, out }: DropoutArgs) -> Result<()> {
    let (x, out) = (Input::Tensor(Source::<T>::new(OP, x)?), Target::<T>::new(OP, out)?);
    let (threshold, scale) = (bernoulli_threshold(p), T::Compute::of(1.0 / (1.0 - p)));
    par::ranges(out.numel(), GRAIN / 4, |range| {
        // SAFETY: ranges are disjoint.
        let (mut reader, mut writer) = (Reader::new(&x), unsafe { Writer::new(&out) });
        let mut draws = Draws::new();
        for range in steps(range, TILE) {
            let words = draws.words(state, range.clone());
            writer.put(range.clone(), |out| keep(reader.get(range), words, threshold, scale, out));
        }
    });
    Ok(())
}

multiversion! {
    fn keep[T: Real](x: &[T], words: &[u32], threshold: u64, scale: T, out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let zero = T::of(0.0);
        let Some(last_dropped) = threshold.checked_sub(1) else { return out.copy_from_slice(x) };
        let last_dropped = last_dropped as u32;
        for ((&x, &word), out) in x.iter().zip(words).zip(out) {
            let kept = x * scale;
            *out = if word > last_dropped { kept } else { zero };
        }
    }
}
