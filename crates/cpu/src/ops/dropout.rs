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

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType, RandomState};

    use super::*;
    use crate::{
        numeric::philox,
        testing::{Tensor, layouts, numbers, read_layouts},
    };

    #[test]
    fn keeps_what_the_generator_says() {
        let state = RandomState { seed: 42, offset: 7 };
        for dims in [&[10usize, 130][..], &[3], &[], &[0], &[2, 3, 5]] {
            for dtype in [DType::F32, DType::F64, DType::BF16] {
                for from in read_layouts(dims) {
                    let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 1));
                    for to in layouts(dims) {
                        let mut out = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                        let args = DropoutArgs { p: 0.5, state, x: x.view(), out: out.view_mut() };
                        CpuBackend.dropout(args.checked().unwrap()).unwrap();
                        let mut blocks = vec![[0; 4]; to.numel().div_ceil(4)];
                        philox::words(state, 0, &mut blocks);
                        let words = blocks.concat();
                        let want: Vec<f64> = x
                            .values()
                            .iter()
                            .zip(words)
                            .map(|(v, w)| if w >= 1 << 31 { v * 2.0 } else { 0.0 })
                            .collect();
                        assert_eq!(out.values(), want);
                    }
                }
            }
        }
    }

    #[test]
    fn probabilities() {
        let x = Tensor::new(DType::F32, &[100_000], &[f64::NAN; 100_000]);
        let state = RandomState { seed: 1, offset: 0 };
        for p in [0.0, 0.1, 0.9] {
            let mut out = Tensor::empty(DType::F32, &[100_000]);
            let args = DropoutArgs { p, state, x: x.view(), out: out.view_mut() };
            CpuBackend.dropout(args.checked().unwrap()).unwrap();
            // Dropped NaNs are zeros.
            let kept = out.values().iter().filter(|v| v.is_nan()).count() as f64 / 1e5;
            assert!((kept - (1.0 - p)).abs() < 0.01, "{p}: {kept}");
        }
    }
}
