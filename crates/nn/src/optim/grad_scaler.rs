//! [`GradScaler`]: losses are scaled so that gradients in `f16` do not vanish, and steps whose gradients overflow are
//! skipped.

mod settings;
mod state;

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kiln_derive::located;
use kiln_tensor::{
    DType, Device, Error, GradScaling, Result, ScaleGrowth, Tensor,
    captured::{is_capturing, unless_capturing, valid_while},
    no_grad, unscale_grads, update_scale,
};

use super::optimizer::Optimizer;
use crate::total_norm::gradients;

const OP: &str = "GradScaler";

/// Scales losses, and so gradients, as `torch.amp.GradScaler` does
/// (<https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling>; Micikevicius et al., "Mixed precision training",
/// 2018).
///
/// Gradients below 6e-8 are 0 in `f16`. So the loss is multiplied by a scale, 65536 at first, before the backward pass,
/// and the gradients are divided by it before they are used. If one of them is infinite or NaN, the step is skipped and
/// the scale halved; after 2000 steps without that it is doubled. In `bf16`, which has the range of `f32`, no scaler is
/// needed.
///
/// ```
/// use kiln_nn::{Linear, Module, ModuleTree, functional::mse_loss};
/// use kiln_nn::optim::{Adam, GradScaler, Optimizer, clip_grad_norm_};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = Linear::new(4, 1)?;
/// let mut optimizer = Adam::new(model.named_parameters(), 1e-3)?;
/// let mut scaler = GradScaler::new();
///
/// let (x, y) = (Tensor::randn([8, 4], Device::Cpu)?, Tensor::zeros([8, 1], Device::Cpu)?);
/// optimizer.zero_grad();
/// let loss = mse_loss(&model.forward(&x)?, &y)?;
/// scaler.scale(&loss)?.backward()?;
/// scaler.unscale_(&mut optimizer)?; // only to clip or inspect gradients
/// clip_grad_norm_(optimizer.parameters(), 1.0, 2.0)?;
/// scaler.step(&mut optimizer)?;
/// scaler.update()?;
/// # Ok(())
/// # }
/// ```
///
/// Nothing here waits for the device: the scale, and whether an infinity was found, stay in its memory, where the
/// optimizer's launch reads them. So a step can be a graph ([`CapturedStep`](kiln_tensor::CapturedStep)). An
/// optimizer's count of steps does not advance in a step that is skipped; a learning-rate scheduler, which is called by
/// the program, does. (An [`Optimizer`] of another crate that is no [`UpdateRule`](super::UpdateRule) waits for the
/// device in each step. [`LBFGS`](super::LBFGS), which evaluates losses by itself, takes no scaler.)
///
/// Gradients may be accumulated over several backward passes with one scale: call [`update`](GradScaler::update) only
/// after a step. Several losses and optimizers can share a scaler: each optimizer skips its own steps, and the scale,
/// which is moved once an iteration, is halved if any of them did.
///
/// With gradients that are averaged over ranks before they are looked at, all ranks find the same infinities. If each rank
/// has gradients of its own (shards of a model), [`reduce_found_inf`](GradScaler::reduce_found_inf) makes the decision one
/// for all.
pub struct GradScaler {
    enabled: bool,
    init_scale: f64,
    growth: Arc<Mutex<ScaleGrowth>>,
    init_growth_tracker: i32,
    on_device: Option<OnDevice>,
    optimizers: Vec<PerOptimizer>,
    reduce: Option<Box<Reduce>>,
}

type Reduce = dyn FnMut(&Tensor) -> Result<()> + Send;

/// What is kept in a device's memory.
#[derive(Debug)]
struct OnDevice {
    /// `f32`.
    scale: Tensor,
    /// Steps since the scale grew, `i32`.
    growth_tracker: Tensor,
}

#[derive(Debug)]
struct PerOptimizer {
    /// Identifies the optimizer: a hash of its parameters.
    key: u64,
    /// 1 if an infinity was found since the latest update, else 0; an `f32` beside the scale.
    found_inf: Tensor,
    stage: Stage,
}

