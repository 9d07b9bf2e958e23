//! Errors of a build without features, where a file's contents or a device's name need one: they name the feature. Code
//! that does not compile without a feature gets its name from the compiler.
//!
//! ```text
//! cargo test -p kiln --no-default-features --test missing_features
//! ```
//!
//! Built with features, e.g. together with the other tests, it is empty.
#![cfg(not(any(
    feature = "cpu",
    feature = "cuda",
    feature = "download",
    feature = "images",
    feature = "pth",
    feature = "vis"
)))]

#[path = "support/checkout.rs"]
mod checkout;

use std::path::PathBuf;

use kiln::{
    ErrorKind, Result, cuda,
    data::{
        FashionMNIST, MNIST,
        transforms::{Image, ImageLimits},
    },
    hub::Hub,
    io,
    prelude::*,
};

fn golden(name: &str) -> PathBuf {
    checkout::path("tests/golden").join(name)
}

/// The message of the error, which names the feature.
fn names<T>(feature: &str, result: Result<T>) -> String {
    let Err(error) = result else { panic!("it needs no feature `{feature}`") };
    let message = error.to_string();
    assert!(message.contains(&format!("feature `{feature}`")), "{message}");
    message
}

#[test]
fn devices() {
    let is_unavailable = |result: Result<Tensor>| {
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::DeviceUnavailable { .. }), "{error:?}");
        assert!(format!("{error:?}").contains(file!()), "it names the program's line: {error:?}");
        Err::<Tensor, _>(error)
    };
    for device in [Device::Cuda(0), Device::Cuda(7)] {
        assert!(names("cuda", is_unavailable(Tensor::zeros(2, device))).contains(&device.to_string()));
    }
    names("cuda", Device::cuda(0));
    names("cpu", is_unavailable(Tensor::zeros(2, Device::Cpu)));
    names("cpu", is_unavailable(Tensor::new([1.0f32], Device::Cpu)));
    names("cpu", is_unavailable(Tensor::randn([2, 3], Device::cuda_if_available())));
    assert!(cuda::report().contains("feature `cuda`"));
}

#[test]
fn pictures() {
    let folder = golden("decoders");
    let is_picture = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        ["jpg", "png", "bmp", "gif", "tif", "webp", "ppm"].contains(&ending)
    };
    let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pictures: Vec<PathBuf> = all.filter(is_picture).collect();
    assert!(pictures.len() > 5, "{pictures:?}");
    for path in pictures {
        let message = names("images", Image::open(&path));
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        let bytes = std::fs::read(&path).unwrap();
        names("images", Image::decode(&bytes));
        names("images", Image::decode_with(&bytes, ImageLimits::default()));
    }
}

#[test]
fn pictures_that_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = Image::new(2, 2, 3, vec![0; 12]).unwrap();
    for ending in ["jpg", "bmp", "webp"] {
        let path = folder.path().join("picture").with_extension(ending);
        names("images", image.save(&path));
        assert!(!path.exists());
    }
    image.save(folder.path().join("picture.png")).unwrap();
}

#[test]
fn checkpoints_of_pytorch() {
    let path = golden("pth/optimizers/sgd.pth");
    assert!(names("pth", io::load(&path, Device::Cpu)).contains(path.to_str().unwrap()));
}

#[test]
fn downloads() {
    let folder = tempfile::tempdir().unwrap();
    let message = names("download", FashionMNIST::train().root(folder.path()).download(true).load());
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    names("download", MNIST::test().root(folder.path()).download(true).load());
    let message = names("download", Hub::new().folder(folder.path()).file("vgg16-397923af.pth"));
    assert!(message.contains("https://download.pytorch.org/models/vgg16-397923af.pth"), "{message}");
}
