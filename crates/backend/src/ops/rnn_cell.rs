//! Gated recurrent cells, LSTM and GRU: one step from the products with the input and the hidden state, and its gradient.

use crate::{
    contract::{Arguments, Checked, has_dtype, has_shape, is_float},
    error::{Error, Result},
    view::{View, ViewMut},
};

/// A recurrent cell with gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatedCell {
    /// Long short-term memory (Hochreiter & Schmidhuber, 1997). With `a = x + hidden`, whose gates are the input gate
    /// `i`, the forget gate `f`, the cell gate `g` and the output gate `o`:
    /// `c' = sigmoid(f) c + sigmoid(i) tanh(g)` and `h' = sigmoid(o) tanh(c')`.
    Lstm,
    /// A gated recurrent unit (Cho et al., 2014), whose gates are the reset gate `r`, the update gate `z` and the new gate
    /// `n`: `r = sigmoid(x_r + hidden_r)`, `z = sigmoid(x_z + hidden_z)`, `n = tanh(x_n + r hidden_n)` and
    /// `h' = n + z (h - n)`.
    Gru,
}

impl GatedCell {
    /// How many gates the products have.
    #[must_use]
    pub fn gates(self) -> usize {
        match self {
            GatedCell::Lstm => 4,
            GatedCell::Gru => 3,
        }
    }

    /// The name for errors, that of PyTorch's function.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            GatedCell::Lstm => "lstm_cell",
            GatedCell::Gru => "gru_cell",
        }
    }
}

/// How many vectors of a state's size the gradient of a cell reads of a step: the gates of an LSTM after their activations;
/// `r`, `z`, `n` and `hidden_n` of a GRU.
pub const SAVED_GATES: usize = 4;

/// Arguments of [`rnn_cell`](RnnCellBackend::rnn_cell), for `N` samples and a hidden size of `H`.
#[derive(Debug)]
pub struct RnnCellArgs<'a> {
    /// Which cell.
    pub cell: GatedCell,
    /// The input's product, `[N, gates * H]`.
    pub x: View<'a>,
    /// The hidden state's product, `[N, gates * H]`.
    pub hidden: View<'a>,
    /// The state `[N, H]` that is carried over: `c` of an LSTM, `h` of a GRU.
    pub state: View<'a>,
    /// Receives `h'`, `[N, H]`.
    pub out: ViewMut<'a>,
    /// Receives the state that is carried over to the next step, `[N, H]`: `c'` of an LSTM; of a GRU `h'` once more, if it
    /// is not to be read from `out`.
    pub next_state: Option<ViewMut<'a>>,
    /// Receives what the gradient reads, `[N, SAVED_GATES * H]`, if there will be one.
    pub saved: Option<ViewMut<'a>>,
}

/// Arguments of [`rnn_cell_grad`](RnnCellBackend::rnn_cell_grad).
#[derive(Debug)]
pub struct RnnCellGradArgs<'a> {
    /// Which cell.
    pub cell: GatedCell,
    /// Gradients of `h'`, `[N, H]`, which are added: that of the step's output, and that of the next step's product.
    pub grads: [Option<View<'a>>; 2],
    /// The gradient `[N, H]` that the next step hands on directly: of an LSTM that of `c'`, of a GRU a further one of `h'`.
    pub carried: Option<View<'a>>,
    /// What the step saved, `[N, SAVED_GATES * H]`.
    pub saved: View<'a>,
    /// The state `[N, H]` before the step: `c` of an LSTM, `h` of a GRU.
    pub state: View<'a>,
    /// `c'` of an LSTM, `[N, H]`.
    pub next_cell: Option<View<'a>>,
    /// Receives the gradient of the input's product, `[N, gates * H]`; of an LSTM it is that of the hidden state's, too.
    pub x: ViewMut<'a>,
    /// Receives the gradient of the hidden state's product, `[N, gates * H]`, of a GRU.
    pub hidden: Option<ViewMut<'a>>,
    /// Receives the gradient of `state`, `[N, H]`, of a GRU without the part that comes from the product.
    pub state_grad: ViewMut<'a>,
}

/// Checks that the operands that one of the cells has are there, and the others are not.
fn has(cell: GatedCell, of: GatedCell, what: &str, is_there: bool) -> Result<()> {
    if is_there == (cell == of) {
        return Ok(());
    }
    let is = if is_there { "does not have" } else { "needs" };
    Err(Error::argument(cell.name(), format!("it {is} {what}")))
}

