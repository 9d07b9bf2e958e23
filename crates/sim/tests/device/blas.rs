//! cuBLASLt: what it computes, what it refuses, and planted faults beside their correct twins.
use std::ffi::c_void;
use std::ptr::{from_ref, null};

use kiln_sim::api::blas::*;
use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::cuStreamWaitEvent;
use kiln_sim::api::transfer::cuMemcpyDtoDAsync_v2;
use kiln_sim::{Algorithm, BlasStatus, Candidate, Faults, Kind, Order, Profile, Status};

use crate::common::{Program, ok};

fn done(status: BlasStatus) {
    assert_eq!(status, BlasStatus::SUCCESS);
}

/// A product as a program would ask for it: column-major, `D = op(A) · op(B)`.
struct Call {
    program: Program,
    handle: usize,
    operation: usize,
    layouts: [usize; 4],
    at: [u64; 4],
    beta: f32,
    workspace: (u64, usize),
    stream: usize,
}

/// Rows, columns and leading dimension.
type Shape = [u64; 3];

impl Call {
    fn new(profile: Profile, shapes: [Shape; 3]) -> Call {
        let program = Program::new(profile);
        let (mut handle, mut operation, mut layouts) = (0, 0, [0; 4]);
        // SAFETY: every pointer is to a variable of its type.
        unsafe {
            done(cublasLtCreate(&raw mut handle));
            done(cublasLtMatmulDescCreate(&raw mut operation, 68, 0));
            for (layout, [rows, cols, ld]) in layouts.iter_mut().zip([shapes[0], shapes[1], shapes[2], shapes[2]]) {
                done(cublasLtMatrixLayoutCreate(layout, 0, rows, cols, ld as i64));
            }
        }
        let bytes = |[_, cols, ld]: Shape| (4 * cols * ld) as usize;
        let numbers = |shape: Shape| (0..bytes(shape) / 4).map(|i| (i % 7) as f32 - 2.0).collect::<Vec<_>>();
        let (a, b) = (program.upload(&numbers(shapes[0])), program.upload(&numbers(shapes[1])));
        let d = program.alloc(bytes(shapes[2]));
        // A copy from ordinary memory returns before the device has it, and other streams do not wait for it.
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        Call { program, handle, operation, layouts, at: [a, b, d, d], beta: 0.0, workspace: (0, 0), stream: 0 }
    }

    /// 4×3 times 3×2.
    fn small() -> Call {
        Call::new(Profile::default(), [[4, 3, 4], [3, 2, 3], [4, 2, 4]])
    }

    fn set<T>(&self, attribute: i32, value: T) {
        // SAFETY: the value has so many bytes.
        done(unsafe {
            cublasLtMatmulDescSetAttribute(self.operation, attribute, from_ref(&value).cast(), size_of::<T>())
        });
    }

    fn layout<T>(&self, which: usize, attribute: i32, value: T) {
        // SAFETY: as above.
        done(unsafe {
            cublasLtMatrixLayoutSetAttribute(self.layouts[which], attribute, from_ref(&value).cast(), size_of::<T>())
        });
    }