/// How far an optimizer has come since the latest update.
#[derive(Clone, Debug, Default)]
struct Stage {
    stage: StageOf,
    /// Set if it came there in a capture: dead if that has failed, so that it did not come there.
    capture: Option<Weak<()>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum StageOf {
    #[default]
    Ready,
    Unscaled,
    Stepped,
}

impl Stage {
    fn new(stage: StageOf) -> Stage {
        let capture = is_capturing().then(|| {
            let alive = Arc::new(());
            let capture = Arc::downgrade(&alive);
            // What is registered lives as long as the capture and its graph.
            valid_while(move || Arc::strong_count(&alive) > 0);
            capture
        });
        Stage { stage, capture }
    }

    fn now(&self) -> StageOf {
        let is_void = self.capture.as_ref().is_some_and(|capture| capture.strong_count() == 0);
        if is_void { StageOf::Ready } else { self.stage }
    }
}

impl fmt::Debug for GradScaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradScaler { enabled, init_scale, on_device, optimizers, .. } = self;
        let device = on_device.as_ref().map(|on_device| on_device.scale.device());
        f.debug_struct(OP)
            .field("enabled", enabled)
            .field("init_scale", init_scale)
            .field("growth", &*lock(&self.growth))
            .field("device", &device)
            .field("optimizers", &optimizers.len())
            .finish()
    }
}

