//! Tests of `attention` and `attention_grad`.

use kiln_backend::{
    Arguments, AttentionArgs, AttentionBackend, AttentionDropout, AttentionGradArgs, AttentionRule, DType, RandomState,
    bernoulli_threshold,
};
use kiln_cpu::CpuBackend;

use crate::testing::{Tensor, assert_close, layouts, numbers, philox, read_layouts};

/// Samples, heads of queries and of keys, queries, keys, features of keys and of values.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    n: usize,
    heads: usize,
    groups: usize,
    queries: usize,
    keys: usize,
    features: usize,
    values: usize,
}

impl Sizes {
    const fn new([n, heads, groups, queries, keys, features, values]: [usize; 7]) -> Sizes {
        Sizes { n, heads, groups, queries, keys, features, values }
    }

    /// The shapes of queries, keys, values, result, logarithms and mask.
    fn shapes(self) -> [Vec<usize>; 6] {
        let Sizes { n, heads, groups, queries, keys, features, values } = self;
        [
            vec![n, heads, queries, features],
            vec![n, groups, keys, features],
            vec![n, groups, keys, values],
            vec![n, heads, queries, values],
            vec![n, heads, queries],
            vec![n, heads, queries, keys],
        ]
    }
}

/// What is computed of the operands' values: the result, the logarithms, and the gradients of queries, keys and values.
type Results = [Vec<f64>; 5];

/// Direct evaluation. The mask is added to the scores; dropout multiplies the weights.
fn evaluate(
    sizes: Sizes,
    [q, k, v, grad]: [&[f64]; 4],
    scale: f64,
    causal: bool,
    mask: &[f64],
    kept: &[f64],
) -> Results {
    let Sizes { n, heads, groups, queries, keys, features, values } = sizes;
    let [mut out, mut logs, mut dq] =
        [n * heads * queries * values, n * heads * queries, q.len()].map(|len| vec![0.0; len]);
    let [mut dk, mut dv] = [k.len(), v.len()].map(|len| vec![0.0; len]);
    for query in 0..n * heads * queries {
        let (head, i) = (query / queries, query % queries);
        let group = head / heads * groups + head % heads * groups / heads;
        let (qs, key) = (query * features, |j: usize| (group * keys + j) * features);
        let value = |j: usize| (group * keys + j) * values;
        let visible = |j: usize| !causal || j <= i;
        let score = |j: usize| {
            let dot: f64 = (0..features).map(|e| q[qs + e] * k[key(j) + e]).sum();
            if visible(j) { scale * dot + mask[query * keys + j] } else { f64::NEG_INFINITY }
        };
        let scores: Vec<f64> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            logs[query] = f64::INFINITY;
            continue;
        }
        let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        logs[query] = largest + sum.ln();
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp() / sum).collect();
        let factor = |j: usize| kept[query * keys + j];
        let slopes: Vec<f64> = (0..keys)
            .map(|j| (0..values).map(|e| grad[query * values + e] * v[value(j) + e]).sum::<f64>() * factor(j))
            .collect();
        let mean: f64 = weights.iter().zip(&slopes).map(|(w, s)| w * s).sum();
        for j in 0..keys {
            let slope = weights[j] * (slopes[j] - mean) * scale;
            for e in 0..values {
                out[query * values + e] += weights[j] * factor(j) * v[value(j) + e];
                dv[value(j) + e] += weights[j] * factor(j) * grad[query * values + e];
            }
            for e in 0..features {
                dq[qs + e] += slope * k[key(j) + e];
                dk[key(j) + e] += slope * q[qs + e];
            }
        }
    }
    [out, logs, dq, dk, dv]
}

