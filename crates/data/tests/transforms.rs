//! Transforms against torchvision's, on a photograph (`tests/golden/make_transforms.py`).

use std::path::PathBuf;

use kiln_data::{
    DataLoader, DatasetExt, Samples,
    transforms::{
        CenterCrop, Compose, Image, Interpolation, Normalize, OneHot, Pad, Picture, RandomCrop, RandomHorizontalFlip,
        RandomResizedCrop, RandomVerticalFlip, Resize, ToImage, ToTensor, Transform,
    },
};
use kiln_tensor::{DType, Device, Result, Tensor, manual_seed};

fn path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/transforms")).join(name)
}

fn photo() -> Image {
    Image::open(path("photo.png")).unwrap()
}

/// At most `most` apart in any byte.
fn assert_close(got: &Image, name: &str, most: u8) {
    let want = Image::open(path(name)).unwrap();
    assert_eq!((got.height(), got.width(), got.channels()), (want.height(), want.width(), want.channels()), "{name}");
    let apart = got.pixels().iter().zip(want.pixels()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    assert!(apart <= most, "{name}: {apart} apart");
}

#[test]
fn files_are_decoded() -> Result<()> {
    let photo = photo();
    assert_eq!((photo.height(), photo.width(), photo.channels()), (120, 160, 3));
    // Decoders of JPEG round differently, mostly where colours are interpolated.
    let (got, want) = (Image::open(path("photo.jpg"))?, Image::open(path("decoded.png"))?);
    assert_close(&got, "decoded.png", 4);
    let apart: u32 = got.pixels().iter().zip(want.pixels()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    assert!(f64::from(apart) < 0.5 * got.pixels().len() as f64, "{apart}");
    let grey = Image::open(path("grey.png"))?;
    assert_eq!(grey.channels(), 1);
    let rgb = grey.clone().to_rgb();
    assert!(rgb.channels() == 3 && rgb.pixels().chunks(3).zip(grey.pixels()).all(|(p, g)| p == [*g; 3]));
    Ok(())
}

#[test]
fn broken_files_are_errors_that_name_them() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(path("photo.png")).unwrap();
    for (name, bytes) in [("cut.png", &whole[..whole.len() / 2]), ("empty.jpg", &[]), ("text.bmp", b"no picture")] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let error = Image::open(&file).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(Image::decode(bytes).is_err());
    }
    assert!(Image::open(folder.path().join("none.png")).unwrap_err().to_string().contains("none.png"));
    Ok(())
}

#[test]
fn resizing_is_pillows() -> Result<()> {
    let modes = [
        ("nearest", Interpolation::Nearest),
        ("bilinear", Interpolation::Bilinear),
        ("bicubic", Interpolation::Bicubic),
    ];
    for (name, mode) in modes {
        for (height, width) in [(40, 50), (33, 120), (150, 170)] {
            let got = Resize::new(height, width).interpolation(mode).apply(photo())?;
            assert_close(&got, &format!("resize_{name}_{height}x{width}.png"), 1);
        }
        assert_close(
            &Resize::shorter(37).interpolation(mode).apply(photo())?,
            &format!("resize_{name}_shorter_37.png"),
            1,
        );
    }
    assert_close(&Resize::new(40, 50).apply(Image::open(path("grey.png"))?)?, "grey_bilinear_40x50.png", 1);
    assert_close(&Resize::new(40, 50).antialias(false).apply(photo())?, "plain_bilinear_40x50.png", 1);
    assert_eq!(Resize::new(120, 160).apply(photo())?, photo());
    assert!(Resize::new(0, 5).apply(photo()).is_err());
    for mode in [Interpolation::Nearest, Interpolation::Bilinear] {
        let vast = Resize::new(usize::MAX / 2, 3).interpolation(mode).apply(photo());
        assert!(vast.unwrap_err().to_string().contains("cannot become"));
        assert!(Resize::shorter(usize::MAX / 4).interpolation(mode).apply(photo()).is_err());
        assert!(Resize::new(1 << 28, 1 << 28).interpolation(mode).apply(photo()).is_err());
    }
    assert!(Resize::new(5, 5).apply(Image::new(0, 3, 1, vec![])?).is_err());
    Ok(())
}

