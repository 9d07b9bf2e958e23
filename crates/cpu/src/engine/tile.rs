//! Tiles: the stack buffers through which operands reach the element-wise loops, and conversions between stored types
//! and compute types.
//!
//! Kernels take only contiguous slices of their compute type. An operand that is one already is passed as it is; any
//! other (strided, broadcast, half precision, a single number) is first copied to a tile on the stack
//! ([`reader`](super::reader)), and outputs likewise ([`writer`](super::writer)). So an operation is compiled once per
//! compute type whatever the layouts, always vectorized, and the extra copy only costs a pass over the L1 cache.

use std::{mem::MaybeUninit, ops::Range};

use super::simd::multiversion;
use crate::numeric::stored::Stored;

/// Elements of a tile: four tiles of `f32` (operands and output) take 8 KiB of the L1 cache.
pub(crate) const TILE: usize = 512;

/// Runs at least this long are converted by vectorized code.
const LONG_RUN: usize = 16;

/// A stack buffer of up to `TILE` numbers, initialized as far as it has been used.
pub(super) struct Tile<C> {
    data: [MaybeUninit<C>; TILE],
    pub(super) ready: usize,
}

impl<C: bytemuck::Pod> Tile<C> {
    #[inline(always)]
    pub(super) fn new() -> Tile<C> {
        Tile { data: [const { MaybeUninit::uninit() }; TILE], ready: 0 }
    }

    #[inline]
    pub(super) fn take(&mut self, n: usize) -> &mut [C] {
        if n > self.ready {
            self.data[self.ready..n].fill(MaybeUninit::new(C::zeroed()));
            self.ready = n;
        }
        // SAFETY: the first `ready` elements are initialized, and a slice of `MaybeUninit` has the layout of
        // the slice of what is inside.
        unsafe { &mut *(&raw mut self.data[..n] as *mut [C]) }
    }
}

/// # Safety
/// The `to.len()` elements from `from` on, `stride` apart, can be read.
#[inline]
pub(crate) unsafe fn load_row<T: Stored>(from: *const T, stride: isize, to: &mut [T::Compute]) {
    match stride {
        // SAFETY: the caller's promise.
        1 => load(unsafe { std::slice::from_raw_parts(from, to.len()) }, to),
        // SAFETY: as above.
        0 => to.fill(unsafe { from.read() }.load()),
        _ => {
            for (i, to) in to.iter_mut().enumerate() {
                // SAFETY: as above.
                *to = unsafe { from.offset(i as isize * stride).read() }.load();
            }
        }
    }
}

/// Converts from the stored type to the compute type.
#[inline]
pub(crate) fn load<T: Stored>(from: &[T], to: &mut [T::Compute]) {
    if from.len() < LONG_RUN {
        from.iter().zip(to).for_each(|(from, to)| *to = from.load());
    } else {
        load_long(from, to);
    }
}

/// Rounds from the compute type to the stored type.
#[inline]
pub(crate) fn store<T: Stored>(from: &[T::Compute], to: &mut [T]) {
    if from.len() < LONG_RUN {
        from.iter().zip(to).for_each(|(from, to)| *to = T::store(*from));
    } else {
        store_long(from, to);
    }
}

multiversion! {
    fn load_long[T: Stored](from: &[T], to: &mut [T::Compute]), avx512 if [!T::DIRECT] {
        T::load_slice(from, to);
    }

    fn store_long[T: Stored](from: &[T::Compute], to: &mut [T]), avx512 if [!T::DIRECT] {
        T::store_slice(from, to);
    }
}

/// # Safety
/// The `from.len()` elements from `to` on, `stride` apart, can be written, and nobody else accesses them.
#[inline]
pub(crate) unsafe fn store_row<T: Stored>(from: &[T::Compute], to: *mut T, stride: isize) {
    if stride == 1 {
        // SAFETY: the caller's promise.
        return store(from, unsafe { std::slice::from_raw_parts_mut(to, from.len()) });
    }
    for (i, from) in from.iter().enumerate() {
        // SAFETY: as above.
        unsafe { to.offset(i as isize * stride).write(T::store(*from)) };
    }
}

/// Splits a range into steps of at most `step`.
pub(crate) fn steps(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..end.min(start + step))
}
