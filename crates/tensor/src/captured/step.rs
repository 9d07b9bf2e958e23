//! `CapturedStep`: a function that runs eagerly a few times, is captured once as a graph, and from then on is launched.

use std::{fmt, marker::PhantomData, panic::Location};

use kiln_backend::{
    Backend, Buffer, CapturedWork, DType, Error, ErrorKind, Layout, RandomState, Result, View, ViewMut, refuse_capture,
};
use kiln_derive::located;
use smallvec::SmallVec;

use super::{
    record::{self, Effects},
    tree::TensorTree,
};
use crate::{
    autocast::{autocast_dtype, clear_cache},
    autograd::no_grad,
    creation::{advance_random_state, random_state, set_random_state},
    device::Device,
    storage::{Reading, Storage},
    tensor::Tensor,
};

/// Calls that run eagerly before a shape is captured: they load kernels, choose algorithms and create the optimizer's state.
const WARM_UP: usize = 3;
/// The most graphs of a step; each keeps its own memory.
const MAX_GRAPHS: usize = 4;

/// A function of a state and a batch, such as a training step, whose work is submitted to a GPU as one CUDA graph instead of
/// as many launches.
///
/// The first calls run the function eagerly. Then one call is captured: the function runs, and the work that it queues is
/// recorded in a graph instead. That call and all later ones copy their batch into the memory of the captured batch and launch
/// the graph, without running the function. The results are those of the function, bit for bit: random numbers, learning rates
/// that a scheduler changes, step counts of optimizers, statistics of batch normalization, gradients and versions of tensors
/// continue as if it had run. It corresponds to PyTorch's `torch.cuda.make_graphed_callables` and `torch.cuda.CUDAGraph`
/// (<https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs>). On the CPU the function always runs.
///
/// ```
/// use kiln_tensor::{CapturedStep, Device, Tensor, no_grad};
/// # fn main() -> kiln_tensor::Result<()> {
/// let device = Device::cuda_if_available();
/// let weight = Tensor::zeros([3, 8], device)?.requires_grad_(true)?;
/// let mut step = CapturedStep::new(device, |(): &mut (), (x, y): &(Tensor, Tensor)| {
///     weight.zero_grad();
///     let loss = x.linear(&weight, None)?.sub(y)?.square()?.mean(())?;
///     loss.backward()?;
///     if let Some(grad) = weight.grad() {
///         no_grad(|| weight.sub_(&grad.mul(0.1)?))?;
///     }
///     Ok(loss)
/// });
/// let mut losses = Vec::new();
/// for _batch in 0..6 {
///     let batch = (Tensor::randn([16, 8], device)?, Tensor::randn([16, 3], device)?);
///     losses.push(step.run(&mut (), &batch)?);
/// }
/// assert_eq!(losses.len(), 6);
/// # Ok(())
/// # }
/// ```
///
/// Pass the optimizer as the state, so that schedulers and checkpoints can use it between calls:
/// `|optimizer: &mut Adam, (x, y)| { …; optimizer.step()?; Ok(loss) }` and `step.run(&mut optimizer, &batch)`.
///
/// The work may depend on the shapes of the batch, on whether gradients are present, on training or evaluation mode, and on
/// hyperparameters of optimizers. If one of these differs from all captures, the function runs eagerly, and such calls get a
/// graph of their own when they recur ([`max_graphs`](CapturedStep::max_graphs)). Everything else on the host (a counter, a
/// loop variable, a field of a module) keeps the value that it had in the capture. Pass what varies as a tensor of the batch,
/// or number the variants ([`run_variant`](CapturedStep::run_variant)). What must happen on the host in every call
/// (schedulers, logs, checkpoints) belongs outside the function.
///
/// These cannot be captured: reading values (`item`, `to_vec`, printing), uploading values of the host, synchronization, work
/// on another device, and state that is created during the capture. They return [`ErrorKind::Capture`], with the operation and
/// the line that called it, or the step continues eagerly ([`eager_fallback`](CapturedStep::eager_fallback)). Tensors, layers
/// and optimizers stay usable after such an error.
///
/// Each call returns new tensors, without history. The next launch overwrites everything else that the function computes,
/// including gradients and tensors that it stores in variables: copy what you need for longer.
pub struct CapturedStep<S: ?Sized, B, T, F> {
    device: Device,
    body: F,
    warm_up: usize,
    max_graphs: usize,
    eager_fallback: bool,
    /// The cases that occurred, each with the number of its eager calls.
    cases: Vec<(Case, usize)>,
    graphs: Vec<Graph<T>>,
    /// Whether something could not be captured, so that the step stays eager. The warning has been printed.
    gave_up: bool,
    /// An empty list, whose memory the next batch uses.
    spare: Vec<Tensor>,
    types: PhantomData<fn(&mut S, &B)>,
}

