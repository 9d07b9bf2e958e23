//! Graphs of attention, as Kiln makes them and with mistakes: both libraries answer alike, and the simulator has engines for
//! nothing that the real one has none for.
use std::collections::HashMap;

use kiln_sim::types::*;

use crate::libraries::{Asked, both, described};
use crate::random_graphs::Random;

/// `CUDNN_DATA_FLOAT` and so on.
const F32: i32 = 0;
const I32: i32 = 4;
const BF16: i32 = 9;
const BOOL: i32 = 11;

/// Extents and strides, the type, and whether it has no memory or is a number of the host's.
#[derive(Clone)]
struct Described {
    dims: Vec<i64>,
    strides: Vec<i64>,
    data: i32,
    is_virtual: bool,
    by_value: bool,
}

fn dense(dims: [i64; 4], data: i32, is_virtual: bool) -> Described {
    let [_, b, c, d] = dims;
    Described { dims: dims.into(), strides: vec![b * c * d, c * d, d, 1], data, is_virtual, by_value: false }
}

/// With the last two dimensions exchanged.
fn transposed(of: Described) -> Described {
    let mut of = of;
    of.dims.swap(2, 3);
    of.strides.swap(2, 3);
    of
}

/// Attributes with their types and values.
type Attributes = Vec<(u32, u32, i64)>;

