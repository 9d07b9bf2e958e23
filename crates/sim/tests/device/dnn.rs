//! cuDNN: what it computes, what it refuses, and planted faults beside their correct twins.
use std::ptr::null;

use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::dnn::*;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::cuStreamWaitEvent;
use kiln_sim::{Choice, DnnStatus, Faults, Kind, Order, Profile, Refused, Status};

use crate::common::ok;
use crate::convolution::*;

#[test]
fn every_direction_in_every_order() {
    for order in [Order::Forward, Order::Reversed, Order::Random] {
        for direction in [Forward, Data, Filter] {
            for (mode, last, [alpha, beta]) in
                [(1, false, [1.0, 0.0]), (1, true, [2.0, 1.0]), (0, false, [0.5, -1.0]), (0, true, [1.0, 0.0])]
            {
                for algorithm in [0, 1] {
                    let call = Call { direction, mode, last, alpha, beta, algorithm, ..SMALL };
                    let made = call.clone().make(Profile { order, ..Profile::default() });
                    done(made.run());
                    close(&made.output(), &call.want(), &call);
                    made.program.silent();
                }
            }
        }
    }
}

#[test]
fn fused_with_bias_and_activation() {
    let bias = [1.0f32, -20.0, 3.0, 30.0, 0.0, f32::NAN];
    for (mode, nan) in [(1, false), (5, true)] {
        let made = SMALL.made();
        let at = made.program.upload(&bias);
        done(made.fused(at, mode, 0));
        let got = made.output();
        for (i, (got, sum)) in got.iter().zip(SMALL.want()).enumerate() {
            let value = sum + bias[i / 9 % 6];
            // ReLU makes 0 of what is not a number; the identity keeps it.
            let want = if mode == 1 { value.max(0.0) } else { value };
            assert!(*got == want || (nan && got.is_nan() && want.is_nan()), "element {i} is {got}, not {want}");
        }
        made.program.silent();
    }
    let refuse = |call: Call, mode, nan, words: &str| {
        let made = call.made();
        let at = made.program.upload(&bias);
        assert_eq!(made.fused(at, mode, nan), DnnStatus::NOT_SUPPORTED);
        made.because(words);
    };
    refuse(SMALL, 1, 1, "propagates NaN");
    refuse(SMALL, 2, 0, "neither ReLU nor the identity");
    refuse(Call { algorithm: 0, ..SMALL }, 5, 0, "IMPLICIT_PRECOMP_GEMM");
}

#[test]
fn heuristics_tell_what_each_algorithm_asks_and_promises() {
    let plain = Call { w: [6, 4, 3, 3], y: [2, 6, 5, 6], moves: [[1; 2]; 3], groups: 1, ..SMALL };
    for direction in [Forward, Data, Filter] {
        for arch in [75, 80, 90] {
            let made = Call { direction, math: 0, ..plain.clone() }.make(Profile { arch, ..Profile::default() });
            let all = made.choices();
            let taken = all.iter().filter(|choice| choice.status == 0).count();
            assert!(taken >= 4 && all[..taken].iter().all(|choice| choice.status == 0), "{all:#?}");
            let wavering: Vec<u32> =
                all.iter().filter(|choice| choice.determinism == 0).map(|choice| choice.algorithm).collect();
            assert_eq!(
                wavering,
                match direction {
                    Forward => vec![],
                    Data => vec![0],
                    Filter => vec![0, 3],
                }
            );
            // TensorFloat-32 is of Ampere; Winograd in one piece ends with it.
            assert_eq!(all.iter().any(|choice| choice.status == 0 && choice.math == 0), arch >= 80);
            let winograd = match direction {
                Forward => 6,
                Data => 4,
                Filter => 99,
            };
            let has = all.iter().any(|choice| choice.algorithm == winograd && choice.status == 0);
            assert_eq!(has, arch < 90 && direction != Filter);
        }
        // Math that is exact stays so.
        assert!(Call { direction, ..plain.clone() }.made().choices().iter().all(|choice| choice.math == 3));
        // Of a strided, dilated convolution in groups, only products are left.
        let made = Call { direction, ..SMALL }.made();
        let all = made.choices();
        assert!(all.iter().filter(|choice| choice.status == 0).all(|choice| [0, 1, 3].contains(&choice.algorithm)));
        assert!(all.iter().any(|choice| choice.status == 3000) && all.iter().any(|choice| choice.memory > 0));
    }
}

