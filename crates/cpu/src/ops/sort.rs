//! `sort` and `searchsorted`.
//!
//! Both order elements by an integer key. For sorting, the key and the position in the line are packed into one
//! integer, so that no two entries are equal and any sort is stable. Short lines are sorted by comparison, long ones by
//! radix sort.

use kiln_backend::{Checked, Layout, Result, SearchsortedArgs, SortArgs, SortBackend};
use rayon::slice::ParallelSliceMut;

use crate::{
    device::CpuBackend,
    engine::{iter::Walk, par},
    memory::view::{Source, Target},
    numeric::{
        dispatch::for_all,
        stored::{Stored, Truth},
    },
};

/// Lines of at least this many elements are sorted by several threads, where there are enough threads for a parallel
/// comparison sort to overtake a radix sort.
const PARALLEL_LINE: usize = 64 * 1024;
const MANY_THREADS: usize = 8;

/// Radix sort pays off from about this many elements on.
const LONG_LINE: usize = 512;

/// Sorting costs about this many additions an element.
const COST: usize = 32;

/// An element type with a total order that puts NaN last and makes the two zeros equal.
trait Ordered: Stored {
    /// Whether keys are below 2^32.
    const NARROW: bool;
    /// Keys compare as the elements do.
    fn key(self) -> u64;
}

macro_rules! ordered {
    ($($ty:ty, $narrow:expr, |$v:ident| $key:expr;)*) => {$(
        impl Ordered for $ty {
            const NARROW: bool = $narrow;
            #[inline(always)]
            fn key(self) -> u64 { let $v = self; $key }
        }
    )*};
}

ordered! {
    f32, true, |v| float_key(v);
    Truth, true, |v| u64::from(v.load());
    f64, false, |v| {
        // Adding 0 turns -0 into 0.
        let bits = (v + 0.0).to_bits();
        let key = if bits >> 63 == 1 { !bits } else { bits | (1 << 63) };
        if v.is_nan() { u64::MAX } else { key }
    };
}

macro_rules! ordered_rows {
    (()
        $(FLOAT($($float_rest:tt)*))*
        $(HALF($half:ident, $h:ident, $($half_rest:tt)*))*
        $(INT($int:ident, $i:ident, $($int_rest:tt)*))*
        BOOL($($bool_rest:tt)*)
    ) => {
        ordered! {
            $(kiln_backend::half::$h, true, |v| float_key(v.load());)*
            // The distance from the lowest number.
            $($i, size_of::<$i>() <= 4, |v| i64::from(v).wrapping_sub(i64::from($i::MIN)) as u64;)*
        }
    };
}
kiln_backend::dtype_table!(ordered_rows);

#[inline(always)]
fn float_key(v: f32) -> u64 {
    let bits = (v + 0.0).to_bits();
    // Negative floats grow as their bits shrink; all of them lie below the positive ones.
    let key = if bits >> 31 == 1 { !bits } else { bits | (1 << 31) };
    u64::from(if v.is_nan() { u32::MAX } else { key })
}

/// A key and a position, ordered by the key first.
trait Entry: Copy + Default + Ord + Send {
    /// Number of one-byte digits in the key.
    const DIGITS: usize;
    fn new(key: u64, position: usize) -> Self;
    fn position(self) -> usize;
    /// A digit of the key; digit 0 is the lowest.
    fn digit(self, digit: usize) -> usize;
}

/// For keys and positions below 2^32.
impl Entry for u64 {
    const DIGITS: usize = 4;
    #[inline(always)]
    fn new(key: u64, position: usize) -> u64 {
        (key << 32) | position as u64
    }
    #[inline(always)]
    fn position(self) -> usize {
        self as u32 as usize
    }
    #[inline(always)]
    fn digit(self, digit: usize) -> usize {
        (self >> (32 + 8 * digit)) as usize & 0xFF
    }
}

