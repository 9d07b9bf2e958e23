//! Matrix products against the CPU.

use kiln_backend::*;
use kiln_cuda::with_plan_limit;

use crate::{sums::Sums, support::*};

#[test]
fn matmul_of_integers() {
    for dtype in [DType::I64, DType::I32, DType::U8] {
        same(&format!("{dtype}"), |on| {
            let (a, b) = (
                tensor(on, dtype, &[2, 20, 33], MemoryLayout::Turned, 1),
                tensor(on, dtype, &[2, 33, 18], MemoryLayout::Dense, 2),
            );
            let mut out = target(on, dtype, &[2, 20, 18], MemoryLayout::Sliced);
            on.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked()?)?;
            Ok(vec![out])
        });
    }
}

/// Layouts of both factors and of the product.
fn layouts() -> impl Iterator<Item = [MemoryLayout; 3]> {
    [[0, 0, 0], [1, 0, 0], [0, 1, 1], [1, 1, 0], [2, 0, 2], [0, 2, 1]]
        .into_iter()
        .map(|which| which.map(|i| MEMORY_LAYOUTS[i]))
}

#[test]
fn matmul() {
    for dtype in FLOATS {
        for [la, lb, lo] in layouts() {
            Sums::of(&[16]).same(&format!("{dtype} {la:?} {lb:?} {lo:?}"), |on| {
                let (a, b) = (tensor(on, dtype, &[3, 8, 16], la, 1), tensor(on, dtype, &[3, 16, 24], lb, 2));
                let mut out = target(on, dtype, &[3, 8, 24], lo);
                on.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked()?)?;
                Ok(vec![out])
            });
        }
    }
}

#[test]
fn linear() {
    for dtype in FLOATS {
        for [la, lb, lo] in layouts() {
            for relu in [false, true] {
                Sums::of(&[16]).with_bias().same(&format!("{dtype} {la:?} {lb:?} {lo:?} {relu}"), |on| {
                    let (x, w) = (tensor(on, dtype, &[8, 16], la, 1), tensor(on, dtype, &[24, 16], lb, 2));
                    let bias = tensor(on, dtype, &[24], lo, 3);
                    let [mut out, mut plain] = [0, 1].map(|_| target(on, dtype, &[8, 24], lo));
                    on.linear(
                        LinearArgs {
                            x: x.view(),
                            w: w.view(),
                            bias: Some(bias.view()),
                            activation: Activation::relu(relu),
                            out: out.view_mut(),
                        }
                        .checked()?,
                    )?;
                    on.linear(
                        LinearArgs {
                            x: x.view(),
                            w: w.view(),
                            bias: None,
                            activation: Activation::relu(relu),
                            out: plain.view_mut(),
                        }
                        .checked()?,
                    )?;
                    Ok(vec![out, plain])
                });
            }
        }
    }
}

/// Whole numbers, whose sums are exact, so that it is the same ones that are above 0.
fn whole(on: &dyn Backend, dtype: DType, dims: &[usize], memory: MemoryLayout, salt: u64) -> Tensor {
    let (layout, len) = layout(dims, memory);
    let values: Vec<_> = numbers(len, salt).into_iter().map(f64::round).collect();
    Tensor { buffer: on.adopt(host(dtype, &values)).unwrap(), layout }
}

