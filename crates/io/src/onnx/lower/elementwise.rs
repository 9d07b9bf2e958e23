//! Lowering of element-wise functions, arithmetic, comparisons, where_cond and matmul.

use kiln_tensor::{DType, Result, Scalar};

use crate::onnx::{
    graph::{Graph, float, int},
    operation::Operation,
};

/// Functions that map to a single operator without attributes.
const SAME: &[(&str, &str)] = &[
    ("abs", "Abs"),
    ("acos", "Acos"),
    ("acosh", "Acosh"),
    ("asin", "Asin"),
    ("asinh", "Asinh"),
    ("atan", "Atan"),
    ("atanh", "Atanh"),
    ("ceil", "Ceil"),
    ("cos", "Cos"),
    ("cosh", "Cosh"),
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
    ("softsign", "Softsign"),
    ("sqrt", "Sqrt"),
    ("tan", "Tan"),
    ("tanh", "Tanh"),
];

/// Operations on two tensors, or on a tensor and a number.
const BINARY: &[(&str, &str)] = &[
    ("add", "Add"),
    ("sub", "Sub"),
    ("mul", "Mul"),
    ("div", "Div"),
    ("pow", "Pow"),
    ("maximum", "Max"),
    ("minimum", "Min"),
];

const COMPARISONS: &[(&str, &str)] = &[
    ("eq", "Equal"),
    ("ne", "Equal"),
    ("lt", "Less"),
    ("le", "LessOrEqual"),
    ("gt", "Greater"),
    ("ge", "GreaterOrEqual"),
];

const BITWISE: &[(&str, &str)] = &[("bitwise_and", "And"), ("bitwise_or", "Or"), ("bitwise_xor", "Xor")];

