//! `CifarKind`: what distinguishes the data sets of the CIFAR family, and the size of their images.

/// Height and width of an image.
pub(super) const SIDE: usize = 32;
/// Bytes of one channel of an image.
pub(super) const PLANE: usize = SIDE * SIDE;
/// Bytes of an image: the red plane, then green, then blue.
pub(super) const PIXELS: usize = 3 * PLANE;

/// Describes one data set of the CIFAR family.
pub trait CifarKind: Send + Sync + 'static {
    /// Its name, as in torchvision.
    const NAME: &'static str;
    /// The classes' names in the order of their labels.
    const CLASSES: &'static [&'static str];
    /// The folder of the Python batches, and in it the files of the training and of the test images.
    const PYTHON: (&'static str, [&'static [&'static str]; 2]);
    /// The same for the binary batches.
    const BINARY: (&'static str, [&'static [&'static str]; 2]);
    /// The key of the labels in the Python batches.
    const LABELS: &'static str;
    /// Number of label bytes before an image in binary batches. The last of them is the label that is used.
    const LABEL_BYTES: usize;
}
