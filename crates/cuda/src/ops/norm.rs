//! Batch and layer normalization, and their gradients.

use kiln_backend::{
    BatchNormArgs, BatchNormBackend, BatchNormEvalArgs, BatchNormGradArgs, Checked, DType, LayerNormArgs,
    LayerNormBackend, LayerNormGradArgs, Result, RunningStats,
};

use super::launch::{Tag, launch};
use crate::{
    device::{CudaBackend, Device},
    memory::Block,
    params::{Groups, Norm, PackedGroups, PackedNorm, Reduce},
    view::{Access, Tensor},
};

/// Numbers in a partial result: count, mean and squared deviations, or the two sums of a gradient.
const MOMENTS: usize = 3;
const SUMS: usize = 2;

/// The address and the stride of an optional vector.
pub(super) fn parts(vector: Option<&Tensor>) -> (u64, i64) {
    vector.map_or((0, 0), |v| (v.address, v.layout.strides()[0] as i64))
}

/// The operands of a normalization.
struct Forward<'a> {
    x: Tensor<'a>,
    out: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    bias: Option<Tensor<'a>>,
    /// The mean and the inverse standard deviation, to write; or the mean and the variance, if they are given.
    stats: [Tensor<'a>; 2],
    running: Option<([Tensor<'a>; 2], f64)>,
    eps: f64,
}

/// The operands of the gradients of a normalization.
#[derive(Clone, Copy)]
struct Backward<'a> {
    grad: Tensor<'a>,
    x: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    stats: [Tensor<'a>; 2],
    out: Option<Tensor<'a>>,
    weight_grad: Option<Tensor<'a>>,
    bias_grad: Option<Tensor<'a>>,
}

impl Forward<'_> {
    /// The elements that are normalized together: those of one index along `dim`.
    fn groups(&self, dim: usize) -> Groups {
        Groups::new(self.x.layout.dims(), dim, [Some(self.x.place()), Some(self.out.place()), None])
    }
}

impl Backward<'_> {
    /// The elements whose gradients are summed together: those of one index along `dim`.
    fn groups(&self, dim: usize) -> Groups {
        let places = [Some(self.x.place()), self.out.as_ref().map(Tensor::place), Some(self.grad.place())];
        Groups::new(self.x.layout.dims(), dim, places)
    }
}

impl BatchNormBackend for CudaBackend {
    fn batch_norm(&self, args: Checked<BatchNormArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm" };
        let BatchNormArgs { x, affine, running, eps, out, mean, inv_std } = args.into_inner();
        let running = match running {
            Some(RunningStats { mean, var, momentum }) => Some(([access.write(mean)?, access.write(var)?], momentum)),
            None => None,
        };
        let (weight, bias) = (access.read_if(affine.weight)?, access.read_if(affine.bias)?);
        let stats = [access.write(mean)?, access.write(inv_std)?];
        let operands = Forward { x: access.read(x)?, out: access.write(out)?, weight, bias, stats, running, eps };
        if x.layout.dims()[1] == 0 { Ok(()) } else { self.0.normalize(operands.groups(1), 0, &operands) }
    }

    fn batch_norm_eval(&self, args: Checked<BatchNormEvalArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm" };
        let BatchNormEvalArgs { x, affine, mean, var, eps, out } = args.into_inner();
        let (weight, bias) = (access.read_if(affine.weight)?, access.read_if(affine.bias)?);
        let stats = [access.read(mean)?, access.read(var)?];
        let operands = Forward { x: access.read(x)?, out: access.write(out)?, weight, bias, stats, running: None, eps };
        if x.layout.numel() == 0 { Ok(()) } else { self.0.normalize(operands.groups(1).given(), 0, &operands) }
    }

    fn batch_norm_grad(&self, args: Checked<BatchNormGradArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "batch_norm_grad" };
        let BatchNormGradArgs { training, grad, x, weight, mean, inv_std, grads } = args.into_inner();
        let operands = Backward {
            grad: access.read(grad)?,
            x: access.read(x)?,
            weight: access.read_if(weight)?,
            stats: [access.read(mean)?, access.read(inv_std)?],
            out: access.write_if(grads.input)?,
            weight_grad: access.write_if(grads.weight)?,
            bias_grad: access.write_if(grads.bias)?,
        };
        let sums = operands.weight_grad.is_some() || operands.bias_grad.is_some();
        if x.layout.dims()[1] == 0 || (!sums && (operands.out.is_none() || x.layout.numel() == 0)) {
            return Ok(());
        }
        let groups = operands.groups(1);
        let groups = if training || sums { groups } else { groups.given() };
        self.0.normalize_grad(groups, if training { 0 } else { Norm::CONSTANT }, &operands)
    }
}

