//! Tests of every kernel against a plain f64 reference.

mod packing;
mod reference;
mod same_bits;

use half::{bf16, f16};
use reference::{EPILOGUES, Elem, Rng, Way, check};

use super::{
    Epilogue, Gemm, GemmElem, Matrix,
    blocked::{block_of_steps, rows_in_place},
    kernel::Kernel,
    kernels, own_lanes,
    problem::{Batch, GemmProblem},
    shared,
    source::{Float, Source},
    split,
};

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
    let sizes =
        [(3, 5000, 40), (70, 900, 30), (300, 70, 500), (30, 20, 1700), (101, 40, 1024), (1, 4200, 130), (900, 2, 800)];
    for (m, n, k) in sizes {
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

/// By each kernel, the ways of large products: the lanes packed first, in one piece and (room for 2,000 elements) in several, and by
/// the thread that computes them.
fn large<T: Elem + Source<T> + Float>() -> impl Iterator<Item = Way<T>> {
    kernels::available::<T>().into_iter().flat_map(|kern| {
        [Some(2_000), Some(shared::ROOM), None].map(|room| {
            let packed = room.map_or("by their threads".into(), |room| format!("in room for {room}"));
            Way::new(format!("{}, lanes packed {packed}", kern.name), move |p: GemmProblem<T>| {
                // SAFETY: `check` builds valid matrices, and the kernel runs on this machine.
                unsafe {
                    match room {
                        _ if p.k == 0 || p.rows == 0 => p.empty(),
                        Some(room) => shared::product(&p, kern, room),
                        None => own_lanes::product(&p, kern),
                    }
                }
            })
        })
    })
}

/// Rows are read where they are if their lines spread over the sets of L1, and packed if they would push each other out.
#[test]
fn rows_are_read_in_place_where_they_lie_well() {
    let in_place = |a_row: isize, a_k: isize| {
        let (a, c) = (core::ptr::null::<f32>(), core::ptr::null_mut());
        let p = GemmProblem {
            rows: 512,
            lanes: 512,
            k: 784,
            a,
            a_row,
            a_k,
            b: a,
            b_k: 1,
            b_lane: 784,
            c,
            c_row: 512,
            c_lane: 1,
            load_c: false,
            bias: a,
            bias_on_rows: false,
            relu: false,
        };
        kernels::available::<f32>()
            .into_iter()
            .map(|kern| (kern.row_major, rows_in_place(&p, kern, block_of_steps(p.k, kern.kc), 512)))
            .collect::<Vec<_>>()
    };
    for (a_row, a_k, expected) in [
        (784, 1, true),
        (-784, 1, true),
        (512, 1, true),
        (1024, 1, false),
        (2048, 1, false),
        (0, 1, false),
        (1, 784, false),
    ] {
        for (row_major, in_place) in in_place(a_row, a_k) {
            assert_eq!(in_place, expected && row_major, "rows {a_row} apart, steps {a_k}");
        }
    }
}

#[test]
fn f32_products() {
    grid::<f32>(&each_kernel::<f32, f32>().chain(large()).chain([public()]).collect::<Vec<_>>());
}
#[test]
fn f64_products() {
    grid::<f64>(&each_kernel::<f64, f64>().chain(large()).collect::<Vec<_>>());
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
