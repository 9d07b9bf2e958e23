//! Calls of the backend that launch one kernel and nothing else worth mentioning, with operands for them.

use kiln_backend::{
    Affine, Arguments, AvgPool2dGradArgs, Backend, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen,
    BatchNormThen, BinaryArgs, BinaryOp, Buffer, ClassLoss, ClassLossArgs, ClassLossGradArgs, ClassLossInput,
    ClassLossOperands, CopyArgs, DType, DropoutArgs, GatedCell, LayerNormArgs, LayerNormGradArgs, Layout,
    MaxPool2dArgs, MaxPool2dGradArgs, NormGrads, Operand, OptimArgs, OptimRule, OptimSlot, Pool2d, PoolDivisor,
    RandomState, ReduceArgs, ReduceOp, Reduction, ReluAfterNorm, ReluBiasGradArgs, Result, RnnCellArgs,
    RnnCellGradArgs, SAVED_GATES, Scalar, Shape, SoftmaxArgs, SoftmaxGradArgs, UnaryArgs, UnaryGradArgs, UnaryOp,
    UnscaleGradsArgs, View, ViewMut,
};

/// A tensor on the device.
struct Tensor {
    buffer: Box<dyn Buffer>,
    layout: Layout,
}

impl Tensor {
    fn view(&self) -> View<'_> {
        View { buffer: &*self.buffer, layout: &self.layout }
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { buffer: &mut *self.buffer, layout: &self.layout }
    }
}

/// What a kernel is measured on.
pub struct Case {
    /// Elements as the list of hot kernels counts them.
    pub elements: usize,
    /// Bytes read and written.
    pub bytes: usize,
    pub run: Box<dyn FnMut() -> Result<()>>,
}

impl Case {
    /// `accesses` numbers of `dtype` are read and written for each element.
    fn new(elements: usize, accesses: usize, dtype: DType, run: impl FnMut() -> Result<()> + 'static) -> Case {
        Case { elements, bytes: elements * accesses * dtype.size(), run: Box::new(run) }
    }
}

/// Makes operands.
#[derive(Clone, Copy)]
pub struct Maker {
    pub on: &'static dyn Backend,
    /// Of the kernel's operands.
    pub dtype: DType,
    /// As large as a GPU's caches are not, or as small as the simulated device is slow.
    pub full: bool,
}

impl Maker {
    pub fn numel(self) -> usize {
        if self.full { 1 << 25 } else { 1 << 14 }
    }

    /// The shape of a matrix.
    fn rows(self) -> [usize; 2] {
        [self.numel() / 1024, 1024]
    }

    /// The shape of images.
    fn images(self) -> [usize; 4] {
        if self.full { [64, 64, 112, 112] } else { [2, 16, 16, 16] }
    }

    /// Filled with a number.
    fn filled(self, dtype: DType, layout: Layout, number: f64) -> Result<Tensor> {
        let value = if dtype.is_float() { Scalar::Float(number) } else { Scalar::Int(number as i64) };
        let mut tensor = Tensor { buffer: self.on.alloc(dtype, layout.numel())?, layout };
        self.on.fill(value, tensor.view_mut())?;
        Ok(tensor)
    }

    /// A row-major tensor of another dtype.
    fn of(self, dtype: DType, dims: &[usize]) -> Result<Tensor> {
        self.filled(dtype, Layout::contiguous(Shape::new(dims)?), 1.0)
    }

    fn tensor(self, dims: &[usize]) -> Result<Tensor> {
        self.of(self.dtype, dims)
    }

    /// Images in one of the memory formats.
    fn image(self, [n, c, h, w]: [usize; 4], channels_last: bool) -> Result<Tensor> {
        self.filled(self.dtype, format([n, c, h, w], channels_last)?, 1.0)
    }

    pub fn unary(self, n: usize) -> Result<Case> {
        let (x, mut out) = (self.tensor(&[n])?, self.tensor(&[n])?);
        Ok(Case::new(n, 2, self.dtype, move || {
            self.on.unary(UnaryArgs { op: UnaryOp::Relu, x: x.view(), out: out.view_mut() }.checked()?)
        }))
    }

