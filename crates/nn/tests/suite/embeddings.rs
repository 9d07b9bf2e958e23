//! Embeddings from given tables, and what they refuse. (`modules` compares values, gradients and printing with PyTorch.)

use kiln_nn::{
    BagMode, Embedding, EmbeddingBag, EmbeddingBagOptions, EmbeddingOptions, Module, ModuleTree,
    optim::{Optimizer, SGD},
};
use kiln_tensor::{DType, Device, Result, Tensor};

#[test]
fn given_tables_are_shared_and_frozen_if_asked() -> Result<()> {
    let table = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], Device::Cpu)?;
    let words = Tensor::new(&[2i64, 0], Device::Cpu)?;
    let frozen = Embedding::from_pretrained(&table, true, EmbeddingOptions::default().padding_idx(1))?;
    assert_eq!(frozen.forward(&words)?.to_vec::<f32>()?, [5., 6., 1., 2.]);
    assert!(!frozen.forward(&words)?.requires_grad());
    assert_eq!(frozen.to_string(), "Embedding(3, 2, padding_idx=1)");

    let trained = Embedding::from_pretrained(&table, false, EmbeddingOptions::default())?;
    let mut optimizer = SGD::new(trained.named_parameters(), 1.0)?;
    trained.forward(&words)?.sum(())?.backward()?;
    optimizer.step()?;
    assert_eq!(table.to_vec::<f32>()?, [0., 1., 3., 4., 4., 5.]);
    // A table with a history is taken as it is.
    let scaled = trained.weight.mul(2)?;
    let bag = EmbeddingBag::from_pretrained(&scaled, false, EmbeddingBagOptions::default().mode(BagMode::Sum))?;
    assert!(bag.weight.is_leaf() && bag.weight.requires_grad());
    assert_eq!(bag.forward(&words.unsqueeze(0)?)?.to_vec::<f32>()?, [8., 12.]);
    Ok(())
}

/// Of the rows that are looked up those that are too long are shortened, in the table, also in half precision and without
/// recording; the others keep their bits.
#[test]
fn long_rows_are_shortened_in_the_table() -> Result<()> {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let table = Tensor::new(&[[3f32, 4.], [0.3, 0.4], [6., 8.], [0., 0.]], Device::Cpu)?.to_dtype(dtype)?;
        let embedding = Embedding::from_pretrained(&table, false, EmbeddingOptions::default().max_norm(2.0))?;
        let out = embedding.forward(&Tensor::new(&[[0i64, 1], [3, 0]], Device::Cpu)?)?;
        let close = |got: &Tensor, want: &[f32]| -> Result<()> {
            let got = got.detach().to_dtype(DType::F32)?.to_vec::<f32>()?;
            assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 0.01), "{dtype}: {got:?}");
            Ok(())
        };
        close(&out, &[1.2, 1.6, 0.3, 0.4, 0., 0., 1.2, 1.6])?;
        // Row 2 was not asked for.
        close(&table, &[1.2, 1.6, 0.3, 0.4, 6., 8., 0., 0.])?;
        assert!(out.requires_grad() && embedding.weight.is_leaf());
        out.sum(())?.backward()?;
        close(&embedding.weight.grad().unwrap(), &[2., 2., 1., 1., 0., 0., 1., 1.])?;
    }
    Ok(())
}

#[test]
fn impossible_options_are_refused() {
    let refused = |options: EmbeddingOptions| Embedding::with_options(3, 2, options, Device::Cpu).is_err();
    let options = EmbeddingOptions::default();
    assert!(refused(options.max_norm(-1.0)) && refused(options.max_norm(f64::NAN)));
    assert!(refused(options.norm_type(0.0)) && refused(options.padding_idx(3)));
    let bag = |options| EmbeddingBag::with_options(3, 2, options, Device::Cpu);
    assert!(bag(EmbeddingBagOptions::default().max_norm(-1.0)).is_err());
    let table = Tensor::ones([3, 2], Device::Cpu).unwrap();
    assert!(Embedding::from_pretrained(&table.flatten_all().unwrap(), true, options).is_err(), "a vector");
    assert!(Embedding::from_pretrained(&table, true, options.padding_idx(3)).is_err());
    assert!(EmbeddingBag::from_pretrained(&table, true, EmbeddingBagOptions::default().padding_idx(3)).is_err());
    // Gradients of maxima belong to one number each.
    let words = Tensor::new(&[[0i64, 1]], Device::Cpu).unwrap();
    let scaled = bag(EmbeddingBagOptions::default().mode(BagMode::Max).scale_grad_by_freq(true)).unwrap();
    assert!(scaled.forward(&words).unwrap_err().to_string().contains("frequency"));
    let outside = Embedding::with_options(3, 2, options.max_norm(1.0), Device::Cpu).unwrap();
    let error = outside.forward(&Tensor::new(&[5i64], Device::Cpu).unwrap()).unwrap_err().to_string();
    assert!(error.contains("index 5"), "{error}");
}
