//! Tests of every kernel against a plain f64 reference.

use super::kernel::Kernel;
use super::kernels;
use super::problem::{Batch, GemmProblem};
use super::source::{Float, Number, Source};
use super::{Epilogue, Gemm, GemmElem, Matrix, shared, split};
use half::{bf16, f16};

/// A small generator: tests need variety, not quality.
struct Rng(u64);
impl Rng {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % below.max(1) as u64) as usize
    }
}

/// How test data of a type is made and compared.
trait Elem: Number {
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

const EPILOGUES: usize = 4;

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
struct Way<T> {
    name: String,
    run: Box<dyn Fn(GemmProblem<T>)>,
}

impl<T: 'static> Way<T> {
    fn new(name: impl Into<String>, run: impl Fn(GemmProblem<T>) + 'static) -> Way<T> {
        Way { name: name.into(), run: Box::new(run) }
    }
}

/// One random problem: computed in all ways, compared with the reference, which takes longer than they do.
fn check<T: Elem>(
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

const SIZES: [usize; 15] = [0, 1, 2, 3, 7, 8, 13, 17, 31, 33, 64, 65, 100, 129, 200];

/// All sizes with random layouts, then all layouts with random sizes.
fn grid<T: Elem>(ways: &[Way<T>]) {
    let mut rng = Rng(1);
    for m in SIZES {
        for n in SIZES {
            for _ in 0..5 {
                let k = SIZES[rng.next(15)];
                let layouts = (rng.next(8), rng.next(8), rng.next(6));
                let (acc, epi) = (rng.next(2) == 1, rng.next(EPILOGUES));
                check((m, n, k), layouts, acc, epi, &mut rng, ways);
            }
        }
    }
    for la in 0..8 {
        for lb in 0..8 {
            for lc in 0..6 {
                let size = (1 + rng.next(70), 1 + rng.next(70), 1 + rng.next(70));
                check(size, (la, lb, lc), rng.next(2) == 1, rng.next(EPILOGUES), &mut rng, ways);
            }
        }
    }
    // Several blocks of k, of lanes, and parts for several threads.
    for (m, n, k) in [(3, 5000, 40), (70, 900, 30), (300, 70, 500), (30, 20, 1700), (1, 4200, 130), (900, 2, 800)] {
        for layouts in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1), (0, 0, 1), (3, 4, 3)] {
            check((m, n, k), layouts, rng.next(2) == 1, rng.next(EPILOGUES), &mut rng, ways);
        }
    }
}

fn one<'a>() -> Batch<'a> {
    Batch { count: 1, offsets: &|_| [0; 3] }
}

/// By each kernel, divided among threads as products of its size are.
fn each_kernel<S: Elem + Source<T>, T: Float>() -> impl Iterator<Item = Way<S>> {
    kernels::available::<T>().into_iter().map(|kern| {
        Way::new(kern.name, |p: GemmProblem<S>| {
            if p.rows > 0 && p.lanes > 0 {
                // SAFETY: `check` builds valid matrices, the kernel is available.
                unsafe { split::floats::<S, T>(p, one(), kern) }
            }
        })
    })
}

/// By each kernel, the lanes packed first, in one piece and (room for 2,000 elements) in several.
fn packed_lanes<T: Elem + Source<T> + Float>() -> impl Iterator<Item = Way<T>> {
    kernels::available::<T>().into_iter().flat_map(|kern| {
        [2_000, shared::ROOM].map(|room| {
            Way::new(format!("{} with room for {room} lanes", kern.name), move |p: GemmProblem<T>| {
                // SAFETY: `check` builds valid matrices, and the kernel runs on this machine.
                unsafe { if p.k == 0 { p.empty() } else { shared::product(&p, kern, room) } }
            })
        })
    })
}

#[test]
fn f32_products() {
    grid::<f32>(&each_kernel::<f32, f32>().chain(packed_lanes()).chain([public()]).collect::<Vec<_>>());
}
#[test]
fn f64_products() {
    grid::<f64>(&each_kernel::<f64, f64>().chain(packed_lanes()).collect::<Vec<_>>());
}
#[test]
fn f16_products() {
    grid::<f16>(&each_kernel::<f16, f32>().collect::<Vec<_>>());
}
#[test]
fn bf16_products() {
    grid::<bf16>(&each_kernel::<bf16, f32>().collect::<Vec<_>>());
}

