//! Element-wise primitives: one launch over the output's positions each.

use kiln_backend::{
    BinaryOp, DType, Error, Integers, Operand, RandomState, Result, Scalar, SideOf, UnaryOp, View, ViewMut,
};

use super::{
    launch::{Tag, dtype_name, launch},
    values::{number, pattern, threshold},
};
use crate::{
    device::Device,
    params::{self, Grid, Place, Status, Triangle},
    view::Tensor,
};

/// An operand of an element-wise kernel: the address of a tensor, or null and a number.
struct Input<'a> {
    place: Option<Place<'a>>,
    address: u64,
    scalar: Scalar,
}

impl<'a> Input<'a> {
    fn new(device: &Device, op: &'static str, dtype: DType, operand: Operand<'a>, like: &Tensor) -> Result<Input<'a>> {
        Ok(match operand {
            Operand::Tensor(view) => {
                let tensor = Tensor::read(device, op, view)?.of(op, dtype)?.shaped(op, like.layout)?;
                Input { place: Some(tensor.place()), address: tensor.address, scalar: Scalar::Int(0) }
            }
            Operand::Scalar(scalar) => Input { place: None, address: 0, scalar },
        })
    }
}

/// The dtype of the operands; at least one is a tensor.
fn dtype_of(op: &'static str, operands: [&Operand; 2]) -> Result<DType> {
    let dtype = operands.into_iter().find_map(|operand| match operand {
        Operand::Tensor(view) => Some(view.dtype()),
        Operand::Scalar(_) => None,
    });
    dtype.ok_or_else(|| Error::argument(op, "at least one operand must be a tensor"))
}

impl Device {
    pub(super) fn copy_impl(&self, x: View, out: ViewMut) -> Result<()> {
        let (x, out) = (Tensor::read(self, "copy", x)?, Tensor::write(self, "copy", out)?);
        self.copy_tensor(x.shaped("copy", out.layout)?, out)
    }

    /// Copies between checked tensors of one shape.
    pub(crate) fn copy_tensor(&self, x: Tensor, out: Tensor) -> Result<()> {
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        let (from, to) = (x.dtype, out.dtype);
        let blocks = grid.blocks(from.size().max(to.size()));
        if grid.numel == 0 {
            return Ok(());
        }
        if from == to {
            launch!(self, COPY, "same", Tag::bits(to), blocks, grid, x.address, out.address)
        } else {
            launch!(self, CAST, dtype_name(from), Tag::of(to), blocks, grid, x.address, out.address)
        }
    }

    pub(super) fn unary_impl(&self, op: UnaryOp, x: View, out: ViewMut) -> Result<()> {
        let name = op.name();
        let (x, out) = (Tensor::read(self, name, x)?, Tensor::write(self, name, out)?);
        let (x, out) = (x.shaped(name, out.layout)?, out.of(name, x.dtype)?);
        if x.dtype.is_int() && op.integers() == Integers::Unchanged {
            return self.copy_tensor(x, out);
        }
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        launch!(self, UNARY, name, Tag::of(x.dtype), grid.blocks(x.dtype.size()), grid, x.address, out.address)
    }

