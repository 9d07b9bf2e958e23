//! Passes over a dataset for the examples of convolutional networks.

use std::time::{Duration, Instant};

use crate::autocast::{Low, ScaledOptimizer, in_region};
use anyhow::Result;
use kiln::{CapturedStep, data::DataLoader, nn::CrossEntropyLoss, prelude::*};

/// Measurements of a pass over the training images.
pub struct Pass {
    pub loss: f32,
    pub images: usize,
    pub time: Duration,
    /// The part of it spent waiting for the loader.
    pub waited: Duration,
}

impl Pass {
    pub fn images_per_second(&self) -> f64 {
        self.images as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub fn waited_share(&self) -> f64 {
        100.0 * self.waited.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }
}

/// What a step does.
type Body<'a> = Box<dyn FnMut(&mut ScaledOptimizer, &(Tensor, Tensor)) -> kiln::Result<Tensor> + 'a>;
pub type Step<'a> = CapturedStep<ScaledOptimizer, (Tensor, Tensor), Tensor, Body<'a>>;

/// A step on one batch, which returns its loss. With `graph` a GPU captures it once and then launches it as a whole. `prepare`
/// changes each batch of images; with `low`, the forward pass is in a region of autocast.
pub fn step<'a>(
    device: Device,
    graph: bool,
    low: Option<Low>,
    model: &'a dyn Module,
    prepare: &'a dyn Fn(Tensor) -> kiln::Result<Tensor>,
) -> Step<'a> {
    let loss_fn = CrossEntropyLoss::new();
    let body: Body<'a> = Box::new(move |optimizer, (x, y)| {
        let loss = in_region(low, || loss_fn.forward(&model.forward(&prepare(x.clone())?)?, y))?;
        optimizer.step(&loss)?;
        Ok(loss)
    });
    let step = CapturedStep::new(device, body);
    // What cannot be captured runs all the same.
    if graph { step.eager_fallback(true) } else { step.max_graphs(0) }
}

/// One pass over the training images, at most `most` batches, by steps that return the loss.
pub fn train(
    loader: &DataLoader,
    model: &dyn Module,
    step: &mut dyn FnMut(&(Tensor, Tensor)) -> kiln::Result<Tensor>,
    most: usize,
) -> Result<Pass> {
    let size = loader.dataset_len();
    let (start, mut waited, mut images, mut losses) = (Instant::now(), Duration::ZERO, 0, Vec::new());
    model.train();
    let mut batches = loader.progress();
    for batch in 0..most {
        let asked = Instant::now();
        let Some(data) = batches.next() else { break };
        waited += asked.elapsed();
        let data = data?;
        let loss = step(&data)?;
        if batch % 100 == 0 {
            let loss = loss.item::<f32>()?;
            batches.println(format_args!("loss: {loss:>7.6} [{images:>5}/{size:>5}]"));
        }
        losses.push(loss);
        images += data.1.numel();
    }
    let loss = if losses.is_empty() { f32::NAN } else { Tensor::stack(&losses, 0)?.mean(())?.item::<f32>()? };
    Ok(Pass { loss, images, time: start.elapsed(), waited })
}

/// Loss and accuracy (0 to 1) on the test images, at most `most` batches; printed as the tutorials do.
pub fn test(
    loader: &DataLoader,
    model: &dyn Module,
    prepare: &dyn Fn(Tensor) -> kiln::Result<Tensor>,
    low: Option<Low>,
    most: usize,
) -> Result<(f32, f64)> {
    let loss_fn = CrossEntropyLoss::new();
    model.eval();
    let _guard = no_grad_guard();
    let (mut losses, mut correct, mut images) = (Vec::new(), Vec::new(), 0);
    for data in loader.iter().take(most) {
        let (x, y) = data?;
        let (logits, loss) = in_region(low, || {
            let logits = model.forward(&prepare(x)?)?;
            let loss = loss_fn.forward(&logits, &y)?;
            Ok((logits, loss))
        })?;
        losses.push(loss);
        correct.push(logits.argmax(1)?.eq(&y)?.sum(())?);
        images += y.numel();
    }
    anyhow::ensure!(images > 0, "there are no test images");
    let loss = Tensor::stack(&losses, 0)?.mean(())?.item::<f32>()?;
    let correct = Tensor::stack(&correct, 0)?.sum(())?.item::<i64>()? as f64 / images as f64;
    println!("Test Error: \n Accuracy: {:>0.1}%, Avg loss: {loss:>8.6} \n", 100.0 * correct);
    Ok((loss, correct))
}