    /// The candidates for memory of `workspace` bytes and addresses that are aligned so.
    fn candidates(&self, workspace: u64, alignment: u32) -> Result<Vec<Candidate>, BlasStatus> {
        let mut preference = 0;
        let mut found = Vec::<Candidate>::with_capacity(4);
        let mut count = 0;
        let [a, b, c, d] = self.layouts;
        // SAFETY: every pointer is to a variable of its type, with room for what is asked for.
        let status = unsafe {
            done(cublasLtMatmulPreferenceCreate(&raw mut preference));
            done(cublasLtMatmulPreferenceSetAttribute(preference, 1, from_ref(&workspace).cast(), 8));
            for attribute in 5..=8 {
                done(cublasLtMatmulPreferenceSetAttribute(preference, attribute, from_ref(&alignment).cast(), 4));
            }
            let (room, count) = (found.as_mut_ptr(), &raw mut count);
            let (handle, operation) = (self.handle, self.operation);
            let status = cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, d, preference, 4, room, count);
            done(cublasLtMatmulPreferenceDestroy(preference));
            found.set_len(usize::try_from(*count).unwrap());
            status
        };
        if status == BlasStatus::SUCCESS { Ok(found) } else { Err(status) }
    }

    fn run_with(&self, algorithm: *const Algorithm) -> BlasStatus {
        let ([a, b, c, d], alpha) = (self.at, 1.0f32);
        let [la, lb, lc, ld] = self.layouts;
        let (one, beta) = (from_ref(&alpha).cast::<c_void>(), from_ref(&self.beta).cast());
        let (aside, bytes) = self.workspace;
        // SAFETY: the scalars are read by the call; addresses are the device's.
        unsafe {
            cublasLtMatmul(
                self.handle,
                self.operation,
                one,
                a,
                la,
                b,
                lb,
                beta,
                c,
                lc,
                d,
                ld,
                algorithm,
                aside,
                bytes,
                self.stream,
            )
        }
    }

    fn run(&self) -> BlasStatus {
        self.run_with(null())
    }

    fn output(&self, count: usize) -> Vec<f32> {
        self.program.download(self.at[3], count)
    }

    fn synchronize(&self) -> Status {
        // SAFETY: it takes nothing.
        unsafe { cuCtxSynchronize() }
    }

    /// It is refused with this status, for a reason that has these words in it.
    fn refused(&self, status: BlasStatus, words: &str) {
        assert_eq!(self.run(), status);
        let refusals = self.program.session.refusals();
        assert!(refusals.iter().any(|text| text.contains(words)), "{words:?} is not in {refusals:?}");
    }
}

#[test]
fn products_in_every_order() {
    for order in [Order::Forward, Order::Reversed, Order::Random] {
        let call = Call::new(Profile { order, ..Profile::default() }, [[4, 3, 4], [3, 2, 3], [4, 2, 4]]);
        done(call.run());
        let a = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, -2.0, -1.0, 0.0, 1.0, 2.0];
        let b = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
        let want: Vec<f32> =
            (0..8).map(|i| (0..3).map(|k| a[i % 4 + 4 * k] * b[k + 3 * (i / 4)]).sum::<f32>()).collect();
        assert_eq!(call.output(8), want);
        call.program.silent();
    }
}

#[test]
fn epilogues() {
    let plain = Call::small();
    done(plain.run());
    let product = plain.output(8);
    drop(plain);
    let run = |epilogue: u32, vector: &[f32], mask: Option<Vec<u8>>| {
        let call = Call::small();
        let (bias, aux) = (call.program.upload(vector), call.program.upload(&mask.unwrap_or(vec![0xff; 32])));
        call.set(7, epilogue);
        call.set(8, bias);
        call.set(11, aux);
        call.set(12, 128i64);
        done(call.run());
        let out =
            (call.output(8), call.program.download::<f32>(bias, vector.len()), call.program.download::<u8>(aux, 32));
        call.program.silent();
        out
    };
    let bias = [1.0, 2.0, 3.0, 4.0];
    let with_bias: Vec<f32> = product.iter().enumerate().map(|(i, v)| v + bias[i % 4]).collect();
    let relu = |values: &[f32]| values.iter().map(|v| v.max(0.0)).collect::<Vec<_>>();
    assert_eq!(run(4, &bias, None).0, with_bias);
    assert_eq!(run(2, &bias, None).0, relu(&product));
    assert_eq!(run(6, &bias, None).0, relu(&with_bias));
    for (epilogue, before) in [(130, &product), (134, &with_bias)] {
        let (out, _, mask) = run(epilogue, &bias, None);
        assert_eq!(out, relu(before));
        let bits = |column: usize| (0..4).map(|i| u8::from(before[i + 4 * column] > 0.0) << i).sum::<u8>();
        // Lines of 128 bits; of the last byte only the rows that there are.
        assert_eq!((mask[0] & 15, mask[16] & 15, mask[1], mask[17]), (bits(0), bits(1), 0xff, 0xff));
        // The gradient takes the mask.
        let masked: Vec<f32> = before.iter().zip(&product).map(|(b, p)| if *b > 0.0 { *p } else { 0.0 }).collect();
        assert_eq!(run(136, &bias, Some(mask.clone())).0, masked);
        let (out, gradient, _) = run(152, &bias, Some(mask));
        assert_eq!(out, masked);
        assert_eq!(gradient, (0..4).map(|i| masked[i] + masked[i + 4]).collect::<Vec<_>>());
    }
    let a = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, -2.0, -1.0, 0.0, 1.0, 2.0];
    let (out, of_a, _) = run(256, &bias, None);
    assert_eq!(out, product);
    assert_eq!(of_a, (0..4).map(|i| a[i] + a[i + 4] + a[i + 8]).collect::<Vec<f32>>());
    assert_eq!(run(512, &bias[..2], None).1, [-3.0, 6.0]);
}

