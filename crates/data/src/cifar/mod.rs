//! CIFAR-10 and CIFAR-100: 32×32 color images, read from Python or binary batches.

mod kind;
mod read;

use std::{
    env, fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, Tensor};

pub use self::kind::CifarKind;
use self::kind::{PIXELS, PLANE, SIDE};
use crate::{dataset::Dataset, image::Image};

/// A data set of the CIFAR family in memory: [`CIFAR10`] or [`CIFAR100`] (Krizhevsky, "Learning multiple layers of features
/// from tiny images", 2009).
///
/// A sample is a 32×32 RGB [`Image`] and its label, `i64`, as in torchvision. A batch of untransformed samples is `u8` of shape
/// `[n, 3, 32, 32]`, a quarter of the bytes of floats to upload to a GPU, where [`OnBatch`](crate::transforms::OnBatch)
/// transforms it.
///
/// ```no_run
/// use kiln_data::{CIFAR10, DataLoader, DatasetExt, transforms::{Compose, Normalize, RandomHorizontalFlip, ToTensor}};
///
/// let data = CIFAR10::train().root("data").load()?.transform(Compose((
///     RandomHorizontalFlip::default(),
///     ToTensor,
///     Normalize::new([0.49, 0.48, 0.45], [0.25, 0.24, 0.26])?,
/// )));
/// let loader = DataLoader::builder(data).batch_size(128).shuffle(true).num_workers(2).build()?;
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct CifarLike<K> {
    /// `[n, 3, 32, 32]`.
    images: Vec<u8>,
    labels: Vec<u8>,
    train: bool,
    folder: PathBuf,
    kind: PhantomData<K>,
}

/// The kind of [`CIFAR10`].
#[derive(Clone, Copy, Debug)]
pub struct Ten;

/// CIFAR-10: 50,000 training and 10,000 test images in 10 classes.
pub type CIFAR10 = CifarLike<Ten>;

