//! The functions of cuDNN, under their own names and with the library's own rules.
use std::ffi::{c_char, c_void};
use std::sync::Arc;

use crate::dnn::attention::problem::{Attention, Operand, Pass};
use crate::dnn::attention::work::AttentionCall;
use crate::dnn::attributes::{Kind, Record, types};
use crate::dnn::computation::Computation;
use crate::dnn::finalize;
use crate::dnn::heuristic::Engine;
use crate::dnn::plan_text::VERSION;
use crate::dnn::problem::Problem;
use crate::dnn::work::Convolution;
use crate::dnn::{DnnStatus, Refusal, bad};
use crate::kind::Kind as Finding;
use crate::profile::Refused;
use crate::work::Work;
use crate::world::{self, CURRENT, World};

use super::stream::{known, own};

fn call(name: &'static str, body: impl FnOnce(&mut World) -> Result<(), Refusal>) -> DnnStatus {
    world::with(|world| {
        world.collect_hits();
        world.report.called(name);
        match body(world) {
            Ok(()) => DnnStatus::SUCCESS,
            Err(Refusal(status, why)) => {
                world.dnn.last_error = why.to_string();
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

impl World {
    /// A descriptor. A null one is refused; using one that was destroyed is a mistake that the library does not notice.
    fn descriptor(&mut self, name: &str, handle: usize) -> Result<&mut Record, Refusal> {
        if handle == 0 {
            return Err(Refusal(DnnStatus::NULL_POINTER, "a descriptor at a null pointer"));
        }
        if !self.dnn.descriptors.contains_key(&handle) {
            let text = format!("`{name}` is given {handle:#x}, which is no descriptor of cuDNN (any more)");
            self.report.find(Finding::Descriptor, text);
        }
        self.dnn.descriptors.get_mut(&handle).ok_or(bad("no descriptor (any more)"))
    }

    /// A finalized descriptor of this kind.
    fn finalized(&mut self, name: &str, kind: Kind, handle: usize) -> Result<Record, Refusal> {
        let record = self.descriptor(name, handle)?;
        if record.kind != kind || !record.finalized {
            return Err(bad("a descriptor is of another kind, or has not been finalized"));
        }
        Ok(record.clone())
    }

    /// The stream of a handle.
    pub fn dnn_stream(&mut self, name: &str, handle: usize) -> Result<usize, Refusal> {
        if let Some(&stream) = self.dnn.handles.get(&handle) {
            return Ok(stream);
        }
        if handle != 0 {
            let text = format!("`{name}` is given {handle:#x}, which is no handle of cuDNN (any more)");
            self.report.find(Finding::Descriptor, text);
        }
        Err(bad("no handle"))
    }

    /// The refusal of a call, if the simulator was asked to refuse it: `create`, `heuristic`, `nhwc`, `plan`, `text`, or
    /// the execution by an engine of a direction or of something fused.
    pub fn asked_to_refuse(&self, call: &str, engine: u32) -> Result<(), Refusal> {
        match Refused::find(&self.profile.faults.no_convolutions, call, engine, DnnStatus::NOT_SUPPORTED.0) {
            Some(status) => Err(Refusal(DnnStatus(status), "the simulator was asked to refuse it")),
            None => Ok(()),
        }
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
                    // SAFETY: the pointers are what the library's manual requires of a caller; null is checked for.
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
        let ready = world.initialized && CURRENT.with_borrow(|stack| stack.last().is_some_and(|context| *context != 0));
        if !ready {
            return Err(Refusal(DnnStatus::NOT_INITIALIZED, "there is no current context"));
        }
        world.asked_to_refuse("create", 0)?;
        if !world.lazy_memory(NAME) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library"));
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

    fn cudnnBackendCreateDescriptor(world, kind: u32, out: *mut usize) {
        let record = Record::of(kind);
        let record = record.ok_or(Refusal(DnnStatus::ALLOC_FAILED, "there is no such kind of descriptors"))?;
        let desc = world.handle();
        put(out, desc)?;
        world.dnn.descriptors.insert(desc, record);
        Ok(())
    }

    fn cudnnBackendDestroyDescriptor(world, desc: usize) {
        world.descriptor(NAME, desc)?;
        world.dnn.descriptors.remove(&desc);
        Ok(())
    }

    fn cudnnBackendSetAttribute(
        world, desc: usize, attribute: u32, kind: u32, count: i64, values: *const c_void
    ) {
        let record = world.descriptor(NAME, desc)?;
        let (count, kinds) = (record.check_set(attribute, kind, count)?, record.kinds_in(attribute));
        if values.is_null() {
            return Err(bad("values at a null pointer"));
        }
        let size = types::bytes(kind);
        let bytes = std::slice::from_raw_parts(values.cast::<u8>(), count * size);
        let values = bytes.chunks_exact(size).map(|value| types::decode(kind, value));
        if kind != types::DESCRIPTOR {
            record.put(attribute, values.collect());
            return Ok(());
        }
        let mut parts = Vec::with_capacity(count);
        // The library accepts a null descriptor, as a missing one.
        for part in values.filter(|part| *part != 0) {
            let part = world.descriptor(NAME, part as usize)?.clone();
            if !part.finalized && attribute == 801 {
                return Err(Refusal(DnnStatus::NOT_FINALIZED, "an operation has not been finalized"));
            }
            // The library trusts the caller about a descriptor's kind, and fails in some way if it is another.
            if !kinds.contains(&part.kind) {
                let text = format!("`{NAME}` is given a {} for attribute {attribute}", part.kind.row().2);
                world.report.find(Finding::Descriptor, text);
                return Err(bad("a descriptor is of another kind"));
            }
            parts.push(Arc::new(part));
        }
        world.descriptor(NAME, desc)?.put_parts(attribute, parts);
        Ok(())
    }

    fn cudnnBackendGetAttribute(
        world, desc: usize, attribute: u32, kind: u32, room: i64, count: *mut i64, values: *mut c_void
    ) {
        let record = world.descriptor(NAME, desc)?.clone();
        // Without room, only their number is asked for.
        let room = if values.is_null() { None } else { Some(room) };
        let there = record.check_get(attribute, kind, room.unwrap_or(1))?;
        let fits = room.map_or(there, |room| there.min(room as usize));
        for i in (0..fits).filter(|_| room.is_some()) {
            let to = values.cast::<u8>().add(i * types::bytes(kind));
            if let Some(part) = record.parts(attribute).get(i) {
                let target = world.descriptor(NAME, to.cast::<usize>().read_unaligned())?;
                if target.kind != part.kind {
                    return Err(bad("a descriptor that is to be written is of another kind"));
                }
                *target = Record::clone(part);
            } else {
                let value = types::encode(kind, record.numbers(attribute)[i]);
                to.copy_from_nonoverlapping(value.as_ptr(), types::bytes(kind));
            }
        }
        if !count.is_null() {
            count.write(fits as i64);
        }
        Ok(())
    }

    fn cudnnBackendFinalize(world, desc: usize) {
        let mut record = world.descriptor(NAME, desc)?.clone();
        if record.finalized {
            return Err(bad("the descriptor has been finalized"));
        }
        finalize::check(&record)?;
        world.complete(&mut record)?;
        record.finalized = true;
        *world.descriptor(NAME, desc)? = record;
        Ok(())
    }

    fn cudnnBackendExecute(world, handle: usize, plan: usize, pack: usize) {
        let stream = world.dnn_stream(NAME, handle)?;
        let (plan, pack) = (world.finalized(NAME, Kind::Plan, plan)?, world.finalized(NAME, Kind::VariantPack, pack)?);
        let stream = own(world, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        let (computation, engine) = world.configured_engine(plan.part(401)?)?;
        if plan.number(400, 0) as usize != handle {
            let text = format!("`{NAME}`: the plan was made for another handle, or for a device that is described");
            world.report.find(Finding::Descriptor, text);
            return Err(bad("a plan of another handle"));
        }
        let call = computation.name();
        world.asked_to_refuse(call, engine.index)?;
        if matches!(&computation, Computation::Convolution(problem) if !problem.steps.is_empty()) {
            world.asked_to_refuse("fused", engine.index)?;
        }
        if !world.lazy_memory(call) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library's kernels"));
        }
        let (work, conflict) = match computation {
            Computation::Convolution(problem) => {
                let run = convolution(world, &pack, problem, &engine)?;
                run.check()?;
                (Work::Convolution(Box::new(run.clone())), run.conflict())
            }
            Computation::Attention(problem) => {
                let run = attention(world, &pack, problem)?;
                run.check()?;
                (Work::Attention(Box::new(run.clone())), run.conflict())
            }
        };
        let failed = |why| Refusal(DnnStatus::EXECUTION_FAILED, why);
        world.healthy().map_err(|_| failed("the device has failed"))?;
        if let Some(why) = conflict {
            world.report.find(Finding::Overlap, format!("`{NAME}`: {why}, so that the result is not defined"));
        }
        if world.profile.faults.launch.fails() {
            return Err(failed("the simulator was asked to let a launch fail"));
        }
        world.taking(stream).map_err(|_| failed("the capture of the handle's stream has failed"))?;
        if !world.captures.has(stream) {
            world.report.counts.products += 1;
        }
        world.submit(stream, NAME, None, work);
        Ok(())
    }
}

/// The address that a variant pack binds a tensor to.
fn bound(pack: &Record, uid: i64) -> Result<u64, Refusal> {
    let mut bound = pack.numbers(1000).iter().zip(pack.numbers(1001)).filter(|(bound, _)| **bound == uid);
    match (bound.next(), bound.next()) {
        (Some((_, address)), None) => Ok(*address as u64),
        _ => Err(bad("a tensor of the graph has no address, or two")),
    }
}

fn convolution(world: &mut World, pack: &Record, problem: Problem, engine: &Engine) -> Result<Convolution, Refusal> {
    Ok(Convolution {
        rounding: engine.rounding(&problem),
        at: problem.tensors.iter().map(|image| bound(pack, image.uid)).collect::<Result<_, _>>()?,
        workspace: pack.number(1003, 0) as u64,
        workspace_bytes: engine.workspace(&problem),
        wavers: (!engine.is_deterministic()).then(|| world.streams.draw()),
        problem,
    })
}

/// # Safety
/// The numbers that are given by value are at the addresses that the pack has for them.
unsafe fn attention(world: &mut World, pack: &Record, problem: Attention) -> Result<AttentionCall, Refusal> {
    let all = |operands: &[Operand]| operands.iter().map(|operand| bound(pack, operand.uid)).collect::<Result<_, _>>();
    let mut scalars = [0.0; 3];
    for (scalar, uid) in scalars.iter_mut().zip(problem.scalars) {
        let Some(uid) = uid else { continue };
        match bound(pack, uid)? {
            0 => return Err(Refusal(DnnStatus::NULL_POINTER, "a number at a null pointer")),
            // SAFETY: the caller's promise.
            host => *scalar = unsafe { (host as *const f32).read_unaligned() },
        }
    }
    Ok(AttentionCall {
        reads: all(&problem.reads)?,
        writes: all(&problem.writes)?,
        scalars,
        workspace: pack.number(1003, 0) as u64,
        workspace_bytes: problem.workspace(),
        wavers: (problem.pass == Pass::Backward).then(|| world.streams.draw()),
        problem,
    })
}

/// `cudnnGetVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    VERSION
}

/// `cudnnGetCudartVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetCudartVersion() -> usize {
    world::with(|world| world.profile.libraries().unsigned_abs() as usize)
}

/// `cudnnGetLastErrorString` of cuDNN.
///
/// # Safety
/// There is room for as many bytes as `room` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetLastErrorString(message: *mut c_char, room: usize) {
    let text = world::with(|world| std::mem::take(&mut world.dnn.last_error));
    if message.is_null() || room == 0 {
        return;
    }
    let count = text.len().min(room - 1);
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, count);
        message.add(count).write(0);
    }
}

/// `cudnnGetErrorString` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetErrorString(status: u32) -> *const c_char {
    let text = match status {
        0 => c"CUDNN_STATUS_SUCCESS",
        1001 => c"CUDNN_STATUS_NOT_INITIALIZED",
        2000 => c"CUDNN_STATUS_BAD_PARAM",
        3000 => c"CUDNN_STATUS_NOT_SUPPORTED",
        4004 => c"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        4003 => c"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        5000 => c"CUDNN_STATUS_EXECUTION_FAILED",
        _ => c"CUDNN_UNKNOWN_STATUS",
    };
    text.as_ptr()
}