/// Runs the primitives, with operands in these layouts of read and written tensors.
fn run(sizes: Sizes, operands: [&Tensor; 4], rule: AttentionRule, written: usize) -> [Tensor; 5] {
    let shapes = sizes.shapes();
    let [q, k, v, grad] = operands;
    let dtype = q.buffer.dtype();
    let blank = |dtype: DType, dims: &[usize]| {
        let layout = layouts(dims)[written];
        Tensor::with_layout(dtype, layout, &vec![77.0; layout.numel()])
    };
    let (mut out, mut logs) = (blank(dtype, &shapes[3]), blank(dtype.accumulator(), &shapes[4]));
    let args = AttentionArgs {
        query: q.view(),
        key: k.view(),
        value: v.view(),
        rule,
        out: out.view_mut(),
        log_sum: logs.view_mut(),
    };
    CpuBackend.attention(args.checked().unwrap()).unwrap();
    let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| blank(dtype, &shapes[i]));
    let args = AttentionGradArgs {
        grad: grad.view(),
        query: q.view(),
        key: k.view(),
        value: v.view(),
        rule,
        out: out.view(),
        log_sum: logs.view(),
        query_grad: dq.view_mut(),
        key_grad: dk.view_mut(),
        value_grad: dv.view_mut(),
    };
    CpuBackend.attention_grad(args.checked().unwrap()).unwrap();
    [out, logs, dq, dk, dv]
}

const NAMES: [&str; 5] = ["result", "logarithm", "gradient of queries", "gradient of keys", "gradient of values"];

fn operands(sizes: Sizes, dtype: DType, read: usize) -> [Tensor; 4] {
    let shapes = sizes.shapes();
    let operand = |i: usize| {
        let all = read_layouts(&shapes[i]);
        let layout = all[(read + i) % all.len().min(3 + read)];
        let values: Vec<f64> = numbers(layout.numel(), 5 + i as u64).iter().map(|x| x / 4.0).collect();
        Tensor::with_layout(dtype, layout, &values)
    };
    [operand(0), operand(1), operand(2), operand(3)]
}

const SIZES: [Sizes; 9] = [
    Sizes::new([1, 1, 1, 1, 1, 1, 1]),
    Sizes::new([2, 4, 2, 19, 23, 5, 7]),
    Sizes::new([1, 2, 1, 140, 20, 6, 17]),
    Sizes::new([1, 1, 1, 5, 530, 17, 5]),
    Sizes::new([2, 3, 3, 5, 0, 4, 4]),
    Sizes::new([2, 3, 1, 0, 6, 4, 4]),
    Sizes::new([0, 2, 2, 3, 4, 5, 6]),
    Sizes::new([1, 2, 2, 9, 8, 0, 3]),
    Sizes::new([1, 2, 2, 9, 8, 3, 0]),
];

