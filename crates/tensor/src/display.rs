//! Prints tensors as PyTorch does (following the rules of its `torch/_tensor_str.py`).
//!
//! `{}` prints the values; of tensors with over 1000 elements only the first and last three of each dimension are
//! fetched from the device and printed. `{:?}` prints one short line without values: it appears in the `{:?}` of whole
//! models and in failed assertions, where it must neither wait for a device nor fill the screen.

use std::fmt::{self, Write as _};

use kiln_backend::{DType, Element, Layout, MAX_RANK, Result, Scalar, Shape, dispatch_dtype};

use crate::{autograd::no_grad, tensor::Tensor};

/// Tensors with more elements are summarized.
const THRESHOLD: usize = 1000;
/// How many elements a summary shows at either end of a dimension.
const EDGE: usize = 3;
const LINE_WIDTH: usize = 80;
const PREFIX: &str = "tensor(";

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut suffixes = Vec::new();
        if self.device().is_cuda() {
            suffixes.push(format!("device='{}'", self.device()));
        }
        let is_empty = self.numel() == 0;
        if is_empty && self.rank() != 1 {
            let dims: Vec<String> = self.dims().iter().map(ToString::to_string).collect();
            suffixes.push(format!("size=({})", dims.join(", ")));
        }
        // PyTorch leaves out the dtypes that the printed elements imply.
        let implied = match self.dtype() {
            DType::F32 => true,
            DType::I64 | DType::Bool => !is_empty,
            _ => false,
        };
        if !implied {
            suffixes.push(format!("dtype=torch.{}", self.dtype().torch_name()));
        }
        suffixes.extend(self.history());
        let values = if is_empty {
            "[]".into()
        } else {
            match Shown::fetch(self) {
                Ok(shown) => shown.text(),
                Err(error) => format!("<values cannot be read: {error}>"),
            }
        };
        f.write_str(&join_suffixes(values, &suffixes))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {} {}", self.shape(), self.dtype(), self.device())?;
        if let Some(history) = self.history() {
            write!(f, " {history}")?;
        }
        f.write_str(")")
    }
}

impl Tensor {
    /// The suffixes about its place in the graph.
    fn history(&self) -> Option<String> {
        match self.grad_fn() {
            Some(node) => Some(format!("grad_fn={node:?}")),
            None => self.requires_grad().then(|| "requires_grad=True".into()),
        }
    }
}

/// Closes the parenthesis, with the suffixes on the last line if they fit.
fn join_suffixes(values: String, suffixes: &[String]) -> String {
    let mut out = PREFIX.to_owned() + &values;
    // PyTorch counts two columns more than there are.
    let mut line = out.len() - out.rfind('\n').map_or(0, |at| at + 1) + 2;
    for suffix in suffixes {
        if line + suffix.len() + 2 > LINE_WIDTH {
            let _ = write!(out, ",\n{:indent$}{suffix}", "", indent = PREFIX.len());
            line = PREFIX.len() + suffix.len();
        } else {
            let _ = write!(out, ", {suffix}");
            line += suffix.len() + 2;
        }
    }
    out + ")"
}

/// The elements that are printed.
struct Shown {
    values: Vec<Scalar>,
    shape: Shape,
    /// For each dimension, whether its middle is left out.
    folded: [bool; MAX_RANK],
    format: Format,
}

impl Shown {
    fn fetch(tensor: &Tensor) -> Result<Shown> {
        fn scalars<T: Element>(tensor: &Tensor) -> Result<Vec<Scalar>> {
            Ok(tensor.to_vec::<T>()?.into_iter().map(T::to_scalar).collect())
        }
        let mut folded = [false; MAX_RANK];
        let shown = if tensor.numel() > THRESHOLD {
            for (folded, &extent) in folded.iter_mut().zip(tensor.dims()) {
                *folded = extent > 2 * EDGE;
            }
            no_grad(|| corners(tensor, &folded))?
        } else {
            tensor.clone()
        };
        let values = dispatch_dtype!(tensor.dtype(), T => scalars::<T>(&shown))?;
        let format = Format::of(&values);
        Ok(Shown { values, shape: *shown.shape(), folded, format })
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, &self.values);
        out
    }

    /// Appends `values`, a block of the dimensions from `dim` on.
    fn write(&self, out: &mut String, dim: usize, values: &[Scalar]) {
        let Some(&extent) = self.shape.get(dim) else {
            return values.iter().for_each(|&value| out.push_str(&self.format.element(value)));
        };
        let indent = PREFIX.len() + dim;
        out.push('[');
        if dim + 1 == self.shape.rank() {
            let mut elements: Vec<String> = values.iter().map(|&value| self.format.element(value)).collect();
            if self.folded[dim] {
                elements.insert(EDGE, " ...".into());
            }
            let per_line = (LINE_WIDTH.saturating_sub(indent) / (self.format.width + 2)).max(1);
            let lines: Vec<String> = elements.chunks(per_line).map(|line| line.join(", ")).collect();
            out.push_str(&lines.join(&format!(",\n{:indent$}", "", indent = indent + 1)));
        } else {
            let breaks = "\n".repeat(self.shape.rank() - dim - 1);
            let separator = format!(",{breaks}{:indent$}", "", indent = indent + 1);
            for (i, block) in values.chunks(values.len() / extent.max(1)).enumerate() {
                if i > 0 {
                    out.push_str(&separator);
                }
                if self.folded[dim] && i == EDGE {
                    let _ = write!(out, "...{separator}");
                }
                self.write(out, dim + 1, block);
            }
        }
        out.push(']');
    }
}

