//! Gated recurrent cells, LSTM and GRU: one step from the products with the input and the hidden state, and its gradient.
//!
//! A row of the batch is computed in pieces that stay in the L1 cache, by a few vectorized loops.

use std::ops::Range;

use kiln_backend::{Checked, GatedCell, Result, RnnCellArgs, RnnCellBackend, RnnCellGradArgs, View};

use crate::{
    device::CpuBackend,
    engine::{
        par::GRAIN,
        simd::multiversion,
        team,
        tile::{load_row, store_row},
    },
    memory::view::{Source, Target},
    numeric::{
        dispatch::for_float,
        real::{Float, Real},
        stored::Stored,
    },
};

/// Elements of a piece.
const PIECE: usize = 256;
/// Vectors of a piece that a step needs room for.
const ROOM: usize = 9;
/// Elements of a state in a task: each takes about five exponentials.
const WORK: usize = GRAIN / 16;

type Room<C> = [[C; PIECE]; ROOM];
/// What computes a piece of a row, given room for vectors of its length.
type Piece<'a, C> = dyn Fn(&mut Room<C>, usize, Range<usize>) + Sync + 'a;

/// Runs `body` for each piece of each row.
fn pieces<C: Real>(rows: usize, columns: usize, body: &Piece<'_, C>) {
    let per_row = columns.div_ceil(PIECE);
    let total = rows * per_row;
    let per_task = (WORK / columns.clamp(1, PIECE)).max(1);
    let threads = if total <= per_task { 1 } else { rayon::current_num_threads() };
    // Several tasks per thread even out differences in speed.
    let tasks = if threads == 1 { 1 } else { total.div_ceil(per_task).min(4 * threads) };
    team::for_each(tasks, threads, &|task| {
        let mut room = [[C::default(); PIECE]; ROOM];
        for piece in task * total / tasks..(task + 1) * total / tasks {
            let start = piece % per_row * PIECE;
            body(&mut room, piece / per_row, start..columns.min(start + PIECE));
        }
    });
}

/// The elements of a row from `column` on, as many as the piece of room has, which takes them if they are not there as they
/// are computed in.
fn read<'r, T: Stored>(
    source: &'r Source<'_, T>,
    row: usize,
    column: usize,
    room: &'r mut [T::Compute],
) -> &'r [T::Compute] {
    let (dims, strides) = (source.layout().dims(), source.layout().strides());
    assert!(row < dims[0] && column + room.len() <= dims[1], "positions of the operand");
    // SAFETY: an element of the layout, which was checked against the buffer.
    let first = unsafe { source.ptr().offset(row as isize * strides[0] + column as isize * strides[1]) };
    if T::DIRECT && strides[1] == 1 {
        // SAFETY: the elements are adjacent, and inside the layout; `DIRECT` says that `Compute` is `T`.
        return unsafe { std::slice::from_raw_parts(first.cast(), room.len()) };
    }
    // SAFETY: as above, `strides[1]` apart.
    unsafe { load_row(first, strides[1], room) };
    room
}

/// Writes the elements of a row from `column` on.
///
/// # Safety
/// No other thread accesses them.
unsafe fn write<T: Stored>(target: &Target<'_, T>, row: usize, column: usize, values: &[T::Compute]) {
    let (dims, strides) = (target.layout().dims(), target.layout().strides());
    assert!(row < dims[0] && column + values.len() <= dims[1], "positions of the output");
    // SAFETY: elements of the layout, which was checked against the buffer; the rest is the caller's promise.
    unsafe {
        store_row(values, target.ptr().offset(row as isize * strides[0] + column as isize * strides[1]), strides[1]);
    }
}

impl RnnCellBackend for CpuBackend {
    fn rnn_cell(&self, args: Checked<RnnCellArgs>) -> Result<()> {
        for_float!(args.cell.name(), args.x.dtype(), T => step::<T>(args.into_inner()))
    }

    fn rnn_cell_grad(&self, args: Checked<RnnCellGradArgs>) -> Result<()> {
        for_float!(args.cell.name(), args.saved.dtype(), T => gradient::<T>(args.into_inner()))
    }
}

