//! Few tiles and many channels: most of the work is to transform the filters, and the transformed ones are four times as large
//! as they were. A task has a panel of output channels. It transforms as many filters as stay in its core's cache, multiplies
//! them with all tiles, and stores the panel's outputs, so that the filters are read from memory once, as they are.

use kiln_backend::Result;

use super::{
    Filters,
    problem::{GROUP, Problem, points},
    tile_rows::tile_rows,
    transforms::POINTS,
};
use crate::{
    engine::{image::Image, par::Shared, team},
    gemm::{blocked, kernel::TileArgs, scratch::with_scratch},
    memory::allocator::Scratch,
};

/// Input channels whose filters are transformed at a time: with a panel of outputs they take up to 300 KB.
const STEPS: usize = 64;

/// Computes one group. `shift` has a value for each output channel, and for the lanes after them. The kernel has code for rows
/// that are not k-major.
///
/// # Safety
/// As [`forward`](super::forward).
pub(super) unsafe fn forward(
    p: &Problem<'_>,
    filters: Filters<'_, f32>,
    shift: &[f32],
    relu: bool,
    out: Image<f32>,
) -> Result<()> {
    let (kern, lanes, lda) = (p.kern, p.kern.lanes, p.kern.lda);
    let (c, o, tiles) = (p.x.c, out.c, p.count());
    // Transformed inputs lie as the matrix kernels read them: `[POINTS, blocks of channels, tiles]` of rows `lda` apart.
    let block = blocked::block_size(c, kern.kc / STEPS * STEPS, STEPS);
    let height = kern.height(tiles.div_ceil(tiles.div_ceil(kern.mr)));
    let rows = tiles.next_multiple_of(height);
    // Points a power of two apart would share a few sets of the caches.
    let v_point = c.div_ceil(block) * rows * lda + GROUP;
    let mut v = Scratch::<f32>::new(POINTS * v_point)?;
    let v = Shared::new(v.values());
    let at = |tile: usize, c: usize| v.start().wrapping_add((c / block * rows + tile) * lda + c % block);
    let parts = tile_rows(p.tiles, 0..tiles);
    // SAFETY: the caller's promise; every tile and vector of channels has its place.
    unsafe { p.input(&parts, |tile, c| points(at(tile, c), v_point)) };
    // As wide as the kernels' tiles, if there are enough of them.
    let threads = rayon::current_num_threads();
    let panel = if o.div_ceil(2 * lanes) >= 2 * threads { 2 * lanes } else { lanes };
    team::for_each(o.div_ceil(panel), threads, &|i| {
        let outputs = i * panel..o.min((i + 1) * panel);
        let vectors = outputs.len().div_ceil(lanes);
        let width = vectors * lanes;
        let (u_point, m_point) = (STEPS * width + GROUP, tiles * width + GROUP);
        with_scratch::<f32, _>(POINTS * (u_point + m_point), |u| {
            let m = u.wrapping_add(POINTS * u_point);
            let firsts = outputs.clone().step_by(lanes);
            for k0 in (0..c).step_by(STEPS) {
                let ks = k0..c.min(k0 + STEPS);
                for o0 in firsts.clone() {
                    let to = |ci: usize| points(u.wrapping_add((ci - k0) * width + o0 - outputs.start), u_point);
                    // SAFETY: there is room for a panel of so many steps at each point.
                    unsafe { p.filters(filters, o0..outputs.end.min(o0 + lanes), ks.clone(), to) };
                }
                for (point, first) in (0..POINTS).flat_map(|point| (0..tiles).step_by(height).map(move |t| (point, t)))
                {
                    let count = height.min(tiles - first);
                    let a = at(first, k0).wrapping_add(point * v_point).cast_const();
                    // SAFETY: the rows of the tiles, and as many after them as the kernel reads; the panel that was just packed;
                    // places for all products of the tiles.
                    unsafe {
                        (kern.tile)(&TileArgs {
                            k: ks.len(),
                            rows: count,
                            height: kern.height(count),
                            vectors,
                            a,
                            a_kmajor: false,
                            a_row: lda as isize,
                            a_next: a.wrapping_add(v_point).cast(),
                            a_next_row: (lda * size_of::<f32>()) as isize,
                            b: u.wrapping_add(point * u_point).cast_const(),
                            b_rs: width as isize,
                            b_ahead: blocked::LANES_AHEAD,
                            b_copy: core::ptr::null_mut(),
                            c: m.wrapping_add(point * m_point + first * width),
                            c_rs: width as isize,
                            cols: width,
                            load_c: k0 > 0,
                            bias: core::ptr::null(),
                            bias_on_rows: false,
                            relu: false,
                        });
                    };
                }
            }
            for o0 in firsts {
                let from =
                    |tile: usize| points(m.wrapping_add(tile * width + o0 - outputs.start).cast_const(), m_point);
                // SAFETY: all products of the panel are there; the caller's promise for its channels of the output.
                parts.iter().for_each(|part| unsafe { p.output(part, o0, from, shift, relu, &out) });
            }
        });
    });
    Ok(())
}
