//! Computes a product: sums in `f64`, the epilogue, and one rounding to the output's type.
use half::{bf16, f16};

use super::kernel;
use super::problem::{BiasGradient, Data, Matrix, Problem, Rounding};
use super::work::{Product, Scalar};

/// # Safety
/// The element at `address` can be read.
pub unsafe fn load(data: Data, address: u64) -> f64 {
    // SAFETY: the caller's promise. The library requires alignment, which is checked elsewhere, so unaligned access is
    // used here.
    unsafe {
        match data {
            Data::F32 => (address as *const f32).read_unaligned().into(),
            Data::F64 => (address as *const f64).read_unaligned(),
            Data::F16 => (address as *const f16).read_unaligned().to_f64(),
            Data::Bf16 => (address as *const bf16).read_unaligned().to_f64(),
        }
    }
}

/// # Safety
/// The element at `address` can be written.
pub unsafe fn store(data: Data, address: u64, value: f64) {
    // SAFETY: as above.
    unsafe {
        match data {
            Data::F32 => (address as *mut f32).write_unaligned(value as f32),
            Data::F64 => (address as *mut f64).write_unaligned(value),
            Data::F16 => (address as *mut f16).write_unaligned(f16::from_f32(odd(value))),
            Data::Bf16 => (address as *mut bf16).write_unaligned(bf16::from_f32(odd(value))),
        }
    }
}

/// # Safety
/// As many elements can be read from `address` on.
pub unsafe fn load_all(data: Data, address: u64, count: usize) -> Vec<f64> {
    // SAFETY: the caller's promise.
    (0..count).map(|i| unsafe { load(data, address + (i * data.bytes()) as u64) }).collect()
}

/// # Safety
/// As many elements can be written from `address` on.
pub unsafe fn store_all(data: Data, address: u64, values: &[f64]) {
    for (i, value) in values.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { store(data, address + (i * data.bytes()) as u64, *value) };
    }
}

/// Overwrites a workspace, if there is one: a program may not rely on its contents.
///
/// # Safety
/// As many bytes can be written at `workspace`, unless it is null.
pub unsafe fn poison(workspace: u64, bytes: usize) {
    if workspace != 0 {
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(workspace as *mut u8, 0xff, bytes) };
    }
}

/// An `f64` as an `f32`; the last bit of an inexact one is 1, so that its rounding to half precision is the only one. The crate
/// `half` does not read all bits of an `f64`.
fn odd(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) == value || value.is_nan() {
        return nearest;
    }
    let towards_zero = if f64::from(nearest).abs() > value.abs() { nearest.to_bits() - 1 } else { nearest.to_bits() };
    f32::from_bits(towards_zero | 1)
}

pub fn rounded(rounding: Rounding, value: f64) -> f64 {
    match rounding {
        Rounding::F16 => f16::from_f32(odd(value)).to_f64(),
        Rounding::Bf16 => bf16::from_f32(odd(value)).to_f64(),
        Rounding::Tf32 if value.is_finite() => {
            // Ten fraction bits, ties to even.
            let bits = (value as f32).to_bits();
            let up = 0xfff + (bits >> 13 & 1);
            f32::from_bits(bits.wrapping_add(up) & !0x1fff).into()
        }
        // Infinities and NaN stay what they are.
        Rounding::Tf32 | Rounding::None => value,
    }
}

/// Computes what `product` describes.
///
/// # Safety
/// Everything in [`Product::ranges`] is live, and nothing else accesses it.
pub unsafe fn run(product: &Product) {
    let problem = &product.problem;
    // SAFETY: it is one of the ranges.
    unsafe { poison(product.workspace, product.workspace_bytes) };
    let scalar = |scalar| match scalar {
        Scalar::Value(value) => value,
        // SAFETY: it is one of the ranges.
        Scalar::Address(address) => unsafe { load(problem.scale, address) },
    };
    let (alpha, beta) = (scalar(product.alpha), scalar(product.beta));
    for batch in 0..problem.batch {
        // SAFETY: the caller's promise, for each of the batch.
        unsafe { one(product, batch as i64, alpha, beta) };
    }
}

/// The address of an element in one matrix of the batch.
fn place(address: u64, matrix: &Matrix, batch: i64) -> impl Fn(usize, usize) -> u64 + '_ {
    let bytes = matrix.data.bytes();
    let (down, right) = matrix.steps();
    let begin = address.wrapping_add_signed(matrix.step * batch * bytes as i64);
    move |row, col| begin + ((row * down + col * right) * bytes) as u64
}

/// # Safety
/// As [`run`].
unsafe fn one(product: &Product, batch: i64, alpha: f64, beta: f64) {
    let problem = &product.problem;
    let Problem { m, n, k, epilogue, rounding, .. } = *problem;
    let a = {
        let at = place(product.a, &problem.a, batch);
        // SAFETY: the caller's promise.
        move |row, col| unsafe { load(problem.a.data, at(row, col)) }
    };
    let b = {
        let at = place(product.b, &problem.b, batch);
        // SAFETY: as above.
        move |row, col| unsafe { load(problem.b.data, at(row, col)) }
    };
    let sums = kernel::product([m, n, k], |row, i| rounded(rounding, a(row, i)), |i, col| rounded(rounding, b(i, col)));
    let (c, d) = (place(product.c, &problem.c, batch), place(product.d, &problem.d, batch));
    let vector = problem.bias.wrapping_add_signed(problem.bias_step * batch * problem.d.data.bytes() as i64);
    let element = |i: usize| vector + (i * problem.d.data.bytes()) as u64;
    let mask = problem.aux.wrapping_add_signed(problem.aux_step / 8 * batch);
    let mut gradient = vec![0.0; if epilogue.bias_gradient == Some(BiasGradient::B) { n } else { m }];
    for col in 0..n {
        for row in 0..m {
            let mut value = alpha * sums[row + col * m];
            // SAFETY: C, the bias, the mask and D are among the ranges; each byte of the mask is written by one column.
            unsafe {
                if product.reads_c() && beta != 0.0 {
                    value += beta * load(problem.c.data, c(row, col));
                }
                if epilogue.bias {
                    value += load(problem.d.data, element(row));
                }
                let byte = (mask + ((col * problem.aux_ld + row) / 8) as u64) as *mut u8;
                let bit = 1u8 << (row % 8);
                if epilogue.relu {
                    // As in the library, NaN becomes 0.
                    let positive = value > 0.0;
                    value = if positive { value } else { 0.0 };
                    if epilogue.aux {
                        let old = if row % 8 == 0 { 0 } else { byte.read() };
                        byte.write(if positive { old | bit } else { old & !bit });
                    }
                }
                if epilogue.relu_gradient && byte.read() & bit == 0 {
                    value = 0.0;
                }
                store(problem.d.data, d(row, col), value);
            }
            if epilogue.bias_gradient == Some(BiasGradient::Output) {
                gradient[row] += value;
            }
        }
    }
    match epilogue.bias_gradient {
        Some(BiasGradient::A) => {
            gradient.iter_mut().enumerate().for_each(|(row, sum)| *sum = (0..k).map(|i| a(row, i)).sum());
        }
        Some(BiasGradient::B) => {
            gradient.iter_mut().enumerate().for_each(|(col, sum)| *sum = (0..k).map(|i| b(i, col)).sum());
        }
        Some(BiasGradient::Output) => {}
        None => return,
    }
    for (i, sum) in gradient.into_iter().enumerate() {
        // SAFETY: the vector is among the ranges.
        unsafe { store(problem.d.data, element(i), sum) };
    }
}
