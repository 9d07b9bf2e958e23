//! What attention takes on an H100 beside its products, by what the simulated device accounts for.

use std::fs;

use kiln::{AttentionOptions, autograd::BackwardOptions, prelude::*};
use serde_json::Value;

use crate::{
    account::recorded_pass,
    checkout,
    support::{TURN, device},
};

const TOKENS: usize = 4096;
const FEATURES: usize = 64;
/// The kernels that pass over the scores. Issuing the instructions of a kernel in kernel_budgets.txt takes at most half of the
/// time of its bytes on an H100, so that only bytes count here.
const PASSES: [&str; 2] = ["softmax_packed_plain", "softmax_packed_grad_plain"];

/// What an H100 moves and computes in a second: bytes, and operations by the type of the factors. Attention of the library
/// reaches a part of the latter, forward and backward.
struct Rates {
    bytes: f64,
    f32: f64,
    half: f64,
    attention: [f64; 2],
}

impl Rates {
    fn read() -> Rates {
        let table = fs::read_to_string(checkout::path("scripts/gpu_profiles.txt")).unwrap();
        let row = table.lines().find(|line| line.starts_with("H100 ")).expect("the table has the H100");
        let number = |i: usize| row.split_whitespace().nth(i).unwrap().parse::<f64>().unwrap();
        let rate = |i: usize| number(i) * 1e12;
        Rates { bytes: rate(4), f32: rate(9), half: rate(11), attention: [number(12), number(13)] }
    }
}

/// What attention takes, in seconds.
struct Times {
    /// Of all launches.
    all: f64,
    /// Of the products, at the rate of their operations alone.
    products: f64,
}

/// A pass forward and back of so many queries of a head, each over all keys; nothing on a GPU.
fn passes(dtype: DType, queries: usize, device: Device) -> kiln::Result<Option<Value>> {
    let drawn = |rows: usize| {
        manual_seed(0);
        let host = Tensor::randn([1, 1, rows, FEATURES], Device::Cpu)?.to_dtype(dtype)?;
        host.to_device(device)?.requires_grad_(true)
    };
    let (q, k, v, grad) = (drawn(queries)?, drawn(TOKENS)?, drawn(TOKENS)?, drawn(queries)?.detach());
    let pass = || {
        let out = q.scaled_dot_product_attention(&k, &v, AttentionOptions::default())?;
        out.backward_with(&grad, BackwardOptions::default())
    };
    recorded_pass(device, pass)
}

/// The times of a head with as many queries as keys. A launch moves and computes a part for the keys and one for each query,
/// which follow from two numbers of queries: the simulated device is slow.
fn times(dtype: DType, rates: &Rates, device: Device) -> kiln::Result<Option<Times>> {
    const SIMULATED: [usize; 2] = [64, 128];
    let (Some(few), Some(more)) = (passes(dtype, SIMULATED[0], device)?, passes(dtype, SIMULATED[1], device)?) else {
        return Ok(None);
    };
    let [few, more] = [&few, &more].map(|account| account["entries"].as_array().unwrap());
    assert_eq!(few.len(), more.len(), "the launches do not depend on the number of queries");
    let of_half = dtype.size() == 2;
    let (mut all, mut products) = (0.0, 0.0);
    for (few, more) in few.iter().zip(more) {
        let name = few["name"].as_str().unwrap();
        assert_eq!(Some(name), more["name"].as_str());
        let at = |fields: &[&str]| {
            let sum = |entry: &Value| fields.iter().map(|&field| entry[field].as_f64().unwrap()).sum::<f64>();
            let slope = (sum(more) - sum(few)) / (SIMULATED[1] - SIMULATED[0]) as f64;
            sum(few) + slope * (TOKENS - SIMULATED[0]) as f64
        };
        let (moved, flops) = (at(&["read", "written"]), at(&["flops"]));
        let of_scores = moved >= (TOKENS * TOKENS * dtype.size()) as f64;
        assert!(!(of_scores && of_half), "{name} moves as many bytes as the scores have");
        assert!(
            !of_scores || flops > 0.0 || PASSES.iter().any(|pass| name.starts_with(pass)),
            "{name} passes over the scores"
        );
        let computed = flops / if of_half { rates.half } else { rates.f32 };
        let reached = match few["kind"].as_str().unwrap() {
            "attention" => rates.attention[0],
            "attention_grad" => rates.attention[1],
            _ => 1.0,
        };
        products += computed;
        all += (computed / reached).max(moved / rates.bytes);
    }
    Ok(Some(Times { all, products }))
}

/// Attention over 4,096 tokens takes less than twice as long as its products at the rate of their operations. In half precision,
/// where tensor cores compute them in less time than writing and reading the scores would take, no matrix of scores is in memory.
#[test]
fn attention_takes_less_than_twice_its_products() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let rates = Rates::read();
    for (dtype, most) in [(DType::F32, 2.0), (DType::BF16, 2.0), (DType::F16, 2.0)] {
        let Some(Times { all, products }) = times(dtype, &rates, device)? else { return Ok(()) };
        let ratio = all / products;
        println!("{dtype}: {:.1} µs of a head, {:.1} µs of its products: {ratio:.2}", all * 1e6, products * 1e6);
        assert!(ratio <= most, "attention in {dtype} takes {ratio:.2} times as long as its products, above {most}");
    }
    Ok(())
}
