//! Views without their element type, so that code that works on them is compiled once per compute type rather than once
//! per stored type. `f32` and `f64` are accessed directly; half precision is converted by functions that the view
//! carries.

use std::marker::PhantomData;

use kiln_backend::Layout;

use super::view::{Source, Target};
use crate::numeric::stored::Stored;

/// Converts elements of some type to numbers of the compute type `T`, and back.
struct Conversion<T> {
    /// Size of an element.
    size: isize,
    /// Converts this many elements with this stride to contiguous numbers.
    gather: unsafe fn(*const u8, isize, usize, *mut T),
    /// Converts this many contiguous numbers to elements with this stride.
    scatter: unsafe fn(*const T, *mut u8, isize, usize),
}

/// A pointer to an element whose compute type is `T`.
pub(crate) struct ErasedPtr<T: 'static> {
    ptr: *mut u8,
    /// `None`: the element is a `T`.
    conversion: Option<&'static Conversion<T>>,
}

impl<T> Clone for ErasedPtr<T> {
    fn clone(&self) -> ErasedPtr<T> {
        *self
    }
}
impl<T> Copy for ErasedPtr<T> {}

impl<T: Copy> ErasedPtr<T> {
    pub(crate) fn new<S: Stored<Compute = T>>(ptr: *const S) -> ErasedPtr<T> {
        let conversion =
            const { &Conversion { size: size_of::<S>() as isize, gather: gather::<S>, scatter: scatter::<S> } };
        ErasedPtr { ptr: ptr.cast_mut().cast(), conversion: if S::DIRECT { None } else { Some(conversion) } }
    }

    /// The element `by` elements further on; it need not exist.
    #[inline(always)]
    pub(crate) fn offset(self, by: isize) -> ErasedPtr<T> {
        let size = self.conversion.map_or(size_of::<T>() as isize, |conversion| conversion.size);
        ErasedPtr { ptr: self.ptr.wrapping_offset(by * size), ..self }
    }

    /// The element's address, if it is stored as a `T`.
    #[inline(always)]
    pub(crate) fn direct(self) -> Option<*mut T> {
        if self.conversion.is_none() { Some(self.ptr.cast()) } else { None }
    }

    /// # Safety
    /// The element is readable.
    #[inline(always)]
    pub(crate) unsafe fn load(self) -> T {
        let mut value = core::mem::MaybeUninit::uninit();
        // SAFETY: the caller's promise; one element is gathered.
        unsafe {
            match self.conversion {
                None => self.ptr.cast::<T>().read(),
                Some(conversion) => {
                    (conversion.gather)(self.ptr, 1, 1, value.as_mut_ptr());
                    value.assume_init()
                }
            }
        }
    }

    /// # Safety
    /// The element is writable, and nobody else accesses it.
    #[inline(always)]
    pub(crate) unsafe fn store(self, value: T) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.conversion {
                None => self.ptr.cast::<T>().write(value),
                Some(conversion) => (conversion.scatter)(&value, self.ptr, 1, 1),
            }
        }
    }

    /// Copies `n` elements that are `step` apart.
    ///
    /// # Safety
    /// They are readable, and `to` is writable for `n` numbers.
    #[inline]
    pub(crate) unsafe fn gather(self, step: isize, n: usize, to: *mut T) {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(from) = self.direct() else {
                if let Some(conversion) = self.conversion {
                    (conversion.gather)(self.ptr, step, n, to);
                }
                return;
            };
            if step == 1 {
                copy_row(from, to, n);
            } else if step == 2 {
                // A constant step lets the compiler vectorize.
                for i in 0..n {
                    *to.add(i) = *from.add(2 * i);
                }
            } else {
                for i in 0..n {
                    *to.add(i) = *from.offset(i as isize * step);
                }
            }
        }
    }

    /// Stores `n` numbers to elements that are `step` apart.
    ///
    /// # Safety
    /// They are writable, nobody else accesses them, and `from` is readable for `n` numbers.
    #[inline]
    pub(crate) unsafe fn scatter(self, from: *const T, step: isize, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(to) = self.direct() else {
                if let Some(conversion) = self.conversion {
                    (conversion.scatter)(from, self.ptr, step, n);
                }
                return;
            };
            if step == 1 {
                copy_row(from, to, n);
            } else {
                for i in 0..n {
                    *to.offset(i as isize * step) = *from.add(i);
                }
            }
        }
    }
}

/// Rows of elements in memory: their number, their length, and the strides of rows and of elements in a row.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) count: usize,
    pub(crate) len: usize,
    pub(crate) row_stride: isize,
    pub(crate) stride: isize,
}

