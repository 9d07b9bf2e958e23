//! Recurrent cells against the CPU.

use kiln_backend::*;

use crate::support::*;

/// A case of both cells.
#[derive(Clone, Copy)]
pub struct Cells {
    pub dtype: DType,
    /// Samples, and the size of a state.
    pub dims: [usize; 2],
    /// How the operands lie in turn, and how many elements of their memory are before and after each row.
    pub memory: [MemoryLayout; 3],
    pub offset: [usize; 3],
    pub tail: [usize; 3],
    /// Whether everything that may be left out is there.
    pub whole: bool,
}

impl Cells {
    fn lay(&self, on: &dyn Backend, gates: usize, place: usize, salt: Option<u64>) -> Tensor {
        let ([n, h], memory, offset) = (self.dims, self.memory[place % 3], self.offset[place % 3]);
        let end = offset + gates * h;
        let dims = [n, end + self.tail[place % 3]];
        let whole = match salt {
            Some(salt) => tensor(on, self.dtype, &dims, memory, salt),
            None => target(on, self.dtype, &dims, memory),
        };
        Tensor { layout: whole.layout.slice(1, offset, end, 1), ..whole }
    }

    pub fn forward(self, on: &dyn Backend) -> Result<Vec<Tensor>> {
        let mut made = Vec::new();
        for cell in [GatedCell::Lstm, GatedCell::Gru] {
            let read = |gates, place| self.lay(on, gates, place, Some(place as u64));
            let write = |gates, place| self.lay(on, gates, place, None);
            let (x, hidden, state) = (read(cell.gates(), 1), read(cell.gates(), 2), read(1, 3));
            let (mut out, mut next, mut saved) = (write(1, 0), write(1, 1), write(SAVED_GATES, 2));
            let has_next = self.whole || cell == GatedCell::Lstm;
            on.rnn_cell(
                RnnCellArgs {
                    cell,
                    x: x.view(),
                    hidden: hidden.view(),
                    state: state.view(),
                    out: out.view_mut(),
                    next_state: has_next.then(|| next.view_mut()),
                    saved: self.whole.then(|| saved.view_mut()),
                }
                .checked()?,
            )?;
            made.extend([out, next, saved]);
        }
        Ok(made)
    }

    pub fn backward(self, on: &dyn Backend) -> Result<Vec<Tensor>> {
        let mut made = Vec::new();
        for cell in [GatedCell::Lstm, GatedCell::Gru] {
            let read = |gates, place| self.lay(on, gates, place, Some(place as u64));
            let write = |gates, place| self.lay(on, gates, place, None);
            let (grads, carried) = ([read(1, 1), read(1, 2)], read(1, 3));
            let (saved, state, next) = (read(SAVED_GATES, 4), read(1, 5), read(1, 6));
            let (mut x, mut hidden, mut of_state) = (write(cell.gates(), 0), write(cell.gates(), 1), write(1, 2));
            on.rnn_cell_grad(
                RnnCellGradArgs {
                    cell,
                    grads: [self.whole.then(|| grads[0].view()), Some(grads[1].view())],
                    carried: self.whole.then(|| carried.view()),
                    saved: saved.view(),
                    state: state.view(),
                    next_cell: (cell == GatedCell::Lstm).then(|| next.view()),
                    x: x.view_mut(),
                    hidden: (cell == GatedCell::Gru).then(|| hidden.view_mut()),
                    state_grad: of_state.view_mut(),
                }
                .checked()?,
            )?;
            made.extend([x, hidden, of_state]);
        }
        Ok(made)
    }
}

/// Layouts of the operands in turn, and what is before and after their rows: for packs of 16 bytes where the state's size
/// allows it, and where one of them does not.
const PLACES: [([MemoryLayout; 3], [usize; 3], [usize; 3]); 7] = {
    use MemoryLayout::{Dense, Sliced, Turned};
    [
        ([Dense; 3], [0; 3], [0; 3]),
        ([Dense; 3], [0, 0, 1], [0; 3]),
        ([Dense; 3], [0; 3], [0, 1, 0]),
        ([Dense; 3], [8, 16, 24], [8, 0, 16]),
        ([Dense; 3], [1, 2, 3], [0; 3]),
        ([Dense, Sliced, Turned], [0; 3], [0; 3]),
        ([Turned, Dense, Dense], [0, 3, 8], [0; 3]),
    ]
};

fn everywhere(name: &str, case: impl Fn(Cells, &dyn Backend) -> Result<Vec<Tensor>>) {
    for dtype in FLOATS {
        for dims in [[3, 5], [4, 16], [1, 24], [37, 8], [0, 8], [2, 0]] {
            for (memory, offset, tail) in PLACES {
                for whole in [true, false] {
                    let cells = Cells { dtype, dims, memory, offset, tail, whole };
                    same(&format!("{name} {dtype} {dims:?} {memory:?} {offset:?} {tail:?} {whole}"), |on| {
                        case(cells, on)
                    });
                }
            }
        }
    }
}

#[test]
fn rnn_cell() {
    everywhere("rnn_cell", Cells::forward);
}

#[test]
fn rnn_cell_grad() {
    everywhere("rnn_cell_grad", Cells::backward);
}