fn find(table: &[(&str, &'static str)], op: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| *name == op).map(|(_, onnx)| *onnx)
}

pub(super) fn lower(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    if let Some(operator) = find(SAME, o.op) {
        let names: Vec<&str> = o.inputs.iter().map(String::as_str).collect();
        // ONNX Runtime lacks these for some integers: they are computed in floats, or in `i32`.
        let narrow = matches!(o.op, "abs" | "neg" | "sign" | "relu") && matches!(o.dtype(), DType::U8);
        if narrow || o.op == "relu" && o.dtype() == DType::I64 {
            let wide = graph.cast(o.name(0)?, if narrow { DType::I32 } else { DType::F64 });
            let wide = graph.node(operator, &[&wide], Vec::new());
            return Ok(Some(graph.cast(&wide, o.dtype())));
        }
        return Ok(Some(graph.node(operator, &names, Vec::new())));
    }
    if let Some(operator) = find(BINARY, o.op) {
        return arithmetic(graph, o, operator).map(Some);
    }
    if let Some(operator) = find(COMPARISONS, o.op) {
        return comparison(graph, o, operator).map(Some);
    }
    if let Some(operator) = find(BITWISE, o.op) {
        if o.input_dtype(0) != DType::Bool {
            return Err(o.wrong("bitwise operations on integers are not in operator set 17; compare first"));
        }
        let [a, b] = operands(graph, o, DType::Bool)?;
        return Ok(Some(graph.node(operator, &[&a, &b], Vec::new())));
    }
    match o.op {
        "leaky_relu" => Ok(Some(graph.node("LeakyRelu", &[o.name(0)?], vec![float("alpha", o.number("slope")?)]))),
        "elu" => Ok(Some(graph.node("Elu", &[o.name(0)?], vec![float("alpha", o.number("alpha")?)]))),
        "cast" => Ok(Some(graph.cast(o.name(0)?, o.dtype()))),
        "remainder" => remainder(graph, o).map(Some),
        "fmod" => fmod(graph, o).map(Some),
        "floor_divide" | "trunc_divide" => quotient(graph, o).map(Some),
        "atan2" => atan2(graph, o).map(Some),
        "where_cond" => choice(graph, o).map(Some),
        _ => composed(graph, o),
    }
}

/// Functions of one tensor that are composed of several operators.
fn composed(graph: &mut Graph, o: &Operation<'_>) -> Result<Option<String>> {
    let Some(x) = o.inputs.first().map(String::as_str) else { return Ok(None) };
    let one = |graph: &mut Graph, operator: &str, x: &str| graph.node(operator, &[x], Vec::new());
    Ok(Some(match o.op {
        "square" => graph.node("Mul", &[x, x], Vec::new()),
        "rsqrt" => {
            let root = one(graph, "Sqrt", x);
            one(graph, "Reciprocal", &root)
        }
        "exp2" => {
            let scaled = o.with_number(graph, "Mul", x, std::f64::consts::LN_2)?;
            one(graph, "Exp", &scaled)
        }
        "expm1" => {
            let exp = one(graph, "Exp", x);
            o.with_number(graph, "Sub", &exp, 1.0)?
        }
        "log2" | "log10" => {
            let log = one(graph, "Log", x);
            let base = if o.op == "log2" { std::f64::consts::LN_2 } else { std::f64::consts::LN_10 };
            o.with_number(graph, "Div", &log, base)?
        }
        "log1p" => {
            let above = o.with_number(graph, "Add", x, 1.0)?;
            one(graph, "Log", &above)
        }
        "erfc" => {
            let erf = one(graph, "Erf", x);
            let minus = one(graph, "Neg", &erf);
            o.with_number(graph, "Add", &minus, 1.0)?
        }
        "trunc" => {
            let size = one(graph, "Abs", x);
            let size = one(graph, "Floor", &size);
            let sign = one(graph, "Sign", x);
            graph.node("Mul", &[&size, &sign], Vec::new())
        }
        "silu" => {
            let gate = one(graph, "Sigmoid", x);
            graph.node("Mul", &[x, &gate], Vec::new())
        }
        "relu6" => {
            let [low, high] = [0, 6].map(|bound| graph.scalar("number", Scalar::Int(bound), o.dtype()));
            graph.node("Clip", &[x, &low?, &high?], Vec::new())
        }
        "selu" => {
            let (scale, slope) = (1.050_700_987_355_480_5, 1.673_263_242_354_377_2);
            graph.node("Selu", &[x], vec![float("alpha", slope), float("gamma", scale)])
        }
        "hardsigmoid" => hardsigmoid(graph, x),
        "hardswish" => {
            let gate = hardsigmoid(graph, x);
            graph.node("Mul", &[x, &gate], Vec::new())
        }
        "tanhshrink" => {
            let inner = one(graph, "Tanh", x);
            graph.node("Sub", &[x, &inner], Vec::new())
        }
        "mish" => {
            let inner = one(graph, "Softplus", x);
            let inner = one(graph, "Tanh", &inner);
            graph.node("Mul", &[x, &inner], Vec::new())
        }
        "log_sigmoid" => {
            let inner = one(graph, "Neg", x);
            let inner = one(graph, "Softplus", &inner);
            one(graph, "Neg", &inner)
        }
        "gelu" => {
            // x/2 (1 + erf(x/√2)); the Gelu operator is in later operator sets only.
            let scaled = o.with_number(graph, "Mul", x, std::f64::consts::FRAC_1_SQRT_2)?;
            let erf = one(graph, "Erf", &scaled);
            half_times(graph, o, x, &erf)?
        }
        "gelu_tanh" => {
            // x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
            let square = graph.node("Mul", &[x, x], Vec::new());
            let inner = o.with_number(graph, "Mul", &square, 0.044_715)?;
            let inner = o.with_number(graph, "Add", &inner, 1.0)?;
            let inner = graph.node("Mul", &[x, &inner], Vec::new());
            let inner = o.with_number(graph, "Mul", &inner, (2.0 / std::f64::consts::PI).sqrt())?;
            let tanh = one(graph, "Tanh", &inner);
            half_times(graph, o, x, &tanh)?
        }
        _ => return Ok(None),
    }))
}

/// `x/2 (1 + y)`.
fn half_times(graph: &mut Graph, o: &Operation<'_>, x: &str, y: &str) -> Result<String> {
    let above = o.with_number(graph, "Add", y, 1.0)?;
    let product = graph.node("Mul", &[x, &above], Vec::new());
    o.with_number(graph, "Mul", &product, 0.5)
}

/// `min(max(x + 3, 0), 6) / 6`.
fn hardsigmoid(graph: &mut Graph, x: &str) -> String {
    graph.node("HardSigmoid", &[x], vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)])
}

/// The two operands; numbers become tensors of this dtype.
fn operands(graph: &mut Graph, o: &Operation<'_>, dtype: DType) -> Result<[String; 2]> {
    let mut inputs = o.inputs.clone();
    for (side, at) in [("lhs", 0), ("rhs", 1)] {
        if let Some(value) = o.scalar(side) {
            let number = graph.scalar("number", value, dtype)?;
            inputs.insert(at.min(inputs.len()), number);
        }
    }
    <[String; 2]>::try_from(inputs).map_err(|_| o.wrong("it does not have two operands"))
}

/// Both operands, converted to another dtype.
fn widened(graph: &mut Graph, o: &Operation<'_>, from: DType, to: DType) -> Result<[String; 2]> {
    let [a, b] = operands(graph, o, from)?;
    Ok([o.cast(graph, &a, from, to), o.cast(graph, &b, from, to)])
}

fn arithmetic(graph: &mut Graph, o: &Operation<'_>, operator: &str) -> Result<String> {
    // ONNX Runtime has no arithmetic on `u8`.
    let wide = if o.dtype() == DType::U8 { DType::I32 } else { o.dtype() };
    let [a, b] = widened(graph, o, o.dtype(), wide)?;
    let out = graph.node(operator, &[&a, &b], Vec::new());
    Ok(o.cast(graph, &out, wide, o.dtype()))
}

