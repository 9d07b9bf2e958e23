//! CIFAR batches, folders of images, and damaged files in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::checkout;
use kiln_data::{
    CIFAR10, CIFAR100, DataLoader, Dataset, DatasetExt, ImageFolder,
    transforms::{Compose, Image, RandomCrop, Resize, ToTensor},
};
use kiln_tensor::{DType, Error, ErrorKind, Result};
use tempfile::TempDir;

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden/cifar").join(name)
}

fn put(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Both formats, made by NumPy and Python from the same three images a batch (`tests/golden/make_cifar.py`).
#[test]
fn both_formats_of_cifar_are_read() -> Result<()> {
    for (train, n) in [(true, 10), (false, 2)] {
        let of = |folder: &str| {
            let builder = if train { CIFAR10::train() } else { CIFAR10::test() };
            builder.root(golden(folder)).load()
        };
        let (python, binary) = (of("py10")?, of("bin10")?);
        assert_eq!((python.len(), binary.len(), python.is_train()), (n, n, train));
        assert_eq!(python.labels(), binary.labels());
        assert!(python.data()?.equal(&binary.data()?)?);
        let first = u8::from(!train) * 10;
        assert_eq!(python.labels()[..2], [first % 10, (first + 1) % 10]);
        // Pixel i of a channel c of image k is 7k + 50c + i, modulo 251.
        let (image, label) = python.get(1)?;
        let value = |k: u32, c: u32, i: u32| ((7 * k + 50 * c + i) % 251) as u8;
        let k = u32::from(first) + 1;
        assert_eq!((image.height(), image.width(), image.channels(), label), (32, 32, 3, i64::from(k % 10)));
        assert_eq!(
            image.pixels()[..6],
            [value(k, 0, 0), value(k, 1, 0), value(k, 2, 0), value(k, 0, 1), value(k, 1, 1), value(k, 2, 1)]
        );
        // The short way to a batch of bytes, and the long one.
        let (batch, labels) = python.get_batch(&[1, 0])?;
        assert_eq!((batch.dims(), batch.dtype(), labels.numel()), (&[2, 3, 32, 32][..], DType::U8, 2));
        let each = kiln_data::Collate::collate(vec![python.get(1)?, python.get(0)?])?;
        assert!(batch.equal(&each.0)? && labels.equal(&each.1)?);
        assert!(python.get(n).is_err() && python.get_batch(&[n]).is_err());
    }
    let (python, binary) =
        (CIFAR100::test().root(golden("py100")).load()?, CIFAR100::test().root(golden("bin100")).load()?);
    assert_eq!((python.len(), python.labels(), binary.labels()), (2, &[98, 99][..], &[98, 99][..]));
    assert!(python.data()?.equal(&binary.data()?)?);
    assert_eq!((python.classes().len(), python.classes()[99]), (100, "worm"));
    let loader = DataLoader::builder(CIFAR10::test().root(golden("py10")).load()?.transform(ToTensor)).build()?;
    assert_eq!(loader.iter().next().expect("two")?.0.dims(), [1, 3, 32, 32]);
    Ok(())
}

#[test]
fn damaged_batches_are_errors_that_name_them() {
    let whole = fs::read(golden("bin10/cifar-10-batches-bin/test_batch.bin")).unwrap();
    let pickle = fs::read(golden("py10/cifar-10-batches-py/test_batch")).unwrap();
    let mut label = whole.clone();
    label[3073] = 10;
    let text = String::from_utf8_lossy(&pickle).into_owned();
    assert!(text.contains("labels") && text.contains("numpy"), "the changes below change something");
    let replaced = |from: &[u8], to: &[u8]| {
        let at = pickle.windows(from.len()).position(|window| window == from).unwrap();
        [&pickle[..at], to, &pickle[at + from.len()..]].concat()
    };
    let cases = [
        ("cifar-10-batches-bin/test_batch.bin", whole[..3000].to_vec(), "3073-byte records"),
        ("cifar-10-batches-bin/test_batch.bin", label, "label 10 of image 1"),
        ("cifar-10-batches-py/test_batch", pickle[..pickle.len() / 2].to_vec(), "cut off"),
        ("cifar-10-batches-py/test_batch", replaced(b"labels", b"lables"), "no list \"labels\""),
        ("cifar-10-batches-py/test_batch", replaced(b"_reconstruct", b"_ruinstructs"), "_ruinstructs"),
        ("cifar-10-batches-py/test_batch", vec![], "cut off"),
    ];
    for (name, bytes, part) in cases {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path().join(name), &bytes);
        let error = CIFAR10::test().root(folder.path()).load().unwrap_err().to_string();
        assert!(error.contains("test_batch") && error.contains(part), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = CIFAR10::train().root(folder.path()).load().unwrap_err().to_string();
    assert!(error.contains("data_batch_1") && error.contains(folder.path().to_str().unwrap()), "{error}");
    put(folder.path().join("cifar-10-batches-bin/data_batch_1.bin"), &whole);
    let error = CIFAR10::train().root(folder.path()).load().unwrap_err().to_string();
    assert!(error.contains("data_batch_2.bin"), "{error}");
}

/// Three classes, of which one has a folder within, and a file that is no picture.
fn folder() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let save = |name: &str, value: u8| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Image::new(6, 4, 1, vec![value; 24]).unwrap().save(path).unwrap();
    };
    save("b/2.png", 20);
    save("b/1.PNG", 10);
    save("b/deep/0.bmp", 30);
    save("a/x.png", 40);
    save("c/y.jpeg", 50);
    put(root.path().join("b/notes.txt"), b"no picture, and not taken for one");
    put(root.path().join("stray.png"), b"not in a class");
    root
}

