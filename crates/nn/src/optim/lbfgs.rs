//! The L-BFGS optimizer: quasi-Newton steps from a short history of gradients.

mod line_search;

use std::collections::VecDeque;

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, StateDict, Tensor, enable_grad, no_grad};

use super::{
    Choice, GroupRates, Hyperparameters, Optimizer, Param, Value, non_negative,
    state::{Source, scalar},
};
use line_search::{Point, strong_wolfe};

crate::hyperparameters! {
    "LBFGS" LBFGSOptions, lr = 1.0,
    {
        max_iter: usize = 20, "The maximum number of iterations per step: 20 by default.";
        max_eval: usize = 0, "The maximum number of evaluations of the loss per step; 0, the default, is 5/4 of `max_iter`.";
        tolerance_grad: f64 = 1e-7, "A step ends when no gradient is larger than this: 1e-7 by default.";
        tolerance_change: f64 = 1e-9, "A step ends when neither the loss nor the parameters change by more than this: 1e-9 by default.";
        history_size: usize = 100, "How many changes of the gradient are kept: 100 by default.";
        line_search_fn: LineSearch = LineSearch::None, "How the step length of an iteration is found.";
        maximize: bool = false, "Whether to maximize the objective instead of minimizing it.";
    }
}

/// How [`LBFGS`] finds the step length of an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineSearch {
    /// No search: it is the learning rate.
    #[default]
    None,
    /// By evaluating the loss until the strong Wolfe conditions hold.
    StrongWolfe,
}

impl Choice for LineSearch {
    fn name(&self) -> &'static str {
        match self {
            LineSearch::None => "none",
            LineSearch::StrongWolfe => "strong_wolfe",
        }
    }

    fn set(&mut self, name: &str) -> bool {
        let found = [LineSearch::None, LineSearch::StrongWolfe].into_iter().find(|choice| choice.name() == name);
        found.into_iter().for_each(|choice| *self = choice);
        found.is_some()
    }
}

impl LBFGSOptions {
    fn validate(&self) -> Result<()> {
        non_negative(OP, "learning rate", self.lr)?;
        non_negative(OP, "tolerance_grad", self.tolerance_grad)?;
        non_negative(OP, "tolerance_change", self.tolerance_change)?;
        if self.max_iter == 0 || self.history_size == 0 {
            return Err(Error::argument(OP, "max_iter and history_size must be at least 1"));
        }
        Ok(())
    }

    fn evaluations(&self) -> usize {
        if self.max_eval == 0 { self.max_iter * 5 / 4 } else { self.max_eval }
    }
}

const OP: &str = "LBFGS";

/// L-BFGS (Liu & Nocedal, 1989; <https://docs.pytorch.org/docs/stable/generated/torch.optim.LBFGS.html>), for losses
/// that can be evaluated repeatedly without noise. All parameters are one group, with the same dtype and device.
///
/// ```
/// use kiln_nn::optim::{LBFGS, LBFGSOptions, LineSearch, Optimizer};
/// use kiln_tensor::{Device, Tensor};
/// # fn main() -> kiln_tensor::Result<()> {
/// let x = Tensor::new([3.0f64, -2.0], Device::Cpu)?.requires_grad_(true)?;
/// let mut optimizer = LBFGS::new([&x], LBFGSOptions::new(1.0).line_search_fn(LineSearch::StrongWolfe))?;
/// for _ in 0..3 {
///     optimizer.step(&mut || {
///         x.zero_grad();
///         let loss = x.sub(1.0)?.square()?.sum(())?;
///         loss.backward()?;
///         Ok(loss)
///     })?;
/// }
/// assert!(x.to_vec::<f64>()?.iter().all(|x| (x - 1.0).abs() < 1e-6));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct LBFGS {
    /// The hyperparameters; changes take effect in the next step.
    pub options: LBFGSOptions,
    initial_lr: Option<f64>,
    params: Vec<(String, Tensor)>,
    unused: Vec<String>,
    state: History,
}