    pub fn unary_grad(self, n: usize) -> Result<Case> {
        let (grad, y, mut out) = (self.tensor(&[n])?, self.tensor(&[n])?, self.tensor(&[n])?);
        Ok(Case::new(n, 3, self.dtype, move || {
            let (grad, saved, out) = (grad.view(), Some(y.view()), out.view_mut());
            self.on.unary_grad(UnaryGradArgs { op: UnaryOp::Relu, grad, saved, out }.checked()?)
        }))
    }

    pub fn add(self, n: usize) -> Result<Case> {
        let (x, y, mut out) = (self.tensor(&[n])?, self.tensor(&[n])?, self.tensor(&[n])?);
        Ok(Case::new(n, 3, self.dtype, move || {
            let [a, b] = [&x, &y].map(|operand| Operand::Tensor(operand.view()));
            self.on.binary(BinaryArgs { op: BinaryOp::Add, a, b, out: out.view_mut() }.checked()?)
        }))
    }

    /// A copy, perhaps from another dtype.
    pub fn copy(self, from: DType, n: usize) -> Result<Case> {
        let (x, mut out) = (self.of(from, &[n])?, self.tensor(&[n])?);
        let run = move || self.on.copy(CopyArgs { x: x.view(), out: out.view_mut() }.checked()?);
        Ok(Case { elements: n, bytes: n * (from.size() + self.dtype.size()), run: Box::new(run) })
    }

    pub fn relu_bias_grad(self, channels_last: bool) -> Result<Case> {
        let dims = self.images();
        let [grad, y] = [self.image(dims, channels_last)?, self.image(dims, channels_last)?];
        let (mut out, mut bias) = (self.image(dims, channels_last)?, self.tensor(&[dims[1]])?);
        Ok(Case::new(out.layout.numel(), 3, self.dtype, move || {
            let (grad, y, out, bias) = (grad.view(), y.view(), out.view_mut(), bias.view_mut());
            self.on.relu_bias_grad(ReluBiasGradArgs { grad, y, dim: 1, out, bias }.checked()?)
        }))
    }

    pub fn max_pool(self, kernel: usize, channels_last: bool, backward: bool) -> Result<Case> {
        let dims @ [n, c, h, w] = self.images();
        let pool = Pool2d::Window { kernel: [kernel; 2], stride: [2; 2], padding: [kernel - 2; 2], dilation: [1; 2] };
        let small = [n, c, h / 2, w / 2];
        let (mut images, mut pooled) = (self.image(dims, channels_last)?, self.image(small, channels_last)?);
        // The tap in the middle of three, or the first of two, is inside wherever the window is.
        let middle = if kernel == 3 { 4.0 } else { 0.0 };
        let mut taps = self.filled(DType::U8, format(small, channels_last)?, middle)?;
        let (numel, windows) = (images.layout.numel(), pooled.layout.numel());
        let bytes = (numel + windows) * self.dtype.size() + windows;
        if backward {
            let run = move || {
                let (grad, indices, out) = (pooled.view(), taps.view(), images.view_mut());
                self.on.max_pool2d_grad(MaxPool2dGradArgs { pool, grad, indices, out }.checked()?)
            };
            return Ok(Case { elements: numel, bytes, run: Box::new(run) });
        }
        let run = move || {
            let (x, out, indices) = (images.view(), pooled.view_mut(), Some(taps.view_mut()));
            self.on.max_pool2d(MaxPool2dArgs { pool, x, out, indices }.checked()?)
        };
        Ok(Case { elements: windows, bytes, run: Box::new(run) })
    }

