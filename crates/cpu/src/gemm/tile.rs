//! The register kernels: computing a tile of C, and storing finished tiles. Generic over [`Simd`] registers;
//! [`kernels`](super::kernels) compiles them for each instruction set.
//!
//! The tile kernel loads, for every step of `k`, one or two vectors of a row of B and multiplies them with one broadcast
//! element of each row of A. With 14 rows and two AVX-512 vectors that is 28 accumulators, 28 FMAs and only 16 loads per
//! step. Every element of C is one chain of FMAs in ascending `k`, whichever variant computes it; that is what makes
//! results independent of tiling and of the number of threads.

use super::{
    kernel::{TileArgs, TransposedTile},
    prefetch::{LINE, prefetch, prefetch_l2},
    simd::{Simd, unroll},
};

/// `x`, of which the compiler then knows nothing; nor does it move loads and stores from one side of this to the other.
#[inline(always)]
fn opaque<T: Copy>(x: T) -> T {
    const { assert!(size_of::<T>() == size_of::<usize>()) };
    #[cfg(target_arch = "x86_64")]
    // SAFETY: T has the size of a register, whose value stays what it is: there is no instruction.
    unsafe {
        let mut bits = core::mem::transmute_copy::<T, *const u8>(&x);
        core::arch::asm!("/* {0} */", inout(reg) bits, options(nostack, preserves_flags));
        core::mem::transmute_copy(&bits)
    }
    #[cfg(not(target_arch = "x86_64"))]
    x
}

/// Bytes from a row to the next ones: each an operand of an address, which on x86_64 is the sum of a register and another one
/// times 1, 2 or 4. By itself the compiler keeps and increments a pointer to each of fourteen rows, for which there are not
/// registers enough, so it must not know where these come from, nor that `a` is incremented in each step ([`opaque`]).
#[derive(Default)]
struct Strides {
    one: isize,
    three: isize,
    five: isize,
}

impl Strides {
    #[inline(always)]
    fn of<T>(elements: isize) -> Strides {
        let one = elements.wrapping_mul(size_of::<T>() as isize);
        let [three, five] = [3, 5].map(|n| opaque(one.wrapping_mul(n)));
        Strides { one, three, five }
    }

    #[inline(always)]
    fn times(&self, rows: usize) -> isize {
        let Strides { one, three, five } = *self;
        // The stride of a single row may be any number.
        [0, one, one.wrapping_mul(2), three, one.wrapping_mul(4), five, three.wrapping_mul(2)][rows]
    }
}

/// How many steps of `k` are computed together.
const SEVERAL: usize = 4;

/// Where the next step of `k` begins.
struct Cursor<T> {
    a: *const T,
    /// The row seven rows below.
    a_seventh: *const T,
    b: *const T,
    copy: *mut T,
    next: *const u8,
}

/// `STEPS` steps of [`tile`]. With only one at a time, those of a whole tile in AVX2 registers are 27 instructions for 12 FMAs:
/// processors that begin four a cycle would take seven cycles, not six. Four together share what moves the cursor.
///
/// # Safety
/// As documented at [`TileArgs`], for `STEPS` more steps, and `V`'s instruction set must be available.
#[inline(always)]
unsafe fn steps<V: Simd, const MR: usize, const NV: usize, const KM: bool, const COPY: bool, const STEPS: usize>(
    m: &TileArgs<V::T>,
    strides: &Strides,
    at: &mut Cursor<V::T>,
    acc: &mut [[V; NV]; MR],
) {
    let step_a = if KM { MR } else { 1 };
    // SAFETY: all pointers are used within the extents that `TileArgs` promises.
    unsafe {
        // The second vector is written out, since an inner loop would again have to be unrolled everywhere.
        unroll!(s < STEPS, few, {
            if const { !KM } && s.is_multiple_of(const { between_fetches::<V>(MR, STEPS) }) {
                prefetch_l2(at.next);
                at.next = at.next.wrapping_offset(m.a_next_row);
            }
            let ahead = at.b.wrapping_offset(m.b_ahead);
            let b0 = V::load(at.b);
            prefetch(ahead);
            let b1 = if const { NV == 2 } { V::load(at.b.add(V::L)) } else { b0 };
            // Two short vectors are one cache line.
            if const { NV == 2 && size_of::<V::T>() * V::L >= 64 } {
                prefetch(ahead.wrapping_add(V::L));
            }
            if const { COPY } {
                b0.store(at.copy);
                b1.store(at.copy.add(V::L));
                at.copy = at.copy.add(2 * V::L);
            }
            let [a, a_seventh] = [at.a.wrapping_add(s * step_a), at.a_seventh.wrapping_add(s)];
            unroll!(i < MR, rows, {
                let x = V::splat(match i {
                    _ if KM => *a.add(i),
                    0..7 => *a.wrapping_byte_offset(strides.times(i)),
                    _ => *a_seventh.wrapping_byte_offset(strides.times(i - 7)),
                });
                acc[i][0] = x.fma(b0, acc[i][0]);
                if const { NV == 2 } {
                    acc[i][NV - 1] = x.fma(b1, acc[i][NV - 1]);
                }
            });
            at.b = at.b.offset(m.b_rs);
            // What is loaded early would have to wait in memory: there are no registers left.
            if const { STEPS > 1 } {
                at.b = opaque(at.b);
            }
        });
        at.a = at.a.add(STEPS * step_a);
        if const { !KM } {
            at.a = opaque(at.a);
        }
        if const { !KM && MR > 7 } {
            at.a_seventh = opaque(at.a_seventh.wrapping_add(STEPS));
        }
    }
}

