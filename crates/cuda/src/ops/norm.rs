//! Batch and layer normalization, and their gradients.

use kiln_backend::{
    BatchNormArgs, BatchNormBackend, BatchNormEvalArgs, BatchNormGradArgs, BatchNormGradThen, BatchNormThen, Checked,
    DType, LayerNormArgs, LayerNormBackend, LayerNormGradArgs, Layout, ReluAfterNorm, Result, RunningStats,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    memory::Block,
    params::{Grid, Groups, Norm, PackedGroups, PackedNorm, Reduce},
    view::{Access, Tensor},
};

/// Numbers in a partial result: count, mean and squared deviations, or the two sums of a gradient.
const MOMENTS: usize = 3;
const SUMS: usize = 2;

/// The address and the stride of an optional vector.
pub(super) fn parts(vector: Option<&Tensor>) -> (u64, i64) {
    vector.map_or((0, 0), |v| (v.address, v.layout.strides()[0] as i64))
}

/// The flag for scale, shift and their gradients, which the contract gives one dtype, if it is not that of the images.
fn wide(images: DType, vectors: &[Option<Tensor>]) -> u32 {
    if vectors.iter().flatten().any(|vector| vector.dtype != images) { Norm::WIDE } else { 0 }
}

/// The running statistics of a normalization.
struct Running<'a> {
    mean: Tensor<'a>,
    var: Tensor<'a>,
    shift: Option<Tensor<'a>>,
    count: Option<Tensor<'a>>,
    momentum: f64,
}

/// The operands of a normalization.
struct Forward<'a> {
    x: Tensor<'a>,
    out: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    bias: Option<Tensor<'a>>,
    /// The mean and the inverse standard deviation, to write; or the mean and the variance, if they are given.
    stats: [Tensor<'a>; 2],
    running: Option<Running<'a>>,
    residual: Option<Tensor<'a>>,
    eps: f64,
}

/// The operands of the gradients of a normalization.
#[derive(Clone, Copy)]
struct Backward<'a> {
    grad: Tensor<'a>,
    x: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    /// For recomputing which elements passed a ReLU.
    bias: Option<Tensor<'a>>,
    /// The output of the ReLU that follows.
    y: Option<Tensor<'a>>,
    stats: [Tensor<'a>; 2],
    out: Option<Tensor<'a>>,
    /// Receives the gradient of that ReLU's input.
    masked: Option<Tensor<'a>>,
    weight_grad: Option<Tensor<'a>>,
    bias_grad: Option<Tensor<'a>>,
    shift_grad: Option<Tensor<'a>>,
}

impl Forward<'_> {
    /// The elements that are normalized together: those of one index along `dim`.
    fn groups(&self, dim: usize) -> Groups {
        let places = [Some(self.x.place()), Some(self.out.place()), self.residual.as_ref().map(Tensor::place)];
        Groups::new(self.x.layout.dims(), dim, places)
    }
}

impl Backward<'_> {
    /// The elements whose gradients are summed together: those of one index along `dim`.
    fn groups(&self, dim: usize) -> Groups {
        let to = [&self.out, &self.masked, &self.y].into_iter().flatten().next();
        let places = [Some(self.x.place()), to.map(Tensor::place), Some(self.grad.place())];
        Groups::new(self.x.layout.dims(), dim, places)
    }

    /// Whether the results and the output of the ReLU have one layout, as the kernels require.
    fn lies_alike(&self) -> bool {
        let mut all = [&self.out, &self.masked, &self.y].into_iter().flatten().map(|tensor| tensor.layout.strides());
        let first = all.next();
        all.all(|strides| Some(strides) == first)
    }
}

impl BatchNormBackend for CudaBackend {
    fn batch_norm(&self, args: Checked<BatchNormArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm" };
        let BatchNormArgs { x, affine, running, eps, then, out, mean, inv_std } = args.into_inner();
        let running = match running {
            Some(RunningStats { mean, var, momentum, count, shift }) => Some(Running {
                mean: access.write(mean)?,
                var: access.write(var)?,
                shift: access.read_if(shift)?,
                count: access.write_if(count)?,
                momentum,
            }),
            None => None,
        };
        let BatchNormThen { residual, relu } = then;
        let operands = Forward {
            x: access.read(x)?,
            out: access.write(out)?,
            weight: access.read_if(affine.weight)?,
            bias: access.read_if(affine.bias)?,
            stats: [access.write(mean)?, access.write(inv_std)?],
            running,
            residual: access.read_if(residual)?,
            eps,
        };
        if x.layout.dims()[1] == 0 {
            return Ok(());
        }
        self.0.normalize(operands.groups(1), if relu { Norm::RELU } else { 0 }, &operands)
    }