/// What the work of a call depends on: the variant, the dtype of autocast, and the dtype and layout of each tensor.
#[derive(Clone, PartialEq)]
struct Case(u64, Option<DType>, Vec<(DType, Layout)>);

impl Case {
    fn new(variant: u64, inputs: &[Tensor]) -> Case {
        let tensors = inputs.iter().map(|input| (input.dtype(), at_start(input.layout()))).collect();
        Case(variant, autocast_dtype(), tensors)
    }

    /// Whether a call with these inputs is one, without making a case of it.
    fn is_of(&self, variant: u64, inputs: &[Tensor]) -> bool {
        let Case(own, low, tensors) = self;
        // A layout of a case has no gaps, so most inputs are compared as they are.
        let fits = |(input, (dtype, layout)): (&Tensor, &(DType, Layout))| {
            input.dtype() == *dtype && (input.layout() == layout || at_start(input.layout()) == *layout)
        };
        (*own, *low, tensors.len()) == (variant, autocast_dtype(), inputs.len()) && inputs.iter().zip(tensors).all(fits)
    }
}

struct Graph<T> {
    case: Case,
    work: Box<dyn CapturedWork>,
    /// The batch of the capture, into which launches copy theirs.
    _inputs: Vec<Tensor>,
    /// The result of the capture, and its tensors.
    result: T,
    outputs: Vec<Tensor>,
    effects: Effects,
    /// How many counter blocks of random numbers the step draws.
    drawn: u64,
    /// The address of the state that was captured, which is the state that launches change.
    state: usize,
    /// How many calls of its case in a row it could not serve.
    missed: usize,
}

/// After this many calls of its case that it could not serve, a graph is replaced by another one.
const MISSED: usize = 8;

impl<S: ?Sized, B, T, F> fmt::Debug for CapturedStep<S, B, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapturedStep({}, {} graphs)", self.device, self.graphs.len())
    }
}

#[located(site)]
impl<S: ?Sized, B: TensorTree, T: TensorTree, F: FnMut(&mut S, &B) -> Result<T>> CapturedStep<S, B, T, F> {
    /// A step on a device, to which batches are moved. The state is what calls change and what is also used outside of the
    /// function, such as the optimizer; `()` if there is none.
    pub fn new(device: Device, body: F) -> CapturedStep<S, B, T, F> {
        CapturedStep {
            device,
            body,
            warm_up: WARM_UP,
            max_graphs: MAX_GRAPHS,
            eager_fallback: false,
            cases: Vec::new(),
            graphs: Vec::new(),
            gave_up: false,
            spare: Vec::new(),
            types: PhantomData,
        }
    }

    /// Sets how many calls with a shape run eagerly before it is captured: 3 by default, and at least 1.
    #[must_use]
    pub fn warm_up(self, calls: usize) -> CapturedStep<S, B, T, F> {
        CapturedStep { warm_up: calls.max(1), ..self }
    }

    /// Sets how many graphs there may be: 4 by default. Each keeps the memory that a step needs. Once there are this many, other
    /// shapes (such as the last batch of an epoch) run eagerly. With 0, all calls run eagerly.
    #[must_use]
    pub fn max_graphs(self, graphs: usize) -> CapturedStep<S, B, T, F> {
        CapturedStep { max_graphs: graphs, ..self }
    }