impl LayerNormBackend for CudaBackend {
    fn layer_norm(&self, args: Checked<LayerNormArgs>) -> Result<()> {
        let access = Access { device: self.0, op: "layer_norm" };
        let LayerNormArgs { x, affine, eps, out, mean, inv_std } = args.into_inner();
        let (weight, bias) = (access.read_if(affine.weight)?, access.read_if(affine.bias)?);
        let stats = [access.write(mean)?, access.write(inv_std)?];
        let operands = Forward { x: access.read(x)?, out: access.write(out)?, weight, bias, stats, running: None, eps };
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
            stats: [access.read(mean)?, access.read(inv_std)?],
            out: access.write_if(grads.input)?,
            weight_grad: access.write_if(grads.weight)?,
            bias_grad: access.write_if(grads.bias)?,
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

/// The same in packs, and the operation of its kernels, if there is one. The vectors are those that may be indexed inside a
/// group.
fn packed(
    norm: &Norm,
    places: [Option<u64>; 3],
    dtype: DType,
    vectors: [Option<Tensor>; 2],
) -> Option<(&'static str, PackedNorm)> {
    let (op, groups) = PackedGroups::new(&norm.groups, places, dtype.size())?;
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

    fn normalize(&'static self, groups: Groups, flags: u32, operands: &Forward) -> Result<()> {
        let dtype = operands.x.dtype;
        let [(weight, weight_step), (bias, bias_step)] =
            [parts(operands.weight.as_ref()), parts(operands.bias.as_ref())];
        let [(mean, mean_step), (inv_std, inv_std_step)] = operands.stats.each_ref().map(|stat| parts(Some(stat)));
        let (running, momentum) = operands.running.as_ref().map_or((None, 0.0), |(both, m)| (Some(both), *m));
        let [(running_mean, rm_step), (running_var, rv_step)] = [0, 1].map(|i| parts(running.map(|both| &both[i])));
        let vectors = [weight_step, bias_step, mean_step, inv_std_step, rm_step, rv_step];
        let norm = Norm { groups, vectors, eps: operands.eps, momentum, flags, unused: 0 };
        let places = [Some(operands.x.address), Some(operands.out.address), None];
        if let Some((op, packed)) = packed(&norm, places, dtype, [operands.weight, operands.bias]) {
            let partials = packed.groups.partials(groups.count.extent) as usize;
            let partial = self.scratch(partials * MOMENTS * dtype.accumulator().size())?;
            let start = |norm: PackedNorm| {
                let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
                let (x, out) = (operands.x.address, operands.out.address);
                launch!(
                    self,
                    NORM_PACKED,
                    op,
                    tag,
                    blocks,
                    norm,
                    x,
                    weight,
                    bias,
                    out,
                    mean,
                    inv_std,
                    running_mean,
                    running_var,
                    partial
                )
            };
            start(packed)?;
            return if partials > 0 { start(packed.second()) } else { Ok(()) };
        }
        let partial = self.parts_of_groups(&groups, MOMENTS, dtype)?;
        let start = |norm: Norm| {
            let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
            let (x, out) = (operands.x.address, operands.out.address);
            launch!(
                self,
                NORM,
                "groups",
                tag,
                blocks,
                norm,
                x,
                weight,
                bias,
                out,
                mean,
                inv_std,
                running_mean,
                running_var,
                partial
            )
        };
        start(norm)?;
        if groups.stage == Reduce::FIRST { start(Norm { groups: groups.second(), ..norm }) } else { Ok(()) }
    }

    fn normalize_grad(&'static self, groups: Groups, flags: u32, operands: &Backward) -> Result<()> {
        let dtype = operands.x.dtype;
        let [mean, inv_std] = operands.stats.each_ref().map(|stat| parts(Some(stat)));
        let [weight, weight_grad, bias_grad] =
            [&operands.weight, &operands.weight_grad, &operands.bias_grad].map(|vector| parts(vector.as_ref()));
        let vectors = [weight.1, bias_grad.1, mean.1, inv_std.1, weight_grad.1, 0];
        let norm = Norm { groups, vectors, eps: 0.0, momentum: 0.0, flags, unused: 0 };
        let places = [Some(operands.x.address), operands.out.map(|out| out.address), Some(operands.grad.address)];
        if let Some((op, packed)) = packed(&norm, places, dtype, [operands.weight, None]) {
            let partials = packed.groups.partials(groups.count.extent) as usize;
            let partial = self.scratch(partials * SUMS * dtype.accumulator().size())?;
            let start = |norm: PackedNorm| {
                let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
                let (grad, x, out) =
                    (operands.grad.address, operands.x.address, operands.out.map_or(0, |out| out.address));
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
                    mean.0,
                    inv_std.0,
                    out,
                    weight_grad.0,
                    bias_grad.0,
                    partial
                )
            };
            start(packed)?;
            return if partials > 0 { start(packed.second()) } else { Ok(()) };
        }
        let partial = self.parts_of_groups(&groups, SUMS, dtype)?;
        let start = |norm: Norm| {
            let (tag, blocks, partial) = (Tag::of(dtype), norm.groups.blocks(), partial.address());
            let (grad, x, out) = (operands.grad.address, operands.x.address, operands.out.map_or(0, |out| out.address));
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
                mean.0,
                inv_std.0,
                out,
                weight_grad.0,
                bias_grad.0,
                partial
            )
        };
        start(norm)?;
        if groups.stage == Reduce::FIRST { start(Norm { groups: groups.second(), ..norm }) } else { Ok(()) }
    }
}