#[test]
fn a_search_tells_what_fits_and_destroys_the_output() {
    let made = SMALL.made();
    let mut found = [Choice::default(); 10];
    let mut returned = 0;
    let mut search = |made: &Made, bytes: usize| {
        let ([dx, dw, dy, conv], [x, w, y], aside) = (made.descs, made.at, made.workspace.0);
        // SAFETY: there is room for ten.
        done(unsafe {
            cudnnFindConvolutionForwardAlgorithmEx(
                made.handle,
                dx,
                x,
                dw,
                w,
                conv,
                dy,
                y,
                10,
                &raw mut returned,
                found.as_mut_ptr(),
                aside,
                bytes,
            )
        });
        found[..returned as usize].to_vec()
    };
    let all = search(&made, 1 << 20);
    assert!(all[0].status == 0 && all[1].status == 0 && all[0].time > 0.0 && all[0].time < all[1].time, "{all:?}");
    assert!(made.output().iter().all(|value| value.is_nan()), "nothing is promised of what a search leaves");
    let without = search(&made, 0);
    assert!(without.iter().any(|choice| choice.algorithm == 1 && choice.status == DnnStatus::ALLOC_FAILED.0));
    made.program.silent();
}

#[test]
fn faults_on_request() {
    let faults = Faults {
        no_convolutions: ["forward:1", "fused", "data"].into_iter().filter_map(Refused::read).collect(),
        ..Faults::default()
    };
    let profile = Profile { faults, ..Profile::default() };
    for (direction, algorithm, status) in [(Forward, 1, 3000), (Forward, 0, 0), (Data, 1, 3000), (Filter, 1, 0)] {
        let made = Call { direction, algorithm, ..SMALL }.make(profile.clone());
        // The heuristic knows nothing of it.
        assert!(made.choices().iter().any(|choice| choice.algorithm == algorithm && choice.status == 0));
        assert_eq!(made.run().0, status, "{direction:?} {algorithm}");
    }
    let made = Call { algorithm: 0, ..SMALL }.make(profile);
    let bias = made.program.upload(&[0.0f32; 6]);
    assert_eq!(made.fused(bias, 1, 0), DnnStatus::NOT_SUPPORTED);
    drop(made);
    // Of any status, with the library's words about it.
    let no_convolutions = ["forward=3008", "search=3009"].into_iter().filter_map(Refused::read).collect();
    let made = SMALL.make(Profile { faults: Faults { no_convolutions, ..Faults::default() }, ..Profile::default() });
    assert_eq!(made.run().0, 3008);
    let mut text = [1u8; 64];
    // SAFETY: there is room for as many bytes.
    unsafe { cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
    assert!(text.starts_with(b"the simulator was asked to refuse it\0"), "{text:?}");
}

#[test]
fn the_library_takes_memory_of_its_own_once() {
    let made = SMALL.make(Profile { lazy_memory: 1 << 20, memory: 8 << 20, ..Profile::default() });
    // The handle has taken a part, the operands another.
    let full = made.program.alloc((8 << 20) - made.program.session.counts().live as usize - 1000);
    assert_eq!(made.run(), DnnStatus::DEVICE_ALLOCATION_FAILED);
    // SAFETY: an allocation of the program.
    ok(unsafe { cuMemFree_v2(full) });
    done(made.run());
    let again = made.program.alloc((8 << 20) - made.program.session.counts().live as usize - 1000);
    done(made.run());
    // SAFETY: as above.
    ok(unsafe { cuMemFree_v2(again) });
    made.program.silent();
}

#[test]
fn libraries_are_of_one_version_of_cuda() {
    for (profile, want) in [
        (Profile::default(), 13_000),
        (Profile { driver: 12_080, ..Profile::default() }, 12_000),
        (Profile { cuda: 12, ..Profile::default() }, 12_000),
    ] {
        let _session = kiln_sim::Session::new(profile);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both are written.
        assert_eq!(unsafe { kiln_sim::api::nvrtc::nvrtcVersion(&raw mut major, &raw mut minor) }, 0);
        assert_eq!((cudnnGetCudartVersion(), kiln_sim::api::blas::cublasLtGetVersion()), (want, 10 * want));
        assert_eq!((1000 * major + 10 * minor) as usize, want);
    }
}

#[test]
fn what_the_library_refuses() {
    use DnnStatus as S;
    let with = |change: fn(&mut Made)| {
        let mut made = SMALL.made();
        change(&mut made);
        made
    };
    with(|made| made.at[0] = 0).refused(S::BAD_PARAM, "null pointer");
    with(|made| made.at[2] += 2).refused(S::BAD_PARAM, "not aligned");
    with(|made| made.workspace = (0, 0)).refused(S::BAD_PARAM, "smaller than the algorithm needs");
    with(|made| made.workspace.0 = 0).refused(S::BAD_PARAM, "workspace is at a null pointer");
    with(|made| made.call.algorithm = 9).refused(S::BAD_PARAM, "no such algorithm");
    with(|made| made.call.algorithm = 7).refused(S::NOT_SUPPORTED, "does not take");
    let describe = |data: i32, dims: [i32; 4], strides: [i32; 4]| {
        let made = SMALL.made();
        // SAFETY: four numbers each.
        done(unsafe { cudnnSetTensorNdDescriptor(made.descs[2], data, 4, dims.as_ptr(), strides.as_ptr()) });
        made
    };
    let (y, dense) = (SMALL.y, steps(SMALL.y, false));
    describe(0, [2, 6, 3, 4], steps([2, 6, 3, 4], false)).refused(S::BAD_PARAM, "other extents");
    describe(2, y, dense).refused(S::NOT_SUPPORTED, "combination of types");
    describe(0, y, [108, 9, 3, 1]).refused(S::NOT_SUPPORTED, "not dense");
    describe(0, y, [54, 9, 3, -1]).refused(S::NOT_SUPPORTED, "negative stride");
    let made = Call { last: true, ..SMALL }.made();
    // SAFETY: four numbers.
    done(unsafe { cudnnSetTensorNdDescriptor(made.descs[2], 0, 4, y.as_ptr(), dense.as_ptr()) });
    made.refused(S::NOT_SUPPORTED, "a filter in NHWC with images in NCHW");
    drop(made);
    let made = SMALL.made();
    // SAFETY: null is looked for.
    let status = unsafe {
        let ([dx, dw, dy, conv], [x, w, y], (aside, bytes)) = (made.descs, made.at, made.workspace);
        cudnnConvolutionForward(made.handle, null(), dx, x, dw, w, conv, 1, aside, bytes, null(), dy, y)
    };
    assert_eq!(status, S::BAD_PARAM);
    made.because("factor");
    made.program.silent();
}

// ---- planted faults, each of which stays inside its memory, beside the twin that is right ----

/// What comes out differs from what was meant, and nothing else tells.
fn wrong(meant: Call, planted: Call) {
    for (call, right) in [(meant.clone(), true), (planted, false)] {
        let made = call.made();
        done(made.run());
        let same = made.output() == meant.want();
        assert_eq!(same, right, "{:?}", made.call);
        made.program.silent();
    }
}

#[test]
fn wrong_moves_and_mirrored_filters_show_in_the_values() {
    // Padding and dilation that give the same extents.
    let meant = Call { groups: 1, w: [6, 4, 3, 3], y: [2, 6, 5, 6], moves: [[1, 1], [1, 1], [1, 1]], ..SMALL };
    wrong(meant.clone(), Call { moves: [[2, 2], [1, 1], [2, 2]], ..meant.clone() });
    wrong(meant.clone(), Call { mode: 0, ..meant.clone() });
    wrong(meant.clone(), Call { beta: 1.0, ..meant.clone() });
    // A stride of the other axis.
    let square = Call { x: [2, 4, 5, 5], y: [2, 6, 3, 3], moves: [[1, 1], [2, 2], [1, 1]], ..meant };
    wrong(square.clone(), Call { moves: [[0, 0], [1, 1], [1, 1]], ..square });
}

#[test]
fn missing_groups_and_exchanged_extents_are_refused() {
    let refused = |change: fn(&mut Call), status| {
        let made = SMALL.made();
        let mut call = SMALL;
        change(&mut call);
        // SAFETY: as many numbers as are said.
        unsafe {
            done(cudnnSetFilterNdDescriptor(made.descs[1], 0, 0, 4, call.w.as_ptr()));
            done(cudnnSetConvolutionGroupCount(made.descs[3], call.groups));
        }
        assert_eq!(made.run(), status, "{call:?}");
        made.program.silent();
    };
    refused(|_| {}, DnnStatus::SUCCESS);
    refused(|call| call.groups = 1, DnnStatus::BAD_PARAM);
    refused(|call| call.w.swap(0, 1), DnnStatus::BAD_PARAM);
    refused(|call| call.w.swap(2, 3), DnnStatus::BAD_PARAM);
    refused(|call| call.w[1] *= 2, DnnStatus::BAD_PARAM);
}

#[test]
fn descriptors_after_their_end() {
    for (destroys, twice) in [(true, false), (false, false), (true, true)] {
        let made = SMALL.made();
        let before = made.program.session.counts().descriptors;
        // SAFETY: the handle is one, or was.
        unsafe {
            if destroys {
                done(cudnnDestroyFilterDescriptor(made.descs[1]));
                assert_eq!(made.program.session.counts().descriptors, before - 1);
            }
            if twice {
                assert_eq!(cudnnDestroyFilterDescriptor(made.descs[1]), DnnStatus::BAD_PARAM);
            }
        }
        if twice {
            made.program
                .found(Kind::Descriptor, &["`cudnnDestroyFilterDescriptor`", "no filter descriptor (any more)"]);
        } else if destroys {
            assert_eq!(made.run(), DnnStatus::BAD_PARAM);
            made.program.found(Kind::Descriptor, &["`cudnnConvolutionForward`", "no filter descriptor (any more)"]);
        } else {
            done(made.run());
            made.program.silent();
        }
    }
    let made = SMALL.made();
    // SAFETY: the handle is one.
    done(unsafe { cudnnDestroy(made.handle) });
    assert_eq!(made.run(), DnnStatus::BAD_PARAM);
    made.program.found(Kind::Descriptor, &["no handle of cuDNN"]);
}

#[test]
fn an_image_that_another_stream_writes() {
    for waits in [false, true] {
        let made = SMALL.made();
        // What the operands hold has come before.
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        let (stream, other) = (made.program.stream(1), made.program.stream(1));
        // SAFETY: the handle is one.
        done(unsafe { cudnnSetStream(made.handle, stream) });
        let function = made.program.function(c"t_fill_f32");
        let arguments = [crate::common::arg(made.at[0]), crate::common::arg(1.0f32), crate::common::arg(240u64)];
        assert_eq!(made.program.try_launch(function, ([1; 3], [32, 1, 1], 0), other, &arguments), Status::SUCCESS);
        let event = made.program.event(other);
        if waits {
            // SAFETY: both are handles of theirs.
            ok(unsafe { cuStreamWaitEvent(stream, event, 0) });
        }
        done(made.run());
        // SAFETY: it takes nothing.
        ok(unsafe { cuCtxSynchronize() });
        if waits {
            made.program.silent();
        } else {
            made.program.found(Kind::Unordered, &["t_fill_f32", "cudnnConvolutionForward", "nothing orders"]);
        }
    }
}

#[test]
fn a_workspace_that_is_freed_early_or_lies_over_an_operand() {
    let made = SMALL.made();
    done(made.run());
    // SAFETY: it is an allocation.
    ok(unsafe { cuMemFree_v2(made.workspace.0) });
    made.program.found(Kind::FreeInUse, &["cudnnConvolutionForward"]);
    drop(made);
    let mut made = SMALL.made();
    made.workspace.0 = made.at[0];
    done(made.run());
    made.program.found(Kind::Overlap, &["the workspace lies over an operand"]);
    drop(made);
    let mut made = SMALL.made();
    made.at[2] = made.at[0];
    done(made.run());
    made.program.found(Kind::Overlap, &["the output lies over an operand"]);
}

/// An algorithm overwrites the workspace that it asked for, all of it and no more, whatever the program says it has.
#[test]
fn the_workspace_that_an_algorithm_asked_for_is_what_it_uses() {
    for direction in [Forward, Data, Filter] {
        let mut made = Call { direction, ..SMALL }.made();
        let needed = made.choices().iter().find(|choice| choice.algorithm == 1).unwrap().memory;
        assert!(needed > 0);
        made.workspace = (made.program.upload(&vec![7u8; needed + 64]), needed + 64);
        done(made.run());
        let after: Vec<u8> = made.program.download(made.workspace.0, needed + 64);
        assert!(after[..needed].iter().all(|&byte| byte == 0xff) && after[needed..] == [7; 64], "{direction:?}");
        made.program.silent();
        // One byte less than was asked for, whatever is said.
        made.workspace = (made.program.alloc(needed - 1), needed + 64);
        done(made.run());
        // SAFETY: it takes nothing.
        assert_eq!(unsafe { cuCtxSynchronize() }, Status::ILLEGAL_ADDRESS);
        let place = format!("byte 0 to {needed} of an allocation of {} bytes", needed - 1);
        made.program.found(Kind::IllegalAddress, &["cudnnConvolution", &place]);
    }
}

/// So do the algorithms that a search tries.
#[test]
fn a_search_uses_what_its_algorithms_ask_for() {
    let made = SMALL.made();
    let most = made.choices().iter().filter(|choice| choice.status == 0).map(|choice| choice.memory).max().unwrap();
    let ([dx, dw, dy, conv], [x, w, y]) = (made.descs, made.at);
    let (aside, mut found, mut returned) = (made.program.upload(&vec![7u8; most + 64]), [Choice::default(); 10], 0);
    // SAFETY: there is room for ten answers; addresses are the device's.
    done(unsafe {
        let (to, count) = (found.as_mut_ptr(), &raw mut returned);
        cudnnFindConvolutionForwardAlgorithmEx(made.handle, dx, x, dw, w, conv, dy, y, 10, count, to, aside, most + 64)
    });
    let after: Vec<u8> = made.program.download(aside, most + 64);
    assert!(after[..most].iter().all(|&byte| byte == 0xff) && after[most..] == [7; 64]);
    made.program.silent();
}

#[test]
fn algorithms_that_add_in_any_order_waver_in_the_last_bits() {
    for (algorithm, wavers) in [(0, true), (1, false), (3, true)] {
        let made = Call { direction: Filter, algorithm, ..SMALL }.made();
        let mut results: Vec<Vec<f32>> = Vec::new();
        for _ in 0..6 {
            done(made.run());
            results.push(made.output());
        }
        assert_eq!(results.windows(2).any(|pair| pair[0] != pair[1]), wavers, "algorithm {algorithm}");
    }
}
