//! Convolutions by cuDNN: descriptors and the choice of an algorithm are made once for each problem and cached.

use std::{
    ffi::{c_int, c_void},
    ptr,
};

use cudarc::cudnn::sys::{
    cudnnActivationDescriptor_t, cudnnActivationMode_t as Activation, cudnnConvolutionDescriptor_t,
    cudnnConvolutionMode_t as Mode, cudnnDataType_t as Data, cudnnFilterDescriptor_t, cudnnHandle_t,
    cudnnNanPropagation_t as Nan, cudnnTensorDescriptor_t, cudnnTensorFormat_t,
};
use kiln_backend::{DType, Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::problem::{Direction, Format, Problem};
use crate::{
    error::CudaError,
    fallbacks,
    libs::{Candidate, Cudnn, Failure},
    memory::DeviceMemory,
    plan_limit::max_plans,
    stream::Stream,
};

/// The addresses of a call: the image that goes into the layer, its filter, the image that comes out, the bias. Which
/// of them is written depends on the direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
    pub(crate) bias: u64,
}

/// How many candidates are asked for; the library has no more in any direction.
const CANDIDATES: usize = 16;
/// `CUDNN_DEFAULT_MATH`: of `f32`, TensorFloat-32 where the device has it.
const DEFAULT_MATH: u32 = 0;
/// `CUDNN_TENSOR_OP_MATH`
const TENSOR_OP_MATH: u32 = 1;
/// `CUDNN_FMA_MATH`: no tensor cores, and so no rounding of factors.
const FMA_MATH: u32 = 3;

/// What is made once a problem.
struct Plan {
    x: cudnnTensorDescriptor_t,
    y: cudnnTensorDescriptor_t,
    w: cudnnFilterDescriptor_t,
    conv: cudnnConvolutionDescriptor_t,
    /// Of a fused problem only.
    bias: cudnnTensorDescriptor_t,
    activation: cudnnActivationDescriptor_t,
    /// The candidates that are left, best first.
    algorithms: Vec<Candidate>,
}

impl Plan {
    fn empty() -> Plan {
        Plan {
            x: ptr::null_mut(),
            y: ptr::null_mut(),
            w: ptr::null_mut(),
            conv: ptr::null_mut(),
            bias: ptr::null_mut(),
            activation: ptr::null_mut(),
            algorithms: Vec::new(),
        }
    }
}

/// A device's handle with its plans.
pub(crate) struct Dnn {
    library: &'static Cudnn,
    memory: &'static DeviceMemory,
    handle: cudnnHandle_t,
    /// Held during a call too: a handle serves one thread at a time, and a call sets the math type of its plan.
    plans: Mutex<FxHashMap<Problem, Plan>>,
}

// SAFETY: handle and descriptors may be used from any thread; the mutex sees to it that one at a time does.
unsafe impl Send for Dnn {}
// SAFETY: as above.
unsafe impl Sync for Dnn {}

/// The factors 1 and 0 in the type that the library reads them in.
struct Scalars {
    wide: [f64; 2],
    single: [f32; 2],
    is_wide: bool,
}

impl Scalars {
    fn new(dtype: DType) -> Scalars {
        Scalars { wide: [0.0, 1.0], single: [0.0, 1.0], is_wide: dtype == DType::F64 }
    }

    fn of(&self, one: bool) -> *const c_void {
        let i = usize::from(one);
        if self.is_wide { (&raw const self.wide[i]).cast() } else { (&raw const self.single[i]).cast() }
    }
}

impl Dnn {
    /// A handle whose work goes to `stream`, whose context must be the current one.
    pub(crate) fn new(library: &'static Cudnn, stream: &Stream, memory: &'static DeviceMemory) -> Result<Dnn> {
        let mut handle = ptr::null_mut();
        // SAFETY: writes the handle.
        let code = memory.with_room(|| unsafe { (library.create)(&raw mut handle) }, lacks_memory);
        let dnn = Dnn { library, memory, handle, plans: Mutex::default() };
        dnn.checked("cudnnCreate", "this device", code)?;
        // SAFETY: a stream of the current context, which lives as long as the process.
        let code = unsafe { (library.set_stream)(handle, stream.raw().cast()) };
        dnn.checked("cudnnSetStream", "this device", code)?;
        Ok(dnn)
    }

