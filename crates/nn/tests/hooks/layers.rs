//! Forward hooks of layers and of modules of one's own.
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use kiln_nn::{
    BatchNorm2d, Bilinear, Conv2d, Dropout, Embedding, GRU, Hooks, LSTM, LSTMCell, LayerNorm, Linear, Module,
    ModuleExt, ModuleTree, MultiheadAttention, ReLU, TransformerDecoderLayer, TransformerEncoder, TransformerOptions,
    seq,
};
use kiln_tensor::{Device, Error, Result, StateDict, Tensor, no_grad};

use crate::beside_others;

/// Every kind of layer that has hooks calls them, in each way in which it can be called; a hook that doubles the output
/// doubles it.
#[test]
fn every_layer_with_hooks_runs_them() -> Result<()> {
    let _beside = beside_others();
    let doubles = |module: &dyn ModuleTree, run: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        let plain = run()?;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let handle = module.register_forward_hook(move |_, _, y| {
            counted.fetch_add(1, Ordering::Relaxed);
            y.mul(2)
        })?;
        let hooked = run()?;
        handle.remove();
        let name = module.type_name();
        assert_eq!(calls.load(Ordering::Relaxed), 1, "{name}");
        assert!(hooked.allclose(&plain.mul(2)?, 1e-5, 1e-6)?, "{name}");
        assert!(run()?.allclose(&plain, 1e-6, 1e-6)?, "{name}");
        Ok(())
    };
    let rows = Tensor::randn([2, 5, 4], Device::Cpu)?;
    let linear = Linear::new(4, 3)?;
    doubles(&linear, &|| linear.forward(&rows))?;
    doubles(&linear, &|| linear.forward_relu(&rows))?;
    let norm = LayerNorm::new(&[4])?;
    doubles(&norm, &|| norm.forward(&rows))?;
    let embedding = Embedding::new(9, 2)?;
    let ids = Tensor::new([[1i64, 2], [8, 0]], Device::Cpu)?;
    doubles(&embedding, &|| embedding.forward(&ids))?;
    let bilinear = Bilinear::new(4, 4, 2)?;
    doubles(&bilinear, &|| bilinear.forward(&rows, &rows))?;
    let dropout = Dropout::new(0.5)?;
    dropout.eval();
    doubles(&dropout, &|| dropout.forward(&rows))?;
    let gru = GRU::new(4, 3)?;
    doubles(&gru, &|| gru.forward(&rows))?;
    doubles(&gru, &|| Ok(gru.forward_with_state(&rows, None)?.0))?;
    let lstm = LSTM::new(4, 3)?;
    doubles(&lstm, &|| lstm.forward(&rows))?;
    doubles(&lstm, &|| Ok(lstm.forward_with_state(&rows, None)?.0))?;
    let (cell, row) = (LSTMCell::new(4, 3)?, rows.select(0, 0)?);
    doubles(&cell, &|| cell.forward(&row))?;
    doubles(&cell, &|| Ok(cell.forward_with_state(&row, None)?.0))?;

    let attention = MultiheadAttention::new(4, 2)?;
    doubles(&attention, &|| attention.forward(&rows))?;
    doubles(&attention, &|| Ok(attention.attend_with_weights(&rows, &rows, &rows, Default::default(), true)?.0))?;
    let options = TransformerOptions::default().dropout(0.0).dim_feedforward(8);
    let encoder = TransformerEncoder::new(4, 2, 2, false, options)?;
    doubles(&encoder, &|| encoder.forward(&rows))?;
    doubles(&encoder, &|| encoder.forward_masked(&rows, Default::default()))?;
    // The last layer, which the encoder runs; its attention and its feed-forward layers run theirs inside it.
    doubles(encoder.get_submodule("layers.1")?, &|| encoder.forward(&rows))?;
    for path in ["layers.1.self_attn", "layers.0.linear1", "layers.0.dropout", "layers.0.norm1"] {
        let called = Arc::new(AtomicUsize::new(0));
        let counted = called.clone();
        let handle = encoder.get_submodule(path)?.register_forward_pre_hook(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        encoder.forward(&rows)?;
        assert_eq!(called.load(Ordering::Relaxed), 1, "{path}");
        handle.remove();
    }
    let decoder = TransformerDecoderLayer::new(4, 2, options)?;
    doubles(&decoder, &|| decoder.forward_masked(&rows, &rows, Default::default(), Default::default()))?;
    Ok(())
}

/// Convolution, normalization and ReLU that run as one primitive otherwise, in both modes.
#[test]
fn fused_layers_run_one_by_one_if_one_has_a_hook() -> Result<()> {
    let _beside = beside_others();
    let (conv, norm) = (Conv2d::new(1, 2, 3)?, BatchNorm2d::new(2)?);
    let x = Tensor::randn([2, 1, 5, 5], Device::Cpu)?;
    let residual = Tensor::randn([2, 2, 3, 3], Device::Cpu)?;
    for training in [true, false] {
        norm.set_training(training);
        let run = || no_grad(|| conv.forward_norm(&x, &norm, Some(&residual), Some(&ReLU::new())));
        let fused = run()?;
        for module in [&conv as &dyn ModuleTree, &norm] {
            let calls = Arc::new(AtomicUsize::new(0));
            let counted = calls.clone();
            let handle = module.register_forward_hook(move |_, _, _| {
                counted.fetch_add(1, Ordering::Relaxed);
            })?;
            let parts = run()?;
            handle.remove();
            assert_eq!(calls.load(Ordering::Relaxed), 1, "{training}");
            assert!(parts.allclose(&fused, 1e-4, 1e-5)?, "{training}");
        }
    }
    Ok(())
}

