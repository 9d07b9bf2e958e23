//! Hooks of the backward pass.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use kiln_nn::{GRU, LSTM, LayerNorm, Linear, Module, ModuleExt, ModuleTree, MultiheadAttention, ReLU, seq};
use kiln_tensor::{
    Device, Error, Result, Tensor,
    autograd::{BackwardOptions, grad, grad_with},
    no_grad,
};

use crate::beside_others;

/// Every kind of layer that has hooks passes gradients to them, in each way in which it can be called: doubled gradients of the
/// output double those of the input, and a hook of the input's gradient sees it.
#[test]
fn every_layer_with_hooks_runs_backward_hooks() -> Result<()> {
    let _beside = beside_others();
    let checks = |module: &dyn ModuleTree, run: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<()> {
        let (values, name) = (Tensor::randn([2, 5, 4], Device::Cpu)?, module.type_name());
        let grad = || -> Result<Tensor> {
            let x = values.detach().requires_grad_(true)?;
            // The input has another use, which is not the module's.
            (run(&x)?.square()?.sum(())? + x.sum(())?)?.backward()?;
            x.grad().unwrap().sub(1)
        };
        let plain = grad()?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = seen.clone();
        let handles = [
            module.register_full_backward_pre_hook(|grad| grad.mul(2))?,
            module.register_full_backward_hook(move |input, output| {
                kept.lock().unwrap().push((input.unwrap().copy()?, output.dims().to_vec()));
                Ok::<_, Error>(())
            })?,
        ];
        let hooked = grad()?;
        handles.into_iter().for_each(kiln_nn::RemovableHandle::remove);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "{name}");
        assert!(hooked.allclose(&plain.mul(2)?, 1e-4, 1e-5)?, "{name}");
        assert!(seen[0].0.allclose(&hooked, 1e-4, 1e-5)?, "{name}: without the other use");
        assert!(grad()?.allclose(&plain, 1e-5, 1e-6)?, "{name}");
        Ok(())
    };
    let linear = Linear::new(4, 3)?;
    checks(&linear, &|x| linear.forward(x))?;
    checks(&linear, &|x| linear.forward_relu(x))?;
    let norm = LayerNorm::new(&[4])?;
    checks(&norm, &|x| norm.forward(x))?;
    let (gru, lstm) = (GRU::new(4, 3)?, LSTM::new(4, 3)?);
    checks(&gru, &|x| Ok(gru.forward_with_state(x, None)?.0))?;
    checks(&lstm, &|x| lstm.forward(x))?;
    let attention = MultiheadAttention::new(4, 2)?;
    checks(&attention, &|x| attention.forward(x))?;
    let chain = seq![Linear::new(4, 4)?, ReLU::new(), seq![Linear::new(4, 2)?]];
    for path in ["", "2"] {
        let module = chain.get_submodule(path)?;
        if path.is_empty() {
            checks(module, &|x| chain.forward(x))?;
        }
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handle = module.register_full_backward_hook(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        chain.forward(&Tensor::ones([1, 4], Device::Cpu)?)?.sum(())?.backward()?;
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{path}");
        handle.remove();
    }
    Ok(())
}

#[test]
fn gradients_that_do_not_reach_the_input() -> Result<()> {
    let _beside = beside_others();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let linear = Linear::new(2, 3)?;
    let handle = linear.register_full_backward_hook(move |input, output| {
        kept.lock().unwrap().push((input.is_some(), output.dims().to_vec()));
    })?;
    let x = Tensor::ones([4, 2], Device::Cpu)?;
    let taken = || std::mem::take(&mut *seen.lock().unwrap());
    // The input requires none: the hook is called when the output's is there, and cannot replace it.
    linear.forward(&x)?.sum(())?.backward()?;
    assert_eq!(taken(), [(false, vec![4, 3])]);
    let replacing = linear.register_full_backward_hook(|_, output| output.sum(()))?;
    let error = linear.forward(&x)?.sum(())?.backward().unwrap_err().to_string();
    assert!(error.contains("Linear") && error.contains("requires none"), "{error}");
    replacing.remove();
    taken();
    // Nothing is recorded, and nothing is called.
    assert!(!no_grad(|| linear.forward(&x))?.requires_grad());
    let y = linear.forward(&x.copy()?.requires_grad_(true)?)?;
    drop(y);
    assert!(taken().is_empty());
    // A hook that is removed after the computation belongs to it.
    let y = linear.forward(&x.copy()?.requires_grad_(true)?)?;
    handle.remove();
    y.sum(())?.backward()?;
    assert_eq!(taken(), [(true, vec![4, 3])]);
    // Errors of hooks, and gradients of another shape, are errors of the pass.
    linear.register_full_backward_pre_hook(|grad| grad.sum(()))?;
    assert!(linear.forward(&x)?.sum(())?.backward().unwrap_err().to_string().contains("hook"));
    Ok(())
}

/// Hooks that change nothing change no gradients of gradients, in which they are called again.
#[test]
fn second_derivatives_pass_backward_hooks() -> Result<()> {
    let _beside = beside_others();
    let model = seq![Linear::new(3, 3)?, kiln_nn::Tanh];
    let x = Tensor::randn([2, 3], Device::Cpu)?.requires_grad_(true)?;
    let second = || -> Result<Tensor> {
        let y = model.forward(&x)?.square()?.sum(())?;
        let grads = grad_with(&[(y, None)], &[&x], BackwardOptions::create_graph())?;
        let loss = grads[0].as_ref().unwrap().square()?.sum(())?;
        Ok(grad(&[&loss], &[&x])?.swap_remove(0))
    };
    let plain = second()?;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = |calls: &AtomicUsize| {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    for path in ["", "0", "1"] {
        let [in_grad, in_pre] = [calls.clone(), calls.clone()];
        let module = model.get_submodule(path)?;
        module.register_full_backward_hook(move |_, _| count(&in_grad))?;
        module.register_full_backward_pre_hook(move |_| count(&in_pre))?;
    }
    assert!(second()?.allclose(&plain, 1e-5, 1e-6)?);
    assert!(calls.load(Ordering::Relaxed) >= 6);
    Ok(())
}
