//! `conv2d` and its gradients, by [`conv`](crate::conv).

use kiln_backend::{
    Arguments, BinaryAssignArgs, BinaryBackend, BinaryOp, Checked, Conv2d, Conv2dArgs, Conv2dBackend,
    Conv2dGradInputArgs, Conv2dGradWeightArgs, Operand, Result, Scalar,
};

use crate::{
    conv::{
        compute::Compute,
        groups::{self, ChannelOrder, Group},
    },
    device::CpuBackend,
    engine::image::Image,
    memory::{
        erased::Erased,
        view::{Source, Target},
    },
    numeric::dispatch::for_float,
};

impl Conv2dBackend for CpuBackend {
    fn conv2d(&self, args: Checked<Conv2dArgs>) -> Result<()> {
        const OP: &str = "conv2d";
        let Conv2dArgs { rule, x, w, bias, residual, relu, mut out } = args.into_inner();
        if let Some(residual) = residual {
            let sum = out.reborrow();
            self.conv2d(Conv2dArgs { rule, x, w, bias, residual: None, relu: false, out: sum }.checked()?)?;
            let mut assign = |op, b| self.binary_assign(BinaryAssignArgs { op, b, out: out.reborrow() }.checked()?);
            assign(BinaryOp::Add, Operand::Tensor(residual))?;
            // Like ReLU, the maximum keeps NaN.
            return if relu { assign(BinaryOp::Maximum, Operand::Scalar(Scalar::Float(0.0))) } else { Ok(()) };
        }
        for_float!(OP, x.dtype(), S => {
            let bias = bias.map(|bias| Source::<S>::new(OP, bias)).transpose()?;
            let (x, w, out) = (Source::<S>::new(OP, x)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            forward(&rule, x.erased(), w.erased(), bias.map(Source::erased), relu, out.erased())
        })
    }

    fn conv2d_grad_input(&self, args: Checked<Conv2dGradInputArgs>) -> Result<()> {
        const OP: &str = "conv2d_grad_input";
        let Conv2dGradInputArgs { rule, grad, w, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, w, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, w)?, Target::<S>::new(OP, out)?);
            grad_input(&rule, grad.erased(), w.erased(), out.erased())
        })
    }

    fn conv2d_grad_weight(&self, args: Checked<Conv2dGradWeightArgs>) -> Result<()> {
        const OP: &str = "conv2d_grad_weight";
        let Conv2dGradWeightArgs { rule, grad, x, out } = args.into_inner();
        for_float!(OP, grad.dtype(), S => {
            let (grad, x, out) = (Source::<S>::new(OP, grad)?, Source::<S>::new(OP, x)?, Target::<S>::new(OP, out)?);
            grad_weight(&rule, grad.erased(), x.erased(), out.erased())
        })
    }
}

/// The groups of a convolution of images.
fn groups_of<T: Compute>(
    rule: &Conv2d,
    [x, w, y]: [Erased<T>; 3],
) -> impl Fn(usize, ChannelOrder) -> Group<T> + use<T> {
    let e = rule.extents(w.layout());
    let (x, w, y) = (Image::new(&x), Image::new(&w), Image::new(&y));
    move |g, _| Group {
        x: x.channels(g * e.group_in, e.group_in),
        w: w.images(g * e.group_out, e.group_out),
        y: y.channels(g * e.group_out, e.group_out),
    }
}

fn forward<T: Compute>(
    rule: &Conv2d,
    x: Erased<T>,
    w: Erased<T>,
    bias: Option<Erased<T>>,
    relu: bool,
    out: Erased<T>,
) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    let bias = bias.map(values_of_bias);
    // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
    unsafe { groups::forward(rule, &groups_of(rule, [x, w, out]), bias.as_deref(), relu) }
}

/// The elements of a checked bias.
pub(super) fn values_of_bias<T: Compute>(bias: Erased<T>) -> Vec<T> {
    let (count, step) = (bias.layout().numel(), bias.layout().strides()[0]);
    // SAFETY: elements of the bias.
    (0..count).map(|o| unsafe { bias.ptr().offset(o as isize * step).load() }).collect()
}

fn grad_input<T: Compute>(rule: &Conv2d, grad: Erased<T>, w: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
    unsafe { groups::grad_input(rule, &groups_of(rule, [out, w, grad])) }
}

fn grad_weight<T: Compute>(rule: &Conv2d, grad: Erased<T>, x: Erased<T>, out: Erased<T>) -> Result<()> {
    // There may be any number of groups without channels.
    if out.layout().numel() == 0 {
        return Ok(());
    }
    // SAFETY: the views were checked, and their extents fit together; the output is exclusively borrowed.
    unsafe { groups::grad_weight(rule, &groups_of(rule, [x, out, grad])) }
}
