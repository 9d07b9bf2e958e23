//! `MnistKind`: the data sets of the MNIST family, with their classes, sizes, addresses and checksums.

/// Height and width of an image.
pub(super) const SIDE: usize = 28;
pub(super) const PIXELS: usize = SIDE * SIDE;

/// Describes one data set of the MNIST family. Implement it to read another one (QMNIST, EMNIST's digits …) as
/// `MnistLike<YourKind>`.
pub trait MnistKind: Send + Sync + 'static {
    /// Its name, which is also that of its folder, as in torchvision: `FashionMNIST`.
    const NAME: &'static str;
    /// The classes' names in the order of their labels.
    const CLASSES: &'static [&'static str];
    /// Number of training and of test images.
    const COUNTS: [usize; 2];
    /// The URLs of folders to download from, tried in turn. If empty, it cannot be downloaded.
    const MIRRORS: &'static [&'static str];
    /// SHA-256 of the uncompressed files: training images and labels, test images and labels.
    const SHA256: [[&'static str; 2]; 2];
    /// The folder of the system's package for it.
    const SYSTEM_FOLDER: Option<&'static str> = None;
    /// The folder of a subset that comes with the program. A relative path is looked for in the folders above the
    /// package (`CARGO_MANIFEST_DIR` at run time), above the program, and above the current folder. `..` removes the
    /// part before it, so that `concat!(file!(), "/../subset")` is a folder beside the source file, without an absolute
    /// path of the machine that compiles it if the compiler was given none.
    const BUNDLED_FOLDER: Option<&'static str> = None;
}

/// The contents of a [`MnistKind`] as a value, so that searching and reading are compiled once rather than for each
/// kind.
pub(super) struct Facts {
    pub name: &'static str,
    pub classes: &'static [&'static str],
    pub system_folder: Option<&'static str>,
    pub bundled_folder: Option<&'static str>,
    #[cfg(feature = "download")]
    pub counts: [usize; 2],
    #[cfg(feature = "download")]
    pub sha256: [[&'static str; 2]; 2],
}

impl Facts {
    pub const fn of<K: MnistKind>() -> Facts {
        Facts {
            name: K::NAME,
            classes: K::CLASSES,
            system_folder: K::SYSTEM_FOLDER,
            bundled_folder: K::BUNDLED_FOLDER,
            #[cfg(feature = "download")]
            counts: K::COUNTS,
            #[cfg(feature = "download")]
            sha256: K::SHA256,
        }
    }
}

/// The kind of [`FashionMNIST`](super::FashionMNIST).
#[derive(Clone, Copy, Debug)]
pub struct Fashion;

impl MnistKind for Fashion {
    const NAME: &'static str = "FashionMNIST";
    const CLASSES: &'static [&'static str] =
        &["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
    const COUNTS: [usize; 2] = [60_000, 10_000];
    const MIRRORS: &'static [&'static str] = &[
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ];
    const SHA256: [[&'static str; 2]; 2] = [
        [
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ],
        [
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ],
    ];
    const SYSTEM_FOLDER: Option<&'static str> = Some("/usr/share/datasets/fashion-mnist");
    const BUNDLED_FOLDER: Option<&'static str> = Some(concat!(file!(), "/../../../assets/fashion-mnist"));
}

/// The kind of [`MNIST`](super::MNIST).
#[derive(Clone, Copy, Debug)]
pub struct Digits;

impl MnistKind for Digits {
    const NAME: &'static str = "MNIST";
    const CLASSES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    const COUNTS: [usize; 2] = [60_000, 10_000];
    const MIRRORS: &'static [&'static str] =
        &["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"];
    const SHA256: [[&'static str; 2]; 2] = [
        [
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ],
        [
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ],
    ];
}

/// The kind of [`KMNIST`](super::KMNIST).
#[derive(Clone, Copy, Debug)]
pub struct Kuzushiji;

impl MnistKind for Kuzushiji {
    const NAME: &'static str = "KMNIST";
    const CLASSES: &'static [&'static str] = &["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"];
    const COUNTS: [usize; 2] = [60_000, 10_000];
    const MIRRORS: &'static [&'static str] = &[];
    const SHA256: [[&'static str; 2]; 2] = [[""; 2]; 2];
}
