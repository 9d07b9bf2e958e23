//! Fills tensors with random numbers by position: element `n` depends only on the seed, the offset and `n`.

use std::ops::Range;

use kiln_backend::{
    Checked, DType, Distribution, RandomArgs, RandomBackend, RandomState, Result, ViewMut, bernoulli_threshold,
};

use crate::{
    device::CpuBackend,
    engine::{
        par,
        simd::multiversion,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::Target,
    numeric::{
        convert::Destination,
        dispatch::{for_all, for_float},
        normal, philox,
        real::{Float, Real},
        stored::Stored,
    },
};

/// Elements that are worth a task: a draw costs as much as a few additions.
const GRAIN: usize = par::GRAIN / 4;

impl RandomBackend for CpuBackend {
    fn random(&self, args: Checked<RandomArgs>) -> Result<()> {
        let RandomArgs { distribution, state, out } = args.into_inner();
        let dtype = out.dtype();
        match distribution {
            Distribution::Uniform { low, high } => {
                for_float!("uniform", dtype, T => uniform::<T>(low, high, state, out))
            }
            Distribution::Normal { mean, std } => for_float!("normal", dtype, T => {
                let out = Target::<T>::new("normal", out)?;
                draw(state, &out, draws_of(dtype), &normal::kernel::<<T as Stored>::Compute>(mean, std));
                Ok(())
            }),
            Distribution::Bernoulli { p } => {
                let threshold = bernoulli_threshold(p);
                for_all!(dtype, T => {
                    let out = Target::<T>::new("bernoulli", out)?;
                    draw(state, &out, 4, &|words, out| bernoulli::<T>(words, threshold, out));
                    Ok(())
                })
            }
            Distribution::Integers { low, high } => for_all!(dtype, T => {
                let out = Target::<T>::new("randint", out)?;
                draw(state, &out, 2, &|words, out| integers::<T>(words, low, high, out));
                Ok(())
            }),
        }
    }
}

/// How many reals of this dtype a block of four words gives.
fn draws_of(dtype: DType) -> usize {
    if dtype == DType::F64 { 2 } else { 4 }
}

/// Random numbers of the positions of a tile, made in whole blocks.
pub(crate) struct Draws<C> {
    blocks: [[u32; 4]; TILE / 2 + 1],
    values: [C; TILE + 8],
}

impl<C: bytemuck::Pod> Draws<C> {
    pub(crate) fn new() -> Draws<C> {
        Draws { blocks: [[0; 4]; TILE / 2 + 1], values: [C::zeroed(); TILE + 8] }
    }

    /// The values at positions `range` (at most `TILE`), where `make` turns blocks into `per_block` values
    /// each (2 or 4).
    fn get(
        &mut self,
        state: RandomState,
        range: Range<usize>,
        per_block: usize,
        make: impl FnOnce(&[[u32; 4]], &mut [C]),
    ) -> &[C] {
        let first = range.start / per_block;
        let blocks = &mut self.blocks[..range.end.div_ceil(per_block) - first];
        philox::words(state, first as u64, blocks);
        let values = &mut self.values[..blocks.len() * per_block];
        make(blocks, values);
        let skip = range.start - first * per_block;
        &values[skip..skip + range.len()]
    }
}

impl Draws<u32> {
    /// The word of each position.
    pub(crate) fn words(&mut self, state: RandomState, range: Range<usize>) -> &[u32] {
        self.get(state, range, 4, |blocks, out| out.copy_from_slice(blocks.as_flattened()))
    }
}

/// Turns blocks of the generator into values.
type Make<'a, C> = dyn Fn(&[[u32; 4]], &mut [C]) + Sync + 'a;

/// Fills `out` with what `make` draws from blocks.
fn draw<T: Stored>(state: RandomState, out: &Target<T>, per_block: usize, make: &Make<'_, T::Compute>) {
    par::ranges(out.numel(), GRAIN, |range| {
        // SAFETY: ranges are disjoint.
        let mut writer = unsafe { Writer::new(out) };
        let mut draws = Draws::new();
        for range in steps(range, TILE) {
            let values = draws.get(state, range.clone(), per_block, make);
            writer.put(range, |out| out.copy_from_slice(values));
        }
    });
}

fn uniform<T: Float>(low: f64, high: f64, state: RandomState, out: ViewMut) -> Result<()> {
    const OP: &str = "uniform";
    let (start, width) = (T::Compute::of(low), T::Compute::of(high - low));
    let out = Target::<T>::new(OP, out)?;
    // Rounding may reach `high`; this is the value before it.
    let last = if low < high { T::Compute::of(T::DTYPE.largest_below(high)) } else { start };
    let last = if last < start { start } else { last };
    // As many bits as the significand holds, so that the fraction is exact and below 1.
    let bits = T::DTYPE.significand_bits();
    draw(state, &out, draws_of(T::DTYPE), &|blocks, out| uniforms::<T>(blocks, bits, start, width, last, out));
    Ok(())
}

multiversion! {
    fn uniforms[T: Float]::[T](blocks: &[[u32; 4]], bits: u32, start: T::Compute, width: T::Compute, last: T::Compute, out: &mut [T::Compute]), avx512 if [size_of::<T::Compute>() == 4] {
        let unit = T::Compute::of(1.0 / (1u64 << bits) as f64);
        let place = |fraction: T::Compute| {
            let value = start + fraction * unit * width;
            if value > last { last } else { value }
        };
        if T::DTYPE == DType::F64 {
            for (block, out) in blocks.iter().zip(out.chunks_exact_mut(2)) {
                for (half, out) in out.iter_mut().enumerate() {
                    let word = u64::from(block[2 * half]) | u64::from(block[2 * half + 1]) << 32;
                    *out = place(T::Compute::of((word >> 11) as f64));
                }
            }
        } else {
            for (&word, out) in blocks.as_flattened().iter().zip(out) {
                *out = place(T::Compute::from_u32(word >> (32 - bits)));
            }
        }
    }

    fn bernoulli[T: Destination]::[T](blocks: &[[u32; 4]], threshold: u64, out: &mut [T::Compute]), avx512 if [false] {
        for (&word, out) in blocks.as_flattened().iter().zip(out) {
            *out = T::convert(u8::from(u64::from(word) < threshold));
        }
    }
}

fn integers<T: Destination>(blocks: &[[u32; 4]], low: i64, high: i64, out: &mut [T::Compute]) {
    let count = high.wrapping_sub(low) as u64;
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(2)) {
        for (half, out) in out.iter_mut().enumerate() {
            let word = u64::from(block[2 * half]) | u64::from(block[2 * half + 1]) << 32;
            let step = (u128::from(word) * u128::from(count)) >> 64;
            *out = T::convert(low.wrapping_add(step as i64));
        }
    }
}