    fn batch_norm_eval(&self, args: Checked<BatchNormEvalArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm" };
        let BatchNormEvalArgs { x, affine, mean, var, eps, then, out } = args.into_inner();
        let BatchNormThen { residual, relu } = then;
        let operands = Forward {
            x: access.read(x)?,
            out: access.write(out)?,
            weight: access.read_if(affine.weight)?,
            bias: access.read_if(affine.bias)?,
            stats: [access.read(mean)?, access.read(var)?],
            running: None,
            residual: access.read_if(residual)?,
            eps,
        };
        if x.layout.numel() == 0 {
            return Ok(());
        }
        self.0.normalize(operands.groups(1).given(), if relu { Norm::RELU } else { 0 }, &operands)
    }

    fn batch_norm_grad(&self, args: Checked<BatchNormGradArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm_grad" };
        let BatchNormGradArgs { training, grad, x, weight, mean, inv_std, grads, then } = args.into_inner();
        let BatchNormGradThen { relu, residual, shift } = then;
        let (recomputed, bias, y) = match relu {
            ReluAfterNorm::None => (false, None, None),
            ReluAfterNorm::Recomputed { bias } => (true, access.read_if(bias)?, None),
            ReluAfterNorm::Output(output) => (false, None, Some(access.read(output)?)),
        };
        let operands = Backward {
            grad: access.read(grad)?,
            x: access.read(x)?,
            weight: access.read_if(weight)?,
            bias,
            y,
            stats: [access.read(mean)?, access.read(inv_std)?],
            out: access.write_if(grads.input)?,
            masked: access.write_if(residual)?,
            weight_grad: access.write_if(grads.weight)?,
            bias_grad: access.write_if(grads.bias)?,
            shift_grad: access.write_if(shift)?,
        };
        let vectors = [&operands.weight_grad, &operands.bias_grad, &operands.shift_grad];
        let sums = vectors.into_iter().any(Option::is_some);
        let images = operands.out.is_some() || operands.masked.is_some();
        if x.layout.dims()[1] == 0 || (!sums && (!images || x.layout.numel() == 0)) {
            return Ok(());
        }
        let flags = if training { 0 } else { Norm::CONSTANT } | if recomputed { Norm::RELU } else { 0 };
        let layout = Layout::contiguous(*x.layout.shape());
        let apart = operands.y.filter(|_| !operands.lies_alike());
        let block = match (&apart, operands.masked) {
            (Some(_), None) => Some(self.0.scratch(layout.numel() * x.dtype().size())?),
            _ => None,
        };
        let operands = match apart {
            None => operands,
            // ReLU's gradient on its own, of which the rest is that of a normalization without ReLU.
            Some(y) => {
                let scratch =
                    block.as_ref().map(|block| Tensor { dtype: x.dtype(), layout: &layout, address: block.address() });
                let grad = operands.masked.or(scratch).unwrap_or(operands.grad);
                self.0.relu_gradient(&operands.grad, &y, &grad)?;
                Backward { grad, y: None, masked: None, ..operands }
            }
        };
        if !sums && operands.out.is_none() && operands.masked.is_none() {
            return Ok(());
        }
        let reduces = training || sums || operands.masked.is_some();
        let groups = operands.groups(1);
        self.0.normalize_grad(if reduces { groups } else { groups.given() }, flags, &operands)
    }
}

impl LayerNormBackend for CudaBackend {
    fn layer_norm(&self, args: Checked<LayerNormArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "layer_norm" };
        let LayerNormArgs { x, affine, eps, out, mean, inv_std } = args.into_inner();
        let (weight, bias) = (access.read_if(affine.weight)?, access.read_if(affine.bias)?);
        let stats = [access.write(mean)?, access.write(inv_std)?];
        let (x, out) = (access.read(x)?, access.write(out)?);
        let operands = Forward { x, out, weight, bias, stats, running: None, residual: None, eps };
        if x.layout.dims()[0] == 0 {
            return Ok(());
        }
        self.0.normalize(operands.groups(0), Norm::AFFINE_INSIDE, &operands)
    }

    fn layer_norm_grad(&self, args: Checked<LayerNormGradArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "layer_norm_grad" };
        let LayerNormGradArgs { grad, x, weight, mean, inv_std, grads } = args.into_inner();
        let operands = Backward {
            grad: access.read(grad)?,
            x: access.read(x)?,
            weight: access.read_if(weight)?,
            bias: None,
            y: None,
            stats: [access.read(mean)?, access.read(inv_std)?],
            out: access.write_if(grads.input)?,
            masked: None,
            weight_grad: access.write_if(grads.weight)?,
            bias_grad: access.write_if(grads.bias)?,
            shift_grad: None,
        };
        if operands.out.is_some() && x.layout.numel() > 0 {
            let of_input = Backward { weight_grad: None, bias_grad: None, ..operands };
            self.0.normalize_grad(of_input.groups(0), Norm::AFFINE_INSIDE, &of_input)?;
        }
        if x.layout.dims()[1] > 0 && (operands.weight_grad.is_some() || operands.bias_grad.is_some()) {
            let of_columns = Backward { weight: None, out: None, ..operands };
            self.0.normalize_grad(of_columns.groups(1), Norm::STATS_INSIDE, &of_columns)?;
        }
        Ok(())
    }
}

