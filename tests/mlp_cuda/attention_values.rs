//! `scaled_dot_product_attention` in half precision against the CPU: what cuDNN computes, what it leaves to products and softmax,
//! and gradients that it refuses.

use kiln::{
    AttentionOptions,
    autograd::{BackwardOptions, grad_with},
    prelude::*,
    use_deterministic_algorithms,
};

use crate::{
    child,
    support::{TURN, device},
};

/// Samples, heads of queries and of keys, queries, keys, and the extents of keys and values.
type Sizes = [usize; 7];

/// The result and the gradients of queries, keys and values, as `f32` on the CPU.
fn pass(dtype: DType, sizes: Sizes, is_causal: bool, device: Device) -> kiln::Result<Vec<Tensor>> {
    let [n, heads, groups, queries, keys, features, values] = sizes;
    manual_seed(3);
    // Heads lie inside the rows, as projections make them.
    let drawn = |heads: usize, rows: usize, features: usize| {
        let host = Tensor::randn([n, rows, heads, features], Device::Cpu)?.to_dtype(dtype)?;
        host.to_device(device)?.requires_grad_(true)
    };
    let leaves = [drawn(heads, queries, features)?, drawn(groups, keys, features)?, drawn(groups, keys, values)?];
    let [q, k, v] = leaves.each_ref().map(|leaf| leaf.transpose(1, 2));
    let options = AttentionOptions::default().is_causal(is_causal).enable_gqa(heads != groups);
    let out = q?.scaled_dot_product_attention(&k?, &v?, options)?;
    let grad = Tensor::randn(out.dims(), Device::Cpu)?.to_dtype(dtype)?.to_device(device)?;
    out.backward_with(&grad, BackwardOptions::default())?;
    let grads = leaves.iter().map(|leaf| leaf.grad().expect("a gradient"));
    let all: Vec<Tensor> = [out.detach()].into_iter().chain(grads).collect();
    all.iter().map(|tensor| tensor.to_device(Device::Cpu)?.to_dtype(DType::F32)).collect()
}

/// Compares a pass with that of the CPU.
fn alike(dtype: DType, sizes: Sizes, is_causal: bool, device: Device) -> kiln::Result<()> {
    let (got, want) = (pass(dtype, sizes, is_causal, device)?, pass(dtype, sizes, is_causal, Device::Cpu)?);
    let tolerance = if dtype == DType::F16 { 0.01 } else { 0.06 };
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.dims(), want.dims(), "{dtype} {sizes:?} {is_causal}: {i}");
        if want.numel() == 0 {
            continue;
        }
        let most = got.sub(want)?.abs()?.max(())?.item::<f32>()?;
        let largest = want.abs()?.max(())?.item::<f32>()?.max(1.0);
        assert!(most <= tolerance * largest, "{dtype} {sizes:?} {is_causal}: {i} differs by {most} of {largest}");
    }
    Ok(())
}

#[test]
fn attention_is_that_of_the_cpu() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let sizes: [Sizes; 8] = [
        [2, 2, 2, 64, 64, 16, 16],
        // Grouped heads, lengths that differ.
        [1, 4, 2, 70, 90, 8, 16],
        [2, 4, 1, 90, 70, 16, 8],
        // Not for the library: few queries, heads of odd sizes.
        [1, 4, 2, 20, 30, 16, 16],
        [1, 2, 2, 70, 70, 12, 16],
        [1, 2, 1, 66, 70, 16, 7],
        // Nothing.
        [0, 2, 2, 64, 64, 16, 16],
        [1, 2, 2, 64, 0, 16, 16],
    ];
    for dtype in [DType::F16, DType::BF16] {
        for sizes in sizes {
            for is_causal in [false, true] {
                alike(dtype, sizes, is_causal, device)?;
            }
        }
    }
    Ok(())
}

/// The gradient's library adds in any order, so it is not used where that is not allowed, also if this is decided between the
/// passes.
#[test]
fn deterministic_attention_has_the_same_bits_each_time() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let bits = || -> kiln::Result<Vec<Vec<f32>>> {
        let all = pass(DType::F16, [1, 2, 1, 70, 70, 16, 16], true, device)?;
        all.iter().map(|tensor| tensor.flatten(0, -1)?.to_vec::<f32>()).collect()
    };
    use_deterministic_algorithms(true);
    let passes = [bits(), bits()];
    use_deterministic_algorithms(false);
    let [first, second] = passes;
    assert_eq!(first?, second?);
    let draw = || Tensor::randn([1, 2, 64, 8], Device::Cpu)?.to_dtype(DType::F16)?.to_device(device);
    let q = draw()?.requires_grad_(true)?;
    let mut grads = Vec::new();
    let (k, v) = (draw()?, draw()?);
    for _ in 0..2 {
        q.zero_grad();
        let out = q.scaled_dot_product_attention(&k, &v, AttentionOptions::default())?;
        use_deterministic_algorithms(true);
        let done = out.to_dtype(DType::F32)?.square()?.sum(()).and_then(|sum| sum.backward());
        use_deterministic_algorithms(false);
        done?;
        grads.push(q.grad().unwrap().to_device(Device::Cpu)?.to_dtype(DType::F32)?.flatten(0, -1)?.to_vec::<f32>()?);
    }
    assert_eq!(grads[0], grads[1]);
    Ok(())
}

/// Second derivatives are those of products and softmax.
#[test]
fn attention_can_be_differentiated_twice() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |device: Device| -> kiln::Result<Tensor> {
        manual_seed(5);
        let draw = |heads: usize| {
            let host = Tensor::randn([1, heads, 64, 8], Device::Cpu)?.to_dtype(DType::F16)?;
            host.to_device(device)?.requires_grad_(true)
        };
        let (q, k, v) = (draw(2)?, draw(1)?, draw(1)?);
        let out = q.scaled_dot_product_attention(&k, &v, AttentionOptions::default().enable_gqa(true))?;
        let loss = out.to_dtype(DType::F32)?.square()?.sum(())?;
        let first = grad_with(&[(loss, None)], &[&q], BackwardOptions::create_graph())?;
        let first = first.into_iter().flatten().next().expect("a gradient");
        first.to_dtype(DType::F32)?.square()?.sum(())?.backward()?;
        k.grad().expect("a gradient").to_device(Device::Cpu)?.to_dtype(DType::F32)
    };
    let (got, want) = (run(device)?, run(Device::Cpu)?);
    let largest = want.abs()?.max(())?.item::<f32>()?;
    let most = got.sub(&want)?.abs()?.max(())?.item::<f32>()?;
    assert!(most <= 0.03 * largest, "{most} of {largest}");
    Ok(())
}

/// Where the library refuses the gradient, or everything, the values are the same.
#[test]
fn refused_attention_is_composed() {
    for refused in ["attention_grad", "attention", "heuristic"] {
        child("attention_values::child_attends", &[("KILN_SIM_NO_CONVOLUTIONS", refused)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_attends() -> kiln::Result<()> {
    let device = Device::cuda(0)?;
    for is_causal in [false, true] {
        alike(DType::F16, [2, 4, 2, 70, 66, 16, 8], is_causal, device)?;
        alike(DType::BF16, [1, 2, 2, 64, 64, 8, 8], is_causal, device)?;
    }
    Ok(())
}
