//! Convolutions of cuDNN as a program asks for them.
use std::ffi::c_void;
use std::ptr::from_ref;

use kiln_sim::api::dnn::*;
use kiln_sim::{Choice, DnnStatus, Profile};

use crate::common::Program;

pub fn done(status: DnnStatus) {
    assert_eq!(status, DnnStatus::SUCCESS);
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    Forward,
    Data,
    Filter,
}

pub use Direction::{Data, Filter, Forward};

/// A convolution as a program would ask for it. It may be changed before it is made.
#[derive(Clone, Debug)]
pub struct Call {
    pub direction: Direction,
    pub x: [i32; 4],
    pub w: [i32; 4],
    pub y: [i32; 4],
    /// Padding, stride, dilation.
    pub moves: [[i32; 2]; 3],
    pub groups: i32,
    pub mode: i32,
    pub math: i32,
    pub last: bool,
    pub algorithm: u32,
    pub alpha: f32,
    pub beta: f32,
}

/// Everything that is made of it.
pub struct Made {
    pub program: Program,
    pub call: Call,
    pub handle: usize,
    /// Of x, w, y, the convolution.
    pub descs: [usize; 4],
    pub at: [u64; 3],
    pub workspace: (u64, usize),
}

pub const SMALL: Call = Call {
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

pub fn count(dims: [i32; 4]) -> usize {
    dims.iter().product::<i32>() as usize
}

pub fn steps([_, c, h, w]: [i32; 4], last: bool) -> [i32; 4] {
    if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
}

pub fn numbers(salt: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + i / 5 + salt) % 11) as f32 - 5.0).collect()
}

impl Call {
    pub fn make(self, profile: Profile) -> Made {
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

    pub fn made(self) -> Made {
        self.make(Profile::default())
    }

    pub fn target(&self) -> [i32; 4] {
        match self.direction {
            Forward => self.y,
            Data => self.x,
            Filter => self.w,
        }
    }

    /// The result by the definition, one factor after the other.
    pub fn want(&self) -> Vec<f32> {
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
    pub fn run(&self) -> DnnStatus {
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
    pub fn fused(&self, bias: u64, mode: i32, nan: i32) -> DnnStatus {
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

    pub fn choices(&self) -> Vec<Choice> {
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

    pub fn output(&self) -> Vec<f32> {
        let at = match self.call.direction {
            Forward => self.at[2],
            Data => self.at[0],
            Filter => self.at[1],
        };
        self.program.download(at, count(self.call.target()))
    }

    /// It is refused with this status, for a reason that has these words in it.
    pub fn refused(&self, status: DnnStatus, words: &str) {
        assert_eq!(self.run(), status);
        self.because(words);
    }

    pub fn because(&self, words: &str) {
        let refusals = self.program.session.refusals();
        assert!(refusals.iter().any(|text| text.contains(words)), "{words:?} is not in {refusals:?}");
    }
}

/// Results of algorithms that add in any order differ in the last bits.
pub fn close(got: &[f32], want: &[f32], call: &Call) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-4, "{call:?}: element {i} is {got}, not {want}");
    }
}