/// A layer with ReLU, and the gradient of the layer above it through that ReLU: with the mask that the device has left,
/// and without it.
#[test]
fn linear_relu_and_the_gradient_through_it() {
    let sizes = [[8, 16, 24, 8], [1, 16, 130, 5], [33, 7, 1, 3], [64, 40, 257, 16], [0, 4, 4, 4]];
    for dtype in FLOATS {
        for (i, [m, inner, k, n]) in sizes.into_iter().enumerate() {
            for (memory, with_bias) in MEMORY_LAYOUTS.into_iter().flat_map(|memory| [(memory, true), (memory, false)]) {
                same(&format!("{dtype} {m} {inner} {k} {n} {memory:?} {with_bias}"), |on| {
                    let of = |dims: &[usize], memory, salt| whole(on, dtype, dims, memory, salt);
                    let (x, v, first) =
                        (of(&[m, inner], memory, 1), of(&[k, inner], MemoryLayout::Dense, 2), of(&[k], memory, 3));
                    let (grad, w) = (of(&[m, n], memory, 4), of(&[n, k], memory, 5));
                    let first = with_bias.then(|| first.view());
                    let mut y = target(on, dtype, &[m, k], MemoryLayout::Dense);
                    let mask = on.linear(
                        LinearArgs {
                            x: x.view(),
                            w: v.view(),
                            bias: first,
                            activation: Activation::ReluWithMask,
                            out: y.view_mut(),
                        }
                        .checked()?,
                    )?;
                    // The simulated library has masks for all but doubles, and for what lies as it takes it.
                    let simulated = std::env::var_os("KILN_SIM_RUNNER").is_some() && !format!("{on:?}").contains("Cpu");
                    if simulated && m > 0 && memory == MemoryLayout::Dense {
                        assert_eq!(mask.is_some(), dtype != DType::F64, "size {i}");
                    }
                    let mut results = Vec::new();
                    for mask in [mask.as_ref(), None] {
                        for to in [MemoryLayout::Dense, memory] {
                            let (mut out, mut bias) = (target(on, dtype, &[m, k], to), target(on, dtype, &[k], to));
                            let sums = with_bias.then(|| bias.view_mut());
                            on.linear_relu_grad(
                                LinearReluGradArgs {
                                    grad: grad.view(),
                                    w: w.view(),
                                    y: y.view(),
                                    mask,
                                    out: out.view_mut(),
                                    bias: sums,
                                }
                                .checked()?,
                            )?;
                            results.extend([out, bias]);
                        }
                    }
                    results.push(y);
                    Ok(results)
                });
            }
        }
    }
}

#[test]
fn linear_relu_refuses_masks_of_another_output() {
    let Some(device) = device() else { return };
    let _others_too = RECORD.read();
    let of = |dims: &[usize]| tensor(device, DType::F32, dims, MemoryLayout::Dense, 1);
    let (x, w, mut y) = (of(&[4, 8]), of(&[8, 8]), of(&[4, 8]));
    let kept = device
        .linear(
            LinearArgs {
                x: x.view(),
                w: w.view(),
                bias: None,
                activation: Activation::ReluWithMask,
                out: y.view_mut(),
            }
            .checked()
            .unwrap(),
        )
        .unwrap();
    if let Some(kept) = &kept {
        let mut other = of(&[5, 8]);
        let grad = of(&[5, 8]);
        assert!(
            LinearReluGradArgs {
                grad: grad.view(),
                w: w.view(),
                y: grad.view(),
                mask: Some(kept),
                out: other.view_mut(),
                bias: None
            }
            .checked()
            .and_then(|args| device.linear_relu_grad(args))
            .is_err()
        );
    }
    let foreign = ReluMask::new(7u8);
    assert!(
        LinearReluGradArgs {
            grad: x.view(),
            w: w.view(),
            y: x.view(),
            mask: Some(&foreign),
            out: y.view_mut(),
            bias: None
        }
        .checked()
        .and_then(|args| device.linear_relu_grad(args))
        .is_err()
    );
}

/// Long sums, for which the library takes memory aside, and shapes of one row or column.
#[test]
fn matmul_of_odd_shapes() {
    for dtype in FLOATS {
        for [m, k, n] in [[5, 300, 7], [1, 200, 33], [33, 1, 2], [1, 1, 1], [130, 257, 65]] {
            for memory in MEMORY_LAYOUTS {
                Sums::of(&[k]).same(&format!("matmul {m} {k} {n} {memory:?}"), |on| {
                    let (a, b) =
                        (tensor(on, dtype, &[m, k], memory, 1), tensor(on, dtype, &[k, n], MemoryLayout::Turned, 2));
                    let mut out = target(on, dtype, &[m, n], memory);
                    on.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked()?)?;
                    Ok(vec![out])
                });
            }
        }
    }
}

