//! What an operation is in ONNX (<https://onnx.ai/onnx/operators/>).

use kiln_tensor::{
    Error, Result, Scalar, Tensor,
    autograd::{Attribute, Step},
};

use super::{
    build::extents,
    graph::{Extent, Graph, float, int, ints, text},
    write::cast_to,
};

/// One step of a model, in two runs.
pub(super) struct Operation<'a> {
    pub op: &'static str,
    pub step: &'a Step,
    pub twin: &'a Step,
    /// The names of its inputs.
    pub inputs: Vec<String>,
}

/// Operations that are one operator each, without arguments.
const SAME: &[(&str, &str)] = &[
    ("abs", "Abs"),
    ("acos", "Acos"),
    ("asin", "Asin"),
    ("atan", "Atan"),
    ("ceil", "Ceil"),
    ("cos", "Cos"),
    ("cosh", "Cosh"),
    ("embedding", "Gather"),
    ("erf", "Erf"),
    ("exp", "Exp"),
    ("floor", "Floor"),
    ("identity", "Identity"),
    ("log", "Log"),
    ("matmul", "MatMul"),
    ("neg", "Neg"),
    ("reciprocal", "Reciprocal"),
    ("relu", "Relu"),
    ("round", "Round"),
    ("sigmoid", "Sigmoid"),
    ("sign", "Sign"),
    ("sin", "Sin"),
    ("sinh", "Sinh"),
    ("softplus", "Softplus"),
    ("sqrt", "Sqrt"),
    ("tan", "Tan"),
    ("tanh", "Tanh"),
];

/// Operations on two tensors, or a tensor and a number.
const BINARY: &[(&str, &str)] = &[
    ("add", "Add"),
    ("sub", "Sub"),
    ("mul", "Mul"),
    ("div", "Div"),
    ("pow", "Pow"),
    ("maximum", "Max"),
    ("minimum", "Min"),
];

