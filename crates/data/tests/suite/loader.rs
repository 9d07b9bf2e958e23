//! The guarantees of `DataLoader`: the same order for every number of workers, errors instead of hangs, bounded memory,
//! workers that stop, and resuming in the middle of an epoch.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use kiln_data::{
    BatchSampler, Batches, DataLoader, Dataset, DatasetExt, DistributedSampler, Epoch, LoaderState, RandomSampler,
    Sampler, Samples, SequentialSampler, TensorDataset, WeightedRandomSampler, transforms::RandomCrop,
};
use kiln_tensor::{DType, Device, Error, Result, Tensor};

/// Sample `i` is `(i, 10 i)`; reading it may do something.
struct Numbers {
    len: usize,
    read: Box<dyn Fn(usize) -> Result<()> + Send + Sync>,
}

impl Numbers {
    fn new(len: usize) -> Numbers {
        Numbers { len, read: Box::new(|_| Ok(())) }
    }
    fn reading(len: usize, read: impl Fn(usize) -> Result<()> + Send + Sync + 'static) -> Numbers {
        Numbers { len, read: Box::new(read) }
    }
}

impl Dataset for Numbers {
    type Item = (i64, f32);
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, index: usize) -> Result<(i64, f32)> {
        self.check(index)?;
        (self.read)(index)?;
        Ok((index as i64, index as f32 * 10.0))
    }
}

/// Fails the test instead of letting it hang.
fn within<T: Send + 'static>(seconds: u64, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(f()));
    match receiver.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

fn indices(batch: &(Tensor, Tensor)) -> Vec<i64> {
    batch.0.to_vec().unwrap()
}

fn epoch(loader: &DataLoader) -> Vec<Vec<i64>> {
    loader.iter().map(|batch| indices(&batch.unwrap())).collect()
}

#[test]
fn same_batches_for_every_number_of_workers() -> Result<()> {
    for shuffle in [false, true] {
        let epochs = |workers: usize| -> Result<Vec<Vec<Vec<i64>>>> {
            // Some samples take longer than others, so that workers finish out of order.
            let data = Numbers::reading(103, |i| {
                thread::sleep(Duration::from_micros(i as u64 * 7919 % 300));
                Ok(())
            });
            let loader =
                DataLoader::builder(data).batch_size(8).shuffle(shuffle).seed(3).num_workers(workers).build()?;
            Ok((0..3).map(|_| epoch(&loader)).collect())
        };
        let expected = epochs(0)?;
        assert_eq!(expected[0] == expected[1], !shuffle);
        for workers in [1, 2, 4, 20] {
            assert_eq!(epochs(workers)?, expected, "{workers} workers");
        }
        for epoch in expected {
            let mut all = epoch.concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..103));
        }
    }
    Ok(())
}

#[test]
fn lengths() -> Result<()> {
    for (n, size, drop_last, expected) in [(10, 4, false, 3), (10, 4, true, 2), (8, 4, false, 2), (0, 4, false, 0)] {
        for workers in [0, 2] {
            let builder = DataLoader::builder(Numbers::new(n)).batch_size(size).drop_last(drop_last);
            let loader = builder.num_workers(workers).build()?;
            assert_eq!((loader.len(), loader.dataset_len(), loader.batch_size()), (expected, n, Some(size)));
            let mut iter = loader.iter();
            for left in (0..expected).rev() {
                assert_eq!(iter.len(), left + 1);
                assert!(iter.next().is_some_and(|batch| batch.is_ok()));
                assert_eq!(iter.len(), left);
            }
            assert!(iter.next().is_none() && iter.next().is_none());
        }
    }
    Ok(())
}

