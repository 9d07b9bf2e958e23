//! Execution plans as text (`CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION`), in the format of cuDNN 9.26: written for
//! plans of the simulator, and read from the simulator's or the real library's.
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::attributes::{Kind, Record, types};
use super::finalize;
use super::operation::operands;
use super::status::{DnnStatus, Refusal, bad, unsupported};
use crate::profile::Profile;

/// The value that `cudnnGetVersion` returns.
pub const VERSION: usize = 92_600;
const SCHEMA: i64 = 4;

/// Names in the library's enums, with their types and numbers.
const NAMES: [(&str, u32, i64); 21] = [
    ("CUDNN_DATA_FLOAT", types::DATA_TYPE, 0),
    ("CUDNN_DATA_DOUBLE", types::DATA_TYPE, 1),
    ("CUDNN_DATA_HALF", types::DATA_TYPE, 2),
    ("CUDNN_DATA_INT32", types::DATA_TYPE, 4),
    ("CUDNN_DATA_BFLOAT16", types::DATA_TYPE, 9),
    ("CUDNN_DATA_BOOLEAN", types::DATA_TYPE, 11),
    ("CUDNN_POINTWISE_ADD", types::POINTWISE_MODE, 0),
    ("CUDNN_POINTWISE_MUL", types::POINTWISE_MODE, 1),
    ("CUDNN_POINTWISE_DIV", types::POINTWISE_MODE, 6),
    ("CUDNN_POINTWISE_SUB", types::POINTWISE_MODE, 9),
    ("CUDNN_POINTWISE_EXP", types::POINTWISE_MODE, 13),
    ("CUDNN_POINTWISE_LOG", types::POINTWISE_MODE, 15),
    ("CUDNN_POINTWISE_IDENTITY", types::POINTWISE_MODE, 21),
    ("CUDNN_POINTWISE_RELU_FWD", types::POINTWISE_MODE, 100),
    ("CUDNN_POINTWISE_CMP_GE", types::POINTWISE_MODE, 303),
    ("CUDNN_POINTWISE_GEN_INDEX", types::POINTWISE_MODE, 501),
    ("CUDNN_POINTWISE_BINARY_SELECT", types::POINTWISE_MODE, 601),
    ("CUDNN_REDUCE_TENSOR_ADD", types::REDUCTION_OPERATOR_TYPE, 0),
    ("CUDNN_REDUCE_TENSOR_MAX", types::REDUCTION_OPERATOR_TYPE, 3),
    ("CUDNN_CONVOLUTION", types::CONVOLUTION_MODE, 0),
    ("CUDNN_CROSS_CORRELATION", types::CONVOLUTION_MODE, 1),
];

/// Operations, with the attributes of their rules.
const OPERATIONS: [(Kind, Option<u32>); 7] = [
    (Kind::Forward, Some(702)),
    (Kind::BackwardData, Some(708)),
    (Kind::BackwardFilter, Some(714)),
    (Kind::PointwiseOperation, Some(750)),
    (Kind::ReductionOperation, Some(1612)),
    (Kind::ProductOperation, Some(1523)),
    (Kind::ReshapeOperation, None),
];

/// The members that describe a descriptor, with their attributes. The object of an operation has its rule's as well.
fn members(kind: Kind) -> &'static [(&'static str, u32)] {
    match kind {
        Kind::Tensor => &[
            ("dataType", 901),
            ("dim", 902),
            ("stride", 903),
            ("isVirtual", 907),
            ("isByValue", 908),
            ("ptrAlignment", 900),
        ],
        Kind::Forward => &[("X", 704), ("W", 703), ("Y", 705), ("alpha", 700), ("beta", 701)],
        Kind::BackwardData => &[("dX", 710), ("W", 709), ("dY", 711), ("alpha", 706), ("beta", 707)],
        Kind::BackwardFilter => &[("X", 716), ("dW", 715), ("dY", 717), ("alpha", 712), ("beta", 713)],
        Kind::PointwiseOperation => &[("X", 751), ("Y", 753), ("B", 752), ("T", 758)],
        Kind::ReductionOperation => &[("X", 1610), ("Y", 1611)],
        Kind::ProductOperation => &[("matA", 1520), ("matB", 1521), ("matC", 1522)],
        Kind::ReshapeOperation => &[("X", 2200), ("Y", 2201)],
        Kind::Convolution => {
            &[("mode", 101), ("mathPrec", 100), ("pad", 104), ("pad", 105), ("stride", 103), ("dilation", 102)]
        }
        Kind::Pointwise => &[("pointwiseMode", 0), ("mathPrec", 1), ("axis", 9)],
        Kind::Reduction => &[("reductionOp", 1600), ("mathPrec", 1601)],
        Kind::Product => &[("mathPrec", 1500)],
        _ => &[],
    }
}

