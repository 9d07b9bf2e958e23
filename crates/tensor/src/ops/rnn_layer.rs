//! Layers of LSTM and GRU over all steps of a sequence, as one node of the tape; `elman.rs` has those without gates.
//!
//! A step is a product with the hidden state and one fused cell, in both directions. What does not depend on the order of
//! steps is done at once: the gradient of the recurrent weight is one product over all steps, and that of the inputs'
//! products is written in place, step by step.

use kiln_backend::{Error, GatedCell, Result, SAVED_GATES};
use kiln_derive::located;

mod elman;

use super::{
    check,
    linear::{forward as linear, parameter_gradients},
    matmul::product,
    rnn_cell::{StepGrads, advance, check_product, plain, retreat},
};
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, Grads, is_recorded, is_tracing, no_grad, record_all},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// An LSTM over a sequence, from the products of its input weight with all inputs (this tensor), `[L, N, 4 * H]`, biases
    /// included, the initial hidden and cell states `h` and `c`, `[N, H]` each, and the recurrent weight `[4 * H, H]`; with
    /// `reverse` from the last step to the first. Returns the hidden states of all steps, `[L, N, H]`, in the order of the
    /// sequence, and the final hidden and cell states. Each step is an [`lstm_cell`](Tensor::lstm_cell).
    ///
    /// # Errors
    /// If there are no steps, the shapes do not fit, or the operands are not of one floating-point dtype on one device.
    pub fn lstm_layer(
        &self,
        h: &Tensor,
        c: &Tensor,
        weight: &Tensor,
        reverse: bool,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        cast_operands(GatedCell::Lstm.name(), [self, h, weight, c], [], |[x, h, weight, c], []| {
            let layer = Layer { cell: GatedCell::Lstm, direction: Direction { reverse }, has_bias: false };
            let (y, h, next) = layer.run(&[x, h, weight, c])?;
            // A layer of an LSTM always has a cell state.
            Ok((y, h, next.unwrap_or_else(|| c.clone())))
        })
        .map_err(|error| error.of_op("lstm_layer"))
    }

    /// A GRU over a sequence, from the products of its input weight with all inputs (this tensor), `[L, N, 3 * H]`, bias
    /// included, the initial hidden state `h`, `[N, H]`, the recurrent weight `[3 * H, H]` and its bias `[3 * H]`; with
    /// `reverse` from the last step to the first. Returns the hidden states of all steps, `[L, N, H]`, in the order of the
    /// sequence, and the final one. Each step is a [`gru_cell`](Tensor::gru_cell).
    ///
    /// # Errors
    /// If there are no steps, the shapes do not fit, or the operands are not of one floating-point dtype on one device.
    pub fn gru_layer(
        &self,
        h: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        reverse: bool,
    ) -> Result<(Tensor, Tensor)> {
        cast_operands(GatedCell::Gru.name(), [self, h, weight], [bias], |[x, h, weight], [bias]| {
            let layer = Layer { cell: GatedCell::Gru, direction: Direction { reverse }, has_bias: bias.is_some() };
            let inputs: Vec<&Tensor> = [x, h, weight].into_iter().chain(bias).collect();
            layer.run(&inputs).map(|(y, h, _)| (y, h))
        })
        .map_err(|error| error.of_op("gru_layer"))
    }
}

/// The order of the steps of a layer, and where its states lie: the initial one and those that steps write, `[L + 1, N, H]`, in the
/// order of the sequence.
#[derive(Clone, Copy)]
struct Direction {
    reverse: bool,
}

impl Direction {
    /// The places of a step among the states: the one that it reads, and the one that it writes.
    fn places(self, step: usize) -> (i64, i64) {
        let step = step as i64;
        if self.reverse { (step + 1, step) } else { (step, step + 1) }
    }

    /// The place of the initial state.
    fn initial(self, steps: usize) -> i64 {
        if self.reverse { steps as i64 } else { 0 }
    }

    /// The steps in the order in which they are made.
    fn order(self, steps: usize) -> impl DoubleEndedIterator<Item = usize> + ExactSizeIterator {
        (0..steps).map(move |i| if self.reverse { steps - 1 - i } else { i })
    }

    /// The states before each step.
    fn before(self, states: &Tensor, steps: usize) -> Result<Tensor> {
        states.narrow(0, usize::from(self.reverse), steps)
    }

    /// The states after each step.
    fn after(self, states: &Tensor, steps: usize) -> Result<Tensor> {
        states.narrow(0, usize::from(!self.reverse), steps)
    }
}

/// What is at a place of states, or of what steps have one of.
fn at(tensor: &Tensor, place: i64) -> Result<Tensor> {
    Ok(tensor.select(0, place)?.detach())
}