fn step<T: Float>(args: RnnCellArgs) -> Result<()> {
    let RnnCellArgs { cell, x, hidden, state, out, next_state, saved } = args;
    let op = cell.name();
    let (x, hidden, state) = (Source::<T>::new(op, x)?, Source::<T>::new(op, hidden)?, Source::<T>::new(op, state)?);
    let out = Target::<T>::new(op, out)?;
    let next_state = next_state.map(|view| Target::<T>::new(op, view)).transpose()?;
    let saved = saved.map(|view| Target::<T>::new(op, view)).transpose()?;
    let (n, h) = (out.layout().dims()[0], out.layout().dims()[1]);
    pieces::<T::Compute>(n, h, &|room, row, columns| {
        let (start, w) = (columns.start, columns.len());
        let [a, b, gates @ .., next] = room;
        let (a, b, next) = (&mut a[..w], &mut b[..w], &mut next[..w]);
        let [g0, g1, g2, g3, ..] = gates;
        let mut gates = [&mut g0[..w], &mut g1[..w], &mut g2[..w], &mut g3[..w]];
        // The gates that are sums with a sigmoid or a tangent.
        let sums: &[usize] = if cell == GatedCell::Lstm { &[0, 1, 2, 3] } else { &[0, 1] };
        for &gate in sums {
            let (x, hidden) = (read(&x, row, gate * h + start, a), read(&hidden, row, gate * h + start, b));
            if gate == 2 { tanh_of_sum(x, hidden, gates[gate]) } else { sigmoid_of_sum(x, hidden, gates[gate]) }
        }
        let [g0, g1, g2, g3] = &mut gates;
        match cell {
            GatedCell::Lstm => {
                new_cell(g0, g1, g2, read(&state, row, start, a), next);
                gated_tanh(g3, next, b);
            }
            GatedCell::Gru => {
                g3.copy_from_slice(read(&hidden, row, 2 * h + start, b));
                new_gate(read(&x, row, 2 * h + start, a), g0, g3, g2);
                blend(g2, g1, read(&state, row, start, a), b);
                next.copy_from_slice(b);
            }
        }
        // SAFETY: tasks have different pieces.
        unsafe {
            write(&out, row, start, b);
            if let Some(next_state) = &next_state {
                write(next_state, row, start, next);
            }
            if let Some(saved) = &saved {
                gates.iter().enumerate().for_each(|(i, gate)| write(saved, row, i * h + start, gate));
            }
        }
    });
    Ok(())
}

fn optional<'a, T: Stored>(op: &'static str, view: Option<View<'a>>) -> Result<Option<Source<'a, T>>> {
    view.map(|view| Source::new(op, view)).transpose()
}

fn gradient<T: Float>(args: RnnCellGradArgs) -> Result<()> {
    let RnnCellGradArgs { cell, grads, carried, saved, state, next_cell, x, hidden, state_grad } = args;
    let op = cell.name();
    let [grad, recurrent, carried, next_cell] =
        [grads[0], grads[1], carried, next_cell].map(|view| optional::<T>(op, view));
    let (grad, recurrent, carried, next_cell) = (grad?, recurrent?, carried?, next_cell?);
    let (saved, state) = (Source::<T>::new(op, saved)?, Source::<T>::new(op, state)?);
    let (x, state_grad) = (Target::<T>::new(op, x)?, Target::<T>::new(op, state_grad)?);
    let hidden = hidden.map(|view| Target::<T>::new(op, view)).transpose()?;
    let (n, h) = (state.layout().dims()[0], state.layout().dims()[1]);
    pieces::<T::Compute>(n, h, &|room, row, columns| {
        let (start, w) = (columns.start, columns.len());
        let [a, b, c, d, e, f, total, one, two] = room.each_mut().map(|vector| &mut vector[..w]);
        total.fill(T::Compute::default());
        let mut add = |part: Option<&Source<'_, T>>, total: &mut [T::Compute]| {
            if let Some(part) = part {
                plus(read(part, row, start, f), total);
            }
        };
        add(grad.as_ref(), total);
        add(recurrent.as_ref(), total);
        let gate = |i: usize, room| read(&saved, row, i * h + start, room);
        let put = |target: &Target<'_, T>, i: usize, values: &[T::Compute]| {
            // SAFETY: tasks have different pieces.
            unsafe { write(target, row, i * h + start, values) };
        };
        match cell {
            GatedCell::Lstm => {
                let Some(next_cell) = &next_cell else { return };
                let (input, forget, new, output) = (gate(0, a), gate(1, b), gate(2, c), gate(3, d));
                tanh(read(next_cell, row, start, e), one);
                sigmoid_grad(total, one, output, two);
                put(&x, 3, two);
                through_tanh(total, output, one);
                // `one` is now the gradient of c'.
                add(carried.as_ref(), one);
                sigmoid_grad(one, new, input, two);
                put(&x, 0, two);
                tanh_grad(one, input, new, two);
                put(&x, 2, two);
                sigmoid_grad(one, read(&state, row, start, e), forget, two);
                put(&x, 1, two);
                product(one, forget, two);
                put(&state_grad, 0, two);
            }
            GatedCell::Gru => {
                let Some(of_hidden) = &hidden else { return };
                add(carried.as_ref(), total);
                let (reset, update, new, added) = (gate(0, a), gate(1, b), gate(2, c), gate(3, d));
                update_gate_grad(total, read(&state, row, start, e), new, update, one);
                put(&x, 1, one);
                put(of_hidden, 1, one);
                new_gate_grad(total, update, new, two);
                put(&x, 2, two);
                product(two, reset, one);
                put(of_hidden, 2, one);
                sigmoid_grad(two, added, reset, one);
                put(&x, 0, one);
                put(of_hidden, 0, one);
                product(total, update, one);
                put(&state_grad, 0, one);
            }
        }
    });
    Ok(())
}

