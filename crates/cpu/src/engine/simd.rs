//! Vector code without build flags: the hot loops are plain Rust that LLVM vectorizes, compiled for the CPU that the crate
//! is built for, for AVX2 and for AVX-512, and chosen at run time by [`level`](super::level).
//!
//! Rust never fuses a multiplication with an addition on its own, so all versions give the same bits.

/// Defines functions whose body is compiled for several instruction sets. Functions that the body calls must be
/// `#[inline(always)]` to be compiled with it; a closure that is passed in is not. Generics are in brackets, and their
/// names are repeated after `::` if the arguments do not determine them. `, avx512 if [condition]`, with a constant,
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
            match $crate::engine::level::level() {
                // SAFETY: the CPU has the instructions.
                $crate::engine::level::Level::Avx512 if const { true $(&& $wide)? } => return unsafe { avx512 $($(::<$($names)*>)?)? ($($arg),*) },
                // SAFETY: as above.
                $crate::engine::level::Level::Avx512 | $crate::engine::level::Level::Avx2 => return unsafe { avx2 $($(::<$($names)*>)?)? ($($arg),*) },
                $crate::engine::level::Level::Generic => {}
            }
            body $($(::<$($names)*>)?)? ($($arg),*)
        }
    )*};
}

pub(crate) use multiversion;
