//! Gated recurrent cells, LSTM and GRU: one step from the products with the input and the hidden state, and its gradient.

use kiln_backend::{Checked, GatedCell, Result, RnnCellArgs, RnnCellBackend, RnnCellGradArgs};

use super::launch::{Tag, launch};
use crate::{
    device::CudaBackend,
    params::{self, Grid, PACK, Place},
    view::{Access, Tensor},
};

/// The grid of a step over the operands' first gates, and the kernel: one that takes packs of 16 bytes where rows allow it.
///
/// Products and saved vectors have several gates in a row, `[N, gates * H]`; the others are states, `[N, H]`.
fn grid<const N: usize>(cell: GatedCell, state: &Tensor, operands: [Option<&Tensor>; N]) -> (Grid<N>, &'static str) {
    let &[n, h] = state.layout.dims() else { return (Grid::new(&[0], [None; N]), "lstm") };
    let pack = PACK as usize / state.dtype.size();
    let is_whole = |stride: isize| stride.unsigned_abs().is_multiple_of(pack);
    // Gates are `h` apart, a multiple of packs as well.
    let fits = |tensor: &&Tensor| {
        let strides = tensor.layout.strides();
        tensor.address.is_multiple_of(PACK) && strides[1] == 1 && (n == 1 || is_whole(strides[0]))
    };
    if h.is_multiple_of(pack) && operands.iter().flatten().all(fits) {
        let strides =
            operands.map(|operand| operand.map_or([0; 2], |tensor| [tensor.layout.strides()[0], pack as isize]));
        let place = |k: usize| operands[k].map(|tensor| Place { address: tensor.address, strides: &strides[k] });
        let grid = Grid::new(&[n, h / pack], std::array::from_fn(place));
        return (grid, if cell == GatedCell::Lstm { "lstm_packed" } else { "gru_packed" });
    }
    let grid = Grid::new(&[n, h], operands.map(|operand| operand.map(Tensor::place)));
    (grid, if cell == GatedCell::Lstm { "lstm" } else { "gru" })
}

/// The distance between the gates of an operand.
fn gates(state: &Tensor, operand: Option<&Tensor>) -> i64 {
    let h = state.layout.dims().get(1).map_or(0, |&h| h as i64);
    operand.and_then(|tensor| tensor.layout.strides().get(1)).map_or(0, |&stride| stride as i64 * h)
}

fn address(operand: Option<&Tensor>) -> u64 {
    operand.map_or(0, |tensor| tensor.address)
}

impl RnnCellBackend for CudaBackend {
    fn rnn_cell(&self, args: Checked<RnnCellArgs>) -> Result<()> {
        let device = self.0;
        let RnnCellArgs { cell, x, hidden, state, out, next_state, saved } = args.into_inner();
        let access = Access { device, op: cell.name() };
        let (x, hidden, state) = (access.read(x)?, access.read(hidden)?, access.read(state)?);
        let (out, next_state, saved) = (access.write(out)?, access.write_if(next_state)?, access.write_if(saved)?);
        let (next_state, saved) = (next_state.as_ref(), saved.as_ref());
        let operands = [Some(&x), Some(&hidden), Some(&state), Some(&out), next_state, saved];
        let (grid, kernel) = grid::<6>(cell, &state, operands);
        if grid.numel == 0 {
            return Ok(());
        }
        let [x_gates, hidden_gates, saved_gates] = [Some(&x), Some(&hidden), saved].map(|one| gates(&state, one));
        let (blocks, tag) = (params::blocks(grid.numel), Tag::of(state.dtype));
        let [x, hidden, state, out, next_state, saved] = operands.map(address);
        launch!(
            device,
            RNN_CELL,
            kernel,
            tag,
            blocks,
            grid,
            x_gates,
            hidden_gates,
            saved_gates,
            x,
            hidden,
            state,
            out,
            next_state,
            saved
        )
    }

    fn rnn_cell_grad(&self, args: Checked<RnnCellGradArgs>) -> Result<()> {
        let device = self.0;
        let RnnCellGradArgs { cell, grads, carried, saved, state, next_cell, x, hidden, state_grad } =
            args.into_inner();
        let access = Access { device, op: cell.name() };
        let [grad, recurrent] = grads;
        let (grad, recurrent, carried) = (access.read_if(grad)?, access.read_if(recurrent)?, access.read_if(carried)?);
        let (saved, state, next_cell) = (access.read(saved)?, access.read(state)?, access.read_if(next_cell)?);
        let (x, hidden, state_grad) = (access.write(x)?, access.write_if(hidden)?, access.write(state_grad)?);
        let (next_cell, hidden) = (next_cell.as_ref(), hidden.as_ref());
        let grads = [grad.as_ref(), recurrent.as_ref(), carried.as_ref()];
        let [grad, recurrent, carried] = grads;
        let others = [Some(&saved), Some(&state), next_cell, Some(&x), hidden, Some(&state_grad)];
        let [a, b, c, d, e, f] = others;
        let (grid, kernel) = grid::<9>(cell, &state, [grad, recurrent, carried, a, b, c, d, e, f]);
        if grid.numel == 0 {
            return Ok(());
        }
        let [saved_gates, x_gates, hidden_gates] = [Some(&saved), Some(&x), hidden].map(|one| gates(&state, one));
        let (blocks, tag) = (params::blocks(grid.numel), Tag::of(state.dtype));
        let ([grad, recurrent, carried], others) = (grads.map(address), others.map(address));
        let [saved, state, next_cell, x, hidden, state_grad] = others;
        launch!(
            device,
            RNN_CELL_GRAD,
            kernel,
            tag,
            blocks,
            grid,
            saved_gates,
            x_gates,
            hidden_gates,
            grad,
            recurrent,
            carried,
            saved,
            state,
            next_cell,
            x,
            hidden,
            state_grad
        )
    }
}
