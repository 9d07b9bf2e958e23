//! Batch and layer normalization, and their gradients: what needs sums over groups of elements.

use kiln_backend::{
    Affine, BatchNormBackend, DType, Error, LayerNormBackend, Layout, NormGrads, Result, RunningStats, View, ViewMut,
};

use super::{
    launch::{Tag, launch},
    values::accumulated,
};
use crate::{
    device::{CudaBackend, Device},
    memory::Block,
    params::{Groups, Norm, Reduce},
    view::Tensor,
};

/// Numbers of a partial result: count, mean and squares; the two sums of a gradient.
const MOMENTS: usize = 3;
const SUMS: usize = 2;

fn matrix(op: &'static str, layout: &Layout, rank: usize, kind: &str) -> Result<()> {
    if layout.rank() == rank { Ok(()) } else { Err(Error::shape(op, kind, layout.shape())) }
}

/// Checks that a tensor is a vector of `n` elements of a dtype.
pub(super) fn vector<'a>(op: &'static str, tensor: Tensor<'a>, dtype: DType, n: usize) -> Result<Tensor<'a>> {
    let tensor = tensor.of(op, dtype)?;
    if tensor.layout.dims() == [n] {
        Ok(tensor)
    } else {
        Err(Error::shape(op, format!("a vector of {n}"), tensor.layout.shape()))
    }
}

/// The address and the stride of a vector that may be left out.
pub(super) fn parts(vector: Option<&Tensor>) -> (u64, i64) {
    vector.map_or((0, 0), |v| (v.address, v.layout.strides()[0] as i64))
}

