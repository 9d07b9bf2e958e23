//! Gated recurrent cells, LSTM and GRU: one step, fused, from the products with the input and the hidden state.

use kiln_backend::{Arguments, Error, GatedCell, Result, RnnCellArgs, RnnCellGradArgs, SAVED_GATES};
use kiln_derive::located;
use smallvec::smallvec;

use super::{check, images::writing};
use crate::{
    autocast::cast_operands,
    autograd::{is_recorded, is_tracing, record_all},
    storage::{Reading, Writing},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A step of an LSTM (Hochreiter & Schmidhuber, 1997), from the products of its weights with the input (this tensor)
    /// and with the hidden state, `[N, 4 * H]` each, biases included, and the cell state `c`, `[N, H]`: the hidden state and
    /// the cell state after it, `[N, H]` each. The gates are PyTorch's: input, forget, cell, output
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTMCell.html>).
    ///
    /// # Errors
    /// If the shapes do not fit, or the operands are not of one floating-point dtype on one device.
    pub fn lstm_cell(&self, hidden: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        cast_operands(GatedCell::Lstm.name(), [self, hidden, c], [], |[x, hidden, c], []| {
            let (h, next) = step(GatedCell::Lstm, [x, hidden, c])?;
            // A step of an LSTM always makes a cell state.
            Ok((h, next.unwrap_or_else(|| c.clone())))
        })
    }

    /// A step of a gated recurrent unit (Cho et al., 2014), from the products of its weights with the input (this tensor)
    /// and with the hidden state, `[N, 3 * H]` each, biases included, and the hidden state `h`, `[N, H]`: the hidden state
    /// after it. The gates are PyTorch's: reset, update, new
    /// (<https://docs.pytorch.org/docs/stable/generated/torch.nn.GRUCell.html>).
    ///
    /// # Errors
    /// If the shapes do not fit, or the operands are not of one floating-point dtype on one device.
    pub fn gru_cell(&self, hidden: &Tensor, h: &Tensor) -> Result<Tensor> {
        cast_operands(GatedCell::Gru.name(), [self, hidden, h], [], |operands, []| {
            step(GatedCell::Gru, operands).map(|(h, _)| h)
        })
    }
}

/// Checks a product `[…, gates * H]` whose leading extents are those of `state`, `[N, H]`, after `steps`.
pub(super) fn check_product(cell: GatedCell, product: &Tensor, state: &Tensor, steps: &[usize]) -> Result<()> {
    let op = cell.name();
    check::floats(op, state)?;
    check::same_kind(op, state, &[product])?;
    let &[n, h] = state.dims() else { return Err(Error::shape(op, "a state [N, H]", state.shape())) };
    let gates = cell.gates();
    if product.dims() != [steps, &[n, h.saturating_mul(gates)]].concat() {
        let expected = format!("the product must have {n} rows of {gates} gates of {h} elements");
        return Err(Error::shapes(op, product.shape(), state.shape(), expected));
    }
    Ok(())
}

fn step(cell: GatedCell, [x, hidden, state]: [&Tensor; 3]) -> Result<(Tensor, Option<Tensor>)> {
    check_product(cell, x, state, &[])?;
    check_product(cell, hidden, state, &[])?;
    if is_tracing() {
        return plain(cell, x, hidden, state);
    }
    let inputs = [x, hidden, state];
    let room = || Tensor::empty(*state.shape(), state.options());
    let (out, next) = (room()?, if cell == GatedCell::Lstm { Some(room()?) } else { None });
    let saved = if is_recorded(&inputs) { Some(saved_gates(state)?) } else { None };
    advance(cell, inputs, &out, next.as_ref(), saved.as_ref())?;
    let name = match cell {
        GatedCell::Lstm => "ThnnFusedLstmCellBackward0",
        GatedCell::Gru => "ThnnFusedGruCellBackward0",
    };
    let outs: Vec<&Tensor> = [Some(&out), next.as_ref()].into_iter().flatten().collect();
    let kept: Vec<&Tensor> = inputs.into_iter().chain([saved.as_ref(), next.as_ref()].into_iter().flatten()).collect();
    record_all(&outs, name, &inputs, &kept, move |ctx| {
        if ctx.create_graph {
            return ctx.composed_all(&[ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?], |inputs| {
                let (out, next) = plain(cell, &inputs[0], &inputs[1], &inputs[2])?;
                Ok([Some(out), next].into_iter().flatten().collect())
            });
        }
        let (state, saved) = (ctx.saved(2)?, ctx.saved(3)?);
        let next = if cell == GatedCell::Lstm { Some(ctx.saved(4)?) } else { None };
        let (grad, carried) = (ctx.grad_of(0), ctx.grad_of(1));
        let of_x = Tensor::empty([state.dims()[0], cell.gates() * state.dims()[1]], state.options())?;
        let of_hidden = if cell == GatedCell::Gru { Some(of_x.empty_like()?) } else { None };
        let grads = StepGrads { grads: [grad.as_ref(), None], carried: carried.as_ref() };
        let of_state = retreat(cell, grads, [&saved, &state], next.as_ref(), &of_x, of_hidden.as_ref())?;
        Ok(smallvec![Some(of_x.clone()), Some(of_hidden.unwrap_or(of_x)), Some(of_state)])
    })?;
    Ok((out, next))
}

