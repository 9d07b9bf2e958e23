//! Mixed-precision training: `f32` copies of half-precision parameters, and loss scaling.

use std::sync::atomic::{AtomicBool, Ordering};

use kiln_derive::located;
use kiln_tensor::{DType, Error, Result, StateDict, Tensor, no_grad};

use super::{
    clip::total_norm,
    optimizer::{GroupRates, Optimizer},
    state,
};

/// The optimizer of a half-precision model: it keeps the parameters in `f32`, which accumulates steps that half
/// precision would round away, and writes them rounded into the model after each step (Micikevicius et al., "Mixed
/// precision training", 2018).
///
/// Gradients in `f16` vanish below 6e-8. For a model of that type, the loss is multiplied by a scale in
/// [`backward`](Optimizer::backward), and the gradients are divided by it in [`step`](Optimizer::step), by the rule of
/// PyTorch's `torch.amp.GradScaler`: the scale starts at 65536, is halved when a gradient is not finite (the step is
/// then skipped), and is doubled after 2000 steps without that. To check whether gradients are finite, each step waits
/// for the device. In `bf16`, which has the range of `f32`, none of this is done.
///
/// The model's gradients are scaled, so do not clip them: after [`unscale_`](Optimizer::unscale_), clip the gradients
/// of the optimizer's own [`parameters`](Optimizer::parameters).
///
/// ```
/// use kiln_nn::{Linear, Module, ModuleTree, functional::mse_loss};
/// use kiln_nn::optim::{MixedPrecision, Optimizer, SGD, clip_grad_norm_};
/// use kiln_tensor::{DType, Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = Linear::new(4, 1)?.to_dtype(DType::BF16)?;
/// let mut optimizer = MixedPrecision::new(model.named_parameters(), |wide| SGD::new(wide, 1e-3))?;
///
/// let (x, y) = (Tensor::randn([8, 4], (DType::BF16, Device::Cpu))?, Tensor::zeros([8, 1], Device::Cpu)?);
/// let loss = mse_loss(&model.forward(&x)?.to_dtype(DType::F32)?, &y)?;
/// optimizer.zero_grad();
/// optimizer.backward(&loss)?;
/// optimizer.unscale_()?;
/// clip_grad_norm_(optimizer.parameters(), 1.0, 2.0)?;
/// optimizer.step()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MixedPrecision<O> {
    optimizer: O,
    parameters: Vec<Pair>,
    scale: Option<Scale>,
    /// Whether the gradients of this step have been moved to the `f32` parameters already.
    unscaled: AtomicBool,
}

/// A parameter of the model, and the one that the optimizer updates: the same tensor, if it is wide enough itself.
#[derive(Debug)]
struct Pair {
    name: String,
    narrow: Tensor,
    wide: Tensor,
}

/// The scale of the loss.
#[derive(Clone, Copy, Debug)]
struct Scale {
    factor: f64,
    /// Steps since it changed.
    steps: i64,
}

/// PyTorch's `init_scale` and `growth_interval`.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH_INTERVAL: i64 = 2000;

#[located(site)]
impl<O: Optimizer> MixedPrecision<O> {
    /// An optimizer for these parameters of a model; `make` creates the inner optimizer for their `f32` copies.
    /// Parameters in `f32` or `f64` are passed to it unchanged.
    ///
    /// # Errors
    /// If a parameter is not floating-point, memory runs out, or `make` fails.
    pub fn new(
        parameters: impl IntoIterator<Item = (String, Tensor)>,
        make: impl FnOnce(Vec<(String, Tensor)>) -> Result<O>,
    ) -> Result<MixedPrecision<O>> {
        let mut pairs = Vec::new();
        for (name, narrow) in parameters {
            let wide = match narrow.dtype() {
                dtype if dtype.is_half() => {
                    let wide = no_grad(|| narrow.detach().to_dtype(DType::F32))?;
                    wide.set_requires_grad(narrow.requires_grad())?;
                    wide
                }
                dtype if dtype.is_float() => narrow.clone(),
                dtype => return Err(Error::dtype("MixedPrecision", dtype, "parameters must be floating-point")),
            };
            pairs.push(Pair { name, narrow, wide });
        }
        let optimizer = make(pairs.iter().map(|pair| (pair.name.clone(), pair.wide.clone())).collect())?;
        let scaled = pairs.iter().any(|pair| pair.narrow.dtype() == DType::F16);
        let scale = scaled.then_some(Scale { factor: FIRST_SCALE, steps: 0 });
        Ok(MixedPrecision { optimizer, parameters: pairs, scale, unscaled: AtomicBool::new(false) })
    }

    /// The optimizer of the `f32` parameters.
    pub fn inner(&self) -> &O {
        &self.optimizer
    }

    /// The current scale of the loss: 1 unless there are parameters in `f16`.
    pub fn loss_scale(&self) -> f64 {
        self.scale.map_or(1.0, |scale| scale.factor)
    }

