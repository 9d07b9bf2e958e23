//! Cross-validation: a dataset in `k` parts, each of which is held out once; also with the classes' shares kept
//! (scikit-learn's `KFold`, `StratifiedKFold`, and `train_test_split` with `stratify`).

use std::{collections::BTreeMap, sync::Arc};

use kiln_derive::located;
use kiln_tensor::{Error, Result};

use super::{Dataset, Split, Subset};
use crate::epoch::{Epoch, RandomStream};

/// One division of a dataset: the samples to train on, and those held out.
#[derive(Clone, Debug)]
pub struct Fold<D> {
    /// All samples but those of `valid`, in the order of the dataset.
    pub train: Subset<D>,
    /// The samples held out, in the order of the dataset.
    pub valid: Subset<D>,
}

/// The purpose of the random streams of folds.
const PURPOSE: u64 = 3;

fn stream(seed: u64) -> RandomStream {
    Epoch::new(seed, 0).stream(PURPOSE)
}

/// Divides a dataset into `k` parts of nearly equal size, and holds out one after the other: scikit-learn's `KFold`
/// (<https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.KFold.html>). Parts are consecutive samples, or
/// random ones with a seed.
///
/// ```
/// use kiln_data::{Dataset, Samples, k_fold};
///
/// for fold in k_fold((0..10i64).collect::<Samples<_>>(), 5, Some(42))? {
///     assert_eq!((fold.train.len(), fold.valid.len()), (8, 2));
/// }
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// If `k` is less than 2, or there are fewer samples.
#[located(site)]
pub fn k_fold<D: Dataset>(dataset: D, k: usize, seed: Option<u64>) -> Result<Vec<Fold<Arc<D>>>> {
    const OP: &str = "k_fold";
    let len = dataset.len();
    check(OP, k, len)?;
    let order = seed.map_or_else(|| (0..len).collect(), |seed| stream(seed).permutation(len));
    // The first parts get the samples that are left over.
    let mut fold_of = vec![0; len];
    let mut rest = &order[..];
    for fold in 0..k {
        let (part, after) = rest.split_at(len / k + usize::from(fold < len % k));
        part.iter().for_each(|sample| fold_of[*sample] = fold);
        rest = after;
    }
    folds(dataset, &fold_of, k)
}

/// [`k_fold`] in which each part has the classes in the shares of the whole: scikit-learn's `StratifiedKFold`
/// (<https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.StratifiedKFold.html>). `labels` are the classes
/// of all samples, any numbers. Without a seed, the parts are scikit-learn's without `shuffle`.
///
/// # Errors
/// If there is not one label for each sample, `k` is less than 2, or every class has fewer samples.
#[located(site)]
pub fn stratified_k_fold<D: Dataset>(
    dataset: D,
    labels: &[i64],
    k: usize,
    seed: Option<u64>,
) -> Result<Vec<Fold<Arc<D>>>> {
    const OP: &str = "stratified_k_fold";
    let len = dataset.len();
    check(OP, k, len)?;
    let classes = Classes::of(OP, labels, len)?;
    let most = classes.samples.iter().map(Vec::len).max().unwrap_or(0);
    if most < k {
        return Err(Error::argument(OP, format!("{k} parts of classes that have {most} samples at most")));
    }
    // Dealing out the sorted labels in turn gives each part its share of each class, and parts of equal size.
    let sorted = classes.samples.iter().enumerate().flat_map(|(class, samples)| samples.iter().map(move |_| class));
    let mut shares = vec![vec![0usize; k]; classes.samples.len()];
    sorted.enumerate().for_each(|(i, class)| shares[class][i % k] += 1);
    let mut random = seed.map(stream);
    let mut fold_of = vec![0; len];
    for (samples, shares) in classes.samples.iter().zip(shares) {
        let parts: Vec<usize> = shares.iter().enumerate().flat_map(|(part, count)| vec![part; *count]).collect();
        let order =
            random.as_mut().map_or_else(|| (0..samples.len()).collect(), |random| random.permutation(samples.len()));
        samples.iter().zip(order).for_each(|(sample, place)| fold_of[*sample] = parts[place]);
    }
    folds(dataset, &fold_of, k)
}

