//! The autograd graph of a tensor as a TensorBoard graph.

use std::collections::{HashMap, HashSet};

use kiln_tensor::{Error, Result, Tensor, autograd::GradFn};

use super::events::{GraphDef, NodeDef, VersionDef};

/// Nodes refer to their inputs, as in TensorFlow's graphs.
pub(super) fn of(tensor: &Tensor) -> Result<GraphDef> {
    let root = tensor.grad_fn().ok_or_else(|| {
        Error::argument("add_graph", "the tensor is not the result of a recorded operation, so it has no graph")
    })?;
    let (mut names, mut counts) = (HashMap::new(), HashMap::<String, usize>::new());
    let mut name = |at: &GradFn| -> String {
        let name = names.entry(at.id()).or_insert_with(|| {
            let kind = kind(at);
            let number = counts.entry(kind.clone()).or_default();
            *number += 1;
            format!("{kind}_{number}")
        });
        name.clone()
    };
    let (mut seen, mut node) = (HashSet::from([root.id()]), Vec::new());
    let mut stack = vec![root];
    while let Some(at) = stack.pop() {
        let inputs: Vec<GradFn> = at.next_functions().into_iter().flatten().collect();
        node.push(NodeDef {
            name: name(&at),
            op: kind(&at),
            input: inputs.iter().map(&mut name).collect(),
            device: at.variable().map_or(String::new(), |leaf| leaf.device().to_string()),
        });
        stack.extend(inputs.into_iter().filter(|input| seen.insert(input.id())));
    }
    Ok(GraphDef { node, versions: Some(VersionDef { producer: 22 }) })
}

/// The name of a node: the operation without the suffix `Backward0`, or `Parameter` and the shape of a leaf.
fn kind(at: &GradFn) -> String {
    match at.variable() {
        // TensorBoard allows no other characters in names.
        Some(leaf) => {
            let dims: Vec<String> = leaf.dims().iter().map(ToString::to_string).collect();
            format!("Parameter_{}", if dims.is_empty() { "scalar".into() } else { dims.join("x") })
        }
        None => at.name().trim_end_matches('0').trim_end_matches("Backward").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kiln_tensor::Device;

    use super::*;

    #[test]
    fn each_operation_comes_once() -> Result<()> {
        let w = Tensor::ones([2, 3], Device::Cpu)?.requires_grad_(true)?;
        let mut x = w.relu()?;
        for _ in 0..60 {
            x = x.add(&x)?; // walked as a tree it would have 2^60 branches
        }
        let graph = of(&x.sum(())?)?;
        assert_eq!(graph.node.len(), 63);
        let names: HashSet<&str> = graph.node.iter().map(|node| &*node.name).collect();
        assert_eq!(names.len(), 63);
        assert!(graph.node.iter().flat_map(|node| &node.input).all(|input| names.contains(&**input)));
        assert_eq!((&*graph.node[0].op, &*graph.node[0].input[0]), ("Sum", "Add_1"));
        assert!(names.contains("Parameter_2x3_1") && names.contains("Relu_1"));
        assert!(of(&w).is_err() && of(&w.detach()).is_err());
        Ok(())
    }
}
