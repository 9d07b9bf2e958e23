//! Writing a graph as an ONNX file, with its weights inside or beside it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use kiln_tensor::{Error, Result, Tensor};
use prost::Message;

use super::{
    graph::{Extent, Graph, Port},
    proto::{self, data_type},
};
use crate::{atomic, save::to_host};

/// The version of the operator set that is written.
pub const OPSET: i64 = 17;

/// Where the weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// In the file, unless they are too large for it: a Protobuf file is limited to 2 GB.
    #[default]
    Auto,
    /// In the file.
    Inside,
    /// In a second file beside it, `NAME.onnx.data`.
    Beside,
}

/// The most bytes of weights in a Protobuf file, with room for the rest below 2 GB.
const MOST_INSIDE: usize = (2 << 30) - (64 << 20);
/// Smaller tensors stay inside, since shapes and numbers must be readable without the second file.
const SMALL: usize = 1024;
/// Alignment of the weights in the second file, in bytes.
const ALIGNMENT: u64 = 64;

pub(super) fn file(path: &Path, graph: Graph, weights: Weights) -> Result<()> {
    let total: usize = graph.constants.iter().map(|(_, t)| size(t)).sum();
    let beside = match weights {
        Weights::Beside => true,
        Weights::Auto => total > MOST_INSIDE,
        Weights::Inside if total > MOST_INSIDE => {
            let message = format!("{total} bytes of weights do not fit into a Protobuf file; use `Weights::Beside`");
            return Err(Error::argument("onnx::export", message));
        }
        Weights::Inside => false,
    };
    let initializer = if beside { outside(path, &graph)? } else { inside(&graph)? };
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let model = proto::Model {
        // The version that came with the operator set.
        ir_version: 8,
        producer_name: "kiln".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        graph: Some(proto::Graph {
            node: graph.nodes,
            name,
            initializer,
            input: graph.inputs.iter().map(port).collect(),
            output: graph.outputs.iter().map(port).collect(),
        }),
        opset_import: vec![proto::OperatorSet { domain: String::new(), version: OPSET }],
    };
    atomic::write(path, |file| file.write_all(&model.encode_to_vec()).map_err(|e| Error::io(path, e)))
}

fn size(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.dtype().size()
}

fn header(name: &str, tensor: &Tensor) -> proto::TensorData {
    proto::TensorData {
        dims: tensor.dims().iter().map(|&d| d as i64).collect(),
        data_type: data_type(tensor.dtype()),
        name: name.to_owned(),
        ..proto::TensorData::default()
    }
}

fn with_values(name: &str, tensor: &Tensor) -> Result<proto::TensorData> {
    Ok(proto::TensorData { raw_data: Some(to_host(tensor)?.bytes().to_vec()), ..header(name, tensor) })
}

fn inside(graph: &Graph) -> Result<Vec<proto::TensorData>> {
    graph.constants.iter().map(|(name, tensor)| with_values(name, tensor)).collect()
}

/// Writes large tensors to the second file, and returns their locations.
fn outside(path: &Path, graph: &Graph) -> Result<Vec<proto::TensorData>> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(OsString::from(".data"));
    let location =
        name.to_str().ok_or_else(|| Error::file(path, "its name is not Unicode, and ONNX files name each other"))?;
    let data: PathBuf = path.with_file_name(&name);
    let mut out = Vec::new();
    atomic::write(&data, |file: &mut File| {
        let failed = |e: io::Error| Error::io(&data, e);
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let mut at = 0u64;
        for (name, tensor) in &graph.constants {
            if size(tensor) < SMALL {
                out.push(with_values(name, tensor)?);
                continue;
            }
            let start = at.next_multiple_of(ALIGNMENT);
            io::copy(&mut io::Read::take(io::repeat(0), start - at), &mut file).map_err(failed)?;
            let values = to_host(tensor)?;
            file.write_all(values.bytes()).map_err(failed)?;
            let length = values.bytes().len() as u64;
            at = start + length;
            let entries =
                [("location", location.to_owned()), ("offset", start.to_string()), ("length", length.to_string())];
            let entry = |(key, value): (&str, String)| proto::Entry { key: key.to_owned(), value };
            out.push(proto::TensorData {
                external_data: entries.into_iter().map(entry).collect(),
                data_location: Some(1),
                ..header(name, tensor)
            });
        }
        file.flush().map_err(failed)
    })?;
    Ok(out)
}

fn port(port: &Port) -> proto::ValueInfo {
    let dim = |extent: &Extent| match extent {
        Extent::Fixed(value) => proto::Dimension { value: Some(*value as i64), param: None },
        Extent::Open => proto::Dimension { value: None, param: Some("batch".into()) },
    };
    let shape = proto::ShapeInfo { dim: port.extents.iter().map(dim).collect() };
    let tensor = proto::TensorKind { elem_type: data_type(port.dtype), shape: Some(shape) };
    proto::ValueInfo { name: port.name.clone(), kind: Some(proto::Kind { tensor: Some(tensor) }) }
}