/// Room for what the gradient of a step reads.
fn saved_gates(state: &Tensor) -> Result<Tensor> {
    Tensor::empty([state.dims()[0], SAVED_GATES * state.dims()[1]], state.options())
}

/// Runs a step into tensors that nobody else has yet.
pub(super) fn advance(
    cell: GatedCell,
    [x, hidden, state]: [&Tensor; 3],
    out: &Tensor,
    next_state: Option<&Tensor>,
    saved: Option<&Tensor>,
) -> Result<()> {
    let (x, hidden, state) = (x.read(), hidden.read(), state.read());
    let (mut out_memory, mut next, mut kept) = (writing(out), next_state.map(writing), saved.map(writing));
    let args = RnnCellArgs {
        cell,
        x: x.view(),
        hidden: hidden.view(),
        state: state.view(),
        out: out_memory.view(),
        next_state: next.as_mut().map(Writing::view),
        saved: kept.as_mut().map(Writing::view),
    };
    out.device().backend()?.rnn_cell(args.checked()?)
}

/// What arrives at a step on the way back.
pub(super) struct StepGrads<'a> {
    /// Gradients of the hidden state after the step.
    pub grads: [Option<&'a Tensor>; 2],
    /// What the step after this one hands on: the gradient of the cell state, or of a GRU a further one of the hidden state.
    pub carried: Option<&'a Tensor>,
}

/// The way back through a step: the gradients of its products, into tensors that nobody else has yet, and the one that it
/// hands on to the step before it.
pub(super) fn retreat(
    cell: GatedCell,
    StepGrads { grads, carried }: StepGrads<'_>,
    [saved, state]: [&Tensor; 2],
    next_cell: Option<&Tensor>,
    of_x: &Tensor,
    of_hidden: Option<&Tensor>,
) -> Result<Tensor> {
    let (grads, carried) = (grads.map(|grad| grad.map(Tensor::read)), carried.map(Tensor::read));
    let (saved, next_cell, before) = (saved.read(), next_cell.map(Tensor::read), state.read());
    let (mut x, mut hidden) = (writing(of_x), of_hidden.map(writing));
    Tensor::compute(state.device(), state.dtype(), *state.shape(), |backend, state_grad| {
        let args = RnnCellGradArgs {
            cell,
            grads: grads.each_ref().map(|grad| grad.as_ref().map(Reading::view)),
            carried: carried.as_ref().map(Reading::view),
            saved: saved.view(),
            state: before.view(),
            next_cell: next_cell.as_ref().map(Reading::view),
            x: x.view(),
            hidden: hidden.as_mut().map(Writing::view),
            state_grad,
        };
        backend.rnn_cell_grad(args.checked()?)
    })
}

/// A step in operations that have gradients of gradients, and that exporters know.
pub(super) fn plain(cell: GatedCell, x: &Tensor, hidden: &Tensor, state: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
    let h = state.dims()[1];
    let gate = |of: &Tensor, i: usize| of.narrow(1, i * h, h);
    match cell {
        GatedCell::Lstm => {
            let sum = x.add(hidden)?;
            let (input, forget) = (gate(&sum, 0)?.sigmoid()?, gate(&sum, 1)?.sigmoid()?);
            let next = forget.mul(state)?.add(&input.mul(&gate(&sum, 2)?.tanh()?)?)?;
            Ok((gate(&sum, 3)?.sigmoid()?.mul(&next.tanh()?)?, Some(next)))
        }
        GatedCell::Gru => {
            let sum = |i| gate(x, i)?.add(&gate(hidden, i)?)?.sigmoid();
            let (reset, update) = (sum(0)?, sum(1)?);
            let new = gate(x, 2)?.add(&reset.mul(&gate(hidden, 2)?)?)?.tanh()?;
            Ok((new.add(&update.mul(&state.sub(&new)?)?)?, None))
        }
    }
}
