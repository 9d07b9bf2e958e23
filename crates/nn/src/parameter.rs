//! The leaves of a module: parameters, buffers, and the training switch.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kiln_derive::located;
use kiln_tensor::{
    Result, Running, Tensor,
    calc::{Operand, Term},
    captured::{is_capturing, valid_while},
};

use crate::module::Hooks;

/// A tensor that is trained: it requires gradients, and [`parameters`](crate::ModuleTree::parameters) finds it when it
/// is a field of a module. It dereferences to its [`Tensor`].
///
/// A clone is another handle to the same tensor, so two modules can share one (weight tying).
///
/// ```
/// use kiln_nn::Parameter;
/// use kiln_tensor::{Device, Tensor, calc};
///
/// # fn main() -> kiln_tensor::Result<()> {
/// let (weight, x) = (Parameter::new(Tensor::ones(3, Device::Cpu)?)?, Tensor::ones(3, Device::Cpu)?);
/// let y = calc!(weight * x + 1.0)?; // or (&*weight * &x)?
/// assert_eq!(y.to_vec::<f32>()?, [2., 2., 2.]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Parameter(Tensor);

#[located(site)]
impl Parameter {
    /// Makes a parameter with a tensor's values, without its history.
    ///
    /// # Errors
    /// If the tensor is not floating-point.
    pub fn new(tensor: Tensor) -> Result<Parameter> {
        let tensor = if tensor.is_leaf() { tensor } else { tensor.detach() };
        Ok(Parameter(tensor.requires_grad_(true)?))
    }

    pub(crate) fn replace(&mut self, tensor: Tensor) {
        self.0 = tensor;
    }

    /// Another handle to a parameter's tensor, frozen or not.
    pub(crate) fn tied(tensor: Tensor) -> Result<Parameter> {
        if tensor.requires_grad() { Ok(Parameter(tensor)) } else { Parameter::frozen(tensor) }
    }

    fn frozen(tensor: Tensor) -> Result<Parameter> {
        let parameter = Parameter::new(tensor)?;
        parameter.set_requires_grad(false)?;
        Ok(parameter)
    }
}

impl Deref for Parameter {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl Operand for &Parameter {
    type Term = Term;
    fn term(self) -> Term {
        (&self.0).term()
    }
}

/// A tensor that is part of a module's state but not trained, such as a running mean. It dereferences to its
/// [`Tensor`], which in-place operations change.
#[derive(Clone, Debug)]
pub struct Buffer {
    tensor: Tensor,
    persistent: bool,
}

impl Buffer {
    /// A buffer that is saved with the module.
    #[must_use]
    pub fn new(tensor: Tensor) -> Buffer {
        Buffer { tensor: tensor.detach(), persistent: true }
    }

    /// A buffer that moves with the module but is not in its state dict, like PyTorch's `persistent=False`.
    #[must_use]
    pub fn non_persistent(tensor: Tensor) -> Buffer {
        Buffer { persistent: false, ..Buffer::new(tensor) }
    }

    /// Whether it is in the state dict.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    pub(crate) fn replace(&mut self, tensor: Tensor) {
        self.tensor = tensor;
    }

    /// Another handle to a buffer's tensor.
    pub(crate) fn tied(tensor: Tensor) -> Buffer {
        Buffer { tensor, persistent: true }
    }
}

impl Deref for Buffer {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}

impl Operand for &Buffer {
    type Term = Term;
    fn term(self) -> Term {
        (&self.tensor).term()
    }
}

/// Whether a module is being trained: initially on, switched by [`train`](crate::ModuleTree::train) and
/// [`eval`](crate::ModuleTree::eval). A module that behaves differently while training has a field of this type.
///
/// It also remembers the path of its module, which errors name, and how layers of batch normalization compute; that of a
/// layer of Kiln's has the layer's hooks.
pub struct Training {
    /// A step that was captured in one mode is not what it would be in the other.
    is_on: Arc<AtomicBool>,
    path: Mutex<Option<Box<str>>>,
    batch_normalizer: Mutex<Option<Arc<dyn BatchNormalizer>>>,
    hooks: Hooks,
}

/// Batch normalization while training by other statistics than those of the batch at hand: by those of several processes'
/// batches.
pub trait BatchNormalizer: Send + Sync {
    /// What [`Tensor::batch_norm`] does with `training`.
    ///
    /// # Errors
    /// As that, and what else goes wrong.
    fn batch_norm(
        &self,
        x: &Tensor,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        running: Option<Running<'_>>,
        momentum: f64,
        eps: f64,
    ) -> Result<Tensor>;
}

impl Training {
    /// Whether the module is being trained.
    #[must_use]
    pub fn is_on(&self) -> bool {
        let is_on = self.is_on.load(Ordering::Relaxed);
        if is_capturing() {
            let switch = self.is_on.clone();
            valid_while(move || switch.load(Ordering::Relaxed) == is_on);
        }
        is_on
    }

    /// Sets whether the module is being trained.
    pub fn set(&self, training: bool) {
        self.is_on.store(training, Ordering::Relaxed);
    }

    /// How a layer of batch normalization computes while training, if not by its own batch. Other modules do not ask.
    pub fn set_batch_normalizer(&self, normalizer: Option<Arc<dyn BatchNormalizer>>) {
        *self.batch_normalizer.lock().unwrap_or_else(PoisonError::into_inner) = normalizer;
    }

    pub(crate) fn batch_normalizer(&self) -> Option<Arc<dyn BatchNormalizer>> {
        self.batch_normalizer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The hooks of a layer of Kiln's.
    pub(crate) fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// The path of the module in the model, once something has visited all modules (as
    /// [`named_parameters`](crate::ModuleTree::named_parameters) does).
    pub(crate) fn module_path(&self) -> Option<String> {
        self.path().as_deref().map(str::to_owned)
    }

    fn path(&self) -> MutexGuard<'_, Option<Box<str>>> {
        self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the path of its module. A walk that starts at a part of the model finds shorter paths, which are
    /// ignored.
    pub(crate) fn note_module_path(&self, path: &str) {
        let mut noted = self.path();
        if noted.as_ref().is_none_or(|noted| noted.len() < path.len()) {
            *noted = Some(path.into());
        }
    }
}

impl Default for Training {
    fn default() -> Self {
        Training {
            is_on: Arc::new(AtomicBool::new(true)),
            path: Mutex::new(None),
            batch_normalizer: Mutex::new(None),
            hooks: Hooks::default(),
        }
    }
}

impl fmt::Debug for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Training({})", self.is_on())
    }
}