#[test]
fn relu_makes_zeros_of_what_is_no_number() {
    let call = Call::small();
    let poison = call.program.alloc(48);
    let call = Call { at: [poison, call.at[1], call.at[2], call.at[3]], ..call };
    done(call.run());
    assert!(call.output(8)[0].is_nan(), "fresh memory is poisoned, and shows");
    call.set(7, 2u32);
    done(call.run());
    assert_eq!(call.output(8), [0.0; 8]);
    call.program.found(Kind::Uninitialised, &["cublasLtMatmul", "byte 0 of an allocation of 48 bytes"]);
}

#[test]
fn accumulation_is_one_rounding_of_a_sum() {
    let mut call = Call::small();
    let before = call.program.upload(&[0.5f32; 8]);
    (call.at[2], call.at[3], call.beta) = (before, before, 2.0);
    done(call.run());
    let twice = call.output(8);
    let plain = Call { beta: 0.0, ..call };
    done(plain.run());
    assert_eq!(twice, plain.output(8).iter().map(|v| v + 1.0).collect::<Vec<_>>());
    plain.program.silent();
}

#[test]
fn types_are_those_of_the_table() {
    // Compute type, scale type, type of the matrices; 16-bit outputs from 32-bit sums.
    for (compute, scale, data, fits) in [
        (68, 0, [0; 4], true),
        (77, 0, [0; 4], true),
        (68, 0, [2; 4], true),
        (68, 0, [14; 4], true),
        (68, 0, [2, 2, 0, 0], true),
        (70, 1, [1; 4], true),
        (64, 2, [2; 4], true),
        (68, 0, [1; 4], false),
        (70, 0, [1; 4], false),
        (68, 0, [2, 14, 2, 2], false),
        (68, 1, [0; 4], false),
        (77, 0, [2; 4], false),
    ] {
        let call = Call::small();
        call.set::<i32>(0, compute);
        call.set::<i32>(1, scale);
        data.into_iter().enumerate().for_each(|(i, data)| call.layout::<i32>(i, 0, data));
        let want = if fits { Ok(()) } else { Err(BlasStatus::NOT_SUPPORTED) };
        assert_eq!(call.candidates(0, 256).map(drop), want, "{compute} {scale} {data:?}");
    }
}

#[test]
fn the_heuristic_respects_preferences() {
    let call = Call::new(Profile::default(), [[64, 256, 64], [256, 32, 256], [64, 32, 64]]);
    let all = call.candidates(1 << 20, 256).unwrap();
    assert_eq!(all.iter().map(|one| one.workspace).collect::<Vec<_>>(), [4 * 4 * 64 * 32, 0, 0]);
    assert_eq!(call.candidates(1 << 10, 256).unwrap().len(), 2, "less memory aside");
    assert_eq!(call.candidates(1 << 20, 4).unwrap().len(), 1, "less alignment");
    assert_eq!(call.candidates(1 << 20, 2).unwrap_err(), BlasStatus::NOT_SUPPORTED);
    call.set(7, 134u32);
    call.set(12, 128i64);
    assert_eq!(call.candidates(0, 256).map(|found| found.len()), Ok(2));
    call.program.silent();
}

