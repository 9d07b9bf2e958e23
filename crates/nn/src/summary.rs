//! A table of a model's layers.

use std::fmt;

use kiln_derive::located;
use kiln_tensor::{Extents, Result, Shape, Tensor, TensorOptions, no_grad};

use crate::{Module, ModuleTree, Part, Training};

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// Its path in the model, as in the state dict.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// The shape of what it gives.
    pub output: Shape,
    /// Numbers that it has as parameters.
    pub parameters: usize,
    /// Multiplications, each with an addition.
    pub multiply_adds: u64,
    /// Bytes of what it gives.
    pub bytes: usize,
}

/// What [`summary`] found. It prints as a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    rows: Vec<SummaryRow>,
}

impl Summary {
    /// The layers in the order in which they ran.
    #[must_use]
    pub fn rows(&self) -> &[SummaryRow] {
        &self.rows
    }

    /// Numbers that the layers have as parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|row| row.parameters).sum()
    }

    /// Multiplications, each with an addition, of a forward pass.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        self.rows.iter().map(|row| row.multiply_adds).sum()
    }

    /// Bytes of what all layers give.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(|row| row.bytes).sum()
    }

    /// Adds a layer; for [`Module::summarize`].
    pub fn push(&mut self, name: &str, kind: &str, output: &Tensor, parameters: usize, multiply_adds: u64) {
        let bytes = output.numel() * output.dtype().size();
        let (name, kind, output) = (name.to_owned(), kind.to_owned(), *output.shape());
        self.rows.push(SummaryRow { name, kind, output, parameters, multiply_adds, bytes });
    }

    /// The path of `child` in `parent`, which is empty for the model itself.
    #[must_use]
    pub fn path(parent: &str, child: &str) -> String {
        if parent.is_empty() { child.to_owned() } else { format!("{parent}.{child}") }
    }
}

/// Runs zeros of this shape (with the batch in front) through a model in evaluation mode, and lists its layers.
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
/// The model does not take such an input.
#[located(site)]
pub fn summary(model: &dyn Module, input_shape: impl Extents) -> Result<Summary> {
    let options = model.parameters().first().map_or_else(TensorOptions::new, |parameter| parameter.options());
    let input = Tensor::zeros(input_shape, options)?;
    let mut switches: Vec<(&Training, bool)> = Vec::new();
    collect(model, &mut switches);
    switches.iter().for_each(|(switch, _)| switch.set(false));
    let mut summary = Summary::default();
    let result = no_grad(|| model.summarize("", &input, &mut summary));
    switches.iter().for_each(|(switch, on)| switch.set(*on));
    result.map(|_| summary)
}

/// All training switches of a module, and how they stand.
fn collect<'a>(module: &'a (impl ModuleTree + ?Sized), to: &mut Vec<(&'a Training, bool)>) {
    module.visit(&mut |_, part| match part {
        Part::Training(switch) => to.push((switch, switch.is_on())),
        Part::Module(child) => collect(child, to),
        Part::Parameter(_) | Part::Buffer(_) => {}
    });
}

/// With a comma between thousands.
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
