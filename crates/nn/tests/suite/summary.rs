//! Summaries of any derived model, with any inputs, counted while the model runs.

use kiln_nn::{
    Conv2d, Conv2dOptions, ConvTranspose2d, Embedding, Flatten, LayerNorm, Linear, Module, ModuleTree, Parameter, ReLU,
    Sequential, Summary, seq, summary, summary_of,
};
use kiln_tensor::{DType, Device, Result, Tensor};

fn names(table: &Summary) -> Vec<String> {
    table.rows().iter().map(|row| format!("{} {}", row.name, row.kind)).collect()
}

#[derive(Module)]
struct Block {
    conv: Conv2d,
    relu: ReLU,
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.relu.forward(&self.conv.forward(x)?.add(x)?)
    }
}

#[derive(Module)]
struct Net {
    blocks: Vec<Block>,
    features: Sequential,
    scale: Parameter,
}

impl Module for Net {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        // Values may be read: a summary counts what is done this time.
        assert!(!x.sum(())?.item::<f32>()?.is_nan());
        self.features.forward(&x)?.mul(&*self.scale)
    }
}

fn block() -> Result<Block> {
    let same = Conv2dOptions::default().padding(1);
    Ok(Block { conv: Conv2d::with_options(2, 2, 3, same)?, relu: ReLU::new() })
}

#[test]
fn nested_modules_are_named_by_their_paths() -> Result<()> {
    let features = seq![ReLU::new(), Flatten::new(), seq![Linear::new(32, 3)?, ReLU::new()]];
    let scale = Parameter::new(Tensor::ones(3, Device::Cpu)?)?;
    let net = Net { blocks: vec![block()?, block()?], features, scale };
    let table = summary(&net, [5, 2, 4, 4])?;
    let want = [
        "blocks.0.conv Conv2d",
        " add",
        "blocks.0.relu ReLU",
        "blocks.1.conv Conv2d",
        " add",
        "blocks.1.relu ReLU",
        " sum",
        "features.0 ReLU",
        "features.1 Flatten",
        "features.2.0 Linear",
        "features.2.1 ReLU",
        " mul",
    ];
    assert_eq!(names(&table), want);
    assert!(net.is_training());

    let conv = 2 * 2 * 9;
    assert_eq!(table.parameters(), 2 * (conv + 2) + 32 * 3 + 3 + 3);
    assert_eq!(table.multiply_adds() as usize, 5 * (2 * conv * 16 + 32 * 3));
    let (images, scores) = (5 * 2 * 16 * 4, 5 * 3 * 4);
    // Two convolutions, two additions, three ReLUs; the flattened view is free; one sum; linear, ReLU and product.
    assert_eq!(table.bytes(), 7 * images + 4 + 3 * scores);
    assert_eq!(table.rows()[8].bytes, 0);
    assert!(table.to_string().contains("features.2.0 (Linear)"));
    Ok(())
}

#[derive(Module)]
struct Attention {
    words: Embedding,
    norm: LayerNorm,
    query: Linear,
}

#[test]
fn integers_and_several_inputs() -> Result<()> {
    let model = Attention { words: Embedding::new(50, 8)?, norm: LayerNorm::new(&[8])?, query: Linear::new(8, 8)? };
    let words = Tensor::zeros([2, 6], (DType::I64, Device::Cpu))?;
    let mask = Tensor::zeros([6, 6], (DType::Bool, Device::Cpu))?;
    let table = summary_of(&model, || {
        let x = model.norm.forward(&model.words.forward(&words)?)?;
        let scores = model.query.forward(&x)?.matmul(&x.transpose(1, 2)?)?;
        scores.masked_fill(&mask, f64::NEG_INFINITY)?.softmax(-1)?.matmul(&x)
    })?;
    assert_eq!(names(&table)[..3], ["words Embedding", "norm LayerNorm", "query Linear"]);
    assert_eq!(names(&table)[3], " matmul");
    // The product with the weight, and twice that of each pair of words.
    assert_eq!(table.multiply_adds(), 2 * 6 * 8 * 8 + 2 * (2 * 6 * 6 * 8));
    assert_eq!(table.parameters(), model.num_parameters());
    Ok(())
}

/// A layer that runs twice has two rows, and its parameters count once.
#[test]
fn layers_that_run_twice() -> Result<()> {
    let layer = Linear::new(4, 4)?;
    let x = Tensor::zeros([3, 2, 4], Device::Cpu)?;
    let table = summary_of(&layer, || layer.forward(&layer.forward(&x)?))?;
    let parameters: Vec<usize> = table.rows().iter().map(|row| row.parameters).collect();
    assert_eq!((parameters, table.parameters(), table.multiply_adds()), (vec![20, 0], 20, 2 * 6 * 16));
    Ok(())
}

#[test]
fn products_and_convolutions_are_counted() -> Result<()> {
    let ones = |shape: &[usize]| Tensor::ones(shape, Device::Cpu);
    let none = ReLU::new();
    let count = |f: &dyn Fn() -> Result<Tensor>| Ok::<_, kiln_tensor::Error>(summary_of(&none, f)?.multiply_adds());
    let (a, b) = (ones(&[2, 3, 4])?, ones(&[4, 5])?);
    assert_eq!(count(&|| a.matmul(&b))?, 2 * 3 * 4 * 5);
    assert_eq!(count(&|| a.flatten(0, -1)?.matmul(&a.flatten(0, -1)?))?, 24);
    assert_eq!(count(&|| b.matmul(&ones(&[5])?))?, 20);
    assert_eq!(count(&|| Tensor::einsum("bij,jk->bik", &[&a, &b]))?, 2 * 3 * 4 * 5);
    assert_eq!(count(&|| a.bmm(&ones(&[2, 4, 7])?))?, 2 * 3 * 4 * 7);
    let up = ConvTranspose2d::new(3, 6, 2)?;
    assert_eq!(count(&|| up.forward(&ones(&[2, 3, 5, 5])?))?, 2 * 3 * 25 * 6 * 4);
    let grouped = Conv2d::with_options(4, 8, 3, Conv2dOptions::default().groups(2))?;
    assert_eq!(count(&|| grouped.forward(&ones(&[1, 4, 5, 5])?))?, 8 * 9 * (2 * 9));
    // No channels, no images: nothing.
    assert_eq!(count(&|| grouped.forward(&ones(&[0, 4, 5, 5])?))?, 0);
    Ok(())
}

/// A summary inside a forward pass, and a trace: the outer one has no steps of theirs, and does not mistake them for its own.
#[test]
fn summaries_and_traces_inside_are_their_own() -> Result<()> {
    let (layer, x) = (Linear::new(4, 4)?, Tensor::zeros([3, 4], Device::Cpu)?);
    let table = summary_of(&layer, || {
        let y = layer.forward(&x)?.relu()?;
        assert_eq!(summary(&layer, [7, 4])?.multiply_adds(), 7 * 16);
        kiln_tensor::autograd::trace(|| layer.forward(&layer.forward(&x)?))?;
        y.exp()
    })?;
    assert_eq!(table.multiply_adds(), 3 * 16);
    assert_eq!(table.rows().last().map(|row| row.kind.as_str()), Some("exp"));
    Ok(())
}

#[test]
fn what_fails_leaves_nothing_behind() -> Result<()> {
    let layer = Linear::new(4, 4)?;
    assert!(summary(&layer, [2, 5]).is_err());
    assert!(layer.is_training());
    let x = layer.forward(&Tensor::ones([1, 4], Device::Cpu)?)?;
    assert_eq!(x.to_vec::<f32>()?.len(), 4);
    Ok(())
}