#[test]
fn the_heuristic_can_be_told_to_offer_nothing() {
    let faults = Faults { no_epilogues: vec![6], ..Faults::default() };
    let call = Call::new(Profile { faults, ..Profile::default() }, [[4, 3, 4], [3, 2, 3], [4, 2, 4]]);
    assert!(call.candidates(0, 256).is_ok());
    call.set(7, 6u32);
    assert_eq!(call.candidates(0, 256).unwrap_err(), BlasStatus::NOT_SUPPORTED);
}

#[test]
fn without_a_context_there_is_no_handle() {
    let _session = kiln_sim::Session::new(Profile::default());
    let mut handle = 0;
    // SAFETY: the pointer is to a variable of its type.
    unsafe {
        assert_eq!(cublasLtCreate(&raw mut handle), BlasStatus::NOT_INITIALIZED);
        assert_eq!(cublasLtDestroy(77), BlasStatus::NOT_INITIALIZED);
    }
}

// ---- planted faults ----

#[test]
fn fault_a_leading_dimension_below_the_rows() {
    let call = Call::small();
    // Rows and leading dimension exchanged with those of B.
    call.layout(0, 4, 3i64);
    call.refused(BlasStatus::INVALID_VALUE, "leading dimension");
    call.layout(0, 4, 4i64);
    done(call.run());
    call.program.silent();
}

#[test]
fn fault_a_leading_dimension_of_another_matrix() {
    // Large enough to be taken, so that the columns are looked for behind the matrix.
    let call = Call::small();
    call.layout(0, 4, 400i64);
    done(call.run());
    assert_eq!(call.synchronize(), Status::ILLEGAL_ADDRESS);
    call.program.found(Kind::IllegalAddress, &["cublasLtMatmul", "byte 1600 to 1616 of an allocation of 48 bytes"]);
}

#[test]
fn fault_a_wrong_transposition() {
    let call = Call::small();
    call.set(3, 1i32);
    call.refused(BlasStatus::INVALID_VALUE, "shapes of A, B, C and D");
    call.set(3, 0i32);
    done(call.run());
    call.program.silent();
}

#[test]
fn fault_a_wrong_transposition_of_a_square() {
    // Nothing is wrong with it but the values.
    let run = |transpose: i32| {
        let call = Call::new(Profile::default(), [[4, 4, 4], [4, 4, 4], [4, 4, 4]]);
        call.set(3, transpose);
        done(call.run());
        call.output(16)
    };
    let at = |i: usize| (i % 7) as f32 - 2.0;
    let want: Vec<f32> = (0..16).map(|i| (0..4).map(|k| at(i % 4 + 4 * k) * at(k + 4 * (i / 4))).sum()).collect();
    assert_eq!(run(0), want);
    assert_ne!(run(1), want);
}

#[test]
fn fault_a_gradient_that_is_overwritten() {
    let run = |beta: f32| {
        let mut call = Call::small();
        call.at[3] = call.program.upload(&[10.0f32; 8]);
        call.at[2] = call.at[3];
        call.beta = beta;
        done(call.run());
        call.program.silent();
        call.output(8)
    };
    let (accumulated, overwritten) = (run(1.0), run(0.0));
    assert_eq!(accumulated, overwritten.iter().map(|v| v + 10.0).collect::<Vec<_>>());
}

#[test]
fn fault_a_gradient_that_is_added_to_nothing() {
    let mut call = Call::small();
    call.beta = 1.0;
    done(call.run());
    assert!(call.output(8).iter().all(|v| v.is_nan()), "the sum has the poison of fresh memory in it");
    call.program.found(Kind::Uninitialised, &["cublasLtMatmul", "byte 0 of an allocation of 32 bytes"]);
}

