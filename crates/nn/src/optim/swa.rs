//! Weight averaging: exponential moving averages (EMA), and stochastic weight averaging (SWA).

use kiln_derive::located;
use kiln_tensor::{
    DType, Device, Error, Result, Tensor, calc,
    captured::{before_launch, is_capturing, unless_capturing},
    no_grad,
};

use crate::{
    layers::cumulative_statistics,
    module::{Field, Module, ModuleTree},
    parameter::Buffer,
};

/// How an [`AveragedModel`] averages.
pub enum Average {
    /// The mean of all updates: stochastic weight averaging (Izmailov et al., 2018).
    Mean,
    /// An exponential moving average with this decay rate: PyTorch's `get_ema_multi_avg_fn(decay)`.
    Exponential(f64),
    /// The result of this function of the average, the model's tensor, and the number of updates so far, which is at
    /// least 1.
    Custom(AverageFn),
}

/// The function of an [`Average::Custom`].
pub type AverageFn = Box<dyn Fn(&Tensor, &Tensor, u64) -> Result<Tensor> + Send + Sync>;

impl std::fmt::Debug for Average {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Average::Mean => f.write_str("Mean"),
            Average::Exponential(decay) => write!(f, "Exponential({decay})"),
            Average::Custom(_) => f.write_str("Custom(…)"),
        }
    }
}

/// A model whose parameters are averages of those of another model, which is being trained
/// (<https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema>).
///
/// ```
/// use kiln_nn::{Linear, Module, ModuleTree};
/// use kiln_nn::optim::{Average, AveragedModel, Optimizer, SGD};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = Linear::new(4, 1)?;
/// let ema = AveragedModel::new(Linear::new(4, 1)?, Average::Exponential(0.999))?;
/// let mut optimizer = SGD::new(model.parameters(), 0.1)?;
/// let x = Tensor::randn([8, 4], Device::Cpu)?;
/// for _step in 0..3 {
///     optimizer.zero_grad();
///     model.forward(&x)?.square()?.mean(())?.backward()?;
///     optimizer.step()?;
///     ema.update_parameters(&model)?;
/// }
/// ema.eval();
/// assert_eq!(ema.forward(&x)?.dims(), [8, 1]);
/// assert_eq!(ema.state_dict().keys().collect::<Vec<_>>(), ["n_averaged", "module.weight", "module.bias"]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Module)]
pub struct AveragedModel<M> {
    n_averaged: Buffer,
    module: M,
    use_buffers: bool,
    #[module(skip)]
    average: Average,
}

const OP: &str = "AveragedModel";

#[located(site)]
impl<M: ModuleTree> AveragedModel<M> {
    /// An average that is kept in `module`, a second model of the same kind (PyTorch copies the model instead). Its
    /// values are overwritten by the first update.
    ///
    /// # Errors
    /// If the decay of an exponential average is not in [0, 1].
    pub fn new(module: M, average: Average) -> Result<AveragedModel<M>> {
        if let Average::Exponential(decay) = average
            && !(0.0..=1.0).contains(&decay)
        {
            return Err(Error::argument(OP, format!("decay {decay} is invalid: it must be in [0, 1]")));
        }
        let n_averaged = Buffer::new(Tensor::zeros((), (DType::I64, Device::Cpu))?);
        Ok(AveragedModel { n_averaged, module, use_buffers: false, average })
    }

    /// Whether buffers, such as the statistics of batch normalization, are averaged as well. Otherwise they are copied
    /// from the model at the latest update; see [`update_bn`].
    #[must_use]
    pub fn use_buffers(self, use_buffers: bool) -> AveragedModel<M> {
        AveragedModel { use_buffers, ..self }
    }

    /// The model with the averages.
    #[must_use]
    pub fn module(&self) -> &M {
        &self.module
    }

    /// The number of updates so far.
    ///
    /// # Errors
    /// If the count cannot be read from its device.
    pub fn n_averaged(&self) -> Result<u64> {
        Ok(self.n_averaged.item::<i64>()? as u64)
    }