    fn checked(&self, call: &'static str, problem: &str, code: u32) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let error = self.library.error(self.memory.device_index(), call, problem, code);
        if Failure::of(code) == Failure::OutOfMemory {
            return Err(self.memory.out_of_memory(call, &error.to_string()));
        }
        Err(error.into())
    }

    fn check(&self, call: &'static str, problem: &Problem, code: u32) -> Result<()> {
        self.checked(call, &format!("{problem:?}"), code)
    }

    /// What to do about a fused convolution that fails: `Ok` if the steps one by one may do, which the report notes.
    fn unfused(&self, stream: &Stream, problem: &Problem, error: Error) -> Result<()> {
        if problem.direction != Direction::ForwardBiasRelu || is_final(&error) {
            return Err(error);
        }
        // Every call fails once work that was queued earlier has.
        stream.check_health()?;
        let device = self.memory.device_index();
        fallbacks::note(format!("cuda:{device}: a convolution, its bias and its ReLU by separate calls: {error}"));
        Ok(())
    }

    /// Queues a convolution, or says that the library has none that is fused with bias and ReLU. With `add`, the result
    /// is added to what is there. `aside` provides memory that may be used again as soon as the call has been queued.
    ///
    /// # Safety
    /// The addresses are those of tensors as `problem` describes them, in memory that work queued before has made, and
    /// `aside` returns addresses of as many bytes as it is asked for.
    pub(crate) unsafe fn run<W>(
        &self,
        stream: &Stream,
        problem: &Problem,
        at: Addresses,
        add: bool,
        mut aside: impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<bool> {
        stream.context.bind()?;
        let mut plans = self.plans.lock();
        if !plans.contains_key(problem) {
            if plans.len() >= max_plans() {
                plans.drain().for_each(|(_, plan)| self.forget(plan));
            }
            let mut plan = match self.plan(problem) {
                Ok(plan) => plan,
                Err(error) => {
                    self.unfused(stream, problem, error)?;
                    Plan::empty()
                }
            };
            // The search writes results: not over one that is added to.
            if problem.benchmark && !add && !plan.algorithms.is_empty() {
                // SAFETY: by this function's contract.
                match unsafe { self.search(problem, &plan, at, &mut aside) } {
                    // One that finds nothing leaves what the heuristic has listed.
                    Ok(found) if found.is_empty() => {}
                    Ok(found) => plan.algorithms = found,
                    Err(error) => {
                        if let Err(error) = if is_final(&error) { Err(error) } else { stream.check_health() } {
                            self.forget(plan);
                            return Err(error);
                        }
                    }
                }
            }
            plans.insert(*problem, plan);
        }
        let Some(plan) = plans.get_mut(problem) else { return Ok(false) };
        let mut i = 0;
        while let Some(candidate) = plan.algorithms.get(i).copied() {
            let memory = if candidate.memory == 0 { Ok(None) } else { aside(candidate.memory).map(Some) };
            let memory = match memory {
                Ok(memory) => memory,
                // Another may do with less; the next call may find more.
                Err(error) => match plan.algorithms[i..].iter().position(|other| other.memory < candidate.memory) {
                    Some(next) => {
                        i += next;
                        continue;
                    }
                    None => {
                        self.unfused(stream, problem, error)?;
                        return Ok(false);
                    }
                },
            };
            let workspace = (memory.as_ref().map_or(0, |(address, _)| *address), candidate.memory);
            // SAFETY: by this function's contract.
            let call = || unsafe { self.call(problem, plan, candidate, at, add, workspace) };
            let code = self.memory.with_room(call, |code| code.as_ref().is_ok_and(lacks_memory))?;
            if Failure::of(code) == Failure::Unsupported {
                plan.algorithms.remove(i);
                continue;
            }
            if let Err(error) = self.check(function(problem.direction), problem, code) {
                self.unfused(stream, problem, error)?;
                // Memory may be found the next time; anything else is remembered.
                if Failure::of(code) != Failure::OutOfMemory {
                    plan.algorithms.clear();
                }
                return Ok(false);
            }
            stream.queued(function(problem.direction))?;
            return Ok(true);
        }
        let reason = format!("cuDNN has no algorithm for {problem:?}");
        let device = format!("cuda:{}", self.memory.device_index());
        self.unfused(stream, problem, Error::unsupported(function(problem.direction), device, reason))?;
        Ok(false)
    }

    /// # Safety
    /// As for [`run`](Dnn::run); the workspace is an address of as many bytes.
    unsafe fn call(
        &self,
        problem: &Problem,
        plan: &Plan,
        candidate: Candidate,
        at: Addresses,
        add: bool,
        (workspace, bytes): (u64, usize),
    ) -> Result<u32> {
        let library = self.library;
        let math = if is_exact(problem) { FMA_MATH } else { candidate.math };
        // SAFETY: a descriptor of this plan.
        let code = unsafe { (library.conv_set_math)(plan.conv, math) };
        self.check("cudnnSetConvolutionMathType", problem, code)?;
        let scalars = Scalars::new(problem.dtype);
        let (one, beta) = (scalars.of(true), scalars.of(add));
        let (handle, conv, algorithm) = (self.handle, plan.conv, candidate.algorithm);
        let (x, w, y) = (at.x as *mut c_void, at.w as *mut c_void, at.y as *mut c_void);
        let aside = workspace as *mut c_void;
        // SAFETY: descriptors and algorithm were made for this problem, the caller vouches for the addresses, and the
        // factors are read by the call.
        Ok(unsafe {
            match problem.direction {
                Direction::Forward => {
                    (library.forward)(handle, one, plan.x, x, plan.w, w, conv, algorithm, aside, bytes, beta, plan.y, y)
                }
                // The library wants a second image to add, and takes the output, times 0.
                Direction::ForwardBiasRelu => (library.forward_fused)(
                    handle,
                    one,
                    plan.x,
                    x,
                    plan.w,
                    w,
                    conv,
                    algorithm,
                    aside,
                    bytes,
                    scalars.of(false),
                    plan.y,
                    y,
                    plan.bias,
                    at.bias as *const c_void,
                    plan.activation,
                    plan.y,
                    y,
                ),
                Direction::GradInput => (library.backward_input)(
                    handle, one, plan.w, w, plan.y, y, conv, algorithm, aside, bytes, beta, plan.x, x,
                ),
                Direction::GradWeight => (library.backward_weight)(
                    handle, one, plan.x, x, plan.y, y, conv, algorithm, aside, bytes, beta, plan.w, w,
                ),
            }
        })
    }

    fn plan(&self, problem: &Problem) -> Result<Plan> {
        let mut plan = Plan::empty();
        match self.fill_plan(problem, &mut plan) {
            Ok(()) => Ok(plan),
            Err(error) => {
                self.forget(plan);
                Err(error)
            }
        }
    }

    fn fill_plan(&self, problem: &Problem, plan: &mut Plan) -> Result<()> {
        let (library, data) = (self.library, data(problem.dtype));
        let fused = problem.direction == Direction::ForwardBiasRelu;
        self.tensor(problem, problem.x, &mut plan.x)?;
        self.tensor(problem, problem.y, &mut plan.y)?;
        let dims = self.numbers(problem, problem.w)?;
        let format = match problem.format {
            Format::ChannelsFirst => cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
            Format::ChannelsLast => cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
        };
        // SAFETY: writes the handle, then reads four extents.
        unsafe {
            self.check("cudnnCreateFilterDescriptor", problem, (library.filter_create)(&raw mut plan.w))?;
            let code = (library.filter_set)(plan.w, data, format, 4, dims.as_ptr());
            self.check("cudnnSetFilterNdDescriptor", problem, code)?;
        }
        let rule = &problem.rule;
        let [padding, stride, dilation] = [
            self.numbers(problem, rule.padding)?,
            self.numbers(problem, rule.stride)?,
            self.numbers(problem, rule.dilation)?,
        ];
        let [groups] = self.numbers(problem, [rule.groups])?;
        // The type of sums: at least `f32`.
        let compute = if problem.dtype == DType::F64 { Data::CUDNN_DATA_DOUBLE } else { Data::CUDNN_DATA_FLOAT };
        // SAFETY: writes the handle, then reads two numbers of each array.
        unsafe {
            self.check("cudnnCreateConvolutionDescriptor", problem, (library.conv_create)(&raw mut plan.conv))?;
            let (p, s, d) = (padding.as_ptr(), stride.as_ptr(), dilation.as_ptr());
            let code = (library.conv_set)(plan.conv, 2, p, s, d, Mode::CUDNN_CROSS_CORRELATION, compute);
            self.check("cudnnSetConvolutionNdDescriptor", problem, code)?;
            let code = (library.conv_set_groups)(plan.conv, groups);
            self.check("cudnnSetConvolutionGroupCount", problem, code)?;
            let code = (library.conv_set_math)(plan.conv, math(problem));
            self.check("cudnnSetConvolutionMathType", problem, code)?;
        }
        if fused {
            self.tensor(problem, [1, problem.y[1], 1, 1], &mut plan.bias)?;
            // SAFETY: writes the handle. The library takes no other propagation of NaN here.
            unsafe {
                let code = (library.activation_create)(&raw mut plan.activation);
                self.check("cudnnCreateActivationDescriptor", problem, code)?;
                let (relu, nan) = (Activation::CUDNN_ACTIVATION_RELU, Nan::CUDNN_NOT_PROPAGATE_NAN);
                let code = (library.activation_set)(plan.activation, relu, nan, 0.0);
                self.check("cudnnSetActivationDescriptor", problem, code)?;
            }
        }
        plan.algorithms = self.candidates(problem, plan)?;
        Ok(())
    }

    /// A descriptor of a dense tensor in the problem's order.
    fn tensor(&self, problem: &Problem, dims: [usize; 4], desc: &mut cudnnTensorDescriptor_t) -> Result<()> {
        let strides = self.numbers(problem, problem.format.strides(dims))?;
        let (dims, library) = (self.numbers(problem, dims)?, self.library);
        // SAFETY: writes the handle, then reads four extents and four steps.
        unsafe {
            self.check("cudnnCreateTensorDescriptor", problem, (library.tensor_create)(desc))?;
            let code = (library.tensor_set)(*desc, data(problem.dtype), 4, dims.as_ptr(), strides.as_ptr());
            self.check("cudnnSetTensorNdDescriptor", problem, code)
        }
    }

    /// Numbers of a problem as the library takes them.
    fn numbers<const N: usize>(&self, problem: &Problem, values: [usize; N]) -> Result<[c_int; N]> {
        let mut numbers = [0; N];
        for (number, value) in numbers.iter_mut().zip(values) {
            *number = c_int::try_from(value).map_err(|_| {
                let reason = format!("cuDNN counts in 32 bits, which do not hold {value}");
                Error::unsupported(function(problem.direction), format!("cuda:{}", self.memory.device_index()), reason)
            })?;
        }
        Ok(numbers)
    }

    /// The heuristic's candidates, best first; none is no error.
    fn candidates(&self, problem: &Problem, plan: &Plan) -> Result<Vec<Candidate>> {
        let (library, handle, conv) = (self.library, self.handle, plan.conv);
        let (mut list, mut returned) = ([Candidate::default(); CANDIDATES], 0);
        let (most, count, to) = (CANDIDATES as c_int, &raw mut returned, list.as_mut_ptr());
        // SAFETY: descriptors of this plan; there is room for as many candidates as are asked for.
        let ask = || unsafe {
            match problem.direction {
                Direction::Forward | Direction::ForwardBiasRelu => {
                    (library.forward_candidates)(handle, plan.x, plan.w, conv, plan.y, most, count, to)
                }
                Direction::GradInput => {
                    (library.input_candidates)(handle, plan.w, plan.y, conv, plan.x, most, count, to)
                }
                Direction::GradWeight => {
                    (library.weight_candidates)(handle, plan.x, plan.y, conv, plan.w, most, count, to)
                }
            }
        };
        let code = self.memory.with_room(ask, lacks_memory);
        self.usable(problem, "cudnnGetConvolutionAlgorithm", code, &list, returned)
    }

    /// The candidates by the time that they take.
    ///
    /// # Safety
    /// As for [`run`](Dnn::run).
    unsafe fn search<W>(
        &self,
        problem: &Problem,
        plan: &Plan,
        at: Addresses,
        aside: &mut impl FnMut(usize) -> Result<(u64, W)>,
    ) -> Result<Vec<Candidate>> {
        let mut sizes: Vec<usize> = plan.algorithms.iter().map(|candidate| candidate.memory).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        // As much as there is memory for: those that need more are left out.
        let memory = sizes.into_iter().filter(|&bytes| bytes > 0).find_map(|bytes| Some((aside(bytes).ok()?, bytes)));
        let (workspace, bytes) = memory.as_ref().map_or((0, 0), |((address, _), bytes)| (*address, *bytes));
        let (library, handle, conv) = (self.library, self.handle, plan.conv);
        let (mut list, mut returned) = ([Candidate::default(); CANDIDATES], 0);
        let (most, count, to) = (CANDIDATES as c_int, &raw mut returned, list.as_mut_ptr());
        let (x, w, y) = (at.x as *mut c_void, at.w as *mut c_void, at.y as *mut c_void);
        let aside = workspace as *mut c_void;
        // SAFETY: descriptors of this plan, addresses by this function's contract, and room for the candidates.
        let code = unsafe {
            match problem.direction {
                Direction::Forward | Direction::ForwardBiasRelu => (library.forward_search)(
                    handle, plan.x, x, plan.w, w, conv, plan.y, y, most, count, to, aside, bytes,
                ),
                Direction::GradInput => {
                    (library.input_search)(handle, plan.w, w, plan.y, y, conv, plan.x, x, most, count, to, aside, bytes)
                }
                Direction::GradWeight => (library.weight_search)(
                    handle, plan.x, x, plan.y, y, conv, plan.w, w, most, count, to, aside, bytes,
                ),
            }
        };
        self.usable(problem, "cudnnFindConvolutionAlgorithmEx", code, &list, returned)
    }

    /// Those that can be used of what the library has listed.
    fn usable(
        &self,
        problem: &Problem,
        call: &'static str,
        code: u32,
        list: &[Candidate],
        returned: c_int,
    ) -> Result<Vec<Candidate>> {
        if Failure::of(code) == Failure::Unsupported {
            return Ok(Vec::new());
        }
        self.check(call, problem, code)?;
        let returned = usize::try_from(returned).unwrap_or(0).min(list.len());
        let fits = |candidate: &&Candidate| {
            candidate.status == 0
                && (candidate.deterministic == 1 || !problem.deterministic)
                && (matches!(candidate.math, DEFAULT_MATH | FMA_MATH) || !is_exact(problem))
        };
        let usable: Vec<Candidate> = list[..returned].iter().filter(fits).copied().collect();
        // Candidates that the environment keeps from working are none that the library does not have.
        let environment = |candidate: &&Candidate| Failure::of(candidate.status) == Failure::Environment;
        match list[..returned].iter().find(environment) {
            Some(candidate) if usable.is_empty() => self.check(call, problem, candidate.status).map(|()| usable),
            _ => Ok(usable),
        }
    }

    fn forget(&self, plan: Plan) {
        let library = self.library;
        // SAFETY: each was made by the matching call and is not used after this; queued work does not refer to them.
        unsafe {
            for tensor in [plan.x, plan.y, plan.bias].into_iter().filter(|desc| !desc.is_null()) {
                (library.tensor_destroy)(tensor);
            }
            if !plan.w.is_null() {
                (library.filter_destroy)(plan.w);
            }
            if !plan.conv.is_null() {
                (library.conv_destroy)(plan.conv);
            }
            if !plan.activation.is_null() {
                (library.activation_destroy)(plan.activation);
            }
        }
    }
}

/// Whether factors may not be rounded to TensorFloat-32.
fn is_exact(problem: &Problem) -> bool {
    problem.dtype == DType::F32 && !problem.tf32
}

/// The math type that candidates are asked for.
fn math(problem: &Problem) -> u32 {
    match problem.dtype {
        DType::F16 | DType::BF16 => TENSOR_OP_MATH,
        _ if is_exact(problem) => FMA_MATH,
        _ => DEFAULT_MATH,
    }
}

fn data(dtype: DType) -> Data {
    match dtype {
        DType::F64 => Data::CUDNN_DATA_DOUBLE,
        DType::F16 => Data::CUDNN_DATA_HALF,
        DType::BF16 => Data::CUDNN_DATA_BFLOAT16,
        _ => Data::CUDNN_DATA_FLOAT,
    }
}

/// The library's function, for errors.
fn function(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "cudnnConvolutionForward",
        Direction::ForwardBiasRelu => "cudnnConvolutionBiasActivationForward",
        Direction::GradInput => "cudnnConvolutionBackwardData",
        Direction::GradWeight => "cudnnConvolutionBackwardFilter",
    }
}

fn lacks_memory(code: &u32) -> bool {
    Failure::of(*code) == Failure::OutOfMemory
}

/// Whether nothing else will do after an error: the environment is to blame, or the context is lost.
fn is_final(error: &Error) -> bool {
    let is_final = |error: &CudaError| matches!(error, CudaError::Environment { .. } | CudaError::Asynchronous { .. });
    matches!(error.kind(), ErrorKind::Other(source) if source.downcast_ref().is_some_and(is_final))
}
