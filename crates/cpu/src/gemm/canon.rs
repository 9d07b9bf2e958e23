//! A product in the orientation in which it is computed.

use super::micro::Kernel;
use super::source::Number;

/// A product seen as *rows* (the side whose elements are broadcast) times *lanes* (the side
/// that fills vectors). Usually rows are the rows of A and lanes the columns of B;
/// the two are exchanged where that is the cheaper way, see [`Canon::cost`].
#[derive(Clone, Copy)]
pub struct Canon<S> {
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
    pub load_c: bool,
    /// Null, or one value per lane, or with `bias_on_rows` per row.
    pub bias: *const S,
    pub bias_on_rows: bool,
    pub relu: bool,
}

/// Several products of one shape.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub count: usize,
    /// Where the matrices A, B and C of product `i` begin, relative to the first pointers.
    pub offsets: &'a (dyn Fn(usize) -> [isize; 3] + Sync),
}

// SAFETY: a description of memory; whoever dereferences the pointers argues for that.
unsafe impl<S: Sync + Send> Send for Canon<S> {}
// SAFETY: as above.
unsafe impl<S: Sync + Send> Sync for Canon<S> {}

impl<S: Copy> Canon<S> {
    /// Product `i` of a batch.
    ///
    /// # Safety
    /// The offsets must lead to matrices inside the same allocations.
    pub unsafe fn nth(self, batch: &Batch<'_>, i: usize) -> Self {
        let [a, b, c] = (batch.offsets)(i);
        // SAFETY: the caller's promise.
        unsafe { Canon { a: self.a.offset(a), b: self.b.offset(b), c: self.c.offset(c), ..self } }
    }

    /// The same product with the roles of rows and lanes exchanged.
    pub fn swapped(self) -> Self {
        Canon {
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

    /// Estimated cycles of this orientation. Rough, but it only has to rank the two.
    pub(crate) fn cost<T>(&self, kern: &Kernel<T>) -> f64 {
        let (r, l, k) = (self.rows as f64, self.lanes as f64, self.k as f64);
        let vectors = (l / kern.lanes as f64).ceil();
        // Two FMAs per cycle, but a tile with few rows is bound by the latency of FMA.
        let compute = vectors * r.max(4.0) * k / 2.0;
        let pack_lanes = match (self.b_lane, self.b_k) {
            (1, _) if self.rows <= kern.mr => 0.0,
            (1, _) => 0.1,
            (_, 1) => 0.5,
            _ => 2.0,
        };
        let pack_rows = match (self.a_k, self.a_row) {
            (1, _) => 0.1,
            (_, 1) => 0.2,
            _ => 2.0,
        };
        let store = match (self.c_lane, self.c_row) {
            (1, _) => 0.15,
            (_, 1) => 0.6,
            _ => 2.0,
        };
        let (k_blocks, l_blocks) = ((k / kern.kc as f64).ceil(), (l / kern.nc as f64).ceil());
        compute + pack_lanes * l * k + pack_rows * r * k * l_blocks + store * r * l * k_blocks
    }
}

impl<S: Number> Canon<S> {
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
