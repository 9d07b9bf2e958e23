//! Running sums.

use kiln_backend::{Result, ScanBackend, View, ViewMut};

use crate::{
    CpuBackend,
    engine::{
        lines::Lines,
        par::{self, GRAIN},
        tile::{Feed, Sink, TILE, steps},
    },
    memory::view::{Input, Source, Target, same_shape},
    numeric::{
        convert::{Destination, Number},
        dispatch::for_all,
        stored::Stored,
    },
};

const OP: &str = "cumsum";

/// What is added up: `f64` for floats (so that the error does not grow with the position), wrapping `i64` for
/// integers.
trait Total: Number + Default + Send + Sync {
    fn plus(self, x: impl Number) -> Self;
}

impl Total for f64 {
    #[inline(always)]
    fn plus(self, x: impl Number) -> f64 {
        self + x.f64()
    }
}

impl Total for i64 {
    #[inline(always)]
    fn plus(self, x: impl Number) -> i64 {
        self.wrapping_add(x.i64())
    }
}

impl ScanBackend for CpuBackend {
    fn cumsum(&self, x: View, dim: usize, out: ViewMut) -> Result<()> {
        for_all!(x.dtype(), T => {
            if <T as Stored>::DTYPE.is_float() { sums::<T, T, f64>(x, dim, out) } else { sums::<T, i64, i64>(x, dim, out) }
        })
    }
}

fn sums<T: Stored, O: Destination, A: Total>(x: View, dim: usize, out: ViewMut) -> Result<()> {
    let (x, out) = (Source::<T>::new(OP, x)?, Target::<O>::new(OP, out)?);
    same_shape(OP, &[x.layout(), out.layout()])?;
    let lines = Lines::new(OP, x.layout(), dim)?;
    if out.numel() == 0 {
        return Ok(());
    }
    let (x, n) = (Input::Tensor(x), lines.n);
    if !lines.side_by_side() {
        par::ranges(lines.count(), par::row_grain(n), |range| {
            let mut feed = Feed::ordered(&x, Some(lines.order()));
            // SAFETY: tasks write different lines.
            let mut sink = unsafe { Sink::in_order(&out, lines.order()) };
            for line in range {
                let mut total = A::default();
                for part in steps(line * n..(line + 1) * n, TILE) {
                    sink.put(part.clone(), |out| {
                        for (&x, out) in feed.get(part).iter().zip(out) {
                            total = total.plus(x);
                            *out = O::convert(total);
                        }
                    });
                }
            }
        });
        return Ok(());
    }
    let width = lines.inner.min(TILE);
    let tiles = lines.inner.div_ceil(width);
    par::ranges(lines.outer * tiles, (GRAIN / (n * width)).max(1), |range| {
        // SAFETY: tasks write different lines.
        let (mut feed, mut sink) = (Feed::new(&x), unsafe { Sink::new(&out) });
        for unit in range {
            let (o, start) = (unit / tiles, unit % tiles * width);
            let end = lines.inner.min(start + width);
            let mut totals = [A::default(); TILE];
            for i in 0..n {
                let row = (o * n + i) * lines.inner;
                sink.put(row + start..row + end, |out| {
                    for ((&x, out), total) in feed.get(row + start..row + end).iter().zip(out).zip(&mut totals) {
                        *total = total.plus(x);
                        *out = O::convert(*total);
                    }
                });
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln_backend::DType;

    use super::*;
    use crate::testing::{SHAPES, Tensor, assert_close, layouts, numbers, read_layouts};

    #[test]
    fn every_layout_and_dtype() {
        for dtype in DType::ALL {
            for dims in SHAPES.iter().copied().chain([&[7usize, 40][..]]) {
                for dim in 0..dims.len().max(1) {
                    let n = dims.get(dim).copied().unwrap_or(1);
                    let inner: usize = dims.iter().skip(dim + 1).product();
                    for from in read_layouts(dims).into_iter().take(if dtype == DType::F32 { 99 } else { 2 }) {
                        let x = Tensor::with_layout(dtype, from, &numbers(from.numel(), 6));
                        let mut want = x.values();
                        for i in 0..want.len() {
                            if !(i / inner).is_multiple_of(n) {
                                want[i] += want[i - inner];
                            }
                        }
                        let to_dtype = if dtype.is_float() { dtype } else { DType::I64 };
                        for to in layouts(dims) {
                            let mut out = Tensor::with_layout(to_dtype, to, &vec![1.0; to.numel()]);
                            CpuBackend.cumsum(x.view(), dim, out.view_mut()).unwrap();
                            assert_close(&out.values(), &want, to_dtype, 1.0, "cumsum");
                        }
                    }
                }
            }
        }
        let x = Tensor::new(DType::F32, &[2], &[1.0; 2]);
        assert!(CpuBackend.cumsum(x.view(), 1, Tensor::empty(DType::F32, &[2]).view_mut()).is_err());
    }
}