#[test]
fn a_module_of_ones_own_has_hooks_by_a_field() -> Result<()> {
    let _beside = beside_others();
    #[derive(Module)]
    #[module(save)]
    struct Scaled {
        linear: Linear,
        hooks: Hooks,
    }
    impl Module for Scaled {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            self.hooks.run(self, x, |x| self.linear.forward(x)?.mul(3))
        }
    }
    #[derive(Module)]
    struct Plain {
        relu: ReLU,
    }
    impl Module for Plain {
        fn forward(&self, x: &Tensor) -> Result<Tensor> {
            self.relu.forward(x)
        }
    }
    let model = Scaled { linear: Linear::new(2, 2)?, hooks: Hooks::default() };
    assert_eq!(model.named_parameters()[0].0, "linear.weight");
    assert_eq!(model.repr().lines().count(), 3, "{model}");
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let want = model.forward(&x)?.mul(2)?.add(1)?;
    model.register_forward_pre_hook(|_, _| Ok::<_, Error>(None))?;
    model.register_forward_hook(|_, _, y| y.mul(2))?;
    model.register_forward_hook(|module, _, y| {
        assert_eq!(module.type_name(), "Scaled");
        y.add(1)
    })?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, want.to_vec::<f32>()?);

    // A module without hooks says so, and has them inside a `Sequential`.
    let plain = Plain { relu: ReLU::new() };
    for error in [plain.register_forward_hook(|_, _, _| ()), plain.relu.register_forward_pre_hook(|_, _| ())] {
        let error = error.err().unwrap().to_string();
        assert!(error.contains("does not run hooks") && error.contains("Hooks"), "{error}");
    }
    let chain = seq![plain];
    chain.get_submodule("0")?.register_forward_hook(|_, _, y| y.add(5))?;
    assert_eq!(chain.forward(&x)?.to_vec::<f32>()?, [6.0, 6.0]);
    chain.get(0).unwrap().register_forward_hook(|_, _, y| y.add(1))?;
    assert_eq!(chain.forward(&x)?.to_vec::<f32>()?, [7.0, 7.0]);
    Ok(())
}

#[test]
fn errors_of_hooks_name_the_layer() -> Result<()> {
    let _beside = beside_others();
    let model = seq![Linear::new(2, 2)?, ReLU::new()];
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let handle = model.get_submodule("0")?.register_forward_pre_hook(|_, x| x.reshape([7]))?;
    let error = model.forward(&x).unwrap_err();
    assert!(error.to_string().contains("reshape"), "{error}");
    assert!(error.layer().unwrap().description.contains("Linear"), "{error}");
    handle.remove();
    assert!(model.forward(&x).is_ok());
    Ok(())
}

/// Hooks that add and remove hooks do so for the next computation; handles outlive their modules.
#[test]
fn hooks_may_change_hooks() -> Result<()> {
    let _beside = beside_others();
    let model = Arc::new(seq![Linear::new(2, 2)?]);
    let x = Tensor::ones([1, 2], Device::Cpu)?;
    let calls = Arc::new(AtomicUsize::new(0));
    let own = Arc::new(Mutex::new(None::<kiln_nn::RemovableHandle>));
    let (weak, counted, handle) = (Arc::downgrade(&model), calls.clone(), own.clone());
    let registered = model.register_forward_hook(move |_, _, _| {
        if let Some(handle) = handle.lock().unwrap().take() {
            handle.remove();
        }
        let counted = counted.clone();
        weak.upgrade().unwrap().register_forward_hook(move |_, _, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok::<_, Error>(())
    })?;
    *own.lock().unwrap() = Some(registered);
    for want in [0, 1, 2] {
        model.forward(&x)?;
        assert_eq!(calls.load(Ordering::Relaxed), want);
    }
    let late = model.register_forward_hook(|_, _, _| ())?;
    drop(model);
    late.remove();
    Ok(())
}

/// What a replaced layer's place had goes with it.
#[test]
fn a_replaced_layer_leaves_without_hooks() -> Result<()> {
    let _beside = beside_others();
    let mut model = seq![ReLU::new(), Linear::new(2, 2)?];
    model.get_submodule("0")?.register_forward_hook(|_, _, y| y.add(1))?;
    let x = Tensor::zeros([1, 2], Device::Cpu)?;
    model.replace(1, ReLU::new())?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [1.0; 2]);
    let old = model.replace(0, ReLU::new())?;
    assert_eq!(model.forward(&x)?.to_vec::<f32>()?, [0.0; 2]);
    assert_eq!(old.forward(&x)?.to_vec::<f32>()?, [0.0; 2]);
    let state: StateDict = model.state_dict();
    assert!(state.is_empty());
    Ok(())
}
