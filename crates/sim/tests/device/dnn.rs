//! cuDNN: what it computes, what it refuses, and planted faults beside their correct twins.
use std::ffi::c_void;
use std::ptr::{from_ref, null};

use kiln_sim::api::context::cuCtxSynchronize;
use kiln_sim::api::dnn::*;
use kiln_sim::api::memory::cuMemFree_v2;
use kiln_sim::api::stream::cuStreamWaitEvent;
use kiln_sim::{Choice, DnnStatus, Faults, Kind, Order, Profile, Status};

use crate::common::{Program, ok};

fn done(status: DnnStatus) {
    assert_eq!(status, DnnStatus::SUCCESS);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Direction {
    Forward,
    Data,
    Filter,
}

use Direction::{Data, Filter, Forward};

/// A convolution as a program would ask for it. It may be changed before it is made.
#[derive(Clone, Debug)]
struct Call {
    direction: Direction,
    x: [i32; 4],
    w: [i32; 4],
    y: [i32; 4],
    /// Padding, stride, dilation.
    moves: [[i32; 2]; 3],
    groups: i32,
    mode: i32,
    math: i32,
    last: bool,
    algorithm: u32,
    alpha: f32,
    beta: f32,
}

/// Everything that is made of it.
struct Made {
    program: Program,
    call: Call,
    handle: usize,
    /// Of x, w, y, the convolution.
    descs: [usize; 4],
    at: [u64; 3],
    workspace: (u64, usize),
}

const SMALL: Call = Call {
    direction: Forward,
    x: [2, 4, 5, 6],
    w: [6, 2, 3, 2],
    y: [2, 6, 3, 3],
    moves: [[1, 2], [2, 3], [1, 2]],
    groups: 2,
    mode: 1,
    math: 3,
    last: false,
    algorithm: 1,
    alpha: 1.0,
    beta: 0.0,
};

fn count(dims: [i32; 4]) -> usize {
    dims.iter().product::<i32>() as usize
}

fn steps([_, c, h, w]: [i32; 4], last: bool) -> [i32; 4] {
    if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
}

fn numbers(salt: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + i / 5 + salt) % 11) as f32 - 5.0).collect()
}

impl Call {
    fn make(self, profile: Profile) -> Made {
        let program = Program::new(profile);
        let (mut handle, mut descs) = (0, [0; 4]);
        let [p, s, d] = &self.moves;
        // SAFETY: every pointer is to variables of its type, as many as are said.
        unsafe {
            done(cudnnCreate(&raw mut handle));
            let [x, w, y, convolution] = &mut descs;
            for (desc, dims) in [(x, self.x), (y, self.y)] {
                done(cudnnCreateTensorDescriptor(desc));
                done(cudnnSetTensorNdDescriptor(*desc, 0, 4, dims.as_ptr(), steps(dims, self.last).as_ptr()));
            }
            done(cudnnCreateFilterDescriptor(w));
            done(cudnnSetFilterNdDescriptor(*w, 0, self.last.into(), 4, self.w.as_ptr()));
            done(cudnnCreateConvolutionDescriptor(convolution));
            let (p, s, d) = (p.as_ptr(), s.as_ptr(), d.as_ptr());
            done(cudnnSetConvolutionNdDescriptor(*convolution, 2, p, s, d, self.mode, 0));
            done(cudnnSetConvolutionGroupCount(*convolution, self.groups));
            done(cudnnSetConvolutionMathType(*convolution, self.math));
        }
        let at =
            [(self.x, 1), (self.w, 2), (self.y, 3)].map(|(dims, salt)| program.upload(&numbers(salt, count(dims))));
        let workspace = (program.alloc(1 << 20), 1 << 20);
        Made { program, call: self, handle, descs, at, workspace }
    }

    fn made(self) -> Made {
        self.make(Profile::default())
    }

    fn target(&self) -> [i32; 4] {
        match self.direction {
            Forward => self.y,
            Data => self.x,
            Filter => self.w,
        }
    }

    /// The result by the definition, one factor after the other.
    fn want(&self) -> Vec<f32> {
        let [x, w, y] = [(self.x, 1), (self.w, 2), (self.y, 3)].map(|(dims, salt)| numbers(salt, count(dims)));
        let at = |dims: [i32; 4], index: [i32; 4]| {
            steps(dims, self.last).iter().zip(index).map(|(step, i)| step * i).sum::<i32>() as usize
        };
        let mut sums = vec![0.0f32; count(self.target())];
        let [p, s, d] = self.moves;
        let (inner, outer) = (self.w[1], self.w[0] / self.groups);
        for n in 0..self.y[0] {
            for (o, oy) in (0..self.y[1]).flat_map(|o| (0..self.y[2]).map(move |oy| (o, oy))) {
                for (ox, c) in (0..self.y[3]).flat_map(|ox| (0..inner).map(move |c| (ox, c))) {
                    for (ky, kx) in (0..self.w[2]).flat_map(|ky| (0..self.w[3]).map(move |kx| (ky, kx))) {
                        let (iy, ix) = (oy * s[0] + ky * d[0] - p[0], ox * s[1] + kx * d[1] - p[1]);
                        if !(0..self.x[2]).contains(&iy) || !(0..self.x[3]).contains(&ix) {
                            continue;
                        }
                        let mirrored = [self.w[2] - 1 - ky, self.w[3] - 1 - kx];
                        let [ky, kx] = if self.mode == 0 { mirrored } else { [ky, kx] };
                        let to_x = at(self.x, [n, o / outer * inner + c, iy, ix]);
                        let (to_w, to_y) = (at(self.w, [o, c, ky, kx]), at(self.y, [n, o, oy, ox]));
                        match self.direction {
                            Forward => sums[to_y] += x[to_x] * w[to_w],
                            Data => sums[to_x] += y[to_y] * w[to_w],
                            Filter => sums[to_w] += x[to_x] * y[to_y],
                        }
                    }
                }
            }
        }
        let old = match self.direction {
            Forward => y,
            Data => x,
            Filter => w,
        };
        sums.iter().zip(old).map(|(sum, old)| self.alpha * sum + self.beta * old).collect()
    }
}