/// The device of a plan: its compute capability, e.g. 900, and its number of multiprocessors.
pub fn device(plan: &Record, profile: &Profile) -> (i64, i64) {
    let own = (i64::from(profile.arch) * 10, profile.processors().into());
    let Some(properties) = plan.parts(407).first() else { return own };
    let described = parse(properties.numbers(2702)).ok();
    described.and_then(|of| Some((of["deviceVer"].as_i64()?, of["multiProcessorCount"].as_i64()?))).unwrap_or(own)
}

fn parse(text: &[i64]) -> Result<Value, Refusal> {
    let bytes: Vec<u8> = text.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    let value: Option<Value> = serde_json::from_slice(&bytes).ok();
    value.filter(Value::is_object).ok_or(bad("the text of a plan is no JSON object"))
}

fn title(operation: Kind) -> String {
    format!("CUDNN_BACKEND_{}", operation.row().1)
}

/// A tensor's name: its unique number.
fn name(tensor: &Record) -> String {
    tensor.uid().unwrap_or(0).to_string()
}

/// A value of an attribute of this type.
fn to_json(kind: u32, value: i64) -> Result<Value, Refusal> {
    Ok(match kind {
        types::INT64 => value.into(),
        types::BOOLEAN => (value != 0).into(),
        types::FLOAT => f64::from_bits(value as u64).into(),
        _ => match NAMES.iter().find(|(_, of, number)| (*of, *number) == (kind, value)) {
            Some((name, ..)) => (*name).into(),
            None => return Err(unsupported("a number that the text of plans has no name for here")),
        },
    })
}

fn of_json(kind: u32, value: &Value) -> Result<i64, Refusal> {
    let number = match kind {
        types::INT64 => value.as_i64(),
        types::BOOLEAN => value.as_bool().map(i64::from),
        types::FLOAT => value.as_f64().map(|value| value.to_bits() as i64),
        _ => NAMES.iter().find(|(name, of, _)| *of == kind && value == name).map(|(.., number)| *number),
    };
    number.ok_or(unsupported("a value of another type, or a name that the simulator does not know"))
}

/// The members of a descriptor whose attributes are set.
fn object(record: &Record) -> Result<Map<String, Value>, Refusal> {
    let mut object = Map::new();
    for &(member, attribute) in members(record.kind) {
        let Some(&(_, _, kind, _, most, _)) = record.row(attribute) else { continue };
        let values = record.numbers(attribute).iter().map(|value| to_json(kind, *value));
        let names = record.parts(attribute).iter().map(|tensor| Ok(name(tensor).into()));
        let mut values: Vec<Value> = values.chain(names).collect::<Result<_, _>>()?;
        let value = if most > 1 { Some(values.into()) } else { values.pop() };
        let old = object.get(member).cloned();
        if old.is_some() && old != value {
            return Err(unsupported("the text of plans has one padding for both sides"));
        }
        object.extend(value.map(|value| (member.to_string(), value)));
    }
    Ok(object)
}

/// The descriptor that an object describes.
fn record(kind: Kind, object: &Value, tensors: &[Arc<Record>]) -> Result<Record, Refusal> {
    let mut record = Record::new(kind);
    for &(member, attribute) in members(kind) {
        let (Some(value), Some(&(_, _, kind, ..))) = (object.get(member), record.row(attribute)) else { continue };
        if kind == types::DESCRIPTOR {
            let tensor = tensors.iter().find(|tensor| *value == name(tensor)).ok_or(bad("no tensor of this name"))?;
            record.put_parts(attribute, vec![tensor.clone()]);
        } else {
            let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            record.put(attribute, values.iter().map(|value| of_json(kind, value)).collect::<Result<_, _>>()?);
        }
    }
    Ok(record)
}