/// The state from earlier iterations.
#[derive(Clone, Debug, Default)]
struct History {
    func_evals: i64,
    n_iter: i64,
    /// The latest direction, the step length along it, and the gradient and loss before that.
    latest: Option<Latest>,
    /// Changes of the gradient and of the parameters, and the inverse of their products, oldest first.
    changes: VecDeque<Change>,
    /// The scale of the first approximation of the inverse Hessian.
    h_diag: f64,
}

#[derive(Clone, Debug)]
struct Latest {
    d: Tensor,
    t: f64,
    prev_flat_grad: Tensor,
    prev_loss: f64,
}

#[derive(Clone, Debug)]
struct Change {
    gradient: Tensor,
    step: Tensor,
    ro: f64,
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64> {
    a.mul(b)?.sum(())?.item::<f64>()
}

fn largest(x: &Tensor) -> Result<f64> {
    x.abs()?.max(())?.item::<f64>()
}

#[located(site)]
impl LBFGS {
    /// An optimizer of these parameters. `options` may be the learning rate alone. A parameter that is given twice is
    /// used once.
    ///
    /// # Errors
    /// If there are no parameters, one is not a leaf or not floating-point, they differ in dtype or device, two have
    /// the same name, or a hyperparameter is invalid.
    pub fn new<P: Into<Param>>(params: impl IntoIterator<Item = P>, options: impl Into<LBFGSOptions>) -> Result<LBFGS> {
        let options = options.into();
        options.validate()?;
        let refuse = |message: String| Err(Error::argument(OP, message));
        let mut taken: Vec<(String, Tensor)> = Vec::new();
        for param in params {
            let (name, param) = param.into().into_parts();
            let name = name.unwrap_or_else(|| taken.len().to_string());
            if taken.iter().any(|(_, other)| other.is_same(&param)) {
                continue;
            }
            if !param.is_leaf() {
                return refuse(format!("parameter {name} is the result of an operation; only leaves can be optimized"));
            }
            if !param.dtype().is_float() {
                return Err(Error::dtype(OP, param.dtype(), "parameters must be floating-point"));
            }
            if taken.iter().any(|(other, _)| *other == name) {
                return refuse(format!("two parameters have the name {name}; give them others, or none"));
            }
            if let Some((first, other)) = taken.first()
                && (other.dtype(), other.device()) != (param.dtype(), param.device())
            {
                let message = format!(
                    "parameter {name} is {} on {}, {first} is {} on {}: all must be of one dtype on one device",
                    param.dtype(),
                    param.device(),
                    other.dtype(),
                    other.device()
                );
                return refuse(message);
            }
            taken.push((name, param));
        }
        if taken.is_empty() {
            return refuse("there are no parameters".into());
        }
        Ok(LBFGS { options, initial_lr: None, params: taken, unused: Vec::new(), state: History::default() })
    }

    /// A step: up to [`max_iter`](LBFGSOptions::max_iter) iterations. `closure` clears the gradients, computes the loss
    /// and its gradients, and returns the loss; it is called several times. Returns the first loss.
    ///
    /// # Errors
    /// Those of the closure; or if the loss is not a single number, or no parameter has a gradient.
    pub fn step(&mut self, closure: &mut dyn FnMut() -> Result<Tensor>) -> Result<Tensor> {
        no_grad(|| self.iterate(closure))
    }