/// At how many steps a row of the next ones is fetched once: as many steps as a line has elements have to do for all rows, and
/// need not do more.
const fn between_fetches<V: Simd>(rows: usize, steps: usize) -> usize {
    if steps > 1 && 2 * rows <= LINE / size_of::<V::T>() { 2 } else { 1 }
}

/// The tile kernel, for `MR` = `height` rows and `NV` = `vectors`; `MOST` is the largest height. `KM`: A is k-major. `COPY`: B is
/// also written to `b_copy`, which packs it for the following tiles at almost no cost. `finish` is [`finish_tile`] for `V`.
///
/// # Safety
/// As documented at [`TileArgs`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn tile<
    V: Simd,
    const MR: usize,
    const MOST: usize,
    const NV: usize,
    const KM: bool,
    const COPY: bool,
>(
    m: &TileArgs<V::T>,
    finish: unsafe fn(&TileArgs<V::T>, *const V),
) {
    // SAFETY: all pointers are used within the extents that `TileArgs` promises.
    unsafe {
        let mut acc = [[V::zero(); NV]; MR];
        let strides = if KM { Strides::default() } else { Strides::of::<V::T>(m.a_row) };
        let a_seventh = m.a.wrapping_byte_offset(strides.one.wrapping_mul(7));
        let mut at = Cursor { a: m.a, a_seventh, b: m.b, copy: m.b_copy, next: m.a_next };
        // The tile of C is needed at the end; prefetching it now hides the memory latency. With few steps there is
        // nothing to hide it behind.
        if m.k >= 32 {
            for i in 0..m.rows {
                let c = m.c.wrapping_offset(i as isize * m.c_rs);
                prefetch(c);
                if const { NV == 2 } {
                    prefetch(c.wrapping_add(V::L));
                    prefetch(c.wrapping_add(2 * V::L - 1));
                }
            }
        }
        // Only the tiles that most of the time goes to: the code of all variants would be several times as large.
        let several = const { NV == 2 && MR == MOST && !COPY };
        let per_line = LINE / size_of::<V::T>();
        let fetched = if several { per_line / between_fetches::<V>(MR, SEVERAL) } else { per_line };
        let mut left = m.k;
        while left > 0 {
            let mut line = left.min(per_line);
            left -= line;
            if several {
                for _ in 0..line / SEVERAL {
                    steps::<V, MR, NV, KM, COPY, SEVERAL>(m, &strides, &mut at, &mut acc);
                }
                line %= SEVERAL;
            }
            for _ in 0..line {
                steps::<V, MR, NV, KM, COPY, 1>(m, &strides, &mut at, &mut acc);
            }
            // Back to the first row, at its next line.
            at.next = at.next.wrapping_offset(LINE as isize - fetched as isize * m.a_next_row);
        }
        // Only the most common endings are unrolled.
        let whole = m.rows == MR && m.cols >= NV * V::L;
        if whole && m.bias.is_null() && !m.relu && m.load_c {
            unroll!(i < MR, rows, {
                let c = m.c.offset(i as isize * m.c_rs);
                acc[i][0].add(V::load(c)).store(c);
                if const { NV == 2 } {
                    acc[i][NV - 1].add(V::load(c.add(V::L))).store(c.add(V::L));
                }
            });
        } else if whole && m.bias.is_null() && !m.relu {
            unroll!(i < MR, rows, {
                let c = m.c.offset(i as isize * m.c_rs);
                acc[i][0].store(c);
                if const { NV == 2 } {
                    acc[i][NV - 1].store(c.add(V::L));
                }
            });
        } else if const { NV == 2 && MR >= 6 } && whole && !m.bias.is_null() && !m.bias_on_rows {
            // A linear layer's, with ReLU or without.
            let bias = [V::load(m.bias), V::load(m.bias.add(V::L))];
            unroll!(i < MR, rows, {
                let c = m.c.offset(i as isize * m.c_rs);
                let [mut x, mut y] = [acc[i][0], acc[i][NV - 1]];
                if m.load_c {
                    [x, y] = [x.add(V::load(c)), y.add(V::load(c.add(V::L)))];
                }
                [x, y] = [x.add(bias[0]), y.add(bias[1])];
                if m.relu {
                    [x, y] = [x.relu(), y.relu()];
                }
                x.store(c);
                y.store(c.add(V::L));
            });
        } else {
            // A copy: if the address of the accumulators themselves escaped, they would not stay in registers.
            let products = acc;
            finish(m, products.as_ptr().cast());
        }
    }
}

