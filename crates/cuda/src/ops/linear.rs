//! `linear` and its gradients: cuBLASLt products whose epilogues add the bias and apply ReLU, and kernels of our own
//! for epilogues that it lacks.

use kiln_backend::{
    Activation, Checked, Error, Layout, LinearArgs, LinearBackend, LinearGradArgs, LinearReluGradArgs, MatmulPlan,
    ReluMask, Result, linear_relu_grad_in_parts,
};

use super::{
    launch::{Tag, launch},
    matmul::{Places, steps},
};
use crate::{
    device::{CudaBackend, Device},
    gemm::{
        epilogue::{Epilogue, mask_len},
        problem::{Batch, Extents, Product},
    },
    memory::Block,
    params::{self, Grid},
    view::{Access, Tensor},
};

const ONE: Batch = Batch { count: 1, steps: [0; 3] };

/// The operands of `out = x · wᵀ + bias`.
struct Linear<'a> {
    x: Tensor<'a>,
    w: Tensor<'a>,
    bias: Option<Tensor<'a>>,
    out: Tensor<'a>,
    /// The layout that broadcasts the bias to `out`'s shape.
    spread: Option<Layout>,
    extents: Extents,
}

impl<'a> Linear<'a> {
    fn new(device: &Device, args: Checked<LinearArgs<'a>>) -> Result<Self> {
        let access = Access { device, op: "linear" };
        let [m, n, k] = args.extents();
        let LinearArgs { x, w, bias, out, .. } = args.into_inner();
        let (x, w, bias, out) = (access.read(x)?, access.read(w)?, access.read_if(bias)?, access.write(out)?);
        let spread = match &bias {
            Some(bias) => Some(bias.layout.expand(access.op, out.layout.shape())?),
            None => None,
        };
        Ok(Linear { x, w, bias, out, spread, extents: Extents { m, n, k } })
    }

    /// The product to ask the library for, if it can take the operands in place.
    fn product(&self) -> Option<Product> {
        // The library adds a dense bias along the rows of what it computes, which are the columns of `out`.
        let dense = self.bias.as_ref().is_none_or(|bias| self.extents.n == 1 || bias.layout.strides()[0] == 1);
        let turned = self.w.layout.transpose(0, 1);
        let product =
            Product::new(self.extents, steps(self.x.layout, 0), steps(&turned, 0), steps(self.out.layout, 0)).ok()?;
        (dense && product.swapped).then_some(product)
    }
}

impl LinearBackend for CudaBackend {
    fn linear(&self, args: Checked<LinearArgs>) -> Result<Option<ReluMask>> {
        let (device, activation) = (self.0, args.activation);
        let layer = Linear::new(device, args)?;
        if activation == Activation::ReluWithMask {
            let mask = Mask::new(device, [layer.extents.m, layer.extents.n])?;
            let written = device.run_linear(&layer, true, Some(&mask))?;
            return Ok(written.then(|| ReluMask::new(mask)));
        }
        device.run_linear(&layer, activation.is_relu(), None)?;
        Ok(None)
    }

    fn linear_grad(&self, args: Checked<LinearGradArgs>) -> Result<()> {
        let device = self.0;
        let access = Access { device, op: "linear_grad" };
        let LinearGradArgs { grad, x, weight, bias } = args.into_inner();
        let (grad, x) = (access.read(grad)?, access.read(x)?);
        let (out, bias) = (access.write(weight)?, access.write(bias)?);
        let turned = grad.layout.transpose(0, 1);
        let a = Tensor { layout: &turned, ..grad };
        let plan = MatmulPlan::new(&turned, x.layout, out.layout);
        let MatmulPlan { m: n, n: k, k: m, .. } = plan;
        let product =
            Product::new(Extents { m: n, n: k, k: m }, steps(&turned, 0), steps(x.layout, 0), steps(out.layout, 0));
        if let Ok(product) = product
            && product.swapped
            && m * n * k > 0
            && (n == 1 || bias.layout.strides()[0] == 1)
        {
            let places = Places { bias: bias.address, ..Places::new(a.address, x.address, out.address) };
            if device.product(out.dtype, product, Epilogue::BiasGrad, ONE, places)? {
                return Ok(());
            }
        }
        if out.layout.numel() > 0 {
            device.products_of(plan, [a, x, out])?;
        }
        device.sum_rows(grad, bias)
    }

    fn linear_relu_grad(&self, mut args: Checked<LinearReluGradArgs>) -> Result<()> {
        if let Some(mask) = args.mask
            && self.0.linear_relu_grad(args.reborrow(), mask)?
        {
            return Ok(());
        }
        linear_relu_grad_in_parts(self, args)
    }
}

