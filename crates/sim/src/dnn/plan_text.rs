//! Execution plans as text (`CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION`), in the format of cuDNN 9.26: written for
//! plans of the simulator, and read from the simulator's or the real library's.
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::attributes::{Kind, Record};
use super::direction::convolution_attributes;
use super::finalize;
use super::status::{DnnStatus, Refusal, bad, unsupported};
use crate::profile::Profile;

/// The value that `cudnnGetVersion` returns.
pub const VERSION: usize = 92_600;
const SCHEMA: i64 = 4;

/// The names of `cudnnDataType_t`, `cudnnPointwiseMode_t` and `cudnnConvolutionMode_t`.
const DATA_TYPES: &[(&str, i64)] =
    &[("CUDNN_DATA_FLOAT", 0), ("CUDNN_DATA_DOUBLE", 1), ("CUDNN_DATA_HALF", 2), ("CUDNN_DATA_BFLOAT16", 9)];
const POINTWISE_MODES: &[(&str, i64)] = &[("CUDNN_POINTWISE_ADD", 0), ("CUDNN_POINTWISE_RELU_FWD", 100)];
const CONVOLUTION_MODES: &[(&str, i64)] = &[("CUDNN_CONVOLUTION", 0), ("CUDNN_CROSS_CORRELATION", 1)];