/// Stores a tile that adds a bias, applies ReLU, or has fewer rows or lanes than were computed. The products of row `i`
/// are the `vectors` vectors starting at `products + i * vectors`.
///
/// # Safety
/// As documented at [`TileArgs`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn finish_tile<V: Simd>(m: &TileArgs<V::T>, products: *const V) {
    // SAFETY: C is only touched in lanes that exist.
    unsafe {
        for v in 0..m.vectors {
            let n = m.cols.saturating_sub(v * V::L).min(V::L);
            if n == 0 {
                break;
            }
            let on_lanes = !m.bias.is_null() && !m.bias_on_rows;
            let mut bias = if on_lanes { V::load_n(m.bias.add(v * V::L), n) } else { V::zero() };
            for i in 0..m.rows {
                if m.bias_on_rows && !m.bias.is_null() {
                    bias = V::splat(*m.bias.add(i));
                }
                let c = m.c.offset(i as isize * m.c_rs).add(v * V::L);
                let mut x = *products.add(i * m.vectors + v);
                if m.load_c {
                    x = x.add(if n == V::L { V::load(c) } else { V::load_n(c, n) });
                }
                if !m.bias.is_null() {
                    x = x.add(bias);
                }
                if m.relu {
                    x = x.relu();
                }
                if n == V::L { x.store(c) } else { x.store_n(c, n) }
            }
        }
    }
}

/// # Safety
/// As documented at [`TransposedTile`], and `V`'s instruction set must be available.
#[inline(always)]
pub(super) unsafe fn store_transposed<V: Simd>(t: &TransposedTile<V::T>) {
    // SAFETY: the tile is readable in whole L x Q blocks; C is only touched in valid lanes.
    unsafe {
        for i0 in (0..t.rows).step_by(V::L) {
            let n = (t.rows - i0).min(V::L);
            let bias = if t.bias.is_null() { V::zero() } else { V::load_n(t.bias.add(i0), n) };
            for j0 in (0..t.cols).step_by(V::Q) {
                let v = V::transpose(t.tile.add(i0 * t.ld + j0), t.ld as isize);
                for q in 0..V::Q.min(t.cols - j0) {
                    let c = t.c.offset((j0 + q) as isize * t.c_cs).add(i0);
                    let mut x = v[q];
                    if t.load_c {
                        x = x.add(V::load_n(c, n));
                    }
                    if !t.bias.is_null() {
                        x = x.add(bias);
                    }
                    if t.relu {
                        x = x.relu();
                    }
                    x.store_n(c, n);
                }
            }
        }
    }
}
