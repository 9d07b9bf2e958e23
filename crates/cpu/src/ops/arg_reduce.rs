//! `argmax` and `argmin`: positions of the largest and smallest elements along a dimension.

use kiln_backend::{ArgReduceArgs, ArgReduceBackend, ArgReduceOp, Checked, Result};

use crate::{
    device::CpuBackend,
    engine::{
        lines::Lines,
        par::{self, GRAIN},
        reader::Reader,
        simd::multiversion,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{dispatch::for_all, stored::Stored},
};

impl ArgReduceBackend for CpuBackend {
    fn arg_reduce(&self, args: Checked<ArgReduceArgs>) -> Result<()> {
        for_all!(args.x.dtype(), T => typed::<T>(args.into_inner()))
    }
}

fn typed<T: Stored>(args: ArgReduceArgs) -> Result<()> {
    let ArgReduceArgs { op, x, dim, values, indices } = args;
    let name = op.name();
    let x = Source::<T>::new(name, x)?;
    let values = values.map(|values| Target::<T>::new(name, values)).transpose()?;
    let indices = Target::<i64>::new(name, indices)?;
    let lines = Lines::new(x.layout(), dim);
    if lines.count() == 0 {
        return Ok(());
    }
    let x = Input::Tensor(x);
    let search = Search { largest: op == ArgReduceOp::Max, lines, x: &x, values: values.as_ref(), indices: &indices };
    if lines.side_by_side() {
        search.columns();
    } else {
        search.lines();
    }
    Ok(())
}

struct Search<'a, T: Stored> {
    largest: bool,
    lines: Lines,
    x: &'a Input<'a, T>,
    values: Option<&'a Target<'a, T>>,
    indices: &'a Target<'a, i64>,
}

/// Whether a later element replaces the best one so far. NaN replaces anything but NaN.
#[inline(always)]
#[allow(clippy::eq_op)] // only NaN differs from itself
fn better<T: PartialOrd + Copy>(largest: bool, x: T, best: T) -> bool {
    let beyond = if largest { x > best } else { x < best };
    beyond || (x != x && best == best)
}

impl<T: Stored> Search<'_, T> {
    fn write(&self, start: usize, best: &[T::Compute], at: &[i64]) {
        // SAFETY: tasks write different lines.
        unsafe { Writer::new(self.indices) }.put(start..start + at.len(), |out| out.copy_from_slice(at));
        if let Some(values) = self.values {
            // SAFETY: as above.
            unsafe { Writer::new(values) }.put(start..start + best.len(), |out| out.copy_from_slice(best));
        }
    }

    /// Reduces one line after another.
    fn lines(&self) {
        let n = self.lines.n;
        par::ranges(self.lines.count(), par::row_grain(n), |range| {
            let mut reader = Reader::ordered(self.x, Some(self.lines.order()));
            for some in steps(range, TILE) {
                let (mut best, mut at) = (Vec::with_capacity(some.len()), Vec::with_capacity(some.len()));
                for line in some.clone() {
                    let (value, index) = self.line(&mut reader, line * n);
                    best.push(value);
                    at.push(index);
                }
                self.write(some.start, &best, &at);
            }
        });
    }

    fn line(&self, reader: &mut Reader<T>, start: usize) -> (T::Compute, i64) {
        let mut found: Option<(T::Compute, i64)> = None;
        for part in steps(start..start + self.lines.n, TILE) {
            let offset = (part.start - start) as i64;
            let x = reader.get(part);
            let Some(value) = extremum(x, self.largest) else { continue };
            if found.is_none_or(|(best, _)| better(self.largest, value, best)) {
                found = Some((value, offset + first(x, value) as i64));
            }
        }
        // A line has at least one element.
        found.unwrap_or((bytemuck::Zeroable::zeroed(), 0))
    }

    /// Reduces adjacent lines together.
    fn columns(&self) {
        let Lines { outer, n, inner, .. } = self.lines;
        let width = inner.min(TILE);
        let tiles = inner.div_ceil(width);
        par::ranges(outer * tiles, (GRAIN / (n * width)).max(1), |range| {
            let mut reader = Reader::new(self.x);
            for unit in range {
                let (o, start) = (unit / tiles, unit % tiles * width);
                let end = inner.min(start + width);
                let at = |i: usize| (o * n + i) * inner + start..(o * n + i) * inner + end;
                let mut best = reader.get(at(0)).to_vec();
                let mut index = vec![0; best.len()];
                for i in 1..n {
                    improve(reader.get(at(i)), i as i64, self.largest, &mut best, &mut index);
                }
                self.write(o * inner + start, &best, &index);
            }
        });
    }
}

/// The position of the first element equal to `value`, or of the first NaN.
#[allow(clippy::eq_op)] // only NaN differs from itself
fn first<T: PartialOrd + Copy>(x: &[T], value: T) -> usize {
    let found = if value == value { x.iter().position(|&v| v == value) } else { x.iter().position(|&v| v != v) };
    found.unwrap_or(0)
}

multiversion! {
    /// The best element of a slice; NaN if there is one.
    fn extremum[T: PartialOrd + Copy](x: &[T], largest: bool) -> Option<T>, avx512 if [size_of::<T>() == 4] {
        let &start = x.first()?;
        let mut lanes = [start; 16];
        let (chunks, rest) = x.as_chunks::<16>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if better(largest, x, *lane) { x } else { *lane };
            }
        }
        let all = lanes.into_iter().chain(rest.iter().copied());
        all.reduce(|best, x| if better(largest, x, best) { x } else { best })
    }

    fn improve[T: PartialOrd + Copy](x: &[T], i: i64, largest: bool, best: &mut [T], index: &mut [i64]), avx512 if [size_of::<T>() == 4] {
        for ((&x, best), index) in x.iter().zip(best).zip(index) {
            let replace = better(largest, x, *best);
            *best = if replace { x } else { *best };
            *index = if replace { i } else { *index };
        }
    }
}
