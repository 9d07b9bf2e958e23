//! `summary`: a table of a model's layers and operations, counted from a trace.

mod cost;
mod observe;

use std::{collections::HashMap, fmt, ops::Range};

use kiln_derive::located;
use kiln_tensor::{
    Extents, Result, Shape, Tensor, TensorOptions,
    autograd::{Trace, trace_with_reads},
    no_grad,
};

use crate::{
    module::{Module, ModuleTree, Part, walk},
    parameter::Training,
};
use cost::multiply_adds;
use observe::{Run, observe};

pub(crate) use observe::{begins, is_observed, ran};

/// A layer that ran, or an operation outside layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The layer's path in the model, as in the state dict; empty for an operation.
    pub name: String,
    /// The layer's type, or the operation.
    pub kind: String,
    /// The shape of the output.
    pub output: Shape,
    /// The number of parameter values; 0 if they were counted in an earlier row.
    pub parameters: usize,
    /// The number of multiplications, each with an addition, in products and convolutions.
    pub multiply_adds: u64,
    /// The bytes that its operations allocated: 0 for views.
    pub bytes: usize,
}

/// The result of [`summary`]. It prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    rows: Vec<SummaryRow>,
    parameters: usize,
}

impl Summary {
    /// Layers, and operations outside layers, in the order in which they ran. A layer that ran twice has two rows.
    #[must_use]
    pub fn rows(&self) -> &[SummaryRow] {
        &self.rows
    }

    /// The number of the model's parameter values, each counted once, whether they were used or not.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The number of multiplications, each with an addition, in a forward pass.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        self.rows.iter().map(|row| row.multiply_adds).sum()
    }

    /// The bytes that all operations allocated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.bytes).sum()
    }
}

/// Runs zeros of this shape (batch dimension first) through a model in evaluation mode, and lists what ran. Use
/// [`summary_of`] for other inputs.
///
/// ```
/// use kiln_nn::{Conv2d, Linear, ReLU, seq, summary};
/// # fn main() -> kiln_tensor::Result<()> {
/// let model = seq![Conv2d::new(1, 4, 3)?, ReLU::new()];
/// let table = summary(&model, [1, 1, 8, 8])?;
/// assert_eq!((table.parameters(), table.multiply_adds()), (40, 4 * 36 * 9));
/// println!("{table}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the model does not accept this input.
#[located(site)]
pub fn summary(model: &dyn Module, input_shape: impl Extents) -> Result<Summary> {
    let options = model.parameters().first().map_or_else(TensorOptions::new, |parameter| parameter.options());
    let input = Tensor::zeros(input_shape, options)?;
    summary_of(model, || model.forward(&input))
}

/// Lists what a forward pass of a model does, in evaluation mode: for any module, with any inputs.
///
/// ```
/// use kiln_nn::{Embedding, Linear, Module, ModuleTree, summary_of};
/// use kiln_tensor::{DType, Device, Result, Tensor};
///
/// #[derive(Module)]
/// struct Classifier {
///     words: Embedding,
///     head: Linear,
/// }
///
/// impl Classifier {
///     /// Of words and how much each counts.
///     fn forward(&self, words: &Tensor, weights: &Tensor) -> Result<Tensor> {
///         self.head.forward(&self.words.forward(words)?.mul(weights)?.sum(1)?)
///     }
/// }
///
/// # fn main() -> Result<()> {
/// let model = Classifier { words: Embedding::new(100, 8)?, head: Linear::new(8, 2)? };
/// let words = Tensor::zeros([4, 6], (DType::I64, Device::Cpu))?;
/// let weights = Tensor::ones([4, 6, 1], Device::Cpu)?;
/// let table = summary_of(&model, || model.forward(&words, &weights))?;
/// let rows: Vec<(&str, &str)> = table.rows().iter().map(|row| (row.name.as_str(), row.kind.as_str())).collect();
/// assert_eq!(rows, [("words", "Embedding"), ("", "mul"), ("", "sum"), ("head", "Linear")]);
/// assert_eq!((table.parameters(), table.multiply_adds()), (100 * 8 + 8 * 2 + 2, 4 * 8 * 2));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of `forward`.
#[located(site)]
pub fn summary_of<M: ModuleTree + ?Sized, T>(model: &M, forward: impl FnOnce() -> Result<T>) -> Result<Summary> {
    let mut switches: Vec<(&Training, bool)> = Vec::new();
    collect(model, &mut switches);
    switches.iter().for_each(|(switch, _)| switch.set(false));
    let observed = no_grad(|| observe(|| trace_with_reads(forward)));
    switches.iter().for_each(|(switch, on)| switch.set(*on));
    let ((_, trace), runs) = observed?;
    Ok(Summary { rows: rows(&trace, &runs, &mut Paths::of(model.as_tree())), parameters: model.num_parameters() })
}

