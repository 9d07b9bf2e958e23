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

#[cfg(test)]
mod tests {
    use kiln_backend::{Arguments, DType};

    use super::*;
    use crate::testing::{Tensor, layouts, numbers, read_layouts};

    fn check(dtype: DType, x: &Tensor, dim: usize) {
        let mut dims = x.layout.dims().to_vec();
        dims[dim] = 1;
        let (n, inner) = (x.layout.dims()[dim], x.layout.dims()[dim + 1..].iter().product::<usize>());
        for (op, sign) in [(ArgReduceOp::Max, 1.0), (ArgReduceOp::Min, -1.0)] {
            for to in layouts(&dims) {
                let mut values = Tensor::with_layout(dtype, to, &vec![1.0; to.numel()]);
                let mut indices = Tensor::with_layout(DType::I64, to, &vec![77.0; to.numel()]);
                CpuBackend
                    .arg_reduce(
                        ArgReduceArgs {
                            op,
                            x: x.view(),
                            dim,
                            values: Some(values.view_mut()),
                            indices: indices.view_mut(),
                        }
                        .checked()
                        .unwrap(),
                    )
                    .unwrap();
                let (all, values, indices) = (x.values(), values.values(), indices.values());
                for line in 0..to.numel() {
                    let element = |i: usize| all[(line / inner * n + i) * inner + line % inner];
                    let rank = |v: f64| if v.is_nan() { f64::INFINITY } else { v * sign };
                    let best = (0..n).fold(0, |b, i| if rank(element(i)) > rank(element(b)) { i } else { b });
                    assert_eq!(indices[line], best as f64, "{op:?} {dtype} {:?} dim {dim}", x.layout);
                    assert_eq!(values[line].to_bits(), element(best).to_bits());
                }
            }
        }
    }

    #[test]
    fn every_layout_and_dtype() {
        for dtype in DType::ALL {
            for dims in [&[5usize][..], &[3, 4], &[2, 5, 30], &[1300], &[2, 1300], &[3, 600], &[0, 3]] {
                for dim in (0..dims.len()).filter(|&dim| dims[dim] > 0) {
                    for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                        check(dtype, &Tensor::with_layout(dtype, from, &numbers(from.numel(), 4)), dim);
                    }
                }
            }
        }
    }

    #[test]
    fn not_a_number_is_found() {
        let nan = f64::NAN;
        for dims in [&[4usize, 2][..], &[2, 4]] {
            let x = Tensor::new(DType::F32, dims, &[1.0, nan, nan, 2.0, 3.0, nan, -5.0, 0.0]);
            check(DType::F32, &x, 0);
            check(DType::F32, &x, 1);
        }
    }

    #[test]
    fn a_scalar_is_its_own_extreme() {
        let (x, mut out) = (Tensor::new(DType::F32, &[], &[4.0]), Tensor::empty(DType::I64, &[]));
        CpuBackend
            .arg_reduce(
                ArgReduceArgs { op: ArgReduceOp::Max, x: x.view(), dim: 0, values: None, indices: out.view_mut() }
                    .checked()
                    .unwrap(),
            )
            .unwrap();
        assert_eq!(out.values(), [0.0]);
    }
}
