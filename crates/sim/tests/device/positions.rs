//! Tensors of more than 2^31 elements: the addresses that the framework's kernels compute from an element's index.

use kiln_sim::Profile;

use crate::common::{Program, arg};

/// As in `kernels/params.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Dim {
    extent: u64,
    wide: u64,
    multiplier: u32,
    shift: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Grid {
    numel: u64,
    rank: u32,
    flags: u32,
    dims: [Dim; 8],
    strides: [[i64; 8]; 3],
}

const WIDE: u32 = 1;

impl Dim {
    /// Numbers for which `(high(n * multiplier) + n) >> shift` is `n / extent`: `2^shift` is the first power of two
    /// that is not below the extent, and `1 + multiplier / 2^bits` just above `2^shift / extent`.
    fn new(extent: u64) -> Dim {
        let shift = (0..63).find(|&shift| 1u64 << shift >= extent).unwrap();
        let above = u128::from((1u64 << shift) - extent);
        let magic = |bits: u32| ((above << bits) / u128::from(extent) + 1) as u64;
        Dim { extent, wide: magic(64), multiplier: magic(32) as u32, shift }
    }
}

/// Where the element with a number lies in an operand, by the definition of row-major order.
fn place(dims: &[u64], strides: &[i64; 8], number: u64) -> i64 {
    let (mut rest, mut at) = (number, 0);
    for (&extent, stride) in dims.iter().zip(strides).rev() {
        at += (rest % extent) as i64 * stride;
        rest /= extent;
    }
    at
}

#[test]
fn elements_are_found_beyond_what_32_bits_count() {
    let shapes: [&[u64]; 7] = [
        &[1 << 33],
        &[3, 1 << 31, 5],
        &[1 << 20, 1 << 20],
        &[65_537, 65_539, 3, 2],
        &[2, 3, 641, 6_700_417, 7],
        &[1_000_003, 1, (1 << 32) + 15],
        &[5, 4, 3, 2, 40_961, 9, 11, 1_009],
    ];
    let program = Program::new(Profile::default());
    for dims in shapes {
        let numel: u64 = dims.iter().product();
        assert!(numel > 1 << 31);
        // Dense, transposed with gaps, and broadcast.
        let mut strides = [[0i64; 8]; 3];
        let mut step = 1;
        for d in (0..dims.len()).rev() {
            (strides[0][d], strides[1][d]) = (step, 3 + 17 * d as i64 - (d as i64 % 2) * 101);
            strides[2][d] = if d % 2 == 0 { 0 } else { step };
            step *= dims[d] as i64;
        }
        let mut grid = Grid { numel, rank: dims.len() as u32, flags: WIDE, dims: [Dim::new(1); 8], strides };
        for (dim, &extent) in grid.dims.iter_mut().zip(dims) {
            *dim = Dim::new(extent);
        }
        let near = |n: u64| [n.saturating_sub(1), n, n + 1];
        let turns = dims.iter().rev().scan(1, |numel, extent| {
            *numel *= extent;
            Some(*numel)
        });
        let numbers: Vec<u64> = (0..64)
            .flat_map(|bit| near((1u64 << bit).min(numel)))
            .chain(turns.flat_map(|turn| near(turn).into_iter().chain(near(numel / turn * turn))))
            .chain((0..200).map(|i| (numel / 211).wrapping_mul(i) + 12_345 * i))
            .filter(|&n| n < numel)
            .collect();
        assert!(numbers.iter().filter(|&&n| n > 1 << 31).count() > 100);
        let out = program.alloc(numbers.len() * 24);
        let from = program.upload(&numbers);
        program.launch(c"t_locate", (2, 64, 0), 0, &[arg(from), arg(out), arg(numbers.len() as u64), arg(grid)]);
        let got = program.download::<i64>(out, numbers.len() * 3);
        for (i, &number) in numbers.iter().enumerate() {
            let want: [i64; 3] = std::array::from_fn(|k| place(dims, &strides[k], number));
            assert_eq!(got[3 * i..3 * i + 3], want, "element {number} of {dims:?}");
        }
        // The same numbers below 2^31 the short way.
        let few: Vec<u64> = numbers.iter().copied().filter(|&n| n < 1 << 31).collect();
        if dims.iter().all(|&extent| extent < 1 << 31) {
            program.launch(
                c"t_locate",
                (1, 64, 0),
                0,
                &[arg(program.upload(&few)), arg(out), arg(few.len() as u64), arg(Grid { flags: 0, ..grid })],
            );
            let got = program.download::<i64>(out, few.len() * 3);
            for (i, &number) in few.iter().enumerate() {
                assert_eq!(got[3 * i], place(dims, &strides[0], number), "element {number} of {dims:?}");
            }
        }
    }
    program.silent();
}
