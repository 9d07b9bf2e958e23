use kiln_tensor::{Device, Result, Tensor, autograd, autograd::BackwardOptions, no_grad};

#[test]
fn eye_example() -> Result<()> {
    let inp = Tensor::eye(5, Device::Cpu)?.requires_grad_(true)?;
    let out = inp.add(1)?.pow(2)?.t()?;
    out.backward_with(&out.ones_like()?, BackwardOptions { retain_graph: true })?;
    let g = inp.grad().unwrap().to_vec::<f32>()?;
    assert_eq!(&g[..6], [4., 2., 2., 2., 2., 2.]);
    out.backward_with(&out.ones_like()?, BackwardOptions { retain_graph: true })?;
    assert_eq!(&inp.grad().unwrap().to_vec::<f32>()?[..2], [8., 4.]);
    inp.grad().unwrap().zero_()?;
    out.backward_with(&out.ones_like()?, BackwardOptions { retain_graph: true })?;
    assert_eq!(&inp.grad().unwrap().to_vec::<f32>()?[..2], [4., 2.]);
    println!("{}", autograd::graph_text(&out));
    Ok(())
}

#[test]
fn inplace_on_view() -> Result<()> {
    let w = Tensor::new(&[1f32, 2., 3.], Device::Cpu)?.requires_grad_(true)?;
    let x = Tensor::zeros([2, 3], Device::Cpu)?;
    x.select(0, 1)?.copy_(&w)?;
    assert!(x.requires_grad());
    assert_eq!(x.grad_fn().unwrap().name(), "CopySlices");
    x.mul(&x)?.sum(())?.backward()?;
    assert_eq!(w.grad().unwrap().to_vec::<f32>()?, [2., 4., 6.]);
    no_grad(|| w.add_(1))?;
    assert!(w.add_(1).is_err());
    Ok(())
}

#[test]
fn deep() -> Result<()> {
    let w = Tensor::new(&[1f32, 2., 3.], Device::Cpu)?.requires_grad_(true)?;
    let mut x = w.clone();
    for _ in 0..100_000 {
        x = x.add(1)?.exp()?.log()?;
    }
    x.sum(())?.backward()?;
    drop(x);
    Ok(())
}