    pub fn mean_grad(self, channels_last: bool) -> Result<Case> {
        let dims @ [n, c, ..] = self.images();
        let (grad, mut out) = (self.tensor(&[n, c, 1, 1])?, self.image(dims, channels_last)?);
        Ok(Case::new(out.layout.numel(), 1, self.dtype, move || {
            let (pool, divisor) = (Pool2d::Adaptive, PoolDivisor::Inside);
            let (grad, out) = (grad.view(), out.view_mut());
            self.on.avg_pool2d_grad(AvgPool2dGradArgs { pool, divisor, grad, out }.checked()?)
        }))
    }

    pub fn dropout(self, n: usize) -> Result<Case> {
        let (x, mut out) = (self.tensor(&[n])?, self.tensor(&[n])?);
        Ok(Case::new(n, 2, self.dtype, move || {
            let state = RandomState { seed: 0, offset: 0 };
            self.on.dropout(DropoutArgs { p: 0.5, state, x: x.view(), out: out.view_mut() }.checked()?)
        }))
    }

    pub fn sum(self, n: usize) -> Result<Case> {
        let (x, mut out) = (self.tensor(&[n])?, self.tensor(&[1])?);
        Ok(Case::new(n, 1, self.dtype, move || {
            self.on.reduce(ReduceArgs { op: ReduceOp::Sum, x: x.view(), out: out.view_mut() }.checked()?)
        }))
    }

    pub fn softmax(self, log: bool) -> Result<Case> {
        let dims = self.rows();
        let (x, mut out) = (self.tensor(&dims)?, self.tensor(&dims)?);
        Ok(Case::new(self.numel(), 2, self.dtype, move || {
            self.on.softmax(SoftmaxArgs { x: x.view(), dim: 1, log, out: out.view_mut() }.checked()?)
        }))
    }

    pub fn softmax_grad(self, log: bool) -> Result<Case> {
        let dims = self.rows();
        let (grad, y, mut out) = (self.tensor(&dims)?, self.tensor(&dims)?, self.tensor(&dims)?);
        Ok(Case::new(self.numel(), 3, self.dtype, move || {
            let (grad, y, out) = (grad.view(), y.view(), out.view_mut());
            self.on.softmax_grad(SoftmaxGradArgs { grad, y, dim: 1, log, out }.checked()?)
        }))
    }

