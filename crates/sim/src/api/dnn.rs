//! The functions of cuDNN, under their own names and with the library's own rules.
use std::ffi::{c_char, c_int, c_void};

use crate::blas::problem::Data;
use crate::dnn::descriptor::{self, Activation, Convolution, Descriptor, Filter, Moves, Sort, Tensor};
use crate::dnn::heuristic::{self, Choice};
use crate::dnn::problem::{self, Direction, Problem};
use crate::dnn::work::{self, Fused};
use crate::dnn::{DnnStatus, Refusal, bad, unsupported};
use crate::report::Kind;
use crate::work::Work;
use crate::world::{self, CURRENT, World};

use super::stream::known;

/// The version that is simulated, as `cudnnGetVersion` tells it: 9.0, the oldest that the framework takes.
const VERSION: usize = 90_000;

fn call(name: &'static str, body: impl FnOnce(&mut World) -> Result<(), Refusal>) -> DnnStatus {
    world::with(|world| {
        world.collect_hits();
        world.report.called(name);
        match body(world) {
            Ok(()) => DnnStatus::SUCCESS,
            Err(Refusal(status, why)) => {
                // The library says no more than the status.
                world.report.refusals.insert(format!("{name} returned {status:?}: {why}"));
                status
            }
        }
    })
}

/// # Safety
/// `out` is null or may be written.
unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    unsafe { super::put(out, value) }.map_err(|_| bad("a null pointer for an answer"))
}

/// Descriptors of a convolution, with the images in the order of input and output.
#[derive(Clone, Copy)]
struct Described {
    x: usize,
    w: usize,
    y: usize,
    convolution: usize,
}

/// Addresses in the same order.
#[derive(Clone, Copy)]
struct At {
    x: u64,
    w: u64,
    y: u64,
    workspace: (u64, usize),
}

/// What goes with a fused convolution: the descriptors of `z`, bias and activation, and what they describe.
#[derive(Clone, Copy)]
struct Behind {
    z_desc: usize,
    bias_desc: usize,
    activation: usize,
    z: u64,
    bias: u64,
}

/// What a search or a heuristic answers with.
#[derive(Clone, Copy)]
struct Answer {
    requested: c_int,
    returned: *mut c_int,
    choices: *mut Choice,
}

impl Answer {
    fn check(&self) -> Result<(), Refusal> {
        if self.returned.is_null() || self.choices.is_null() || self.requested < 1 {
            return Err(bad("no room for an answer"));
        }
        Ok(())
    }

    /// # Safety
    /// There is room for as many as are requested.
    unsafe fn write(&self, all: &[Choice]) {
        for (i, choice) in all.iter().take(self.requested as usize).enumerate() {
            // SAFETY: the caller's promise; null was looked for.
            unsafe {
                self.choices.add(i).write(*choice);
                self.returned.write(i as c_int + 1);
            }
        }
    }
}