/// The same in packs, and the operation of its kernels, if there is one. `more` are operands that lie like the others. The
/// vectors are those that may be indexed inside a group.
fn packed(
    norm: &Norm,
    places: [Option<u64>; 3],
    more: [Option<Tensor>; 2],
    dtype: DType,
    vectors: [Option<Tensor>; 2],
) -> Option<(&'static str, PackedNorm)> {
    let (op, groups) = PackedGroups::new(&norm.groups, places, dtype.size())?;
    if more.iter().flatten().any(|tensor| !tensor.address.is_multiple_of(16)) {
        return None;
    }
    let dense = |v: &Tensor| v.address.is_multiple_of(16) && v.layout.strides()[0] == 1;
    let op = match (op, norm.flags) {
        ("along", flags) if flags & Norm::AFFINE_INSIDE != 0 => {
            if vectors.iter().flatten().all(dense) {
                "rows"
            } else {
                return None;
            }
        }
        ("across", flags) if flags & Norm::STATS_INSIDE != 0 => "columns",
        (_, flags) if flags & (Norm::AFFINE_INSIDE | Norm::STATS_INSIDE) != 0 => return None,
        (op, _) => op,
    };
    let Norm { vectors, eps, momentum, flags, .. } = *norm;
    Some((op, PackedNorm { groups, vectors, eps, momentum, flags, unused: 0 }))
}

impl PackedNorm {
    /// The second stage, which merges what the first one left.
    fn second(self) -> PackedNorm {
        PackedNorm { groups: PackedGroups { stage: Reduce::SECOND, ..self.groups }, ..self }
    }
}

impl Device {
    /// Memory for the results that the first of two stages passes to the second.
    pub(super) fn parts_of_groups(&'static self, groups: &Groups, numbers: usize, dtype: DType) -> Result<Block> {
        self.scratch(groups.partials() as usize * numbers * dtype.accumulator().size())
    }

    /// The gradient of ReLU on its own.
    fn relu_gradient(&'static self, grad: &Tensor, y: &Tensor, out: &Tensor) -> Result<()> {
        let grid = Grid::<3>::new(out.layout.dims(), [Some(grad.place()), Some(y.place()), Some(out.place())]);
        if grid.numel == 0 {
            return Ok(());
        }
        let (tag, blocks) = (Tag::of(out.dtype), grid.blocks(out.dtype.size()));
        launch!(self, UNARY_GRAD, "relu", tag, blocks, grid, grad.address, y.address, out.address)
    }