    /// Sets whether a step that cannot be captured continues eagerly instead of failing, with a warning on standard error. The
    /// function runs twice in the call whose capture failed.
    #[must_use]
    pub fn eager_fallback(self, fallback: bool) -> CapturedStep<S, B, T, F> {
        CapturedStep { eager_fallback: fallback, ..self }
    }

    /// How many graphs have been captured.
    #[must_use]
    pub fn graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Runs the function, or launches its graph.
    ///
    /// # Errors
    /// Those of the function; [`ErrorKind::Capture`] if it does something that cannot be captured; or if memory runs out or the
    /// driver fails.
    pub fn run(&mut self, state: &mut S, batch: &B) -> Result<T> {
        self.run_variant(0, state, batch)
    }

    /// [`run`](CapturedStep::run) for a function whose work also depends on something other than its batch: `variant` numbers
    /// the possibilities, each of which is captured separately. Gradient accumulation has two:
    /// `step.run_variant(u64::from(is_last), …)`.
    ///
    /// # Errors
    /// Those of [`run`](CapturedStep::run).
    pub fn run_variant(&mut self, variant: u64, state: &mut S, batch: &B) -> Result<T> {
        let mut inputs = self.inputs(batch)?;
        if self.gave_up || self.max_graphs == 0 || !self.device.backend()?.can_capture() {
            return self.eager(state, batch, inputs);
        }
        let address = address_of(state);
        let fits =
            |graph: &Graph<T>| graph.state == address && graph.case.is_of(variant, &inputs) && graph.effects.hold();
        if let Some(graph) = self.graphs.iter_mut().find(|graph| fits(graph)) {
            graph.missed = 0;
            let result = graph.launch(self.device, &inputs, false);
            inputs.clear();
            self.spare = inputs;
            return result;
        }
        let case = Case::new(variant, &inputs);
        self.graphs.iter_mut().filter(|graph| graph.case == case).for_each(|graph| graph.missed += 1);
        self.graphs.retain(|graph| !graph.effects.are_stale());
        let at = match self.cases.iter().position(|(known, _)| *known == case) {
            Some(at) => at,
            None => {
                self.cases.push((case.clone(), 0));
                self.cases.len() - 1
            }
        };
        let of_case = self.graphs.iter().any(|graph| graph.case == case);
        let needed = if of_case { 1 } else { self.warm_up };
        let out_of_use = self.graphs.iter().position(|graph| graph.case == case && graph.missed >= MISSED);
        if self.cases[at].1 < needed || (self.graphs.len() >= self.max_graphs && out_of_use.is_none()) {
            self.cases[at].1 += 1;
            return self.eager(state, batch, inputs);
        }
        if self.graphs.len() >= self.max_graphs
            && let Some(at) = out_of_use
        {
            self.graphs.remove(at);
        }
        match self.capture(case, state, batch, &inputs) {
            Ok(mut graph) => {
                // Another graph of this case, for other conditions, needs eager calls of its own first.
                self.cases[at].1 = 0;
                let result = graph.launch(self.device, &inputs, true);
                if result.is_err() {
                    graph.effects.undo();
                    advance_random_state(graph.drawn.wrapping_neg());
                } else {
                    self.graphs.push(graph);
                }
                result
            }
            Err(error) if self.eager_fallback && is_of_capture(&error) => {
                self.gave_up = true;
                let place = error.location().map_or_else(String::new, |at: &Location<'_>| format!(" at {at}"));
                eprintln!("kiln: the step runs eagerly, because it cannot be captured: {error}{place}");
                self.eager(state, batch, inputs)
            }
            Err(error) => Err(error),
        }
    }

    /// The tensors of a batch on the device.
    fn inputs(&mut self, batch: &B) -> Result<Vec<Tensor>> {
        let mut inputs = std::mem::take(&mut self.spare);
        batch.tensors(&mut inputs);
        for input in &mut inputs {
            if input.device() != self.device {
                *input = input.to_device(self.device)?;
            }
        }
        Ok(inputs)
    }

    fn eager(&mut self, state: &mut S, batch: &B, inputs: Vec<Tensor>) -> Result<T> {
        let result = (self.body)(state, &batch.with_tensors(&mut inputs.into_iter()))?;
        let mut tensors = Vec::new();
        result.tensors(&mut tensors);
        Ok(result.with_tensors(&mut tensors.into_iter().map(|tensor| tensor.detach())))
    }

    fn capture(&mut self, case: Case, state: &mut S, batch: &B, like: &[Tensor]) -> Result<Graph<T>> {
        let backend = self.device.backend()?;
        let inputs = like.iter().map(|input| room_for(self.device, backend, input)).collect::<Result<Vec<_>>>()?;
        let random = random_state();
        backend.begin_capture(RandomState { seed: random.0, offset: random.1 })?;
        record::begin(self.device);
        let guard = Cancel(backend);
        // Copies of parameters that were made before are no part of the work.
        clear_cache();
        let result = (self.body)(state, &batch.with_tensors(&mut inputs.iter().cloned())).and_then(|result| {
            let mut outputs = Vec::new();
            result.tensors(&mut outputs);
            let own = |output: Tensor| no_grad(|| output.detach().to_device(self.device)?.contiguous());
            let outputs = outputs.into_iter().map(own).collect::<Result<Vec<_>>>()?;
            Ok((result.with_tensors(&mut outputs.iter().cloned()), outputs))
        });
        let after = random_state();
        if result.is_ok() && after.0 != random.0 {
            drop(refuse_capture("manual_seed", "every launch would restart the random numbers"));
        }
        let captured = result.and_then(|(result, outputs)| {
            let (ins, outs): (Vec<_>, Vec<_>) =
                (inputs.iter().map(Tensor::read).collect(), outputs.iter().map(Tensor::read).collect());
            let work = backend.end_capture(&views(&ins), &views(&outs))?;
            drop((ins, outs));
            Ok((work, result, outputs))
        });
        drop(guard);
        // Those that are part of it have no values before a launch.
        clear_cache();
        let record = record::end();
        match (captured, record) {
            (Ok((work, result, outputs)), Some(record)) => {
                let (effects, drawn) = (record.finish(), after.1.wrapping_sub(random.1));
                let state = address_of(state);
                Ok(Graph { case, work, _inputs: inputs, result, outputs, effects, drawn, state, missed: 0 })
            }
            (captured, record) => {
                if let Some(record) = record {
                    record.undo();
                }
                set_random_state(random);
                Err(captured.err().unwrap_or_else(|| Error::argument("CapturedStep", "the function ended the capture")))
            }
        }
    }
}

/// Cancels the capture if the function returns an error or panics.
struct Cancel(&'static dyn Backend);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancel_capture();
        if std::thread::panicking()
            && let Some(record) = record::end()
        {
            record.undo();
        }
    }
}