fn comparison(graph: &mut Graph, o: &Operation<'_>, operator: &str) -> Result<String> {
    let dtype = o.input_dtype(0);
    let wide = match dtype {
        DType::U8 | DType::Bool => DType::I32,
        other => other.accumulator(),
    };
    let [a, b] = widened(graph, o, dtype, wide)?;
    let out = graph.node(operator, &[&a, &b], Vec::new());
    Ok(if o.op == "ne" { graph.node("Not", &[&out], Vec::new()) } else { out })
}

/// Python's `%`: `a - b floor(a / b)` for floats.
fn remainder(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dtype = o.dtype();
    let [a, b] = operands(graph, o, dtype)?;
    if !dtype.is_float() {
        return Ok(graph.node("Mod", &[&a, &b], Vec::new()));
    }
    let quotient = graph.node("Div", &[&a, &b], Vec::new());
    let quotient = graph.node("Floor", &[&quotient], Vec::new());
    let product = graph.node("Mul", &[&b, &quotient], Vec::new());
    Ok(graph.node("Sub", &[&a, &product], Vec::new()))
}

/// C's `fmod`.
fn fmod(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dtype = o.dtype();
    let wide = if dtype == DType::U8 { DType::I32 } else { dtype };
    let [a, b] = widened(graph, o, dtype, wide)?;
    let out = graph.node("Mod", &[&a, &b], vec![int("fmod", 1)]);
    Ok(o.cast(graph, &out, wide, dtype))
}

/// The quotient, rounded down or toward 0, as ONNX divides integers.
fn quotient(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let (dtype, rounds_down) = (o.dtype(), o.op == "floor_divide");
    let wide = if dtype == DType::U8 { DType::I32 } else { dtype };
    let [a, b] = widened(graph, o, dtype, wide)?;
    if dtype.is_float() {
        let out = graph.node("Div", &[&a, &b], Vec::new());
        if rounds_down {
            return Ok(graph.node("Floor", &[&out], Vec::new()));
        }
        let size = graph.node("Abs", &[&out], Vec::new());
        let size = graph.node("Floor", &[&size], Vec::new());
        let sign = graph.node("Sign", &[&out], Vec::new());
        return Ok(graph.node("Mul", &[&size, &sign], Vec::new()));
    }
    let dividend = if rounds_down {
        // Without the remainder, which has the divisor's sign, the division is exact.
        let rest = graph.node("Mod", &[&a, &b], Vec::new());
        graph.node("Sub", &[&a, &rest], Vec::new())
    } else {
        a
    };
    let out = graph.node("Div", &[&dividend, &b], Vec::new());
    Ok(o.cast(graph, &out, wide, dtype))
}

/// The arc tangent of the quotient, shifted by π where the divisor is negative.
fn atan2(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dtype = o.dtype();
    let [a, b] = operands(graph, o, dtype)?;
    let number = |graph: &mut Graph, value: f64| graph.scalar("number", Scalar::Float(value), dtype);
    let (zero, pi) = (number(graph, 0.0)?, number(graph, std::f64::consts::PI)?);
    let (minus_pi, quarter) = (number(graph, -std::f64::consts::PI)?, number(graph, std::f64::consts::FRAC_PI_2)?);
    let quotient = graph.node("Div", &[&a, &b], Vec::new());
    let angle = graph.node("Atan", &[&quotient], Vec::new());
    let below = graph.node("Less", &[&a, &zero], Vec::new());
    let turn = graph.node("Where", &[&below, &minus_pi, &pi], Vec::new());
    let turned = graph.node("Add", &[&angle, &turn], Vec::new());
    let sign = graph.node("Sign", &[&a], Vec::new());
    let upright = graph.node("Mul", &[&sign, &quarter], Vec::new());
    let is_left = graph.node("Less", &[&b, &zero], Vec::new());
    let is_right = graph.node("Greater", &[&b, &zero], Vec::new());
    let elsewhere = graph.node("Where", &[&is_left, &turned, &upright], Vec::new());
    Ok(graph.node("Where", &[&is_right, &angle, &elsewhere], Vec::new()))
}

/// `where_cond`. Inputs: the condition, and the values that are tensors.
fn choice(graph: &mut Graph, o: &Operation<'_>) -> Result<String> {
    let dtype = o.dtype();
    // ONNX Runtime's `Where` supports `u8`, not bool.
    let wide = if dtype == DType::Bool { DType::U8 } else { dtype };
    let mut values: Vec<String> = o.inputs.iter().skip(1).cloned().collect();
    for (side, at) in [("lhs", 0), ("rhs", 1)] {
        if let Some(value) = o.scalar(side) {
            let number = graph.scalar("number", value, dtype)?;
            values.insert(at.min(values.len()), number);
        }
    }
    let [a, b] = &values[..] else { return Err(o.wrong("it does not have two values")) };
    let (a, b) = (o.cast(graph, a, dtype, wide), o.cast(graph, b, dtype, wide));
    let out = graph.node("Where", &[o.name(0)?, &a, &b], Vec::new());
    Ok(o.cast(graph, &out, wide, dtype))
}
