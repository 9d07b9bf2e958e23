//! Scans along a dimension: `cumsum`, `cummax`, `cummin`.

use kiln_backend::{Checked, CumExtreme, CumExtremeArgs, CumsumArgs, Result, ScanBackend};

use crate::{
    device::CpuBackend,
    engine::{
        lines::Lines,
        par::{self, GRAIN},
        reader::Reader,
        tile::{TILE, steps},
        writer::Writer,
    },
    memory::view::{Input, Source, Target},
    numeric::{convert::Destination, dispatch::for_all, number::Number, stored::Stored},
};

/// The type of the running sum: `f64` for floats (so that the error does not grow with the position), wrapping `i64`
/// for integers.
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
    fn cumsum(&self, args: Checked<CumsumArgs>) -> Result<()> {
        for_all!(args.x.dtype(), T => {
            let args = args.into_inner();
            if <T as Stored>::DTYPE.is_float() { sums::<T, T, f64>(args) } else { sums::<T, i64, i64>(args) }
        })
    }

    fn cum_extreme(&self, args: Checked<CumExtremeArgs>) -> Result<()> {
        for_all!(args.x.dtype(), T => match args.op {
            CumExtreme::Cummax => extremes::<T, true>(args.into_inner()),
            CumExtreme::Cummin => extremes::<T, false>(args.into_inner()),
        })
    }
}

fn sums<T: Stored, O: Destination, A: Total>(CumsumArgs { x, dim, out }: CumsumArgs) -> Result<()> {
    const OP: &str = "cumsum";
    let (x, out) = (Source::<T>::new(OP, x)?, Target::<O>::new(OP, out)?);
    let lines = Lines::new(x.layout(), dim);
    if out.numel() == 0 {
        return Ok(());
    }
    let (x, n) = (Input::Tensor(x), lines.n);
    if !lines.side_by_side() {
        par::ranges(lines.count(), par::row_grain(n), |range| {
            let mut reader = Reader::ordered(&x, Some(lines.order()));
            // SAFETY: tasks write different lines.
            let mut writer = unsafe { Writer::in_order(&out, lines.order()) };
            for line in range {
                let mut total = A::default();
                for part in steps(line * n..(line + 1) * n, TILE) {
                    writer.put(part.clone(), |out| {
                        for (&x, out) in reader.get(part).iter().zip(out) {
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
        let (mut reader, mut writer) = (Reader::new(&x), unsafe { Writer::new(&out) });
        for unit in range {
            let (o, start) = (unit / tiles, unit % tiles * width);
            let end = lines.inner.min(start + width);
            let mut totals = [A::default(); TILE];
            for i in 0..n {
                let row = (o * n + i) * lines.inner;
                writer.put(row + start..row + end, |out| {
                    for ((&x, out), total) in reader.get(row + start..row + end).iter().zip(out).zip(&mut totals) {
                        *total = total.plus(x);
                        *out = O::convert(*total);
                    }
                });
            }
        }
    });
    Ok(())
}

/// The best element so far and its position, -1 before the first one.
#[derive(Clone, Copy)]
struct Best<C> {
    value: C,
    index: i64,
}

impl<C: PartialOrd + bytemuck::Zeroable + Copy> Best<C> {
    fn none() -> Best<C> {
        Best { value: C::zeroed(), index: -1 }
    }

    /// Takes the element at `index` if it is as good as the best. NaN is better than all numbers.
    #[inline(always)]
    #[allow(clippy::eq_op)] // only NaN differs from itself
    fn meet<const MAX: bool>(&mut self, value: C, index: i64) {
        let as_good = if MAX { value >= self.value } else { value <= self.value };
        if self.index < 0 || value != value || as_good {
            *self = Best { value, index };
        }
    }
}

fn extremes<T: Stored, const MAX: bool>(args: CumExtremeArgs) -> Result<()> {
    let CumExtremeArgs { op, x, dim, values, indices } = args;
    let op = op.name();
    let (x, values, indices) =
        (Source::<T>::new(op, x)?, Target::<T>::new(op, values)?, Target::<i64>::new(op, indices)?);
    let lines = Lines::new(x.layout(), dim);
    if values.numel() == 0 {
        return Ok(());
    }
    let (x, n) = (Input::Tensor(x), lines.n);
    if !lines.side_by_side() {
        par::ranges(lines.count(), par::row_grain(n), |range| {
            let mut reader = Reader::ordered(&x, Some(lines.order()));
            // SAFETY: tasks write different lines.
            let mut best_values = unsafe { Writer::in_order(&values, lines.order()) };
            // SAFETY: as above.
            let mut places = unsafe { Writer::in_order(&indices, lines.order()) };
            for line in range {
                let mut best = Best::none();
                for part in steps(line * n..(line + 1) * n, TILE) {
                    let first = (part.start - line * n) as i64;
                    places.put(part.clone(), |places| {
                        best_values.put(part.clone(), |values| {
                            let elements = reader.get(part).iter().zip(first..);
                            for (((&x, i), value), place) in elements.zip(values).zip(places) {
                                best.meet::<MAX>(x, i);
                                (*value, *place) = (best.value, best.index);
                            }
                        });
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
        let (mut best_values, mut places) = unsafe { (Writer::new(&values), Writer::new(&indices)) };
        let mut reader = Reader::new(&x);
        for unit in range {
            let (o, start) = (unit / tiles, unit % tiles * width);
            let end = lines.inner.min(start + width);
            let mut best = [Best::none(); TILE];
            for i in 0..n {
                let row = (o * n + i) * lines.inner;
                let part = row + start..row + end;
                places.put(part.clone(), |places| {
                    best_values.put(part.clone(), |values| {
                        for (((&x, value), place), best) in
                            reader.get(part).iter().zip(values).zip(places).zip(&mut best)
                        {
                            best.meet::<MAX>(x, i as i64);
                            (*value, *place) = (best.value, best.index);
                        }
                    });
                });
            }
        }
    });
    Ok(())
}
