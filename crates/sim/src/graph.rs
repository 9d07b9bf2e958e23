//! Instantiates, updates and launches graphs. A launch queues the nodes' work in as many streams as the graph has branches,
//! with the addresses and arguments of the nodes; the contents of the memory are those at the time of the launch.
use std::rc::Rc;

use crate::graphs::{Exec, Graph, Node, NodeWork, Step, flat};
use crate::kind::Kind;
use crate::status::Status;
use crate::stream_id::StreamId;
use crate::work::{Place, Work};
use crate::world::World;

impl World {
    /// The allocations that an operation names, as far as is known before it runs.
    fn allocations_of(&self, work: &Work) -> Vec<(u64, usize)> {
        let (reads, writes) = work.ranges();
        let mut named: Vec<u64> = reads.iter().chain(&writes).map(|range| range.begin).collect();
        if let Work::Kernel(kernel) = work {
            named.extend(kernel.words());
        }
        let mut found: Vec<(u64, usize)> = named
            .into_iter()
            .filter_map(|address| self.memory.find(address, 1))
            .map(|one| (one.begin, one.bytes))
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn steps(&self, graph: &Graph) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        // The last node of each branch.
        let mut tails: Vec<usize> = Vec::new();
        for Node { handle, name, work, needs } in flat(&graph.nodes) {
            let NodeWork::Queued(work) = work else { continue };
            let at = steps.len();
            let lane = tails.iter().position(|tail| needs.contains(tail)).unwrap_or(tails.len());
            if lane == tails.len() {
                tails.push(at);
            }
            tails[lane] = at;
            let uses = self.allocations_of(&work);
            steps.push(Step { handle, name, work, needs, lane, uses });
        }
        steps
    }

    pub fn instantiate(&mut self, graph: usize) -> Result<Exec, Status> {
        let graph = self.graphs.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?;
        let (device, steps) = (graph.device, self.steps(graph));
        let count = steps.iter().map(|step| step.lane + 1).max().unwrap_or(0);
        let lanes: Vec<StreamId> = (1..count).map(|_| self.handle()).collect();
        lanes.iter().for_each(|&lane| self.streams.add(lane, device, false, 0));
        Ok(Exec { device, steps, lanes })
    }

    /// Updates an executable graph with the arguments of a graph of the same topology; returns a
    /// `CUgraphExecUpdateResult`.
    pub fn update_exec(&mut self, exec: usize, graph: usize) -> Result<i32, Status> {
        const TOPOLOGY_CHANGED: i32 = 2;
        const NODE_TYPE_CHANGED: i32 = 3;
        const PARAMETERS_CHANGED: i32 = 5;
        let graph = self.graphs.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?;
        let new = self.steps(graph);
        let exec = self.graphs.execs.get_mut(&exec).ok_or(Status::INVALID_VALUE)?;
        let alike = exec.steps.len() == new.len() && exec.steps.iter().zip(&new).all(|(a, b)| a.needs == b.needs);
        if !alike {
            return Ok(TOPOLOGY_CHANGED);
        }
        let pairs = || exec.steps.iter().zip(&new).map(|(old, new)| (&old.work, &new.work));
        if pairs().any(|(old, new)| std::mem::discriminant(old) != std::mem::discriminant(new)) {
            return Ok(NODE_TYPE_CHANGED);
        }
        let kept = |place: &Place, other: &Place| std::mem::discriminant(place) == std::mem::discriminant(other);
        let changed = |(old, new): (&Work, &Work)| match (old, new) {
            (Work::Copy { from, to, .. }, Work::Copy { from: new_from, to: new_to, .. }) => {
                !kept(from, new_from) || !kept(to, new_to)
            }
            _ => false,
        };
        if pairs().any(changed) {
            return Ok(PARAMETERS_CHANGED);
        }
        for (old, new) in exec.steps.iter_mut().zip(new) {
            // Nodes keep the handles of the graph that was instantiated.
            *old = Step { handle: old.handle, lane: old.lane, ..new };
        }
        Ok(0)
    }

    /// Sets the addresses of a copy in an executable graph.
    pub fn set_copy(&mut self, exec: usize, node: usize, work: Work) -> Result<(), Status> {
        let uses = self.allocations_of(&work);
        let exec = self.graphs.execs.get_mut(&exec).ok_or(Status::INVALID_VALUE)?;
        let step = exec.steps.iter_mut().find(|step| step.handle == node).ok_or(Status::INVALID_VALUE)?;
        if !matches!(step.work, Work::Copy { .. }) {
            return Err(Status::INVALID_VALUE);
        }
        (step.work, step.uses) = (work, uses);
        Ok(())
    }

    /// Queues the work of a graph, after the work queued in the stream and before what is queued there next.
    pub fn launch_graph(&mut self, exec: usize, stream: StreamId) -> Result<(), Status> {
        const NAME: &str = "cuGraphLaunch";
        let found = self.graphs.execs.get(&exec).ok_or(Status::INVALID_VALUE)?;
        if found.device != self.streams.device(stream) {
            return Err(Status::INVALID_VALUE);
        }
        if self.captures.has(stream) {
            let nodes = found.steps.iter().map(|step| Node {
                handle: step.handle,
                name: step.name.clone(),
                work: NodeWork::Queued(step.work.clone()),
                needs: step.needs.clone(),
            });
            let (nodes, handle) = (nodes.collect(), self.handle());
            self.captures.add_graph(stream, nodes, handle);
            return Ok(());
        }
        let gone = found.steps.iter().find_map(|step| {
            let gone = step.uses.iter().find(|(begin, _)| self.memory.starting(*begin).is_none())?;
            Some((step.name.clone(), *gone))
        });
        if let Some((name, (begin, bytes))) = gone {
            let text = format!(
                "`{NAME}`: `{name}` uses {bytes} bytes at {begin:#x}, which have been freed since they were captured"
            );
            self.report.find(Kind::StaleGraph, text);
        }
        self.report.counts.graph_launches += 1;
        self.report.queued(NAME);
        let work: Vec<(Rc<str>, Work, Vec<usize>, usize)> = found
            .steps
            .iter()
            .map(|step| (step.name.clone(), step.work.clone(), step.needs.clone(), step.lane))
            .collect();
        let lanes: Vec<StreamId> = [stream].into_iter().chain(found.lanes.iter().copied()).collect();
        let mut moments = Vec::with_capacity(work.len());
        let begin = self.enqueue(stream, NAME, None, Work::Mark(None));
        let begin = (begin, self.streams.clock(stream));
        for &lane in &lanes[1..] {
            self.enqueue(lane, NAME, Some(&begin), Work::Mark(None));
        }
        for (name, mut work, needs, lane) in work {
            let wavers = match &mut work {
                Work::Convolution(convolution) => convolution.wavers.as_mut(),
                Work::Attention(attention) => attention.wavers.as_mut(),
                _ => None,
            };
            if let Some(seed) = wavers {
                *seed = self.streams.draw();
            }
            let lane = lanes[lane];
            let others: Vec<_> = needs
                .iter()
                .map(|need| &moments[*need])
                .filter(|(on, _): &&(StreamId, _)| *on != lane)
                .cloned()
                .collect();
            for (_, after) in &others {
                self.enqueue(lane, NAME, Some(after), Work::Mark(None));
            }
            let moment = self.enqueue(lane, &name, None, work);
            moments.push((lane, (moment, self.streams.clock(lane))));
        }
        for &lane in &lanes[1..] {
            let end = (self.streams.tail(lane), self.streams.clock(lane));
            self.enqueue(stream, NAME, Some(&end), Work::Mark(None));
        }
        Ok(())
    }
}
