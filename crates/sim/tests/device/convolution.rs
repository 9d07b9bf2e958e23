//! Convolutions with cuDNN's graph API, as programs use it.
use std::ffi::c_void;

use kiln_sim::api::dnn::*;
use kiln_sim::types::*;
use kiln_sim::{DnnStatus, Profile};

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
    pub x: [i64; 4],
    pub w: [i64; 4],
    pub y: [i64; 4],
    /// Padding, stride, dilation.
    pub moves: [[i64; 2]; 3],
    pub mode: i32,
    pub last: bool,
    pub engine: i64,
    pub alpha: f32,
    pub beta: f32,
    /// The operations after it, by their modes: 0 adds the bias (the first of two another tensor), 200 is ReLU's gradient,
    /// [`SUMS`] the sums of each channel.
    pub fused: &'static [i32],
    /// Of the addresses.
    pub alignment: i64,
}

/// Everything that is made of it.
pub struct Made {
    pub program: Program,
    pub call: Call,
    pub handle: usize,
    /// The operation graph, an engine configuration of it, the plan.
    pub graph: usize,
    pub config: usize,
    pub plan: usize,
    /// Numbers of x, w, y, the bias or the sums, and the other tensor, and their addresses.
    pub uids: [i64; 5],
    pub at: [u64; 5],
    pub workspace: u64,
}

pub const SUMS: i32 = -1;

pub const SMALL: Call = Call {
    direction: Forward,
    x: [2, 4, 5, 6],
    w: [6, 2, 3, 2],
    y: [2, 6, 3, 3],
    moves: [[1, 2], [2, 3], [1, 2]],
    mode: 1,
    last: false,
    engine: 1,
    alpha: 1.0,
    beta: 0.0,
    fused: &[],
    alignment: 4,
};

pub fn count(dims: [i64; 4]) -> usize {
    dims.iter().product::<i64>() as usize
}

pub fn steps([_, c, h, w]: [i64; 4], last: bool) -> [i64; 4] {
    if last { [h * w * c, 1, w * c, c] } else { [c * h * w, h * w, w, 1] }
}

pub fn numbers(salt: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7 + i / 5 + salt) % 11) as f32 - 5.0).collect()
}

pub fn create(kind: u32) -> usize {
    let mut desc = 0;
    // SAFETY: it writes the handle.
    done(unsafe { cudnnBackendCreateDescriptor(kind, &raw mut desc) });
    desc
}

pub fn set<T>(desc: usize, attribute: u32, kind: u32, values: &[T]) -> DnnStatus {
    // SAFETY: there are as many values as are said.
    unsafe { cudnnBackendSetAttribute(desc, attribute, kind, values.len() as i64, values.as_ptr().cast()) }
}

pub fn finalize(desc: usize) -> DnnStatus {
    // SAFETY: it takes a number.
    unsafe { cudnnBackendFinalize(desc) }
}

/// The values of an attribute, of which there are at most 64.
pub fn get<T: Copy + Default>(desc: usize, attribute: u32, kind: u32, room: usize) -> Vec<T> {
    let (mut values, mut returned) = (vec![T::default(); room], 0);
    let to: *mut c_void = values.as_mut_ptr().cast();
    // SAFETY: there is room for as many as are said.
    done(unsafe { cudnnBackendGetAttribute(desc, attribute, kind, room as i64, &raw mut returned, to) });
    values.truncate(returned as usize);
    values
}

/// A descriptor with its attributes, not finalized.
pub fn tensor(uid: i64, dims: [i64; 4], strides: [i64; 4], data: i32, alignment: i64) -> usize {
    let desc = create(17);
    for status in [
        set(desc, 906, INT64, &[uid]),
        set(desc, 901, DATA_TYPE, &[data]),
        set(desc, 902, INT64, &dims),
        set(desc, 903, INT64, &strides),
        set(desc, 900, INT64, &[alignment]),
    ] {
        done(status);
    }
    desc
}

pub fn done_with(desc: usize) -> usize {
    done(finalize(desc));
    desc
}

impl Call {
    fn moves(&self) -> usize {
        let [p, s, d] = &self.moves;
        let desc = create(1);
        done(set(desc, 100, DATA_TYPE, &[0i32]));
        done(set(desc, 101, CONVOLUTION_MODE, &[self.mode]));
        done(set(desc, 106, INT64, &[2i64]));
        for (attribute, pair) in [(102, d), (103, s), (104, p), (105, p)] {
            done(set(desc, attribute, INT64, pair));
        }
        done_with(desc)
    }