    /// Updates the averages with the parameters of the model. The first update copies them.
    ///
    /// # Errors
    /// If the model has other parameters or buffers. Nothing has been changed then.
    pub fn update_parameters<T: ModuleTree + ?Sized>(&self, model: &T) -> Result<()> {
        let pairs = |own: Vec<(String, Tensor)>, others: Vec<(String, Tensor)>| {
            let fits = |(own, other): (&(String, Tensor), &(String, Tensor))| own.1.shape() == other.1.shape();
            if own.len() != others.len() || !own.iter().zip(&others).all(fits) {
                let list = |all: &[(String, Tensor)]| {
                    all.iter()
                        .map(|(name, tensor)| format!("{name} {:?}", tensor.dims()))
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                let message = format!("the model has {}, the averaged model has {}", list(&others), list(&own));
                return Err(Error::argument(OP, message));
            }
            Ok(own.into_iter().zip(others).map(|((_, own), (_, other))| (own, other)).collect::<Vec<_>>())
        };
        let mut averaged = pairs(self.module.named_parameters(), model.named_parameters())?;
        let buffers = pairs(self.module.named_buffers(), model.named_buffers())?;
        let mut copied = Vec::new();
        if self.use_buffers {
            averaged.extend(buffers);
        } else {
            copied = buffers;
        }
        let count = self.n_averaged()?;
        if is_capturing() && (count == 0 || !matches!(self.average, Average::Exponential(_))) {
            let reason =
                "each update takes another share, so that launches would not do the same: call it outside of the step";
            unless_capturing("update_parameters", reason)?;
        }
        no_grad(|| {
            for (average, value) in &averaged {
                let value = value.detach().to_device(average.device())?.to_dtype(average.dtype())?;
                let new = if count == 0 { value } else { self.average_of(average, &value, count)? };
                average.copy_(&new)?;
            }
            for (own, other) in &copied {
                own.copy_(&other.detach().to_device(own.device())?.to_dtype(own.dtype())?)?;
            }
            if is_capturing() && self.n_averaged.device() == Device::Cpu {
                let count = (*self.n_averaged).clone();
                before_launch(move || no_grad(|| count.add_(1)));
                return Ok(());
            }
            self.n_averaged.add_(1)
        })
    }

    fn average_of(&self, average: &Tensor, value: &Tensor, count: u64) -> Result<Tensor> {
        let weight = match &self.average {
            Average::Mean => 1.0 / (count + 1) as f64,
            Average::Exponential(decay) => 1.0 - decay,
            Average::Custom(function) => return function(average, value, count)?.to_dtype(average.dtype()),
        };
        if average.dtype().is_float() {
            return average.lerp(value, weight);
        }
        // Integer tensors, such as counts.
        let [average64, value64] = [average, value].map(|tensor| tensor.to_dtype(DType::F64));
        calc!(average64? * (1.0 - weight) + value64? * weight)?.to_dtype(average.dtype())
    }
}

#[located(module)]
impl<M: Module + Field> Module for AveragedModel<M> {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.module.forward(x)
    }
}

/// Recomputes the statistics of all batch normalization layers in a model, as the mean over these batches of inputs:
/// after averaging weights, those from training no longer match. Does nothing if there are no such layers.
///
/// ```no_run
/// # use kiln_nn::{Linear, Module, ModuleTree, optim::{Average, AveragedModel, update_bn}};
/// # use kiln_tensor::{Result, Tensor};
/// # fn f(swa: &AveragedModel<Linear>, loader: impl Iterator<Item = Result<(Tensor, Tensor)>>) -> Result<()> {
/// update_bn(loader.map(|batch| Ok(batch?.0)), swa)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If a batch is an error, or the model refuses one. The mode of the model is restored.
#[located(site)]
pub fn update_bn<M: Module + ?Sized>(batches: impl IntoIterator<Item = Result<Tensor>>, model: &M) -> Result<()> {
    update_statistics(&mut batches.into_iter(), &|x| model.forward(x).map(drop), &ModulesOf::new(model), &|training| {
        model.set_training(training);
    })
}

/// The batch normalization statistics of a model, and its mode.
struct ModulesOf {
    /// Mean, variance and count of each layer.
    statistics: Vec<[Tensor; 3]>,
    training: bool,
}

impl ModulesOf {
    fn new<M: ModuleTree + ?Sized>(model: &M) -> ModulesOf {
        let mut owners: Vec<String> = model
            .named_modules()
            .into_iter()
            .filter(|(_, module)| is_batch_norm(module.type_name()))
            .map(|(path, _)| path + ".")
            .collect();
        if is_batch_norm(model.type_name()) {
            owners.push(String::new());
        }
        let buffers = model.named_buffers();
        let find = |owner: &str, name: &str| {
            let path = format!("{owner}{name}");
            buffers.iter().find(|(buffer, _)| *buffer == path).map(|(_, tensor)| tensor.clone())
        };
        let of = |owner: &String| {
            Some([find(owner, "running_mean")?, find(owner, "running_var")?, find(owner, "num_batches_tracked")?])
        };
        ModulesOf { statistics: owners.iter().filter_map(of).collect(), training: model.is_training() }
    }
}

fn is_batch_norm(type_name: &str) -> bool {
    type_name.starts_with("BatchNorm")
}

fn update_statistics(
    batches: &mut dyn Iterator<Item = Result<Tensor>>,
    forward: &dyn Fn(&Tensor) -> Result<()>,
    modules: &ModulesOf,
    set_training: &dyn Fn(bool),
) -> Result<()> {
    if modules.statistics.is_empty() {
        return Ok(());
    }
    no_grad(|| {
        for [mean, variance, count] in &modules.statistics {
            mean.zero_()?;
            variance.fill_(1.0)?;
            count.zero_()?;
        }
        set_training(true);
        let result = cumulative_statistics(|| {
            for batch in batches {
                forward(&batch?)?;
            }
            Ok(())
        });
        set_training(modules.training);
        result
    })
}
