//! Applications of second derivatives against central differences in `f64`: a product with LeNet's Hessian, the gradient
//! penalty of a WGAN's critic (Gulrajani et al., 2017), and a step of MAML (Finn et al., 2017).

#![cfg(feature = "cpu")]

use kiln_models::LeNet;
use kiln_nn::{
    BatchNorm2d, Conv2d, Conv2dOptions, CrossEntropyLoss, Flatten, LeakyReLU, Linear, Module, ModuleTree, Sequential,
    seq,
};
use kiln_tensor::{
    DType, Device, Result, Tensor,
    autograd::{BackwardOptions, grad, grad_with, no_grad},
    manual_seed,
};

const STEP: f64 = 1e-5;

/// The gradients of `y`, recorded.
fn slopes(y: &Tensor, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let found = grad_with(&[(y.clone(), None)], &inputs, BackwardOptions::create_graph())?;
    Ok(found.into_iter().map(|grad| grad.expect("every parameter is used")).collect())
}

/// Directions with the shapes of the parameters.
fn directions(parameters: &[Tensor]) -> Result<Vec<Tensor>> {
    parameters.iter().map(|p| Tensor::randn(p.shape(), DType::F64)).collect()
}

/// Runs `f` with the parameters moved along the directions.
fn moved<T>(parameters: &[Tensor], along: &[Tensor], by: f64, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let shift = |by: f64| no_grad(|| parameters.iter().zip(along).try_for_each(|(p, v)| p.add_(&v.mul(by)?)));
    shift(by)?;
    let result = f();
    shift(-by)?;
    result
}

fn assert_close(got: &Tensor, want: &Tensor, what: &str) {
    let scale = want.abs().unwrap().max(()).unwrap().item::<f64>().unwrap().max(1e-3);
    let error = got.sub(want).unwrap().abs().unwrap().max(()).unwrap().item::<f64>().unwrap();
    assert!(error <= 1e-5 * scale, "{what}: {error} of {scale}");
}

fn parameters(model: &impl ModuleTree) -> Vec<Tensor> {
    model.named_parameters().into_iter().map(|(_, tensor)| tensor).collect()
}

#[test]
fn a_product_with_the_hessian_of_lenet() -> Result<()> {
    manual_seed(1);
    let model = LeNet::new(10)?.to_dtype(DType::F64)?;
    let parameters = parameters(&model);
    let x = Tensor::randn([3, 1, 32, 32], DType::F64)?;
    let labels = Tensor::new(&[1i64, 9, 4], Device::Cpu)?;
    let gradient = || slopes(&CrossEntropyLoss::new().forward(&model.forward(&x)?, &labels)?, &parameters);
    let along = directions(&parameters)?;
    let mut dot = Tensor::zeros((), DType::F64)?;
    for (slope, v) in gradient()?.iter().zip(&along) {
        dot = dot.add(&slope.mul(v)?.sum(())?)?;
    }
    let products = grad(&[&dot], &parameters.iter().collect::<Vec<_>>())?;
    // The step is so short that no maximum and no sign changes, where the gradient is discontinuous.
    let step = 1e-8;
    let (above, below) = (moved(&parameters, &along, step, gradient)?, moved(&parameters, &along, -step, gradient)?);
    for (i, product) in products.iter().enumerate() {
        assert_close(product, &above[i].sub(&below[i])?.div(2.0 * step)?, &format!("parameter {i}"));
    }
    Ok(())
}

#[test]
fn the_gradient_penalty_of_a_critic() -> Result<()> {
    manual_seed(2);
    let critic: Sequential = seq![
        Conv2d::with_options(2, 4, 3, Conv2dOptions::default().stride(2).padding(1))?,
        LeakyReLU::new(0.2),
        BatchNorm2d::new(4)?,
        Conv2d::new(4, 3, 3)?,
        LeakyReLU::new(0.2),
        Flatten::new(),
        Linear::new(12, 1)?,
    ]
    .to_dtype(DType::F64)?;
    let parameters = parameters(&critic);
    let x = Tensor::randn([5, 2, 8, 8], DType::F64)?;
    let penalty = || {
        let x = x.detach().requires_grad_(true)?;
        let slope = slopes(&critic.forward(&x)?.sum(())?, std::slice::from_ref(&x))?.swap_remove(0);
        slope.flatten(1, -1)?.norm(2, 1)?.sub(1)?.square()?.mean(())
    };
    // The last bias and the shift of the norm do not change slopes.
    let grads = grad_with(&[(penalty()?, None)], &parameters.iter().collect::<Vec<_>>(), BackwardOptions::default())?;
    let along = directions(&parameters)?;
    let mut slope = 0.0;
    for (grad, v) in grads.iter().zip(&along) {
        if let Some(grad) = grad {
            slope += grad.mul(v)?.sum(())?.item::<f64>()?;
        }
    }
    let value = |by: f64| moved(&parameters, &along, by, || penalty()?.item::<f64>());
    let expected = (value(STEP)? - value(-STEP)?) / (2.0 * STEP);
    assert!((slope - expected).abs() <= 1e-5 * expected.abs().max(1e-3), "{slope}, by differences {expected}");
    assert!(expected.abs() > 1e-3);
    Ok(())
}

#[test]
fn a_step_of_maml() -> Result<()> {
    manual_seed(3);
    let weights: Vec<Tensor> = [&[8usize, 1][..], &[8], &[1, 8], &[1]]
        .into_iter()
        .map(|dims| Tensor::randn(dims, DType::F64)?.requires_grad_(true))
        .collect::<Result<_>>()?;
    let loss = |w: &[Tensor], shift: f64| {
        let x = Tensor::linspace(-2.0, 2.0, 9, DType::F64)?.unsqueeze(1)?;
        let hidden = x.linear(&w[0], Some(&w[1]))?.tanh()?;
        hidden.linear(&w[2], Some(&w[3]))?.sub(&x.add(shift)?.sin()?)?.square()?.mean(())
    };
    // Two inner steps on one half of a task, the loss after them on the other.
    let outer = || {
        let mut fast = weights.clone();
        for _ in 0..2 {
            let inner = slopes(&loss(&fast, 0.3)?, &fast)?;
            fast = fast.iter().zip(&inner).map(|(w, g)| w.sub(&g.mul(0.1)?)).collect::<Result<_>>()?;
        }
        loss(&fast, 0.7)
    };
    let grads = grad(&[&outer()?], &weights.iter().collect::<Vec<_>>())?;
    for (i, weight) in weights.iter().enumerate() {
        let along = [Tensor::randn(weight.shape(), DType::F64)?];
        let value = |by: f64| moved(&weights[i..=i], &along, by, || outer()?.item::<f64>());
        let expected = (value(STEP)? - value(-STEP)?) / (2.0 * STEP);
        let got = grads[i].mul(&along[0])?.sum(())?.item::<f64>()?;
        assert!(
            (got - expected).abs() <= 1e-6 * expected.abs().max(1.0),
            "weight {i}: {got}, by differences {expected}"
        );
    }
    Ok(())
}