impl Entry for u128 {
    const DIGITS: usize = 8;
    #[inline(always)]
    fn new(key: u64, position: usize) -> u128 {
        (u128::from(key) << 64) | position as u128
    }
    #[inline(always)]
    fn position(self) -> usize {
        self as u64 as usize
    }
    #[inline(always)]
    fn digit(self, digit: usize) -> usize {
        (self >> (64 + 8 * digit)) as usize & 0xFF
    }
}

/// Entries to sort, and room for as many more.
#[derive(Default)]
struct Entries<E> {
    entries: Vec<E>,
    spare: Vec<E>,
}

impl<E: Entry> Entries<E> {
    fn sort(&mut self) {
        if self.entries.len() < LONG_LINE {
            self.entries.sort_unstable();
        } else {
            self.sort_by_digits();
        }
    }

    /// Distributes the entries by each digit of the key in turn, from the lowest. Each pass keeps the order of
    /// equal digits, so entries with equal keys stay in the order of their positions.
    fn sort_by_digits(&mut self) {
        let len = self.entries.len();
        self.spare.resize(len, E::default());
        let mut counts = [[0; 256]; 8];
        for entry in &self.entries {
            for (digit, counts) in counts.iter_mut().enumerate().take(E::DIGITS) {
                counts[entry.digit(digit)] += 1;
            }
        }
        for (digit, counts) in counts.iter_mut().enumerate().take(E::DIGITS) {
            // Often all keys share a digit: the upper ones of small integers, the lower ones of half precision.
            if counts.contains(&len) {
                continue;
            }
            let mut next = 0;
            for count in counts.iter_mut() {
                next += std::mem::replace(count, next);
            }
            for &entry in &self.entries {
                let to = &mut counts[entry.digit(digit)];
                self.spare[*to] = entry;
                *to += 1;
            }
            std::mem::swap(&mut self.entries, &mut self.spare);
        }
    }
}

/// The lines of a layout along one dimension.
struct Lines {
    starts: Walk,
    len: usize,
    stride: isize,
}

impl Lines {
    fn new(layout: &Layout, dim: usize) -> Lines {
        // A scalar is one line of one element.
        let len = layout.dims().get(dim).map_or(1, |&extent| extent);
        let stride = layout.strides().get(dim).map_or(0, |&stride| stride);
        Lines { starts: Walk::across(layout, dim), len, stride }
    }

    /// The offset of element `i` of a line that begins at offset `start`.
    #[inline(always)]
    fn at(&self, start: isize, i: usize) -> isize {
        start + i as isize * self.stride
    }
}

impl SortBackend for CpuBackend {
    fn sort(&self, args: Checked<SortArgs>) -> Result<()> {
        const OP: &str = "sort";
        let SortArgs { x, dim, descending, values, indices } = args.into_inner();
        let indices = Target::<i64>::new(OP, indices)?;
        for_all!(x.dtype(), T => {
            let (x, values) = (Source::<T>::new(OP, x)?, Target::<T>::new(OP, values)?);
            let len = x.layout().dims().get(dim).map_or(1, |&extent| extent);
            if T::NARROW && u32::try_from(len).is_ok() {
                sort_lines::<T, u64>(&x, dim, descending, &values, &indices);
            } else {
                sort_lines::<T, u128>(&x, dim, descending, &values, &indices);
            }
        });
        Ok(())
    }

    fn searchsorted(&self, args: Checked<SearchsortedArgs>) -> Result<()> {
        const OP: &str = "searchsorted";
        let SearchsortedArgs { sorted, values, right, out } = args.into_inner();
        let (dim, out) = (sorted.layout.rank() - 1, Target::<i64>::new(OP, out)?);
        for_all!(sorted.dtype(), T => {
            search::<T>(&Source::new(OP, sorted)?, &Source::new(OP, values)?, dim, right, &out);
        });
        Ok(())
    }
}