/// The setting is of the whole process: nothing else is compared meanwhile.
#[test]
fn matmul_with_factors_of_tf32() {
    let _alone = RECORD.write();
    set_float32_matmul_precision(Float32Precision::High);
    for [m, k, n] in [[8, 16, 24], [130, 257, 65]] {
        Sums::of(&[k]).with_tf32(true).compare(&format!("{m} {k} {n}"), |on| {
            let a = tensor(on, DType::F32, &[m, k], MemoryLayout::Dense, 1);
            let b = tensor(on, DType::F32, &[k, n], MemoryLayout::Turned, 2);
            let mut out = target(on, DType::F32, &[m, n], MemoryLayout::Dense);
            on.matmul(MatmulArgs { a: a.view(), b: b.view(), out: out.view_mut() }.checked()?)?;
            Ok(vec![out])
        });
    }
    set_float32_matmul_precision(Float32Precision::Highest);
}

/// Plans are kept for so many shapes; with more, they are made anew.
#[test]
fn matmul_of_more_shapes_than_plans_are_kept() {
    let [rows, columns] = [6, 5];
    with_plan_limit(rows * columns / 2, || {
        Sums::of(&[3]).same("many shapes", |on| {
            let a = tensor(on, DType::F32, &[rows, 3], MemoryLayout::Dense, 1);
            let b = tensor(on, DType::F32, &[3, columns], MemoryLayout::Dense, 2);
            let mut out = target(on, DType::F32, &[rows, columns], MemoryLayout::Dense);
            // The second time some of them are there still.
            for (m, n) in (1..=rows).flat_map(|m| (1..=columns).map(move |n| (m, n))).cycle().take(2 * rows * columns) {
                let (x, y) = (a.layout.slice(0, 0, m, 1), b.layout.slice(1, 0, n, 1));
                let (x, y) = (View { buffer: &*a.buffer, layout: &x }, View { buffer: &*b.buffer, layout: &y });
                let to = out.layout.slice(0, 0, m, 1).slice(1, 0, n, 1);
                on.matmul(
                    MatmulArgs { a: x, b: y, out: ViewMut { buffer: &mut *out.buffer, layout: &to } }.checked()?,
                )?;
            }
            Ok(vec![out])
        });
    });
}

/// A factor that all products of a batch share has step 0 there, whichever it is, and whichever dimension it is shared along.
#[test]
fn matmul_of_broadcast_factors() {
    for dtype in FLOATS.into_iter().chain([DType::I64, DType::I32, DType::U8]) {
        for (a_lead, b_lead) in
            [([3, 4], [1, 1]), ([1, 1], [3, 4]), ([3, 1], [1, 4]), ([1, 4], [3, 4]), ([3, 4], [3, 1])]
        {
            for memory in MEMORY_LAYOUTS {
                let case = |on: &dyn Backend| {
                    let a = tensor(on, dtype, &[a_lead[0], a_lead[1], 5, 6], memory, 1);
                    let b = tensor(on, dtype, &[b_lead[0], b_lead[1], 6, 7], memory, 2);
                    let spread =
                        |x: &Tensor, rows, columns| x.layout.expand("t", &Shape::new(&[3, 4, rows, columns]).unwrap());
                    let (of_a, of_b) = (spread(&a, 5, 6)?, spread(&b, 6, 7)?);
                    let mut out = target(on, dtype, &[3, 4, 5, 7], memory);
                    let (x, y) =
                        (View { buffer: &*a.buffer, layout: &of_a }, View { buffer: &*b.buffer, layout: &of_b });
                    on.matmul(MatmulArgs { a: x, b: y, out: out.view_mut() }.checked()?)?;
                    Ok(vec![out])
                };
                let name = format!("{dtype} {a_lead:?} {b_lead:?} {memory:?}");
                if dtype.is_float() { Sums::of(&[6]).same(&name, case) } else { same(&name, case) }
            }
        }
    }
}