impl<T: Copy> ErasedPtr<T> {
    /// [`gather`](ErasedPtr::gather) of rows, to rows that begin `width` numbers apart. Rows of small images are so
    /// short that the dispatch would cost as much as the copies if it were done per row.
    ///
    /// # Safety
    /// The elements are readable, and `to` is writable for the rows.
    #[inline]
    pub(crate) unsafe fn gather_rows(self, rows: Rows, to: *mut T, width: usize) {
        let Rows { count, len, row_stride, stride } = rows;
        // SAFETY: the caller's promise.
        unsafe {
            match self.direct() {
                Some(from) if stride == 1 => {
                    for row in 0..count {
                        copy_row(from.wrapping_offset(row as isize * row_stride), to.wrapping_add(row * width), len);
                    }
                }
                Some(from) if stride == 2 => {
                    for row in 0..count {
                        let (from, to) =
                            (from.wrapping_offset(row as isize * row_stride), to.wrapping_add(row * width));
                        // A constant step lets the compiler vectorize.
                        for i in 0..len {
                            *to.add(i) = *from.add(2 * i);
                        }
                    }
                }
                _ => {
                    for row in 0..count {
                        self.offset(row as isize * row_stride).gather(stride, len, to.wrapping_add(row * width));
                    }
                }
            }
        }
    }

    /// [`scatter`](ErasedPtr::scatter) to rows, from rows that begin `width` numbers apart.
    ///
    /// # Safety
    /// The elements are writable, nobody else accesses them, and `from` is readable for the rows.
    #[inline]
    pub(crate) unsafe fn scatter_rows(self, rows: Rows, from: *const T, width: usize) {
        let Rows { count, len, row_stride, stride } = rows;
        // SAFETY: the caller's promise.
        unsafe {
            match self.direct() {
                Some(to) if stride == 1 => {
                    for row in 0..count {
                        copy_row(from.wrapping_add(row * width), to.wrapping_offset(row as isize * row_stride), len);
                    }
                }
                _ => {
                    for row in 0..count {
                        self.offset(row as isize * row_stride).scatter(from.wrapping_add(row * width), stride, len);
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`ErasedPtr::gather`].
unsafe fn gather<S: Stored>(from: *const u8, step: isize, n: usize, to: *mut S::Compute) {
    let from = from.cast::<S>();
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 {
            S::load_slice(std::slice::from_raw_parts(from, n), std::slice::from_raw_parts_mut(to, n));
        } else {
            for i in 0..n {
                *to.add(i) = (*from.offset(i as isize * step)).load();
            }
        }
    }
}

/// # Safety
/// As [`ErasedPtr::scatter`].
unsafe fn scatter<S: Stored>(from: *const S::Compute, to: *mut u8, step: isize, n: usize) {
    let to = to.cast::<S>();
    // SAFETY: the caller's promise.
    unsafe {
        if step == 1 {
            S::store_slice(std::slice::from_raw_parts(from, n), std::slice::from_raw_parts_mut(to, n));
        } else {
            for i in 0..n {
                *to.offset(i as isize * step) = S::store(*from.add(i));
            }
        }
    }
}

/// Copies `n` elements: rows of small images are too short for a call of `memcpy`.
///
/// # Safety
/// `from` is readable and `to` writable for `n` elements, which do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy_row<T: Copy>(from: *const T, to: *mut T, n: usize) {
    // SAFETY: pieces of the `n` elements; the last overlaps the one before it.
    unsafe {
        let piece =
            |at: usize| to.add(at).cast::<[T; 8]>().write_unaligned(from.add(at).cast::<[T; 8]>().read_unaligned());
        if n > 128 {
            core::ptr::copy_nonoverlapping(from, to, n);
        } else if n >= 8 {
            (0..n - 8).step_by(8).for_each(piece);
            piece(n - 8);
        } else {
            (0..n).for_each(|i| *to.add(i) = *from.add(i));
        }
    }
}

/// A checked tensor whose compute type is `T`: a [`Source`] or [`Target`] without its element type.
pub(crate) struct Erased<'a, T: 'static> {
    ptr: ErasedPtr<T>,
    layout: &'a Layout,
    memory: PhantomData<&'a [T]>,
}

impl<T> Clone for Erased<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Erased<'_, T> {}

// SAFETY: it represents a borrow of a tensor; threads that share one for writing write disjoint elements, which the
// (unsafe) code that does so must uphold.
unsafe impl<T: Send> Send for Erased<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Erased<'_, T> {}

impl<'a, T: Copy> Erased<'a, T> {
    /// The first element. Every position that the layout describes relative to it may be read for `'a`, and written if this
    /// was a [`Target`].
    pub(crate) fn ptr(&self) -> ErasedPtr<T> {
        self.ptr
    }

    pub(crate) fn layout(&self) -> &'a Layout {
        self.layout
    }
}

impl<'a, S: Stored> Source<'a, S> {
    pub(crate) fn erased(self) -> Erased<'a, S::Compute> {
        Erased { ptr: ErasedPtr::new(self.ptr()), layout: self.layout(), memory: PhantomData }
    }
}

impl<'a, S: Stored> Target<'a, S> {
    pub(crate) fn erased(self) -> Erased<'a, S::Compute> {
        Erased { ptr: ErasedPtr::new(self.ptr().cast_const()), layout: self.layout(), memory: PhantomData }
    }
}
