//! Random problems, and what their results have to be: an f64 reference and untouched memory around it.

use half::{bf16, f16};

use crate::gemm::{problem::GemmProblem, source::Number};

/// A small generator: tests need variety, not quality.
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % below.max(1) as u64) as usize
    }
}

/// How test data of a type is made and compared.
pub trait Elem: Number {
    /// From a small integer between -8 and 8 (a quarter of it, for floats).
    fn make(i: i64) -> Self;
    fn value(self) -> f64;
    /// Relative precision of storage. Sums of this data are exact in the compute type.
    const EPS: f64;
    /// The reference result in this type's arithmetic.
    fn wrap(x: f64) -> f64 {
        x
    }
}
macro_rules! elem {
    ($($t:ident $eps:literal $make:expr, $value:expr;)*) => {$(
        impl Elem for $t {
            fn make(i: i64) -> $t { $make(i) }
            fn value(self) -> f64 { $value(self) }
            const EPS: f64 = $eps;
        }
    )*};
}
elem! {
    f32 0.0 |i| i as f32 * 0.25, |x| x as f64;
    f64 0.0 |i| i as f64 * 0.25, |x| x;
    f16 5e-4 |i| f16::from_f32(i as f32 * 0.25), f16::to_f64;
    bf16 4e-3 |i| bf16::from_f32(i as f32 * 0.25), bf16::to_f64;
    i64 0.0 |i| i, |x| x as f64;
    i32 0.0 |i| i as i32, |x| x as f64;
}
impl Elem for u8 {
    fn make(i: i64) -> u8 {
        i as u8
    }
    fn value(self) -> f64 {
        self as f64
    }
    const EPS: f64 = 0.0;
    fn wrap(x: f64) -> f64 {
        x.rem_euclid(256.0)
    }
}

/// Memory of a `rows x cols` matrix in some layout, the numbers in it, and the position of its first element.
struct Mat<T> {
    data: Vec<T>,
    numbers: Vec<f64>,
    start: usize,
    rs: isize,
    cs: isize,
}

impl<T: Elem> Mat<T> {
    /// Layouts: 0 row-major, 1 column-major, 2 row-major with gaps, 3 gaps in both
    /// directions, 4 both strides negative, 5 column-major with gaps, and for inputs
    /// 6 and 7 with one stride 0.
    fn new(rows: usize, cols: usize, layout: usize, rng: &mut Rng) -> Mat<T> {
        let (r, c) = (rows as isize, cols as isize);
        let (rs, cs) = match layout {
            0 => (c, 1),
            1 => (1, r),
            2 => (c + 5, 1),
            3 => (2 * c * 3 + 1, 3),
            4 => (-(c + 2), -1),
            5 => (1, r + 3),
            6 => (0, 1),
            _ => (1, 0),
        };
        let span = |n: isize, s: isize| (n - 1).max(0) * s.abs();
        let len = (span(r, rs) + span(c, cs) + 1) as usize;
        let start = if rs < 0 { len - 1 } else { 0 };
        let all: [T; 17] = std::array::from_fn(|i| T::make(i as i64 - 8));
        let values = all.map(T::value);
        let (data, numbers) = (0..len).map(|_| rng.next(17)).map(|i| (all[i], values[i])).unzip();
        Mat { data, numbers, start, rs, cs }
    }
    fn place(&self, i: usize, j: usize) -> usize {
        (self.start as isize + i as isize * self.rs + j as isize * self.cs) as usize
    }
    /// The numbers of a row or a column, `step` apart from the one at (`i`, `j`) on.
    fn line(&self, i: usize, j: usize, step: isize, count: usize) -> impl Iterator<Item = f64> {
        let first = self.place(i, j) as isize;
        (0..count as isize).map(move |p| self.numbers[(first + p * step) as usize])
    }
    fn ptr(&self) -> *const T {
        &self.data[self.start]
    }
}

pub const EPILOGUES: usize = 4;

/// The sum of products of small integers, which is exact in any order: in eight parts, which takes less time.
fn dot(x: &[f64], y: &[f64]) -> f64 {
    let ((xs, x_rest), (ys, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in xs.iter().zip(ys) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f64>()
}

/// A way to compute products, and what messages call it.
pub struct Way<T> {
    name: String,
    run: Box<dyn Fn(GemmProblem<T>)>,
}

impl<T: 'static> Way<T> {
    pub fn new(name: impl Into<String>, run: impl Fn(GemmProblem<T>) + 'static) -> Way<T> {
        Way { name: name.into(), run: Box::new(run) }
    }
}

/// One random problem: computed in all ways, compared with the reference, which takes longer than they do.
pub fn check<T: Elem>(
    (m, n, k): (usize, usize, usize),
    (la, lb, lc): (usize, usize, usize),
    accumulate: bool,
    epilogue: usize,
    rng: &mut Rng,
    ways: &[Way<T>],
) {
    let a = Mat::<T>::new(m, k, la, rng);
    let b = Mat::<T>::new(k, n, lb, rng);
    let c = Mat::<T>::new(m, n, lc, rng);
    let bias: Vec<T> = (0..n).map(|_| T::make(rng.next(17) as i64 - 8)).collect();
    let (has_bias, relu) = (epilogue & 1 == 1, epilogue & 2 == 2);
    // Rows of A and columns of B.
    let left: Vec<f64> = (0..m).flat_map(|i| a.line(i, 0, a.cs, k)).collect();
    let right: Vec<f64> = (0..n).flat_map(|j| b.line(0, j, b.rs, k)).collect();
    // What the buffer has to hold afterwards: the product, and around it what was there before.
    let mut want: Vec<Option<f64>> = vec![None; c.data.len()];
    for i in 0..m {
        for j in 0..n {
            let mut sum = dot(&left[i * k..][..k], &right[j * k..][..k]);
            if accumulate {
                sum += c.numbers[c.place(i, j)];
            }
            if has_bias {
                sum += bias[j].value();
            }
            if relu && sum < 0.0 {
                sum = 0.0;
            }
            want[c.place(i, j)] = Some(T::wrap(sum));
        }
    }
    for Way { name, run } in ways {
        let mut data = c.data.clone();
        run(GemmProblem {
            rows: m,
            lanes: n,
            k,
            a: a.ptr(),
            a_row: a.rs,
            a_k: a.cs,
            b: b.ptr(),
            b_k: b.rs,
            b_lane: b.cs,
            c: &mut data[c.start] as *mut T,
            c_row: c.rs,
            c_lane: c.cs,
            load_c: accumulate,
            bias: if has_bias { bias.as_ptr() } else { core::ptr::null() },
            bias_on_rows: false,
            relu,
        });
        let what = || format!("{name} {m}x{n}x{k} layouts {la}{lb}{lc} acc {accumulate} epi {epilogue}");
        for (place, (got, want)) in data.iter().zip(&want).enumerate() {
            let Some(want) = *want else {
                assert!(*got == c.data[place], "{}: wrote outside of C", what());
                continue;
            };
            let got = got.value();
            if (got - want).abs() > T::EPS * want.abs() || got.is_nan() {
                let index = (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).find(|&(i, j)| c.place(i, j) == place);
                panic!("{}: {index:?} is {got}, not {want}", what());
            }
        }
    }
}