/// A product of matrices, each given as its start and its strides of rows and columns.
fn product<'a, T>(
    [m, n, k]: [usize; 3],
    a: (*const T, isize, isize),
    b: (*const T, isize, isize),
    c: (*mut T, isize, isize),
    accumulate: bool,
    epilogue: Epilogue<'a, T>,
) -> Gemm<'a, T> {
    fn matrix<P>((start, row_stride, column_stride): (P, isize, isize)) -> Matrix<P> {
        Matrix { start, row_stride, column_stride }
    }
    Gemm { m, n, k, a: matrix(a), b: matrix(b), c: matrix(c), accumulate, epilogue }
}

/// By what the operations call.
fn public<T: Elem + GemmElem>() -> Way<T> {
    Way::new("public", |p: GemmProblem<T>| {
        // SAFETY: `check` builds valid matrices and a bias of the right length.
        unsafe {
            let bias = if p.bias.is_null() { None } else { Some(core::slice::from_raw_parts(p.bias, p.lanes)) };
            let epilogue = match (bias, p.relu) {
                (None, false) => Epilogue::None,
                (None, true) => Epilogue::Relu,
                (Some(b), false) => Epilogue::Bias(b),
                (Some(b), true) => Epilogue::BiasRelu(b),
            };
            product(
                [p.rows, p.lanes, p.k],
                (p.a, p.a_row, p.a_k),
                (p.b, p.b_k, p.b_lane),
                (p.c, p.c_row, p.c_lane),
                p.load_c,
                epilogue,
            )
            .run()
        }
    })
}

#[test]
fn i64_products() {
    grid::<i64>(&[public()]);
}
#[test]
fn i32_products() {
    grid::<i32>(&[public()]);
}
#[test]
fn u8_products() {
    grid::<u8>(&[public()]);
}

#[test]
fn integers_wrap() {
    let (a, b) = ([i32::MAX, 2], [3, i32::MIN]);
    let mut c = [0];
    // SAFETY: one element of C, two of A and B.
    unsafe {
        product([1, 1, 2], (a.as_ptr(), 2, 1), (b.as_ptr(), 1, 1), (c.as_mut_ptr(), 1, 1), false, Epilogue::None).run()
    };
    assert_eq!(c[0], i32::MAX.wrapping_mul(3).wrapping_add(2i32.wrapping_mul(i32::MIN)));
}

fn nan_and_infinity_for<T: Float + Source<T>>(kern: &Kernel<T>, make: fn(f64) -> T, bits: fn(T) -> f64) {
    // Zero times infinity is NaN, and ReLU does not hide it.
    for (m, n, k) in [(1, 1, 20), (20, 40, 30), (5, 3, 1), (70, 20, 450)] {
        let mut a = vec![make(0.0); m * k];
        let mut b = vec![make(1.0); k * n];
        b[(k - 1) * n] = make(f64::INFINITY);
        a[(m - 1) * k] = make(f64::NAN);
        for b_k in [n as isize, 1] {
            let b_lane = if b_k == 1 { k as isize } else { 1 };
            if b_k == 1 {
                b.fill(make(1.0));
                b[k - 1] = make(f64::INFINITY);
            }
            let mut c = vec![make(5.0); m * n];
            // SAFETY: row-major A and C, B of either order, all of full length.
            unsafe {
                split::floats::<T, T>(
                    GemmProblem {
                        rows: m,
                        lanes: n,
                        k,
                        a: a.as_ptr(),
                        a_row: k as isize,
                        a_k: 1,
                        b: b.as_ptr(),
                        b_k,
                        b_lane,
                        c: c.as_mut_ptr(),
                        c_row: n as isize,
                        c_lane: 1,
                        load_c: false,
                        bias: core::ptr::null(),
                        bias_on_rows: false,
                        relu: true,
                    },
                    one(),
                    kern,
                )
            };
            for i in 0..m {
                for j in 0..n {
                    let nan = j == 0 || i == m - 1;
                    assert_eq!(bits(c[i * n + j]).is_nan(), nan, "{} {m}x{n}x{k} at ({i},{j})", kern.name);
                }
            }
        }
    }
}
#[test]
fn nan_and_infinity() {
    for kern in kernels::available::<f32>() {
        nan_and_infinity_for(kern, |x| x as f32, |x| x as f64);
    }
    for kern in kernels::available::<f64>() {
        nan_and_infinity_for(kern, |x| x, |x| x);
    }
}

