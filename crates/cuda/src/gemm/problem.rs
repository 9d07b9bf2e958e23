//! Strided row-major products as column-major GEMMs with leading dimensions, which is what cuBLASLt takes.
//!
//! A row-major matrix is its transpose in column-major order, so `C = A B` is computed as `Cᵀ = Bᵀ Aᵀ`: operands swap,
//! nothing is copied. Any operand with dense rows or dense columns can be used, and so can a transposed output.

use kiln_backend::{Layout, MAX_RANK};

/// A matrix as it is stored: column-major, with `rows` contiguous elements per column, and columns `ld` elements apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) ld: usize,
    /// Whether the product takes its transpose.
    pub(crate) transposed: bool,
}

impl Matrix {
    /// A `p` by `k` operand with strides `sp` and `sk`, if one of them is 1.
    fn stored(p: usize, k: usize, sp: isize, sk: isize) -> Option<Matrix> {
        let dense = |rows, cols, across: isize, along: isize, transposed| {
            let ld = leading(rows, cols, across, along)?;
            Some(Matrix { rows, cols, ld, transposed })
        };
        dense(p, k, sp, sk, false).or_else(|| dense(k, p, sk, sp, true))
    }
}

/// The leading dimension of a column-major matrix with stride `across` within a column and stride `along` between
/// columns. A dimension of extent 1 may have any stride.
fn leading(rows: usize, cols: usize, across: isize, along: isize) -> Option<usize> {
    if rows > 1 && across != 1 {
        return None;
    }
    if cols == 1 {
        return Some(rows.max(1));
    }
    usize::try_from(along).ok().filter(|&ld| ld >= rows.max(1))
}

/// One product in the library's terms: `D = first · second` with `D` of `p` by `q`, columns `ld` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) p: usize,
    pub(crate) q: usize,
    pub(crate) k: usize,
    pub(crate) first: Matrix,
    pub(crate) second: Matrix,
    pub(crate) ld: usize,
    /// Whether `first` is the caller's `b` (and `second` its `a`), which is the case unless the output is transposed.
    pub(crate) swapped: bool,
}

/// The operands that the library cannot take in place, and that need a dense copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) a: bool,
    pub(crate) b: bool,
    pub(crate) out: bool,
}

/// Extents of a product: `a` is `m` by `k`, `b` is `k` by `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extents {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// Strides of a row-major matrix: from row to row, from column to column.
pub(crate) type Steps = [isize; 2];

impl Product {
    /// No extent is 0.
    ///
    /// # Errors
    /// If the operands that must be copied first.
    pub(crate) fn new(Extents { m, n, k }: Extents, a: Steps, b: Steps, out: Steps) -> Result<Product, Unfit> {
        // Transposed, `b` is `n` by `k` and `a` is `k` by `m`.
        let (from_b, from_a) = (Matrix::stored(n, k, b[1], b[0]), Matrix::stored(k, m, a[1], a[0]));
        let unfit = |out| Unfit { a: from_a.is_none(), b: from_b.is_none(), out };
        if let Some(ld) = leading(n, m, out[1], out[0]) {
            return match (from_b, from_a) {
                (Some(first), Some(second)) => Ok(Product { p: n, q: m, k, first, second, ld, swapped: true }),
                _ => Err(unfit(false)),
            };
        }
        let Some(ld) = leading(m, n, out[0], out[1]) else { return Err(unfit(true)) };
        match (Matrix::stored(m, k, a[0], a[1]), Matrix::stored(k, n, b[0], b[1])) {
            (Some(first), Some(second)) => Ok(Product { p: m, q: n, k, first, second, ld, swapped: false }),
            // A dense operand is dense either way.
            _ => Err(unfit(false)),
        }
    }
}

/// A batch of products: their number, and the strides of `a`, `b` and the output from one to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) count: usize,
    pub(crate) steps: [isize; 3],
}

/// The largest batch that one call takes.
const MAX_BATCH: usize = 65_535;

/// Leading dimensions divided into few calls of many products each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batches {
    /// From the outermost to the innermost, which is the batch of a call; empty for a single product.
    dims: Vec<Batch>,
}

impl Batches {
    /// The dimensions before `lead` of three layouts with the same leading extents.
    pub(crate) fn new(lead: usize, layouts: [&Layout; 3]) -> Batches {
        let mut dims: Vec<Batch> = Vec::with_capacity(MAX_RANK);
        for dim in 0..lead {
            let count = layouts[2].dims()[dim];
            let steps = layouts.map(|layout| layout.strides()[dim]);
            if count == 1 {
                continue;
            }
            match dims.last_mut() {
                Some(outer) if (0..3).all(|i| outer.steps[i] == steps[i] * count as isize) => {
                    *outer = Batch { count: outer.count * count, steps };
                }
                _ => dims.push(Batch { count, steps }),
            }
        }
        Batches { dims }
    }