/// [`random_split`](crate::random_split) in which each part has the classes in the shares of the whole, as nearly as their
/// numbers allow: scikit-learn's `train_test_split` with `stratify`
/// (<https://scikit-learn.org/stable/modules/generated/sklearn.model_selection.train_test_split.html>). `labels` are the
/// classes of all samples, any numbers.
///
/// ```
/// use kiln_data::{Dataset, Samples, stratified_split};
///
/// let labels: Vec<i64> = (0..30).map(|i| i64::from(i % 3 == 0)).collect();
/// let [train, valid] = stratified_split(labels.iter().copied().collect::<Samples<_>>(), &labels, [0.8, 0.2], 42)?;
/// let ones = (0..valid.len()).map(|i| valid.get(i)).sum::<kiln_tensor::Result<i64>>()?;
/// assert_eq!((train.len(), valid.len(), ones), (24, 6, 2));
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
///
/// # Errors
/// If there is not one label for each sample, or the parts do not add up.
#[allow(clippy::needless_pass_by_value)] // an array or a vector, written in the call
#[located(site)]
pub fn stratified_split<D: Dataset, S: Split>(
    dataset: D,
    labels: &[i64],
    parts: S,
    seed: u64,
) -> Result<S::Parts<Subset<Arc<D>>>> {
    const OP: &str = "stratified_split";
    let lengths = parts.lengths(dataset.len()).map_err(|error| error.of_op(OP))?;
    let mut classes = Classes::of(OP, labels, dataset.len())?;
    let mut random = stream(seed);
    for samples in &mut classes.samples {
        *samples = random.permutation(samples.len()).into_iter().map(|place| samples[place]).collect();
    }
    let dataset = Arc::new(dataset);
    let part = |len: usize| {
        let counts: Vec<usize> = classes.samples.iter().map(Vec::len).collect();
        let shares = shares(&counts, len);
        let mut chosen = Vec::with_capacity(len);
        for (samples, share) in classes.samples.iter_mut().zip(shares) {
            chosen.extend(samples.drain(..share));
        }
        // Not class by class.
        let order = random.permutation(chosen.len());
        Subset::new(dataset.clone(), order.into_iter().map(|place| chosen[place]).collect::<Vec<_>>())
    };
    S::pack(lengths.into_iter().map(part).collect::<Result<Vec<_>>>()?)
}

/// The samples of each class, the classes in the order of their first samples.
struct Classes {
    samples: Vec<Vec<usize>>,
}

impl Classes {
    fn of(op: &'static str, labels: &[i64], len: usize) -> Result<Classes> {
        if labels.len() != len {
            return Err(Error::argument(op, format!("{} labels for {len} samples", labels.len())));
        }
        let mut numbers = BTreeMap::new();
        let mut samples: Vec<Vec<usize>> = Vec::new();
        for (sample, label) in labels.iter().enumerate() {
            let class = *numbers.entry(*label).or_insert(samples.len());
            if class == samples.len() {
                samples.push(Vec::new());
            }
            samples[class].push(sample);
        }
        Ok(Classes { samples })
    }
}

/// How many of `len` samples each class gets, in proportion to these counts: rounded down, and then one more for those with
/// the largest remainders.
fn shares(counts: &[usize], len: usize) -> Vec<usize> {
    let total = counts.iter().sum::<usize>().max(1) as u128;
    let exact = |count: &usize| *count as u128 * len as u128;
    let mut shares: Vec<usize> = counts.iter().map(|count| (exact(count) / total) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..counts.len()).collect();
    by_remainder.sort_by_key(|class| std::cmp::Reverse(exact(&counts[*class]) % total));
    let left = len.saturating_sub(shares.iter().sum());
    by_remainder.into_iter().take(left).for_each(|class| shares[class] += 1);
    shares
}

fn check(op: &'static str, k: usize, len: usize) -> Result<()> {
    if k < 2 || len < k {
        return Err(Error::argument(op, format!("{k} parts of {len} samples; at least 2, each with a sample")));
    }
    Ok(())
}

