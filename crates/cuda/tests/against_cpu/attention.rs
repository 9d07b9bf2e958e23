//! Attention in half precision, by cuDNN, against the CPU; and what it leaves to the composition of products and softmax.

use kiln_backend::*;

use crate::support::*;

/// Samples, heads of queries and of keys, queries, keys, and the extents of keys and values.
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

const fn sizes(n: usize, heads: [usize; 2], rows: [usize; 2], features: [usize; 2]) -> Sizes {
    let ([heads, groups], [queries, keys], [features, values]) = (heads, rows, features);
    Sizes { n, heads, groups, queries, keys, features, values }
}

/// How an operand lies in memory: as [`MemoryLayout`] says, or with the heads inside the rows, as projections make it.
#[derive(Clone, Copy, Debug)]
enum Lies {
    Like(MemoryLayout),
    HeadsInRows,
    /// At an odd offset.
    Shifted,
}

use Lies::{HeadsInRows, Like, Shifted};
use MemoryLayout::{Dense, Sliced, Turned};

fn lay(on: &dyn Backend, dtype: DType, dims: [usize; 4], lies: Lies, salt: Option<u64>) -> Tensor {
    let make = |dims: &[usize], memory| match salt {
        Some(salt) => tensor(on, dtype, dims, memory, salt),
        None => target(on, dtype, dims, memory),
    };
    let [n, heads, rows, features] = dims;
    match lies {
        Like(memory) => make(&dims, memory),
        HeadsInRows => {
            let whole = make(&[n, rows, heads, features], Dense);
            Tensor { layout: whole.layout.transpose(1, 2), ..whole }
        }
        Shifted => {
            let whole = make(&[n * heads * rows * features + 1], Dense);
            let layout = Layout::strided(
                Shape::new(&dims).unwrap(),
                &[heads * rows * features, rows * features, features, 1].map(|stride| stride as isize),
                1,
            );
            Tensor { layout: layout.unwrap(), ..whole }
        }
    }
}

/// A pass forward and back: the result, its logarithms and the three gradients.
fn pass(on: &dyn Backend, dtype: DType, sizes: Sizes, is_causal: bool, lies: [Lies; 3]) -> Result<Vec<Tensor>> {
    let Sizes { n, heads, groups, queries, keys, features, values } = sizes;
    let (q, k) = ([n, heads, queries, features], [n, groups, keys, features]);
    let (v, o) = ([n, groups, keys, values], [n, heads, queries, values]);
    let read = |dims, place: usize| lay(on, dtype, dims, lies[place % 3], Some(place as u64));
    let write = |dims, place: usize| lay(on, dtype, dims, lies[place % 3], None);
    let (query, key, value, grad) = (read(q, 0), read(k, 1), read(v, 2), read(o, 4));
    let mut out = write(o, 0);
    let mut log_sum = target(on, DType::F32, &[n, heads, queries], Dense);
    let rule = AttentionRule { scale: 1.0 / (features as f64).sqrt(), is_causal, mask: None, dropout: None };
    let args = AttentionArgs {
        query: query.view(),
        key: key.view(),
        value: value.view(),
        rule,
        out: out.view_mut(),
        log_sum: log_sum.view_mut(),
    };
    assert!(on.attention(args.checked()?)?, "{on:?} has none for {sizes:?}");
    let (mut dq, mut dk, mut dv) = (write(q, 1), write(k, 2), write(v, 0));
    let args = AttentionGradArgs {
        grad: grad.view(),
        query: query.view(),
        key: key.view(),
        value: value.view(),
        rule,
        out: out.view(),
        log_sum: log_sum.view(),
        query_grad: dq.view_mut(),
        key_grad: dk.view_mut(),
        value_grad: dv.view_mut(),
    };
    assert!(on.attention_grad(args.checked()?)?, "{on:?} has no gradient for {sizes:?}");
    Ok(vec![out, log_sum, dq, dk, dv])
}

const CASES: [Sizes; 6] = [
    sizes(2, [2, 2], [64, 64], [16, 16]),
    sizes(1, [4, 2], [70, 77], [8, 24]),
    sizes(2, [3, 1], [96, 65], [24, 8]),
    sizes(1, [1, 1], [65, 130], [64, 128]),
    sizes(1, [2, 2], [64, 1], [8, 8]),
    sizes(1, [1, 1], [130, 64], [128, 64]),
];

/// The device rounds weights and their gradients before they are factors. The gradient subtracts sums over the features of a
/// rounded result, so errors grow with these.
fn slack(sizes: Sizes) -> f64 {
    4.0 + sizes.values as f64 / 8.0
}

const PLAIN: AttentionCall = AttentionCall {
    dtype: DType::BF16,
    queries: 64,
    keys: 64,
    features: [64, 64],
    is_masked: false,
    has_dropout: false,
};

/// Whether the device and its cuDNN are new enough, as the simulated ones are.
fn device_has_attention() -> bool {
    device().is_some_and(|device| device.has_attention(&PLAIN))
}

#[test]
fn attention() {
    let _others_too = RECORD.read();
    if !device_has_attention() {
        return;
    }
    // A process compiles 64 plans at most.
    for (dtype, lies) in [(DType::F16, [Like(Dense); 3]), (DType::BF16, [HeadsInRows; 3])] {
        for sizes in CASES {
            for is_causal in [false, true] {
                let name = format!("attention {dtype} {sizes:?} {is_causal} {lies:?}");
                compare(&name, slack(sizes), |on| pass(on, dtype, sizes, is_causal, lies));
            }
        }
    }
}

/// Operands that the library does not take as they lie are copied.
#[test]
fn attention_of_any_layout() {
    let _others_too = RECORD.read();
    if !device_has_attention() {
        return;
    }
    for lies in [
        [Like(Turned), Like(Dense), Like(Dense)],
        [Like(Dense), Like(Turned), Like(Sliced)],
        [Like(Sliced), HeadsInRows, Like(Turned)],
        [Shifted, Like(Dense), HeadsInRows],
        [HeadsInRows, Shifted, Shifted],
    ] {
        let sizes = sizes(2, [4, 2], [66, 70], [16, 8]);
        compare(&format!("attention {lies:?}"), slack(sizes), |on| pass(on, DType::F16, sizes, true, lies));
    }
}

/// What is not for the library's attention.
#[test]
fn attention_is_not_for_everything() {
    let Some(device) = device() else { return };
    let (call, some) = (PLAIN, device_has_attention());
    let is_simulated = std::env::var_os("KILN_SIM_RUNNER").is_some();
    assert!(some || !is_simulated || device.info().compute_capability < (8, 0), "the simulated library has it");
    for (has, call) in [
        (some, call),
        (some, AttentionCall { dtype: DType::F16, keys: 1, ..call }),
        (false, AttentionCall { dtype: DType::F32, ..call }),
        (false, AttentionCall { queries: 63, ..call }),
        (false, AttentionCall { keys: 0, ..call }),
        (false, AttentionCall { features: [20, 64], ..call }),
        (false, AttentionCall { features: [64, 12], ..call }),
        (false, AttentionCall { features: [512, 64], ..call }),
        (false, AttentionCall { is_masked: true, ..call }),
        (false, AttentionCall { has_dropout: true, ..call }),
    ] {
        assert_eq!(device.has_attention(&call), has, "{call:?}");
    }
}
