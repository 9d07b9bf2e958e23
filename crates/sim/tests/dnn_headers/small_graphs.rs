//! Operations that lack any of their descriptors, and graphs of a few operations in any order: both libraries finalize the
//! same ones.
use kiln_sim::types::*;

use crate::libraries::{Asked, Functions, both};
use crate::random_graphs::Random;

const IMAGE: [i64; 4] = [2, 4, 8, 8];
const FILTER: [i64; 4] = [4, 4, 3, 3];

fn tensor(asked: &mut Asked, uid: Option<i64>, dims: [i64; 4]) -> usize {
    let desc = asked.create(17);
    let [_, c, h, w] = dims;
    if let Some(uid) = uid {
        asked.set(desc, 906, INT64, &[uid]);
    }
    asked.set(desc, 901, DATA_TYPE, &[0]);
    asked.set(desc, 902, INT64, &dims);
    asked.set(desc, 903, INT64, &[c * h * w, h * w, w, 1]);
    asked.set(desc, 900, INT64, &[16i64]);
    assert!(asked.finalize("a tensor", desc));
    desc
}

/// How a filter of 3×3 moves over images and leaves their extents.
fn convolution(asked: &mut Asked) -> usize {
    let rule = asked.create(1);
    asked.set(rule, 100, DATA_TYPE, &[0]);
    asked.set(rule, 101, CONVOLUTION_MODE, &[1]);
    asked.set(rule, 106, INT64, &[2i64]);
    for attribute in [102, 103, 104, 105] {
        asked.set(rule, attribute, INT64, &[1i64, 1]);
    }
    assert!(asked.finalize("a convolution", rule));
    rule
}

fn pointwise(asked: &mut Asked, mode: i32) -> usize {
    let rule = asked.create(0);
    asked.set(rule, 0, POINTWISE_MODE, &[mode]);
    asked.set(rule, 1, DATA_TYPE, &[0]);
    assert!(asked.finalize("a pointwise rule", rule));
    rule
}

/// What finalizing answers for every subset of the parts of each kind of operation.
fn subsets(of: &Functions) -> Vec<(String, u32)> {
    let mut asked = Asked::new(of, 0);
    let [x, y, z] = [1, 2, 3].map(|uid| tensor(&mut asked, Some(uid), IMAGE));
    let (w, sums) = (tensor(&mut asked, Some(4), FILTER), tensor(&mut asked, Some(5), [1, 4, 1, 1]));
    let (filter, reduction) = (convolution(&mut asked), asked.create(21));
    asked.set(reduction, 1600, REDUCTION_OPERATOR_TYPE, &[0]);
    asked.set(reduction, 1601, DATA_TYPE, &[0]);
    assert!(asked.finalize("a reduction", reduction));
    let mut operations = vec![
        (10, vec![(704, x), (703, w), (705, y), (702, filter)]),
        (12, vec![(710, x), (709, w), (711, y), (708, filter)]),
        (11, vec![(716, x), (715, w), (717, y), (714, filter)]),
        (22, vec![(1612, reduction), (1610, x), (1611, sums)]),
    ];
    // Addition, ReLU, its gradient.
    for mode in [0, 100, 200] {
        let rule = pointwise(&mut asked, mode);
        operations.push((13, vec![(750, rule), (751, x), (752, y), (753, z), (756, z), (757, y)]));
    }
    // The exponential, a comparison, a choice, the index along an axis or along none.
    for (mode, axis) in [(13, None), (303, None), (601, None), (501, Some(2)), (501, None), (501, Some(4))] {
        let rule = asked.create(0);
        asked.set(rule, 0, POINTWISE_MODE, &[mode]);
        asked.set(rule, 1, DATA_TYPE, &[0]);
        if let Some(axis) = axis {
            asked.set(rule, 9, INT64, &[axis as i64]);
        }
        assert!(asked.finalize("a pointwise rule", rule));
        operations.push((13, vec![(750, rule), (751, x), (752, y), (753, z), (758, x)]));
    }
    // Products that fit and some that do not; the same elements under other extents, and others.
    let product = asked.create(18);
    asked.set(product, 1500, DATA_TYPE, &[0]);
    assert!(asked.finalize("a product", product));
    for (a, b, c) in [
        ([2, 4, 3, 8], [2, 4, 8, 5], [2, 4, 3, 5]),
        ([2, 4, 3, 8], [2, 2, 8, 5], [2, 4, 3, 5]),
        ([2, 2, 3, 8], [1, 4, 8, 5], [2, 4, 3, 5]),
        ([2, 4, 3, 8], [2, 3, 8, 5], [2, 4, 3, 5]),
        ([2, 4, 3, 8], [2, 4, 8, 5], [2, 2, 3, 5]),
        ([2, 4, 3, 8], [2, 4, 7, 5], [2, 4, 3, 5]),
        ([2, 4, 2, 8], [2, 4, 8, 5], [2, 4, 3, 5]),
        ([2, 4, 3, 8], [2, 4, 8, 5], [2, 4, 3, 6]),
    ] {
        let [a, b, c] = [(6, a), (7, b), (8, c)].map(|(uid, dims)| tensor(&mut asked, Some(uid), dims));
        operations.push((19, vec![(1520, a), (1521, b), (1522, c), (1523, product)]));
    }
    for dims in [[2, 4, 8, 8], [8, 8, 4, 2], [2, 4, 8, 7]] {
        let y = tensor(&mut asked, Some(9), dims);
        operations.push((31, vec![(2200, x), (2201, y)]));
    }
    let mut all = Vec::new();
    for (kind, parts) in operations {
        for subset in 0..1u32 << parts.len() {
            let there: Vec<_> = (0..parts.len()).filter(|i| subset >> i & 1 == 1).map(|i| parts[i]).collect();
            let operation = asked.create(kind);
            there.iter().for_each(|(attribute, part)| asked.set_parts(operation, *attribute, &[*part]));
            // SAFETY: a descriptor.
            let status = unsafe { (of.finalize)(operation) };
            let attributes: Vec<_> = there.iter().map(|(attribute, _)| attribute).collect();
            all.push((format!("operation {kind} of {attributes:?}"), status));
        }
    }
    all
}