#[test]
fn fault_a_workspace_that_is_too_small_or_not_aligned() {
    let mut call = Call::new(Profile::default(), [[8, 256, 8], [256, 4, 256], [8, 4, 8]]);
    let algorithm = call.candidates(1 << 20, 256).unwrap()[0];
    let aside = call.program.alloc(algorithm.workspace + 64);
    let run = |call: &Call| call.run_with(&raw const algorithm.algorithm);
    call.workspace = (aside, algorithm.workspace - 1);
    assert_eq!(run(&call), BlasStatus::INVALID_VALUE);
    call.workspace = (aside + 64, algorithm.workspace);
    assert_eq!(run(&call), BlasStatus::INVALID_VALUE);
    call.workspace = (aside, algorithm.workspace);
    done(run(&call));
    let refusals = call.program.session.refusals();
    assert!(
        refusals[0].contains("multiple of 256") && refusals[1].contains("smaller than the algorithm"),
        "{refusals:?}"
    );
    call.program.silent();
}

#[test]
fn fault_a_workspace_that_another_stream_uses() {
    for ordered in [true, false] {
        let mut call = Call::new(Profile::default(), [[8, 256, 8], [256, 4, 256], [8, 4, 8]]);
        let algorithm = call.candidates(1 << 20, 256).unwrap()[0];
        call.workspace = (call.program.alloc(algorithm.workspace), algorithm.workspace);
        let (first, second) = (call.program.stream(1), call.program.stream(1));
        let other = call.program.alloc(128);
        call.stream = first;
        done(call.run_with(&raw const algorithm.algorithm));
        let event = call.program.event(first);
        if ordered {
            // SAFETY: it takes no pointers.
            ok(unsafe { cuStreamWaitEvent(second, event, 0) });
        }
        call.at = [call.at[0], call.at[1], other, other];
        call.stream = second;
        done(call.run_with(&raw const algorithm.algorithm));
        assert_eq!(call.synchronize(), Status::SUCCESS);
        if ordered {
            call.program.silent();
        } else {
            call.program.found(Kind::Unordered, &["cublasLtMatmul"]);
        }
    }
}

#[test]
fn fault_an_algorithm_for_addresses_that_are_more_aligned() {
    let mut call = Call::small();
    let best = call.candidates(0, 256).unwrap()[0];
    let bytes = call.program.alloc(64);
    call.at[0] = bytes + 4;
    assert_eq!(call.run_with(&raw const best.algorithm), BlasStatus::INVALID_VALUE);
    let careful = call.candidates(0, 4).unwrap()[0];
    done(call.run_with(&raw const careful.algorithm));
    call.program.silent();
}

#[test]
fn fault_an_algorithm_that_nobody_made() {
    let call = Call::small();
    let mut algorithm = call.candidates(0, 256).unwrap()[0].algorithm;
    done(call.run_with(&raw const algorithm));
    // SAFETY: any bytes are an algorithm that is none.
    algorithm = unsafe { std::mem::zeroed() };
    assert_eq!(call.run_with(&raw const algorithm), BlasStatus::INVALID_VALUE);
}

#[test]
fn fault_a_descriptor_that_was_destroyed() {
    let call = Call::small();
    done(call.run());
    // SAFETY: it takes no pointers.
    done(unsafe { cublasLtMatrixLayoutDestroy(call.layouts[1]) });
    assert_eq!(call.run(), BlasStatus::INVALID_VALUE);
    call.program.found(Kind::Descriptor, &["cublasLtMatmul", "no matrix layout"]);
}

#[test]
fn fault_a_descriptor_of_another_sort() {
    let mut call = Call::small();
    std::mem::swap(&mut call.operation, &mut call.layouts[0]);
    assert_eq!(call.run(), BlasStatus::INVALID_VALUE);
    call.program.found(Kind::Descriptor, &["no matmul descriptor"]);
}

