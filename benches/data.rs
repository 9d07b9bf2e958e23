//! Benchmarks of data loading: photographs decoded, cropped, flipped and normalized by two threads, and shuffled
//! batches of Fashion-MNIST.
//!
//! `cargo bench --features images --bench data`; `benches/compare_data.py` compares it with torchvision. For that it
//! starts this program with `KILN_BENCH_TURNS=1` and a folder of photographs in `KILN_BENCH_PHOTOS`, which then times
//! one pass for each line on standard input.

#![allow(missing_docs)] // criterion's macro makes a public function

#[path = "../tests/support/checkout.rs"]
mod checkout;

use std::{
    hint::black_box,
    io::BufRead,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group};
use kiln::{
    data::{
        DatasetExt, FashionMNIST, ImageFolder,
        transforms::{Compose, Image, Normalize, RandomHorizontalFlip, RandomResizedCrop, Resize, ToTensor, Transform},
    },
    prelude::*,
};

/// What ImageNet's training does to each photograph.
fn photographs(folder: &Path, workers: usize) -> kiln::Result<DataLoader> {
    let change = Compose((
        RandomResizedCrop::square(224),
        RandomHorizontalFlip::default(),
        ToTensor,
        Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?,
    ));
    DataLoader::builder(ImageFolder::new(folder)?.transform(change))
        .batch_size(32)
        .shuffle(true)
        .num_workers(workers)
        .persistent_workers(true)
        .build()
}

fn pass<B: Send + 'static>(loader: &DataLoader<B>) {
    for batch in loader {
        black_box(batch).expect("the files are whole");
    }
}

fn loading(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("there is room");
    let photo = Resize::new(375, 500)
        .apply(Image::open(checkout::path("tests/golden/transforms/photo.png")).expect("it is there"))
        .expect("it fits");
    std::fs::create_dir(folder.path().join("class")).expect("there is room");
    for number in 0..64 {
        photo.save(folder.path().join(format!("class/{number}.jpg"))).expect("there is room");
    }
    let mut group = criterion.benchmark_group("photographs of 500×375 to 224×224");
    group.measurement_time(Duration::from_secs(8)).sample_size(10).throughput(Throughput::Elements(64));
    for workers in [1, 2] {
        let loader = photographs(folder.path(), workers).expect("the folder is there");
        group.bench_function(format!("{workers} workers"), |bencher| bencher.iter(|| pass(&loader)));
    }
    group.finish();

    let mut group = criterion.benchmark_group("fashion-mnist, shuffled batches of 64");
    group.measurement_time(Duration::from_secs(3)).sample_size(20);
    for workers in [0, 1, 2] {
        let data = FashionMNIST::train().load().expect("the subset is bundled");
        let builder = DataLoader::builder(data).batch_size(64).shuffle(true);
        let loader = builder.num_workers(workers).persistent_workers(true).build().expect("the options fit");
        group.throughput(Throughput::Elements(loader.len() as u64)); // batches
        group.bench_function(format!("{workers} workers"), |bencher| bencher.iter(|| pass(&loader)));
    }
    group.finish();
}

/// Answers each line with the images a second of one pass over the photographs.
fn turns() -> anyhow::Result<()> {
    let folder = std::env::var_os("KILN_BENCH_PHOTOS").map(PathBuf::from);
    let folder = folder.ok_or_else(|| anyhow::anyhow!("KILN_BENCH_PHOTOS names no folder"))?;
    let loader = photographs(&folder, 2)?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        for batch in &loader {
            black_box(batch?);
        }
        println!("{}", loader.dataset_len() as f64 / start.elapsed().as_secs_f64());
    }
    Ok(())
}

criterion_group!(benches, loading);

fn main() -> anyhow::Result<()> {
    if std::env::var_os("KILN_BENCH_TURNS").is_some() {
        return turns();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
