//! Planted faults in the use of cuBLASLt: each is refused or reported by name; its correct twin is not.
use kiln_sim::api::blas::*;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::cuStreamWaitEvent;
use kiln_sim::api::transfer::cuMemcpyDtoDAsync_v2;
use kiln_sim::{BlasStatus, Kind, Profile, Status};

use crate::common::ok;
use crate::products::{Call, done};

#[test]
fn a_leading_dimension_below_the_rows() {
    let call = Call::small();
    // Rows and leading dimension exchanged with those of B.
    call.layout(0, 4, 3i64);
    call.refused(BlasStatus::INVALID_VALUE, "leading dimension");
    call.layout(0, 4, 4i64);
    done(call.run());
    call.program.silent();
}

#[test]
fn a_leading_dimension_of_another_matrix() {
    // Large enough to be taken, so that the columns are looked for after the matrix.
    let call = Call::small();
    call.layout(0, 4, 400i64);
    done(call.run());
    assert_eq!(call.synchronize(), Status::ILLEGAL_ADDRESS);
    call.program.found(Kind::IllegalAddress, &["cublasLtMatmul", "byte 1600 to 1616 of an allocation of 48 bytes"]);
}

#[test]
fn a_wrong_transposition() {
    let call = Call::small();
    call.set(3, 1i32);
    call.refused(BlasStatus::INVALID_VALUE, "shapes of A, B, C and D");
    call.set(3, 0i32);
    done(call.run());
    call.program.silent();
}

#[test]
fn a_wrong_transposition_of_a_square() {
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
fn a_gradient_that_is_overwritten() {
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
fn a_gradient_that_is_added_to_nothing() {
    let mut call = Call::small();
    call.beta = 1.0;
    done(call.run());
    assert!(call.output(8).iter().all(|v| v.is_nan()), "the sum has the poison of fresh memory in it");
    call.program.found(Kind::Uninitialized, &["cublasLtMatmul", "byte 0 of an allocation of 32 bytes"]);
}

#[test]
fn a_workspace_that_is_too_small_or_not_aligned() {
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

/// An algorithm overwrites the workspace that it asked for, all of it and no more, whatever the program says it has.
#[test]
fn the_workspace_that_an_algorithm_asked_for_is_what_it_uses() {
    let mut call = Call::new(Profile::default(), [[8, 256, 8], [256, 4, 256], [8, 4, 8]]);
    let algorithm = call.candidates(1 << 20, 256).unwrap()[0];
    let needed = algorithm.workspace;
    call.workspace = (call.program.upload(&vec![7u8; needed + 64]), needed + 64);
    done(call.run_with(&raw const algorithm.algorithm));
    let after: Vec<u8> = call.program.download(call.workspace.0, needed + 64);
    assert!(after[..needed].iter().all(|&byte| byte == 0xff) && after[needed..] == [7; 64]);
    call.program.silent();
    // One byte less than was asked for, whatever is said.
    call.workspace = (call.program.alloc(needed - 1), needed + 64);
    done(call.run_with(&raw const algorithm.algorithm));
    assert_eq!(call.synchronize(), Status::ILLEGAL_ADDRESS);
    let place = format!("byte 0 to {needed} of an allocation of {} bytes", needed - 1);
    call.program.found(Kind::IllegalAddress, &["cublasLtMatmul", &place]);
}

#[test]
fn a_workspace_that_another_stream_uses() {
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
fn an_algorithm_for_addresses_that_are_more_aligned() {
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
fn an_algorithm_that_nobody_made() {
    let call = Call::small();
    let mut algorithm = call.candidates(0, 256).unwrap()[0].algorithm;
    done(call.run_with(&raw const algorithm));
    // SAFETY: any bytes are an algorithm that is none.
    algorithm = unsafe { std::mem::zeroed() };
    assert_eq!(call.run_with(&raw const algorithm), BlasStatus::INVALID_VALUE);
}

#[test]
fn a_descriptor_that_was_destroyed() {
    let call = Call::small();
    done(call.run());
    // SAFETY: it takes no pointers.
    done(unsafe { cublasLtMatrixLayoutDestroy(call.layouts[1]) });
    assert_eq!(call.run(), BlasStatus::INVALID_VALUE);
    call.program.found(Kind::Descriptor, &["cublasLtMatmul", "no matrix layout"]);
}

#[test]
fn a_descriptor_of_another_sort() {
    let mut call = Call::small();
    std::mem::swap(&mut call.operation, &mut call.layouts[0]);
    assert_eq!(call.run(), BlasStatus::INVALID_VALUE);
    call.program.found(Kind::Descriptor, &["no matmul descriptor"]);
}

#[test]
fn an_output_over_an_operand() {
    let mut call = Call::small();
    done(call.run());
    call.program.silent();
    call.at[3] = call.at[0] + 16;
    call.at[2] = call.at[3];
    done(call.run());
    call.program.found(Kind::Overlap, &["D overlaps an operand"]);
}

#[test]
fn outputs_of_a_batch_over_each_other() {
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
fn batches_of_two_sizes() {
    let call = Call::small();
    call.layout(0, 5, 2i32);
    call.refused(BlasStatus::INVALID_VALUE, "batches");
}

#[test]
fn a_bias_at_a_null_pointer() {
    let call = Call::small();
    call.set(7, 4u32);
    call.refused(BlasStatus::INVALID_VALUE, "null pointer");
    call.set(8, call.program.upload(&[0.0f32; 4]));
    done(call.run());
    call.program.silent();
}

#[test]
fn a_bias_that_is_too_short() {
    let call = Call::small();
    call.set(7, 4u32);
    call.set(8, call.program.upload(&[0.0f32; 2]));
    done(call.run());
    assert_eq!(call.synchronize(), Status::ILLEGAL_ADDRESS);
    call.program.found(Kind::IllegalAddress, &["cublasLtMatmul", "byte 0 to 16 of an allocation of 8 bytes"]);
}

#[test]
fn a_mask_with_a_leading_dimension_that_is_no_multiple_of_128() {
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
fn an_operand_that_is_freed_early() {
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
fn an_output_that_a_stream_reads_without_waiting() {
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
fn scalars_of_another_type() {
    // Double-precision scalars for single-precision products would be read as half of a number.
    let call = Call::small();
    call.set::<i32>(1, 1);
    call.refused(BlasStatus::NOT_SUPPORTED, "table");
    call.set::<i32>(1, 0);
    done(call.run());
    call.program.silent();
}