/// The last batch may have one sample, and a batch of a user's sampler none: shapes keep their other extents, nothing hangs.
#[test]
fn batches_of_one_and_of_none() -> Result<()> {
    let rows = || TensorDataset::new((Tensor::ones([9, 3], Device::Cpu)?, Tensor::zeros(9, DType::I64)?));
    for workers in [0, 1, 4] {
        let loader = DataLoader::builder(rows()?).batch_size(4).num_workers(workers).build()?;
        let dims: Vec<Vec<usize>> = loader.iter().map(|batch| Ok(batch?.0.dims().to_vec())).collect::<Result<_>>()?;
        assert_eq!(dims, [[4, 3], [4, 3], [1, 3]]);
        // No batch at all: fewer samples than a batch has, and the rest is dropped.
        let none = DataLoader::builder(rows()?).batch_size(10).drop_last(true).num_workers(workers).build()?;
        assert!(none.is_empty() && none.iter().next().is_none() && none.iter().next().is_none());
        let state = none.state();
        none.set_state(state)?;
        assert!(none.iter().next().is_none());

        let parts = || Given(vec![vec![], vec![2], vec![], vec![0, 1]]);
        let loader = DataLoader::builder(rows()?).batch_sampler(parts()).num_workers(workers).build()?;
        let dims: Vec<usize> = loader.iter().map(|batch| batch?.0.size(0)).collect::<Result<_>>()?;
        assert_eq!(dims, [0, 1, 0, 2]);
        // Samples that are collated one by one: of none, the shape is not known.
        let loader = DataLoader::builder(Numbers::new(3)).batch_sampler(parts()).num_workers(workers).build()?;
        let dims: Vec<usize> = loader.iter().map(|batch| batch?.0.size(0)).collect::<Result<_>>()?;
        assert_eq!(dims, [0, 1, 0, 2]);
    }
    Ok(())
}

/// The same batches in every epoch.
struct Given(Vec<Vec<usize>>);

impl BatchSampler for Given {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn batches(&self, _: Epoch) -> Result<Vec<Vec<usize>>> {
        Ok(self.0.clone())
    }
}

/// Workers that were seeded alike would change their samples alike. Here no two draws of an epoch are equal, whoever makes
/// them, and a loader that is resumed goes on with those that would have come.
#[test]
fn random_transforms_never_repeat_and_resume() -> Result<()> {
    // Each pixel of the image is its place, so a crop of one pixel tells where it was drawn.
    let image = Tensor::arange(0, 1000 * 1000, Device::Cpu)?.reshape([1, 1000, 1000])?;
    let build = |workers| {
        let samples: Samples<(Tensor, i64)> = (0..60).map(|i| (image.clone(), i)).collect();
        let data = samples.transform(RandomCrop::new(1, 1));
        DataLoader::builder(data).batch_size(7).shuffle(true).seed(3).num_workers(workers).build()
    };
    let draws = |loader: &DataLoader, skip: usize| -> Result<Vec<i64>> {
        Ok(loader.iter().skip(skip).map(|batch| batch?.0.to_vec::<i64>()).collect::<Result<Vec<_>>>()?.concat())
    };
    let alone = build(0)?;
    let epochs = [draws(&alone, 0)?, draws(&alone, 0)?];
    let different: HashSet<i64> = epochs.concat().into_iter().collect();
    assert_eq!(different.len(), 120, "a draw came twice");
    for workers in [1, 4] {
        let loader = build(workers)?;
        assert_eq!([draws(&loader, 0)?, draws(&loader, 0)?], epochs);
        for taken in [1, 4, 8] {
            let first = build(workers)?;
            let mut iter = first.iter();
            (0..taken).try_for_each(|_| iter.next().expect("nine batches").map(|_| ()))?;
            // With the iterator alive, whose workers are ahead of it.
            let resumed = build(4 - workers)?;
            resumed.set_state(first.state())?;
            assert_eq!(draws(&resumed, 0)?, epochs[0][7 * taken..], "resumed after {taken} batches");
            assert_eq!(draws(&resumed, 0)?, epochs[1]);
        }
    }
    Ok(())
}

