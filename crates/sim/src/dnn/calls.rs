//! The functions of cuDNN's graph API: descriptors and their attributes, finalization, and the execution of
//! plans.
use std::ffi::c_void;
use std::sync::Arc;

use super::attributes::{Kind, Record, types};
use super::finalize;
use super::heuristic::{self, Engine};
use super::operation::Direction;
use super::plan_text;
use super::problem::Problem;
use super::status::{DnnStatus, Refusal, bad, unsupported};
use super::work::Convolution;
use crate::api::stream::own;
use crate::kind::Kind as Finding;
use crate::profile::Refused;
use crate::work::Work;
use crate::world::World;

/// The configuration of an engine for a graph.
fn configured(graph: &Arc<Record>, engine: &Engine) -> Arc<Record> {
    let mut of = Record::new(Kind::Engine);
    of.put_parts(1300, vec![graph.clone()]);
    of.put(1301, vec![engine.index.into()]);
    engine.describe(&mut of);
    of.finalized = true;
    let mut config = Record::new(Kind::EngineConfig);
    config.put_parts(300, vec![Arc::new(of)]);
    config.finalized = true;
    Arc::new(config)
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

    pub fn create_descriptor(&mut self, kind: u32) -> Result<usize, Refusal> {
        let record = Record::of(kind);
        let record = record.ok_or(Refusal(DnnStatus::ALLOC_FAILED, "there is no such kind of descriptors"))?;
        let handle = self.handle();
        self.dnn.descriptors.insert(handle, record);
        Ok(handle)
    }

    pub fn destroy_descriptor(&mut self, name: &str, handle: usize) -> Result<(), Refusal> {
        self.descriptor(name, handle)?;
        self.dnn.descriptors.remove(&handle);
        Ok(())
    }

    /// # Safety
    /// `values` is null or has this many values of this type.
    pub unsafe fn set_attribute(
        &mut self,
        name: &str,
        handle: usize,
        (attribute, kind): (u32, u32),
        count: i64,
        values: *const c_void,
    ) -> Result<(), Refusal> {
        let record = self.descriptor(name, handle)?;
        let (count, kinds) = (record.check_set(attribute, kind, count)?, record.kinds_in(attribute));
        if values.is_null() {
            return Err(bad("values at a null pointer"));
        }
        let size = types::bytes(kind);
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(values.cast::<u8>(), count * size) };
        let values = bytes.chunks_exact(size).map(|value| types::decode(kind, value));
        if kind != types::DESCRIPTOR {
            record.put(attribute, values.collect());
            return Ok(());
        }
        let mut parts = Vec::with_capacity(count);
        // The library accepts a null descriptor, as a missing one.
        for part in values.filter(|part| *part != 0) {
            let part = self.descriptor(name, part as usize)?.clone();
            if !part.finalized && attribute == 801 {
                return Err(Refusal(DnnStatus::NOT_FINALIZED, "an operation has not been finalized"));
            }
            // The library trusts the caller about a descriptor's kind, and fails in some way if it is another.
            if !kinds.contains(&part.kind) {
                let text = format!("`{name}` is given a {} for attribute {attribute}", part.kind.row().2);
                self.report.find(Finding::Descriptor, text);
                return Err(bad("a descriptor is of another kind"));
            }
            parts.push(Arc::new(part));
        }
        self.descriptor(name, handle)?.put_parts(attribute, parts);
        Ok(())
    }

    /// # Safety
    /// `values` is null or has room for this many values of this type, `count` is null or can be written.
    pub unsafe fn get_attribute(
        &mut self,
        name: &str,
        handle: usize,
        (attribute, kind): (u32, u32),
        room: i64,
        count: *mut i64,
        values: *mut c_void,
    ) -> Result<(), Refusal> {
        let record = self.descriptor(name, handle)?.clone();
        // Without room, only their number is asked for.
        let room = if values.is_null() { None } else { Some(room) };
        let there = record.check_get(attribute, kind, room.unwrap_or(1))?;
        let fits = room.map_or(there, |room| there.min(room as usize));
        for i in (0..fits).filter(|_| room.is_some()) {
            // SAFETY: the caller's promise.
            let to = unsafe { values.cast::<u8>().add(i * types::bytes(kind)) };
            if let Some(part) = record.parts(attribute).get(i) {
                // SAFETY: as above.
                let target = self.descriptor(name, unsafe { to.cast::<usize>().read_unaligned() })?;
                if target.kind != part.kind {
                    return Err(bad("a descriptor that is to be written is of another kind"));
                }
                *target = Record::clone(part);
            } else {
                let value = types::encode(kind, record.numbers(attribute)[i]);
                // SAFETY: as above.
                unsafe { to.copy_from_nonoverlapping(value.as_ptr(), types::bytes(kind)) };
            }
        }
        if !count.is_null() {
            // SAFETY: the caller's promise.
            unsafe { count.write(fits as i64) };
        }
        Ok(())
    }

    pub fn finalize(&mut self, name: &str, handle: usize) -> Result<(), Refusal> {
        let record = self.descriptor(name, handle)?;
        if record.finalized {
            return Err(bad("the descriptor has been finalized"));
        }
        let mut record = record.clone();
        finalize::check(&record)?;
        match record.kind {
            Kind::Graph => record.put(802, vec![heuristic::ENGINES]),
            Kind::Heuristic => self.propose(&mut record)?,
            Kind::Engine => {
                let (graph, index) = (record.part(1300)?, record.number(1301, -1));
                if !(0..heuristic::ENGINES).contains(&index) {
                    return Err(unsupported("a graph has no such engine"));
                }
                if let Ok((_, engine)) = self.engine(graph, index) {
                    engine.describe(&mut record);
                }
            }
            Kind::EngineConfig => {
                self.configured_engine(&record)?;
            }
            Kind::Plan => {
                self.asked_to_refuse("plan", 0)?;
                let device = plan_text::device(&record, &self.profile);
                if !record.numbers(405).is_empty() {
                    self.asked_to_refuse("text", 0)?;
                    let (graph, index) = plan_text::read(record.numbers(405), device)?;
                    // Engine 0, which supports every graph, stands for those that only the real library has.
                    let engine = self.engine(&graph, index).or_else(|_| self.engine(&graph, 0));
                    record.put_parts(401, vec![configured(&graph, &engine?.1)]);
                }
                let (problem, engine) = self.configured_engine(record.part(401)?)?;
                record.put(402, vec![engine.workspace(&problem) as i64]);
                // A plan without a text can still be executed.
                record.put(405, plan_text::write(&record, device).unwrap_or_default());
            }
            _ => {}
        }
        record.finalized = true;
        *self.descriptor(name, handle)? = record;
        Ok(())
    }

    /// The heuristic's proposals; empty if no engine takes the graph.
    fn propose(&mut self, record: &mut Record) -> Result<(), Refusal> {
        record.part(201)?;
        let graph = record.parts(201)[0].clone();
        self.asked_to_refuse("heuristic", 0)?;
        let problem = Problem::new(&graph, self.profile.arch);
        if let Err(Refusal(_, why)) = &problem {
            self.report.refusals.insert(format!("no engine takes a graph: {why}"));
        }
        let last_too = self.asked_to_refuse("nhwc", 0).is_ok();
        let problem = problem.ok().filter(|problem| last_too || !problem.channels_last());
        let proposed = problem.map(|problem| Engine::proposed(&problem, self.profile.arch, record.number(200, 0)));
        record.put_parts(202, proposed.iter().flatten().map(|engine| configured(&graph, engine)).collect());
        Ok(())
    }

    /// The problem of a graph, and the engine of this number, if it takes that.
    fn engine(&self, graph: &Record, index: i64) -> Result<(Problem, Engine), Refusal> {
        let problem = Problem::new(graph, self.profile.arch)?;
        let mut all = Engine::all(&problem, self.profile.arch).into_iter();
        let found = all.find(|engine| i64::from(engine.index) == index);
        found.map(|found| (problem, found)).ok_or(unsupported("the engine does not take this graph"))
    }

    fn configured_engine(&self, config: &Record) -> Result<(Problem, Engine), Refusal> {
        let engine = config.part(300)?;
        self.engine(engine.part(1300)?, engine.number(1301, -1))
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

    pub fn execute_plan(&mut self, name: &str, handle: usize, plan: usize, pack: usize) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        let (plan, pack) = (self.finalized(name, Kind::Plan, plan)?, self.finalized(name, Kind::VariantPack, pack)?);
        let stream = own(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        let (problem, engine) = self.configured_engine(plan.part(401)?)?;
        if plan.number(400, 0) as usize != handle {
            let text = format!("`{name}`: the plan was made for another handle, or for a device that is described");
            self.report.find(Finding::Descriptor, text);
            return Err(bad("a plan of another handle"));
        }
        let call = match problem.direction {
            Direction::Forward => "forward",
            Direction::Data => "data",
            Direction::Filter => "filter",
        };
        self.asked_to_refuse(call, engine.index)?;
        if !problem.steps.is_empty() {
            self.asked_to_refuse("fused", engine.index)?;
        }
        if !self.lazy_memory(call) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library's kernels"));
        }
        let address = |uid: i64| {
            let mut bound = pack.numbers(1000).iter().zip(pack.numbers(1001)).filter(|(bound, _)| **bound == uid);
            match (bound.next(), bound.next()) {
                (Some((_, address)), None) => Ok(*address as u64),
                _ => Err(bad("a tensor of the graph has no address, or two")),
            }
        };
        let run = Convolution {
            rounding: engine.rounding(&problem),
            at: problem.tensors.iter().map(|image| address(image.uid)).collect::<Result<_, _>>()?,
            workspace: pack.number(1003, 0) as u64,
            workspace_bytes: engine.workspace(&problem),
            wavers: (!engine.is_deterministic()).then(|| self.streams.draw()),
            problem,
        };
        run.check()?;
        let failed = |why| Refusal(DnnStatus::EXECUTION_FAILED, why);
        self.healthy().map_err(|_| failed("the device has failed"))?;
        if let Some(why) = run.conflict() {
            self.report.find(Finding::Overlap, format!("`{name}`: {why}, so that the result is not defined"));
        }
        if self.profile.faults.launch.fails() {
            return Err(failed("the simulator was asked to let a launch fail"));
        }
        self.taking(stream).map_err(|_| failed("the capture of the handle's stream has failed"))?;
        if !self.captures.has(stream) {
            self.report.counts.products += 1;
        }
        self.submit(stream, name, None, Work::Convolution(Box::new(run)));
        Ok(())
    }
}
