//! The messages of TensorBoard's plugin `hparams`: the hyperparameters of a run, and the metrics by which runs are compared.

use std::collections::{BTreeMap, HashSet};

use kiln_tensor::{Error, Result};
use prost::Message;

/// The value of a hyperparameter: a number, a text, or whether something is on. Converts from these.
#[derive(Clone, Debug, PartialEq)]
pub enum HyperParameter {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// A truth value.
    Bool(bool),
}

macro_rules! from {
    ($($ty:ty => |$value:ident| $hyperparameter:expr;)*) => {$(
        impl From<$ty> for HyperParameter {
            fn from($value: $ty) -> HyperParameter {
                $hyperparameter
            }
        }
    )*};
}
from! {
    f64 => |value| HyperParameter::Number(value);
    f32 => |value| HyperParameter::Number(value.into());
    i32 => |value| HyperParameter::Number(value.into());
    i64 => |value| HyperParameter::Number(value as f64);
    usize => |value| HyperParameter::Number(value as f64);
    bool => |value| HyperParameter::Bool(value);
    &str => |value| HyperParameter::Text(value.to_owned());
    String => |value| HyperParameter::Text(value);
}

#[derive(Clone, PartialEq, Message)]
struct HParamsPluginData {
    #[prost(int32, tag = "1")]
    version: i32,
    #[prost(oneof = "Data", tags = "2, 3, 4")]
    data: Option<Data>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Data {
    #[prost(message, tag = "2")]
    Experiment(Experiment),
    #[prost(message, tag = "3")]
    Start(SessionStartInfo),
    #[prost(message, tag = "4")]
    End(SessionEndInfo),
}

#[derive(Clone, PartialEq, Message)]
struct Experiment {
    #[prost(double, tag = "3")]
    time_created_secs: f64,
    #[prost(message, repeated, tag = "4")]
    hparam_infos: Vec<HParamInfo>,
    #[prost(message, repeated, tag = "5")]
    metric_infos: Vec<MetricInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct HParamInfo {
    #[prost(string, tag = "1")]
    name: String,
    /// 1 for texts, 2 for truth values, 3 for numbers.
    #[prost(int32, tag = "4")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct MetricInfo {
    #[prost(message, optional, tag = "1")]
    name: Option<MetricName>,
}

#[derive(Clone, PartialEq, Message)]
struct MetricName {
    #[prost(string, tag = "2")]
    tag: String,
}

#[derive(Clone, PartialEq, Message)]
struct SessionStartInfo {
    #[prost(btree_map = "string, message", tag = "1")]
    hparams: BTreeMap<String, ProtoValue>,
    #[prost(double, tag = "5")]
    start_time_secs: f64,
}

#[derive(Clone, PartialEq, Message)]
struct SessionEndInfo {
    /// 1 for success.
    #[prost(int32, tag = "1")]
    status: i32,
    #[prost(double, tag = "2")]
    end_time_secs: f64,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
struct ProtoValue {
    #[prost(oneof = "ProtoKind", tags = "2, 3, 4")]
    kind: Option<ProtoKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ProtoKind {
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
}

impl HyperParameter {
    fn kind(&self) -> i32 {
        match self {
            HyperParameter::Text(_) => 1,
            HyperParameter::Bool(_) => 2,
            HyperParameter::Number(_) => 3,
        }
    }

    fn value(&self) -> ProtoValue {
        let kind = match self {
            HyperParameter::Number(number) => ProtoKind::Number(*number),
            HyperParameter::Text(text) => ProtoKind::Text(text.clone()),
            HyperParameter::Bool(value) => ProtoKind::Bool(*value),
        };
        ProtoValue { kind: Some(kind) }
    }
}

/// The three messages of a finished run, each with its tag.
pub(super) fn contents(
    hparams: &[(&str, HyperParameter)],
    metrics: &[(&str, f64)],
    now: f64,
) -> Result<[(&'static str, Vec<u8>); 3]> {
    let mut names = HashSet::new();
    for name in hparams.iter().map(|(name, _)| name).chain(metrics.iter().map(|(name, _)| name)) {
        if !names.insert(*name) {
            return Err(Error::argument("add_hparams", format!("the name {name:?} occurs twice")));
        }
    }
    let info = |(name, value): &(&str, HyperParameter)| HParamInfo { name: (*name).to_owned(), kind: value.kind() };
    let metric = |(tag, _): &(&str, f64)| MetricInfo { name: Some(MetricName { tag: (*tag).to_owned() }) };
    let experiment = Experiment {
        time_created_secs: now,
        hparam_infos: hparams.iter().map(info).collect(),
        metric_infos: metrics.iter().map(metric).collect(),
    };
    let start = SessionStartInfo {
        hparams: hparams.iter().map(|(name, value)| ((*name).to_owned(), value.value())).collect(),
        start_time_secs: now,
    };
    let end = SessionEndInfo { status: 1, end_time_secs: now };
    let content = |data: Data| HParamsPluginData { version: 0, data: Some(data) }.encode_to_vec();
    Ok([
        ("_hparams_/experiment", content(Data::Experiment(experiment))),
        ("_hparams_/session_start_info", content(Data::Start(start))),
        ("_hparams_/session_end_info", content(Data::End(end))),
    ])
}