/// Checks dtypes and shapes: `[N, H]`, and products and saved vectors as many times as wide.
fn check<'a>(
    cell: GatedCell,
    state: View<'a>,
    states: impl IntoIterator<Item = Option<View<'a>>>,
    products: impl IntoIterator<Item = Option<View<'a>>>,
    saved: Option<View<'a>>,
) -> Result<()> {
    let (op, dtype) = (cell.name(), state.dtype());
    is_float(op, dtype)?;
    let &[n, h] = state.layout.dims() else {
        return Err(Error::shape(op, "a state [N, H]", state.layout.shape()));
    };
    let operand = |what, view: View, gates: usize| {
        has_dtype(op, dtype, view.dtype())?;
        has_shape(op, what, view.layout, &[n, gates.saturating_mul(h)])
    };
    states.into_iter().flatten().try_for_each(|view| operand("a state", view, 1))?;
    products.into_iter().flatten().try_for_each(|view| operand("a product", view, cell.gates()))?;
    saved.map_or(Ok(()), |view| operand("saved gates", view, SAVED_GATES))
}

impl Arguments for RnnCellArgs<'_> {
    fn check(&self) -> Result<()> {
        let RnnCellArgs { cell, x, hidden, state, out, next_state, saved } = self;
        if *cell == GatedCell::Lstm && next_state.is_none() {
            return Err(Error::argument(cell.name(), "it needs a next state"));
        }
        let next_state = next_state.as_ref().map(ViewMut::as_view);
        let saved = saved.as_ref().map(ViewMut::as_view);
        check(*cell, *state, [Some(out.as_view()), next_state], [Some(*x), Some(*hidden)], saved)
    }
}

impl Arguments for RnnCellGradArgs<'_> {
    fn check(&self) -> Result<()> {
        let RnnCellGradArgs { cell, grads, carried, saved, state, next_cell, x, hidden, state_grad } = self;
        has(*cell, GatedCell::Lstm, "a next cell state", next_cell.is_some())?;
        has(*cell, GatedCell::Gru, "a gradient of the hidden state's product", hidden.is_some())?;
        let states = [grads[0], grads[1], *carried, *next_cell, Some(state_grad.as_view())];
        let products = [Some(x.as_view()), hidden.as_ref().map(ViewMut::as_view)];
        check(*cell, *state, states, products, Some(*saved))
    }
}

/// Recurrent cells with gates, each step in one pass.
pub trait RnnCellBackend {
    /// A step of a cell.
    fn rnn_cell(&self, args: Checked<RnnCellArgs>) -> Result<()>;
    /// Its gradient.
    fn rnn_cell_grad(&self, args: Checked<RnnCellGradArgs>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dtype::DType,
        testing::{Memory, layout},
    };

    #[test]
    fn operands_are_checked() {
        let (single, double) = (Memory(DType::F32), Memory(DType::F64));
        let (state, three, four) = (layout(&[2, 5]), layout(&[2, 15]), layout(&[2, 20]));
        let forward = |cell, x, hidden: View, has_cell: bool, saved| {
            let (mut out, mut next, mut kept) = (single, single, single);
            RnnCellArgs {
                cell,
                x: single.view(x),
                hidden,
                state: single.view(&state),
                out: out.view_mut(&state),
                next_state: has_cell.then(|| next.view_mut(&state)),
                saved: Some(kept.view_mut(saved)),
            }
            .check()
        };
        let (lstm, gru) = (GatedCell::Lstm, GatedCell::Gru);
        assert!(forward(lstm, &four, single.view(&four), true, &four).is_ok());
        assert!(forward(gru, &three, single.view(&three), false, &four).is_ok());
        for error in [
            forward(lstm, &four, single.view(&four), false, &four),
            forward(lstm, &four, double.view(&four), true, &four),
            forward(lstm, &three, single.view(&four), true, &four),
            forward(lstm, &four, single.view(&four), true, &three),
        ] {
            assert!(error.unwrap_err().to_string().starts_with("lstm_cell: "));
        }
        assert!(forward(gru, &three, single.view(&three), true, &four).is_ok());
        let error = forward(gru, &four, single.view(&three), true, &four).unwrap_err().to_string();
        assert!(error.starts_with("gru_cell: "), "{error}");

        let backward = |cell, grad, of_x, of_hidden: Option<_>, has_cell: bool| {
            let (mut x, mut hidden, mut state_grad) = (single, single, single);
            RnnCellGradArgs {
                cell,
                grads: [None, Some(single.view(grad))],
                carried: Some(single.view(&state)),
                saved: single.view(&four),
                state: single.view(&state),
                next_cell: has_cell.then(|| single.view(&state)),
                x: x.view_mut(of_x),
                hidden: of_hidden.map(|layout| hidden.view_mut(layout)),
                state_grad: state_grad.view_mut(&state),
            }
            .check()
            .is_ok()
        };
        assert!(backward(lstm, &state, &four, None, true) && backward(gru, &state, &three, Some(&three), false));
        assert!(!backward(lstm, &state, &four, Some(&four), true) && !backward(gru, &state, &three, None, false));
        assert!(!backward(lstm, &four, &four, None, true) && !backward(lstm, &state, &three, None, true));
        assert!(!backward(gru, &state, &three, Some(&four), false) && !backward(lstm, &state, &four, None, false));
    }
}
