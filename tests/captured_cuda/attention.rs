//! A captured step with cuDNN's attention: its plans are compiled before the capture, and graphs compute what launches do.

use kiln::{AttentionOptions, prelude::*};

use crate::{
    bits, step,
    support::{TURN, device},
};

/// Queries with a head of keys for two of them, another sample for each number.
fn sample(number: u64, device: Device) -> kiln::Result<(Tensor, Tensor)> {
    let state = kiln::random_state();
    manual_seed(300 + number);
    let draw = |heads: usize| Tensor::randn([1, heads, 64, 8], Device::Cpu)?.to_dtype(DType::BF16);
    let (q, k) = (draw(2)?, draw(1)?);
    kiln::set_random_state(state);
    Ok((q.to_device(device)?, k.to_device(device)?))
}

/// The result and the gradient of the queries, as one tensor.
fn attend((q, k): &(Tensor, Tensor)) -> kiln::Result<Tensor> {
    let q = q.detach().requires_grad_(true)?;
    let out = q.scaled_dot_product_attention(k, k, AttentionOptions::default().is_causal(true).enable_gqa(true))?;
    out.to_dtype(DType::F32)?.square()?.sum(())?.backward()?;
    Tensor::stack(&[&out.detach(), &q.grad().expect("a gradient")], 0)
}

#[test]
fn graphs_of_attention_are_its_launches() -> kiln::Result<()> {
    let Some(device) = device() else { return Ok(()) };
    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let run = |captured: bool| -> kiln::Result<(Vec<Tensor>, usize)> {
        let mut graphs = step(device, captured, |(): &mut (), sample: &(Tensor, Tensor)| attend(sample));
        let all = (0..8).map(|number| graphs.run(&mut (), &sample(number, device)?)?.to_device(Device::Cpu));
        Ok((all.collect::<kiln::Result<_>>()?, graphs.graphs()))
    };
    let ((got, graphs), (want, none)) = (run(true)?, run(false)?);
    assert_eq!((graphs, none), (1, 0));
    for (number, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(bits(&got.select(0, 0)?)?, bits(&want.select(0, 0)?)?, "sample {number}");
        // Gradients are added in any order.
        let (got, want) = (got.to_dtype(DType::F32)?, want.to_dtype(DType::F32)?);
        assert!(got.allclose(&want, 1e-2, 1e-2)?, "sample {number}");
    }
    Ok(())
}
