//! Results do not depend on the machine: neither on the number of threads nor on the caches.

use super::{one, product, reference::Rng};
use crate::gemm::{Epilogue, kernel::Kernel, kernels, problem::GemmProblem, split};

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
        (500, 700, 300),
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
            for threads in [2, 3, 4, 7, 16] {
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