#[test]
fn crops_margins_and_flips_are_torchvisions() -> Result<()> {
    assert_close(&CenterCrop::new(51, 60).apply(photo())?, "center_crop_51x60.png", 0);
    assert_close(&CenterCrop::new(130, 101).apply(photo())?, "center_crop_130x101.png", 0);
    let small = photo().crop(0, 0, 20, 30)?;
    assert_close(&Pad::new([1, 2, 3, 4]).fill(9.0).apply(small)?, "pad.png", 0);
    let small = photo().crop(0, 0, 20, 31)?;
    assert_close(&small.clone().flip_horizontal()?, "flip_horizontal.png", 0);
    assert_close(&small.flip_vertical()?, "flip_vertical.png", 0);
    assert!(photo().crop(1, 0, 120, 1).is_err() && photo().crop(0, usize::MAX, 1, 1).is_err());
    assert!(photo().pad([0, 0, 0, 1], 256.0).is_err() && photo().pad([usize::MAX, 1, 1, 1], 0.0).is_err());
    Ok(())
}

/// Tensors and images take the same ways.
#[test]
fn tensors_are_pictures_too() -> Result<()> {
    type Change = fn(Image) -> Result<Image>;
    type TensorChange = fn(Tensor) -> Result<Tensor>;
    let changes: [(Change, TensorChange); 5] = [
        (|x| CenterCrop::new(51, 60).apply(x), |x| CenterCrop::new(51, 60).apply(x)),
        (|x| CenterCrop::new(130, 101).apply(x), |x| CenterCrop::new(130, 101).apply(x)),
        (|x| Pad::new([1, 2, 3, 4]).apply(x), |x| Pad::new([1, 2, 3, 4]).apply(x)),
        (Picture::flip_horizontal, Picture::flip_horizontal),
        (Picture::flip_vertical, Picture::flip_vertical),
    ];
    for (image, tensor) in changes {
        let want = ToTensor.apply(image(photo())?)?;
        let got = tensor(ToTensor.apply(photo())?)?;
        assert_eq!((got.dims(), got.to_vec::<f32>()?), (want.dims(), want.to_vec::<f32>()?));
    }
    let bytes = Tensor::ones([2, 2], DType::U8)?;
    assert_eq!(bytes.pad([1, 0, 0, 0], 7.0)?.to_vec::<u8>()?, [7, 1, 1, 7, 1, 1]);
    assert!(CenterCrop::square(1).apply(Tensor::ones(3, Device::Cpu)?).is_err());
    Ok(())
}

#[test]
fn bytes_become_numbers_and_bytes_again() -> Result<()> {
    let tensor = ToTensor.apply(photo())?;
    assert_eq!((tensor.dims(), tensor.dtype()), (&[3, 120, 160][..], DType::F32));
    assert_eq!(ToImage.apply(tensor.clone())?, photo());
    let grey = ToImage.apply(Tensor::new(&[[0.0f32, 0.5], [0.999, 1.0]], Device::Cpu)?)?;
    assert_eq!(grey.pixels(), [0, 127, 254, 255]);
    assert_eq!(ToImage.apply(Tensor::ones([1, 2, 3], DType::U8)?)?.pixels(), [1; 6]);
    assert!(ToImage.apply(Tensor::ones([2, 4, 4], Device::Cpu)?).is_err(), "two channels");
    assert!(ToImage.apply(Tensor::ones([3, 4, 4], DType::I64)?).is_err());
    assert!(ToImage.apply(Tensor::ones(4, Device::Cpu)?).is_err());

    let normal = Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?;
    let corner = normal.apply(tensor.clone())?.narrow(1, 0, 4)?.narrow(2, 0, 5)?.to_vec::<f32>()?;
    let want: Vec<f32> = serde_json::from_slice(&std::fs::read(path("normalized_corner.json")).unwrap()).unwrap();
    assert!(corner.iter().zip(&want).all(|(a, b)| (a - b).abs() <= 1e-6) && corner.len() == want.len());
    assert!(normal.apply(tensor.narrow(0, 0, 2)?).is_err(), "three means, two channels");
    assert!(normal.apply(Tensor::ones([3, 2, 2], DType::U8)?).is_err());
    assert!(Normalize::new([0.5], [0.0]).is_err() && Normalize::new([0.5], [1.0, 2.0]).is_err());

    assert_eq!(OneHot { classes: 4 }.apply(2)?.to_vec::<f32>()?, [0., 0., 1., 0.]);
    assert!(OneHot { classes: 4 }.apply(4).is_err() && OneHot { classes: 4 }.apply(-1).is_err());
    Ok(())
}

