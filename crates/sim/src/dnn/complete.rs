//! What finalization adds to a descriptor: an engine's notes, a heuristic's proposals, a plan's workspace and text.
use std::sync::Arc;

use super::attributes::{Kind, Record};
use super::computation::Computation;
use super::heuristic::{self, Engine};
use super::plan_text;
use super::status::{Refusal, unsupported};
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
    /// Completes a descriptor that passed the checks.
    pub fn complete(&mut self, record: &mut Record) -> Result<(), Refusal> {
        match record.kind {
            Kind::Graph => record.put(802, vec![heuristic::ENGINES]),
            Kind::Heuristic => self.propose(record)?,
            Kind::Engine => {
                let (graph, index) = (record.part(1300)?, record.number(1301, -1));
                if !(0..heuristic::ENGINES).contains(&index) {
                    return Err(unsupported("a graph has no such engine"));
                }
                if let Ok((_, engine)) = self.engine(graph, index) {
                    engine.describe(record);
                }
            }
            Kind::EngineConfig => {
                self.configured_engine(record)?;
            }
            Kind::Plan => {
                self.asked_to_refuse("plan", 0)?;
                let device = plan_text::device(record, &self.profile);
                if !record.numbers(405).is_empty() {
                    self.asked_to_refuse("text", 0)?;
                    let (graph, index) = plan_text::read(record.numbers(405), device)?;
                    // The last engine stands for those that only the real library has.
                    let engine = self.engine(&graph, index).map(|(_, engine)| engine);
                    let engine = engine.or_else(|refused| self.engines(&graph)?.pop().ok_or(refused));
                    record.put_parts(401, vec![configured(&graph, &engine?)]);
                }
                let (computation, engine) = self.configured_engine(record.part(401)?)?;
                record.put(402, vec![computation.workspace(&engine) as i64]);
                // A plan without a text can still be executed.
                record.put(405, plan_text::write(record, device).unwrap_or_default());
            }
            _ => {}
        }
        Ok(())
    }

    /// The heuristic's proposals; empty if no engine takes the graph.
    fn propose(&mut self, record: &mut Record) -> Result<(), Refusal> {
        record.part(201)?;
        let graph = record.parts(201)[0].clone();
        self.asked_to_refuse("heuristic", 0)?;
        let arch = self.profile.arch;
        let computation = Computation::new(&graph, arch);
        if let Err(Refusal(_, why)) = &computation {
            self.report.refusals.insert(format!("no engine takes a graph: {why}"));
        }
        let last_too = self.asked_to_refuse("nhwc", 0).is_ok();
        let computation = computation.ok().filter(|computation| match computation {
            Computation::Convolution(problem) => last_too || !problem.channels_last(),
            Computation::Attention(_) => true,
        });
        let proposed = computation.map(|computation| computation.proposed(arch, record.number(200, 0)));
        record.put_parts(202, proposed.iter().flatten().map(|engine| configured(&graph, engine)).collect());
        Ok(())
    }

    /// The engines that take a graph.
    fn engines(&self, graph: &Record) -> Result<Vec<Engine>, Refusal> {
        let arch = self.profile.arch;
        Computation::new(graph, arch).map(|computation| computation.engines(arch))
    }

    /// What a graph computes, and the engine of this number, if it takes that.
    fn engine(&self, graph: &Record, index: i64) -> Result<(Computation, Engine), Refusal> {
        let computation = Computation::new(graph, self.profile.arch)?;
        let mut all = computation.engines(self.profile.arch).into_iter();
        let found = all.find(|engine| i64::from(engine.index) == index);
        found.map(|found| (computation, found)).ok_or(unsupported("the engine does not take this graph"))
    }

    pub fn configured_engine(&self, config: &Record) -> Result<(Computation, Engine), Refusal> {
        let engine = config.part(300)?;
        self.engine(engine.part(1300)?, engine.number(1301, -1))
    }
}
