//! MNIST and its family: 28×28 gray images, read from IDX files.

#[cfg(feature = "download")]
mod download;
mod find;
pub mod idx;
mod kind;

use std::{
    fmt,
    marker::PhantomData,
    path::{Path, PathBuf},
};

pub use find::Origin;
use find::{Files, SearchPath};
use kiln_derive::located;
use kiln_tensor::{Device, Error, Result, Tensor};
pub use kind::{Digits, Fashion, Kuzushiji, MnistKind};
use kind::{Facts, PIXELS, SIDE};

use crate::{
    dataset::{Dataset, check_index},
    transforms::unit,
};

/// A data set of the MNIST family in memory: [`MNIST`], [`FashionMNIST`], [`KMNIST`], or your own [`MnistKind`].
///
/// A sample is an image, `f32` of shape `[1, 28, 28]` with values in `[0, 1]` (as after torchvision's `ToTensor`), and its
/// label, `i64`. [`DatasetExt`](crate::DatasetExt) has `transform` and `target_transform`.
///
/// ```
/// use kiln_data::{Dataset, FashionMNIST};
///
/// let data = FashionMNIST::test().load()?;
/// let (image, label) = data.get(0)?;
/// assert_eq!(image.dims(), [1, 28, 28]);
/// assert_eq!(data.classes()[label as usize], "Ankle boot");
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct MnistLike<K> {
    split: Split,
    kind: PhantomData<K>,
}

/// Fashion-MNIST: 60,000 training and 10,000 test images of clothing in 10 classes
/// (Xiao, Rasul and Vollgraf, arXiv:1708.07747; MIT license). A subset of 6,000 and 1,000 comes with Kiln.
pub type FashionMNIST = MnistLike<Fashion>;

/// MNIST: 60,000 training and 10,000 test images of handwritten digits (LeCun, Cortes and Burges).
pub type MNIST = MnistLike<Digits>;

/// Kuzushiji-MNIST: 60,000 training and 10,000 test images of cursive hiragana in 10 classes (Clanuwat et al.,
/// arXiv:1812.01718). It is read from its four files, but not downloaded, because no checksums of it are published.
pub type KMNIST = MnistLike<Kuzushiji>;

/// One split of a data set of any kind.
struct Split {
    /// Row-major `[n, 28, 28]`.
    images: Vec<u8>,
    labels: Vec<u8>,
    train: bool,
    files: Files,
}

/// How to load a [`MnistLike`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MnistBuilder<K> {
    options: Options,
    kind: PhantomData<K>,
}

#[derive(Clone, Debug)]
struct Options {
    train: bool,
    root: Option<PathBuf>,
    download: bool,
    bundled: bool,
    mirrors: Vec<String>,
}

#[located(site)]
impl<K: MnistKind> MnistBuilder<K> {
    fn new(train: bool) -> Self {
        let options = Options { train, root: None, download: false, bundled: true, mirrors: owned(K::MIRRORS) };
        MnistBuilder { options, kind: PhantomData }
    }

    /// The folder with the files, or one above it: torchvision's `root`. No other folder is searched then.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.options.root = Some(root.into());
        self
    }

    /// Whether to download files that are not on the machine (the bundled subset does not count), to `root/<name>/raw`,
    /// `$KILN_DATA/<name>/raw` or the user's data directory. Needs the crate feature `download`.
    pub fn download(mut self, download: bool) -> Self {
        self.options.download = download;
        self
    }

    /// Where to download from, instead of the official addresses: URLs of folders, tried in turn.
    pub fn mirrors(mut self, mirrors: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.options.mirrors = mirrors.into_iter().map(Into::into).collect();
        self
    }

    /// Whether the subset that comes with Kiln is accepted if nothing else is found; `true` by default.
    pub fn bundled(mut self, bundled: bool) -> Self {
        self.options.bundled = bundled;
        self
    }

    /// Reads the data set from the given root; or else from `$KILN_DATA`, if that is set; or else from the first of
    /// these that has it: the user's data directory (`~/.local/share/kiln` on Linux), the system's package
    /// (`/usr/share/datasets/fashion-mnist`), and the subset that comes with Kiln (Fashion-MNIST only). Files may be
    /// compressed with gzip, and be in subfolders named as torchvision names them (`FashionMNIST/raw`).
    ///
    /// # Errors
    /// If the data set is not found (the error says where it was searched), cannot be downloaded, or a file is damaged
    /// (the error names it).
    pub fn load(self) -> Result<MnistLike<K>> {
        Ok(MnistLike { split: self.options.load(&const { Facts::of::<K>() })?, kind: PhantomData })
    }
}

fn owned(mirrors: &[&str]) -> Vec<String> {
    mirrors.iter().map(ToString::to_string).collect()
}

impl Options {
    fn load(&self, kind: &Facts) -> Result<Split> {
        let mut search = SearchPath::of_machine(kind, self.root.clone());
        if !self.bundled || self.download {
            search.bundled = None;
        }
        let files = match search.find(kind, self.train) {
            Some(files) => files,
            None if self.download => self.fetch(kind, &search)?,
            None => return Err(search.not_found(kind, self.train)),
        };
        Split::read(files, self.train, kind.classes.len())
    }

    #[cfg(feature = "download")]
    fn fetch(&self, kind: &Facts, search: &SearchPath) -> Result<Files> {
        let (origin, folder) = search.download_folder(kind)?;
        let [images, labels] = download::split(kind, &folder, self.train, &self.mirrors)?;
        Ok(Files { origin, images, labels })
    }