/// The address of a state; 0 for types without size, whose addresses mean nothing.
fn address_of<S: ?Sized>(state: &S) -> usize {
    if size_of_val(state) == 0 { 0 } else { std::ptr::from_ref(state).cast::<()>() as usize }
}

fn views<'a>(readings: &'a [Reading<'_>]) -> Vec<View<'a>> {
    readings.iter().map(Reading::view).collect()
}

/// Whether an error concerns capturing, so that the step may succeed eagerly, rather than the function itself.
fn is_of_capture(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Capture { .. } | ErrorKind::OutOfMemory { .. } | ErrorKind::Unsupported { .. } | ErrorKind::Other(_)
    )
}

/// Whether the elements fill their memory without gaps, in any order of dimensions.
fn is_dense(layout: &Layout) -> bool {
    let span = layout.span().map_or(0, |span| span.len());
    span == layout.numel() && !layout.may_overlap() && layout.strides().iter().all(|&stride| stride >= 0)
}

/// The layout of a copy of a tensor: its own if that has no gaps, else row-major.
fn at_start(layout: &Layout) -> Layout {
    if is_dense(layout)
        && let Ok(own) = Layout::strided(*layout.shape(), layout.strides(), 0)
    {
        return own;
    }
    Layout::contiguous(*layout.shape())
}

