//! PyTorch's quickstart on one page, without options: data, a model, training, a test after each epoch, saving. `mlp`
//! is the same with everything that a real run needs.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```

use kiln::{
    data::FashionMNIST,
    io,
    nn::{CrossEntropyLoss, Flatten, Linear, ReLU, Sequential, seq},
    optim::{Adam, Optimizer},
    prelude::*,
};

#[derive(Module)]
struct Net {
    flatten: Flatten,
    linear_relu_stack: Sequential,
}

impl Net {
    fn new() -> kiln::Result<Net> {
        let linear_relu_stack =
            seq![Linear::new(28 * 28, 512)?, ReLU::new(), Linear::new(512, 512)?, ReLU::new(), Linear::new(512, 10)?];
        Ok(Net { flatten: Flatten::new(), linear_relu_stack })
    }
}

impl Module for Net {
    fn forward(&self, x: &Tensor) -> kiln::Result<Tensor> {
        self.linear_relu_stack.forward(&self.flatten.forward(x)?)
    }
}

fn train(loader: &DataLoader, model: &Net, loss_fn: &CrossEntropyLoss, optimizer: &mut Adam) -> kiln::Result<()> {
    model.train();
    for (batch, data) in loader.iter().enumerate() {
        let (x, y) = data?;
        let loss = loss_fn.forward(&model.forward(&x)?, &y)?;
        optimizer.zero_grad();
        loss.backward()?;
        optimizer.step()?;
        if batch % 100 == 0 {
            println!("loss: {:>7.6} [{:>5}/{}]", loss.item::<f32>()?, batch * x.size(0)?, loader.dataset_len());
        }
    }
    Ok(())
}

fn test(loader: &DataLoader, model: &Net, loss_fn: &CrossEntropyLoss) -> kiln::Result<()> {
    model.eval();
    let _guard = no_grad_guard();
    let (mut loss, mut correct) = (0.0, 0.0);
    for data in loader {
        let (x, y) = data?;
        let pred = model.forward(&x)?;
        loss += loss_fn.forward(&pred, &y)?.item::<f32>()? / loader.len() as f32;
        correct += pred.argmax(1)?.eq(&y)?.sum(())?.item::<f32>()? / loader.dataset_len() as f32;
    }
    println!("Accuracy: {:>0.1}%, average loss: {loss:>8.6}", 100.0 * correct);
    Ok(())
}

fn main() -> kiln::Result<()> {
    let device = Device::cuda_if_available();
    let loader = |data: FashionMNIST| DataLoader::builder(data).batch_size(64).device(device);
    let training = loader(FashionMNIST::train().load()?).shuffle(true).num_workers(1).build()?;
    let tests = loader(FashionMNIST::test().load()?).build()?;

    let model = Net::new()?.to(device)?;
    println!("{model}");
    let loss_fn = CrossEntropyLoss::new();
    let mut optimizer = Adam::new(model.named_parameters(), 1e-3)?;
    for epoch in 1..=2 {
        println!("Epoch {epoch}");
        train(&training, &model, &loss_fn, &mut optimizer)?;
        test(&tests, &model, &loss_fn)?;
    }
    io::save(std::env::temp_dir().join("quickstart.safetensors"), &model.state_dict())
}