/// The rows of all steps, `[L * N, …]`.
fn rows(tensor: &Tensor) -> Result<Tensor> {
    tensor.flatten(0, 1)
}

/// A layer in one direction. Its inputs are the inputs' products, the hidden state, the weight, and then the cell state of an
/// LSTM or the bias of a GRU, if it has one.
#[derive(Clone, Copy)]
struct Layer {
    cell: GatedCell,
    direction: Direction,
    has_bias: bool,
}

/// Where saved tensors that are not inputs begin: the states, the saved gates, and the cell states after each step.
const STATES: usize = 4;

impl Layer {
    fn check(self, inputs: &[&Tensor]) -> Result<()> {
        let op = self.cell.name();
        let [x, h, weight, ..] = inputs else { return Err(Error::argument(op, "operands are missing")) };
        let Some(steps @ 1..) = x.dims().first().copied() else {
            return Err(Error::shape(op, "products of at least one step, [L, N, gates * H]", x.shape()));
        };
        check_product(self.cell, x, h, &[steps])?;
        check::same_kind(op, h, &inputs[2..])?;
        let features = h.dims()[1];
        let rows = self.cell.gates() * features;
        if weight.dims() != [rows, features] {
            return Err(Error::shape(op, format!("a recurrent weight [{rows}, {features}]"), weight.shape()));
        }
        let (what, dims) = match self.cell {
            GatedCell::Lstm => ("a cell state", h.dims()),
            GatedCell::Gru => ("a recurrent bias", &[rows][..]),
        };
        match inputs.get(3) {
            Some(last) if last.dims() != dims => Err(Error::shape(op, format!("{what} {dims:?}"), last.shape())),
            _ => Ok(()),
        }
    }