    /// The operation of tensors, not finalized.
    pub fn operation(&self, [x, w, y]: [usize; 3]) -> usize {
        let (kind, [to_x, to_w, to_y, moves, alpha, beta]) = match self.direction {
            Forward => (10, [704, 703, 705, 702, 700, 701]),
            Data => (12, [710, 709, 711, 708, 706, 707]),
            Filter => (11, [716, 715, 717, 714, 712, 713]),
        };
        let desc = create(kind);
        for (attribute, part) in [(to_x, x), (to_w, w), (to_y, y), (moves, self.moves())] {
            done(set(desc, attribute, DESCRIPTOR, &[part]));
        }
        done(set(desc, alpha, FLOAT, &[self.alpha]));
        done(set(desc, beta, FLOAT, &[self.beta]));
        desc
    }

    /// What comes between two operations.
    fn between(&self, uid: i64) -> usize {
        let desc = tensor(uid, self.target(), steps(self.target(), self.last), 0, 16);
        done(set(desc, 907, BOOLEAN, &[true]));
        done_with(desc)
    }

    /// An operation of tensors by the attributes that they are, with its rule's attributes.
    fn fused(kinds: [u32; 2], rule: [(u32, u32, i32); 2], tensors: &[(u32, usize)]) -> usize {
        let of = create(kinds[0]);
        rule.iter().for_each(|(attribute, kind, value)| done(set(of, *attribute, *kind, &[*value])));
        let (desc, to) = (create(kinds[1]), if kinds[0] == 0 { 750 } else { 1612 });
        done(set(desc, to, DESCRIPTOR, &[done_with(of)]));
        tensors.iter().for_each(|(attribute, tensor)| done(set(desc, *attribute, DESCRIPTOR, &[*tensor])));
        done_with(desc)
    }

    /// The operation graph for a handle.
    fn graph(&self, handle: usize) -> usize {
        let of = |uid, dims| done_with(tensor(uid, dims, steps(dims, self.last), 0, self.alignment));
        let mut ends = [of(1, self.x), of(2, self.w), of(3, self.y)];
        let result = [2, 0, 1][self.direction as usize];
        let (target, channels, like) = (ends[result], of(4, [1, self.target()[1], 1, 1]), of(5, self.target()));
        let steps = self.fused.iter().filter(|&&mode| mode != SUMS).count();
        let value = |i: usize| if i == steps { target } else { self.between(10 + i as i64) };
        ends[result] = value(0);
        let mut operations = vec![done_with(self.operation(ends))];
        let mut from = ends[result];
        for (i, &mode) in self.fused.iter().enumerate() {
            if mode == SUMS {
                let rule = [(1600, REDUCTION_OPERATOR_TYPE, 0), (1601, DATA_TYPE, 0)];
                operations.push(Call::fused([21, 22], rule, &[(1610, from), (1611, channels)]));
                continue;
            }
            let to = value(i + 1);
            let other = if mode == 0 && self.fused.get(i + 1) == Some(&0) { like } else { channels };
            let tensors = match mode {
                0 => vec![(751, from), (752, other), (753, to)],
                200 => vec![(751, like), (757, from), (756, to)],
                _ => vec![(751, from), (753, to)],
            };
            operations.push(Call::fused([0, 13], [(0, POINTWISE_MODE, mode), (1, DATA_TYPE, 0)], &tensors));
            from = to;
        }
        let graph = create(15);
        done(set(graph, 801, DESCRIPTOR, &operations));
        done(set(graph, 800, HANDLE, &[handle]));
        done_with(graph)
    }

    /// Everything but the plan, and what became of the engine's configuration.
    pub fn begin(self, profile: Profile) -> (Made, DnnStatus) {
        let program = Program::new(profile);
        let mut handle = 0;
        // SAFETY: it writes the handle.
        done(unsafe { cudnnCreate(&raw mut handle) });
        let graph = self.graph(handle);
        let engine = create(2);
        done(set(engine, 1300, DESCRIPTOR, &[graph]));
        done(set(engine, 1301, INT64, &[self.engine]));
        let config = create(3);
        done(set(config, 300, DESCRIPTOR, &[done_with(engine)]));
        let status = finalize(config);
        let target = self.target();
        let sizes = [(self.x, 1), (self.w, 2), (self.y, 3), ([1, target[1], 1, 1], 4), (target, 5)];
        let at = sizes.map(|(dims, salt)| program.upload(&numbers(salt, count(dims))));
        let workspace = program.alloc(1 << 20);
        let made = Made { program, call: self, handle, graph, config, plan: 0, uids: [1, 2, 3, 4, 5], at, workspace };
        (made, status)
    }