/// The folds, by the number of the one that each sample is held out in.
fn folds<D: Dataset>(dataset: D, fold_of: &[usize], k: usize) -> Result<Vec<Fold<Arc<D>>>> {
    let dataset = Arc::new(dataset);
    let subset = |held_out: bool, fold: usize| {
        let samples = fold_of.iter().enumerate().filter(|(_, of)| (**of == fold) == held_out).map(|(sample, _)| sample);
        Subset::new(dataset.clone(), samples.collect::<Vec<_>>())
    };
    (0..k).map(|fold| Ok(Fold { train: subset(false, fold)?, valid: subset(true, fold)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Samples, *};

    fn samples(len: usize) -> Samples<usize> {
        (0..len).collect()
    }

    #[test]
    fn every_sample_is_held_out_once() -> Result<()> {
        for seed in [None, Some(7)] {
            let folds = k_fold(samples(11), 3, seed)?;
            assert_eq!(folds.iter().map(|fold| fold.valid.len()).collect::<Vec<_>>(), [4, 4, 3]);
            let mut held_out: Vec<usize> = folds.iter().flat_map(|fold| fold.valid.indices().to_vec()).collect();
            assert_eq!(held_out.is_sorted(), seed.is_none());
            held_out.sort_unstable();
            assert_eq!(held_out, (0..11).collect::<Vec<_>>());
            for fold in &folds {
                assert_eq!(fold.train.len() + fold.valid.len(), 11);
                assert!(fold.train.indices().iter().all(|i| !fold.valid.indices().contains(i)));
                assert!(fold.train.indices().is_sorted() && fold.valid.indices().is_sorted());
            }
        }
        let valid =
            |seed| -> Result<Vec<usize>> { Ok(k_fold(samples(20), 4, Some(seed))?[0].valid.indices().to_vec()) };
        assert_eq!(valid(1)?, valid(1)?);
        assert_ne!(valid(1)?, valid(2)?);
        for (len, k) in [(10, 1), (10, 0), (2, 3), (0, 2)] {
            assert!(k_fold(samples(len), k, None).err().unwrap().to_string().contains("k_fold"));
        }
        Ok(())
    }

    #[test]
    fn shuffled_folds_keep_the_classes_shares() -> Result<()> {
        let labels: Vec<i64> = (0..60).map(|i| if i % 6 == 0 { -3 } else { i % 2 }).collect();
        let mut seen = vec![0; 60];
        for fold in stratified_k_fold(samples(60), &labels, 5, Some(1))? {
            let rare = fold.valid.indices().iter().filter(|i| labels[**i] == -3).count();
            assert_eq!((fold.valid.len(), rare), (12, 2));
            fold.valid.indices().iter().for_each(|i| seen[*i] += 1);
        }
        assert_eq!(seen, [1; 60]);
        let error = stratified_k_fold(samples(6), &[0, 1, 2, 0, 1, 2], 3, None).err().unwrap().to_string();
        assert!(error.contains("3 parts of classes that have 2"), "{error}");
        assert!(stratified_k_fold(samples(6), &[0, 1], 2, None).err().unwrap().to_string().contains("2 labels for 6"));
        Ok(())
    }

    #[test]
    fn stratified_parts_cover_without_overlap() -> Result<()> {
        let labels: Vec<i64> = (0..100).map(|i| i64::from(i % 10 == 0)).collect();
        let [train, valid, test] = stratified_split(samples(100), &labels, [0.6, 0.2, 0.2], 3)?;
        let ones = |part: &Subset<_>| part.indices().iter().filter(|i| labels[**i] == 1).count();
        assert_eq!([ones(&train), ones(&valid), ones(&test)], [6, 2, 2]);
        let mut all = [train.indices(), valid.indices(), test.indices()].concat();
        assert!(!all.is_sorted());
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        let [again, ..] = stratified_split(samples(100), &labels, [0.6, 0.2, 0.2], 3)?;
        assert_eq!(again.indices(), train.indices());
        assert!(stratified_split(samples(100), &labels[1..], [50, 50], 0).is_err());
        assert!(stratified_split(samples(100), &labels, [0.5, 0.4], 0).is_err());
        Ok(())
    }
}
