//! Export of models to ONNX (<https://onnx.ai/onnx/repo-docs/IR.html>), so that other programs can run them.
//!
//! ```
//! # fn main() -> kiln_tensor::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("mlp.onnx");
//! use kiln_io::onnx;
//! use kiln_models::Mlp;
//! use kiln_nn::ModuleTree;
//! use kiln_tensor::{Device, Tensor};
//!
//! let model = Mlp::new(&[784, 512, 10])?;
//! model.eval();
//! onnx::export(&path, &model, &Tensor::zeros([1, 1, 28, 28], Device::Cpu)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! The model is run on zeros, and every operation that the tape can record is traced ([`autograd::trace`]). Any model
//! can be exported whose operations have a counterpart here, including a user's own `forward`, and constants that it
//! creates (`arange`, `zeros`, masks). Anything else is an error that names the operation or its argument, and never a
//! file that computes something different: operations that ONNX does not have (`searchsorted`), random numbers, values
//! read during the run (`item`, `nonzero`, `masked_select`), and tensors changed in place. As in PyTorch, Rust's own
//! `if`s and loops are run once, and the path taken is exported.
//!
//! The batch, the first dimension of every input, is left open: the model is traced with two batch sizes, and the
//! extents that differ between the two are the open ones.

mod build;
mod graph;
mod lower;
mod operation;
mod proto;
mod write;

use std::path::Path;

use kiln_derive::located;
use kiln_nn::{Module, ModuleTree, Part};
use kiln_tensor::{Error, Result, Tensor, autograd};

use self::build::{Run, graph_of};
pub use self::write::{OPSET, Weights};

/// Options of the export.
#[derive(Clone, Debug)]
#[must_use]
pub struct Options {
    inputs: Vec<String>,
    outputs: Vec<String>,
    dynamic_batch: bool,
    weights: Weights,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            inputs: vec!["input".into()],
            outputs: vec!["output".into()],
            dynamic_batch: true,
            weights: Weights::Auto,
        }
    }
}

impl Options {
    /// One input `input`, one output `output`, any batch size.
    pub fn new() -> Options {
        Options::default()
    }

    /// Sets the names of the inputs.
    pub fn inputs<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Options {
        Options { inputs: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the names of the outputs.
    pub fn outputs<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Options {
        Options { outputs: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets whether the first dimension of the inputs is left open (the default), or has the extent of the samples.
    pub fn dynamic_batch(self, dynamic: bool) -> Options {
        Options { dynamic_batch: dynamic, ..self }
    }

    /// Sets where the weights are stored.
    pub fn weights(self, weights: Weights) -> Options {
        Options { weights, ..self }
    }
}

/// Exports a model to an ONNX file, with any batch size. Only shape, dtype and device of `sample` matter.
///
/// # Errors
/// If the model is in training mode, does not accept the sample, or does something that cannot be exported; or if the
/// file cannot be written.
#[located(site)]
pub fn export<M: Module + ?Sized>(path: impl AsRef<Path>, model: &M, sample: &Tensor) -> Result<()> {
    export_with(path, model, sample, &Options::new())
}

/// [`export`] with options.
///
/// # Errors
/// Those of [`export`].
#[located(site)]
pub fn export_with<M: Module + ?Sized>(
    path: impl AsRef<Path>,
    model: &M,
    sample: &Tensor,
    options: &Options,
) -> Result<()> {
    let forward = |inputs: &[Tensor]| match inputs {
        [x] => Ok(vec![model.forward(x)?]),
        _ => Err(Error::argument("onnx::export", "a module takes one input")),
    };
    let parameters = model.named_parameters().into_iter().chain(model.named_buffers()).collect();
    export_named(path.as_ref(), trains(model), parameters, &[sample], &forward, options)
}

/// [`export`] of a module with several inputs or outputs: `forward` calls it. The options name them all.
///
/// # Errors
/// Those of [`export`]; or if the number of inputs or outputs is not that of their names.
#[located(site)]
pub fn export_function<T: ModuleTree>(
    path: impl AsRef<Path>,
    model: &T,
    samples: &[&Tensor],
    forward: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    options: &Options,
) -> Result<()> {
    let parameters = model.named_parameters().into_iter().chain(model.named_buffers()).collect();
    export_named(path.as_ref(), trains(model), parameters, samples, &forward, options)
}

/// Whether any layer is in training mode. A module without the switch computes the same in both modes.
fn trains<T: ModuleTree + ?Sized>(model: &T) -> bool {
    let mut found = false;
    model.visit(&mut |_, part| match part {
        Part::Training(switch) => found |= switch.is_on(),
        Part::Module(child) => found |= trains(child),
        Part::Parameter(_) | Part::Buffer(_) => {}
    });
    found
}

type Forward<'a> = &'a dyn Fn(&[Tensor]) -> Result<Vec<Tensor>>;

fn export_named(
    path: &Path,
    training: bool,
    parameters: Vec<(String, Tensor)>,
    samples: &[&Tensor],
    forward: Forward<'_>,
    options: &Options,
) -> Result<()> {
    let wrong = |message: String| Error::argument("onnx::export", message);
    if training {
        return Err(wrong("the model is in training mode; call `eval()` first".into()));
    }
    if samples.len() != options.inputs.len() {
        let (given, named) = (samples.len(), options.inputs.len());
        return Err(wrong(format!("{given} samples for the {named} inputs {:?}", options.inputs)));
    }
    let first = run(samples, options.dynamic_batch.then_some(2), forward)?;
    let second = if options.dynamic_batch { Some(run(samples, Some(3), forward)?) } else { None };
    if first.outputs.len() != options.outputs.len() {
        let (given, named) = (first.outputs.len(), options.outputs.len());
        return Err(wrong(format!("the model returns {given} outputs, but {named} are named: {:?}", options.outputs)));
    }
    let graph = graph_of(&first, second.as_ref().unwrap_or(&first), &parameters, &options.inputs, &options.outputs)?;
    write::file(path, graph, options.weights)
}

/// Traces the model on zeros, with another batch size if given.
fn run(samples: &[&Tensor], batch: Option<usize>, forward: Forward<'_>) -> Result<Run> {
    let _guard = kiln_tensor::no_grad_guard();
    let ((inputs, outputs), trace) = autograd::trace(|| {
        let zeros = |sample: &&Tensor| {
            let mut dims = sample.dims().to_vec();
            if let (Some(batch), Some(first)) = (batch, dims.first_mut()) {
                *first = batch;
            }
            Tensor::zeros(&dims[..], sample.options())
        };
        let inputs = samples.iter().map(zeros).collect::<Result<Vec<Tensor>>>()?;
        let outputs = forward(&inputs)?;
        Ok((inputs, outputs))
    })?;
    Ok(Run { inputs, outputs, trace })
}
