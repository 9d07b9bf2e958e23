//! What batches of Fashion-MNIST cost: `cargo run --release -p kiln-data --example batch_cost`.

use std::{sync::Arc, time::Instant};

use kiln_data::{DataLoader, Dataset, FashionMNIST};
use kiln_tensor::Result;

fn main() -> Result<()> {
    let start = Instant::now();
    let data = Arc::new(FashionMNIST::train().load()?);
    println!("{data}\nloaded in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    for num_workers in [0, 1, 2] {
        for batch_size in [64, 512] {
            let builder = DataLoader::builder(data.clone()).batch_size(batch_size).shuffle(true);
            let loader = builder.num_workers(num_workers).build()?;
            let mut best = f64::INFINITY;
            for _ in 0..5 {
                let start = Instant::now();
                for batch in &loader {
                    batch?;
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let (each, rate) = (best * 1e6 / loader.len() as f64, data.len() as f64 / best);
            println!("batch {batch_size:3}, {num_workers} workers: {each:6.1} µs a batch, {rate:9.0} images/s");
        }
    }
    Ok(())
}
