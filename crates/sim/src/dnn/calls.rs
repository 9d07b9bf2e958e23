//! What the functions of cuDNN have in common: looking descriptors up, searching, and queuing convolutions.
use std::ffi::{c_int, c_void};

use super::descriptor::{Activation, Convolution, Descriptor, Filter, Sort, Tensor};
use super::heuristic::{self, Choice};
use super::problem::{self, Direction, Problem};
use super::work::{self, Fused};
use super::{DnnStatus, Refusal, bad, put, unsupported};
use crate::api::stream::own;
use crate::blas::problem::Data;
use crate::report::Kind;
use crate::work::Work;
use crate::world::World;

/// Descriptors of a convolution, with the images in the order of input and output.
#[derive(Clone, Copy)]
pub struct ConvDescriptors {
    pub x: usize,
    pub w: usize,
    pub y: usize,
    pub convolution: usize,
}

/// Addresses in the same order.
#[derive(Clone, Copy)]
pub struct ConvAddresses {
    pub x: u64,
    pub w: u64,
    pub y: u64,
    pub workspace: (u64, usize),
}

/// What a fused convolution (`cudnnConvolutionBiasActivationForward`) takes besides: the descriptors of `z`, bias and
/// activation, and the addresses of the first two.
#[derive(Clone, Copy)]
pub struct FusedArguments {
    pub z_desc: usize,
    pub bias_desc: usize,
    pub activation: usize,
    pub z: u64,
    pub bias: u64,
}

