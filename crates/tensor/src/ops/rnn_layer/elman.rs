//! Layers without gates (Elman, 1990) over all steps of a sequence, as one node of the tape: a step is a product with the hidden
//! state, a sum and an activation.

use kiln_backend::{Arguments, Error, Result, UnaryArgs, UnaryGradArgs, UnaryOp};
use kiln_derive::located;

use super::{Direction, at, rows};
use crate::{
    autocast::cast_operands,
    autograd::{Ctx, Grads, is_tracing, no_grad, record_all},
    ops::{check, images::writing, linear::forward as linear, matmul::product},
    tensor::Tensor,
};

#[located]
impl Tensor {
    /// A layer `h' = tanh(x + weight · h)` over a sequence, from the products of its input weight with all inputs (this tensor),
    /// `[L, N, H]`, biases included, the initial hidden state `h`, `[N, H]`, and the recurrent weight `[H, H]`; with `reverse`
    /// from the last step to the first. Returns the hidden states of all steps, `[L, N, H]`, in the order of the sequence, and
    /// the final one. (<https://docs.pytorch.org/docs/stable/generated/torch.nn.RNN.html>)
    ///
    /// # Errors
    /// If there are no steps, the shapes do not fit, or the operands are not of one floating-point dtype on one device.
    pub fn rnn_tanh_layer(&self, h: &Tensor, weight: &Tensor, reverse: bool) -> Result<(Tensor, Tensor)> {
        Layer { activation: Activation::Tanh, direction: Direction { reverse } }.run_cast(self, h, weight)
    }

    /// [`rnn_tanh_layer`](Tensor::rnn_tanh_layer) with ReLU instead of the hyperbolic tangent.
    ///
    /// # Errors
    /// Those of [`rnn_tanh_layer`](Tensor::rnn_tanh_layer).
    pub fn rnn_relu_layer(&self, h: &Tensor, weight: &Tensor, reverse: bool) -> Result<(Tensor, Tensor)> {
        Layer { activation: Activation::Relu, direction: Direction { reverse } }.run_cast(self, h, weight)
    }
}

/// What a step applies to its sum. The gradients of both read the output.
#[derive(Clone, Copy)]
enum Activation {
    Tanh,
    Relu,
}

impl Activation {
    fn op(self) -> UnaryOp {
        match self {
            Activation::Tanh => UnaryOp::Tanh,
            Activation::Relu => UnaryOp::Relu,
        }
    }

    /// The name of a layer, of the cell in the table of autocast, and of the node.
    fn names(self) -> [&'static str; 3] {
        match self {
            Activation::Tanh => ["rnn_tanh_layer", "rnn_tanh_cell", "RnnTanhLayerBackward0"],
            Activation::Relu => ["rnn_relu_layer", "rnn_relu_cell", "RnnReluLayerBackward0"],
        }
    }
}

/// A layer in one direction. Its inputs are the inputs' products, the hidden state and the weight.
#[derive(Clone, Copy)]
struct Layer {
    activation: Activation,
    direction: Direction,
}

/// The saved tensor that is no input: the initial hidden state and that of each step, `[L + 1, N, H]`.
const STATES: usize = 3;

impl Layer {
    fn run_cast(self, x: &Tensor, h: &Tensor, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let [name, cell, _] = self.activation.names();
        cast_operands(cell, [x, h, weight], [], |inputs, []| self.run(inputs)).map_err(|error| error.of_op(name))
    }

    fn check(self, [x, h, weight]: [&Tensor; 3]) -> Result<()> {
        let [op, ..] = self.activation.names();
        check::floats(op, h)?;
        check::same_kind(op, h, &[x, weight])?;
        let &[n, features] = h.dims() else { return Err(Error::shape(op, "a state [N, H]", h.shape())) };
        let Some(steps @ 1..) = x.dims().first().copied() else {
            return Err(Error::shape(op, "products of at least one step, [L, N, H]", x.shape()));
        };
        if x.dims() != [steps, n, features] {
            let expected = format!("the products must have {n} rows of {features} elements in each step");
            return Err(Error::shapes(op, x.shape(), h.shape(), expected));
        }
        if weight.dims() != [features, features] {
            return Err(Error::shape(op, format!("a recurrent weight [{features}, {features}]"), weight.shape()));
        }
        Ok(())
    }

