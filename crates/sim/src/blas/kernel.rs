//! The GEMM micro-kernel in `f64`: packed panels, and tiles of 8 by 4.

/// Rows and columns of a tile of the output.
pub const TILE: [usize; 2] = [8, 4];

/// Packs a matrix into slices of `width` lines, each slice with its lines interleaved along `k`; the last slice is
/// padded with zeros.
fn pack(lines: usize, k: usize, width: usize, at: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut packed = vec![0.0; lines.div_ceil(width) * width * k];
    for (slice, panel) in packed.chunks_exact_mut(width * k).enumerate() {
        let first = slice * width;
        for (i, row) in panel.chunks_exact_mut(width).enumerate() {
            for (offset, value) in row.iter_mut().enumerate().take(lines - first) {
                *value = at(first + offset, i);
            }
        }
    }
    packed
}

/// Computes one tile. `a` and `b` are slices whose lines are interleaved along the sum.
#[inline(always)]
fn tile(a: &[f64], b: &[f64]) -> [[f64; TILE[0]]; TILE[1]] {
    let mut sums = [[0.0; TILE[0]]; TILE[1]];
    for (a, b) in a.chunks_exact(TILE[0]).zip(b.chunks_exact(TILE[1])) {
        for (sums, &b) in sums.iter_mut().zip(b) {
            for (sum, &a) in sums.iter_mut().zip(a) {
                *sum += a * b;
            }
        }
    }
    sums
}

/// [`tile`], compiled for the processor's wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn wide_tile(a: &[f64], b: &[f64]) -> [[f64; TILE[0]]; TILE[1]] {
    tile(a, b)
}

/// One tile of interleaved lines: 8 of `a`, 4 of `b`.
pub fn best_tile(a: &[f64], b: &[f64]) -> [[f64; TILE[0]]; TILE[1]] {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function needs.
        return unsafe { wide_tile(a, b) };
    }
    tile(a, b)
}

/// `a · b` with `m` rows, `n` columns and sums over `k`, in column-major order.
pub fn product([m, n, k]: [usize; 3], a: impl Fn(usize, usize) -> f64, b: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let left = pack(m, k, TILE[0], a);
    let right = pack(n, k, TILE[1], |col, i| b(i, col));
    let mut out = vec![0.0; m * n];
    for (j, b) in right.chunks_exact(TILE[1] * k).enumerate() {
        for (i, a) in left.chunks_exact(TILE[0] * k).enumerate() {
            let sums = best_tile(a, b);
            let (row, col) = (i * TILE[0], j * TILE[1]);
            let rows = TILE[0].min(m - row);
            for (column, sums) in out[col * m..].chunks_exact_mut(m).zip(&sums) {
                column[row..row + rows].copy_from_slice(&sums[..rows]);
            }
        }
    }
    out
}