    fn normalize(&'static self, groups: Groups, flags: u32, operands: &Forward) -> Result<()> {
        let dtype = operands.x.dtype;
        let [weight, bias] = [&operands.weight, &operands.bias].map(|vector| parts(vector.as_ref()));
        let [mean, inv_std] = operands.stats.each_ref().map(|stat| parts(Some(stat)));
        let running = operands.running.as_ref();
        let [running_mean, running_var, shift] =
            [running.map(|r| &r.mean), running.map(|r| &r.var), running.and_then(|r| r.shift.as_ref())].map(parts);
        let count = running.and_then(|r| r.count.as_ref()).map_or(0, |count| count.address);
        let vectors = [weight.1, bias.1, mean.1, inv_std.1, running_mean.1, running_var.1, shift.1];
        let momentum = running.map_or(0.0, |r| r.momentum);
        let stored = running.is_some_and(|r| r.mean.dtype != dtype.accumulator());
        let flags = flags | if stored { Norm::RUNNING_STORED } else { 0 };
        let flags = flags | wide(dtype, &[operands.weight, operands.bias, running.and_then(|r| r.shift)]);
        let norm = Norm { groups, vectors, eps: operands.eps, momentum, flags, unused: 0 };
        let residual = operands.residual.map(|residual| residual.address);
        let (x, out) = (operands.x.address, operands.out.address);
        let more = [operands.weight, operands.bias];
        if let Some((op, packed)) = packed(&norm, [Some(x), Some(out), residual], [None; 2], dtype, more) {
            let partials = packed.groups.partials(groups.count.extent) as usize;
            let partial = self.scratch(partials * MOMENTS * dtype.accumulator().size())?;
            let start = |norm: PackedNorm| {
                let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
                launch!(
                    self,
                    NORM_PACKED,
                    op,
                    tag,
                    blocks,
                    norm,
                    x,
                    weight.0,
                    bias.0,
                    residual.unwrap_or(0),
                    out,
                    mean.0,
                    inv_std.0,
                    running_mean.0,
                    running_var.0,
                    shift.0,
                    count,
                    partial
                )
            };
            start(packed)?;
            return if partials > 0 { start(packed.second()) } else { Ok(()) };
        }
        let partial = self.parts_of_groups(&groups, MOMENTS, dtype)?;
        let start = |norm: Norm| {
            let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
            launch!(
                self,
                NORM,
                "groups",
                tag,
                blocks,
                norm,
                x,
                weight.0,
                bias.0,
                residual.unwrap_or(0),
                out,
                mean.0,
                inv_std.0,
                running_mean.0,
                running_var.0,
                shift.0,
                count,
                partial
            )
        };
        start(norm)?;
        if groups.stage == Reduce::FIRST { start(Norm { groups: groups.second(), ..norm }) } else { Ok(()) }
    }

    fn normalize_grad(&'static self, groups: Groups, flags: u32, operands: &Backward) -> Result<()> {
        let dtype = operands.x.dtype;
        let [mean, inv_std] = operands.stats.each_ref().map(|stat| parts(Some(stat)));
        let Backward { weight, bias, weight_grad, bias_grad, shift_grad, y, masked, .. } = operands;
        let flags = flags | wide(dtype, &[*weight, *bias, *weight_grad, *bias_grad, *shift_grad]);
        let [weight, bias, weight_grad, bias_grad, shift_grad] =
            [weight, bias, weight_grad, bias_grad, shift_grad].map(|vector| parts(vector.as_ref()));
        let vectors = [weight.1, bias_grad.1, mean.1, inv_std.1, weight_grad.1, shift_grad.1, bias.1];
        let norm = Norm { groups, vectors, eps: 0.0, momentum: 0.0, flags, unused: 0 };
        let address = |tensor: Option<Tensor>| tensor.map_or(0, |tensor| tensor.address);
        let (grad, x, out) = (operands.grad.address, operands.x.address, address(operands.out));
        let places = [Some(x), operands.out.or(*masked).or(*y).map(|to| to.address), Some(grad)];
        let (y_address, masked_address) = (address(*y), address(*masked));
        if let Some((op, packed)) = packed(&norm, places, [*y, *masked], dtype, [operands.weight, None]) {
            let partials = packed.groups.partials(groups.count.extent) as usize;
            let partial = self.scratch(partials * SUMS * dtype.accumulator().size())?;
            let start = |norm: PackedNorm, grad: u64, y: u64, masked: u64| {
                let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
                launch!(
                    self,
                    NORM_PACKED_GRAD,
                    op,
                    tag,
                    blocks,
                    norm,
                    grad,
                    x,
                    weight.0,
                    bias.0,
                    y,
                    mean.0,
                    inv_std.0,
                    out,
                    masked,
                    weight_grad.0,
                    bias_grad.0,
                    shift_grad.0,
                    partial
                )
            };
            start(packed, grad, y_address, masked_address)?;
            if partials == 0 {
                return Ok(());
            }
            // What the first stage has written is the gradient that the second one needs: one tensor to read instead of
            // two.
            let (grad, y) = if masked.is_some() { (masked_address, 0) } else { (grad, y_address) };
            return start(packed.second(), grad, y, 0);
        }
        let partial = self.parts_of_groups(&groups, SUMS, dtype)?;
        let start = |norm: Norm| {
            let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
            launch!(
                self,
                NORM_GRAD,
                "groups",
                tag,
                blocks,
                norm,
                grad,
                x,
                weight.0,
                bias.0,
                y_address,
                mean.0,
                inv_std.0,
                out,
                masked_address,
                weight_grad.0,
                bias_grad.0,
                shift_grad.0,
                partial
            )
        };
        start(norm)?;
        if groups.stage == Reduce::FIRST { start(Norm { groups: groups.second(), ..norm }) } else { Ok(()) }
    }
}