fn names(samples: &[(PathBuf, i64)], root: &Path) -> Vec<(String, i64)> {
    let name = |path: &PathBuf| path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
    samples.iter().map(|(path, label)| (name(path), *label)).collect()
}

#[test]
fn folders_are_classes() -> Result<()> {
    let root = folder();
    let data = ImageFolder::new(root.path())?;
    assert_eq!(data.classes(), ["a", "b", "c"]);
    let expected = [("a/x.png", 0), ("b/1.PNG", 1), ("b/2.png", 1), ("b/deep/0.bmp", 1), ("c/y.jpeg", 2)];
    assert_eq!(names(data.samples(), root.path()), expected.map(|(name, label)| (name.to_owned(), label)));
    let (image, label) = data.get(2)?;
    assert_eq!((image.height(), image.width(), image.channels(), image.pixels()[0], label), (6, 4, 3, 20, 1));
    assert!(data.get(5).is_err());
    let loader = DataLoader::builder(data.transform((Resize::new(5, 7), ToTensor))).batch_size(5).build()?;
    let (images, labels) = loader.iter().next().expect("one batch")?;
    assert_eq!((images.dims(), labels.to_vec::<i64>()?), (&[5, 3, 5, 7][..], vec![0, 1, 1, 1, 2]));

    fs::create_dir(root.path().join("empty")).unwrap();
    assert!(ImageFolder::new(root.path()).unwrap_err().to_string().contains("empty"));
    let none = tempfile::tempdir().unwrap();
    assert!(ImageFolder::new(none.path()).is_err() && ImageFolder::new(none.path().join("no")).is_err());
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_folder_that_holds_itself_is_an_error() {
    let root = folder();
    std::os::unix::fs::symlink(root.path().join("b"), root.path().join("b/deep/again")).unwrap();
    assert!(ImageFolder::new(root.path()).unwrap_err().to_string().contains("loop"));
}

/// As in torchvision, a link to nothing is listed by its name, and fails where it is read.
#[cfg(unix)]
#[test]
fn dangling_links_are_named_or_skipped() -> Result<()> {
    let root = folder();
    for name in ["a/gone.png", "b/deep/gone.txt", "gone"] {
        std::os::unix::fs::symlink(root.path().join("nothing"), root.path().join(name)).unwrap();
    }
    let data = ImageFolder::new(root.path())?;
    assert_eq!((data.len(), data.classes().len()), (6, 3));
    let error = data.get(0).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { path, .. } if path.ends_with("a/gone.png")), "{error}");
    let data = data.skip_corrupt(true);
    assert_eq!(data.get(0)?.1, 0);
    assert!(data.corrupt().len() == 1 && data.corrupt()[0].0.ends_with("a/gone.png"));
    Ok(())
}