/// The runs of layers, and between them the operations that belong to none.
fn rows(trace: &Trace, runs: &[Run], paths: &mut Paths) -> Vec<SummaryRow> {
    let (steps, allocated) = (trace.steps(), trace.allocated());
    let mut rows = Vec::new();
    let mut done = 0;
    let operations = |rows: &mut Vec<SummaryRow>, between: Range<usize>| {
        for i in between {
            let (multiply_adds, bytes) = (multiply_adds(&steps[i]), allocated[i]);
            // A view is not worth a row.
            if multiply_adds > 0 || bytes > 0 {
                let kind = steps[i].op.unwrap_or_else(|| steps[i].node.trim_end_matches("Backward0")).to_owned();
                let output = *steps[i].output.shape();
                rows.push(SummaryRow { name: String::new(), kind, output, parameters: 0, multiply_adds, bytes });
            }
        }
    };
    for run in runs {
        // The parts of a composite layer have been reported before it. A layer that ran in a nested trace counts steps
        // that are not here.
        let end = run.steps.end.min(steps.len());
        operations(&mut rows, done..run.steps.start.min(end));
        let own = run.steps.start.max(done).min(end)..end;
        done = done.max(end);
        let (name, is_first) = paths.next(&run.layer);
        rows.push(SummaryRow {
            name,
            kind: run.layer.1.clone(),
            output: run.output,
            parameters: if is_first { run.parameters } else { 0 },
            multiply_adds: steps[own.clone()].iter().map(multiply_adds).sum(),
            bytes: allocated[own].iter().sum(),
        });
    }
    operations(&mut rows, done..steps.len());
    rows
}

/// The paths of all modules by address. Layers without fields may share an address: these take turns.
#[derive(Default)]
struct Paths(HashMap<(usize, String), (Vec<String>, usize)>);

impl Paths {
    fn of(model: &dyn ModuleTree) -> Paths {
        let mut paths = Paths::default();
        let mut note = |key: (usize, String), path: &str| paths.0.entry(key).or_default().0.push(path.to_owned());
        note((model.address(), model.type_name().to_owned()), "");
        walk(model, "", &mut |path, part| {
            if let Part::Module(module) = part {
                note((module.address(), module.type_name().to_owned()), path);
            }
        });
        paths
    }

    /// The path of a layer that ran, and whether it ran for the first time.
    fn next(&mut self, layer: &(usize, String)) -> (String, bool) {
        let Some((paths, count)) = self.0.get_mut(layer) else { return (String::new(), true) };
        *count += 1;
        (paths[(*count - 1) % paths.len()].clone(), *count <= paths.len())
    }
}

/// All training switches of a module, with their values.
fn collect<'a>(module: &'a (impl ModuleTree + ?Sized), to: &mut Vec<(&'a Training, bool)>) {
    module.visit(&mut |_, part| match part {
        Part::Training(switch) => to.push((switch, switch.is_on())),
        Part::Module(child) => collect(child, to),
        Part::Parameter(_) | Part::Buffer(_) => {}
    });
}

/// Formats with commas between thousands.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in mebibytes.
fn mebibytes(bytes: usize) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["Layer", "Output shape", "Parameters", "Multiply-adds", "Memory (MiB)"].map(String::from);
        let mut lines = vec![head];
        for row in &self.rows {
            lines.push([
                if row.name.is_empty() { row.kind.clone() } else { format!("{} ({})", row.name, row.kind) },
                row.output.to_string(),
                thousands(row.parameters as u64),
                thousands(row.multiply_adds),
                mebibytes(row.bytes),
            ]);
        }
        lines.push([
            "Total".into(),
            String::new(),
            thousands(self.parameters() as u64),
            thousands(self.multiply_adds()),
            mebibytes(self.bytes()),
        ]);
        let width = |i: usize| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0);
        let widths: [usize; 5] = std::array::from_fn(width);
        let rule = "-".repeat(widths.iter().sum::<usize>() + 8);
        let last = lines.len() - 1;
        for (i, [name, shape, parameters, adds, memory]) in lines.iter().enumerate() {
            if i == 1 || i == last {
                writeln!(f, "{rule}")?;
            }
            let [a, b, c, d, e] = widths;
            write!(f, "{name:<a$}  {shape:<b$}  {parameters:>c$}  {adds:>d$}  {memory:>e$}")?;
            if i != last {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