impl World {
    /// A descriptor of this sort. A null one is refused; one that was destroyed is a mistake that the library does
    /// not notice.
    fn descriptor(&mut self, name: &str, sort: Sort, handle: usize) -> Result<&mut Descriptor, Refusal> {
        let fits = self.dnn.descriptors.get(&handle).is_some_and(|one| one.sort() == sort);
        if !fits && handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no {} (any more)", sort.name());
            self.report.find(Kind::Descriptor, text);
        }
        self.dnn.descriptors.get_mut(&handle).filter(|_| fits).ok_or(bad("a descriptor is none of its sort"))
    }

    fn tensor(&mut self, name: &str, handle: usize) -> Result<Tensor, Refusal> {
        match self.descriptor(name, Sort::Tensor, handle)? {
            Descriptor::Tensor(Some(tensor)) => Ok(tensor.clone()),
            _ => Err(bad("the tensor is not set")),
        }
    }

    fn filter(&mut self, name: &str, handle: usize) -> Result<Filter, Refusal> {
        match self.descriptor(name, Sort::Filter, handle)? {
            Descriptor::Filter(Some(filter)) => Ok(filter.clone()),
            _ => Err(bad("the filter is not set")),
        }
    }

    fn convolution(&mut self, name: &str, handle: usize) -> Result<&mut Convolution, Refusal> {
        match self.descriptor(name, Sort::Convolution, handle)? {
            Descriptor::Convolution(convolution) => Ok(convolution),
            _ => Err(bad("a descriptor is none of its sort")),
        }
    }

    fn activation(&mut self, name: &str, handle: usize) -> Result<Activation, Refusal> {
        match self.descriptor(name, Sort::Activation, handle)? {
            Descriptor::Activation(Some(activation)) => Ok(*activation),
            _ => Err(bad("the activation is not set")),
        }
    }

    fn create_descriptor(&mut self, out: *mut usize, sort: Sort) -> Result<(), Refusal> {
        let handle = self.handle();
        // SAFETY: the library asks of its caller that this is null or can be written.
        unsafe { put(out, handle) }?;
        self.dnn.descriptors.insert(handle, Descriptor::new(sort));
        Ok(())
    }

    fn destroy_descriptor(&mut self, name: &str, sort: Sort, handle: usize) -> Result<(), Refusal> {
        // The library takes a null descriptor for one that is destroyed.
        if handle != 0 {
            self.descriptor(name, sort, handle)?;
            self.dnn.descriptors.remove(&handle);
        }
        Ok(())
    }

    /// Numbers that a program hands over. The library reads them without looking for null.
    ///
    /// # Safety
    /// `from` is null or has so many.
    unsafe fn numbers(&mut self, name: &str, from: *const c_int, count: usize) -> Result<Vec<i32>, Refusal> {
        if from.is_null() && count > 0 {
            let text = format!("`{name}` is given an array at a null pointer, which the library reads");
            self.report.find(Kind::IllegalAddress, text);
            return Err(bad("an array at a null pointer"));
        }
        // SAFETY: the caller's promise.
        Ok((0..count).map(|i| unsafe { from.add(i).read() }).collect())
    }

    /// The stream of a handle.
    fn dnn_stream(&mut self, name: &str, handle: usize) -> Result<usize, Refusal> {
        if let Some(&stream) = self.dnn.handles.get(&handle) {
            return Ok(stream);
        }
        if handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no handle of cuDNN (any more)");
            self.report.find(Kind::Descriptor, text);
        }
        Err(bad("no handle"))
    }

    fn described(&mut self, name: &str, direction: Direction, of: Described) -> Result<Problem, Refusal> {
        let (x, y) = (self.tensor(name, of.x)?, self.tensor(name, of.y)?);
        let (w, convolution) = (self.filter(name, of.w)?, self.convolution(name, of.convolution)?.clone());
        Problem::new(direction, [&x, &y], &w, &convolution, self.profile.arch)
    }

    /// # Safety
    /// There is room for as many answers as are requested.
    unsafe fn heuristic(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: Described,
        answer: Answer,
    ) -> Result<(), Refusal> {
        self.dnn_stream(name, handle)?;
        answer.check()?;
        let problem = self.described(name, direction, of)?;
        // SAFETY: the caller's promise.
        unsafe { answer.write(&heuristic::choices(&problem, self.profile.arch)) };
        Ok(())
    }

    /// Runs what fits into the memory that is given, and answers with what it took. The output is not the result.
    ///
    /// # Safety
    /// There is room for as many answers as are requested.
    unsafe fn search(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: Described,
        at: At,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        answer.check()?;
        let problem = self.described(name, direction, of)?;
        let stream = known(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        let mut choices = heuristic::choices(&problem, self.profile.arch);
        for choice in choices.iter_mut().filter(|choice| choice.status == 0) {
            if heuristic::is_refused(&self.profile.faults, direction_name(direction), choice.algorithm) {
                (choice.status, choice.memory) = (DnnStatus::NOT_SUPPORTED.0, 0);
            } else if choice.memory > at.workspace.1 || (choice.memory > 0 && at.workspace.0 == 0) {
                choice.status = DnnStatus::ALLOC_FAILED.0;
            }
        }
        choices.sort_by_key(|choice| choice.status != 0);
        for (i, choice) in choices.iter_mut().enumerate().filter(|(_, choice)| choice.status == 0) {
            choice.time = 0.01 * (i + 1) as f32;
        }
        let run = work::Convolution {
            problem,
            x: at.x,
            w: at.w,
            y: at.y,
            alpha: 1.0,
            beta: 0.0,
            workspace: at.workspace.0,
            workspace_bytes: at.workspace.1,
            fused: None,
            wavers: None,
            search: true,
        };
        run.check(heuristic::Terms { memory: 0, deterministic: true })?;
        self.enqueue(name, stream, run)?;
        self.report.counts.synchronisations += 1;
        self.wait_stream(stream).map_err(|_| Refusal(DnnStatus::EXECUTION_FAILED, "the device has failed"))?;
        // SAFETY: the caller's promise.
        unsafe { answer.write(&choices) };
        Ok(())
    }

    fn enqueue(&mut self, name: &str, stream: usize, run: work::Convolution) -> Result<(), Refusal> {
        self.healthy().map_err(|_| Refusal(DnnStatus::EXECUTION_FAILED, "the device has failed"))?;
        if let Some(why) = run.conflict() {
            self.report.find(Kind::Overlap, format!("`{name}`: {why}, so that the result is not defined"));
        }
        if self.profile.faults.launch.fails() {
            return Err(Refusal(DnnStatus::EXECUTION_FAILED, "the simulator was asked to let a launch fail"));
        }
        self.report.counts.products += 1;
        self.submit(stream, name, None, Work::Convolution(Box::new(run)));
        Ok(())
    }

    /// # Safety
    /// The factors are null, or of the type that the library asks for.
    #[allow(clippy::too_many_arguments, reason = "the library's own")]
    unsafe fn convolve(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: Described,
        at: At,
        algorithm: u32,
        [alpha, beta]: [*const c_void; 2],
        behind: Option<Behind>,
    ) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        let problem = self.described(name, direction, of)?;
        let stream = known(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        if alpha.is_null() || beta.is_null() {
            return Err(bad("a factor is at a null pointer"));
        }
        // SAFETY: the library reads them by the call: `double` for those of doubles, else `float`.
        let [alpha, beta] = [alpha, beta].map(|from| unsafe {
            if problem.data == Data::F64 { from.cast::<f64>().read() } else { from.cast::<f32>().read().into() }
        });
        let arch = self.profile.arch;
        let terms = heuristic::terms(&problem, algorithm, arch).ok_or(bad("there is no such algorithm"))?;
        let terms = terms.ok_or(unsupported("the algorithm does not take this problem"))?;
        let fused = match behind {
            None => None,
            Some(behind) => {
                let [z, y] = [self.tensor(name, behind.z_desc)?, self.tensor(name, of.y)?];
                let bias = self.tensor(name, behind.bias_desc)?;
                let activation = self.activation(name, behind.activation)?;
                let relu = problem::fused(&problem, algorithm, &bias, activation, [&z, &y])?;
                Some(Fused { bias: behind.bias, z: behind.z, scale: beta, relu })
            }
        };
        let faults = &self.profile.faults;
        let refused = heuristic::is_refused(faults, direction_name(direction), algorithm)
            || (fused.is_some() && heuristic::is_refused(faults, "fused", algorithm));
        if refused {
            return Err(unsupported("the simulator was asked to refuse it when it is tried"));
        }
        let run = work::Convolution {
            problem,
            x: at.x,
            w: at.w,
            y: at.y,
            alpha,
            beta: if fused.is_some() { 0.0 } else { beta },
            workspace: at.workspace.0,
            // What is aside beyond what the algorithm needs is not touched.
            workspace_bytes: at.workspace.1,
            fused,
            wavers: (!terms.deterministic).then(|| self.streams.draw()),
            search: false,
        };
        run.check(terms)?;
        self.enqueue(name, stream, work::Convolution { workspace_bytes: terms.memory, ..run })
    }
}