/// Cut JPEGs decode in browsers, the rest gray: here they are errors that are counted.
#[test]
fn cut_jpegs_are_counted_as_corrupt() -> Result<()> {
    let root = folder();
    let whole = fs::read(root.path().join("c/y.jpeg")).unwrap();
    put(root.path().join("c/half.jpg"), &whole[..whole.len() * 2 / 3]);
    put(root.path().join("c/no_end.jpg"), &whole[..whole.len() - 2]);
    let data = ImageFolder::new(root.path())?;
    for (index, name) in [(4, "half.jpg"), (5, "no_end.jpg")] {
        let error = data.get(index).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("cut short"), "{error}");
    }
    let data = data.skip_corrupt(true);
    assert_eq!((data.get(4)?.0.pixels()[0], data.corrupt().len()), (50, 2));
    Ok(())
}

#[test]
fn errors_name_sample_dataset_file_and_transform() -> Result<()> {
    let root = folder();
    put(root.path().join("b/2.png"), b"text");
    for workers in [0, 2] {
        let data = ImageFolder::new(root.path())?.transform((Resize::new(5, 7), ToTensor));
        let loader = DataLoader::builder(data).batch_size(2).num_workers(workers).build()?;
        let error = loader.iter().nth(1).expect("three batches").unwrap_err();
        assert_eq!(error.sample().and_then(|sample| sample.of.clone()), Some((2, "ImageFolder".to_owned())));
        let text = error.to_string();
        assert!(text.contains("b/2.png") && text.ends_with("(sample 2 of ImageFolder)"), "{text}");

        // Through a subset it is the number in the folder.
        let part = ImageFolder::new(root.path())?.subset([4, 2])?;
        let loader = DataLoader::builder(part).num_workers(workers).collate(|batch| Ok(batch.len())).build()?;
        let error = loader.iter().nth(1).expect("two batches").unwrap_err();
        assert!(error.to_string().ends_with("(sample 2 of ImageFolder)"), "{error}");

        let crop = Compose((ToTensor, RandomCrop::new(40, 40)));
        let data = ImageFolder::new(root.path())?.transform(crop);
        let loader = DataLoader::builder(data).num_workers(workers).build()?;
        let error = loader.iter().next().expect("five batches").unwrap_err();
        assert!(error.to_string().ends_with("(sample 0 of ImageFolder, transform RandomCrop)"), "{error}");
        assert!(format!("{error:?}").contains("transform RandomCrop"), "{error:?}");

        let odd = |label: i64| if label == 1 { Err(Error::other("an odd class")) } else { Ok(label) };
        let data = ImageFolder::new(root.path())?.target_transform(odd);
        let error = DataLoader::builder(data).build()?.iter().nth(1).expect("five batches").unwrap_err();
        assert_eq!(error.to_string(), "an odd class (sample 1 of ImageFolder, transform a closure)");
    }
    Ok(())
}

#[test]
fn corrupt_images_fail_or_are_skipped_as_asked() -> Result<()> {
    let root = folder();
    let whole = fs::read(root.path().join("b/2.png")).unwrap();
    put(root.path().join("b/2.png"), &whole[..whole.len() / 2]);
    put(root.path().join("c/y.jpeg"), b"");
    let error = ImageFolder::new(root.path())?.get(2).unwrap_err().to_string();
    assert!(error.contains("2.png"), "{error}");

    for workers in [0, 3] {
        let data = std::sync::Arc::new(ImageFolder::new(root.path())?.skip_corrupt(true));
        let loader = DataLoader::builder(data.clone().transform(ToTensor)).num_workers(workers).build()?;
        let mut grays = Vec::new();
        for _ in 0..2 {
            for batch in &loader {
                let (image, label) = batch?;
                grays.push((image.max(())?.mul(255.0)?.round()?.item::<u8>()?, label.item::<i64>()?));
            }
        }
        // In the place of the third is the fourth, in that of the fifth the first.
        assert_eq!(grays[..5], [(40, 0), (10, 1), (30, 1), (30, 1), (40, 0)]);
        assert_eq!(grays[..5], grays[5..]);
        let corrupt = data.corrupt();
        assert_eq!(corrupt.len(), 2, "each is counted once");
        assert!(corrupt[0].0.ends_with("2.png") && corrupt[1].0.ends_with("y.jpeg") && corrupt[0].1.contains("2.png"));
    }

    for name in ["a/x.png", "b/1.PNG", "b/deep/0.bmp"] {
        put(root.path().join(name), b"nothing");
    }
    let error = ImageFolder::new(root.path())?.skip_corrupt(true).get(0).unwrap_err().to_string();
    assert!(error.contains("none of the 5"), "{error}");
    Ok(())
}