#[test]
fn every_layout_and_dtype() {
    for sizes in SIZES {
        for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
            for layout in 0..if dtype == DType::F32 { 5 } else { 2 } {
                let operands = operands(sizes, dtype, layout);
                let values = operands.each_ref().map(Tensor::values);
                let scores = sizes.n * sizes.heads * sizes.queries * sizes.keys;
                let (none, all) = (vec![0.0; scores], vec![1.0; scores]);
                for is_causal in [false, true] {
                    let rule = AttentionRule { scale: 0.5, is_causal, mask: None, dropout: None };
                    let want = evaluate(sizes, values.each_ref().map(Vec::as_slice), 0.5, is_causal, &none, &all);
                    let got = run(sizes, operands.each_ref(), rule, layout % 3);
                    for ((got, want), name) in got.iter().zip(&want).zip(NAMES) {
                        // Sums over queries or keys; in half precision the gradients read a result that was rounded.
                        let ulps = 40.0 + (sizes.queries + sizes.keys) as f64 / 4.0;
                        assert_close(
                            &got.values(),
                            want,
                            got.buffer.dtype(),
                            ulps,
                            &format!("{name} {sizes:?} {is_causal}"),
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn masks_and_dropout() {
    for (i, sizes) in SIZES[..4].iter().copied().enumerate() {
        for dtype in [DType::F32, DType::F64] {
            let operands = operands(sizes, dtype, 0);
            let values = operands.each_ref().map(Tensor::values);
            let dims = &sizes.shapes()[5];
            let random = numbers(dims.iter().product(), 3);
            for (at, layout) in read_layouts(dims).into_iter().take(8).enumerate() {
                // The first query of each head sees no key.
                let hidden = |at: usize| (at / sizes.keys).is_multiple_of(sizes.queries) && sizes.queries > 1;
                let numbers = |hides: bool| -> Vec<f64> {
                    let number =
                        |(at, &x): (usize, &f64)| if hidden(at) || hides && x < -1.0 { f64::NEG_INFINITY } else { x };
                    random.iter().enumerate().map(number).collect()
                };
                let added = Tensor::with_layout(dtype, layout, &numbers(at % 2 == 0));
                let truths: Vec<f64> = numbers(true).iter().map(|x| f64::from(*x > -1.0)).collect();
                let shown = Tensor::with_layout(DType::Bool, layout, &truths);
                for (mask, is_bool) in [(&added, false), (&shown, true)] {
                    // What was written last counts where elements of a layout are the same.
                    let to_add = |&x: &f64| match is_bool {
                        true if x == 0.0 => f64::NEG_INFINITY,
                        true => 0.0,
                        false => x,
                    };
                    let to_add: Vec<f64> = mask.values().iter().map(to_add).collect();
                    let dropout = (at % 3 == i % 3)
                        .then_some(AttentionDropout { p: 0.3, state: RandomState { seed: 9, offset: 4 } });
                    let kept: Vec<f64> = match dropout {
                        None => vec![1.0; to_add.len()],
                        Some(AttentionDropout { p, state }) => philox(state, to_add.len().div_ceil(4))
                            .iter()
                            .map(|&word| if u64::from(word) < bernoulli_threshold(p) { 0.0 } else { 1.0 / (1.0 - p) })
                            .collect(),
                    };
                    let rule = AttentionRule { scale: 0.7, is_causal: false, mask: Some(mask.view()), dropout };
                    let want = evaluate(sizes, values.each_ref().map(Vec::as_slice), 0.7, false, &to_add, &kept);
                    let got = run(sizes, operands.each_ref(), rule, 0);
                    for ((got, want), name) in got.iter().zip(&want).zip(NAMES) {
                        let what = format!("{name} {sizes:?}, mask {at} of {}", mask.buffer.dtype());
                        assert_close(&got.values(), want, got.buffer.dtype(), 200.0, &what);
                    }
                }
            }
        }
    }
}

/// The keys that causal queries do not see draw no numbers.
#[test]
fn causal_dropout_numbers_what_is_visible() {
    let sizes = Sizes::new([1, 2, 2, 6, 9, 3, 4]);
    let operands = operands(sizes, DType::F64, 0);
    let values = operands.each_ref().map(Tensor::values);
    let (p, state) = (0.5, RandomState { seed: 2, offset: 1 });
    let words = philox(state, 2 * 6 * 6 / 4);
    let kept = |at: usize| {
        let (row, key) = (at / 9, at % 9);
        if key < 6 && u64::from(words[row * 6 + key]) < bernoulli_threshold(p) { 0.0 } else { 2.0 }
    };
    let kept: Vec<f64> = (0..2 * 6 * 9).map(kept).collect();
    let rule = AttentionRule { scale: 1.0, is_causal: true, mask: None, dropout: Some(AttentionDropout { p, state }) };
    let want = evaluate(sizes, values.each_ref().map(Vec::as_slice), 1.0, true, &vec![0.0; 2 * 6 * 9], &kept);
    for ((got, want), name) in run(sizes, operands.each_ref(), rule, 0).iter().zip(&want).zip(NAMES) {
        assert_close(&got.values(), want, DType::F64, 100.0, name);
    }
}

/// The same bits for any number of threads, also where a head is divided among them.
#[test]
fn threads_change_nothing() {
    for sizes in [Sizes::new([1, 2, 1, 280, 2100, 4, 3]), Sizes::new([3, 4, 4, 30, 40, 4, 3])] {
        let operands = operands(sizes, DType::F32, 0);
        for is_causal in [false, true] {
            let rule = AttentionRule { scale: 1.0, is_causal, mask: None, dropout: None };
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let operands = operands.each_ref();
                pool.install(|| run(sizes, operands, rule, 0)).map(|tensor| tensor.bytes().to_vec())
            };
            let alone = with(1);
            for threads in [2, 5] {
                assert!(with(threads) == alone, "{threads} threads");
            }
        }
    }
}