impl Default for GradScaler {
    fn default() -> GradScaler {
        let growth = ScaleGrowth { growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 };
        GradScaler {
            enabled: true,
            init_scale: 65536.0,
            growth: Arc::new(Mutex::new(growth)),
            init_growth_tracker: 0,
            on_device: None,
            optimizers: Vec::new(),
            reduce: None,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The settings are plain numbers, whole even if a thread panicked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(optimizer: &(impl Optimizer + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    optimizer.parameters().iter().for_each(|parameter| parameter.id().hash(&mut hasher));
    hasher.finish()
}

#[located(site)]
impl GradScaler {
    /// The loss times the scale, in at least `f32`; its backward pass gives scaled gradients. Also for other outputs.
    ///
    /// # Errors
    /// If the loss is not floating-point, a setting is invalid, or memory runs out.
    pub fn scale(&mut self, loss: &Tensor) -> Result<Tensor> {
        if !self.enabled {
            return Ok(loss.clone());
        }
        if !loss.dtype().is_float() {
            return Err(Error::dtype(OP, loss.dtype(), "losses are floating-point"));
        }
        let scale = self.on_device(loss.device())?.scale.clone();
        self.watch();
        let wide = loss.dtype().accumulator();
        let scale = no_grad(|| scale.to_device(loss.device())?.to_dtype(wide))?;
        loss.to_dtype(wide)?.mul(&scale)
    }

    /// Divides the gradients of an optimizer's parameters by the scale, so that they can be clipped or inspected, and
    /// looks for infinities in them. At most once between two [`update`](GradScaler::update)s, after all gradients have
    /// been accumulated; [`step`](GradScaler::step) does it by itself.
    ///
    /// # Errors
    /// If nothing was scaled before, the gradients are unscaled already, the step was taken, or a gradient is in `f16`,
    /// in which unscaled gradients vanish.
    pub fn unscale_<O: Optimizer + ?Sized>(&mut self, optimizer: &mut O) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let at = self.of(optimizer, "unscale_")?;
        match self.optimizers[at].stage.now() {
            StageOf::Ready => {}
            StageOf::Unscaled => {
                return Err(Error::argument(
                    OP,
                    "unscale_() has already been called on this optimizer since the last update()",
                ));
            }
            StageOf::Stepped => return Err(Error::argument(OP, "unscale_() is being called after step()")),
        }
        let grads = gradients(optimizer.parameters(), Tensor::grad);
        if grads.iter().any(|grad| grad.dtype() == DType::F16) {
            return Err(Error::dtype(
                OP,
                DType::F16,
                "unscaled gradients vanish in it: keep the parameters in f32 and compute in f16 by autocast",
            ));
        }
        self.look_at(&grads, at, true)?;
        self.optimizers[at].stage = Stage::new(StageOf::Unscaled);
        Ok(())
    }

    /// The optimizer's step with unscaled gradients, skipped if one of them is infinite or NaN. The device decides which.
    ///
    /// # Errors
    /// If nothing was scaled before, or the step was taken since the latest [`update`](GradScaler::update); those of
    /// [`Optimizer::step`].
    pub fn step<O: Optimizer + ?Sized>(&mut self, optimizer: &mut O) -> Result<()> {
        if !self.enabled {
            return optimizer.step();
        }
        let at = self.of(optimizer, "step")?;
        let stage = self.optimizers[at].stage.now();
        if stage == StageOf::Stepped {
            return Err(Error::argument(OP, "step() has already been called since the last update()"));
        }
        if stage == StageOf::Ready {
            self.look_at(&gradients(optimizer.parameters(), Tensor::unconverted_grad), at, false)?;
        }
        let Some(on_device) = &self.on_device else { return Ok(()) };
        let scale = (stage == StageOf::Ready).then_some(&on_device.scale);
        optimizer.step_scaled(GradScaling { found_inf: &self.optimizers[at].found_inf, scale })?;
        self.optimizers[at].stage = Stage::new(StageOf::Stepped);
        Ok(())
    }

    /// Moves the scale: once an iteration, after the steps of all optimizers.
    ///
    /// # Errors
    /// If no optimizer was unscaled or stepped before, or a setting is invalid.
    pub fn update(&mut self) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let growth = self.valid_growth()?;
        let Some(OnDevice { scale, growth_tracker }) = &self.on_device else { return Err(not_scaled("update")) };
        let Some((first, others)) = self.optimizers.split_first_mut() else {
            return Err(Error::argument(OP, "no inf checks were recorded prior to update()"));
        };
        no_grad(|| {
            for other in others.iter() {
                first.found_inf.add_(&other.found_inf)?;
                other.found_inf.zero_()?;
            }
            update_scale(scale, growth_tracker, &first.found_inf, &growth)
        })?;
        self.watch();
        self.begin_iteration();
        Ok(())
    }

    /// [`update`](GradScaler::update) with a scale of the caller's choice.
    ///
    /// # Errors
    /// If nothing was scaled before.
    pub fn update_with(&mut self, new_scale: f64) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        unless_capturing("GradScaler::update_with", "the scale would be the same whenever the step is launched")?;
        let Some(on_device) = &self.on_device else { return Err(not_scaled("update_with")) };
        no_grad(|| {
            on_device.scale.fill_(new_scale)?;
            self.optimizers.iter().try_for_each(|optimizer| optimizer.found_inf.zero_())
        })?;
        self.begin_iteration();
        Ok(())
    }

    /// Makes a step that is being captured valid only while this scaler exists and has these settings.
    fn watch(&self) {
        if is_capturing() {
            let (growth, now) = (Arc::downgrade(&self.growth), *lock(&self.growth));
            valid_while(move || growth.upgrade().is_some_and(|growth| *lock(&growth) == now));
        }
    }

    fn begin_iteration(&mut self) {
        self.optimizers.iter_mut().for_each(|optimizer| optimizer.stage = Stage::default());
    }

    /// The scale; waits for the device. 1 if the scaler is not enabled.
    ///
    /// # Errors
    /// If the device fails.
    pub fn get_scale(&self) -> Result<f64> {
        match &self.on_device {
            _ if !self.enabled => Ok(1.0),
            Some(on_device) => on_device.scale.item::<f32>().map(f64::from),
            None => Ok(self.init_scale),
        }
    }

    /// Whether an infinity was found in the gradients of an optimizer since the latest update: one `f32`, 0 or 1, in
    /// the memory of the device of the scale. `None` if they were not looked at yet.
    pub fn found_inf<O: Optimizer + ?Sized>(&self, optimizer: &O) -> Option<Tensor> {
        let key = key_of(optimizer);
        self.optimizers.iter().find(|known| known.key == key).map(|known| known.found_inf.clone())
    }

    /// The scale in a device's memory; on the device of the first call.
    fn on_device(&mut self, device: Device) -> Result<&OnDevice> {
        if self.on_device.is_none() {
            let growth = *lock(&self.growth);
            check(self.init_scale, &growth)?;
            unless_capturing(OP, "its scale would be made anew whenever the step is launched: run a step before")?;
            let scale = Tensor::full((), self.init_scale, (DType::F32, device))?;
            let growth_tracker = Tensor::full((), self.init_growth_tracker, (DType::I32, device))?;
            self.on_device = Some(OnDevice { scale, growth_tracker });
        }
        self.on_device.as_ref().ok_or_else(|| not_scaled("scale"))
    }

    /// The index of an optimizer in `optimizers`.
    fn of<O: Optimizer + ?Sized>(&mut self, optimizer: &O, call: &str) -> Result<usize> {
        let Some(on_device) = &self.on_device else { return Err(not_scaled(call)) };
        let key = key_of(optimizer);
        if let Some(at) = self.optimizers.iter().position(|known| known.key == key) {
            return Ok(at);
        }
        unless_capturing(
            OP,
            "what it keeps of an optimizer would be made anew whenever the step is launched: run a step before",
        )?;
        let found_inf = Tensor::zeros((), (DType::F32, on_device.scale.device()))?;
        self.optimizers.push(PerOptimizer { key, found_inf, stage: Stage::default() });
        Ok(self.optimizers.len() - 1)
    }

    /// Looks for infinities in gradients, and divides them by the scale if they are to be unscaled.
    fn look_at(&mut self, grads: &[Tensor], at: usize, unscales: bool) -> Result<()> {
        let (Some(OnDevice { scale, .. }), found_inf) = (&self.on_device, &self.optimizers[at].found_inf) else {
            return Err(not_scaled("unscale_"));
        };
        let mut rest: Vec<Tensor> = grads.to_vec();
        while let Some(device) = rest.first().map(Tensor::device) {
            let (here, elsewhere): (Vec<_>, Vec<_>) = rest.into_iter().partition(|grad| grad.device() == device);
            rest = elsewhere;
            if device == scale.device() {
                unscale_grads(&here, unscales.then_some(scale), found_inf)?;
                continue;
            }
            no_grad(|| {
                let found = Tensor::zeros((), (DType::F32, device))?;
                let scale = scale.to_device(device)?;
                unscale_grads(&here, unscales.then_some(&scale), &found)?;
                found_inf.add_(&found.to_device(found_inf.device())?)
            })?;
        }
        self.reduce.as_mut().map_or(Ok(()), |reduce| reduce(found_inf))
    }

    fn valid_growth(&self) -> Result<ScaleGrowth> {
        let growth = *lock(&self.growth);
        check(self.init_scale, &growth).map(|()| growth)
    }
}

/// PyTorch's conditions.
fn check(scale: f64, growth: &ScaleGrowth) -> Result<()> {
    let ScaleGrowth { growth_factor, backoff_factor, growth_interval } = *growth;
    let refuse = |message: String| Err(Error::argument(OP, message));
    if !(scale > 0.0 && scale <= f64::from(f32::MAX)) {
        return refuse(format!("the scale {scale} is not positive and finite"));
    }
    if !(growth_factor > 1.0 && growth_factor.is_finite()) {
        return refuse(format!("the growth factor {growth_factor} must be > 1.0"));
    }
    if !(backoff_factor > 0.0 && backoff_factor < 1.0) {
        return refuse(format!("the backoff factor {backoff_factor} must be between 0.0 and 1.0"));
    }
    if growth_interval < 1 {
        return refuse(format!("the growth interval {growth_interval} must be at least 1"));
    }
    Ok(())
}

fn not_scaled(call: &str) -> Error {
    Error::argument(OP, format!("{call}() before scale(): no loss was scaled in this iteration"))
}