/// An operation: its kind, the attribute of its rule with the rule's kind and attributes, and its tensors by attribute.
struct Operation {
    kind: u32,
    rule: Option<(u32, u32, Attributes)>,
    tensors: Vec<(u32, &'static str)>,
}

fn product(a: &'static str, b: &'static str, c: &'static str) -> Operation {
    let rule = Some((1523, 18, vec![(1500, DATA_TYPE, i64::from(F32))]));
    Operation { kind: 19, rule, tensors: vec![(1520, a), (1521, b), (1522, c)] }
}

fn map(mode: i64, data: i32, axis: Option<i64>, reads: &[&'static str], to: &'static str) -> Operation {
    let mut rule = vec![(0, POINTWISE_MODE, mode), (1, DATA_TYPE, i64::from(data))];
    rule.extend(axis.map(|axis| (9, INT64, axis)));
    let tensors = [751, 752, 758].into_iter().zip(reads.iter().copied()).chain([(753, to)]).collect();
    Operation { kind: 13, rule: Some((750, 0, rule)), tensors }
}

fn reduce(how: i64, x: &'static str, y: &'static str) -> Operation {
    let rule = vec![(1600, REDUCTION_OPERATOR_TYPE, how), (1601, DATA_TYPE, i64::from(F32))];
    Operation { kind: 22, rule: Some((1612, 21, rule)), tensors: vec![(1610, x), (1611, y)] }
}

fn reshape(x: &'static str, y: &'static str) -> Operation {
    Operation { kind: 31, rule: None, tensors: vec![(2200, x), (2201, y)] }
}

/// A graph: tensors by name, and operations.
struct Graph {
    tensors: HashMap<&'static str, Described>,
    operations: Vec<Operation>,
}

const MUL: i64 = 1;
const DIV: i64 = 6;
const SUB: i64 = 9;
const EXP: i64 = 13;
const LOG: i64 = 15;

/// Attention, or its gradient, of random extents.
fn attention(random: &mut Random) -> Graph {
    let backward = random.once_in(2);
    let causal = random.once_in(2);
    let data = random.of(&[2, BF16]);
    let groups = random.of(&[1, 2]);
    let heads = groups * random.of(&[1, 1, 3]);
    let (n, queries, keys) = (random.of(&[1, 2]), random.of(&[64, 70, 128]), random.of(&[64, 77, 1]));
    let (features, values) = (random.of(&[8, 64, 40, 128]), random.of(&[8, 64, 128]));
    let (q, k, v, o) = (
        [n, heads, queries, features],
        [n, groups, keys, features],
        [n, groups, keys, values],
        [n, heads, queries, values],
    );
    let (scores, row) = ([n, heads, queries, keys], [n, heads, queries, 1]);
    let mut tensors = HashMap::new();
    let number = || Described { by_value: true, ..dense([1; 4], F32, false) };
    tensors.insert("scale", number());
    tensors.insert("q", dense(q, data, false));
    tensors.insert("kt", transposed(dense(k, data, false)));
    tensors.insert("o", dense(o, data, false));
    tensors.insert("stats", dense(row, F32, false));
    for name in ["scores", "scaled", "masked", "shifted", "exponentials", "logs", "dw", "centered", "weighted"] {
        tensors.insert(name, dense(scores, F32, true));
    }
    let mut all = |names: &[&'static str], of: Described| {
        names.iter().for_each(|name| _ = tensors.insert(*name, of.clone()));
    };
    all(&["max", "sum", "log", "do_o_sum"], dense(row, F32, true));
    all(&["weights", "ds"], dense(scores, data, true));
    all(&["weights_t", "ds_t"], transposed(dense(scores, data, true)));
    let mut operations = vec![product("q", "kt", "scores"), map(MUL, F32, None, &["scores", "scale"], "scaled")];
    let mask = |tensors: &mut HashMap<_, _>, operations: &mut Vec<_>, of: &'static str| {
        if !causal {
            return of;
        }
        tensors.insert("rows", dense(scores, I32, true));
        tensors.insert("columns", dense(scores, I32, true));
        tensors.insert("visible", dense(scores, BOOL, true));
        tensors.insert("hidden", number());
        operations.push(map(501, I32, Some(2), &[of], "rows"));
        operations.push(map(501, I32, Some(3), &[of], "columns"));
        operations.push(map(303, BOOL, None, &["rows", "columns"], "visible"));
        operations.push(map(601, F32, None, &[of, "hidden", "visible"], "masked"));
        "masked"
    };
    if !backward {
        tensors.insert("v", dense(v, data, false));
        let masked = mask(&mut tensors, &mut operations, "scaled");
        operations.extend([
            reduce(3, masked, "max"),
            map(SUB, F32, None, &[masked, "max"], "shifted"),
            map(EXP, F32, None, &["shifted"], "exponentials"),
            reduce(0, "exponentials", "sum"),
            map(LOG, F32, None, &["sum"], "log"),
            map(0, F32, None, &["max", "log"], "stats"),
            map(DIV, F32, None, &["exponentials", "sum"], "weights"),
            product("weights", "v", "o"),
        ]);
        return Graph { tensors, operations };
    }
    tensors.insert("vt", transposed(dense(v, data, false)));
    tensors.insert("one", number());
    tensors.insert("do", dense(o, data, false));
    tensors.insert("do_o", dense(o, F32, true));
    tensors.insert("sums", dense(row, F32, false));
    tensors.insert("dq_sum", dense(q, F32, false));
    for (name, dims) in [("dq", q), ("dk", k), ("dv", v)] {
        tensors.insert(name, dense(dims, data, false));
    }
    tensors.insert("k", dense(k, data, true));
    tensors.insert("dk_heads", dense([n, heads, keys, features], data, true));
    tensors.insert("dv_heads", dense([n, heads, keys, values], data, true));
    let of_rows = [
        map(MUL, F32, None, &["do", "o"], "do_o"),
        reduce(0, "do_o", "do_o_sum"),
        map(MUL, F32, None, &["do_o_sum", "one"], "sums"),
    ];
    operations.splice(0..0, of_rows);
    operations.push(map(SUB, F32, None, &["scaled", "stats"], "logs"));
    let masked = mask(&mut tensors, &mut operations, "logs");
    let shared = |a, b, of_heads, to| match heads == groups {
        true => vec![product(a, b, to)],
        false => vec![product(a, b, of_heads), reduce(0, of_heads, to)],
    };
    operations.extend([map(EXP, F32, None, &[masked], "exponentials"), reshape("exponentials", "weights_t")]);
    operations.extend(shared("weights_t", "do", "dv_heads", "dv"));
    operations.extend([
        product("do", "vt", "dw"),
        map(SUB, F32, None, &["dw", "sums"], "centered"),
        map(MUL, F32, None, &["centered", "exponentials"], "weighted"),
        map(MUL, F32, None, &["weighted", "scale"], "ds"),
        reshape("ds", "ds_t"),
    ]);
    operations.extend(shared("ds_t", "q", "dk_heads", "dk"));
    operations.extend([reshape("kt", "k"), product("ds", "k", "dq_sum"), map(21, F32, None, &["dq_sum"], "dq")]);
    Graph { tensors, operations }
}

/// One mistake, of those that do not crash the real library. (An operation that is missing, strides of tensors without memory, and
/// memory where there should be none do, in some graphs.)
fn spoil(graph: &mut Graph, random: &mut Random) {
    let mut names: Vec<_> = graph.tensors.keys().copied().collect();
    names.sort_unstable();
    let name = random.of(&names);
    let tensor = graph.tensors.get_mut(name).expect("one of them");
    let count = graph.operations.len() as u64;
    match random.below(4) {
        0 => tensor.dims[random.below(4) as usize] += random.of(&[1, 2]),
        1 => tensor.data = random.of(&[0, 2, BF16, I32]),
        2 => tensor.by_value = !tensor.by_value,
        _ => {
            let operation = &mut graph.operations[random.below(count) as usize];
            if let Some((.., attributes)) = &mut operation.rule {
                let place = random.below(attributes.len() as u64) as usize;
                attributes[place].2 = random.of(&[0, 1, 2, 3, 4, 9, 13]);
            }
        }
    }
}

/// Asks a library for a graph. Returns whether it proposes an engine: `None` if the graph is not even valid.
fn ask(asked: &mut Asked, graph: &Graph) -> Option<bool> {
    let mut made: HashMap<&str, usize> = HashMap::new();
    let mut names: Vec<_> = graph.tensors.keys().copied().collect();
    names.sort_unstable();
    for (uid, name) in (1i64..).zip(names) {
        let Described { dims, strides, data, is_virtual, by_value } = &graph.tensors[name];
        let tensor = asked.create(17);
        asked.set(tensor, 906, INT64, &[uid]);
        asked.set(tensor, 901, DATA_TYPE, &[*data]);
        asked.set(tensor, 902, INT64, dims);
        asked.set(tensor, 903, INT64, strides);
        asked.set(tensor, 900, INT64, &[16i64]);
        asked.set(tensor, 907, BOOLEAN, &[*is_virtual]);
        asked.set(tensor, 908, BOOLEAN, &[*by_value]);
        asked.finalize(name, tensor);
        made.insert(name, tensor);
    }
    // The real library looks no closer at what was not finalized, and fails later in some way.
    if !asked.whole {
        return None;
    }
    let mut all = Vec::new();
    for Operation { kind, rule, tensors } in &graph.operations {
        let operation = asked.create(*kind);
        if let Some((attribute, kind, attributes)) = rule {
            let rule = asked.create(*kind);
            for (attribute, kind, value) in attributes {
                match *kind {
                    INT64 => asked.set(rule, *attribute, *kind, &[*value]),
                    _ => asked.set(rule, *attribute, *kind, &[*value as i32]),
                }
            }
            if !asked.finalize("a rule", rule) {
                return None;
            }
            asked.set_parts(operation, *attribute, &[rule]);
        }
        tensors.iter().for_each(|(attribute, name)| asked.set_parts(operation, *attribute, &[made[name]]));
        asked.finalize(&format!("an operation {kind} of {tensors:?}"), operation);
        all.push(operation);
    }
    if !asked.whole {
        return None;
    }
    let graph = asked.create(15);
    asked.set_parts(graph, 801, &all);
    if !asked.finalize("a graph", graph) {
        return None;
    }
    let heuristic = asked.create(4);
    asked.set_parts(heuristic, 201, &[graph]);
    asked.set(heuristic, 200, HEURISTIC_MODE, &[3]);
    asked.set_parts(heuristic, 204, &[asked.device]);
    if !asked.finalize("a heuristic", heuristic) {
        return Some(false);
    }
    let (mut configs, mut returned) = ([0usize; 4], 0);
    configs.iter_mut().for_each(|config| *config = asked.create(3));
    // SAFETY: there is room for four.
    unsafe { (asked.of.get)(heuristic, 202, DESCRIPTOR, 4, &raw mut returned, configs.as_mut_ptr().cast()) };
    Some(returned > 0)
}

const GRAPHS: u64 = 600;

#[test]
fn graphs_of_attention_are_answered_as_by_the_real_library() {
    let Some((own, real)) = both() else { return };
    let on = [described(&own), described(&real)];
    let (mut whole, mut spoilt, mut stricter, mut differences) = (0, 0, 0, Vec::new());
    for seed in 0..GRAPHS {
        let mut random = Random(seed);
        let mut graph = attention(&mut random);
        let is_spoilt = seed % 4 > 0;
        if is_spoilt {
            spoil(&mut graph, &mut random);
        }
        let [mut got, mut want] = [Asked::new(&own, on[0]), Asked::new(&real, on[1])];
        let (of_own, of_real) = (ask(&mut got, &graph), ask(&mut want, &graph));
        let differs = got.answers.iter().zip(&want.answers).find(|(got, want)| got != want);
        // What each says of a graph that it has no engine for is its own.
        if let Some((got, want)) = differs.filter(|(got, _)| !got.0.contains("heuristic")) {
            differences.push(format!("graph {seed}: {got:?}, the real library {want:?}"));
        } else if !is_spoilt && (of_own, of_real) != (Some(true), Some(true)) {
            differences
                .push(format!("graph {seed}: engines {of_own:?}, the real library {of_real:?}: {:?}", want.answers));
        } else if of_own == Some(true) && of_real != Some(true) {
            differences.push(format!("graph {seed}: the real library has no engine for it"));
        }
        whole += u64::from(of_own == Some(true));
        spoilt += u64::from(is_spoilt && of_real == Some(false));
        stricter += u64::from(of_own == Some(false) && of_real == Some(true));
    }
    println!(
        "{GRAPHS} graphs, {whole} with engines of the simulator, {spoilt} with none, {stricter} with real ones only"
    );
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(40)].join("\n")
    );
}
