//! What a graph computes, and the engines that there are for it.
use super::attention::problem::{Attention, Pass};
use super::attributes::{Kind, Record};
use super::heuristic::{Engine, FALLBACK};
use super::operation::Direction;
use super::problem::Problem;
use super::status::Refusal;

/// A computation that the library has engines for.
pub enum Computation {
    Convolution(Problem),
    Attention(Attention),
}

impl Computation {
    /// That of a graph, by the patterns that there are.
    pub fn new(graph: &Record, arch: u32) -> Result<Computation, Refusal> {
        if graph.parts(801).iter().any(|operation| operation.kind == Kind::ProductOperation) {
            return Attention::new(graph, arch).map(Computation::Attention);
        }
        Problem::new(graph, arch).map(Computation::Convolution)
    }

    /// All engines that take it, best first.
    pub fn engines(&self, arch: u32) -> Vec<Engine> {
        match self {
            Computation::Convolution(problem) => Engine::all(problem, arch),
            Computation::Attention(problem) => Engine::of_attention(problem),
        }
    }

    /// The heuristic's proposals, by mode.
    pub fn proposed(&self, arch: u32, mode: i64) -> Vec<Engine> {
        match self {
            Computation::Convolution(problem) => Engine::proposed(problem, arch, mode),
            // There is nothing to fall back to.
            Computation::Attention(_) if mode == FALLBACK => Vec::new(),
            Computation::Attention(problem) => Engine::of_attention(problem),
        }
    }

    /// Bytes of workspace of an engine for it.
    pub fn workspace(&self, engine: &Engine) -> usize {
        match self {
            Computation::Convolution(problem) => engine.workspace(problem),
            Computation::Attention(problem) => problem.workspace(),
        }
    }

    /// Its name in requests to refuse a call.
    pub fn name(&self) -> &'static str {
        match self {
            Computation::Convolution(problem) => match problem.direction {
                Direction::Forward => "forward",
                Direction::Data => "data",
                Direction::Filter => "filter",
            },
            Computation::Attention(problem) => match problem.pass {
                Pass::Forward => "attention",
                Pass::Backward => "attention_grad",
            },
        }
    }
}