#[test]
fn random_crops_reach_every_place() -> Result<()> {
    manual_seed(5);
    let numbers = Image::new(3, 4, 1, (0..12).collect())?;
    let mut seen = [0; 12];
    for _ in 0..600 {
        let part = RandomCrop::new(2, 3).apply(numbers.clone())?;
        seen[usize::from(part.pixels()[0])] += 1;
    }
    // Two rows times two columns to begin at; 150 each, with a standard deviation below 11.
    let (places, others): (Vec<_>, Vec<_>) = (0..12).partition(|i| [0, 1, 4, 5].contains(i));
    assert!(places.iter().all(|&i| (95..205).contains(&seen[i])) && others.iter().all(|&i| seen[i] == 0), "{seen:?}");

    assert!(RandomCrop::new(4, 4).apply(numbers.clone()).unwrap_err().to_string().contains("pad_if_needed"));
    let padded = RandomCrop::new(5, 6).pad_if_needed(true).apply(numbers.clone())?;
    assert_eq!((padded.height(), padded.width()), (5, 6));
    let padded = RandomCrop::new(5, 6).padding(Pad::new([1; 4])).apply(numbers)?;
    assert_eq!(padded.pixels()[..8], [0, 0, 0, 0, 0, 0, 0, 0]);
    Ok(())
}

#[test]
fn flips_happen_as_often_as_asked() -> Result<()> {
    manual_seed(6);
    let pair = Image::new(2, 2, 1, vec![0, 1, 2, 3])?;
    let mut flips = [0, 0];
    for _ in 0..1000 {
        flips[0] += usize::from(RandomHorizontalFlip::new(0.25)?.apply(pair.clone())?.pixels() == [1, 0, 3, 2]);
        flips[1] += usize::from(RandomVerticalFlip::default().apply(pair.clone())?.pixels() == [2, 3, 0, 1]);
    }
    assert!((180..320).contains(&flips[0]) && (420..580).contains(&flips[1]), "{flips:?}");
    assert!(RandomHorizontalFlip::new(1.5).is_err() && RandomVerticalFlip::new(f64::NAN).is_err());
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_batches_for_any_number_of_workers() -> Result<()> {
    let epochs = |workers: usize, seed: u64| -> Result<Vec<Vec<f32>>> {
        let photos: Samples<(Image, i64)> = (0..10).map(|i| (photo(), i)).collect();
        let change = Compose((RandomResizedCrop::square(8), RandomHorizontalFlip::default(), ToTensor));
        let loader = DataLoader::builder(photos.transform(change))
            .batch_size(3)
            .shuffle(true)
            .seed(seed)
            .num_workers(workers)
            .build()?;
        (0..2).flat_map(|_| loader.iter()).map(|batch| batch?.0.to_vec::<f32>()).collect()
    };
    let first = epochs(0, 1)?;
    for workers in [1, 4] {
        assert!(epochs(workers, 1)? == first, "{workers} workers");
    }
    assert!(epochs(0, 2)? != first, "another seed");
    assert!(first[..4] != first[4..], "another epoch");
    let photos = &first[0];
    assert!(photos[..192] != photos[192..384], "one photograph is changed twice alike");
    Ok(())
}
