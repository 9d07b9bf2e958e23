//! The instances of the register kernels: which exist for each instruction set and element type, and the choice at run
//! time.
//!
//! `f32` dominates training, so it has all variants. The others have fewer: a tile of 9 rows of `f64` is computed as
//! one of 14, and the portable kernels, for CPUs without AVX2, support one packing.

use core::any::TypeId;

use super::{
    kernel::{DirectConvArgs, DotArgs, Kernel, PackArgs, TileArgs, TransposedTile},
    pack_kernel,
    simd::{Simd, plain::Plain},
    tile,
    unpacked::{direct_conv_tile, dots_block},
};
#[cfg(target_arch = "x86_64")]
use crate::engine::level::{Level, level};

/// Defines a module with the kernels of one register type, and the [`Kernel`] that lists them. `few_dots`: blocks of 2 dot
/// products are computed as blocks of 4. `dots`: how many columns of dot products with four rows the registers hold.
macro_rules! kernel {
    ($(#[$attr:meta])* $module:ident, $name:literal, $v:ty, $t:ty, lda $lda:literal, kc $kc:literal to $long_kc:literal,
     nc $nc:literal to $most_nc:literal, heights [$($h:literal)*], most $mr:literal,
     row_major $row_major:literal, copies $copies:literal,
     few_dots $few_dots:literal, dots $dots:literal, direct [$($d:literal)*]) => {
        pub(crate) mod $module {
            use super::*;
            $(#[$attr])*
            unsafe fn run<const MR: usize, const NV: usize, const KM: bool, const COPY: bool>(m: &TileArgs<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { tile::tile::<$v, MR, $mr, NV, KM, COPY>(m, finish) }
            }
            $(#[$attr])*
            unsafe fn finish(m: &TileArgs<$t>, products: *const $v) {
                // SAFETY: forwarded from the caller.
                unsafe { tile::finish_tile::<$v>(m, products) }
            }
            unsafe fn packed<const MR: usize, const KM: bool>(m: &TileArgs<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe {
                    if m.vectors == 1 {
                        run::<MR, 1, KM, false>(m)
                    } else if m.b_copy.is_null() {
                        run::<MR, 2, KM, false>(m)
                    } else if const { $copies && 2 * MR > $mr } {
                        run::<MR, 2, KM, true>(m)
                    } else {
                        debug_assert!(false, "no tile code that copies with {MR} rows");
                    }
                }
            }
            unsafe fn tile(m: &TileArgs<$t>) {
                debug_assert!(m.rows >= 1 && m.rows <= m.height && (m.vectors == 1 || m.vectors == 2));
                debug_assert!(m.b_copy.is_null() || m.vectors == 2);
                // SAFETY: forwarded from the caller.
                unsafe {
                    match (m.height, m.a_kmajor) {
                        $(($h, true) => packed::<$h, true>(m),)*
                        $(($h, false) if const { $row_major } => packed::<$h, { !$row_major }>(m),)*
                        (height, _) => debug_assert!(false, "no tile code for {height} rows"),
                    }
                }
            }
            $(#[$attr])*
            unsafe fn store_transposed(t: &TransposedTile<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { tile::store_transposed::<$v>(t) }
            }
            $(#[$attr])*
            unsafe fn pack_lanes(p: &PackArgs<$t>) {
                // SAFETY: forwarded from the caller.
                unsafe { pack_kernel::pack_lanes::<$v>(p) }
            }
            $(#[$attr])*
            unsafe fn dots(d: &mut DotArgs<$t>) {
                let size = |n: usize| if $few_dots && n == 2 { 4 } else { n };
                // SAFETY: forwarded from the caller; all four pointers of either side are readable.
                unsafe {
                    match (size(d.rows), size(d.cols)) {
                        (4, 4) => dots_of_four(d),
                        (4, 1) => dots_block::<$v, 4, 1>(d),
                        (1, 4) => dots_block::<$v, 1, 4>(d),
                        (1, 1) => dots_block::<$v, 1, 1>(d),
                        (rows, cols) if const { !$few_dots } => two_dots::<{ if $few_dots { 4 } else { 2 } }>(d, rows, cols),
                        (rows, cols) => debug_assert!(false, "{rows} x {cols} dot products"),
                    }
                }
            }
            /// A block of 4 x 4, a few columns at a time: sums that do not stay in registers would be loaded and stored at
            /// every step, and how slow that is depends on where the stack happens to begin.
            $(#[$attr])*
            unsafe fn dots_of_four(d: &mut DotArgs<$t>) {
                for first in (0..4).step_by($dots) {
                    let columns = first..first + $dots;
                    let b = core::array::from_fn(|j| d.b[columns.start + j % $dots]);
                    let mut part = DotArgs { cols: $dots, b, out: d.out, ..*d };
                    // SAFETY: forwarded from the caller.
                    unsafe { dots_block::<$v, 4, $dots>(&mut part) }
                    for (row, sums) in d.out.iter_mut().zip(&part.out) {
                        row[columns.clone()].copy_from_slice(&sums[..$dots]);
                    }
                }
            }
            /// Blocks with a side of `TWO`, if there is code for them.
            $(#[$attr])*
            unsafe fn two_dots<const TWO: usize>(d: &mut DotArgs<$t>, rows: usize, cols: usize) {
                // SAFETY: forwarded from the caller.
                unsafe {
                    match (rows, cols) {
                        (4, _) => dots_block::<$v, 4, TWO>(d),
                        (1, _) => dots_block::<$v, 1, TWO>(d),
                        (_, 4) => dots_block::<$v, TWO, 4>(d),
                        (_, 1) => dots_block::<$v, TWO, 1>(d),
                        _ => dots_block::<$v, TWO, TWO>(d),
                    }
                }
            }
            $(#[$attr])*
            unsafe fn direct_conv(s: &DirectConvArgs<$t>) {
                // SAFETY: forwarded from the caller, the rows are those of the variant.
                unsafe {
                    match s.rows {
                        $($d => direct_conv_tile::<$v, $d>(s),)*
                        rows => debug_assert!(false, "a tile of {rows} rows"),
                    }
                }
            }
            pub(crate) static KERNEL: Kernel<$t> = Kernel {
                name: $name, mr: $mr, heights: &[$($h),*], lanes: <$v as Simd>::L, kc: $kc, long_kc: $long_kc,
                lda: $lda, nc: $nc, most_nc: $most_nc, row_major: $row_major, copies: $copies, tile, store_transposed,
                pack_lanes, dots, direct_rows: &[$($d),*], direct_conv,
            };
        }
    };
}

#[cfg(target_arch = "x86_64")]
use super::simd::{
    avx2::{F32x8, F64x4},
    avx512::{F32x16, F64x8},
};

#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")] avx512_f32, "avx512", F32x16, f32,
    lda 528, kc 512 to 512, nc 416 to 416, heights [1 2 4 6 8 10 12 14], most 14, row_major true, copies true,
    few_dots false, dots 4, direct [8 6 4 2 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")] avx512_f64, "avx512", F64x8, f64,
    lda 216, kc 208 to 208, nc 384 to 384, heights [1 2 4 8 14], most 14, row_major true, copies false,
    few_dots true, dots 4, direct [4 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx2,fma")] avx2_f32, "avx2", F32x8, f32,
    lda 400, kc 392 to 784, nc 192 to 336, heights [1 2 4 6], most 6, row_major true, copies true, few_dots false, dots 2,
    direct [6 4 2 1]);
#[cfg(target_arch = "x86_64")]
kernel!(#[target_feature(enable = "avx2,fma")] avx2_f64, "avx2", F64x4, f64,
    lda 264, kc 256 to 256, nc 128 to 128, heights [1 2 4 6], most 6, row_major true, copies false, few_dots true, dots 2,
    direct [4 1]);
kernel!(plain_f32, "portable", Plain<f32, 4>, f32,
    lda 400, kc 384 to 384, nc 128 to 128, heights [1 2 4], most 4, row_major false, copies false, few_dots true, dots 2,
    direct [4 1]);
kernel!(plain_f64, "portable", Plain<f64, 2>, f64,
    lda 264, kc 256 to 256, nc 96 to 96, heights [1 2 4], most 4, row_major false, copies false, few_dots true, dots 2,
    direct [4 1]);

/// The kernels of this process's level and of those below it, best first.
pub(crate) fn available<T: 'static>() -> Vec<&'static Kernel<T>> {
    let mut all: Vec<&'static dyn core::any::Any> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if level() >= Level::Avx512 {
            all.push(&avx512_f32::KERNEL);
            all.push(&avx512_f64::KERNEL);
        }
        if level() >= Level::Avx2 {
            all.push(&avx2_f32::KERNEL);
            all.push(&avx2_f64::KERNEL);
        }
    }
    all.push(&plain_f32::KERNEL);
    all.push(&plain_f64::KERNEL);
    debug_assert!(TypeId::of::<T>() == TypeId::of::<f32>() || TypeId::of::<T>() == TypeId::of::<f64>());
    all.into_iter().filter_map(|k| k.downcast_ref::<Kernel<T>>()).collect()
}

/// The kernel of this process's level.
pub(crate) fn best<T: 'static>() -> &'static Kernel<T> {
    // There is a portable kernel for both float types, so the list is never empty.
    available::<T>()[0]
}
