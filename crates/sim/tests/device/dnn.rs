//! cuDNN: its results, what it refuses, and planted faults beside their correct twins.
use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::dnn::*;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::cuStreamWaitEvent;
use kiln_sim::types::*;
use kiln_sim::{DnnStatus, Faults, Kind, Order, Profile, Refused, Status};

use crate::common::ok;
use crate::convolution::*;

/// `CUDNN_HEUR_MODE_A` and `CUDNN_HEUR_MODE_FALLBACK`.
const MODES: [i32; 2] = [3, 2];

#[test]
fn every_direction_in_every_order() {
    for order in [Order::Forward, Order::Reversed, Order::Random] {
        for direction in [Forward, Data, Filter] {
            for (mode, last, [alpha, beta]) in
                [(1, false, [1.0, 0.0]), (1, true, [2.0, 1.0]), (0, false, [0.5, -1.0]), (0, true, [1.0, 0.0])]
            {
                for engine in [0, 1, 10] {
                    let call = Call { direction, mode, last, alpha, beta, engine, ..SMALL };
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
fn fused_with_bias_and_relu() {
    let bias = [1.0f32, -20.0, 3.0, 30.0, 0.0, f32::NAN];
    for last in [false, true] {
        let mut made = Call { fused: &[0, 100], last, ..SMALL }.made();
        made.at[3] = made.program.upload(&bias);
        done(made.run());
        for (i, (got, sum)) in made.output().iter().zip(Call { last, ..SMALL }.want()).enumerate() {
            let channel = if last { i % 6 } else { i / 9 % 6 };
            // ReLU makes 0 of what is not a number.
            assert_eq!(*got, (sum + bias[channel]).max(0.0), "element {i}");
        }
        made.program.silent();
    }
    // Behind the bias tanh, or the identity.
    for fused in [&[0, 101], &[0, 21]] {
        let (made, status) = Call { fused, ..SMALL }.begin(Profile::default());
        assert_eq!(status, DnnStatus::NOT_SUPPORTED);
        assert!(MODES.iter().all(|&mode| made.proposed(mode).is_empty()));
        made.because("sums, ReLU and its gradient");
    }
}

#[test]
fn fused_with_another_tensor() {
    for last in [false, true] {
        let made = Call { fused: &[0, 0, 100], last, ..SMALL }.made();
        done(made.run());
        let (bias, other) = (numbers(4, 6), numbers(5, count(SMALL.y)));
        for (i, (got, sum)) in made.output().iter().zip(Call { last, ..SMALL }.want()).enumerate() {
            let channel = if last { i % 6 } else { i / 9 % 6 };
            assert_eq!(*got, (sum + other[i] + bias[channel]).max(0.0), "element {i}");
        }
        made.program.silent();
    }
}

/// ReLU's gradient and the sums of its result, fused to the gradient of the input.
#[test]
fn fused_with_the_gradient_of_relu() {
    const ONE_GROUP: Call =
        Call { direction: Data, w: [6, 4, 3, 2], moves: [[1, 2], [2, 3], [1, 1]], engine: 11, last: true, ..SMALL };
    let call = Call { y: [2, 6, 3, 3], ..ONE_GROUP };
    for fused in [&[200][..], &[200, SUMS]] {
        let made = Call { fused, ..call.clone() }.made();
        // The engine's tensor cores round, but not numbers as small as these.
        let mut want = call.want();
        let (seen, mut sums) = (numbers(5, want.len()), numbers(4, 4));
        want.iter_mut().zip(&seen).filter(|(_, y)| **y <= 0.0).for_each(|(value, _)| *value = 0.0);
        // They are added to what is there.
        want.iter().enumerate().for_each(|(i, value)| sums[i % 4] += value);
        assert_eq!(made.proposed(3).len(), 2);
        assert!(made.proposed(3).iter().all(|(_, notes, behavior)| *notes == [0] && *behavior == [0]));
        done(made.run());
        close(&made.output(), &want, &call);
        if fused.len() > 1 {
            close(&made.program.download(made.at[3], 4), &sums, &call);
        }
        made.program.silent();
    }
    // Not in NCHW, not of a mirrored filter; sums not of groups.
    for (call, fused) in [
        (Call { last: false, ..call.clone() }, &[200][..]),
        (Call { mode: 0, ..call.clone() }, &[200]),
        (Call { last: true, direction: Data, engine: 11, ..SMALL }, &[200, SUMS]),
    ] {
        let (made, status) = Call { fused, ..call }.begin(Profile::default());
        assert_eq!(status, DnnStatus::NOT_SUPPORTED);
        assert!(MODES.iter().all(|&mode| made.proposed(mode).is_empty()));
    }
}

/// Sums that were not cleared are a wrong result, and at the wrong address a finding.
#[test]
fn sums_over_an_operand() {
    let call = Call { direction: Data, w: [6, 4, 3, 2], moves: [[1, 2], [2, 3], [1, 1]], last: true, ..SMALL };
    let mut made = Call { fused: &[200, SUMS], engine: 11, ..call }.made();
    made.at[3] = made.at[4];
    done(made.run());
    // SAFETY: it waits.
    ok(unsafe { cuCtxSynchronize() });
    made.program.found(Kind::Overlap, &["the output lies over an operand"]);
}

#[test]
fn heuristics_tell_what_each_engine_promises() {
    let plain = Call { w: [6, 4, 3, 3], y: [2, 6, 5, 6], moves: [[1; 2]; 3], ..SMALL };
    for direction in [Forward, Data, Filter] {
        for arch in [75, 80, 90] {
            let made = Call { direction, ..plain.clone() }.make(Profile { arch, ..Profile::default() });
            let [fast, fallback] = MODES.map(|mode| made.proposed(mode));
            let with = |note: i32| -> Vec<i64> {
                fast.iter().filter(|(_, notes, _)| notes.contains(&note)).map(|(index, ..)| *index).collect()
            };
            // Tensor cores round to TensorFloat-32 since Ampere. Gradients may be added in any order.
            assert_eq!(with(0), if arch >= 80 { vec![8, 9] } else { vec![9] }, "{direction:?} {arch}");
            assert_eq!(with(4), if direction == Forward { vec![] } else { vec![2] });
            assert_eq!((with(5), with(3)), (vec![7], vec![4]));
            assert!(fast.iter().all(|(_, _, behavior)| behavior.is_empty()));
            assert_eq!(
                fallback,
                [(1, vec![], vec![]), (0, vec![], vec![]), (10, vec![], vec![0])].map(|(index, a, b)| (index, a, b))
            );
            made.program.silent();
        }
        // Of a strided, dilated convolution in groups, only products are left.
        let made = Call { direction, ..SMALL }.made();
        let fast: Vec<i64> = made.proposed(3).iter().map(|(index, ..)| *index).collect();
        assert!(!fast.contains(&7) && !fast.contains(&4) && !fast.contains(&3), "{fast:?}");
    }
}

#[test]
fn faults_on_request() {
    let read = |list: &[&str]| Faults {
        no_convolutions: list.iter().filter_map(|entry| Refused::read(entry)).collect(),
        ..Faults::default()
    };
    let profile = Profile { faults: read(&["forward:1", "fused", "data"]), ..Profile::default() };
    for (direction, engine, status) in [(Forward, 1, 3000), (Forward, 0, 0), (Data, 1, 3000), (Filter, 1, 0)] {
        let made = Call { direction, engine, ..SMALL }.make(profile.clone());
        // The heuristic knows nothing of it.
        assert!(made.proposed(2).iter().any(|(index, ..)| *index == engine));
        assert_eq!(made.run().0, status, "{direction:?} {engine}");
    }
    let made = Call { engine: 0, fused: &[0, 100], ..SMALL }.make(profile);
    assert_eq!(made.run(), DnnStatus::NOT_SUPPORTED);
    drop(made);
    // Of any status, with the library's words about it.
    let made = SMALL.make(Profile { faults: read(&["forward=3008"]), ..Profile::default() });
    assert_eq!(made.run().0, 3008);
    let mut text = [1u8; 64];
    // SAFETY: there is room for as many bytes.
    unsafe { cudnnGetLastErrorString(text.as_mut_ptr().cast(), text.len()) };
    assert!(text.starts_with(b"the simulator was asked to refuse it\0"), "{text:?}");
    drop(made);
    // Nothing in NHWC.
    let profile = Profile { faults: read(&["nhwc"]), ..Profile::default() };
    for (last, any) in [(true, false), (false, true)] {
        let made = Call { last, ..SMALL }.make(profile.clone());
        assert_eq!(!made.proposed(3).is_empty(), any);
    }
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

/// A tensor of the output's extents, and what became of the operation with it.
fn with_output(y: usize) -> DnnStatus {
    let of = |uid, dims| done_with(tensor(uid, dims, steps(dims, false), 0, 4));
    finalize(SMALL.operation([of(1, SMALL.x), of(2, SMALL.w), y]))
}

#[test]
fn what_the_library_refuses() {
    use DnnStatus as S;
    let with = |change: fn(&mut Made)| {
        let mut made = SMALL.made();
        change(&mut made);
        made
    };
    with(|made| made.at[0] = 0).refused(S::NULL_POINTER, "null pointer");
    with(|made| made.at[2] += 2).refused(S::MISALIGNED_POINTER, "less aligned");
    with(|made| made.workspace = 0).refused(S::BAD_PARAM, "workspace is at a null pointer");
    with(|made| made.uids[1] = 7).refused(S::BAD_PARAM, "no address, or two");
    with(|made| made.uids[1] = 1).refused(S::BAD_PARAM, "no address, or two");
    for (engine, why) in [(5, "does not take"), (7, "does not take")] {
        let (made, status) = Call { engine, ..SMALL }.begin(Profile::default());
        assert_eq!(status, S::NOT_SUPPORTED);
        made.because(why);
    }
    let made = SMALL.made();
    let dense = |dims| steps(dims, false);
    let (y, short) = (SMALL.y, [2, 6, 3, 4]);
    assert_eq!(with_output(done_with(tensor(3, y, dense(y), 0, 4))), S::SUCCESS);
    assert_eq!(with_output(done_with(tensor(3, short, dense(short), 0, 4))), S::BAD_PARAM);
    made.because("other extents");
    // Not finalized.
    assert_eq!(with_output(tensor(3, y, dense(y), 0, 4)), S::BAD_PARAM);
    made.because("was not finalized");
    // What is valid, and no engine takes.
    for (tensor, why) in
        [(tensor(3, y, dense(y), 2, 4), "combination of types"), (tensor(3, y, [108, 9, 3, 1], 0, 4), "not dense")]
    {
        let of = |uid, dims| done_with(self::tensor(uid, dims, dense(dims), 0, 4));
        let operation = done_with(SMALL.operation([of(1, SMALL.x), of(2, SMALL.w), done_with(tensor)]));
        let graph = create(15);
        done(set(graph, 801, DESCRIPTOR, &[operation]));
        let graph = done_with(graph);
        assert!(MODES.iter().all(|&mode| proposed(graph, mode).is_empty()), "{why}");
        made.because(why);
    }
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
    let meant = Call { w: [6, 4, 3, 3], y: [2, 6, 5, 6], moves: [[1, 1], [1, 1], [1, 1]], ..SMALL };
    wrong(meant.clone(), Call { moves: [[2, 2], [1, 1], [2, 2]], ..meant.clone() });
    wrong(meant.clone(), Call { mode: 0, ..meant.clone() });
    wrong(meant.clone(), Call { beta: 1.0, ..meant.clone() });
    // The strides of the other order.
    wrong(meant.clone(), Call { last: true, ..meant.clone() });
    // A stride of the other axis.
    let square = Call { x: [2, 4, 5, 5], y: [2, 6, 3, 3], moves: [[1, 1], [2, 2], [1, 1]], ..meant };
    wrong(square.clone(), Call { moves: [[0, 0], [1, 1], [1, 1]], ..square });
}

#[test]
fn a_number_that_is_bound_to_another_pointer_shows_in_the_values() {
    let square = Call { x: [2, 6, 3, 3], w: [6, 6, 1, 1], y: [2, 6, 3, 3], moves: [[0, 0], [1, 1], [1, 1]], ..SMALL };
    for exchanged in [false, true] {
        let mut made = Call { direction: Filter, ..square.clone() }.made();
        if exchanged {
            made.uids.swap(0, 2);
        }
        done(made.run());
        let right = made.output() == Call { direction: Filter, ..square.clone() }.want();
        assert_eq!(right, !exchanged);
    }
}

#[test]
fn extents_that_do_not_fit_are_refused() {
    let refused = |change: fn(&mut Call), status| {
        let made = SMALL.made();
        let mut call = SMALL;
        change(&mut call);
        let of = |uid, dims| done_with(tensor(uid, dims, steps(dims, false), 0, 4));
        let operation = call.operation([of(1, call.x), of(2, call.w), of(3, call.y)]);
        assert_eq!(finalize(operation), status, "{call:?}");
        made.program.silent();
    };
    refused(|_| {}, DnnStatus::SUCCESS);
    refused(|call| call.w.swap(0, 1), DnnStatus::BAD_PARAM);
    refused(|call| call.w.swap(2, 3), DnnStatus::BAD_PARAM);
    refused(|call| call.w[1] = 3, DnnStatus::BAD_PARAM);
    refused(|call| call.y[0] = 1, DnnStatus::BAD_PARAM);
    refused(|call| call.w[0] = 5, DnnStatus::BAD_PARAM);
}

#[test]
fn descriptors_after_their_end() {
    let made = SMALL.made();
    let before = made.program.session.counts().descriptors;
    // SAFETY: the handles are descriptors, or were.
    unsafe {
        // A plan keeps what it needs of its configuration.
        done(cudnnBackendDestroyDescriptor(made.config));
        assert_eq!(made.program.session.counts().descriptors, before - 1);
        done(made.run());
        made.program.silent();
        assert_eq!(cudnnBackendDestroyDescriptor(made.config), DnnStatus::BAD_PARAM);
        made.program.found(Kind::Descriptor, &["`cudnnBackendDestroyDescriptor`", "no descriptor of cuDNN (any more)"]);
        drop(made);
        let made = SMALL.made();
        done(cudnnBackendDestroyDescriptor(made.plan));
        assert_eq!(made.run(), DnnStatus::BAD_PARAM);
        made.program.found(Kind::Descriptor, &["`cudnnBackendExecute`", "no descriptor of cuDNN (any more)"]);
        drop(made);
        let made = SMALL.made();
        done(cudnnDestroy(made.handle));
        assert_eq!(made.run(), DnnStatus::BAD_PARAM);
        made.program.found(Kind::Descriptor, &["no handle of cuDNN"]);
    }
}

#[test]
fn a_plan_of_another_handle_or_a_descriptor_of_another_kind() {
    let made = SMALL.made();
    let mut other = 0;
    // SAFETY: it writes the handle.
    done(unsafe { cudnnCreate(&raw mut other) });
    done(made.run());
    assert_eq!(made.run_by(other), DnnStatus::BAD_PARAM);
    made.program.found(Kind::Descriptor, &["the plan was made for another handle"]);
    drop(made);
    let made = SMALL.made();
    let graph = create(15);
    assert_eq!(set(graph, 801, DESCRIPTOR, &[made.config]), DnnStatus::BAD_PARAM);
    made.program.found(Kind::Descriptor, &["is given a engine configuration for attribute 801"]);
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
            made.program.found(Kind::Unordered, &["t_fill_f32", "cudnnBackendExecute", "nothing orders"]);
        }
    }
}

#[test]
fn a_workspace_that_is_freed_early_or_lies_over_an_operand() {
    let made = SMALL.made();
    done(made.run());
    // SAFETY: it is an allocation.
    ok(unsafe { cuMemFree_v2(made.workspace) });
    made.program.found(Kind::FreeInUse, &["cudnnBackendExecute"]);
    drop(made);
    let mut made = SMALL.made();
    made.workspace = made.at[0];
    done(made.run());
    made.program.found(Kind::Overlap, &["the workspace lies over an operand"]);
    drop(made);
    let mut made = SMALL.made();
    made.at[2] = made.at[0];
    done(made.run());
    made.program.found(Kind::Overlap, &["the output lies over an operand"]);
}

/// An engine overwrites the workspace that its plan asks for, all of it and no more.
#[test]
fn the_workspace_that_a_plan_asks_for_is_what_it_uses() {
    for direction in [Forward, Data, Filter] {
        let mut made = Call { direction, ..SMALL }.made();
        let needed = made.needed();
        assert!(needed > 0);
        made.workspace = made.program.upload(&vec![7u8; needed + 64]);
        done(made.run());
        let after: Vec<u8> = made.program.download(made.workspace, needed + 64);
        assert!(after[..needed].iter().all(|&byte| byte == 0xff) && after[needed..] == [7; 64], "{direction:?}");
        made.program.silent();
        // One byte less than was asked for.
        made.workspace = made.program.alloc(needed - 1);
        done(made.run());
        // SAFETY: it takes nothing.
        assert_eq!(unsafe { cuCtxSynchronize() }, Status::ILLEGAL_ADDRESS);
        let place = format!("byte 0 to {needed} of an allocation of {} bytes", needed - 1);
        made.program.found(Kind::IllegalAddress, &["cudnnBackendExecute", &place]);
    }
}

#[test]
fn engines_that_add_in_any_order_waver_in_the_last_bits() {
    for (engine, wavers) in [(2, true), (1, false), (0, false)] {
        let made = Call { direction: Filter, engine, ..SMALL }.made();
        let mut results: Vec<Vec<f32>> = Vec::new();
        for _ in 0..6 {
            done(made.run());
            results.push(made.output());
        }
        assert_eq!(results.windows(2).any(|pair| pair[0] != pair[1]), wavers, "engine {engine}");
    }
}

#[test]
fn tensor_cores_round_factors_of_f32() {
    // More bits than TensorFloat-32 has.
    for (engine, exact) in [(1, true), (8, false)] {
        let mut made = Call { engine, ..SMALL }.made();
        let fine: Vec<f32> = numbers(1, count(SMALL.x)).iter().map(|value| value * (1.0 + 1.0 / 4096.0)).collect();
        made.at[0] = made.program.upload(&fine);
        done(made.run());
        let want: Vec<f32> = SMALL.want().iter().map(|value| value * (1.0 + 1.0 / 4096.0)).collect();
        assert_eq!(made.output() == want, exact, "engine {engine}");
    }
}