    /// Calls `product` for each library call, with the offsets of its first product and its batch.
    pub(crate) fn for_each<E>(&self, mut product: impl FnMut([isize; 3], Batch) -> Result<(), E>) -> Result<(), E> {
        let one = Batch { count: 1, steps: [0; 3] };
        let (inner, outer) = self.dims.split_last().map_or((one, &[][..]), |(inner, outer)| (*inner, outer));
        let calls: usize = outer.iter().map(|batch| batch.count).product();
        for call in 0..calls {
            let (mut rest, mut offsets) = (call, [0; 3]);
            for batch in outer.iter().rev() {
                let index = (rest % batch.count) as isize;
                rest /= batch.count;
                (0..3).for_each(|i| offsets[i] += index * batch.steps[i]);
            }
            let mut done = 0;
            while done < inner.count {
                let count = (inner.count - done).min(MAX_BATCH);
                let at = std::array::from_fn(|i| offsets[i] + done as isize * inner.steps[i]);
                product(at, Batch { count, ..inner })?;
                done += count;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The library's result by its definition, on integers in memory.
    fn run(product: &Product, first: &dyn Fn(usize) -> i64, second: &dyn Fn(usize) -> i64) -> Vec<(usize, i64)> {
        let at = |matrix: &Matrix, row: usize, col: usize| {
            let (row, col) = if matrix.transposed { (col, row) } else { (row, col) };
            assert!(row < matrix.rows && col < matrix.cols && matrix.ld >= matrix.rows);
            row + col * matrix.ld
        };
        let mut out = Vec::new();
        for col in 0..product.q {
            for row in 0..product.p {
                let sum = (0..product.k)
                    .map(|i| first(at(&product.first, row, i)) * second(at(&product.second, i, col)))
                    .sum();
                out.push((row + col * product.ld, sum));
            }
        }
        out
    }

    /// Dense in one dimension with a gap, dense in neither, or broadcast.
    fn steps(rows: usize, cols: usize) -> impl Strategy<Value = Steps> {
        let (rows, cols) = (rows as isize, cols as isize);
        prop_oneof![
            4 => (0isize..3).prop_map(move |gap| [cols + gap, 1]),
            4 => (0isize..3).prop_map(move |gap| [1, rows + gap]),
            1 => Just([2 * cols, 2]),
            1 => Just([0, 1]),
            1 => Just([1, 0]),
            1 => (1isize..9, 1isize..9).prop_map(|(a, b)| [a, b]),
        ]
    }

    fn case() -> impl Strategy<Value = (Extents, Steps, Steps, Steps)> {
        (1usize..5, 1usize..5, 1usize..5)
            .prop_flat_map(|(m, n, k)| (Just(Extents { m, n, k }), steps(m, k), steps(k, n), steps(m, n)))
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_strides((extents, a, b, out) in case()) {
            let Extents { m, n, k } = extents;
            let value = |salt: i64| move |position: usize| (position as i64 * 7919 + salt) % 1000 - 500;
            let (of_a, of_b) = (value(1), value(2));
            match Product::new(extents, a, b, out) {
                Ok(product) => {
                    let (first, second): (&dyn Fn(usize) -> i64, &dyn Fn(usize) -> i64) =
                        if product.swapped { (&of_b, &of_a) } else { (&of_a, &of_b) };
                    let mut got = run(&product, first, second);
                    let mut want = Vec::new();
                    for row in 0..m {
                        for col in 0..n {
                            let place = |steps: Steps, r: usize, c: usize| {
                                (r as isize * steps[0] + c as isize * steps[1]) as usize
                            };
                            let sum = (0..k).map(|i| of_a(place(a, row, i)) * of_b(place(b, i, col))).sum::<i64>();
                            want.push((place(out, row, col), sum));
                        }
                    }
                    got.sort_unstable();
                    want.sort_unstable();
                    prop_assert_eq!(got, want);
                }
                Err(unfit) => {
                    prop_assert!(unfit.a || unfit.b || unfit.out);
                    // With dense copies of the operands that do not fit, it always works.
                    let dense = |unfit: bool, steps, cols: usize| if unfit { [cols as isize, 1] } else { steps };
                    let again = Product::new(extents, dense(unfit.a, a, k), dense(unfit.b, b, n), dense(unfit.out, out, n));
                    prop_assert!(again.is_ok());
                }
            }
        }

        #[test]
        fn transposes_need_no_copy(m in 1usize..6, n in 1usize..6, k in 1usize..6, which in 0u8..8) {
            let dense = |rows: usize, cols: usize, transposed| {
                if transposed { [1, rows as isize] } else { [cols as isize, 1] }
            };
            let [a, b, out] = [(0, m, k), (1, k, n), (2, m, n)].map(|(bit, r, c)| dense(r, c, which >> bit & 1 == 1));
            let product = Product::new(Extents { m, n, k }, a, b, out);
            prop_assert!(product.is_ok());
        }
    }

    #[test]
    fn batches_join_and_split() {
        let shape = kiln_backend::Shape::new(&[3, 1, 4, 2, 2]).unwrap();
        let dense = Layout::contiguous(shape);
        let mut calls = Vec::new();
        let mut run = |layouts: [&Layout; 3]| {
            calls.clear();
            Batches::new(3, layouts)
                .for_each(|at, batch| {
                    calls.push((at, batch));
                    Ok::<_, ()>(())
                })
                .unwrap();
            calls.clone()
        };
        let all = run([&dense, &dense, &dense]);
        assert_eq!(all, [([0; 3], Batch { count: 12, steps: [4; 3] })]);
        // `b` is shared along the first dimension: one call for each of its three indices.
        let shared = Layout::strided(shape, &[0, 0, 4, 2, 1], 0).unwrap();
        let some = run([&dense, &shared, &dense]);
        assert_eq!(some.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [[0, 0, 0], [16, 0, 16], [32, 0, 32]]);
        assert_eq!(some[0].1, Batch { count: 4, steps: [4; 3] });
        let many = Layout::contiguous(kiln_backend::Shape::new(&[70_000, 1, 1]).unwrap());
        let split = run_of(&many);
        assert_eq!(split, [([0; 3], 65_535), ([65_535; 3], 4_465)]);
    }

    fn run_of(layout: &Layout) -> Vec<([isize; 3], usize)> {
        let mut calls = Vec::new();
        let batches = Batches::new(1, [layout; 3]);
        let mut note = |at, batch: Batch| {
            calls.push((at, batch.count));
            Ok::<_, ()>(())
        };
        batches.for_each(&mut note).unwrap();
        calls
    }
}