    /// The hidden states, and the final one.
    fn run(self, inputs: [&Tensor; 3]) -> Result<(Tensor, Tensor)> {
        self.check(inputs)?;
        if is_tracing() {
            return self.plain(inputs);
        }
        let states = no_grad(|| self.forward(inputs))?;
        let steps = inputs[0].dims()[0];
        let y = no_grad(|| self.direction.after(&states, steps))?.detach();
        // In memory of its own, since `y` may be changed in place.
        let last = no_grad(|| at(&states, if self.direction.reverse { 0 } else { steps as i64 })?.copy())?;
        let [x, h, weight] = inputs;
        let [_, _, node] = self.activation.names();
        record_all(&[&y, &last], node, &inputs, &[x, h, weight, &states], move |ctx| self.gradients(ctx))?;
        Ok((y, last))
    }

    /// The initial hidden state and that of each step, `[L + 1, N, H]`.
    fn forward(self, [x, h, weight]: [&Tensor; 3]) -> Result<Tensor> {
        let (steps, op) = (x.dims()[0], self.activation.op());
        let states = Tensor::empty([steps + 1, h.dims()[0], h.dims()[1]], h.options())?;
        at(&states, self.direction.initial(steps))?.copy_(h)?;
        for step in self.direction.order(steps) {
            let (from, to) = self.direction.places(step);
            // The state is read before another slot of its memory is locked for writing.
            let sum = linear(&at(&states, from)?, weight, None, false, false)?.0.add(&x.select(0, step as i64)?)?;
            let (sum, state) = (sum.read(), at(&states, to)?);
            let mut out = writing(&state);
            state.device().backend()?.unary(UnaryArgs { op, x: sum.view(), out: out.view() }.checked()?)?;
        }
        Ok(states)
    }

    fn gradients(self, ctx: &Ctx<'_>) -> Result<Grads> {
        if ctx.create_graph {
            return ctx.composed_all(&[ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?], |inputs| {
                let (y, h) = self.plain([&inputs[0], &inputs[1], &inputs[2]])?;
                Ok(vec![y, h])
            });
        }
        let (weight, states, op) = (ctx.saved(2)?, ctx.saved(STATES)?, self.activation.op());
        let steps = states.dims()[0] - 1;
        let of_x = Tensor::empty([steps, states.dims()[1], states.dims()[2]], states.options())?;
        let (of_y, mut recurrent) = (ctx.grad_of(0), ctx.grad_of(1));
        for (i, step) in self.direction.order(steps).enumerate().rev() {
            let (place, (_, to)) = (step as i64, self.direction.places(step));
            let of_output = of_y.as_ref().map(|grad| at(grad, place)).transpose()?;
            let of_x = at(&of_x, place)?;
            // One of the two is there: a node runs if one of its outputs has a gradient, and later steps hand theirs on.
            let grad = match (of_output, recurrent.take()) {
                (Some(output), Some(recurrent)) => output.add(&recurrent)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => of_x.zeros_like()?,
            };
            {
                let (state, grad, mut out) = (at(&states, to)?, grad.read(), writing(&of_x));
                let saved = state.read();
                let args = UnaryGradArgs { op, grad: grad.view(), saved: Some(saved.view()), out: out.view() };
                of_x.device().backend()?.unary_grad(args.checked()?)?;
            }
            if i > 0 || ctx.needs(1) {
                recurrent = Some(product(&of_x, &weight)?);
            }
        }
        let of_weight = ctx.when(2, || product(&rows(&of_x)?.t()?, &rows(&self.direction.before(&states, steps)?)?))?;
        let of_h = recurrent.filter(|_| ctx.needs(1));
        Ok([Some(of_x), of_h, of_weight].into_iter().collect())
    }

    /// All steps in operations that have gradients of gradients, and that exporters know.
    fn plain(self, [x, h, weight]: [&Tensor; 3]) -> Result<(Tensor, Tensor)> {
        let (products, mut h) = (x.unbind(0)?, h.clone());
        let mut outputs = Vec::with_capacity(products.len());
        for step in self.direction.order(products.len()) {
            let sum = products[step].add(&h.linear(weight, None)?)?;
            h = match self.activation {
                Activation::Tanh => sum.tanh()?,
                Activation::Relu => sum.relu()?,
            };
            outputs.push(h.clone());
        }
        if self.direction.reverse {
            outputs.reverse();
        }
        Ok((Tensor::stack(&outputs.iter().collect::<Vec<_>>(), 0)?, h))
    }
}