/// An operation: its name, the names and attributes of its tensors, and the attribute of its rule.
type Node = (Kind, &'static str, &'static [(&'static str, u32)], u32);

const NODES: [Node; 4] = [
    (Kind::Forward, "CONVOLUTION_FORWARD", &[("X", 704), ("W", 703), ("Y", 705)], 702),
    (Kind::BackwardData, "CONVOLUTION_BACKWARD_DATA", &[("dX", 710), ("W", 709), ("dY", 711)], 708),
    (Kind::BackwardFilter, "CONVOLUTION_BACKWARD_FILTER", &[("X", 716), ("dW", 715), ("dY", 717)], 714),
    (Kind::PointwiseOperation, "POINTWISE", &[("X", 751), ("Y", 753), ("B", 752)], 750),
];

fn title(name: &str) -> String {
    format!("CUDNN_BACKEND_OPERATION_{name}_DESCRIPTOR")
}

fn name_of(names: &[(&'static str, i64)], number: i64) -> Result<&'static str, Refusal> {
    let found = names.iter().find(|(_, known)| *known == number);
    found.map(|(name, _)| *name).ok_or(unsupported("a number that the text of plans has no name for here"))
}

fn number_of(names: &[(&'static str, i64)], name: &Value) -> Result<i64, Refusal> {
    let found = names.iter().find(|(known, _)| name == known);
    found.map(|(_, number)| *number).ok_or(unsupported("a name that the simulator does not know"))
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

/// The text of a finalized plan.
pub fn write(plan: &Record, (version, processors): (i64, i64)) -> Result<Vec<i64>, Refusal> {
    let engine = plan.part(401)?.part(300)?;
    let graph = engine.part(1300)?;
    let mut tensors: Map<String, Value> = Map::new();
    let mut nodes = Vec::new();
    for operation in graph.parts(801) {
        let (_, name, operands, rule) = NODES
            .iter()
            .find(|(kind, ..)| *kind == operation.kind)
            .ok_or(unsupported("an operation that the text of plans has no form for here"))?;
        let mut node = json!({"operation": title(name)});
        for (operand, attribute) in *operands {
            let Some(tensor) = operation.parts(*attribute).first() else { continue };
            let uid = tensor.number(906, 0).to_string();
            node[operand] = uid.clone().into();
            let whole = json!({
                "name": uid,
                "dataType": name_of(DATA_TYPES, tensor.number(901, 0))?,
                "dim": tensor.numbers(902),
                "stride": tensor.numbers(903),
                "isVirtual": tensor.number(907, 0) != 0,
                "ptrAlignment": tensor.number(900, 1),
            });
            tensors.insert(uid, whole);
        }
        let rule = operation.part(*rule)?;
        if let Some((_, [.., alpha, beta])) = convolution_attributes(operation.kind) {
            if rule.numbers(104) != rule.numbers(105) {
                return Err(unsupported("the text of plans has one padding for both sides"));
            }
            node["mode"] = name_of(CONVOLUTION_MODES, rule.number(101, 0))?.into();
            node["mathPrec"] = name_of(DATA_TYPES, rule.number(100, 0))?.into();
            node["alpha"] = operation.float(alpha, 1.0).into();
            node["beta"] = operation.float(beta, 0.0).into();
            for (name, attribute) in [("pad", 105), ("stride", 103), ("dilation", 102)] {
                node[name] = rule.numbers(attribute).into();
            }
        } else {
            node["pointwiseMode"] = name_of(POINTWISE_MODES, rule.number(0, 0))?.into();
            node["mathPrec"] = name_of(DATA_TYPES, rule.number(1, 0))?.into();
        }
        nodes.push(node);
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

fn member<'a>(of: &'a Value, name: &str) -> Result<&'a Value, Refusal> {
    of.get(name).ok_or(bad("the text of a plan lacks a member"))
}

fn list<'a>(of: &'a Value, name: &str) -> Result<&'a Vec<Value>, Refusal> {
    member(of, name)?.as_array().ok_or(bad("a member of the text of a plan is no list"))
}

fn integers(of: &Value, name: &str) -> Result<Vec<i64>, Refusal> {
    list(of, name)?.iter().map(|value| value.as_i64().ok_or(bad("no whole number"))).collect()
}

fn integer(of: &Value, name: &str) -> Result<i64, Refusal> {
    member(of, name)?.as_i64().ok_or(bad("no whole number"))
}

/// A descriptor that passed the checks of finalization.
fn finalized(mut record: Record) -> Result<Arc<Record>, Refusal> {
    finalize::check(&record)?;
    record.finalized = true;
    Ok(Arc::new(record))
}

fn tensor(of: &Value) -> Result<(&Value, Arc<Record>), Refusal> {
    let name = member(of, "name")?;
    let uid = name.as_str().and_then(|name| name.parse().ok()).ok_or(bad("a tensor without a number"))?;
    let mut record = Record::new(Kind::Tensor);
    record.put(906, vec![uid]);
    record.put(901, vec![number_of(DATA_TYPES, member(of, "dataType")?)?]);
    record.put(902, integers(of, "dim")?);
    record.put(903, integers(of, "stride")?);
    record.put(900, vec![integer(of, "ptrAlignment")?]);
    record.put(907, vec![(member(of, "isVirtual")? == true).into()]);
    Ok((name, finalized(record)?))
}

fn node(of: &Value, tensors: &[(&Value, Arc<Record>)]) -> Result<Arc<Record>, Refusal> {
    let name = member(of, "operation")?;
    let (kind, _, operands, to_rule) = NODES
        .iter()
        .find(|(_, known, ..)| *name == title(known))
        .ok_or(unsupported("an operation that the simulator does not know"))?;
    let mut record = Record::new(*kind);
    for (operand, attribute) in *operands {
        let Some(uid) = of.get(*operand) else { continue };
        let tensor = tensors.iter().find(|(name, _)| *name == uid).ok_or(bad("no tensor of this name"))?;
        record.put_parts(*attribute, vec![tensor.1.clone()]);
    }
    let precision = number_of(DATA_TYPES, member(of, "mathPrec")?)?;
    let rule = if let Some((_, [.., alpha, beta])) = convolution_attributes(*kind) {
        let mut rule = Record::new(Kind::Convolution);
        rule.put(100, vec![precision]);
        rule.put(101, vec![number_of(CONVOLUTION_MODES, member(of, "mode")?)?]);
        let pad = integers(of, "pad")?;
        rule.put(106, vec![pad.len() as i64]);
        rule.put(104, pad.clone());
        rule.put(105, pad);
        rule.put(103, integers(of, "stride")?);
        rule.put(102, integers(of, "dilation")?);
        for (name, attribute) in [("alpha", alpha), ("beta", beta)] {
            let value = member(of, name)?.as_f64().ok_or(bad("no number"))?;
            record.put(attribute, vec![value.to_bits() as i64]);
        }
        rule
    } else {
        let mut rule = Record::new(Kind::Pointwise);
        rule.put(0, vec![number_of(POINTWISE_MODES, member(of, "pointwiseMode")?)?]);
        rule.put(1, vec![precision]);
        rule
    };
    record.put_parts(*to_rule, vec![finalized(rule)?]);
    finalized(record)
}

/// The graph and the engine number of a plan, if its text is for this version and this device.
pub fn read(text: &[i64], device: (i64, i64)) -> Result<(Arc<Record>, i64), Refusal> {
    let whole = parse(text)?;
    if integer(&whole, "cudnnVersion")? != VERSION as i64 {
        return Err(Refusal(DnnStatus::VERSION_MISMATCH, "a plan of another version of the library"));
    }
    if integer(&whole, "schemaVersion")? != SCHEMA {
        return Err(Refusal(DnnStatus::SERIALIZATION_MISMATCH, "a plan of another form"));
    }
    let graph = member(&whole, "operationGraph")?;
    let tensors: Vec<_> = list(graph, "tensors")?.iter().map(tensor).collect::<Result<_, _>>()?;
    let nodes: Vec<_> = list(graph, "nodes")?.iter().map(|of| node(of, &tensors)).collect::<Result<_, _>>()?;
    let of = member(&whole, "GPUProfile")?;
    if (integer(of, "deviceVer")?, integer(of, "multiProcessorCount")?) != device {
        return Err(Refusal(DnnStatus::ARCH_MISMATCH, "a plan of another device"));
    }
    let mut record = Record::new(Kind::Graph);
    record.put_parts(801, nodes);
    Ok((finalized(record)?, integer(member(&whole, "engine")?, "engineId")?))
}