/// A new tensor with the first and last [`EDGE`] elements of each folded dimension.
fn corners(tensor: &Tensor, folded: &[bool; MAX_RANK]) -> Result<Tensor> {
    let dims: Vec<usize> = (0..tensor.rank()).filter(|&dim| folded[dim]).collect();
    let mut shape = *tensor.shape();
    for &dim in &dims {
        shape = shape.with_dim(dim, 2 * EDGE)?;
    }
    let out = Tensor::empty(shape, tensor.options())?;
    for corner in 0..1usize << dims.len() {
        let part = |layout: &Layout| {
            dims.iter().enumerate().fold(*layout, |layout, (bit, &dim)| {
                let start = if corner >> bit & 1 == 0 { 0 } else { layout.dims()[dim] - EDGE };
                layout.slice(dim, start, start + EDGE, 1)
            })
        };
        out.alias(part(out.layout())).copy_(&tensor.alias(part(tensor.layout())))?;
    }
    Ok(out)
}

/// The format of all elements, the same for all so that columns align.
struct Format {
    style: Style,
    width: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    /// Integers and truth values.
    Plain,
    /// Floats that are all whole numbers: `1.`
    Whole,
    /// `0.5000`
    Fixed,
    /// `5.0000e-01`
    Scientific,
}

impl Format {
    fn of(values: &[Scalar]) -> Format {
        let is_float = values.first().is_some_and(|value| value.is_float());
        // Zeros, NaN and infinities do not affect the format of floats, not even the width.
        let deciding = |value: &&Scalar| match value {
            Scalar::Float(v) => v.is_finite() && *v != 0.0,
            _ => true,
        };
        let style = if is_float { Style::of(values.iter().filter(deciding).map(|v| v.to_f64())) } else { Style::Plain };
        let width = values.iter().filter(deciding).map(|&v| style.element(v).len()).max().unwrap_or(1);
        Format { style, width }
    }

    fn element(&self, value: Scalar) -> String {
        format!("{:>width$}", self.style.element(value), width = self.width)
    }
}

impl Style {
    /// The style for floats, given only those that are finite and not 0.
    fn of(values: impl Iterator<Item = f64>) -> Style {
        let (mut whole, mut least, mut most) = (true, f64::INFINITY, 0.0f64);
        for value in values {
            whole &= value == value.ceil();
            least = least.min(value.abs());
            most = most.max(value.abs());
        }
        if most > 0.0 && (most / least > 1000.0 || most > 1e8 || least < 1e-4) {
            Style::Scientific
        } else if whole {
            Style::Whole
        } else {
            Style::Fixed
        }
    }

    fn element(self, value: Scalar) -> String {
        match value {
            Scalar::Float(v) if v.is_nan() => "nan".into(),
            Scalar::Float(v) if v.is_infinite() => if v > 0.0 { "inf" } else { "-inf" }.into(),
            Scalar::Float(v) => match self {
                Style::Scientific => scientific(v),
                Style::Fixed => format!("{v:.4}"),
                Style::Whole | Style::Plain => format!("{v:.0}."),
            },
            Scalar::Int(v) => v.to_string(),
            Scalar::Bool(v) => if v { "True" } else { "False" }.into(),
        }
    }
}

/// Python's `{:.4e}`: the exponent has a sign and at least two digits.
fn scientific(value: f64) -> String {
    let text = format!("{value:.4e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}