impl Device {
    /// Computes the gradient in one library call; returns `false` if the library has no algorithm for these operands.
    fn linear_relu_grad(&'static self, args: Checked<LinearReluGradArgs>, mask: &ReluMask) -> Result<bool> {
        let access = Access { device: self, op: "linear_relu_grad" };
        let LinearReluGradArgs { grad, w, out, bias, .. } = args.into_inner();
        let (grad, w) = (access.read(grad)?, access.read(w)?);
        let (out, bias) = (access.write(out)?, access.write_if(bias)?);
        let mask = Mask::of(self, mask, &out)?;
        let MatmulPlan { m, n: k, k: n, .. } = MatmulPlan::new(grad.layout, w.layout, out.layout);
        let extents = Extents { m, n: k, k: n };
        let dense = bias.is_none_or(|bias| k == 1 || bias.layout.strides()[0] == 1);
        let product = Product::new(extents, steps(grad.layout, 0), steps(w.layout, 0), steps(out.layout, 0));
        match product {
            Ok(product) if m * n * k > 0 && dense && product.swapped => {
                let epilogue = if bias.is_some() { Epilogue::ReluBiasGrad } else { Epilogue::ReluGrad };
                let (bias, mask) = (bias.map_or(0, |bias| bias.address), mask.block.address());
                let places = Places { bias, mask, ..Places::new(grad.address, w.address, out.address) };
                self.product(out.dtype, product, epilogue, ONE, places)
            }
            _ => Ok(false),
        }
    }

    /// Returns whether the mask was written.
    fn run_linear(&'static self, layer: &Linear, relu: bool, mask: Option<&Mask>) -> Result<bool> {
        let Linear { x, w, bias, out, spread, extents } = layer;
        if out.layout.numel() == 0 {
            return Ok(false);
        }
        if extents.k > 0
            && let Some(product) = layer.product()
        {
            let places = Places {
                bias: bias.as_ref().map_or(0, |bias| bias.address),
                ..Places::new(x.address, w.address, out.address)
            };
            if let Some(mask) = mask {
                let epilogue = if bias.is_some() { Epilogue::BiasReluMask } else { Epilogue::ReluMask };
                if self.product(out.dtype, product, epilogue, ONE, Places { mask: mask.block.address(), ..places })? {
                    return Ok(true);
                }
            }
            let epilogue = match (bias.is_some(), relu) {
                (false, false) => Epilogue::None,
                (false, true) => Epilogue::Relu,
                (true, false) => Epilogue::Bias,
                (true, true) => Epilogue::BiasRelu,
            };
            if self.product(out.dtype, product, epilogue, ONE, places)? {
                return Ok(false);
            }
        }
        let turned = w.layout.transpose(0, 1);
        let plan = MatmulPlan::new(x.layout, &turned, out.layout);
        self.products_of(plan, [*x, Tensor { layout: &turned, ..*w }, *out])?;
        let bias = match (bias, spread) {
            (Some(bias), Some(spread)) => Some(Tensor { layout: spread, ..*bias }),
            _ => None,
        };
        self.add_bias(bias, relu, *out)?;
        Ok(false)
    }

    /// Adds the bias and applies ReLU, as the library's epilogue would have done.
    pub(super) fn add_bias(&self, bias: Option<Tensor>, relu: bool, out: Tensor) -> Result<()> {
        if bias.is_none() && !relu {
            return Ok(());
        }
        let places = [bias.as_ref().map(Tensor::place), Some(out.place())];
        let grid = Grid::<2>::new(out.layout.dims(), places);
        let (op, blocks) = (if relu { "relu" } else { "add" }, params::blocks(grid.numel));
        let bias = bias.map_or(0, |bias| bias.address);
        launch!(self, BIAS, op, Tag::of(out.dtype), blocks, grid, bias, out.address)
    }
}

/// cuBLASLt's ReLU mask: one bit for each element of an output.
struct Mask {
    /// Rows and columns of the output.
    dims: [usize; 2],
    /// The index of the device.
    device: usize,
    block: Block,
}

impl Mask {
    fn new(device: &'static Device, dims: [usize; 2]) -> Result<Mask> {
        // cuBLASLt is column-major: our rows are its columns.
        let block = device.scratch(mask_len(dims[1], dims[0]))?;
        Ok(Mask { dims, device: device.index(), block })
    }

    /// The mask, if it belongs to an output of `out`'s shape on this device.
    fn of<'a>(device: &Device, mask: &'a ReluMask, out: &Tensor) -> Result<&'a Mask> {
        const OP: &str = "linear_relu_grad";
        let found = mask.get::<Mask>().filter(|mask| mask.device == device.index());
        let mask = found.ok_or_else(|| Error::devices(OP, format!("cuda:{}", device.index()), "another device"))?;
        if out.layout.dims() == mask.dims {
            Ok(mask)
        } else {
            Err(Error::shape(OP, format!("an output of shape {:?}, as its ReLU mask", mask.dims), out.layout.shape()))
        }
    }
}