multiversion! {
    fn sigmoid_of_sum[T: Real](a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&a, &b), out) in a.iter().zip(b).zip(out) {
            *out = (a + b).sigmoid();
        }
    }

    fn tanh_of_sum[T: Real](a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&a, &b), out) in a.iter().zip(b).zip(out) {
            *out = (a + b).tanh();
        }
    }

    /// The cell state after a step.
    fn new_cell[T: Real](input: &[T], forget: &[T], new: &[T], c: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((((&input, &forget), &new), &c), out) in input.iter().zip(forget).zip(new).zip(c).zip(out) {
            *out = forget * c + input * new;
        }
    }

    fn gated_tanh[T: Real](gate: &[T], x: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&gate, &x), out) in gate.iter().zip(x).zip(out) {
            *out = gate * x.tanh();
        }
    }

    /// The new gate of a GRU.
    fn new_gate[T: Real](x: &[T], reset: &[T], hidden: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (((&x, &reset), &hidden), out) in x.iter().zip(reset).zip(hidden).zip(out) {
            *out = (x + reset * hidden).tanh();
        }
    }

    /// The hidden state of a GRU after a step.
    fn blend[T: Real](new: &[T], update: &[T], h: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (((&new, &update), &h), out) in new.iter().zip(update).zip(h).zip(out) {
            *out = new + update * (h - new);
        }
    }

    fn tanh[T: Real](x: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&x, out) in x.iter().zip(out) {
            *out = x.tanh();
        }
    }

    fn plus[T: Real](x: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for (&x, out) in x.iter().zip(out) {
            *out = *out + x;
        }
    }

    fn product[T: Real](a: &[T], b: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        for ((&a, &b), out) in a.iter().zip(b).zip(out) {
            *out = a * b;
        }
    }

    /// The gradient of c', from `tanh(c')`, which it takes the place of.
    fn through_tanh[T: Real](grad: &[T], gate: &[T], tanh: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let one = T::of(1.0);
        for ((&grad, &gate), tanh) in grad.iter().zip(gate).zip(tanh) {
            *tanh = grad * gate * (one - *tanh * *tanh);
        }
    }

    /// The gradient before a sigmoid whose result `gate` was multiplied by `factor`.
    fn sigmoid_grad[T: Real](grad: &[T], factor: &[T], gate: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let one = T::of(1.0);
        for (((&grad, &factor), &gate), out) in grad.iter().zip(factor).zip(gate).zip(out) {
            *out = grad * factor * gate * (one - gate);
        }
    }

    /// The gradient before a tangent whose result `gate` was multiplied by `factor`.
    fn tanh_grad[T: Real](grad: &[T], factor: &[T], gate: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let one = T::of(1.0);
        for (((&grad, &factor), &gate), out) in grad.iter().zip(factor).zip(gate).zip(out) {
            *out = grad * factor * (one - gate * gate);
        }
    }

    /// The gradient of the update gate of a GRU before its sigmoid.
    fn update_gate_grad[T: Real](grad: &[T], h: &[T], new: &[T], gate: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let one = T::of(1.0);
        for ((((&grad, &h), &new), &gate), out) in grad.iter().zip(h).zip(new).zip(gate).zip(out) {
            *out = grad * (h - new) * gate * (one - gate);
        }
    }

    /// The gradient of the new gate of a GRU before its tangent.
    fn new_gate_grad[T: Real](grad: &[T], update: &[T], new: &[T], out: &mut [T]), avx512 if [size_of::<T>() == 4] {
        let one = T::of(1.0);
        for (((&grad, &update), &new), out) in grad.iter().zip(update).zip(new).zip(out) {
            *out = grad * (one - update) * (one - new * new);
        }
    }
}