    /// The hidden states, the final one, and the final cell state of an LSTM.
    fn run(self, inputs: &[&Tensor]) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        self.check(inputs)?;
        if is_tracing() {
            return self.plain(&inputs.iter().map(|&input| input.clone()).collect::<Vec<_>>());
        }
        let recorded = is_recorded(inputs);
        let Made { states, saved, cells, last } = no_grad(|| self.forward(inputs, recorded))?;
        let y = no_grad(|| self.direction.after(&states, inputs[0].dims()[0]))?.detach();
        let outs: Vec<&Tensor> = [&y, &last].into_iter().chain(cells.last()).collect();
        // A weight in the place of an input that is not there keeps the numbers of the others.
        let fourth = inputs.get(3).copied().unwrap_or(inputs[2]);
        let mut kept: Vec<&Tensor> = vec![inputs[0], inputs[1], inputs[2], fourth];
        kept.extend([Some(&states), saved.as_ref()].into_iter().flatten().chain(&cells));
        let name = match self.cell {
            GatedCell::Lstm => "LstmLayerBackward0",
            GatedCell::Gru => "GruLayerBackward0",
        };
        record_all(&outs, name, inputs, &kept, move |ctx| self.gradients(ctx))?;
        let cell = cells.last().cloned();
        Ok((y, last, cell))
    }

    fn forward(self, inputs: &[&Tensor], recorded: bool) -> Result<Made> {
        let [x, h, weight] = [inputs[0], inputs[1], inputs[2]];
        let bias = inputs.get(3).copied().filter(|_| self.has_bias);
        let (steps, n, features) = (x.dims()[0], h.dims()[0], h.dims()[1]);
        let states = Tensor::empty([steps + 1, n, features], h.options())?;
        let saved = if recorded { Some(Tensor::empty([steps, n, SAVED_GATES * features], h.options())?) } else { None };
        at(&states, self.direction.initial(steps))?.copy_(h)?;
        let mut cells: Vec<Tensor> = Vec::new();
        let mut state = if self.cell == GatedCell::Lstm { inputs[3].clone() } else { h.clone() };
        let mut last = state.clone();
        for step in self.direction.order(steps) {
            let (from, to) = self.direction.places(step);
            let hidden = linear(&at(&states, from)?, weight, bias, false, false)?.0;
            // Memory of its own: a primitive cannot read and write one block.
            let next = Tensor::empty(*h.shape(), h.options())?;
            let saved = saved.as_ref().map(|saved| at(saved, step as i64)).transpose()?;
            last = at(&states, to)?;
            advance(self.cell, [&x.select(0, step as i64)?, &hidden, &state], &last, Some(&next), saved.as_ref())?;
            if self.cell == GatedCell::Lstm {
                if !recorded {
                    cells.clear();
                }
                cells.push(next.clone());
            }
            state = next;
        }
        // Of its own as well, since `y` may be changed in place. That of a GRU is already.
        let last = if self.cell == GatedCell::Lstm { last.copy()? } else { state };
        Ok(Made { states, saved, cells, last })
    }

    fn gradients(self, ctx: &Ctx<'_>) -> Result<Grads> {
        let count = ctx.needs.len();
        if ctx.create_graph {
            let inputs = (0..count).map(|i| ctx.saved(i)).collect::<Result<Vec<_>>>()?;
            return ctx.composed_all(&inputs, |inputs| {
                let (y, h, c) = self.plain(inputs)?;
                Ok([Some(y), Some(h), c].into_iter().flatten().collect())
            });
        }
        let (h, weight) = (ctx.saved(1)?, ctx.saved(2)?);
        let (states, saved) = (ctx.saved(STATES)?, ctx.saved(STATES + 1)?);
        let (steps, n, features) = (saved.dims()[0], h.dims()[0], h.dims()[1]);
        let is_lstm = self.cell == GatedCell::Lstm;
        let of_x = Tensor::empty([steps, n, self.cell.gates() * features], h.options())?;
        let of_hidden = if is_lstm { None } else { Some(of_x.empty_like()?) };
        let of_y = ctx.grad_of(0);
        let (mut recurrent, mut carried) = (ctx.grad_of(1), ctx.grad_of(2));
        for (i, step) in self.direction.order(steps).enumerate().rev() {
            let (place, (from, _)) = (step as i64, self.direction.places(step));
            // The cell state after step `i` is number `i`; before the first one it is an input.
            let cell = |i: usize| ctx.saved(STATES + 2 + i);
            let state = match i.checked_sub(1) {
                _ if !is_lstm => at(&states, from)?,
                Some(before) => cell(before)?,
                None => ctx.saved(3)?,
            };
            let next = if is_lstm { Some(cell(i)?) } else { None };
            let of_y = of_y.as_ref().map(|grad| at(grad, place)).transpose()?;
            let (of_x, of_hidden) = (at(&of_x, place)?, of_hidden.as_ref().map(|grad| at(grad, place)).transpose()?);
            let grads = StepGrads { grads: [of_y.as_ref(), recurrent.as_ref()], carried: carried.as_ref() };
            let saved = at(&saved, place)?;
            carried = Some(retreat(self.cell, grads, [&saved, &state], next.as_ref(), &of_x, of_hidden.as_ref())?);
            if i > 0 || ctx.needs(1) {
                recurrent = Some(product(of_hidden.as_ref().unwrap_or(&of_x), &weight)?);
            }
        }
        let of_products = rows(of_hidden.as_ref().unwrap_or(&of_x))?;
        let before = || rows(&self.direction.before(&states, steps)?);
        let of_bias = self.has_bias && ctx.needs(3);
        let (of_weight, of_bias) = match (ctx.needs(2), of_bias) {
            (true, true) => {
                let (weight, bias) = parameter_gradients(&of_products, &before()?)?;
                (Some(weight), Some(bias))
            }
            (true, false) => (Some(product(&of_products.t()?, &before()?)?), None),
            (false, true) => (None, Some(of_products.sum(0)?)),
            (false, false) => (None, None),
        };
        let of_h = match (recurrent, &carried) {
            (Some(recurrent), Some(carried)) if !is_lstm && ctx.needs(1) => Some(recurrent.add(carried)?),
            (recurrent, _) => recurrent.filter(|_| ctx.needs(1)),
        };
        let fourth = if is_lstm { carried } else { of_bias };
        Ok([Some(of_x), of_h, of_weight, fourth].into_iter().take(count).collect())
    }

    /// All steps in operations that have gradients of gradients, and that exporters know.
    fn plain(self, inputs: &[Tensor]) -> Result<(Tensor, Tensor, Option<Tensor>)> {
        let (x, weight) = (&inputs[0], &inputs[2]);
        let bias = inputs.get(3).filter(|_| self.has_bias);
        let mut h = inputs[1].clone();
        let mut cell = inputs.get(3).filter(|_| self.cell == GatedCell::Lstm).cloned();
        let mut outputs = Vec::new();
        let products = x.unbind(0)?;
        for step in self.direction.order(products.len()) {
            let hidden = h.linear(weight, bias)?;
            (h, cell) = plain(self.cell, &products[step], &hidden, cell.as_ref().unwrap_or(&h))?;
            outputs.push(h.clone());
        }
        if self.direction.reverse {
            outputs.reverse();
        }
        Ok((Tensor::stack(&outputs.iter().collect::<Vec<_>>(), 0)?, h, cell))
    }
}

/// What the steps of a layer make.
struct Made {
    /// The initial hidden state and that of each step, `[L + 1, N, H]`.
    states: Tensor,
    /// What the steps saved, if gradients are recorded.
    saved: Option<Tensor>,
    /// The cell states after each step; if nothing is recorded, the last one.
    cells: Vec<Tensor>,
    /// The final hidden state.
    last: Tensor,
}