    /// The pairs of two different tensors.
    fn halves(&self) -> impl Iterator<Item = &Pair> {
        self.parameters.iter().filter(|pair| !pair.wide.is_same(&pair.narrow))
    }

    /// Moves gradients from the model to the `f32` parameters, divided by the scale.
    fn take_gradients(&self) -> Result<()> {
        for Pair { narrow, wide, .. } in &self.parameters {
            let grad = match narrow.grad() {
                Some(grad) => {
                    let grad = grad.to_dtype(wide.dtype())?;
                    Some(if self.scale.is_some() { grad.div(self.loss_scale())? } else { grad })
                }
                None => None,
            };
            wide.set_grad(grad)?;
        }
        Ok(())
    }

    /// Whether all gradients are finite; waits for the device.
    fn gradients_are_finite(&self) -> Result<bool> {
        let grads: Vec<Tensor> = self.parameters.iter().filter_map(|pair| pair.wide.grad()).collect();
        match no_grad(|| total_norm(&grads, f64::INFINITY))? {
            Some(largest) => Ok(largest.to_dtype(DType::F64)?.item::<f64>()?.is_finite()),
            None => Ok(true),
        }
    }
}

#[located(site)]
impl<O: Optimizer> Optimizer for MixedPrecision<O> {
    fn step(&mut self) -> Result<()> {
        self.unscale_()?;
        self.unscaled.store(false, Ordering::Relaxed);
        if self.scale.is_some() {
            let finite = self.gradients_are_finite()?;
            if let Some(scale) = &mut self.scale {
                scale.steps += 1;
                if !finite {
                    *scale = Scale { factor: scale.factor / 2.0, steps: 0 };
                } else if scale.steps == GROWTH_INTERVAL {
                    *scale = Scale { factor: scale.factor * 2.0, steps: 0 };
                }
            }
            if !finite {
                return Ok(());
            }
        }
        self.optimizer.step()?;
        no_grad(|| self.halves().try_for_each(|pair| pair.narrow.copy_(&pair.wide)))
    }

    fn backward(&self, loss: &Tensor) -> Result<()> {
        if self.scale.is_some() { loss.mul(self.loss_scale())?.backward() } else { loss.backward() }
    }

    /// Moves the gradients to the `f32` parameters, divided by the scale; the next step uses those.
    fn unscale_(&mut self) -> Result<()> {
        if !self.unscaled.load(Ordering::Relaxed) {
            no_grad(|| self.take_gradients())?;
            self.unscaled.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn parameters(&self) -> Vec<Tensor> {
        self.optimizer.parameters()
    }

    fn zero_grad(&self) {
        self.unscaled.store(false, Ordering::Relaxed);
        self.parameters.iter().for_each(|pair| pair.narrow.zero_grad());
        self.optimizer.zero_grad();
    }

    fn unused_parameters(&self) -> &[String] {
        self.optimizer.unused_parameters()
    }

    fn rates(&self) -> Vec<GroupRates> {
        self.optimizer.rates()
    }

    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()> {
        self.optimizer.set_rates(rates)
    }

    /// The inner optimizer's state, `wide.<parameter>`, and for `f16` `loss_scale` and `loss_scale_steps`.
    fn state_dict(&self) -> Result<StateDict> {
        let mut out = self.optimizer.state_dict()?;
        out.extend(self.halves().map(|pair| (format!("wide.{}", pair.name), pair.wide.detach())));
        if let Some(scale) = self.scale {
            out.insert("loss_scale".into(), state::scalar(scale.factor)?);
            out.insert("loss_scale_steps".into(), state::scalar(scale.steps)?);
        }
        Ok(out)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        const OP: &str = "MixedPrecision";
        let mut rest = state.clone();
        let mut take = |name: &str| {
            let found = rest.shift_remove(name);
            found.ok_or_else(|| Error::argument(OP, format!("the state has no {name:?}: is it of another precision?")))
        };
        let mut loaded = Vec::new();
        for pair in self.halves() {
            let values = take(&format!("wide.{}", pair.name))?;
            if values.shape() != pair.wide.shape() {
                let expected = format!("the values of parameter {} have its shape", pair.name);
                return Err(Error::shapes(OP, pair.wide.shape(), values.shape(), expected));
            }
            loaded.push((pair.narrow.clone(), pair.wide.clone(), values));
        }
        let mut scale = self.scale;
        if let Some(scale) = &mut scale {
            *scale = Scale { factor: take("loss_scale")?.item()?, steps: take("loss_scale_steps")?.item()? };
        }
        self.optimizer.load_state_dict(&rest)?;
        self.scale = scale;
        no_grad(|| {
            loaded.iter().try_for_each(|(narrow, wide, values)| {
                wide.copy_(values)?;
                narrow.copy_(values)
            })
        })
    }
}
