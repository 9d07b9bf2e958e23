//! Attention: all engines are compiled at run time, so that they are named, and a few of them compiled.

use std::collections::BTreeMap;

use kiln_backend::DType;
use kiln_cuda::convolution_plans::{
    AttentionProblem, DescribedDevice,
    Pass::{self, *},
};

use crate::Cell;

/// Samples, heads of queries and of keys, queries, keys, and the extents of keys and values.
type Sizes = [usize; 7];

/// Training of GPT-2 and of Llama 3 with groups of heads, ViT-B/16, lengths that differ, odd ones, small heads.
const SIZES: [Sizes; 8] = [
    [8, 12, 12, 1024, 1024, 64, 64],
    [1, 32, 8, 4096, 4096, 128, 128],
    [32, 12, 12, 197, 197, 64, 64],
    [2, 8, 8, 512, 256, 64, 64],
    [2, 8, 8, 256, 777, 64, 64],
    [1, 3, 1, 77, 131, 96, 64],
    [1, 8, 8, 128, 128, 40, 40],
    [1, 8, 8, 64, 1, 8, 128],
];

/// Heads that not all devices have engines for.
const LARGE: [Sizes; 1] = [[2, 8, 8, 512, 512, 256, 256]];

fn problem(pass: Pass, dtype: DType, is_causal: bool, sizes: Sizes, heads_in_rows: bool) -> AttentionProblem {
    let [samples, heads, groups, queries, keys, features, values] = sizes;
    let strides = [[0; 4]; 5];
    let problem =
        AttentionProblem { pass, dtype, is_causal, samples, heads, groups, queries, keys, features, values, strides };
    let dense = problem.with_dense_operands();
    if !heads_in_rows {
        return dense;
    }
    // As the projections of a transformer leave them.
    let [q, k, v, out] =
        dense.dims().map(|[_, heads, rows, features]| [rows * heads * features, features, heads * features, 1]);
    AttentionProblem { strides: [q, k, v, out, out], ..dense }
}

pub fn rows(device: &DescribedDevice, key: &str, rows: &mut Vec<(String, Cell)>, missing: &mut Vec<String>) {
    let passes = [("forward", Forward), ("gradient", Backward)];
    let masks = [("", false), (" causal", true)];
    for ((name, pass), (mask, is_causal)) in passes.iter().flat_map(|pass| masks.map(|mask| (*pass, mask))) {
        for (dtype_name, dtype) in [("f16", DType::F16), ("bf16", DType::BF16)] {
            let mut cell = Cell::default();
            for (sizes, heads_in_rows) in SIZES.iter().flat_map(|sizes| [(*sizes, false), (*sizes, true)]) {
                let problem = problem(pass, dtype, is_causal, sizes, heads_in_rows);
                let planned =
                    device.plans_of_attention(&problem).unwrap_or_else(|error| panic!("{problem:?}: {error}"));
                match planned.first_compiled {
                    Some(engine) => *cell.engines.entry(engine).or_default() += 1,
                    None => missing.push(format!("{key}: {problem:?}: {}", planned.reason)),
                }
            }
            rows.push((format!("attention | {name}{mask} | {dtype_name}"), cell));
        }
        let mut large = Cell::default();
        for sizes in LARGE {
            let planned = device.plans_of_attention(&problem(pass, DType::BF16, is_causal, sizes, false)).unwrap();
            *large.engines.entry(planned.first_compiled.unwrap_or_else(|| "none".into())).or_default() += 1;
        }
        rows.push((format!("attention, heads of 256 | {name}{mask} | bf16"), large));
        let compiled = device.build_attention(&problem(pass, DType::BF16, is_causal, SIZES[5], true));
        let engine = compiled.map_or_else(|reason| format!("none: {reason}"), |(_, engine)| engine);
        let cell = Cell { engines: BTreeMap::from([(engine, 1)]), workspace: 0 };
        rows.push((format!("attention, 77 queries and 131 keys, compiled | {name}{mask} | bf16"), cell));
    }
}