#[test]
fn batches() {
    let mut rng = Rng(3);
    for (count, m, n, k) in
        [(7, 5, 9, 11), (3, 64, 64, 64), (100, 16, 16, 8), (2, 150, 200, 100), (5, 3, 4, 0), (0, 3, 4, 5)]
    {
        let mut data = |len: usize| (0..len).map(|_| rng.next(17) as f32 - 8.0).collect::<Vec<f32>>();
        // B is shared by all products, C is stored in reverse order.
        let (a, b) = (data(count * m * k), data(k * n));
        let mut c = vec![0.0; count * m * n];
        let offsets = |i: usize| [(i * m * k) as isize, 0, ((count - 1 - i) * m * n) as isize];
        // SAFETY: the offsets stay inside the vectors.
        unsafe {
            product(
                [m, n, k],
                (a.as_ptr(), k as isize, 1),
                (b.as_ptr(), n as isize, 1),
                (c.as_mut_ptr(), n as isize, 1),
                false,
                Epilogue::None,
            )
            .run_batched(count, &offsets)
        };
        for x in 0..count {
            for i in 0..m {
                for j in 0..n {
                    let want: f32 = (0..k).map(|p| a[x * m * k + i * k + p] * b[p * n + j]).sum();
                    assert_eq!(c[(count - 1 - x) * m * n + i * n + j], want);
                }
            }
        }
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let mut rng = Rng(5);
    for (m, n, k) in [
        (64, 512, 784),
        (64, 784, 512),
        (512, 784, 64),
        (300, 300, 300),
        (64, 10, 512),
        (1, 3000, 900),
        (2000, 30, 90),
        (700, 200, 300),
    ] {
        let mut data = |len: usize| (0..len).map(|_| rng.next(10007) as f32 / 5000.0 - 1.0).collect::<Vec<f32>>();
        let (a, b) = (data(m * k), data(k * n));
        // Which of the two operands is transposed.
        for [ta, tb] in [[false, false], [false, true], [true, false]] {
            let strides =
                |transposed, rows, columns| if transposed { (1, rows as isize) } else { (columns as isize, 1) };
            let ((rsa, csa), (rsb, csb)) = (strides(ta, m, k), strides(tb, k, n));
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut c = vec![0f32; m * n];
                pool.install(|| {
                    // SAFETY: row-major C, A and B of either order, all of full length.
                    unsafe {
                        product(
                            [m, n, k],
                            (a.as_ptr(), rsa, csa),
                            (b.as_ptr(), rsb, csb),
                            (c.as_mut_ptr(), n as isize, 1),
                            false,
                            Epilogue::Relu,
                        )
                        .run()
                    }
                });
                c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let first = run(1);
            for threads in [2, 3, 7, 16] {
                assert!(run(threads) == first, "{m}x{n}x{k} with {threads} threads");
            }
        }
    }
}

/// What a machine's cache decides is no part of the result.
#[test]
fn same_bits_for_any_lanes_per_block() {
    let (m, n, k) = (200, 900, 1000);
    let mut rng = Rng(6);
    let mut data = |len: usize| (0..len).map(|_| rng.next(10007) as f32 / 5000.0 - 1.0).collect::<Vec<f32>>();
    let (a, b) = (data(m * k), data(k * n));
    for kern in kernels::available::<f32>() {
        for (a_row, a_k) in [(k as isize, 1), (1, m as isize)] {
            let run = |lanes: usize| {
                let kern = Kernel { nc: lanes, most_nc: lanes, ..*kern };
                let mut c = vec![0f32; m * n];
                let p = GemmProblem {
                    rows: m,
                    lanes: n,
                    k,
                    a: a.as_ptr(),
                    a_row,
                    a_k,
                    b: b.as_ptr(),
                    b_k: n as isize,
                    b_lane: 1,
                    c: c.as_mut_ptr(),
                    c_row: n as isize,
                    c_lane: 1,
                    load_c: false,
                    bias: core::ptr::null(),
                    bias_on_rows: false,
                    relu: false,
                };
                // SAFETY: whole matrices, and a kernel of this machine.
                unsafe { split::floats(p, one(), &kern) }
                c.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let first = run(kern.nc);
            for lanes in [2 * kern.lanes, kern.most_nc, 20 * kern.lanes, 1024] {
                assert!(run(lanes) == first, "{} with {lanes} lanes per block, rows {a_row} apart", kern.name);
            }
        }
    }
}