    fn iterate(&mut self, closure: &mut dyn FnMut() -> Result<Tensor>) -> Result<Tensor> {
        self.options.validate()?;
        let options = self.options;
        let mut state = self.state.clone();
        let first_loss = enable_grad(&mut *closure)?;
        self.unused = self.without_gradients();
        if self.unused.len() == self.params.len() {
            let message = "none of the parameters has a gradient: the closure must call `backward` on the loss";
            return Err(Error::autograd("LBFGS::step".to_owned(), message.to_owned()));
        }
        let mut at = Point { loss: self.value_of(&first_loss)?, gradient: self.flat_gradient()? };
        let mut evaluations = 1;
        state.func_evals += 1;
        if largest(&at.gradient)? <= options.tolerance_grad {
            self.state = state;
            return Ok(first_loss);
        }
        for iteration in 1..=options.max_iter {
            state.n_iter += 1;
            let direction = self.direction(&mut state, &at.gradient)?;
            let before = at.clone();
            let mut t = options.lr;
            if state.n_iter == 1 {
                t *= 1f64.min(1.0 / at.gradient.abs()?.sum(())?.item::<f64>()?);
            }
            let slope = dot(&at.gradient, &direction)?;
            let remember = |state: &mut History, t: f64| {
                let (d, prev_flat_grad) = (direction.clone(), before.gradient.clone());
                state.latest = Some(Latest { d, t, prev_flat_grad, prev_loss: before.loss });
            };
            // Not a descent direction.
            if slope > -options.tolerance_change {
                remember(&mut state, t);
                break;
            }
            let mut counted = 0;
            match options.line_search_fn {
                LineSearch::StrongWolfe => {
                    let start = self.params.iter().map(|(_, param)| param.copy()).collect::<Result<Vec<_>>>()?;
                    let most = options.evaluations().saturating_sub(evaluations);
                    let width = largest(&direction)?;
                    let mut evaluate = |t: f64| {
                        self.move_by(t, &direction)?;
                        let loss = enable_grad(&mut *closure)?;
                        let point = Point { loss: self.value_of(&loss)?, gradient: self.flat_gradient()? };
                        self.params.iter().zip(&start).try_for_each(|((_, param), start)| param.copy_(start))?;
                        let slope = dot(&point.gradient, &direction)?;
                        Ok((point, slope))
                    };
                    let found = strong_wolfe(&mut evaluate, t, width, &at, slope, most, options.tolerance_change)?;
                    (at, t, counted) = (found.point, found.t, found.evaluations);
                    self.move_by(t, &direction)?;
                }
                LineSearch::None => {
                    self.move_by(t, &direction)?;
                    // After the last iteration the loss is not needed.
                    if iteration != options.max_iter {
                        let loss = enable_grad(&mut *closure)?;
                        at = Point { loss: self.value_of(&loss)?, gradient: self.flat_gradient()? };
                        counted = 1;
                    }
                }
            }
            remember(&mut state, t);
            evaluations += counted;
            state.func_evals += counted as i64;
            let done = iteration == options.max_iter
                || evaluations >= options.evaluations()
                || largest(&at.gradient)? <= options.tolerance_grad
                || largest(&direction)? * t.abs() <= options.tolerance_change
                || (at.loss - before.loss).abs() < options.tolerance_change;
            if done {
                break;
            }
        }
        self.state = state;
        Ok(first_loss)
    }

    /// The direction of the next iteration: the approximate inverse Hessian times the gradient.
    fn direction(&self, state: &mut History, gradient: &Tensor) -> Result<Tensor> {
        let Some(latest) = state.latest.as_ref().filter(|_| state.n_iter > 1) else {
            state.changes.clear();
            state.h_diag = 1.0;
            return gradient.neg();
        };
        let y = gradient.sub(&latest.prev_flat_grad)?;
        let s = latest.d.mul(latest.t)?;
        let ys = dot(&y, &s)?;
        if ys > 1e-10 {
            if state.changes.len() >= self.options.history_size {
                state.changes.pop_front();
            }
            state.h_diag = ys / dot(&y, &y)?;
            state.changes.push_back(Change { gradient: y, step: s, ro: 1.0 / ys });
        }
        // The algorithm's two-loop recursion over the changes.
        let q = gradient.neg()?;
        let mut alphas = Vec::with_capacity(state.changes.len());
        for change in state.changes.iter().rev() {
            let alpha = dot(&change.step, &q)? * change.ro;
            q.sub_(&change.gradient.mul(alpha)?)?;
            alphas.push(alpha);
        }
        q.mul_(state.h_diag)?;
        for (change, alpha) in state.changes.iter().zip(alphas.iter().rev()) {
            let beta = dot(&change.gradient, &q)? * change.ro;
            q.add_(&change.step.mul(alpha - beta)?)?;
        }
        Ok(q)
    }

