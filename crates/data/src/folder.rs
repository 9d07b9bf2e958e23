//! `ImageFolder`: a folder of images with one subfolder for each class.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use kiln_derive::located;
use kiln_tensor::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use walkdir::WalkDir;

use crate::{
    dataset::Dataset,
    image::{Image, ImageLimits},
};

const OP: &str = "ImageFolder";
/// The extensions of image files: torchvision's.
const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// Images in folders that are named by their classes, as torchvision's `ImageFolder`: `root/dog/1.jpg`,
/// `root/cat/more/2.png`. Classes are numbered in the order of their names, and so are the images of a class.
///
/// A sample is an [`Image`] (three channels, as from torchvision's loader) and its class, `i64`. A file that is not a
/// complete image is an error that names it, unless [`skip_corrupt`](ImageFolder::skip_corrupt) is set. So is a
/// dangling link whose name is that of an image.
///
/// ```
/// use kiln_data::{Dataset, ImageFolder, transforms::Image};
/// # let root = tempfile::tempdir().unwrap();
/// # for (class, name) in [("cat", "a.png"), ("dog", "b.png"), ("dog", "c.png")] {
/// #     std::fs::create_dir_all(root.path().join(class)).unwrap();
/// #     Image::new(2, 2, 1, vec![0; 4])?.save(root.path().join(class).join(name))?;
/// # }
///
/// let data = ImageFolder::new(&root)?;
/// assert_eq!((data.classes(), data.len()), (&["cat".to_owned(), "dog".to_owned()][..], 3));
/// let (image, label) = data.get(2)?;
/// assert_eq!((image.height(), label), (2, 1));
/// # Ok::<(), kiln_tensor::Error>(())
/// ```
pub struct ImageFolder {
    root: PathBuf,
    classes: Vec<String>,
    samples: Vec<(PathBuf, i64)>,
    limits: ImageLimits,
    skip_corrupt: bool,
    /// The error of each sample that was found to be corrupt.
    corrupt: Mutex<BTreeMap<usize, String>>,
}

#[located(site)]
impl ImageFolder {
    /// The images below `root`. Only file names are read now.
    ///
    /// # Errors
    /// If the folder cannot be read, has no subfolders, or a class has no images.
    pub fn new(root: impl AsRef<Path>) -> Result<ImageFolder> {
        let root = root.as_ref();
        let mut classes = Vec::new();
        for entry in std::fs::read_dir(root).map_err(|error| Error::io(root, error))? {
            let path = entry.map_err(|error| Error::io(root, error))?.path();
            if path.is_dir() {
                let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
                classes.push(name.ok_or_else(|| Error::file(&path, "a class has a name that is not UTF-8"))?);
            }
        }
        if classes.is_empty() {
            return Err(Error::file(root, "there are no folders in it, one for each class"));
        }
        classes.sort_unstable();
        let mut samples = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            let (folder, before) = (root.join(class), samples.len());
            for entry in WalkDir::new(&folder).follow_links(true).sort_by_file_name() {
                let path = match entry {
                    Ok(entry) if entry.file_type().is_file() => entry.into_path(),
                    Ok(_) => continue,
                    Err(error) => dangling_link(&error)
                        .ok_or_else(|| Error::file(error.path().unwrap_or(&folder), error.to_string()))?,
                };
                if is_image(&path) {
                    samples.push((path, label as i64));
                }
            }
            if samples.len() == before {
                let extensions = EXTENSIONS.join(", ");
                return Err(Error::file(&folder, format!("there is no image in it (files that end in {extensions})")));
            }
        }
        Ok(ImageFolder {
            root: root.to_owned(),
            classes,
            samples,
            limits: ImageLimits::default(),
            skip_corrupt: false,
            corrupt: Mutex::default(),
        })
    }

    /// Sets other bounds on the size of an image than [`ImageLimits::default`].
    #[must_use]
    pub fn limits(self, limits: ImageLimits) -> ImageFolder {
        ImageFolder { limits, ..self }
    }

    /// Whether to skip an image that cannot be read, instead of returning an error: the next readable image takes its
    /// place, so that batches stay full and are the same for every number of workers. [`corrupt`](ImageFolder::corrupt)
    /// lists the skipped files.
    #[must_use]
    pub fn skip_corrupt(self, skip: bool) -> ImageFolder {
        ImageFolder { skip_corrupt: skip, ..self }
    }

    /// The files so far that could not be read as images, each once, with the reason.
    #[must_use]
    pub fn corrupt(&self) -> Vec<(PathBuf, String)> {
        let corrupt = self.corrupt.lock();
        corrupt.iter().map(|(&index, reason)| (self.samples[index].0.clone(), reason.clone())).collect()
    }

    /// The classes' names in the order of their labels.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Path and label of each image: torchvision's `samples`.
    #[must_use]
    pub fn samples(&self) -> &[(PathBuf, i64)] {
        &self.samples
    }

    /// The sample itself, or the next readable one after it.
    fn readable(&self, index: usize) -> Result<(Image, i64)> {
        for step in 0..self.samples.len() {
            let index = (index + step) % self.samples.len();
            if self.corrupt.lock().contains_key(&index) {
                continue;
            }
            let (path, label) = &self.samples[index];
            match Image::open_rgb(path, self.limits) {
                Ok(image) => return Ok((image, *label)),
                // Running out of memory says nothing about the file.
                Err(error) if matches!(error.kind(), ErrorKind::OutOfMemory { .. }) => return Err(error),
                Err(error) => self.corrupt.lock().insert(index, error.to_string()),
            };
        }
        Err(Error::file(&self.root, format!("none of the {} images can be read", self.samples.len())))
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// The dangling link, if that is the error.
fn dangling_link(error: &walkdir::Error) -> Option<PathBuf> {
    let path = error.path()?;
    let missing = error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
    (missing && path.is_symlink()).then(|| path.to_owned())
}

impl Dataset for ImageFolder {
    type Item = (Image, i64);

    fn len(&self) -> usize {
        self.samples.len()
    }

    fn get(&self, index: usize) -> Result<(Image, i64)> {
        self.check(index)?;
        if self.skip_corrupt {
            return self.readable(index);
        }
        let (path, label) = &self.samples[index];
        Ok((Image::open_rgb(path, self.limits)?, *label))
    }
}

/// As torchvision prints a dataset.
impl fmt::Display for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Dataset {OP}")?;
        writeln!(f, "    Number of datapoints: {}", self.samples.len())?;
        write!(f, "    Root location: {}", self.root.display())
    }
}

impl fmt::Debug for ImageFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