/// What a search or a heuristic answers with.
#[derive(Clone, Copy)]
pub struct Answer {
    pub requested: c_int,
    pub returned: *mut c_int,
    pub choices: *mut Choice,
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
    pub fn descriptor(&mut self, name: &str, sort: Sort, handle: usize) -> Result<&mut Descriptor, Refusal> {
        let fits = self.dnn.descriptors.get(&handle).is_some_and(|one| one.sort() == sort);
        if !fits && handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no {} (any more)", sort.name());
            self.report.find(Kind::Descriptor, text);
        }
        self.dnn.descriptors.get_mut(&handle).filter(|_| fits).ok_or(bad("a descriptor is none of its sort"))
    }

    pub fn tensor(&mut self, name: &str, handle: usize) -> Result<Tensor, Refusal> {
        match self.descriptor(name, Sort::Tensor, handle)? {
            Descriptor::Tensor(Some(tensor)) => Ok(tensor.clone()),
            _ => Err(bad("the tensor is not set")),
        }
    }

    pub fn filter(&mut self, name: &str, handle: usize) -> Result<Filter, Refusal> {
        match self.descriptor(name, Sort::Filter, handle)? {
            Descriptor::Filter(Some(filter)) => Ok(filter.clone()),
            _ => Err(bad("the filter is not set")),
        }
    }

    pub fn convolution(&mut self, name: &str, handle: usize) -> Result<&mut Convolution, Refusal> {
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

    pub fn create_descriptor(&mut self, out: *mut usize, sort: Sort) -> Result<(), Refusal> {
        let handle = self.handle();
        // SAFETY: the library asks of its caller that this is null or can be written.
        unsafe { put(out, handle) }?;
        self.dnn.descriptors.insert(handle, Descriptor::new(sort));
        Ok(())
    }

    pub fn destroy_descriptor(&mut self, name: &str, sort: Sort, handle: usize) -> Result<(), Refusal> {
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
    pub unsafe fn numbers(&mut self, name: &str, from: *const c_int, count: usize) -> Result<Vec<i32>, Refusal> {
        if from.is_null() && count > 0 {
            let text = format!("`{name}` is given an array at a null pointer, which the library reads");
            self.report.find(Kind::IllegalAddress, text);
            return Err(bad("an array at a null pointer"));
        }
        // SAFETY: the caller's promise.
        Ok((0..count).map(|i| unsafe { from.add(i).read() }).collect())
    }

    /// The stream of a handle.
    pub fn dnn_stream(&mut self, name: &str, handle: usize) -> Result<usize, Refusal> {
        if let Some(&stream) = self.dnn.handles.get(&handle) {
            return Ok(stream);
        }
        if handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no handle of cuDNN (any more)");
            self.report.find(Kind::Descriptor, text);
        }
        Err(bad("no handle"))
    }

    fn described(&mut self, name: &str, direction: Direction, of: ConvDescriptors) -> Result<Problem, Refusal> {
        let (x, y) = (self.tensor(name, of.x)?, self.tensor(name, of.y)?);
        let (w, convolution) = (self.filter(name, of.w)?, self.convolution(name, of.convolution)?.clone());
        Problem::new(direction, [&x, &y], &w, &convolution, self.profile.arch)
    }

    /// # Safety
    /// There is room for as many answers as are requested.
    pub unsafe fn heuristic(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: ConvDescriptors,
        answer: Answer,
    ) -> Result<(), Refusal> {
        self.dnn_stream(name, handle)?;
        answer.check()?;
        self.asked_to_refuse("heuristic", 0)?;
        let problem = self.described(name, direction, of)?;
        // SAFETY: the caller's promise.
        unsafe { answer.write(&heuristic::choices(&problem, self.profile.arch)) };
        Ok(())
    }

    /// Runs what fits into the memory that is given, and answers with what it took. The output is not the result.
    ///
    /// # Safety
    /// There is room for as many answers as are requested.
    pub unsafe fn search(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: ConvDescriptors,
        at: ConvAddresses,
        answer: Answer,
    ) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        answer.check()?;
        self.asked_to_refuse("search", 0)?;
        let problem = self.described(name, direction, of)?;
        let stream = own(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        let mut choices = heuristic::choices(&problem, self.profile.arch);
        for choice in choices.iter_mut().filter(|choice| choice.status == 0) {
            let refused = heuristic::refused(&self.profile.faults, direction_name(direction), choice.algorithm);
            if let Some(status) = refused {
                (choice.status, choice.memory) = (status.0, 0);
            } else if choice.memory > at.workspace.1 || (choice.memory > 0 && at.workspace.0 == 0) {
                choice.status = DnnStatus::ALLOC_FAILED.0;
            }
        }
        choices.sort_by_key(|choice| choice.status != 0);
        // What is aside beyond what the algorithms that are tried need is not touched.
        let mut needed = 0;
        for (i, choice) in choices.iter_mut().enumerate().filter(|(_, choice)| choice.status == 0) {
            choice.time = 0.01 * (i + 1) as f32;
            needed = choice.memory.max(needed);
        }
        let run = work::Convolution {
            problem,
            x: at.x,
            w: at.w,
            y: at.y,
            alpha: 1.0,
            beta: 0.0,
            workspace: at.workspace.0,
            workspace_bytes: needed,
            fused: None,
            wavers: None,
            search: true,
        };
        run.check(heuristic::Requirements { memory: 0, deterministic: true })?;
        self.enqueue(name, stream, run)?;
        self.report.counts.synchronizations += 1;
        self.wait_stream(stream).map_err(|_| Refusal(DnnStatus::EXECUTION_FAILED, "the device has failed"))?;
        // SAFETY: the caller's promise.
        unsafe { answer.write(&choices) };
        Ok(())
    }

    /// The refusal of a call that the simulator was asked to refuse.
    pub fn asked_to_refuse(&self, call: &str, algorithm: u32) -> Result<(), Refusal> {
        match heuristic::refused(&self.profile.faults, call, algorithm) {
            Some(status) => Err(Refusal(status, "the simulator was asked to refuse it")),
            None => Ok(()),
        }
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
    pub unsafe fn convolve(
        &mut self,
        name: &str,
        direction: Direction,
        handle: usize,
        of: ConvDescriptors,
        at: ConvAddresses,
        algorithm: u32,
        [alpha, beta]: [*const c_void; 2],
        fused: Option<FusedArguments>,
    ) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        let problem = self.described(name, direction, of)?;
        let stream = own(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        if alpha.is_null() || beta.is_null() {
            return Err(bad("a factor is at a null pointer"));
        }
        // SAFETY: the library reads them by the call: `double` for those of doubles, else `float`.
        let [alpha, beta] = [alpha, beta].map(|from| unsafe {
            if problem.data == Data::F64 { from.cast::<f64>().read() } else { from.cast::<f32>().read().into() }
        });
        let arch = self.profile.arch;
        let requirements =
            heuristic::requirements(&problem, algorithm, arch).ok_or(bad("there is no such algorithm"))?;
        let requirements = requirements.ok_or(unsupported("the algorithm does not take this problem"))?;
        let fused = match fused {
            None => None,
            Some(arguments) => {
                let [z, y] = [self.tensor(name, arguments.z_desc)?, self.tensor(name, of.y)?];
                let bias = self.tensor(name, arguments.bias_desc)?;
                let activation = self.activation(name, arguments.activation)?;
                let relu = problem::fused(&problem, algorithm, &bias, activation, [&z, &y])?;
                Some(Fused { bias: arguments.bias, z: arguments.z, scale: beta, relu })
            }
        };
        self.asked_to_refuse(direction_name(direction), algorithm)?;
        if fused.is_some() {
            self.asked_to_refuse("fused", algorithm)?;
        }
        if !self.lazy_memory(name) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library's kernels"));
        }
        let run = work::Convolution {
            problem,
            x: at.x,
            w: at.w,
            y: at.y,
            alpha,
            beta: if fused.is_some() { 0.0 } else { beta },
            workspace: at.workspace.0,
            workspace_bytes: at.workspace.1,
            fused,
            wavers: (!requirements.deterministic).then(|| self.streams.draw()),
            search: false,
        };
        run.check(requirements)?;
        // What is aside beyond what the algorithm needs is not touched.
        self.enqueue(name, stream, work::Convolution { workspace_bytes: requirements.memory, ..run })
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
