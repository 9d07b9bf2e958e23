//! Parts of a product that are handed to threads.

use core::ops::Range;

/// Multiply-adds of a product from which parts of several sizes, and a second synchronization of the threads, cost little.
pub(super) const WORTH: usize = 30_000_000;

/// Cuts `0..units` into one section per thread, in which the parts become smaller: threads wait for the last one, and one that
/// something else slows down has taken fewer by then. A part has about `least` units or more, and at most `most`. All sections have
/// the same number of parts, since [`team`](crate::engine::team) gives each thread as many tasks; where units are few, some are
/// empty.
pub(super) fn parts(units: usize, threads: usize, least: usize, most: usize) -> Vec<Range<usize>> {
    // The ends of the parts of a section of the largest size; the others have one unit less.
    let largest = units.div_ceil(threads);
    let mut ends = vec![0];
    while let Some(&start) = ends.last().filter(|&&end| end < largest) {
        let left = largest - start;
        let size = left.div_ceil(2).clamp(least, most).min(left);
        // What would be too small is divided among the last two.
        let size = if left > size && left - size < least { left.div_ceil(2) } else { size };
        ends.push(start + size);
    }
    (0..threads)
        .flat_map(|section| {
            let (first, end) = (section * units / threads, (section + 1) * units / threads);
            let at = move |part: usize| first + part * (end - first) / largest.max(1);
            ends.windows(2).map(move |ends| at(ends[0])..at(ends[1])).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_units_and_become_smaller() {
        for (units, threads, least, most) in [
            (86, 2, 2, 21),
            (37, 2, 1, 9),
            (342, 16, 2, 21),
            (17, 2, 2, 21),
            (1, 3, 1, 9),
            (4, 1, 2, 21),
            (1000, 4, 12, 128),
        ] {
            let parts = parts(units, threads, least, most);
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, units));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{parts:?}");
            assert!(parts.iter().all(|part| part.len() <= most), "{parts:?}");
            let each = parts.len() / threads;
            assert_eq!(parts.len(), each * threads);
            for section in parts.chunks(each) {
                let all: usize = section.iter().map(Range::len).sum();
                assert!(all.abs_diff(units / threads) <= 1, "{parts:?}");
                // A section that is smaller than the largest lacks a unit somewhere.
                assert!(section.windows(2).all(|pair| pair[0].len() + 1 >= pair[1].len()), "{parts:?}");
            }
        }
    }
}
