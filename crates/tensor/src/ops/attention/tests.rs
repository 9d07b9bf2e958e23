//! Tests of attention: blocks against whole matrices, dropout, broadcasting, errors.

use super::*;

fn qkv(dims: [&[usize]; 3]) -> Result<[Tensor; 3]> {
    let draw = |dims: &[usize]| Tensor::randn(dims, (DType::F64, Device::Cpu))?.requires_grad_(true);
    Ok([draw(dims[0])?, draw(dims[1])?, draw(dims[2])?])
}

fn parts(leaves: &[Tensor; 3], out: &Tensor) -> Result<Vec<Vec<f64>>> {
    leaves.iter().for_each(|leaf| leaf.zero_grad());
    out.mul(&Tensor::arange(0, out.numel() as i64, (DType::F64, Device::Cpu))?.sin()?.reshape(out.dims())?)?
        .sum(())?
        .backward()?;
    let mut all = vec![out.flatten_all()?.to_vec::<f64>()?];
    for leaf in leaves {
        all.push(leaf.grad().unwrap().flatten_all()?.to_vec::<f64>()?);
    }
    Ok(all)
}

/// Blocks of every size give the same outputs and gradients as the plain operations.
#[test]
fn blocks_are_the_whole() -> Result<()> {
    let leaves = qkv([&[2, 3, 37, 5], &[2, 3, 41, 5], &[2, 3, 41, 4]])?;
    let [q, k, v] = &leaves;
    let extents = Extents::new("test", q, k, v)?;
    let masks = [
        None,
        Some(Tensor::rand([37, 41], Device::Cpu)?.lt(0.7)?),
        Some(
            Tensor::rand([2, 1, 37, 41], Device::Cpu)?
                .lt(0.5)?
                .logical_and(&Tensor::arange(0, 37, Device::Cpu)?.ne(5)?.reshape([37, 1])?)?,
        ),
        Some(Tensor::randn([3, 1, 41], (DType::F64, Device::Cpu))?),
    ];
    for is_causal in [false, true] {
        for mask in &masks {
            let mask = mask.as_ref().filter(|_| !is_causal).map(|m| extents.mask("test", q, m)).transpose()?;
            let plan = Plan { extents: extents.clone(), is_causal, dropout: 0.0, scale: 0.3 };
            let want = parts(&leaves, &plan.plain(q, k, v, mask.as_ref())?)?;
            for budget in [1, 50, 400, 3000, 1 << 20] {
                let blocks = plan.blocks(budget);
                let got = parts(&leaves, &plan.blocked(q, k, v, mask.clone(), blocks)?)?;
                for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                    assert!((got - want).abs() < 1e-12, "{is_causal} {budget}: {got} instead of {want}");
                }
            }
        }
    }
    Ok(())
}

/// The backward pass drops the same elements: the output is linear in the values, with the weights as slopes.
#[test]
fn dropout_is_the_same_on_the_way_back() -> Result<()> {
    let leaves = qkv([&[1, 2, 16, 4], &[1, 2, 16, 4], &[1, 2, 16, 3]])?;
    let [q, k, v] = &leaves;
    let out = q.scaled_dot_product_attention(k, v, AttentionOptions::default().dropout(0.5))?;
    out.mul(&out.detach())?.sum(())?.backward()?;
    // sum(out²) is the value's gradient times the value, whatever was dropped.
    let along = v.grad().unwrap().mul(v)?.sum(())?.item::<f64>()?;
    assert!((along - out.square()?.sum(())?.item::<f64>()?).abs() < 1e-9);
    Ok(())
}

#[test]
fn leading_dimensions_broadcast_and_heads_share_keys() -> Result<()> {
    let [q, k, v] = qkv([&[2, 4, 6, 5], &[2, 7, 5], &[2, 7, 3]])?;
    let shared = q.scaled_dot_product_attention(&k.unsqueeze(1)?, &v.unsqueeze(1)?, AttentionOptions::default())?;
    assert_eq!(shared.dims(), [2, 4, 6, 3]);
    let (k2, v2) = (Tensor::stack(&[&k, &k], 1)?, Tensor::stack(&[&v, &v], 1)?);
    let grouped = q.scaled_dot_product_attention(&k2, &v2, AttentionOptions::default().enable_gqa(true))?;
    assert!(shared.allclose(&grouped, 1e-12, 1e-12)?);
    let two = q.select(1, 0)?.select(0, 0)?;
    let alone = two.scaled_dot_product_attention(&k.select(0, 0)?, &v.select(0, 0)?, AttentionOptions::default())?;
    assert!(alone.allclose(&shared.select(0, 0)?.select(0, 0)?, 1e-12, 1e-12)?);
    // No key at all, and none that takes part: zeros.
    let none = q.scaled_dot_product_attention(
        &k.narrow(1, 0, 0)?.unsqueeze(1)?,
        &v.narrow(1, 0, 0)?.unsqueeze(1)?,
        AttentionOptions::default(),
    )?;
    assert_eq!(none.abs()?.sum(())?.item::<f64>()?, 0.0);
    let never = Tensor::zeros([6, 7], (DType::Bool, Device::Cpu))?;
    let dead =
        q.scaled_dot_product_attention(&k.unsqueeze(1)?, &v.unsqueeze(1)?, AttentionOptions::default().mask(&never))?;
    assert_eq!(dead.abs()?.sum(())?.item::<f64>()?, 0.0);
    Ok(())
}

#[test]
fn what_does_not_fit_is_an_error() -> Result<()> {
    let [q, k, v] = qkv([&[2, 4, 6, 5], &[2, 4, 7, 5], &[2, 4, 7, 3]])?;
    let plain = AttentionOptions::default;
    let mask = Tensor::ones([6, 7], (DType::Bool, Device::Cpu))?;
    assert!(q.scaled_dot_product_attention(&v, &v, plain()).is_err());
    assert!(q.scaled_dot_product_attention(&k, &q, plain()).is_err());
    assert!(q.scaled_dot_product_attention(&k, &v, plain().mask(&mask.t()?)).is_err());
    assert!(q.scaled_dot_product_attention(&k, &v, plain().mask(&mask).is_causal(true)).is_err());
    assert!(q.scaled_dot_product_attention(&k, &v, plain().dropout(1.5)).is_err());
    assert!(q.scaled_dot_product_attention(&k.narrow(1, 0, 3)?, &v, plain()).is_err());
    assert!(
        q.scaled_dot_product_attention(&k.narrow(1, 0, 3)?, &v.narrow(1, 0, 3)?, plain().enable_gqa(true)).is_err()
    );
    assert!(q.scaled_dot_product_attention(&k.to_dtype(DType::F32)?, &v, plain()).is_err());
    Ok(())
}