impl Made {
    fn run(&self) -> DnnStatus {
        let Call { direction, algorithm, alpha, beta, .. } = &self.call;
        let (alpha, beta) = (from_ref(alpha).cast::<c_void>(), from_ref(beta).cast::<c_void>());
        let ([dx, dw, dy, conv], [x, w, y], (aside, bytes)) = (self.descs, self.at, self.workspace);
        let (handle, algorithm) = (self.handle, *algorithm);
        // SAFETY: the factors are read by the call; addresses are the device's.
        unsafe {
            match direction {
                Forward => {
                    cudnnConvolutionForward(handle, alpha, dx, x, dw, w, conv, algorithm, aside, bytes, beta, dy, y)
                }
                Data => cudnnConvolutionBackwardData(
                    handle, alpha, dw, w, dy, y, conv, algorithm, aside, bytes, beta, dx, x,
                ),
                Filter => cudnnConvolutionBackwardFilter(
                    handle, alpha, dx, x, dy, y, conv, algorithm, aside, bytes, beta, dw, w,
                ),
            }
        }
    }

    /// A fused convolution with this bias and activation.
    fn fused(&self, bias: u64, mode: i32, nan: i32) -> DnnStatus {
        let ([dx, dw, dy, conv], [x, w, y], (aside, bytes)) = (self.descs, self.at, self.workspace);
        let (one, none) = (from_ref(&self.call.alpha).cast(), from_ref(&self.call.beta).cast());
        let channels = [1, self.call.y[1], 1, 1];
        let (mut bias_desc, mut activation) = (0, 0);
        // SAFETY: as above.
        unsafe {
            done(cudnnCreateTensorDescriptor(&raw mut bias_desc));
            done(cudnnSetTensorNdDescriptor(bias_desc, 0, 4, channels.as_ptr(), steps(channels, false).as_ptr()));
            done(cudnnCreateActivationDescriptor(&raw mut activation));
            done(cudnnSetActivationDescriptor(activation, mode, nan, 0.0));
            let algorithm = self.call.algorithm;
            let status = cudnnConvolutionBiasActivationForward(
                self.handle,
                one,
                dx,
                x,
                dw,
                w,
                conv,
                algorithm,
                aside,
                bytes,
                none,
                dy,
                y,
                bias_desc,
                bias,
                activation,
                dy,
                y,
            );
            // What is queued keeps what it needs of them.
            done(cudnnDestroyTensorDescriptor(bias_desc));
            done(cudnnDestroyActivationDescriptor(activation));
            status
        }
    }

    fn choices(&self) -> Vec<Choice> {
        let mut found = [Choice::default(); 10];
        let mut returned = 0;
        let ([x, w, y, conv], to, count) = (self.descs, found.as_mut_ptr(), &raw mut returned);
        // SAFETY: there is room for ten.
        done(unsafe {
            match self.call.direction {
                Forward => cudnnGetConvolutionForwardAlgorithm_v7(self.handle, x, w, conv, y, 10, count, to),
                Data => cudnnGetConvolutionBackwardDataAlgorithm_v7(self.handle, w, y, conv, x, 10, count, to),
                Filter => cudnnGetConvolutionBackwardFilterAlgorithm_v7(self.handle, x, y, conv, w, 10, count, to),
            }
        });
        found[..returned as usize].to_vec()
    }

    fn output(&self) -> Vec<f32> {
        let at = match self.call.direction {
            Forward => self.at[2],
            Data => self.at[0],
            Filter => self.at[1],
        };
        self.program.download(at, count(self.call.target()))
    }

    /// It is refused with this status, for a reason that has these words in it.
    fn refused(&self, status: DnnStatus, words: &str) {
        assert_eq!(self.run(), status);
        self.because(words);
    }

    fn because(&self, words: &str) {
        let refusals = self.program.session.refusals();
        assert!(refusals.iter().any(|text| text.contains(words)), "{words:?} is not in {refusals:?}");
    }
}

/// Results of algorithms that add in any order differ in the last bits.
fn close(got: &[f32], want: &[f32], call: &Call) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-4, "{call:?}: element {i} is {got}, not {want}");
    }
}

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
    let faults =
        Faults { no_convolutions: vec!["forward:1".into(), "fused".into(), "data".into()], ..Faults::default() };
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