    /// Cross-entropy of labels, or its gradient.
    pub fn class_loss(self, backward: bool) -> Result<Case> {
        let [samples, classes] = self.rows();
        let dims = [samples, classes, 1];
        let labels = self.of(DType::I64, &[samples, 1])?;
        let (x, mut out) = (self.tensor(&dims)?, self.tensor(if backward { &dims[..] } else { &[] })?);
        let mut loss = self.tensor(&[])?;
        let (mut lse, mut total) = (self.of(DType::F32, &[samples, 1])?, self.of(DType::F32, &[])?);
        let (input, reduction) = (ClassLossInput::Logits, Reduction::Mean);
        let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing: 0.0 };
        Ok(Case::new(self.numel(), if backward { 2 } else { 1 }, self.dtype, move || {
            let operands = ClassLossOperands { rule, x: x.view(), target: labels.view(), weight: None };
            if backward {
                let (grad, lse, total, out) = (loss.view(), lse.view(), total.view(), out.view_mut());
                return self.on.class_loss_grad(ClassLossGradArgs { operands, grad, lse, total, out }.checked()?);
            }
            let (loss, lse, total) = (loss.view_mut(), lse.view_mut(), total.view_mut());
            self.on.class_loss(ClassLossArgs { operands, loss, lse, total, grad: None }.checked()?)
        }))
    }

    /// Batch normalization by given statistics, with a residual: the last pass of one by the batch's.
    pub fn batch_norm(self, channels_last: bool) -> Result<Case> {
        let dims = self.images();
        let [x, added] = [self.image(dims, channels_last)?, self.image(dims, channels_last)?];
        let mut out = self.image(dims, channels_last)?;
        let vector = || self.of(DType::F32, &[dims[1]]);
        let [weight, bias, mean, var] = [vector()?, vector()?, vector()?, vector()?];
        Ok(Case::new(x.layout.numel(), 3, self.dtype, move || {
            let affine = Affine { weight: Some(weight.view()), bias: Some(bias.view()) };
            let then = BatchNormThen { residual: Some(added.view()), relu: true };
            let (x, mean, var, out) = (x.view(), mean.view(), var.view(), out.view_mut());
            self.on.batch_norm_eval(BatchNormEvalArgs { x, affine, mean, var, eps: 1e-5, then, out }.checked()?)
        }))
    }

    /// Its gradient, through the ReLU.
    pub fn batch_norm_grad(self, channels_last: bool) -> Result<Case> {
        let dims = self.images();
        let image = || self.image(dims, channels_last);
        let ([grad, x, y], mut out) = ([image()?, image()?, image()?], image()?);
        let vector = || self.of(DType::F32, &[dims[1]]);
        let [weight, mean, inv_std] = [vector()?, vector()?, vector()?];
        Ok(Case::new(x.layout.numel(), 4, self.dtype, move || {
            let grads = NormGrads { input: Some(out.view_mut()), ..NormGrads::default() };
            let then = BatchNormGradThen { relu: ReluAfterNorm::Output(y.view()), ..BatchNormGradThen::default() };
            let (grad, x, weight, mean, inv_std) =
                (grad.view(), x.view(), Some(weight.view()), mean.view(), inv_std.view());
            let args = BatchNormGradArgs { training: false, grad, x, weight, mean, inv_std, grads, then };
            self.on.batch_norm_grad(args.checked()?)
        }))
    }

    pub fn layer_norm(self) -> Result<Case> {
        let dims @ [m, n] = self.rows();
        let (x, mut out, weight, bias) =
            (self.tensor(&dims)?, self.tensor(&dims)?, self.tensor(&[n])?, self.tensor(&[n])?);
        let (mut mean, mut inv_std) = (self.of(DType::F32, &[m])?, self.of(DType::F32, &[m])?);
        Ok(Case::new(self.numel(), 2, self.dtype, move || {
            let affine = Affine { weight: Some(weight.view()), bias: Some(bias.view()) };
            let (x, out, mean, inv_std) = (x.view(), out.view_mut(), mean.view_mut(), inv_std.view_mut());
            self.on.layer_norm(LayerNormArgs { x, affine, eps: 1e-5, out, mean, inv_std }.checked()?)
        }))
    }

    /// The gradient of layer normalization: of its input, or (`columns`) of its weight and bias.
    pub fn layer_norm_grad(self, columns: bool) -> Result<Case> {
        let dims @ [m, n] = self.rows();
        let (grad, x, weight) = (self.tensor(&dims)?, self.tensor(&dims)?, self.tensor(&[n])?);
        let mut out = self.tensor(if columns { &[1] } else { &dims[..] })?;
        let (mut of_weight, mut of_bias) = (self.tensor(&[n])?, self.tensor(&[n])?);
        let (mean, inv_std) = (self.of(DType::F32, &[m])?, self.of(DType::F32, &[m])?);
        Ok(Case::new(self.numel(), if columns { 2 } else { 3 }, self.dtype, move || {
            let grads = if columns {
                NormGrads { input: None, weight: Some(of_weight.view_mut()), bias: Some(of_bias.view_mut()) }
            } else {
                NormGrads { input: Some(out.view_mut()), ..NormGrads::default() }
            };
            let (grad, x, weight) = (grad.view(), x.view(), Some(weight.view()));
            let (mean, inv_std) = (mean.view(), inv_std.view());
            self.on.layer_norm_grad(LayerNormGradArgs { grad, x, weight, mean, inv_std, grads }.checked()?)
        }))
    }

    /// The shape of a state of recurrent cells: 32 samples or more.
    fn state(self) -> [usize; 2] {
        if self.full { [8192, 512] } else { [32, 32] }
    }

    pub fn rnn_cell(self, cell: GatedCell) -> Result<Case> {
        let dims @ [n, h] = self.state();
        let wide = |gates| self.tensor(&[n, gates * h]);
        let (x, hidden, mut saved) = (wide(cell.gates())?, wide(cell.gates())?, wide(SAVED_GATES)?);
        let (state, mut out, mut next) = (self.tensor(&dims)?, self.tensor(&dims)?, self.tensor(&dims)?);
        Ok(Case::new(n * h, 2 * cell.gates() + SAVED_GATES + 3, self.dtype, move || {
            let (x, hidden, state, out) = (x.view(), hidden.view(), state.view(), out.view_mut());
            let (next_state, saved) = (Some(next.view_mut()), Some(saved.view_mut()));
            self.on.rnn_cell(RnnCellArgs { cell, x, hidden, state, out, next_state, saved }.checked()?)
        }))
    }

    pub fn rnn_cell_grad(self, cell: GatedCell) -> Result<Case> {
        let dims @ [n, h] = self.state();
        let wide = |gates| self.tensor(&[n, gates * h]);
        let (saved, mut x, mut hidden) = (wide(SAVED_GATES)?, wide(cell.gates())?, wide(cell.gates())?);
        let narrow = || self.tensor(&dims);
        let ([a, b, carried, state, next], mut state_grad) =
            ([narrow()?, narrow()?, narrow()?, narrow()?, narrow()?], narrow()?);
        let is_lstm = cell == GatedCell::Lstm;
        // An LSTM reads its next cell state, a GRU writes the gradient of its hidden state's product.
        let others = if is_lstm { cell.gates() + 1 } else { 2 * cell.gates() };
        Ok(Case::new(n * h, SAVED_GATES + others + 5, self.dtype, move || {
            self.on.rnn_cell_grad(
                RnnCellGradArgs {
                    cell,
                    grads: [Some(a.view()), Some(b.view())],
                    carried: Some(carried.view()),
                    saved: saved.view(),
                    state: state.view(),
                    next_cell: is_lstm.then(|| next.view()),
                    x: x.view_mut(),
                    hidden: (!is_lstm).then(|| hidden.view_mut()),
                    state_grad: state_grad.view_mut(),
                }
                .checked()?,
            )
        }))
    }

    /// A step with all states that the rule can have, and gradients of a dtype.
    pub fn optim(self, rule: OptimRule, of_grad: DType) -> Result<Case> {
        let n = self.numel();
        let (mut param, grad) = (self.tensor(&[n])?, self.of(of_grad, &[n])?);
        let mut states = (0..rule.states()).map(|_| self.tensor(&[n])).collect::<Result<Vec<_>>>()?;
        let (lr, mut count) = (self.of(DType::F64, &[1])?, self.of(DType::I64, &[1])?);
        let bytes = n * (2 * (1 + rule.states()) * self.dtype.size() + of_grad.size());
        let run = move || {
            let slot = OptimSlot {
                param: param.view_mut(),
                grad: grad.view(),
                states: states.iter_mut().map(Tensor::view_mut).collect(),
                count: count.view_mut(),
                low: None,
            };
            self.on.optimizer_step(OptimArgs { rule, lr: lr.view(), scaling: None, slots: vec![slot] }.checked()?)
        };
        Ok(Case { elements: n, bytes, run: Box::new(run) })
    }

    pub fn unscale(self, n: usize) -> Result<Case> {
        let (mut grad, scale, mut found) = (self.tensor(&[n])?, self.of(DType::F32, &[1])?, self.of(DType::F32, &[1])?);
        Ok(Case::new(n, 2, self.dtype, move || {
            let (grads, scale, found_inf) = (vec![grad.view_mut()], Some(scale.view()), found.view_mut());
            self.on.unscale_grads(UnscaleGradsArgs { grads, scale, found_inf }.checked()?)
        }))
    }
}

fn format([n, c, h, w]: [usize; 4], channels_last: bool) -> Result<Layout> {
    if channels_last {
        return Ok(Layout::contiguous(Shape::new(&[n, h, w, c])?).permute(&[0, 3, 1, 2]));
    }
    Ok(Layout::contiguous(Shape::new(&[n, c, h, w])?))
}