#[test]
fn fault_an_output_over_an_operand() {
    let mut call = Call::small();
    done(call.run());
    call.program.silent();
    call.at[3] = call.at[0] + 16;
    call.at[2] = call.at[3];
    done(call.run());
    call.program.found(Kind::Overlap, &["D overlaps an operand"]);
}

#[test]
fn fault_outputs_of_a_batch_over_each_other() {
    for step in [8i64, 4] {
        let mut call = Call::small();
        call.at[3] = call.program.alloc(64);
        call.at[2] = call.at[3];
        (0..4).for_each(|i| call.layout(i, 5, 2i32));
        call.layout(2, 6, step);
        call.layout(3, 6, step);
        done(call.run());
        if step == 8 {
            let out = call.output(16);
            assert_eq!(out[..8], out[8..], "both products have the same operands");
            call.program.silent();
        } else {
            call.program.found(Kind::Overlap, &["overlap each other"]);
        }
    }
}

#[test]
fn fault_batches_of_two_sizes() {
    let call = Call::small();
    call.layout(0, 5, 2i32);
    call.refused(BlasStatus::INVALID_VALUE, "batches");
}

#[test]
fn fault_a_bias_at_a_null_pointer() {
    let call = Call::small();
    call.set(7, 4u32);
    call.refused(BlasStatus::INVALID_VALUE, "null pointer");
    call.set(8, call.program.upload(&[0.0f32; 4]));
    done(call.run());
    call.program.silent();
}

#[test]
fn fault_a_bias_that_is_too_short() {
    let call = Call::small();
    call.set(7, 4u32);
    call.set(8, call.program.upload(&[0.0f32; 2]));
    done(call.run());
    assert_eq!(call.synchronize(), Status::ILLEGAL_ADDRESS);
    call.program.found(Kind::IllegalAddress, &["cublasLtMatmul", "byte 0 to 16 of an allocation of 8 bytes"]);
}

#[test]
fn fault_a_mask_with_a_leading_dimension_that_is_no_multiple_of_128() {
    let call = Call::small();
    call.set(7, 130u32);
    call.set(11, call.program.alloc(32));
    call.set(12, 4i64);
    call.refused(BlasStatus::INVALID_VALUE, "multiple of 128");
    call.set(12, 128i64);
    done(call.run());
    call.program.silent();
}

#[test]
fn fault_an_operand_that_is_freed_early() {
    for wait in [true, false] {
        let call = Call::small();
        let stream = call.program.stream(1);
        let call = Call { stream, ..call };
        done(call.run());
        if wait {
            ok(call.synchronize());
        }
        // SAFETY: it takes no pointers.
        ok(unsafe { cuMemFree_v2(call.at[1]) });
        if wait {
            call.program.silent();
        } else {
            call.program.found(Kind::FreeInUse, &["24 bytes", "cublasLtMatmul"]);
        }
    }
}

#[test]
fn fault_an_output_that_a_stream_reads_without_waiting() {
    for wait in [true, false] {
        let call = Call::small();
        let (first, second) = (call.program.stream(1), call.program.stream(1));
        let call = Call { stream: first, ..call };
        done(call.run());
        let (event, copy) = (call.program.event(first), call.program.alloc(32));
        // SAFETY: both have so many bytes.
        unsafe {
            if wait {
                ok(cuStreamWaitEvent(second, event, 0));
            }
            ok(cuMemcpyDtoDAsync_v2(copy, call.at[3], 32, second));
        }
        ok(call.synchronize());
        if wait {
            call.program.silent();
            assert_eq!(call.program.download::<f32>(copy, 8), call.output(8));
        } else {
            call.program.found(Kind::Unordered, &["cublasLtMatmul", "cuMemcpyDtoDAsync"]);
        }
    }
}

#[test]
fn fault_scalars_of_another_type() {
    // Double-precision scalars for single-precision products would be read as half of a number.
    let call = Call::small();
    call.set::<i32>(1, 1);
    call.refused(BlasStatus::NOT_SUPPORTED, "table");
    call.set::<i32>(1, 0);
    done(call.run());
    call.program.silent();
}