fn sort_lines<T: Ordered, E: Entry>(
    x: &Source<T>,
    dim: usize,
    descending: bool,
    values: &Target<T>,
    indices: &Target<i64>,
) {
    let (from, to, to_index) =
        (Lines::new(x.layout(), dim), Lines::new(values.layout(), dim), Lines::new(indices.layout(), dim));
    // Reversing the keys instead of the result keeps the order of equal elements.
    let reverse = match (descending, T::NARROW) {
        (false, _) => 0,
        (true, true) => u64::from(u32::MAX),
        (true, false) => u64::MAX,
    };
    let len = from.len;
    let line = |line: usize, buffers: &mut Entries<E>, sort: fn(&mut Entries<E>)| {
        let start = from.starts.offset(line);
        // SAFETY: the positions of a line are elements of `x`'s checked layout.
        let element = |i: usize| unsafe { x.ptr().offset(from.at(start, i)).read() };
        buffers.entries.clear();
        buffers.entries.extend((0..len).map(|i| E::new(element(i).key() ^ reverse, i)));
        sort(buffers);
        let (start, start_index) = (to.starts.offset(line), to_index.starts.offset(line));
        for (i, entry) in buffers.entries.iter().enumerate() {
            let position = entry.position();
            // SAFETY: the outputs have the shape of `x`, so the positions of this line are elements of their
            // checked layouts, and each line is written by one task.
            unsafe {
                values.ptr().offset(to.at(start, i)).write(element(position));
                indices.ptr().offset(to_index.at(start_index, i)).write(position as i64);
            }
        }
    };
    let lines = if len == 0 { 0 } else { from.starts.len() };
    let threads = rayon::current_num_threads();
    if len >= PARALLEL_LINE && threads > MANY_THREADS && lines < threads {
        let mut buffers = Entries::default();
        (0..lines).for_each(|i| line(i, &mut buffers, |b| b.entries.par_sort_unstable()));
    } else {
        par::ranges(lines, par::row_grain(len.saturating_mul(COST)), |range| {
            let mut buffers = Entries::default();
            range.for_each(|i| line(i, &mut buffers, Entries::sort));
        });
    }
}

fn search<T: Ordered>(sorted: &Source<T>, values: &Source<T>, dim: usize, right: bool, out: &Target<i64>) {
    let (within, from, to) =
        (Lines::new(sorted.layout(), dim), Lines::new(values.layout(), dim), Lines::new(out.layout(), dim));
    let cost = (within.len + 1).ilog2() as usize * 8 + 8;
    par::ranges(values.numel(), par::GRAIN / cost, |range| {
        let mut position = range.start;
        while position < range.end {
            let (line, first) = (position / from.len, position % from.len);
            let last = from.len.min(first + range.end - position);
            let (start, start_from, start_to) =
                (within.starts.offset(line), from.starts.offset(line), to.starts.offset(line));
            for i in first..last {
                // SAFETY: an element of the checked layout of `values`.
                let wanted = unsafe { values.ptr().offset(from.at(start_from, i)).read() }.key();
                let count = partition_point(within.len, |j| {
                    // SAFETY: `j` is below the length of the line, an element of the checked layout.
                    let key = unsafe { sorted.ptr().offset(within.at(start, j)).read() }.key();
                    key < wanted || right && key == wanted
                });
                // SAFETY: `out` has the shape of `values`, and each position is written by one task.
                unsafe { out.ptr().offset(to.at(start_to, i)).write(count as i64) };
            }
            position += last - first;
        }
    });
}

/// The first position in `0..len` for which `before` is false, if it is true for those below and false above.
/// The steps depend on `len` alone, so that the loop has no branch to mispredict.
#[inline(always)]
fn partition_point(mut len: usize, before: impl Fn(usize) -> bool) -> usize {
    let mut low = 0;
    while len > 1 {
        let half = len / 2;
        low += if before(low + half - 1) { half } else { 0 };
        len -= half;
    }
    low + usize::from(len == 1 && before(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_of_64_bits() {
        let big = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX];
        assert!(big.windows(2).all(|w| w[0].key() < w[1].key()));
        let tiny = [f64::NEG_INFINITY, -1.0 - f64::EPSILON, -1.0, -5e-324, 0.0, 5e-324, 1.0, f64::INFINITY, f64::NAN];
        assert!(tiny.windows(2).all(|w| w[0].key() < w[1].key()));
        assert_eq!((-0.0f64).key(), 0.0f64.key());
    }
}