fn find(table: &[(&str, &'static str)], op: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == op).map(|(_, onnx)| *onnx)
}

/// Adds the nodes of an operation, and gives the name of its result.
pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
    if let Some(operator) = find(SAME, o.op) {
        return Ok(graph.node(operator, &names, Vec::new()));
    }
    if let Some(operator) = find(BINARY, o.op) {
        return o.binary(graph, operator);
    }
    let first = *names.first().ok_or_else(|| o.wrong("it has no input"))?;
    match o.op {
        "linear" => o.linear(graph, &names),
        "square" => Ok(graph.node("Mul", &[first, first], Vec::new())),
        "rsqrt" => {
            let root = graph.node("Sqrt", &[first], Vec::new());
            Ok(graph.node("Reciprocal", &[&root], Vec::new()))
        }
        "silu" => {
            let gate = graph.node("Sigmoid", &[first], Vec::new());
            Ok(graph.node("Mul", &[first, &gate], Vec::new()))
        }
        "gelu" => {
            // x/2 (1 + erf(x/√2)); a Gelu operator came with a later operator set.
            let scaled = o.with_number(graph, "Mul", first, std::f64::consts::FRAC_1_SQRT_2)?;
            let erf = graph.node("Erf", &[&scaled], Vec::new());
            let above = o.with_number(graph, "Add", &erf, 1.0)?;
            let product = graph.node("Mul", &[first, &above], Vec::new());
            o.with_number(graph, "Mul", &product, 0.5)
        }
        "gelu_tanh" => {
            // x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
            let square = graph.node("Mul", &[first, first], Vec::new());
            let inner = o.with_number(graph, "Mul", &square, 0.044_715)?;
            let inner = o.with_number(graph, "Add", &inner, 1.0)?;
            let inner = graph.node("Mul", &[first, &inner], Vec::new());
            let inner = o.with_number(graph, "Mul", &inner, (2.0 / std::f64::consts::PI).sqrt())?;
            let tanh = graph.node("Tanh", &[&inner], Vec::new());
            let above = o.with_number(graph, "Add", &tanh, 1.0)?;
            let product = graph.node("Mul", &[first, &above], Vec::new());
            o.with_number(graph, "Mul", &product, 0.5)
        }
        "leaky_relu" => Ok(graph.node("LeakyRelu", &[first], vec![float("alpha", o.number("slope")?)])),
        "elu" => Ok(graph.node("Elu", &[first], vec![float("alpha", o.number("alpha")?)])),
        "softmax" => Ok(graph.node("Softmax", &[first], vec![int("axis", o.int("dim")?)])),
        "log_softmax" => Ok(graph.node("LogSoftmax", &[first], vec![int("axis", o.int("dim")?)])),
        "cast" => Ok(graph.node("Cast", &[first], vec![int("to", cast_to(o.step.output.dtype()))])),
        "cat" => Ok(graph.node("Concat", &names, vec![int("axis", o.int("dim")?)])),
        "permute" => Ok(graph.node("Transpose", &[first], vec![ints("perm", o.ints("order")?)])),
        "sum" => {
            let dims = graph.ints("dims", o.ints("dims")?)?;
            // No dimensions would mean all to ONNX.
            let attributes = vec![int("keepdims", o.int("keepdim")?), int("noop_with_empty_axes", 1)];
            Ok(graph.node("ReduceSum", &[first, &dims], attributes))
        }
        "mean" => match o.ints("dims")? {
            none if none.is_empty() => Ok(graph.node("Identity", &[first], Vec::new())),
            dims => {
                Ok(graph.node("ReduceMean", &[first], vec![ints("axes", dims), int("keepdims", o.int("keepdim")?)]))
            }
        },
        "slice" => {
            let [starts, ends, axes, steps] = ["start", "end", "dim", "step"].map(|name| o.int(name));
            let starts = graph.ints("starts", vec![starts?])?;
            let ends = graph.ints("ends", vec![ends?])?;
            let axes = graph.ints("axes", vec![axes?])?;
            let steps = graph.ints("steps", vec![steps?])?;
            Ok(graph.node("Slice", &[first, &starts, &ends, &axes, &steps], Vec::new()))
        }
        "select" => {
            let index = graph.scalar("index", Scalar::Int(o.int("index")?), kiln_tensor::DType::I64)?;
            Ok(graph.node("Gather", &[first, &index], vec![int("axis", o.int("dim")?)]))
        }
        "reshape" => o.reshape(graph, first),
        "expand" => o.expand(graph, first),
        "conv2d" => o.conv(graph, &names),
        "conv_transpose2d" => {
            let padding = o.ints("padding")?;
            let attributes = vec![
                ints("strides", o.ints("stride")?),
                ints("pads", [&padding[..], &padding].concat()),
                ints("output_padding", o.ints("output_padding")?),
                ints("dilations", o.ints("dilation")?),
                int("group", o.int("groups")?),
            ];
            Ok(graph.node("ConvTranspose", &names, attributes))
        }
        "max_pool2d" => {
            let mut attributes = o.window()?;
            attributes.push(ints("dilations", o.ints("dilation")?));
            Ok(graph.node("MaxPool", &[first], attributes))
        }
        "avg_pool2d" => {
            let mut attributes = o.window()?;
            attributes.push(int("count_include_pad", o.int("count_include_pad")?));
            Ok(graph.node("AveragePool", &[first], attributes))
        }
        "adaptive_avg_pool2d" => o.adaptive(graph, first, "AveragePool"),
        "adaptive_max_pool2d" => o.adaptive(graph, first, "MaxPool"),
        "batch_norm" => o.batch_norm(graph, &names),
        "layer_norm" => o.layer_norm(graph, &names),
        "pad" => {
            let pads = graph.ints("pads", o.ints("pads")?)?;
            let value = graph.scalar("value", Scalar::Float(o.number("value")?), o.step.output.dtype())?;
            let Some(Attribute::Text(mode)) = o.get("mode") else { return Err(o.wrong("it does not say its mode")) };
            Ok(graph.node("Pad", &[first, &pads, &value], vec![text("mode", mode)]))
        }
        _ => Err(o.wrong("it has no counterpart in the export")),
    }
}

impl Operation<'_> {
    fn wrong(&self, why: &str) -> Error {
        Error::argument("onnx::export", format!("{} ({}): {why}", self.op, self.step.node))
    }

    fn get(&self, name: &str) -> Option<&Attribute> {
        self.step.attributes.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    fn int(&self, name: &str) -> Result<i64> {
        match self.get(name) {
            Some(Attribute::Int(value)) => Ok(*value),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    fn number(&self, name: &str) -> Result<f64> {
        match self.get(name) {
            Some(Attribute::Float(value)) => Ok(*value),
            Some(Attribute::Int(value)) => Ok(*value as f64),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    fn ints(&self, name: &str) -> Result<Vec<i64>> {
        match self.get(name) {
            Some(Attribute::Ints(values)) => Ok(values.clone()),
            _ => Err(self.wrong(&format!("it does not say its {name}"))),
        }
    }

    /// The extents of input `i`.
    fn input(&self, i: usize) -> Result<Vec<Extent>> {
        match (self.step.inputs.get(i), self.twin.inputs.get(i)) {
            (Some(a), Some(b)) => extents(a, b),
            _ => Err(self.wrong("it has too few inputs")),
        }
    }

    fn output(&self) -> Result<Vec<Extent>> {
        extents(&self.step.output, &self.twin.output)
    }

    /// An operator on a value and a number of the result's dtype.
    fn with_number(&self, graph: &mut Graph, operator: &str, value: &str, number: f64) -> Result<String> {
        let number = graph.scalar("number", Scalar::Float(number), self.step.output.dtype())?;
        Ok(graph.node(operator, &[value, &number], Vec::new()))
    }

    fn binary(&self, graph: &mut Graph, operator: &str) -> Result<String> {
        let mut inputs = self.inputs.clone();
        for (side, at) in [("lhs", 0), ("rhs", 1)] {
            let value = match self.get(side) {
                Some(Attribute::Int(value)) => Scalar::Int(*value),
                Some(Attribute::Float(value)) => Scalar::Float(*value),
                _ => continue,
            };
            let number = graph.scalar("number", value, self.step.output.dtype())?;
            inputs.insert(at.min(inputs.len()), number);
        }
        match &inputs[..] {
            [a, b] => Ok(graph.node(operator, &[a, b], Vec::new())),
            _ => Err(self.wrong("it has not two operands")),
        }
    }

    fn with_relu(&self, graph: &mut Graph, value: String) -> Result<String> {
        Ok(if self.int("relu")? == 1 { graph.node("Relu", &[&value], Vec::new()) } else { value })
    }

    fn linear(&self, graph: &mut Graph, names: &[&str]) -> Result<String> {
        let product = graph.node("Gemm", names, vec![int("transB", 1)]);
        self.with_relu(graph, product)
    }

    fn reshape(&self, graph: &mut Graph, input: &str) -> Result<String> {
        let (from, to) = (self.input(0)?, self.output()?);
        if to == from {
            return Ok(graph.node("Identity", &[input], Vec::new()));
        }
        if to.contains(&Extent::Fixed(0)) {
            return Err(self.wrong("tensors without elements are not exported"));
        }
        // One open extent may be worked out from the others; of several, those that stay where they are are copied.
        let mut open = to.iter().filter(|&&e| e == Extent::Open).count();
        let mut shape = Vec::new();
        for (i, extent) in to.iter().enumerate() {
            shape.push(match extent {
                Extent::Fixed(value) => *value as i64,
                Extent::Open if open > 1 && self.stays(i) => {
                    open -= 1;
                    0
                }
                Extent::Open => -1,
            });
        }
        if open > 1 {
            return Err(
                self.wrong("more than one extent depends on the batch size; export with `dynamic_batch(false)`")
            );
        }
        let shape = graph.ints("shape", shape)?;
        Ok(graph.node("Reshape", &[input, &shape], Vec::new()))
    }

    /// Whether dimension `i` has the same extent before and after, for both batch sizes.
    fn stays(&self, i: usize) -> bool {
        let same = |step: &Step| step.inputs.first().and_then(|x| x.dims().get(i)) == step.output.dims().get(i);
        same(self.step) && same(self.twin)
    }

    fn expand(&self, graph: &mut Graph, input: &str) -> Result<String> {
        let (from, to) = (self.input(0)?, self.output()?);
        let lead = to.len() - from.len().min(to.len());
        let mut shape = Vec::new();
        for (i, extent) in to.iter().enumerate() {
            shape.push(match extent {
                Extent::Fixed(value) => *value as i64,
                // 1 keeps the extent.
                Extent::Open if i >= lead && from[i - lead] == Extent::Open => 1,
                Extent::Open => {
                    return Err(
                        self.wrong("it repeats as often as the batch is large; export with `dynamic_batch(false)`")
                    );
                }
            });
        }
        let shape = graph.ints("shape", shape)?;
        Ok(graph.node("Expand", &[input, &shape], Vec::new()))
    }

    fn conv(&self, graph: &mut Graph, names: &[&str]) -> Result<String> {
        let padding = self.ints("padding")?;
        let attributes = vec![
            ints("strides", self.ints("stride")?),
            ints("pads", [&padding[..], &padding].concat()),
            ints("dilations", self.ints("dilation")?),
            int("group", self.int("groups")?),
        ];
        let product = graph.node("Conv", names, attributes);
        self.with_relu(graph, product)
    }

    /// What both kinds of pooling have.
    fn window(&self) -> Result<Vec<super::proto::Attribute>> {
        let padding = self.ints("padding")?;
        Ok(vec![
            ints("kernel_shape", self.ints("kernel")?),
            ints("strides", self.ints("stride")?),
            ints("pads", [&padding[..], &padding].concat()),
            int("ceil_mode", self.int("ceil_mode")?),
        ])
    }

    /// Pooling to a size that divides the input's is pooling with a window; other sizes have windows of several
    /// sizes, which no operator has.
    fn adaptive(&self, graph: &mut Graph, input: &str, operator: &str) -> Result<String> {
        let (from, to) = (self.input(0)?, self.output()?);
        let mut kernel = Vec::new();
        for (from, to) in from.iter().zip(&to).skip(from.len().saturating_sub(2)) {
            match (from, to) {
                (Extent::Fixed(from), Extent::Fixed(to)) if *to > 0 && from.is_multiple_of(*to) => kernel.push((from / to) as i64),
                _ => return Err(self.wrong(&format!("{from:?} to {to:?} is no pooling with one window; give inputs of a size that is a multiple of the output's"))),
            }
        }
        if kernel.iter().all(|&k| k == 1) {
            return Ok(graph.node("Identity", &[input], Vec::new()));
        }
        Ok(graph.node(operator, &[input], vec![ints("kernel_shape", kernel.clone()), ints("strides", kernel)]))
    }

    /// Scale and shift of a normalisation: those among the inputs from `at` on, or ones and zeros like `like`.
    fn affine(&self, graph: &mut Graph, names: &[&str], at: usize, like: &Tensor) -> Result<[String; 2]> {
        let mut given = names.iter().skip(at);
        let mut next = |graph: &mut Graph, name: &str, value: f64| -> Result<String> {
            if self.int(name)? == 1 {
                return given.next().map(|&name| name.to_owned()).ok_or_else(|| self.wrong("it has too few inputs"));
            }
            Ok(graph.constant(name, Tensor::full(like.shape(), value, like.options())?))
        };
        Ok([next(graph, "weight", 1.0)?, next(graph, "bias", 0.0)?])
    }

    /// Inputs: x, mean, variance, and weight and bias if it has them.
    fn batch_norm(&self, graph: &mut Graph, names: &[&str]) -> Result<String> {
        let ([x, mean, variance, ..], Some(statistics)) = (names, self.step.inputs.get(1)) else {
            return Err(self.wrong("it has not the running statistics among its inputs"));
        };
        let [weight, bias] = self.affine(graph, names, 3, statistics)?;
        let attributes = vec![float("epsilon", self.number("eps")?)];
        Ok(graph.node("BatchNormalization", &[x, &weight, &bias, mean, variance], attributes))
    }

    /// Of rows. Inputs: x, and weight and bias if it has them.
    fn layer_norm(&self, graph: &mut Graph, names: &[&str]) -> Result<String> {
        let row = match (self.step.inputs.first(), self.input(0)?[..].last()) {
            (Some(x), Some(Extent::Fixed(width))) => Tensor::zeros([*width], x.options())?,
            _ => return Err(self.wrong("the rows have no fixed length")),
        };
        let [weight, bias] = self.affine(graph, names, 1, &row)?;
        let attributes = vec![int("axis", -1), float("epsilon", self.number("eps")?)];
        Ok(graph.node("LayerNormalization", &[names[0], &weight, &bias], attributes))
    }
}
