//! Vector code without build flags: the hot loops are plain Rust that LLVM vectorises, compiled for the
//! CPU that the crate is built for, for AVX2 and for AVX-512, and chosen at run time.
//!
//! Rust never fuses a multiplication with an addition on its own, so all versions give the same bits.

use std::sync::atomic::{AtomicU8, Ordering};

/// What the CPU has.
#[derive(Clone, Copy)]
#[repr(u8)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // others have one level
pub(crate) enum Level {
    /// What the crate is built for.
    Base = 1,
    /// AVX2 with FMA.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL) on top.
    Avx512 = 3,
}

/// The instructions to use; found out once.
#[inline]
pub(crate) fn level() -> Level {
    static LEVEL: AtomicU8 = AtomicU8::new(0);
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Base,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let level = detect();
            LEVEL.store(level as u8, Ordering::Relaxed);
            level
        }
    }
}

#[cold]
fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") {
            let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
            return if wide { Level::Avx512 } else { Level::Avx2 };
        }
    }
    Level::Base
}

/// Defines functions whose body is compiled for several instruction sets. What the body calls must be
/// `#[inline(always)]` to be compiled with it; a closure that is passed in is not. Generics stand in brackets,
/// and their names once more after `::` where the arguments do not determine them. `, avx512 if [condition]`, a constant,
/// leaves that version out where it is not worth its compile time: for types that training does not compute in.
macro_rules! multiversion {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $([$($generics:tt)*] $(::[$($names:tt)*])?)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        $(where [$($bounds:tt)*])? $(, avx512 if [$wide:expr])?
        $body:block
    )*) => {$(
        $(#[$meta])*
        $vis fn $name $(<$($generics)*>)? ($($arg: $ty),*) $(-> $ret)? $(where $($bounds)*)? {
            #[inline(always)]
            fn body $(<$($generics)*>)? ($($arg: $ty),*) $(-> $ret)? $(where $($bounds)*)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $(<$($generics)*>)? ($($arg: $ty),*) $(-> $ret)? $(where $($bounds)*)? {
                body $($(::<$($names)*>)?)? ($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $(<$($generics)*>)? ($($arg: $ty),*) $(-> $ret)? $(where $($bounds)*)? {
                body $($(::<$($names)*>)?)? ($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            match $crate::engine::simd::level() {
                // SAFETY: the CPU has the instructions.
                $crate::engine::simd::Level::Avx512 if const { true $(&& $wide)? } => return unsafe { avx512 $($(::<$($names)*>)?)? ($($arg),*) },
                // SAFETY: as above.
                $crate::engine::simd::Level::Avx512 | $crate::engine::simd::Level::Avx2 => return unsafe { avx2 $($(::<$($names)*>)?)? ($($arg),*) },
                $crate::engine::simd::Level::Base => {}
            }
            body $($(::<$($names)*>)?)? ($($arg),*)
        }
    )*};
}

pub(crate) use multiversion;