    #[cfg(not(feature = "download"))]
    fn fetch(&self, kind: &Facts, search: &SearchPath) -> Result<Files> {
        let missing = search.not_found(kind, self.train);
        Err(Error::argument("download", format!("Kiln was built without the feature `download`, and {missing}")))
    }
}

#[located(site)]
impl<K: MnistKind> MnistLike<K> {
    /// A builder that loads the training images.
    pub fn train() -> MnistBuilder<K> {
        MnistBuilder::new(true)
    }

    /// A builder that loads the test images.
    pub fn test() -> MnistBuilder<K> {
        MnistBuilder::new(false)
    }

    /// The classes' names in the order of their labels.
    #[must_use]
    pub fn classes(&self) -> &'static [&'static str] {
        K::CLASSES
    }

    /// The pixels of all images, row-major `[n, 28, 28]`, 0 to 255.
    #[must_use]
    pub fn images(&self) -> &[u8] {
        &self.split.images
    }

    /// The labels of all images.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.split.labels
    }

    /// All images as one tensor, `u8` of shape `[n, 28, 28]`: torchvision's `data`.
    ///
    /// # Errors
    /// If the CPU backend is not built in.
    pub fn data(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.split.images, [self.split.labels.len(), SIDE, SIDE], Device::Cpu)
    }

    /// All labels as one tensor, `i64` of shape `[n]`: torchvision's `targets`.
    ///
    /// # Errors
    /// If the CPU backend is not built in.
    pub fn targets(&self) -> Result<Tensor> {
        Tensor::from_vec(
            self.split.labels.iter().map(|&label| i64::from(label)).collect(),
            self.split.labels.len(),
            Device::Cpu,
        )
    }

    /// Whether these are the training images.
    #[must_use]
    pub fn is_train(&self) -> bool {
        self.split.train
    }

    /// Whether it has fewer images than the whole data set, as the bundled subset has.
    #[must_use]
    pub fn is_subset(&self) -> bool {
        self.split.labels.len() < K::COUNTS[usize::from(!self.split.train)]
    }

    /// Where it was found.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.split.files.origin
    }

    /// The file that the images were read from. The file of the labels is in the same folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.split.files.images
    }
}

impl Split {
    fn read(files: Files, train: bool, classes: usize) -> Result<Split> {
        let images = idx::read(&files.images)?;
        let n = match images.dims[..] {
            [n, SIDE, SIDE] => n,
            _ => {
                let message = format!("extents {:?}; images of {SIDE} × {SIDE} are expected", images.dims);
                return Err(Error::file(&files.images, message));
            }
        };
        let labels = idx::read(&files.labels)?;
        if labels.dims != [n] {
            let (path, dims) = (files.images.display(), labels.dims);
            return Err(Error::file(&files.labels, format!("extents {dims:?} of labels, but {path} has {n} images")));
        }
        if let Some((index, label)) = labels.data.iter().enumerate().find(|&(_, &label)| usize::from(label) >= classes)
        {
            let message = format!("label {label} of image {index}; there are {classes} classes, from 0");
            return Err(Error::file(&files.labels, message));
        }
        Ok(Split { images: images.data, labels: labels.data, train, files })
    }

    /// The pixels of one image, row-major.
    fn pixels(&self, index: usize) -> Result<&[u8]> {
        check_index(index, self.labels.len())?;
        Ok(&self.images[index * PIXELS..(index + 1) * PIXELS])
    }

    fn get(&self, index: usize) -> Result<(Tensor, i64)> {
        let pixels = self.pixels(index)?.iter().map(|&pixel| unit(pixel)).collect();
        Ok((Tensor::from_vec(pixels, [1, SIDE, SIDE], Device::Cpu)?, i64::from(self.labels[index])))
    }

    fn get_batch(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        let n = indices.len();
        let mut pixels: Vec<f32> = Vec::with_capacity(n * PIXELS);
        let mut labels: Vec<i64> = Vec::with_capacity(n);
        for &index in indices {
            pixels.extend(self.pixels(index)?.iter().map(|&pixel| unit(pixel)));
            labels.push(i64::from(self.labels[index]));
        }
        let images = Tensor::from_vec(pixels, [n, 1, SIDE, SIDE], Device::Cpu)?;
        Ok((images, Tensor::from_vec(labels, n, Device::Cpu)?))
    }
}

impl<K: MnistKind> Dataset for MnistLike<K> {
    type Item = (Tensor, i64);

    fn len(&self) -> usize {
        self.split.labels.len()
    }

    fn get(&self, index: usize) -> Result<(Tensor, i64)> {
        self.split.get(index)
    }

    /// A batch of images, `f32` `[n, 1, 28, 28]`, and labels, `i64` `[n]`.
    fn get_batch(&self, indices: &[usize]) -> Result<(Tensor, Tensor)> {
        self.split.get_batch(indices)
    }
}

/// As torchvision prints a dataset.
impl<K: MnistKind> fmt::Display for MnistLike<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let split = if self.split.train { "Train" } else { "Test" };
        let subset = if self.is_subset() { " (a subset)" } else { "" };
        writeln!(f, "Dataset {}", K::NAME)?;
        writeln!(f, "    Number of datapoints: {}{subset}", self.split.labels.len())?;
        writeln!(f, "    Root location: {} ({})", self.split.files.images.display(), self.split.files.origin)?;
        write!(f, "    Split: {split}")
    }
}

impl<K: MnistKind> fmt::Debug for MnistLike<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