    /// The loss, negated when maximizing.
    fn value_of(&self, loss: &Tensor) -> Result<f64> {
        let value = loss.item::<f64>()?;
        Ok(if self.options.maximize { -value } else { value })
    }

    fn without_gradients(&self) -> Vec<String> {
        self.params.iter().filter(|(_, param)| param.grad().is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// All gradients concatenated, negated when maximizing; zeros where there is none.
    fn flat_gradient(&self) -> Result<Tensor> {
        let flat = |(_, param): &(String, Tensor)| match param.grad() {
            Some(grad) => grad.detach().reshape([param.numel()]),
            None => Tensor::zeros(param.numel(), param.options()),
        };
        let all = Tensor::cat(&self.params.iter().map(flat).collect::<Result<Vec<_>>>()?, 0)?;
        if self.options.maximize { all.neg() } else { Ok(all) }
    }

    fn move_by(&self, t: f64, direction: &Tensor) -> Result<()> {
        let mut offset = 0;
        for (_, param) in &self.params {
            let part = direction.narrow(0, offset, param.numel())?.reshape(param.shape())?;
            param.add_(&part.mul(t)?)?;
            offset += param.numel();
        }
        Ok(())
    }
}

#[located(site)]
impl Optimizer for LBFGS {
    /// Always fails: [`LBFGS::step`] takes a closure.
    fn step(&mut self) -> Result<()> {
        Err(Error::argument(OP, "a step evaluates the loss several times: call `LBFGS::step` with a closure"))
    }

    fn zero_grad(&self) {
        self.params.iter().for_each(|(_, param)| param.zero_grad());
    }

    fn parameters(&self) -> Vec<Tensor> {
        self.params.iter().map(|(_, param)| param.clone()).collect()
    }

    fn unused_parameters(&self) -> &[String] {
        &self.unused
    }

    fn rates(&self) -> Vec<GroupRates> {
        vec![GroupRates { lr: self.options.lr, initial_lr: self.initial_lr, momentum: None }]
    }

    fn set_rates(&mut self, rates: &[GroupRates]) -> Result<()> {
        let [rates] = rates else {
            return Err(Error::argument(OP, format!("{} rates for 1 parameter group", rates.len())));
        };
        let options = self.options.lr(rates.lr);
        options.validate()?;
        (self.options, self.initial_lr) = (options, rates.initial_lr);
        Ok(())
    }

    fn state_dict(&self) -> Result<StateDict> {
        let mut out = StateDict::from([("name".into(), Tensor::from_slice(OP.as_bytes(), OP.len(), Device::Cpu)?)]);
        let mut options = self.options;
        options.each(&mut |name, value| {
            let tensor = match value {
                Value::Number(v) => scalar(*v)?,
                Value::Flag(v) => scalar(*v)?,
                Value::Count(v) => scalar(*v as i64)?,
                Value::Choice(v) => Tensor::from_slice(v.name().as_bytes(), v.name().len(), Device::Cpu)?,
                _ => return Ok(()),
            };
            out.insert(format!("param_groups.0.{name}"), tensor);
            Ok(())
        })?;
        if let Some(initial_lr) = self.initial_lr {
            out.insert("param_groups.0.initial_lr".into(), scalar(initial_lr)?);
        }
        let state = &self.state;
        let mut put = |name: &str, tensor: Tensor| {
            out.insert(format!("state.0.{name}"), tensor.detach());
        };
        put("func_evals", scalar(state.func_evals)?);
        put("n_iter", scalar(state.n_iter)?);
        if let Some(Latest { d, t, prev_flat_grad, prev_loss }) = &state.latest {
            put("d", d.clone());
            put("t", scalar(*t)?);
            put("prev_flat_grad", prev_flat_grad.clone());
            put("prev_loss", scalar(*prev_loss)?);
            put("H_diag", scalar(state.h_diag)?);
            let ro: Vec<f64> = state.changes.iter().map(|change| change.ro).collect();
            put("ro", Tensor::from_slice(&ro, ro.len(), Device::Cpu)?);
            for (i, change) in state.changes.iter().enumerate() {
                put(&format!("old_dirs.{i}"), change.gradient.clone());
                put(&format!("old_stps.{i}"), change.step.clone());
            }
        }
        Ok(out)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mut source = Source::new(OP, state);
        let name: Vec<u8> = source.vector("name", None)?.unwrap_or_default();
        if name != OP.as_bytes() {
            let name = String::from_utf8_lossy(&name);
            let message = format!("load_state_dict: the state is that of {name} and cannot be loaded into {OP}");
            return Err(Error::argument(OP, message));
        }
        let mut options = self.options;
        options.each(&mut |name, value| {
            let key = format!("param_groups.0.{name}");
            let wrong = |value: &dyn std::fmt::Debug| Error::argument(OP, format!("{key} is {value:?}"));
            match value {
                Value::Number(v) => *v = source.value(&key)?.unwrap_or(*v),
                Value::Flag(v) => *v = source.value(&key)?.unwrap_or(*v),
                Value::Count(v) => {
                    let count: Option<i64> = source.value(&key)?;
                    let count = count.map(|count| usize::try_from(count).map_err(|_| wrong(&count))).transpose()?;
                    *v = count.unwrap_or(*v);
                }
                Value::Choice(v) => {
                    let name: Vec<u8> = source.vector(&key, None)?.unwrap_or_default();
                    let name = String::from_utf8_lossy(&name).into_owned();
                    if !v.set(&name) {
                        return Err(wrong(&name));
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        let initial_key = "param_groups.0.initial_lr";
        let initial_lr = if state.contains_key(initial_key) { source.value(initial_key)? } else { None };
        let mut history = History {
            func_evals: source.value("state.0.func_evals")?.unwrap_or(0),
            n_iter: source.value("state.0.n_iter")?.unwrap_or(0),
            ..History::default()
        };
        let (count, first) = (self.params.iter().map(|(_, param)| param.numel()).sum::<usize>(), &self.params[0].1);
        let flat = |tensor: &Tensor| {
            if tensor.dims() != [count] {
                return Err(Error::shape(OP, format!("a vector of {count} elements, one for each"), tensor.shape()));
            }
            no_grad(|| tensor.to_device(first.device())?.to_dtype(first.dtype())?.copy())
        };
        if state.contains_key("state.0.d") {
            let ro: Vec<f64> = source.vector("state.0.ro", None)?.unwrap_or_default();
            let [d, prev_flat_grad] = ["d", "prev_flat_grad"].map(|name| source.tensor(&format!("state.0.{name}")));
            let t = source.value("state.0.t")?;
            let prev_loss = source.value("state.0.prev_loss")?;
            history.h_diag = source.value("state.0.H_diag")?.unwrap_or(1.0);
            if let (Some(d), Some(t), Some(gradient), Some(prev_loss)) = (d, t, prev_flat_grad, prev_loss) {
                history.latest = Some(Latest { d: flat(d)?, t, prev_flat_grad: flat(gradient)?, prev_loss });
            }
            for (i, ro) in ro.into_iter().enumerate() {
                let [gradient, step] =
                    ["old_dirs", "old_stps"].map(|name| source.tensor(&format!("state.0.{name}.{i}")));
                if let (Some(gradient), Some(step)) = (gradient, step) {
                    history.changes.push_back(Change { gradient: flat(gradient)?, step: flat(step)?, ro });
                }
            }
        }
        source.finish()?;
        options.validate()?;
        (self.options, self.initial_lr, self.state) = (options, initial_lr, history);
        Ok(())
    }
}
