//! The functions of cuDNN's graph API: descriptors and their attributes, finalization, and the execution of
//! plans.
use std::ffi::c_void;
use std::sync::Arc;

use super::attributes::{Kind, Record, types};
use super::direction::Direction;
use super::finalize;
use super::heuristic::{self, Engine};
use super::plan_text;
use super::problem::Problem;
use super::status::{DnnStatus, Refusal, bad, put, unsupported};
use super::work::Convolution;
use crate::api::stream::own;
use crate::kind::Kind as Finding;
use crate::work::Work;
use crate::world::World;

/// The configuration of an engine for a graph.
fn configured(graph: &Arc<Record>, engine: Engine) -> Arc<Record> {
    let mut of = Record::new(Kind::Engine);
    of.put_parts(1300, vec![graph.clone()]);
    of.put(1301, vec![engine.index.into()]);
    of.put(1303, engine.numerical);
    of.put(1305, engine.behavior);
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

    pub fn create_descriptor(&mut self, kind: u32, out: *mut usize) -> Result<(), Refusal> {
        let Some(record) = Record::of(kind) else {
            return Err(Refusal(DnnStatus::ALLOC_FAILED, "there is no such kind of descriptors"));
        };
        let handle = self.handle();
        // SAFETY: the library asks of its caller that this is null or can be written.
        unsafe { put(out, handle) }?;
        self.dnn.descriptors.insert(handle, record);
        Ok(())
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
        let count = self.descriptor(name, handle)?.check_set(attribute, kind, count)?;
        if values.is_null() {
            return Err(bad("values at a null pointer"));
        }
        let values = values.cast::<u8>();
        // SAFETY: the caller's promise.
        let read = |i: usize| unsafe {
            let at = values.add(i * types::bytes(kind));
            match (kind, types::bytes(kind)) {
                (types::FLOAT, _) => f64::from(at.cast::<f32>().read_unaligned()).to_bits() as i64,
                (_, 8) => at.cast::<i64>().read_unaligned(),
                (_, 4) => at.cast::<i32>().read_unaligned().into(),
                _ => i64::from(at.read()),
            }
        };
        let values: Vec<i64> = (0..count).map(read).collect();
        if kind != types::DESCRIPTOR {
            self.descriptor(name, handle)?.put(attribute, values);
            return Ok(());
        }
        let mut parts = Vec::with_capacity(count);
        for part in values {
            // The library accepts a null descriptor, as a missing one.
            if part != 0 {
                let part = self.descriptor(name, part as usize)?.clone();
                if !part.finalized && attribute == 801 {
                    return Err(Refusal(DnnStatus::NOT_FINALIZED, "an operation has not been finalized"));
                }
                parts.push(Arc::new(part));
            }
        }
        self.check_parts(name, attribute, &parts)?;
        self.descriptor(name, handle)?.put_parts(attribute, parts);
        Ok(())
    }

    /// The library trusts the caller about a descriptor's kind, and fails in some way if it is another.
    fn check_parts(&mut self, name: &str, attribute: u32, parts: &[Arc<Record>]) -> Result<(), Refusal> {
        let operations = [
            Kind::Forward,
            Kind::BackwardData,
            Kind::BackwardFilter,
            Kind::PointwiseOperation,
            Kind::ReductionOperation,
        ];
        let kinds: &[Kind] = match attribute {
            201 | 1300 => &[Kind::Graph],
            204 | 407 | 1307 => &[Kind::DeviceProperties],
            300 => &[Kind::Engine],
            401 => &[Kind::EngineConfig],
            702 | 708 | 714 => &[Kind::Convolution],
            750 => &[Kind::Pointwise],
            801 => &operations,
            1612 => &[Kind::Reduction],
            _ => &[Kind::Tensor],
        };
        match parts.iter().find(|part| !kinds.contains(&part.kind)) {
            None => Ok(()),
            Some(part) => {
                let text = format!("`{name}` is given a {} for attribute {attribute}", part.kind.title());
                self.report.find(Finding::Descriptor, text);
                Err(bad("a descriptor is of another kind"))
            }
        }
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
        let all = values.is_null();
        let fits = record.check_get(attribute, kind, if all { 1 } else { room })?;
        let there = record.numbers(attribute).len() + record.parts(attribute).len();
        let to = values.cast::<u8>();
        if !all && kind == types::DESCRIPTOR {
            for (i, part) in record.parts(attribute)[..fits].iter().enumerate() {
                // SAFETY: the caller's promise.
                let target = unsafe { to.cast::<usize>().add(i).read_unaligned() };
                let target = self.descriptor(name, target)?;
                if target.kind != part.kind {
                    return Err(bad("a descriptor that is to be written is of another kind"));
                }
                *target = Record::clone(part);
            }
        } else if !all {
            for (i, value) in record.numbers(attribute)[..fits].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    let at = to.add(i * types::bytes(kind));
                    match (kind, types::bytes(kind)) {
                        (types::FLOAT, _) => at.cast::<f32>().write_unaligned(f64::from_bits(*value as u64) as f32),
                        (_, 8) => at.cast::<i64>().write_unaligned(*value),
                        (_, 4) => at.cast::<i32>().write_unaligned(*value as i32),
                        _ => at.write(*value as u8),
                    }
                }
            }
        }
        if !count.is_null() {
            // SAFETY: the caller's promise.
            unsafe { count.write(if all { there } else { fits } as i64) };
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
                let graph = record.part(1300)?.clone();
                let index = record.number(1301, -1);
                if !(0..heuristic::ENGINES).contains(&index) {
                    return Err(unsupported("a graph has no such engine"));
                }
                let problem = Problem::new(&graph, self.profile.arch);
                let engines = problem.map(|problem| Engine::all(&problem, self.profile.arch)).unwrap_or_default();
                if let Some(engine) = engines.iter().find(|engine| i64::from(engine.index) == index) {
                    record.put(1303, engine.numerical.clone());
                    record.put(1305, engine.behavior.clone());
                }
            }
            Kind::EngineConfig => {
                self.engine(&record)?;
            }
            Kind::Plan => {
                self.asked_to_refuse("plan", 0)?;
                let device = plan_text::device(&record, &self.profile);
                if !record.numbers(405).is_empty() {
                    self.asked_to_refuse("text", 0)?;
                    let (graph, index) = plan_text::read(record.numbers(405), device)?;
                    record.put_parts(401, vec![self.configuration(&graph, index)?]);
                }
                let (problem, engine) = self.engine(record.part(401)?)?;
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
        let graph = record.part(201)?.clone();
        self.asked_to_refuse("heuristic", 0)?;
        let arch = self.profile.arch;
        let problem = Problem::new(&graph, arch);
        if let Err(Refusal(_, why)) = &problem {
            self.report.refusals.insert(format!("no engine takes a graph: {why}"));
        }
        let no_last = heuristic::refused(&self.profile.faults, "nhwc", 0).is_some();
        let problem = problem.ok().filter(|problem| !no_last || !problem.channels_last());
        let proposed = problem.map(|problem| Engine::proposed(&problem, arch, record.number(200, 0)));
        record.put_parts(202, proposed.into_iter().flatten().map(|engine| configured(&graph, engine)).collect());
        Ok(())
    }

    /// The configuration that a text names. For an engine that only the real library has, the one that supports every graph.
    fn configuration(&self, graph: &Arc<Record>, index: i64) -> Result<Arc<Record>, Refusal> {
        let mut all = Engine::all(&Problem::new(graph, self.profile.arch)?, self.profile.arch);
        let place = all.iter().position(|engine| i64::from(engine.index) == index);
        let everywhere = || all.iter().position(|engine| engine.index == 0);
        let place = place.or_else(everywhere).ok_or(unsupported("no engine takes this graph"))?;
        Ok(configured(graph, all.swap_remove(place)))
    }

    /// The problem and the engine of a configuration.
    fn engine(&self, config: &Record) -> Result<(Problem, Engine), Refusal> {
        let engine = config.part(300)?;
        let problem = Problem::new(engine.part(1300)?, self.profile.arch)?;
        let all = Engine::all(&problem, self.profile.arch);
        let found = all.into_iter().find(|one| i64::from(one.index) == engine.number(1301, -1));
        found.map(|found| (problem, found)).ok_or(unsupported("the engine does not take this graph"))
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

    /// The refusal of a call, if the simulator was asked to refuse it.
    pub fn asked_to_refuse(&self, call: &str, engine: u32) -> Result<(), Refusal> {
        match heuristic::refused(&self.profile.faults, call, engine) {
            Some(status) => Err(Refusal(status, "the simulator was asked to refuse it")),
            None => Ok(()),
        }
    }

    pub fn execute_plan(&mut self, name: &str, handle: usize, plan: usize, pack: usize) -> Result<(), Refusal> {
        let stream = self.dnn_stream(name, handle)?;
        let (plan, pack) = (self.finalized(name, Kind::Plan, plan)?, self.finalized(name, Kind::VariantPack, pack)?);
        let stream = own(self, stream).map_err(|_| bad("the handle's stream has been destroyed"))?;
        let (problem, engine) = self.engine(plan.part(401)?)?;
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
            at: [address(problem.x.uid)?, address(problem.w.uid)?, address(problem.y.uid)?],
            extra: problem.extra().map(|image| address(image.uid)).collect::<Result<_, _>>()?,
            workspace: pack.number(1003, 0) as u64,
            workspace_bytes: engine.workspace(&problem),
            wavers: (!engine.is_deterministic()).then(|| self.streams.draw()),
            problem,
        };
        run.check()?;
        self.healthy().map_err(|_| Refusal(DnnStatus::EXECUTION_FAILED, "the device has failed"))?;
        if let Some(why) = run.conflict() {
            self.report.find(Finding::Overlap, format!("`{name}`: {why}, so that the result is not defined"));
        }
        if self.profile.faults.launch.fails() {
            return Err(Refusal(DnnStatus::EXECUTION_FAILED, "the simulator was asked to let a launch fail"));
        }
        self.taking(stream)
            .map_err(|_| Refusal(DnnStatus::EXECUTION_FAILED, "the capture of the handle's stream has failed"))?;
        if !self.captures.has(stream) {
            self.report.counts.products += 1;
        }
        self.submit(stream, name, None, Work::Convolution(Box::new(run)));
        Ok(())
    }
}
