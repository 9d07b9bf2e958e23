//! Tests of attention: blocks against whole matrices, dropout, broadcasting, errors.

use super::*;
use crate::autograd::{BackwardOptions, grad_with};

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
        all.push(leaf.grad().unwrap().flatten_all()?.to_dtype(DType::F64)?.to_vec::<f64>()?);
    }
    Ok(all)
}

/// Blocks of every size give the same outputs and gradients as the plain operations.
#[test]
fn blocks_are_the_whole() -> Result<()> {
    let leaves = qkv([&[2, 3, 37, 5], &[2, 3, 41, 5], &[2, 3, 41, 4]])?;
    let [q, k, v] = &leaves;
    let extents = Extents::new("test", q, k, v, None)?;
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

/// The kernel gives the outputs and gradients of the plain operations: with more keys and queries than a block has, odd sizes,
/// masks, groups of heads, views.
#[test]
fn kernel_is_the_plain_operations() -> Result<()> {
    let shapes: [[&[usize]; 3]; 6] = [
        [&[2, 3, 37, 5], &[2, 3, 41, 5], &[2, 3, 41, 4]],
        [&[1, 1, 150, 17], &[1, 1, 700, 17], &[1, 1, 700, 33]],
        [&[1, 2, 300, 3], &[1, 2, 290, 3], &[1, 2, 290, 70]],
        [&[1, 1, 1, 40], &[1, 1, 2100, 40], &[1, 1, 2100, 1]],
        [&[2, 1, 64, 1], &[2, 1, 1, 1], &[2, 1, 1, 8]],
        [&[1, 1, 30, 260], &[1, 1, 20, 260], &[1, 1, 20, 3]],
    ];
    for shapes in shapes {
        let leaves = qkv(shapes)?;
        let [q, k, v] = &leaves;
        let extents = Extents::new("test", q, k, v, None)?;
        let (rows, columns) = (extents.queries, extents.keys);
        let masks =
            [
                None,
                Some(Tensor::rand([rows, columns], Device::Cpu)?.lt(0.7)?),
                // Queries without any key, among others.
                Some(Tensor::rand([extents.samples, 1, 1, columns], Device::Cpu)?.lt(0.5)?.logical_and(
                    &Tensor::arange(0, rows as i64, Device::Cpu)?.ne(rows as i64 / 2)?.reshape([rows, 1])?,
                )?),
                Some(Tensor::randn([extents.heads, 1, columns], (DType::F64, Device::Cpu))?),
                Some(Tensor::randn([rows, columns], (DType::F64, Device::Cpu))?.masked_fill(
                    &Tensor::arange(0, rows as i64, Device::Cpu)?.remainder(3)?.eq(1)?.reshape([rows, 1])?,
                    f64::NEG_INFINITY,
                )?),
            ];
        for is_causal in [false, true] {
            for (i, mask) in masks.iter().enumerate() {
                let mask = mask.as_ref().filter(|_| !is_causal).map(|m| extents.mask("test", q, m)).transpose()?;
                let plan = Plan { extents: extents.clone(), is_causal, dropout: 0.0, scale: 0.3 };
                let want = parts(&leaves, &plan.plain(q, k, v, mask.as_ref())?)?;
                let got = parts(&leaves, &plan.fused(q, k, v, mask)?.unwrap())?;
                assert!(close(&got, &want, 1e-11), "{shapes:?} {is_causal} mask {i}");
            }
        }
    }
    Ok(())
}

/// A query to which an added mask leaves no key has the output 0 and no gradient, for the mask as well.
#[test]
fn queries_without_keys_have_no_gradient() -> Result<()> {
    let leaves = qkv([&[1, 1, 3, 2], &[1, 1, 4, 2], &[1, 1, 4, 2]])?;
    let [q, k, v] = &leaves;
    let row = Tensor::new([false, true, false], Device::Cpu)?.reshape([3, 1])?;
    let mask = Tensor::zeros([3, 4], (DType::F64, Device::Cpu))?.masked_fill(&row, f64::NEG_INFINITY)?;
    let mask = mask.requires_grad_(true)?;
    let out = q.scaled_dot_product_attention(k, v, AttentionOptions::default().mask(&mask))?;
    let all = parts(&leaves, &out)?;
    assert!(all.iter().flatten().all(|value| value.is_finite()), "{all:?}");
    assert_eq!((&all[0][2..4], &all[1][2..4]), (&[0.0; 2][..], &[0.0; 2][..]));
    let grad = mask.grad().unwrap().to_vec::<f64>()?;
    assert!(grad[4..8] == [0.0; 4] && grad[..4].iter().all(|value| *value != 0.0), "{grad:?}");
    Ok(())
}

fn close(got: &[Vec<f64>], want: &[Vec<f64>], tolerance: f64) -> bool {
    got.iter().flatten().zip(want.iter().flatten()).all(|(a, b)| (a - b).abs() <= tolerance * b.abs().max(1.0))
}

/// Groups of heads, transposed and reversed operands, and a broadcast one.
#[test]
fn kernel_reads_views_and_groups_of_heads() -> Result<()> {
    let draw = |dims: &[usize]| Tensor::randn(dims, (DType::F64, Device::Cpu))?.requires_grad_(true);
    let leaves = [draw(&[2, 9, 6, 5])?, draw(&[2, 3, 5, 20])?, draw(&[3, 20, 7])?];
    let q = leaves[0].transpose(1, 2)?;
    let k = leaves[1].transpose(-1, -2)?.flip(-2)?;
    let v = leaves[2].unsqueeze(0)?.expand([2, 3, 20, 7])?.flip(-1)?;
    for is_causal in [false, true] {
        let options = AttentionOptions::default().is_causal(is_causal);
        let got = parts(&leaves, &q.scaled_dot_product_attention(&k, &v, options.enable_gqa(true))?)?;
        let (k, v) = (k.repeat_interleave(2, 1)?, v.repeat_interleave(2, 1)?);
        let extents = Extents::new("test", &q, &k, &v, None)?;
        let plan = Plan { extents, is_causal, dropout: 0.0, scale: 1.0 / 5f64.sqrt() };
        let want = parts(&leaves, &plan.plain(&q, &k, &v, None)?)?;
        assert!(close(&got, &want, 1e-12), "{is_causal}");
    }
    Ok(())
}

/// With dropout, the kernel drops what the operations drop that stand for it in a second derivative.
#[test]
fn kernel_drops_the_same_weights() -> Result<()> {
    let leaves = qkv([&[2, 2, 50, 4], &[2, 2, 45, 4], &[2, 2, 45, 3]])?;
    let [q, k, v] = &leaves;
    for is_causal in [false, true] {
        for dropout in [0.0, 0.4] {
            let options = AttentionOptions::default().is_causal(is_causal).dropout(dropout);
            let out = q.scaled_dot_product_attention(k, v, options)?;
            let slopes = Tensor::randn(out.dims(), (DType::F64, Device::Cpu))?;
            let loss = out.mul(&slopes)?.sum(())?;
            let grads = |create_graph| {
                let options = BackwardOptions { retain_graph: true, create_graph };
                grad_with(&[(loss.clone(), None)], &[q, k, v], options)
            };
            for (a, b) in grads(false)?.iter().zip(&grads(true)?) {
                let (Some(a), Some(b)) = (a, b) else { panic!("a gradient is missing") };
                assert!(a.allclose(b, 1e-12, 1e-12)?, "{is_causal} {dropout}");
            }
        }
    }
    Ok(())
}

/// Single and half precision are those of f64, rounded.
#[test]
fn kernel_rounds_once() -> Result<()> {
    let wide = qkv([&[1, 2, 70, 24], &[1, 2, 90, 24], &[1, 2, 90, 40]])?;
    for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        let narrow = wide.each_ref().map(|t| t.detach().to_dtype(dtype));
        let [q, k, v] = narrow;
        let narrow = [q?, k?, v?];
        // The same numbers in f64.
        let exact = narrow.each_ref().map(|t| t.to_dtype(DType::F64)?.requires_grad_(true));
        let [q, k, v] = exact;
        let exact = [q?, k?, v?];
        let narrow = narrow.map(|t| t.requires_grad_(true));
        let [q, k, v] = narrow;
        let narrow = [q?, k?, v?];
        let run = |[q, k, v]: &[Tensor; 3]| {
            let out = q.scaled_dot_product_attention(k, v, AttentionOptions::default())?;
            parts(&[q.clone(), k.clone(), v.clone()], &out.to_dtype(DType::F64)?)
        };
        let (got, want) = (run(&narrow)?, run(&exact)?);
        assert!(close(&got, &want, tolerance), "{dtype}");
    }
    Ok(())
}

/// Infinities and NaN reach exactly the queries that see them.
#[test]
fn nan_stays_in_its_row() -> Result<()> {
    let [q, k, v] = qkv([&[1, 1, 20, 4], &[1, 1, 20, 4], &[1, 1, 20, 4]])?.map(|t| t.detach());
    q.narrow(2, 3, 1)?.fill_(f64::NAN)?;
    k.narrow(2, 15, 1)?.fill_(f64::INFINITY)?;
    let out = q.scaled_dot_product_attention(&k, &v, AttentionOptions::default().is_causal(true))?;
    let rows = out.isnan()?.any_keepdim(-1)?.flatten_all()?.to_vec::<bool>()?;
    assert!(rows[3] && rows[..15].iter().enumerate().all(|(i, &nan)| nan == (i == 3)), "{rows:?}");
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