#[test]
fn an_error_ends_the_epoch() -> Result<()> {
    for workers in [0, 1, 3] {
        within(20, move || -> Result<()> {
            let bad = |i| if i == 17 { Err(Error::argument("get", "sample 17 is damaged")) } else { Ok(()) };
            let loader = DataLoader::builder(Numbers::reading(40, bad)).batch_size(5).num_workers(workers).build()?;
            let mut iter = loader.iter();
            for _ in 0..3 {
                assert!(iter.next().is_some_and(|batch| batch.is_ok()));
            }
            let error = iter.next().and_then(Result::err).expect("the fourth batch has the damaged sample");
            assert_eq!(error.to_string(), "get: sample 17 is damaged (sample 17 of Numbers)");
            assert_eq!((iter.len(), iter.next().is_none(), iter.next().is_none()), (0, true, true));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_panic_is_an_error() -> Result<()> {
    for workers in [0, 1, 3] {
        within(20, move || -> Result<()> {
            let bad = |i| if i == 12 { panic!("no sample {i}") } else { Ok(()) };
            let loader = DataLoader::builder(Numbers::reading(40, bad)).batch_size(5).num_workers(workers).build()?;
            let batches: Vec<Result<_>> = loader.iter().collect();
            assert_eq!(batches.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
            let text = batches[2].as_ref().map_or_else(ToString::to_string, |_| String::new());
            assert!(text.contains("batch 2 panicked at sample 12: no sample 12"), "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn dropping_the_iterator_stops_and_joins_the_workers() -> Result<()> {
    within(20, || -> Result<()> {
        let alive = Arc::new(());
        let (reads, held) = (Arc::new(AtomicUsize::new(0)), alive.clone());
        let counter = reads.clone();
        let data = Numbers::reading(1_000_000, move |_| {
            let _held = &held;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let loader = DataLoader::builder(data).batch_size(10).num_workers(4).build()?;
        let mut iter = loader.iter();
        assert!(iter.next().is_some());
        drop(iter);
        let after = reads.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(reads.load(Ordering::SeqCst), after, "a worker still reads");
        drop(loader);
        assert_eq!(Arc::strong_count(&alive), 1, "a worker still holds the dataset");
        Ok(())
    })
}

#[test]
fn a_slow_consumer_bounds_what_is_made() -> Result<()> {
    within(20, || -> Result<()> {
        for (workers, prefetch) in [(1, 1), (2, 2), (3, 4)] {
            let made = Arc::new(AtomicUsize::new(0));
            let counter = made.clone();
            let data = Numbers::reading(1000, move |_| {
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            let loader = DataLoader::builder(data).num_workers(workers).prefetch(prefetch).build()?;
            let mut iter = loader.iter();
            for taken in 1..=3 {
                assert!(iter.next().is_some());
                thread::sleep(Duration::from_millis(60));
                let most = taken + workers * prefetch;
                let made = made.load(Ordering::SeqCst);
                assert!(made <= most, "{made} batches made, {taken} taken, {workers} workers, prefetch {prefetch}");
            }
        }
        Ok(())
    })
}

#[test]
fn resumes_in_the_middle_of_an_epoch() -> Result<()> {
    let build = |workers, seed| {
        DataLoader::builder(Numbers::new(50)).batch_size(8).shuffle(true).seed(seed).num_workers(workers).build()
    };
    let whole: Vec<Vec<i64>> = {
        let loader = build(0, 11)?;
        (0..3).flat_map(|_| epoch(&loader)).collect()
    };
    for stop in 0..=whole.len() {
        // The first run stops after `stop` batches …
        let (first, mut seen) = (build(2, 11)?, Vec::new());
        'run: for _ in 0..3 {
            for batch in &first {
                if seen.len() == stop {
                    break 'run;
                }
                seen.push(indices(&batch?));
                if seen.len() == stop {
                    break 'run;
                }
            }
        }
        let state = if stop == 0 { build(2, 11)?.state() } else { first.state() };
        // … and a second one, with another seed until it takes the state over, goes on.
        let text = serde_json::to_string(&state).map_err(Error::other)?;
        let state: LoaderState = serde_json::from_str(&text).map_err(Error::other)?;
        let second = build(1, 99)?;
        second.set_state(state)?;
        assert_eq!(second.state(), state);
        while seen.len() < whole.len() {
            seen.extend(epoch(&second));
        }
        assert_eq!(seen, whole, "stopped after {stop} batches");
    }
    Ok(())
}

#[test]
fn epochs_and_states() -> Result<()> {
    let loader = DataLoader::builder(Numbers::new(20)).batch_size(4).shuffle(true).seed(5).build()?;
    let place = |loader: &DataLoader| (loader.state().epoch, loader.state().position);
    assert_eq!(place(&loader), (0, 0));
    let epochs = [epoch(&loader), epoch(&loader)];
    assert_eq!(place(&loader), (2, 0));
    loader.set_epoch(1);
    assert_eq!(epoch(&loader), epochs[1]);
    loader.set_epoch(0);
    let mut first = loader.iter();
    assert!(first.next().is_some() && first.next().is_some());
    assert_eq!(place(&loader), (0, 2));
    // A newer iterator is another epoch; the older one goes on undisturbed and unnoticed.
    let mut second = loader.iter();
    assert!(second.next().is_some());
    assert_eq!(place(&loader), (1, 1));
    assert_eq!(indices(&first.next().expect("three are left")?), epochs[0][2]);
    assert_eq!(place(&loader), (1, 1));
    let other = DataLoader::builder(Numbers::new(20)).batch_size(5).build()?;
    assert!(other.set_state(loader.state()).is_err());
    assert!(other.set_state(LoaderState { position: 0, ..loader.state() }).is_ok());
    Ok(())
}

#[test]
fn bad_options() {
    let builder = || DataLoader::builder(Numbers::new(4));
    let sampler = || SequentialSampler::new(4);
    assert!(builder().batch_size(0).build().is_err());
    assert!(builder().prefetch(0).build().is_err());
    assert!(builder().sampler(sampler()).shuffle(true).build().is_err());
    let batches = || Batches::new(sampler(), 2, false).unwrap();
    assert!(builder().batch_sampler(batches()).build().is_ok());
    assert!(builder().batch_sampler(batches()).batch_size(3).build().is_err());
    assert!(builder().batch_sampler(batches()).shuffle(true).build().is_err());
    assert!(DataLoader::new(Numbers::new(4), 0).is_err());
}

#[test]
fn samplers_of_the_user() -> Result<()> {
    struct Backwards(usize);
    impl Sampler for Backwards {
        fn len(&self) -> usize {
            self.0
        }
        fn indices(&self, _: Epoch) -> Result<Vec<usize>> {
            Ok((0..self.0).rev().collect())
        }
    }
    let loader = DataLoader::builder(Numbers::new(5)).sampler(Backwards(5)).batch_size(2).num_workers(2).build()?;
    assert_eq!(epoch(&loader), [vec![4, 3], vec![2, 1], vec![0]]);
    // One sample too many: an error of the batch that has it.
    let loader = DataLoader::builder(Numbers::new(5)).sampler(Backwards(6)).batch_size(3).num_workers(2).build()?;
    let mut iter = loader.iter();
    assert!(iter.next().is_some_and(|batch| batch.is_err()) && iter.next().is_none());

    struct Pairs;
    impl BatchSampler for Pairs {
        fn len(&self) -> usize {
            2
        }
        fn batches(&self, epoch: Epoch) -> Result<Vec<Vec<usize>>> {
            if epoch.number == 1 {
                Err(Error::argument("Pairs", "only one epoch"))
            } else {
                Ok(vec![vec![0, 3], vec![1]])
            }
        }
    }
    let loader = DataLoader::builder(Numbers::new(5)).batch_sampler(Pairs).num_workers(1).build()?;
    assert_eq!(epoch(&loader), [vec![0, 3], vec![1]]);
    let mut iter = loader.iter();
    assert_eq!(iter.len(), 1);
    assert!(iter.next().is_some_and(|batch| batch.is_err()) && iter.next().is_none());

    let weights: Vec<f64> = (0..10).map(|i| f64::from(i % 2)).collect();
    let sampler = WeightedRandomSampler::new(weights, 100)?;
    let loader = DataLoader::builder(Numbers::new(10)).sampler(sampler).batch_size(100).build()?;
    let drawn: HashSet<i64> = epoch(&loader).concat().into_iter().collect();
    assert_eq!(drawn, HashSet::from([1, 3, 5, 7, 9]));
    assert_eq!(RandomSampler::new(3).len(), 3);
    Ok(())
}

#[test]
fn collate_functions_and_devices() -> Result<()> {
    let sum = |samples: Vec<(i64, f32)>| Ok(samples.iter().map(|(i, _)| i).sum::<i64>());
    let loader = DataLoader::builder(Numbers::new(5)).batch_size(2).collate(sum).num_workers(2).build()?;
    assert_eq!(loader.iter().collect::<Result<Vec<_>>>()?, [1, 5, 4]);

    let named: Samples<(f32, String)> = (0..3).map(|i| (i as f32, format!("n{i}"))).collect();
    let loader = DataLoader::builder(named).batch_size(3).device(Device::Cpu).build()?;
    let (x, names) = loader.iter().next().expect("one batch")?;
    assert_eq!((x.to_vec::<f32>()?, names), (vec![0., 1., 2.], vec!["n0".into(), "n1".into(), "n2".into()]));
    // Whichever build this is, there are not that many GPUs.
    let loader = DataLoader::builder(Numbers::new(5)).device(Device::Cuda(4096)).build()?;
    assert!(loader.iter().next().is_some_and(|batch| batch.is_err()));
    Ok(())
}

#[test]
fn a_shared_dataset_and_a_plain_function() -> Result<()> {
    fn count(loader: &DataLoader) -> Result<usize> {
        loader.into_iter().map(|batch| Ok(batch?.0.numel())).sum()
    }
    let data = Arc::new(Numbers::new(10));
    assert_eq!(count(&DataLoader::new(data.clone(), 3)?)?, 10);
    assert_eq!(count(&DataLoader::builder(data.clone()).drop_last(true).batch_size(3).build()?)?, 9);
    assert_eq!(data.len(), 10);
    Ok(())
}

/// The same threads make the batches of all epochs, and they end with the loader.
#[test]
fn persistent_workers_stay() -> Result<()> {
    within(20, || -> Result<()> {
        for persistent in [false, true] {
            let threads = Arc::new(std::sync::Mutex::new(HashSet::new()));
            let seen = threads.clone();
            let data = Numbers::reading(40, move |_| {
                seen.lock().unwrap().insert(thread::current().id());
                thread::sleep(Duration::from_micros(300)); // so that every worker gets its part
                Ok(())
            });
            let builder = DataLoader::builder(data).batch_size(4).shuffle(true).seed(2);
            let loader = builder.num_workers(3).persistent_workers(persistent).build()?;
            let expected = {
                let plain = DataLoader::builder(Numbers::new(40)).batch_size(4).shuffle(true).seed(2).build()?;
                [epoch(&plain), epoch(&plain), epoch(&plain), epoch(&plain)]
            };
            for (number, expected) in expected.iter().enumerate() {
                if number == 2 {
                    // An epoch left in its middle gives its threads back, too.
                    assert!(loader.iter().next().is_some());
                } else {
                    assert_eq!(&epoch(&loader), expected);
                }
            }
            assert_eq!(threads.lock().unwrap().len(), if persistent { 3 } else { 12 });
            // Two epochs at once do not wait for each other.
            let (mut first, mut second) = (loader.iter(), loader.iter());
            for _ in 0..10 {
                assert!(first.next().is_some_and(|batch| batch.is_ok()));
                assert!(second.next().is_some_and(|batch| batch.is_ok()));
            }
            drop((first, second, loader));
            assert_eq!(Arc::strong_count(&threads), 1, "a worker still holds the dataset");
        }
        Ok(())
    })
}

#[test]
fn a_bar_changes_nothing() -> Result<()> {
    let loader = DataLoader::builder(Numbers::new(10)).batch_size(4).build()?;
    let mut batches = loader.progress();
    assert_eq!((batches.len(), batches.position()), (3, 0));
    let mut seen = Vec::new();
    while let Some(batch) = batches.next() {
        seen.push(indices(&batch?));
        assert_eq!(batches.position(), seen.len() as u64);
        batches.println(format_args!("batch {}", seen.len()));
    }
    assert_eq!(seen, epoch(&loader));
    assert!(batches.next().is_none());
    Ok(())
}

#[test]
fn processes_share_the_samples() -> Result<()> {
    let of = |rank| {
        let sampler = DistributedSampler::new(40, rank, 2)?;
        DataLoader::builder(Numbers::new(40)).sampler(sampler).batch_size(5).seed(3).num_workers(1).build()
    };
    let (first, second) = (of(0)?, of(1)?);
    for _ in 0..2 {
        let mut all = [epoch(&first).concat(), epoch(&second).concat()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..40));
    }
    assert_ne!(epoch(&first), {
        first.set_epoch(0);
        epoch(&first)
    });
    Ok(())
}
