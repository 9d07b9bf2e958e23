//! A matrix product in the orientation in which it is computed.

use super::source::Number;

/// The product of A, whose elements are broadcast row by row, and B, whose *lanes* fill vectors. Usually rows are the rows of
/// the user's left matrix and lanes the columns of the right one; `split` exchanges the two where that is cheaper.
#[derive(Clone, Copy)]
pub struct GemmProblem<S> {
    pub rows: usize,
    pub lanes: usize,
    pub k: usize,
    pub a: *const S,
    pub a_row: isize,
    pub a_k: isize,
    pub b: *const S,
    pub b_k: isize,
    pub b_lane: isize,
    pub c: *mut S,
    pub c_row: isize,
    pub c_lane: isize,
    /// Whether to add to the contents of C or overwrite them.
    pub load_c: bool,
    /// Null, or a value to add per lane, or with `bias_on_rows` per row.
    pub bias: *const S,
    pub bias_on_rows: bool,
    pub relu: bool,
}

/// Several products of one shape.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub count: usize,
    /// The offsets of the matrices A, B and C of product `i` from the first ones.
    pub offsets: &'a (dyn Fn(usize) -> [isize; 3] + Sync),
}

// SAFETY: it only describes memory; code that dereferences the pointers must justify it.
unsafe impl<S: Sync + Send> Send for GemmProblem<S> {}
// SAFETY: as above.
unsafe impl<S: Sync + Send> Sync for GemmProblem<S> {}

impl<S: Copy> GemmProblem<S> {
    /// Product `i` of a batch.
    ///
    /// # Safety
    /// The offsets must lead to matrices inside the same allocations.
    pub unsafe fn nth(self, batch: &Batch<'_>, i: usize) -> Self {
        let [a, b, c] = (batch.offsets)(i);
        // SAFETY: the caller's promise.
        unsafe { GemmProblem { a: self.a.offset(a), b: self.b.offset(b), c: self.c.offset(c), ..self } }
    }

    /// The same product with the roles of rows and lanes exchanged.
    pub fn swapped(self) -> Self {
        GemmProblem {
            rows: self.lanes,
            lanes: self.rows,
            a: self.b,
            a_row: self.b_lane,
            a_k: self.b_k,
            b: self.a,
            b_k: self.a_k,
            b_lane: self.a_row,
            c_row: self.c_lane,
            c_lane: self.c_row,
            bias_on_rows: !self.bias_on_rows,
            ..self
        }
    }
}

impl<S: Number> GemmProblem<S> {
    /// Finishes element (row, lane): adds C and the bias as asked for, applies the ReLU, stores.
    ///
    /// # Safety
    /// The element must lie in C (and in the bias), and C must be accessible.
    #[inline(always)]
    pub unsafe fn put(&self, row: usize, lane: usize, mut x: S) {
        // SAFETY: the caller's promise.
        unsafe {
            let c = self.c.offset(row as isize * self.c_row + lane as isize * self.c_lane);
            if self.load_c {
                x = (*c).plus(x);
            }
            if !self.bias.is_null() {
                x = x.plus(*self.bias.add(if self.bias_on_rows { row } else { lane }));
            }
            *c = if self.relu && x < S::ZERO { S::ZERO } else { x };
        }
    }

    /// The product with `k == 0`.
    ///
    /// # Safety
    /// C (and the bias) must be valid for the extents.
    pub unsafe fn empty(&self) {
        for i in 0..self.rows {
            for j in 0..self.lanes {
                // SAFETY: the caller's promise.
                unsafe { self.put(i, j, S::ZERO) }
            }
        }
    }
}