#[test]
fn operations_that_lack_parts_are_answered_as_by_the_real_library() {
    let Some((own, real)) = both() else { return };
    let (got, want) = (subsets(&own), subsets(&real));
    assert_eq!(want.len(), 3 * 16 + 8 + 3 * 64 + 6 * 32 + 8 * 16 + 3 * 4);
    let differ: Vec<_> = got.iter().zip(&want).filter(|(got, want)| got != want).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}

/// What finalizing answers for a graph of one to four convolutions, additions and ReLUs between random tensors.
fn small_graph(of: &Functions, seed: u64) -> (String, u32) {
    let (mut asked, mut random) = (Asked::new(of, 0), Random(seed));
    let rules = [convolution(&mut asked), pointwise(&mut asked, 0), pointwise(&mut asked, 100)];
    let filter = tensor(&mut asked, Some(99), FILTER);
    let (mut text, mut operations) = (String::new(), Vec::new());
    for _ in 0..1 + random.below(4) {
        let kind = random.below(3) as usize;
        let mut pick = || random.of(&[Some(5), Some(6), Some(7), Some(8), Some(0), Some(-1), None]);
        let [a, b, c] = [pick(), pick(), pick()];
        let [x, y, z] = [a, b, c].map(|uid| tensor(&mut asked, uid, IMAGE));
        let (operation, parts, what) = match kind {
            0 => (10, vec![(704, x), (703, filter), (705, z), (702, rules[0])], format!("{c:?} = convolution {a:?}")),
            1 => (13, vec![(750, rules[1]), (751, x), (752, y), (753, z)], format!("{c:?} = {a:?} + {b:?}")),
            _ => (13, vec![(750, rules[2]), (751, x), (753, z)], format!("{c:?} = relu {a:?}")),
        };
        let desc = asked.create(operation);
        parts.into_iter().for_each(|(attribute, part)| asked.set_parts(desc, attribute, &[part]));
        assert!(asked.finalize("an operation", desc), "{what}");
        operations.push(desc);
        text += &format!("{what}; ");
    }
    let graph = asked.create(15);
    asked.set_parts(graph, 801, &operations);
    // SAFETY: a descriptor.
    let status = unsafe { (of.finalize)(graph) };
    (text, status)
}

#[test]
fn graphs_in_any_order_are_answered_as_by_the_real_library() {
    let Some((own, real)) = both() else { return };
    let mut differ = Vec::new();
    let mut refused = 0;
    for seed in 0..5000 {
        let ((text, got), (_, want)) = (small_graph(&own, seed), small_graph(&real, seed));
        refused += u32::from(want != 0);
        if got != want {
            differ.push(format!("{text}{got}, the real library {want}"));
        }
    }
    assert!((500..4500).contains(&refused), "{refused} are refused");
    assert!(differ.is_empty(), "{} differences:\n{}", differ.len(), differ[..differ.len().min(40)].join("\n"));
}