/// A tensor into which tensors like this one can be copied.
fn room_for(device: Device, backend: &'static dyn Backend, like: &Tensor) -> Result<Tensor> {
    let buffer = backend.alloc(like.dtype(), like.numel())?;
    Ok(Tensor::from_storage(Storage::new(device, backend, buffer), at_start(like.layout())))
}

impl<T: TensorTree> Graph<T> {
    /// Queues the graph. `first` is true for the call that was captured.
    fn launch(&mut self, device: Device, inputs: &[Tensor], first: bool) -> Result<T> {
        let backend = device.backend()?;
        self.effects.before()?;
        let dense = |(input, (_, layout)): (&Tensor, &(DType, Layout))| {
            let is_dense = input.layout() == layout || is_dense(input.layout());
            if is_dense { Ok(None) } else { no_grad(|| input.contiguous()).map(Some) }
        };
        let copies = inputs.iter().zip(&self.case.2).map(dense).collect::<Result<SmallVec<[Option<Tensor>; 4]>>>()?;
        let mut results = self
            .outputs
            .iter()
            .map(|output| Ok((backend.alloc(output.dtype(), output.numel())?, *output.layout())))
            .collect::<Result<SmallVec<[(Box<dyn Buffer>, Layout); 2]>>>()?;
        let (seed, offset) = random_state();
        // The capture has advanced the position already.
        let begin = if first { offset.wrapping_sub(self.drawn) } else { offset };
        {
            let dense = inputs.iter().zip(&copies).map(|(input, copy)| copy.as_ref().unwrap_or(input));
            let readings: SmallVec<[Reading<'_>; 4]> = dense.map(Tensor::read).collect();
            let views: SmallVec<[View<'_>; 4]> = readings.iter().map(Reading::view).collect();
            let mut outs: SmallVec<[ViewMut<'_>; 2]> =
                results.iter_mut().map(|(buffer, layout)| ViewMut { buffer: &mut **buffer, layout }).collect();
            self.work.launch(&views, &mut outs, RandomState { seed, offset: begin })?;
        }
        if first {
            self.effects.settle();
        } else {
            advance_random_state(self.drawn);
            self.effects.after();
        }
        let results = results
            .into_iter()
            .map(|(buffer, layout)| Tensor::from_storage(Storage::new(device, backend, buffer), layout));
        Ok(self.result.with_tensors(&mut results.into_iter()))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    #[test]
    fn on_the_cpu_the_function_just_runs() -> Result<()> {
        let (mut calls, mut total) = (0, 0.0f32);
        let mut step = CapturedStep::new(Device::Cpu, |total: &mut f32, x: &Tensor| {
            calls += 1;
            *total += x.item::<f32>()?;
            x.clone().requires_grad_(true)?.mul(2.0)
        });
        for value in 0..6 {
            let y = step.run(&mut total, &Tensor::new(value as f32, Device::Cpu)?)?;
            assert_eq!(y.item::<f32>()?, 2.0 * value as f32);
            assert!(!y.requires_grad(), "results have no history");
        }
        assert_eq!(step.graphs(), 0);
        drop(step);
        assert_eq!((calls, total), (6, 15.0));
        Ok(())
    }

    #[test]
    fn copies_have_the_layout_of_what_has_no_gaps() -> Result<()> {
        let x = Tensor::rand([3, 4, 5], Device::Cpu)?;
        let layout = |x: &Tensor| at_start(x.layout());
        assert_eq!(layout(&x.transpose(0, 2)?).strides(), x.transpose(0, 2)?.strides());
        let (second, first) = (layout(&x.select(0, 1)?), x.select(0, 0)?);
        assert_eq!((second.strides(), second.offset()), (first.strides(), 0));
        assert_eq!(layout(&x.narrow(1, 0, 2)?).strides(), [10, 5, 1]);
        assert_eq!(layout(&x.narrow(0, 0, 1)?.expand([3, 4, 5])?).strides(), [20, 5, 1]);
        Ok(())
    }
}