impl CifarKind for Ten {
    const NAME: &'static str = "CIFAR10";
    const CLASSES: &'static [&'static str] =
        &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    const PYTHON: (&'static str, [&'static [&'static str]; 2]) = (
        "cifar-10-batches-py",
        [&["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"], &["test_batch"]],
    );
    const BINARY: (&'static str, [&'static [&'static str]; 2]) = (
        "cifar-10-batches-bin",
        [
            &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
            &["test_batch.bin"],
        ],
    );
    const LABELS: &'static str = "labels";
    const LABEL_BYTES: usize = 1;
}

/// The kind of [`CIFAR100`].
#[derive(Clone, Copy, Debug)]
pub struct Hundred;

/// CIFAR-100: 50,000 training and 10,000 test images in 100 classes (the fine labels, as torchvision).
pub type CIFAR100 = CifarLike<Hundred>;

impl CifarKind for Hundred {
    const NAME: &'static str = "CIFAR100";
    #[rustfmt::skip]
    const CLASSES: &'static [&'static str] = &[
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
        "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
        "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
        "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
        "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
        "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
        "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
        "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
        "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
        "woman", "worm",
    ];
    const PYTHON: (&'static str, [&'static [&'static str]; 2]) = ("cifar-100-python", [&["train"], &["test"]]);
    const BINARY: (&'static str, [&'static [&'static str]; 2]) = ("cifar-100-binary", [&["train.bin"], &["test.bin"]]);
    const LABELS: &'static str = "fine_labels";
    const LABEL_BYTES: usize = 2;
}

/// How to load a [`CifarLike`].
#[derive(Clone, Debug)]
#[must_use]
pub struct CifarBuilder<K> {
    train: bool,
    root: Option<PathBuf>,
    kind: PhantomData<K>,
}

#[located(site)]
impl<K: CifarKind> CifarBuilder<K> {
    /// The folder with the batches, or the one above it: torchvision's `root`. No other folder is searched then.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Reads the data set, unpacked from either of its archives (`cifar-10-python.tar.gz`, `cifar-10-binary.tar.gz`; or
    /// of CIFAR-100), below the given root; or else below `$KILN_DATA`, if that is set; or else below the user's data
    /// directory (`~/.local/share/kiln` on Linux). The Python batches are read as data: no code in them is run.
    ///
    /// # Errors
    /// If the data set is not found (the error says where it was searched), a batch is missing, or a file is damaged
    /// (the error names it).
    pub fn load(self) -> Result<CifarLike<K>> {
        let environment = env::var_os("KILN_DATA").filter(|value| !value.is_empty()).map(PathBuf::from);
        // If the user names a folder, only that is searched.
        let (source, root) = match (self.root, environment) {
            (Some(root), _) => ("the root", Some(root)),
            (None, Some(root)) => ("KILN_DATA", Some(root)),
            (None, None) => ("the user's data directory", crate::user_dir::data_dir().map(|dir| dir.join("kiln"))),
        };
        let which = usize::from(!self.train);
        let mut searched = Vec::new();
        if let Some(root) = &root {
            for (python, (name, files)) in [(true, K::PYTHON), (false, K::BINARY)] {
                for folder in [root.join(name), root.clone()] {
                    if folder.join(files[which][0]).is_file() {
                        let (images, labels) = read::batches::<K>(&folder, files[which], python)?;
                        return Ok(CifarLike { images, labels, train: self.train, folder, kind: PhantomData });
                    }
                    searched.push(folder.display().to_string());
                }
            }
        }
        searched.dedup();
        let message = format!(
            "no {} or {} in {source} ({}); unpack one of its archives (https://www.cs.toronto.edu/~kriz/cifar.html) there",
            K::PYTHON.1[which][0],
            K::BINARY.1[which][0],
            if searched.is_empty() { "there is none".to_owned() } else { searched.join(", ") }
        );
        Err(Error::argument(K::NAME, message))
    }
}

#[located(site)]
impl<K: CifarKind> CifarLike<K> {
    /// A builder that loads the training images.
    pub fn train() -> CifarBuilder<K> {
        CifarBuilder { train: true, root: None, kind: PhantomData }
    }

    /// A builder that loads the test images.
    pub fn test() -> CifarBuilder<K> {
        CifarBuilder { train: false, root: None, kind: PhantomData }
    }

    /// The classes' names in the order of their labels.
    #[must_use]
    pub fn classes(&self) -> &'static [&'static str] {
        K::CLASSES
    }

    /// The labels of all images: torchvision's `targets`.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// All images as one tensor, `u8` of shape `[n, 3, 32, 32]`.
    ///
    /// # Errors
    /// If the CPU backend is not built in.
    pub fn data(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.images, [self.labels.len(), 3, SIDE, SIDE], Device::Cpu)
    }

    /// Whether these are the training images.
    #[must_use]
    pub fn is_train(&self) -> bool {
        self.train
    }

    /// The folder that the batches were read from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn planes(&self, index: usize) -> Result<&[u8]> {
        self.check(index)?;
        Ok(&self.images[index * PIXELS..][..PIXELS])
    }
}

impl<K: CifarKind> Dataset for CifarLike<K> {
    type Item = (Image, i64);

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn get(&self, index: usize) -> Result<(Image, i64)> {
        let planes = self.planes(index)?;
        let pixels = (0..PLANE).flat_map(|i| [planes[i], planes[PLANE + i], planes[2 * PLANE + i]]).collect();
        Ok((Image::new(SIDE, SIDE, 3, pixels)?, i64::from(self.labels[index])))
    }

    /// A batch of images, `u8` `[n, 3, 32, 32]`, and labels, `i64` `[n]`.
    fn get_batch(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        let n = indices.len();
        let (mut pixels, mut labels) = (Vec::with_capacity(n * PIXELS), Vec::with_capacity(n));
        for &index in indices {
            pixels.extend_from_slice(self.planes(index)?);
            labels.push(i64::from(self.labels[index]));
        }
        let images = Tensor::from_vec(pixels, [n, 3, SIDE, SIDE], Device::Cpu)?;
        Ok((images, Tensor::from_vec(labels, n, Device::Cpu)?))
    }
}

/// As torchvision prints a dataset.
impl<K: CifarKind> fmt::Display for CifarLike<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = if self.train { "Train" } else { "Test" };
        writeln!(f, "Dataset {}", K::NAME)?;
        writeln!(f, "    Number of datapoints: {}", self.labels.len())?;
        writeln!(f, "    Root location: {}", self.folder.display())?;
        write!(f, "    Split: {split}")
    }
}

impl<K: CifarKind> fmt::Debug for CifarLike<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