/// As faults are named.
fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "forward",
        Direction::Data => "data",
        Direction::Filter => "filter",
    }
}

/// Defines functions of the library: arguments, and what each does with the world.
macro_rules! library {
    ($(fn $name:ident($world:ident $(, $argument:ident: $kind:ty)*) $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of cuDNN.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> DnnStatus {
                call(stringify!($name), |$world: &mut World| {
                    #[allow(dead_code, reason = "not every function has a use for its name")]
                    const NAME: &str = stringify!($name);
                    // SAFETY: the pointers are what the library's manual asks of a caller; null is looked for.
                    #[allow(unused_unsafe, reason = "not every function has pointers")]
                    unsafe { $body }
                })
            }
        )*
    };
}

library! {
    fn cudnnCreate(world, out: *mut usize) {
        if out.is_null() {
            return Err(bad("a null pointer for an answer"));
        }
        let ready = world.initialised && CURRENT.with_borrow(|stack| stack.last().is_some_and(|context| *context != 0));
        if !ready {
            return Err(Refusal(DnnStatus::NOT_INITIALIZED, "there is no current context"));
        }
        let handle = world.handle();
        world.dnn.handles.insert(handle, 0);
        put(out, handle)
    }

    fn cudnnDestroy(world, handle: usize) {
        if handle != 0 {
            world.dnn_stream(NAME, handle)?;
            world.dnn.handles.remove(&handle);
        }
        Ok(())
    }

    fn cudnnSetStream(world, handle: usize, stream: usize) {
        world.dnn_stream(NAME, handle)?;
        known(world, stream).map_err(|_| bad("no stream (any more)"))?;
        world.dnn.handles.insert(handle, stream);
        Ok(())
    }

    fn cudnnCreateTensorDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Tensor)
    }

    fn cudnnDestroyTensorDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Tensor, desc)
    }

    fn cudnnSetTensorNdDescriptor(
        world, desc: usize, data: c_int, rank: c_int, dims: *const c_int, strides: *const c_int
    ) {
        world.descriptor(NAME, Sort::Tensor, desc)?;
        let rank = descriptor::tensor_rank(rank)?;
        let (dims, strides) = (world.numbers(NAME, dims, rank)?, world.numbers(NAME, strides, rank)?);
        let tensor = Tensor::new(data, &dims, &strides)?;
        *world.descriptor(NAME, Sort::Tensor, desc)? = Descriptor::Tensor(Some(tensor));
        Ok(())
    }

    fn cudnnCreateFilterDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Filter)
    }

    fn cudnnDestroyFilterDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Filter, desc)
    }

    fn cudnnSetFilterNdDescriptor(
        world, desc: usize, data: c_int, format: c_int, rank: c_int, dims: *const c_int
    ) {
        world.descriptor(NAME, Sort::Filter, desc)?;
        let rank = descriptor::filter_rank(rank)?;
        let filter = Filter::new(data, format, &world.numbers(NAME, dims, rank)?)?;
        *world.descriptor(NAME, Sort::Filter, desc)? = Descriptor::Filter(Some(filter));
        Ok(())
    }

    fn cudnnCreateConvolutionDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Convolution)
    }

    fn cudnnDestroyConvolutionDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Convolution, desc)
    }

    fn cudnnSetConvolutionNdDescriptor(
        world, desc: usize, axes: c_int, padding: *const c_int, stride: *const c_int, dilation: *const c_int,
        mode: c_int, compute: c_int
    ) {
        world.convolution(NAME, desc)?;
        let axes = descriptor::axes(axes)?;
        let padding = world.numbers(NAME, padding, axes)?;
        let (stride, dilation) = (world.numbers(NAME, stride, axes)?, world.numbers(NAME, dilation, axes)?);
        let moves = Moves::new([&padding, &stride, &dilation], mode, compute)?;
        world.convolution(NAME, desc)?.moves = Some(moves);
        Ok(())
    }

    fn cudnnSetConvolutionGroupCount(world, desc: usize, groups: c_int) {
        world.convolution(NAME, desc)?.set_groups(groups)
    }

    fn cudnnSetConvolutionMathType(world, desc: usize, math: c_int) {
        world.convolution(NAME, desc)?.set_math(math)
    }

    fn cudnnGetConvolutionNdForwardOutputDim(
        world, desc: usize, tensor: usize, filter: usize, rank: c_int, dims: *mut c_int
    ) {
        let (tensor, filter) = (world.tensor(NAME, tensor)?, world.filter(NAME, filter)?);
        let convolution = world.convolution(NAME, desc)?;
        let (output, told) = descriptor::output(&tensor, &filter, convolution, rank.max(0) as usize);
        if dims.is_null() || rank > tensor.dims.len() as c_int {
            return Err(bad("no room for the extents, or more room than there are"));
        }
        // Two are always written.
        for (i, extent) in output.iter().enumerate() {
            dims.add(i).write(*extent);
        }
        told
    }

    fn cudnnCreateActivationDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Activation)
    }

    fn cudnnDestroyActivationDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Activation, desc)
    }

    fn cudnnSetActivationDescriptor(world, desc: usize, mode: c_int, nan: c_int, _coefficient: f64) {
        world.descriptor(NAME, Sort::Activation, desc)?;
        let activation = Activation::new(mode, nan)?;
        *world.descriptor(NAME, Sort::Activation, desc)? = Descriptor::Activation(Some(activation));
        Ok(())
    }

    fn cudnnGetConvolutionForwardAlgorithm_v7(
        world, handle: usize, x: usize, w: usize, convolution: usize, y: usize, requested: c_int,
        returned: *mut c_int, choices: *mut Choice
    ) {
        let answer = Answer { requested, returned, choices };
        world.heuristic(NAME, Direction::Forward, handle, Described { x, w, y, convolution }, answer)
    }

    fn cudnnGetConvolutionBackwardDataAlgorithm_v7(
        world, handle: usize, w: usize, y: usize, convolution: usize, x: usize, requested: c_int,
        returned: *mut c_int, choices: *mut Choice
    ) {
        let answer = Answer { requested, returned, choices };
        world.heuristic(NAME, Direction::Data, handle, Described { x, w, y, convolution }, answer)
    }

    fn cudnnGetConvolutionBackwardFilterAlgorithm_v7(
        world, handle: usize, x: usize, y: usize, convolution: usize, w: usize, requested: c_int,
        returned: *mut c_int, choices: *mut Choice
    ) {
        let answer = Answer { requested, returned, choices };
        world.heuristic(NAME, Direction::Filter, handle, Described { x, w, y, convolution }, answer)
    }

    fn cudnnFindConvolutionForwardAlgorithmEx(
        world, handle: usize, x_desc: usize, x: u64, w_desc: usize, w: u64, convolution: usize, y_desc: usize,
        y: u64, requested: c_int, returned: *mut c_int, choices: *mut Choice, workspace: u64, bytes: usize
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.search(NAME, Direction::Forward, handle, of, at, Answer { requested, returned, choices })
    }

    fn cudnnFindConvolutionBackwardDataAlgorithmEx(
        world, handle: usize, w_desc: usize, w: u64, y_desc: usize, y: u64, convolution: usize, x_desc: usize,
        x: u64, requested: c_int, returned: *mut c_int, choices: *mut Choice, workspace: u64, bytes: usize
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.search(NAME, Direction::Data, handle, of, at, Answer { requested, returned, choices })
    }

    fn cudnnFindConvolutionBackwardFilterAlgorithmEx(
        world, handle: usize, x_desc: usize, x: u64, y_desc: usize, y: u64, convolution: usize, w_desc: usize,
        w: u64, requested: c_int, returned: *mut c_int, choices: *mut Choice, workspace: u64, bytes: usize
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.search(NAME, Direction::Filter, handle, of, at, Answer { requested, returned, choices })
    }

    fn cudnnConvolutionForward(
        world, handle: usize, alpha: *const c_void, x_desc: usize, x: u64, w_desc: usize, w: u64,
        convolution: usize, algorithm: u32, workspace: u64, bytes: usize, beta: *const c_void, y_desc: usize, y: u64
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.convolve(NAME, Direction::Forward, handle, of, at, algorithm, [alpha, beta], None)
    }

    fn cudnnConvolutionBiasActivationForward(
        world, handle: usize, alpha: *const c_void, x_desc: usize, x: u64, w_desc: usize, w: u64,
        convolution: usize, algorithm: u32, workspace: u64, bytes: usize, scale: *const c_void, z_desc: usize,
        z: u64, bias_desc: usize, bias: u64, activation: usize, y_desc: usize, y: u64
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        let behind = Behind { z_desc, bias_desc, activation, z, bias };
        world.convolve(NAME, Direction::Forward, handle, of, at, algorithm, [alpha, scale], Some(behind))
    }

    fn cudnnConvolutionBackwardData(
        world, handle: usize, alpha: *const c_void, w_desc: usize, w: u64, y_desc: usize, y: u64,
        convolution: usize, algorithm: u32, workspace: u64, bytes: usize, beta: *const c_void, x_desc: usize, x: u64
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.convolve(NAME, Direction::Data, handle, of, at, algorithm, [alpha, beta], None)
    }

    fn cudnnConvolutionBackwardFilter(
        world, handle: usize, alpha: *const c_void, x_desc: usize, x: u64, y_desc: usize, y: u64,
        convolution: usize, algorithm: u32, workspace: u64, bytes: usize, beta: *const c_void, w_desc: usize, w: u64
    ) {
        let of = Described { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = At { x, w, y, workspace: (workspace, bytes) };
        world.convolve(NAME, Direction::Filter, handle, of, at, algorithm, [alpha, beta], None)
    }
}

/// `cudnnGetVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    VERSION
}

/// `cudnnGetErrorString` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetErrorString(status: u32) -> *const c_char {
    let text = match status {
        0 => c"CUDNN_STATUS_SUCCESS",
        1001 => c"CUDNN_STATUS_NOT_INITIALIZED",
        2000 => c"CUDNN_STATUS_BAD_PARAM",
        3000 => c"CUDNN_STATUS_NOT_SUPPORTED",
        4003 => c"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        5000 => c"CUDNN_STATUS_EXECUTION_FAILED",
        _ => c"CUDNN_UNKNOWN_STATUS",
    };
    text.as_ptr()
}
