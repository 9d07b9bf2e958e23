//! Vector code without build flags: the hot loops are plain Rust that LLVM vectorises, compiled once for the
//! CPU that the crate is built for and once for CPUs with AVX2, and chosen at run time.
//!
//! Rust never fuses a multiplication with an addition on its own, so all versions give the same bits.

/// Whether the CPU has AVX2 (and what comes with it in practice: FMA, BMI).
#[inline]
pub(crate) fn avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Defines functions whose body is compiled for several instruction sets. What the body calls must be
/// `#[inline(always)]` to be compiled with it; a closure that is passed in is not. Generics stand in brackets,
/// and their names once more after `::` where the arguments do not determine them.
macro_rules! multiversion {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $([$($generics:tt)*] $(::[$($names:tt)*])?)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
        $(where [$($bounds:tt)*])?
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
            if $crate::simd::avx2() {
                // SAFETY: the CPU has the instructions.
                return unsafe { avx2 $($(::<$($names)*>)?)? ($($arg),*) };
            }
            body $($(::<$($names)*>)?)? ($($arg),*)
        }
    )*};
}

pub(crate) use multiversion;