/// The operands of a normalization that is checked: `x`, `out`, and vectors of as many elements as they must have.
struct Forward<'a> {
    x: Tensor<'a>,
    out: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    bias: Option<Tensor<'a>>,
    /// The mean and what belongs to it: written, or read where the statistics are given.
    stats: [Tensor<'a>; 2],
    running: Option<([Tensor<'a>; 2], f64)>,
    eps: f64,
}

/// As [`Forward`], backwards.
struct Backward<'a> {
    grad: Tensor<'a>,
    x: Tensor<'a>,
    weight: Option<Tensor<'a>>,
    stats: [Tensor<'a>; 2],
    out: Option<Tensor<'a>>,
    weight_grad: Option<Tensor<'a>>,
    bias_grad: Option<Tensor<'a>>,
}

impl BatchNormBackend for CudaBackend {
    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        running: Option<RunningStats>,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()> {
        let device = self.0;
        const OP: &str = "batch_norm";
        let (x, out) = (Tensor::read(device, OP, x)?, Tensor::write(device, OP, out)?);
        let stats = [Tensor::write(device, OP, mean)?, Tensor::write(device, OP, inv_std)?];
        let running = match running {
            Some(RunningStats { mean, var, momentum }) => {
                Some(([Tensor::write(device, OP, mean)?, Tensor::write(device, OP, var)?], momentum))
            }
            None => None,
        };
        device.batch_norm_checked(OP, eps, x, affine, stats, running, out, false)
    }

    fn batch_norm_eval(&self, eps: f64, x: View, affine: Affine, mean: View, var: View, out: ViewMut) -> Result<()> {
        let device = self.0;
        const OP: &str = "batch_norm";
        let (x, out) = (Tensor::read(device, OP, x)?, Tensor::write(device, OP, out)?);
        // Only read by the kernel, since they are given.
        let stats = [Tensor::read(device, OP, mean)?, Tensor::read(device, OP, var)?];
        device.batch_norm_checked(OP, eps, x, affine, stats, None, out, true)
    }

    #[allow(clippy::too_many_arguments)] // one fused kernel
    fn batch_norm_grad(
        &self,
        training: bool,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()> {
        let device = self.0;
        const OP: &str = "batch_norm_grad";
        matrix(OP, x.layout, 4, "images [N, C, H, W]")?;
        let channels = x.layout.dims()[1];
        let operands = device.backward(OP, grad, x, weight, [mean, inv_std], grads, [channels; 2])?;
        let (out, x) = (operands.out, operands.x);
        let sums = operands.weight_grad.is_some() || operands.bias_grad.is_some();
        if channels == 0 || (!sums && (out.is_none() || x.layout.numel() == 0)) {
            return Ok(());
        }
        let places = [Some(x.place()), out.as_ref().map(Tensor::place), Some(operands.grad.place())];
        let groups = Groups::new(x.layout.dims(), 1, places);
        let groups = if training || sums { groups } else { groups.given() };
        device.normalize_grad(groups, if training { 0 } else { Norm::CONSTANT }, &operands)
    }
}

impl LayerNormBackend for CudaBackend {
    fn layer_norm(
        &self,
        eps: f64,
        x: View,
        affine: Affine,
        out: ViewMut,
        mean: ViewMut,
        inv_std: ViewMut,
    ) -> Result<()> {
        let device = self.0;
        const OP: &str = "layer_norm";
        let x = Tensor::read(device, OP, x)?;
        matrix(OP, x.layout, 2, "rows [M, N]")?;
        let (dtype, rows, columns) = (x.dtype, x.layout.dims()[0], x.layout.dims()[1]);
        let out = Tensor::write(device, OP, out)?.of(OP, dtype)?.shaped(OP, x.layout)?;
        let [weight, bias] = device.scale_and_shift(OP, affine, dtype, columns)?;
        let stat = |view| vector(OP, Tensor::write(device, OP, view)?, accumulated(dtype), rows);
        let stats = [stat(mean)?, stat(inv_std)?];
        if rows == 0 {
            return Ok(());
        }
        let groups = Groups::new(x.layout.dims(), 0, [Some(x.place()), Some(out.place()), None]);
        device.normalize(groups, Norm::AFFINE_INSIDE, &Forward { x, out, weight, bias, stats, running: None, eps })
    }

    fn layer_norm_grad(
        &self,
        grad: View,
        x: View,
        weight: Option<View>,
        mean: View,
        inv_std: View,
        grads: NormGrads,
    ) -> Result<()> {
        let device = self.0;
        const OP: &str = "layer_norm_grad";
        matrix(OP, x.layout, 2, "rows [M, N]")?;
        let (rows, columns) = (x.layout.dims()[0], x.layout.dims()[1]);
        let operands = device.backward(OP, grad, x, weight, [mean, inv_std], grads, [rows, columns])?;
        let (x, grad) = (operands.x, operands.grad);
        if let Some(out) = operands.out
            && out.layout.numel() > 0
        {
            let groups = Groups::new(x.layout.dims(), 0, [Some(x.place()), Some(out.place()), Some(grad.place())]);
            let of_input = Backward { weight_grad: None, bias_grad: None, ..operands };
            device.normalize_grad(groups, Norm::AFFINE_INSIDE, &of_input)?;
        }
        if columns > 0 && (operands.weight_grad.is_some() || operands.bias_grad.is_some()) {
            let groups = Groups::new(x.layout.dims(), 1, [Some(x.place()), None, Some(grad.place())]);
            let of_columns = Backward { weight: None, out: None, ..operands };
            device.normalize_grad(groups, Norm::STATS_INSIDE, &of_columns)?;
        }
        Ok(())
    }
}

impl Device {
    fn scale_and_shift<'a>(
        &self,
        op: &'static str,
        affine: Affine<'a>,
        dtype: DType,
        n: usize,
    ) -> Result<[Option<Tensor<'a>>; 2]> {
        let read =
            |view: Option<View<'a>>| view.map(|view| vector(op, Tensor::read(self, op, view)?, dtype, n)).transpose();
        Ok([read(affine.weight)?, read(affine.bias)?])
    }

    /// Memory for what the first of two stages leaves to the second.
    pub(super) fn parts_of_groups(&'static self, groups: &Groups, numbers: usize, dtype: DType) -> Result<Block> {
        self.scratch(groups.partials() as usize * numbers * accumulated(dtype).size())
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

    #[allow(clippy::too_many_arguments)] // those of two primitives
    fn batch_norm_checked<'a>(
        &'static self,
        op: &'static str,
        eps: f64,
        x: Tensor<'a>,
        affine: Affine<'a>,
        stats: [Tensor<'a>; 2],
        running: Option<([Tensor<'a>; 2], f64)>,
        out: Tensor<'a>,
        given: bool,
    ) -> Result<()> {
        matrix(op, x.layout, 4, "images [N, C, H, W]")?;
        let (dtype, channels) = (x.dtype, x.layout.dims()[1]);
        let out = out.of(op, dtype)?.shaped(op, x.layout)?;
        let [weight, bias] = self.scale_and_shift(op, affine, dtype, channels)?;
        for stat in stats.iter().chain(running.iter().flat_map(|(both, _)| both)) {
            vector(op, *stat, accumulated(dtype), channels)?;
        }
        if channels == 0 || (given && x.layout.numel() == 0) {
            return Ok(());
        }
        let groups = Groups::new(x.layout.dims(), 1, [Some(x.place()), Some(out.place()), None]);
        let groups = if given { groups.given() } else { groups };
        self.normalize(groups, 0, &Forward { x, out, weight, bias, stats, running, eps })
    }

    #[allow(clippy::too_many_arguments)] // those of two primitives
    fn backward<'a>(
        &self,
        op: &'static str,
        grad: View<'a>,
        x: View<'a>,
        weight: Option<View<'a>>,
        [mean, inv_std]: [View<'a>; 2],
        grads: NormGrads<'a>,
        [statistics, affine]: [usize; 2],
    ) -> Result<Backward<'a>> {
        let x = Tensor::read(self, op, x)?;
        let dtype = x.dtype;
        let write = |view: Option<ViewMut<'a>>| {
            view.map(|view| vector(op, Tensor::write(self, op, view)?, dtype, affine)).transpose()
        };
        let stat = |view| vector(op, Tensor::read(self, op, view)?, accumulated(dtype), statistics);
        let out = match grads.input {
            Some(view) => Some(Tensor::write(self, op, view)?.of(op, dtype)?.shaped(op, x.layout)?),
            None => None,
        };
        Ok(Backward {
            grad: Tensor::read(self, op, grad)?.of(op, dtype)?.shaped(op, x.layout)?,
            x,
            weight: weight.map(|view| vector(op, Tensor::read(self, op, view)?, dtype, affine)).transpose()?,
            stats: [stat(mean)?, stat(inv_std)?],
            out,
            weight_grad: write(grads.weight)?,
            bias_grad: write(grads.bias)?,
        })
    }
}
