//! Gradients of pooling: one plane at a time is accumulated, in row-major order of the windows.

use kiln_backend::{Error, Pool2d, PoolDivisor, Result};

use super::{
    average::{divided_by, window},
    pairs::{are_pairs, spread},
    positions::{Positions, are_inside, offsets_of_taps},
};
use crate::{
    engine::{
        image::Image,
        par::{self, GRAIN},
    },
    memory::erased::Erased,
    numeric::real::Real,
};

pub(super) fn gradient_of_largest<T: Real>(
    pool: &Pool2d,
    grad: Erased<T>,
    chosen: &Positions,
    out: Erased<T>,
) -> Result<()> {
    const OP: &str = "max_pool2d_grad";
    let (to, from) = (Image::new(&out), Image::new(&grad));
    match chosen {
        Positions::Planes(places) => sum_planes(&from, &to, &|n, c, grad, plane| {
            let mut staged = Vec::new();
            // SAFETY: a plane of a checked layout of the gradient's shape.
            for (&place, &grad) in unsafe { places.plane(n, c, &mut staged) }.iter().zip(grad) {
                match usize::try_from(place).ok().and_then(|place| plane.get_mut(place)) {
                    Some(sum) => *sum = *sum + grad,
                    None if place == -1 => {}
                    None => return Err(Error::index(OP, place, plane.len(), "the pixels of a plane")),
                }
            }
            Ok(())
        }),
        Positions::Taps(taps) if are_pairs(pool) && are_inside(pool, &to, &from) => {
            sum_planes(&from, &to, &|n, c, grad, plane| {
                let mut staged = Vec::new();
                // SAFETY: as above.
                spread(grad, unsafe { taps.plane(n, c, &mut staged) }, from.w, plane, to.w);
                Ok(())
            })
        }
        Positions::Taps(taps) => {
            let offsets = offsets_of_taps(pool, to.w);
            let starts = |axis: usize, count: usize, input: usize| -> Vec<isize> {
                (0..count).map(|o| pool.window(axis, o, input, count).0.start).collect()
            };
            let (tops, lefts) = (starts(0, from.h, to.h), starts(1, from.w, to.w));
            sum_planes(&from, &to, &|n, c, grad, plane| {
                let mut staged = Vec::new();
                // SAFETY: as above.
                let rows = unsafe { taps.plane(n, c, &mut staged) }.chunks_exact(from.w).zip(grad.chunks_exact(from.w));
                for (&top, (taps, grad)) in tops.iter().zip(rows) {
                    let row = (top as usize).wrapping_mul(to.w);
                    for (&left, (&tap, &grad)) in lefts.iter().zip(taps.iter().zip(grad)) {
                        let Some(offset) = offsets[usize::from(tap)] else { continue };
                        let place = row.wrapping_add(left as usize).wrapping_add(offset);
                        if let Some(sum) = plane.get_mut(place) {
                            *sum = *sum + grad;
                        }
                    }
                }
                Ok(())
            })
        }
    }
}

pub(super) fn gradient_of_average<T: Real>(
    pool: &Pool2d,
    divisor: PoolDivisor,
    grad: Erased<T>,
    out: Erased<T>,
) -> Result<()> {
    let (to, from) = (Image::new(&out), Image::new(&grad));
    sum_planes(&from, &to, &|_, _, grad, plane| {
        for (y, row) in grad.chunks_exact(from.w.max(1)).enumerate() {
            let (rows, tall) = window(pool, divisor, 0, y, to.h, from.h);
            for (x, &value) in row.iter().enumerate() {
                let (columns, wide) = window(pool, divisor, 1, x, to.w, from.w);
                let share = value / T::of(divided_by(divisor, tall, wide));
                for y in rows.clone() {
                    plane[y * to.w..][columns.clone()].iter_mut().for_each(|sum| *sum = *sum + share);
                }
            }
        }
        Ok(())
    })
}

/// Accumulates the plane of one image and channel of the gradient with respect to the images, of that with respect to the
/// result.
type PlaneBody<'a, T> = dyn Fn(usize, usize, &[T], &mut [T]) -> Result<()> + Sync + 'a;

/// Calls `body` with a plane of `from` and a plane of zeros for every image and channel, in parallel, and stores the
/// latter in `to`.
fn sum_planes<T: Real>(from: &Image<T>, to: &Image<T>, body: &PlaneBody<'_, T>) -> Result<()> {
    if to.n * to.c * to.area() == 0 {
        return Ok(());
    }
    par::try_ranges(to.n * to.c, (GRAIN / 2 / (to.area() + from.area())).max(1), |range| {
        let (mut grad, mut staged) = (Vec::new(), Vec::new());
        for (n, c) in range.map(|i| (i / to.c, i % to.c)) {
            // SAFETY: planes of checked layouts; tasks have different ones of the output.
            unsafe {
                let grad = from.plane(n, c, &mut grad);
                to.fill_plane(n, c, &mut staged, |plane| {
                    plane.fill(T::of(0.0));
                    body(n, c, grad, plane)
                })?;
            }
        }
        Ok(())
    })
}