    pub fn make(self, profile: Profile) -> Made {
        let (mut made, status) = self.begin(profile);
        done(status);
        made.plan = create(5);
        done(set(made.plan, 401, DESCRIPTOR, &[made.config]));
        done(set(made.plan, 400, HANDLE, &[made.handle]));
        done(finalize(made.plan));
        made
    }

    pub fn made(self) -> Made {
        self.make(Profile::default())
    }

    pub fn target(&self) -> [i64; 4] {
        match self.direction {
            Forward => self.y,
            Data => self.x,
            Filter => self.w,
        }
    }

    /// The result by the definition, one factor after the other.
    pub fn want(&self) -> Vec<f32> {
        let [x, w, y] = [(self.x, 1), (self.w, 2), (self.y, 3)].map(|(dims, salt)| numbers(salt, count(dims)));
        let at = |dims: [i64; 4], index: [i64; 4]| {
            steps(dims, self.last).iter().zip(index).map(|(step, i)| step * i).sum::<i64>() as usize
        };
        let mut sums = vec![0.0f32; count(self.target())];
        let [p, s, d] = self.moves;
        let (inner, outer) = (self.w[1], self.w[0] / (self.x[1] / self.w[1]));
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
    /// Executes the plan with a pack of its own.
    pub fn run(&self) -> DnnStatus {
        self.run_by(self.handle)
    }

    pub fn run_by(&self, handle: usize) -> DnnStatus {
        let pack = create(16);
        let fused = self.call.fused;
        let adds = fused.iter().filter(|&&mode| mode == 0).count();
        let (channels, like) = (adds > 0 || fused.contains(&SUMS), adds > 1 || fused.contains(&200));
        let bound: Vec<usize> = (0..5).filter(|&i| i < 3 || i == 3 && channels || i == 4 && like).collect();
        done(set(pack, 1000, INT64, &bound.iter().map(|&i| self.uids[i]).collect::<Vec<_>>()));
        done(set(pack, 1001, POINTER, &bound.iter().map(|&i| self.at[i]).collect::<Vec<_>>()));
        done(set(pack, 1003, POINTER, &[self.workspace]));
        // SAFETY: they take numbers. What is queued keeps what it needs of the pack.
        unsafe {
            let status = cudnnBackendExecute(handle, self.plan, done_with(pack));
            done(cudnnBackendDestroyDescriptor(pack));
            status
        }
    }

    /// What the engine needs.
    pub fn needed(&self) -> usize {
        get::<i64>(self.plan, 402, INT64, 1)[0] as usize
    }

    pub fn proposed(&self, mode: i32) -> Vec<(i64, Vec<i32>, Vec<i32>)> {
        proposed(self.graph, mode)
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

/// The engines that a heuristic proposes: their numbers, numerical notes and behavior notes.
pub fn proposed(graph: usize, mode: i32) -> Vec<(i64, Vec<i32>, Vec<i32>)> {
    let heuristic = create(4);
    done(set(heuristic, 201, DESCRIPTOR, &[graph]));
    done(set(heuristic, 200, HEURISTIC_MODE, &[mode]));
    done(finalize(heuristic));
    let mut configs: Vec<usize> = (0..32).map(|_| create(3)).collect();
    let mut returned = 0;
    let to: *mut c_void = configs.as_mut_ptr().cast();
    // SAFETY: there is room for as many as are said.
    done(unsafe { cudnnBackendGetAttribute(heuristic, 202, DESCRIPTOR, 32, &raw mut returned, to) });
    let engine = |config: &usize| {
        let engine = create(2);
        let mut to = [engine];
        let to: *mut c_void = to.as_mut_ptr().cast();
        // SAFETY: as above, for one.
        done(unsafe { cudnnBackendGetAttribute(*config, 300, DESCRIPTOR, 1, std::ptr::null_mut(), to) });
        let index = get::<i64>(engine, 1301, INT64, 1)[0];
        (index, get(engine, 1303, NUMERICAL_NOTE, 16), get(engine, 1305, BEHAVIOR_NOTE, 16))
    };
    configs[..returned as usize].iter().map(engine).collect()
}

/// Results of engines that add in any order differ in the last bits.
pub fn close(got: &[f32], want: &[f32], call: &Call) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 1e-4, "{call:?}: element {i} is {got}, not {want}");
    }
}