/// The text of a finalized plan.
pub fn write(plan: &Record, (version, processors): (i64, i64)) -> Result<Vec<i64>, Refusal> {
    let engine = plan.part(401)?.part(300)?;
    let (mut tensors, mut nodes) = (Map::new(), Vec::new());
    for operation in engine.part(1300)?.parts(801) {
        let Some((kind, rule)) = OPERATIONS.iter().find(|(kind, _)| *kind == operation.kind) else {
            return Err(unsupported("an operation that the text of plans has no form for here"));
        };
        let mut node = object(operation)?;
        if let Some(rule) = rule {
            node.extend(object(operation.part(*rule)?)?);
        }
        node.insert("operation".into(), title(*kind).into());
        nodes.push(node);
        let (reads, target) = operands(operation);
        for tensor in reads.into_iter().chain([target]).flat_map(|attribute| operation.parts(attribute)) {
            let mut whole = object(tensor)?;
            whole.insert("name".into(), name(tensor).into());
            tensors.insert(name(tensor), whole.into());
        }
    }
    let text = json!({
        "cudnnVersion": VERSION,
        "schemaVersion": SCHEMA,
        "operationGraph": {"tensors": tensors.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>(), "nodes": nodes},
        "GPUProfile": {"deviceVer": version, "multiProcessorCount": processors},
        "engine": {"engineId": engine.number(1301, 0), "smVersion": version, "knobChoices": {}},
    });
    Ok(text.to_string().bytes().map(i64::from).collect())
}

/// A descriptor that passed the checks of finalization.
fn finalized(mut record: Record) -> Result<Arc<Record>, Refusal> {
    finalize::check(&record)?;
    record.finalized = true;
    Ok(Arc::new(record))
}

/// The graph and the engine number of a plan, if its text is for this version and this device.
pub fn read(text: &[i64], device: (i64, i64)) -> Result<(Arc<Record>, i64), Refusal> {
    let whole = parse(text)?;
    let integer = |path: &str| whole.pointer(path).and_then(Value::as_i64).ok_or(bad("no whole number"));
    let list = |path: &str| whole.pointer(path).and_then(Value::as_array).ok_or(bad("no list"));
    if integer("/cudnnVersion")? != VERSION as i64 {
        return Err(Refusal(DnnStatus::VERSION_MISMATCH, "a plan of another version of the library"));
    }
    if integer("/schemaVersion")? != SCHEMA {
        return Err(Refusal(DnnStatus::SERIALIZATION_MISMATCH, "a plan of another form"));
    }
    let (mut tensors, mut nodes) = (Vec::new(), Vec::new());
    for object in list("/operationGraph/tensors")? {
        let mut tensor = record(Kind::Tensor, object, &[])?;
        let uid = object["name"].as_str().and_then(|name| name.parse().ok());
        tensor.put(906, vec![uid.ok_or(bad("a tensor without a number"))?]);
        tensors.push(finalized(tensor)?);
    }
    for object in list("/operationGraph/nodes")? {
        let Some((kind, to_rule)) = OPERATIONS.iter().find(|(kind, _)| object["operation"] == title(*kind)) else {
            return Err(unsupported("an operation that the simulator does not know"));
        };
        let mut node = record(*kind, object, &tensors)?;
        if let Some(to_rule) = *to_rule {
            let mut rule = record(node.kinds_in(to_rule)[0], object, &[])?;
            if rule.kind == Kind::Convolution {
                rule.put(106, vec![rule.numbers(105).len() as i64]);
            }
            node.put_parts(to_rule, vec![finalized(rule)?]);
        }
        nodes.push(finalized(node)?);
    }
    if (integer("/GPUProfile/deviceVer")?, integer("/GPUProfile/multiProcessorCount")?) != device {
        return Err(Refusal(DnnStatus::ARCH_MISMATCH, "a plan of another device"));
    }
    let mut graph = Record::new(Kind::Graph);
    graph.put_parts(801, nodes);
    Ok((finalized(graph)?, integer("/engine/engineId")?))
}
