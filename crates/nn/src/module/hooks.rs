//! Hooks of modules: functions that a module calls before and after its computation (`Module.register_forward_hook` of
//! PyTorch), and with its gradients.

use std::{
    fmt,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use kiln_tensor::{
    Result, Tensor,
    captured::{is_capturing, valid_while},
};

use super::{backward_hooks::BackwardHooks, hook::Hook, tree::ModuleTree};

/// The hooks of one module. Kiln's layers have such a field; a module of one's own that should accept hooks gets one as well,
/// and runs its computation through it:
///
/// ```
/// use kiln_nn::{Hooks, Linear, Module, ModuleExt};
/// use kiln_tensor::{Device, Result, Tensor};
///
/// #[derive(Module)]
/// struct Doubled {
///     linear: Linear,
///     hooks: Hooks,
/// }
///
/// impl Module for Doubled {
///     fn forward(&self, x: &Tensor) -> Result<Tensor> {
///         self.hooks.run(self, x, |x| self.linear.forward(x)?.mul(2))
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let model = Doubled { linear: Linear::new(3, 2)?, hooks: Hooks::default() };
/// let handle = model.register_forward_hook(|layer, _, y| println!("{}: {}", layer.type_name(), y.shape()))?;
/// model.forward(&Tensor::ones([1, 3], Device::Cpu)?)?; // prints "Doubled: [1, 2]"
/// handle.remove();
/// # Ok(())
/// # }
/// ```
///
/// They are not part of a module's state and not in its files.
#[derive(Default)]
pub struct Hooks(OnceLock<Arc<Registry>>);

#[derive(Default)]
struct Registry {
    hooks: Mutex<Vec<Registered>>,
    /// A sum over the registered hooks by which a captured step finds out whether they are those of the capture; 0 without
    /// hooks.
    fingerprint: AtomicU64,
}

struct Registered {
    id: u64,
    hook: Hook,
}

/// The hooks of all modules.
static GLOBAL: LazyLock<Arc<Registry>> = LazyLock::new(Arc::default);

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// The number of hooks in the process. While it is 0, layers do not look for hooks.
static REGISTERED: AtomicUsize = AtomicUsize::new(0);

impl Registered {
    fn new(hook: Hook) -> Registered {
        REGISTERED.fetch_add(1, Ordering::Relaxed);
        Registered { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), hook }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        REGISTERED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Scatters consecutive numbers over all 64 bits (the finalizer of SplitMix64, Steele et al., 2014).
fn scattered(id: u64) -> u64 {
    let mut z = id.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update_fingerprint(&self, hooks: &[Registered]) {
        let sum = hooks.iter().fold(0u64, |sum, hook| sum.wrapping_add(scattered(hook.id)));
        self.fingerprint.store(sum, Ordering::Relaxed);
    }

    fn register(self: &Arc<Registry>, hook: Hook) -> RemovableHandle {
        let registered = Registered::new(hook);
        let id = registered.id;
        let mut hooks = self.lock();
        hooks.push(registered);
        self.update_fingerprint(&hooks);
        RemovableHandle { id, registry: Arc::downgrade(self) }
    }

    /// Whether there are any; a captured step is valid for these hooks alone.
    fn any(self: &Arc<Registry>) -> bool {
        if is_capturing() {
            let registry = self.clone();
            let captured = registry.fingerprint.load(Ordering::Relaxed);
            valid_while(move || registry.fingerprint.load(Ordering::Relaxed) == captured);
        }
        !self.lock().is_empty()
    }

    fn snapshot(&self) -> Vec<Hook> {
        self.lock().iter().map(|it| it.hook.clone()).collect()
    }
}

/// Registers a hook of all modules.
pub(super) fn register_global(hook: Hook) -> RemovableHandle {
    GLOBAL.register(hook)
}

/// A registered hook. [`remove`](RemovableHandle::remove) removes it; dropping the handle leaves it in place.
pub struct RemovableHandle {
    id: u64,
    registry: Weak<Registry>,
}

impl RemovableHandle {
    /// Removes the hook. A computation that is running may still call it.
    pub fn remove(self) {
        if let Some(registry) = self.registry.upgrade() {
            let mut hooks = registry.lock();
            let removed = hooks.iter().position(|hook| hook.id == self.id).map(|at| hooks.remove(at));
            registry.update_fingerprint(&hooks);
            // The function is the user's: what it owns is dropped without the lock.
            drop(hooks);
            drop(removed);
        }
    }
}

impl Hooks {
    pub(super) fn register(&self, hook: Hook) -> RemovableHandle {
        self.0.get_or_init(Arc::default).register(hook)
    }

    /// Whether there are any, of this module or of all.
    fn any(&self) -> bool {
        // A captured step must notice those that are registered later.
        let own = if is_capturing() { Some(self.0.get_or_init(Arc::default)) } else { self.0.get() };
        let (own, global) = (own.is_some_and(Registry::any), GLOBAL.any());
        own || global
    }

    /// The hooks as they are now: they may register and remove others. Those of all modules are first.
    fn snapshot(&self) -> Vec<Hook> {
        let registries = [Some(&*GLOBAL), self.0.get()];
        registries.into_iter().flatten().flat_map(|registry| registry.snapshot()).collect()
    }

    /// Computes `forward(x)` for the module `module`, with the pre-hooks before and the hooks after it.
    ///
    /// # Errors
    /// Those of `forward` and of the hooks.
    pub fn run<M, T>(&self, module: &M, x: &Tensor, forward: impl FnOnce(&Tensor) -> Result<T>) -> Result<T>
    where
        M: ModuleTree + ?Sized,
        T: HookedOutput,
    {
        if !hooks_may_exist() || !self.any() {
            return forward(x);
        }
        let (module, hooks) = (module.as_tree(), self.snapshot());
        let mut x = before(&hooks, module, x)?;
        let mut backward = BackwardHooks::of(&hooks, module.type_name());
        if let Some(backward) = &mut backward {
            x = backward.watch_input(&x)?;
        }
        let mut y = forward(&x)?;
        after(&hooks, module, &x, y.first_tensor())?;
        if let Some(backward) = backward {
            backward.watch_output(y.first_tensor())?;
        }
        Ok(y)
    }
}

fn before(hooks: &[Hook], module: &dyn ModuleTree, x: &Tensor) -> Result<Tensor> {
    let mut x = x.clone();
    for hook in hooks {
        if let Hook::Before(call) = hook
            && let Some(changed) = call(module, &x)?
        {
            x = changed;
        }
    }
    Ok(x)
}

fn after(hooks: &[Hook], module: &dyn ModuleTree, x: &Tensor, y: &mut Tensor) -> Result<()> {
    for hook in hooks {
        if let Hook::After(call) = hook
            && let Some(changed) = call(module, x, y)?
        {
            *y = changed;
        }
    }
    Ok(())
}

/// Whether a module must look for hooks: one load in a process without hooks, unless it captures.
pub(crate) fn hooks_may_exist() -> bool {
    REGISTERED.load(Ordering::Relaxed) > 0 || is_capturing()
}

/// Whether the module has hooks. What computes several layers at once asks each of them first.
pub(crate) fn is_hooked<M: ModuleTree + ?Sized>(module: &M) -> bool {
    hooks_may_exist() && module.hooks().is_some_and(Hooks::any)
}

/// [`Hooks::run`] for a module that may have none.
pub(crate) fn hooked<M: ModuleTree + ?Sized, T: HookedOutput>(
    module: &M,
    x: &Tensor,
    forward: impl FnOnce(&Tensor) -> Result<T>,
) -> Result<T> {
    if !hooks_may_exist() {
        return forward(x);
    }
    match module.hooks() {
        Some(hooks) => hooks.run(module, x, forward),
        None => forward(x),
    }
}

/// What a module with hooks computes: a tensor, or a tensor and something else, which hooks are not shown.
pub trait HookedOutput {
    /// The tensor that hooks are shown, and may replace.
    fn first_tensor(&mut self) -> &mut Tensor;
}

impl HookedOutput for Tensor {
    fn first_tensor(&mut self) -> &mut Tensor {
        self
    }
}

impl<T> HookedOutput for (Tensor, T) {
    fn first_tensor(&mut self) -> &mut Tensor {
        &mut self.0
    }
}

/// What a hook may return: nothing, or the tensor that replaces the input or output, or perhaps one; or a `Result` of these.
pub trait HookResult {
    /// The replacement, if there is one.
    ///
    /// # Errors
    /// The hook's own.
    fn replacement(self) -> Result<Option<Tensor>>;
}

impl HookResult for () {
    fn replacement(self) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

impl HookResult for Tensor {
    fn replacement(self) -> Result<Option<Tensor>> {
        Ok(Some(self))
    }
}

impl HookResult for Option<Tensor> {
    fn replacement(self) -> Result<Option<Tensor>> {
        Ok(self)
    }
}

impl<T: HookResult> HookResult for Result<T> {
    fn replacement(self) -> Result<Option<Tensor>> {
        self?.replacement()
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hooks({})", self.0.get().map_or(0, |registry| registry.lock().len()))
    }
}