    pub(super) fn unary_grad_impl(&self, op: UnaryOp, grad: View, saved: Option<View>, out: ViewMut) -> Result<()> {
        let name = op.name();
        let out = Tensor::write(self, name, out)?;
        let read = |view| Tensor::read(self, name, view)?.of(name, out.dtype)?.shaped(name, out.layout);
        let (grad, saved) = (read(grad)?, saved.map(read).transpose()?);
        let places = [Some(grad.place()), saved.as_ref().map(Tensor::place), Some(out.place())];
        let grid = Grid::<3>::new(out.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let saved = saved.map_or(0, |tensor| tensor.address);
        let blocks = grid.blocks(out.dtype.size());
        launch!(self, UNARY_GRAD, name, Tag::of(out.dtype), blocks, grid, grad.address, saved, out.address)
    }

    pub(super) fn binary_impl(&self, op: BinaryOp, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        let name = op.name();
        let dtype = dtype_of(name, [&a, &b])?;
        let out = Tensor::write(self, name, out)?;
        let out = out.of(name, if op.is_comparison() { DType::Bool } else { dtype })?;
        let input = |operand| Input::new(self, name, dtype, operand, &out);
        self.binary_kernel(op, dtype, input(a)?, input(b)?, out)
    }

    pub(super) fn binary_assign_impl(&self, op: BinaryOp, b: Operand, out: ViewMut) -> Result<()> {
        let name = op.name();
        let out = Tensor::write(self, name, out)?;
        let a = Input { place: Some(out.place()), address: out.address, scalar: Scalar::Int(0) };
        let b = Input::new(self, name, out.dtype, b, &out)?;
        if op.is_comparison() {
            out.of(name, DType::Bool)?;
        }
        self.binary_kernel(op, out.dtype, a, b, out)
    }

    fn binary_kernel(&self, op: BinaryOp, dtype: DType, a: Input, b: Input, out: Tensor) -> Result<()> {
        // `a > b` is `b < a`.
        let (kernel, a, b) = match op {
            BinaryOp::Gt => (BinaryOp::Lt, b, a),
            BinaryOp::Ge => (BinaryOp::Le, b, a),
            other => (other, a, b),
        };
        let grid = Grid::<3>::new(out.layout.dims(), [a.place, b.place, Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let status = match op {
            BinaryOp::Pow if dtype.is_int() => self.status(Status::EXPONENT, op.name()),
            BinaryOp::Remainder if dtype.is_int() => self.status(Status::DIVISOR, op.name()),
            _ => 0,
        };
        let (x, y) = (number(dtype, a.scalar), number(dtype, b.scalar));
        let blocks = grid.blocks(dtype.size());
        launch!(
            self,
            BINARY,
            kernel.name(),
            Tag::of(dtype),
            blocks,
            grid,
            a.address,
            b.address,
            out.address,
            x,
            y,
            status
        )
    }

    pub(super) fn binary_grad_impl(
        &self,
        op: BinaryOp,
        side: SideOf,
        grad: View,
        a: Operand,
        b: Operand,
        out: ViewMut,
    ) -> Result<()> {
        let name = op.name();
        let out = Tensor::write(self, name, out)?;
        let dtype = out.dtype;
        let input = |operand| Input::new(self, name, dtype, operand, &out);
        let (grad, a, b) = (input(Operand::Tensor(grad))?, input(a)?, input(b)?);
        let grid = Grid::<4>::new(out.layout.dims(), [grad.place, a.place, b.place, Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let (x, y, tag) = (number(dtype, a.scalar), number(dtype, b.scalar), Tag::of(dtype));
        let blocks = grid.blocks(dtype.size());
        let (grad, a, b, out) = (grad.address, a.address, b.address, out.address);
        match side {
            SideOf::Lhs => launch!(self, BINARY_LHS, name, tag, blocks, grid, grad, a, b, out, x, y),
            SideOf::Rhs => launch!(self, BINARY_RHS, name, tag, blocks, grid, grad, a, b, out, x, y),
        }
    }

    pub(super) fn select_impl(&self, condition: View, a: Operand, b: Operand, out: ViewMut) -> Result<()> {
        const OP: &str = "where";
        let out = Tensor::write(self, OP, out)?;
        let condition = Tensor::read(self, OP, condition)?.of(OP, DType::Bool)?.shaped(OP, out.layout)?;
        let input = |operand| Input::new(self, OP, out.dtype, operand, &out);
        let (a, b) = (input(a)?, input(b)?);
        let places = [Some(condition.place()), a.place, b.place, Some(out.place())];
        let grid = Grid::<4>::new(out.layout.dims(), places);
        if grid.numel == 0 {
            return Ok(());
        }
        let (x, y) = (pattern(out.dtype, a.scalar), pattern(out.dtype, b.scalar));
        let blocks = grid.blocks(out.dtype.size());
        let tag = Tag::bits(out.dtype);
        launch!(self, SELECT, "where", tag, blocks, grid, condition.address, a.address, b.address, out.address, x, y)
    }

    pub(super) fn dropout_impl(&self, p: f64, state: RandomState, x: View, out: ViewMut) -> Result<()> {
        const OP: &str = "dropout";
        if !(0.0..1.0).contains(&p) {
            return Err(Error::argument(OP, format!("the probability {p} is not in [0, 1)")));
        }
        let out = Tensor::write(self, OP, out)?;
        let x = Tensor::read(self, OP, x)?.of(OP, out.dtype)?.shaped(OP, out.layout)?;
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let scale = 1.0 / (1.0 - p);
        let blocks = params::blocks(grid.numel.div_ceil(4));
        let tag = Tag::of(out.dtype);
        self.generator.draw(state, RandomState::blocks(grid.numel as usize, 1), |at| {
            launch!(self, DROPOUT, "apply", tag, blocks, grid, x.address, out.address, at, threshold(p), scale)
        })
    }

    pub(super) fn triangle_impl(&self, upper: bool, diagonal: i64, x: View, out: ViewMut) -> Result<()> {
        let op = if upper { "triu" } else { "tril" };
        let out = Tensor::write(self, op, out)?;
        let x = Tensor::read(self, op, x)?.of(op, out.dtype)?.shaped(op, out.layout)?;
        let &[.., rows, columns] = out.layout.dims() else {
            return Err(Error::shape(op, "matrices", out.layout.shape()));
        };
        let grid = Grid::<2>::new(out.layout.dims(), [Some(x.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let shape =
            Triangle { rows: rows as u64, columns: columns as u64, diagonal, upper: u32::from(upper), unused: 0 };
        let blocks = params::blocks(grid.numel);
        launch!(self, TRIANGLE, "keep", Tag::bits(out.dtype), blocks, grid, x.address, out.address, shape)
    }
}
