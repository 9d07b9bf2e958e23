//! Transforms against torchvision's, on a photograph (`tests/golden/make_transforms.py`).

#[path = "../../../tests/support/checkout.rs"]
mod checkout;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

use kiln_data::{
    DataLoader, DatasetExt, Samples,
    transforms::{
        CenterCrop, ColorJitter, Compose, Grayscale, Image, ImageOps, Interpolation, Normalize, OnBatch, OneHot, Pad,
        RandomCrop, RandomHorizontalFlip, RandomResizedCrop, RandomRotation, RandomVerticalFlip, Resize, Rotation,
        ToImage, ToTensor, Transform, erase,
    },
};
use kiln_tensor::{DType, Device, Result, Tensor, manual_seed};

/// Seeds the process' one generator for a test, and keeps it from the others that draw of it.
fn seeded(seed: u64) -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    let guard = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    manual_seed(seed);
    guard
}

fn path(name: &str) -> PathBuf {
    checkout::path("tests/golden/transforms").join(name)
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
    // Decoders of JPEG round differently, mostly where colors are interpolated.
    let (got, want) = (Image::open(path("photo.jpg"))?, Image::open(path("decoded.png"))?);
    assert_close(&got, "decoded.png", 4);
    let apart: u32 = got.pixels().iter().zip(want.pixels()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    assert!(f64::from(apart) < 0.5 * got.pixels().len() as f64, "{apart}");
    let gray = Image::open(path("gray.png"))?;
    assert_eq!(gray.channels(), 1);
    let rgb = gray.clone().to_rgb();
    assert!(rgb.channels() == 3 && rgb.pixels().chunks(3).zip(gray.pixels()).all(|(p, g)| p == [*g; 3]));
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
    assert_close(&Resize::new(40, 50).apply(Image::open(path("gray.png"))?)?, "gray_bilinear_40x50.png", 1);
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
        (ImageOps::flip_horizontal, ImageOps::flip_horizontal),
        (ImageOps::flip_vertical, ImageOps::flip_vertical),
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
    let gray = ToImage.apply(Tensor::new(&[[0.0f32, 0.5], [0.999, 1.0]], Device::Cpu)?)?;
    assert_eq!(gray.pixels(), [0, 127, 254, 255]);
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
    let _alone = seeded(5);
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
    let _alone = seeded(6);
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

fn part() -> Image {
    Image::open(path("part.png")).unwrap()
}

#[test]
fn turning_is_pillows() -> Result<()> {
    let modes = [
        ("nearest", Interpolation::Nearest),
        ("bilinear", Interpolation::Bilinear),
        ("bicubic", Interpolation::Bicubic),
    ];
    for (name, mode) in modes {
        let how = Rotation::new().interpolation(mode);
        assert_close(&part().rotate(33.0, &how)?, &format!("rotate_{name}_33.png"), 1);
        let wide = part().rotate(-100.5, &how.expand(true).fill(77.0))?;
        assert_close(&wide, &format!("rotate_{name}_-100.5_expand.png"), 1);
        let aside = part().rotate(15.0, &how.center(10.0, 20.0).fill(9.0))?;
        assert_close(&aside, &format!("rotate_{name}_15_center.png"), 1);
    }
    for angle in [90, 180, 270] {
        let turned = |expand| part().rotate(f64::from(angle), &Rotation::new().expand(expand));
        assert_close(&turned(false)?, &format!("rotate_nearest_{angle}.png"), 0);
        assert_close(&turned(true)?, &format!("rotate_nearest_{angle}_expand.png"), 0);
    }
    let gray = part().to_grayscale(1)?;
    let how = Rotation::new().interpolation(Interpolation::Bilinear).fill(200.0);
    assert_close(&gray.rotate(33.0, &how)?, "rotate_gray.png", 1);
    assert_eq!(part().rotate(360.0, &how)?, part());

    for (angle, how) in [(f64::NAN, how), (1.0, how.fill(256.0)), (1.0, how.center(f64::INFINITY, 0.0))] {
        assert!(part().rotate(angle, &how).is_err());
    }
    let empty = Image::new(0, 5, 3, vec![])?;
    for expand in [false, true] {
        empty.clone().rotate(10.0, &Rotation::new().expand(expand))?;
        Tensor::ones([3, 0, 5], Device::Cpu)?.rotate(10.0, &Rotation::new().expand(expand))?;
    }
    assert!(RandomRotation::new(-1.0).is_err() && RandomRotation::range(3.0, 2.0).is_err());
    assert!(RandomRotation::new(f64::NAN).is_err());
    let _alone = seeded(1);
    let turned = RandomRotation::range(180.0, 180.0)?.with(Rotation::new().expand(true)).apply(part())?;
    assert_eq!(turned, part().flip_horizontal()?.flip_vertical()?);
    Ok(())
}

#[test]
fn colors_are_pillows() -> Result<()> {
    for factor in ["0", "0.4", "1.7"] {
        let number: f64 = factor.parse().unwrap();
        assert_close(&part().adjust_brightness(number)?, &format!("brightness_{factor}.png"), 1);
        assert_close(&part().adjust_contrast(number)?, &format!("contrast_{factor}.png"), 1);
        assert_close(&part().adjust_saturation(number)?, &format!("saturation_{factor}.png"), 1);
    }
    for share in ["-0.5", "-0.13", "0.3"] {
        assert_close(&part().adjust_hue(share.parse().unwrap())?, &format!("hue_{share}.png"), 1);
    }
    assert_close(&Grayscale::default().apply(part())?, "grayscale_1.png", 0);
    assert_close(&Grayscale::new(3)?.apply(part())?, "grayscale_3.png", 0);
    let gray = part().to_grayscale(1)?;
    assert_eq!((gray.clone().adjust_hue(0.3)?, gray.clone().adjust_saturation(0.0)?), (gray.clone(), gray));
    assert!(Grayscale::new(2).is_err() && part().to_grayscale(0).is_err());
    assert!(part().adjust_hue(0.6).is_err() && part().adjust_contrast(-1.0).is_err());
    assert!(part().adjust_brightness(f64::NAN).is_err());
    Ok(())
}

#[derive(serde::Deserialize)]
struct Values {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Turning, colors and erasing of tensors, as torchvision does them in floats.
#[test]
fn tensors_are_changed_as_torchvisions() -> Result<()> {
    let golden = std::fs::read(path("tensors.json")).unwrap();
    let golden: std::collections::HashMap<String, Values> = serde_json::from_slice(&golden).unwrap();
    let input = &golden["input"];
    let x = Tensor::from_slice(&input.values, &input.shape[..], Device::Cpu)?;
    let bytes = x.mul(255.0)?.round()?.to_dtype(DType::U8)?;
    let bilinear = Rotation::new().interpolation(Interpolation::Bilinear);
    let value = Tensor::new([[[0.1f32]], [[0.2]], [[0.3]]], Device::Cpu)?;
    let cases = [
        ("rotate_nearest", x.clone().rotate(33.0, &Rotation::new().fill(0.25))?),
        ("rotate_bilinear", x.clone().rotate(33.0, &bilinear.fill(0.25))?),
        ("rotate_expand", x.clone().rotate(-100.5, &bilinear.expand(true))?),
        ("rotate_center", x.clone().rotate(15.0, &bilinear.center(3.0, 4.0).fill(1.0))?),
        ("brightness", x.clone().adjust_brightness(1.7)?),
        ("contrast", x.clone().adjust_contrast(1.7)?),
        ("contrast_gray", x.narrow(0, 0, 1)?.adjust_contrast(0.4)?),
        ("saturation", x.clone().adjust_saturation(1.7)?),
        ("hue", x.clone().adjust_hue(-0.13)?),
        ("grayscale", x.clone().to_grayscale(1)?),
        ("bytes_contrast", bytes.clone().adjust_contrast(1.7)?),
        ("bytes_saturation", bytes.clone().adjust_saturation(0.4)?),
        ("bytes_hue", bytes.clone().adjust_hue(0.3)?),
        ("bytes_rotate", bytes.clone().rotate(33.0, &bilinear.fill(9.0))?),
        ("erase", erase(&x, 2, 3, 4, 5, &value)?),
    ];
    for (name, got) in &cases {
        let want = &golden[*name];
        assert_eq!(got.dims(), want.shape, "{name}");
        let tolerance = if name.starts_with("bytes") { 1.0 } else { 2e-6 };
        let got = got.to_dtype(DType::F32)?.to_vec::<f32>()?;
        let apart = got.iter().zip(&want.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= tolerance, "{name}: {apart} apart");
    }
    assert_eq!(cases.len() + 1, golden.len());
    // A batch is changed picture by picture, whatever its layout.
    let batch = Tensor::stack(&[x.clone(), x.flip(0)?], 0)?;
    let strided = batch.permute([2, 0, 1, 3])?.contiguous()?.permute([1, 2, 0, 3])?;
    for change in [|x: Tensor| x.adjust_contrast(1.7), |x: Tensor| x.adjust_hue(0.2), |x: Tensor| x.to_grayscale(3)] {
        let each = [change(x.clone())?, change(x.flip(0)?)?];
        assert!(change(strided.clone())?.equal(&Tensor::stack(&each, 0)?)?);
    }
    assert!(x.narrow(0, 0, 2)?.adjust_hue(0.1).is_err() && x.to_dtype(DType::I64)?.adjust_hue(0.1).is_err());
    assert!(x.rotate(1.0, &Rotation::new().interpolation(Interpolation::Bicubic)).is_err());
    Ok(())
}

#[test]
fn colors_change_at_random() -> Result<()> {
    let jitter = ColorJitter::new().brightness(0.4)?.contrast(0.4)?.saturation(0.4)?.hue(0.1)?;
    let _alone = seeded(3);
    let first = jitter.apply(part())?;
    assert!(first != part() && first != jitter.apply(part())?);
    manual_seed(3);
    assert_eq!(jitter.apply(part())?, first);
    assert_eq!(ColorJitter::new().apply(part())?, part());
    let darker = ColorJitter::new().brightness_between(0.4, 0.4)?.apply(part())?;
    assert_eq!(darker, part().adjust_brightness(0.4)?);
    assert!(ColorJitter::new().hue(0.6).is_err() && ColorJitter::new().brightness(-0.1).is_err());
    assert!(ColorJitter::new().contrast_between(2.0, 1.0).is_err() && ColorJitter::new().hue(f64::NAN).is_err());
    Ok(())
}

/// The same transforms on samples and on batches of bytes: the same bits, in a loader with the same seed.
#[test]
fn batches_are_changed_as_their_samples() -> Result<()> {
    let _alone = seeded(4);
    let pictures = |height: usize, width: usize| -> Result<Samples<(Image, i64)>> {
        let of = |i: usize| {
            let bytes = (0..height * width * 3).map(|j| (i * 31 + j * 7 % 253) as u8).collect();
            Ok((Image::new(height, width, 3, bytes)?, i as i64))
        };
        (0..11).map(of).collect()
    };
    macro_rules! check {
        ($size:expr, $change:expr) => {{
            let (samples, batches) = ($change, OnBatch($change));
            let builder = |data| DataLoader::builder(data).batch_size(4).shuffle(true).seed(8);
            let one_by_one = DataLoader::builder(pictures($size.0, $size.1)?.transform(samples));
            let one_by_one = one_by_one.batch_size(4).shuffle(true).seed(8).build()?;
            let at_once = builder(pictures($size.0, $size.1)?)
                .num_workers(2)
                .device(Device::Cpu)
                .map_batches(move |(x, y)| Ok((batches.apply(x)?, y)))
                .build()?;
            for _ in 0..2 {
                let mut seen = 0;
                for (want, got) in one_by_one.iter().zip(at_once.iter()) {
                    let ((want, labels), (got, got_labels)) = (want?, got?);
                    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()));
                    assert!(got.equal(&want)? && got_labels.equal(&labels)?);
                    seen += labels.numel();
                }
                assert_eq!(seen, 11);
            }
        }};
    }
    let normal = Normalize::new([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])?;
    check!(
        (20, 24),
        (
            RandomCrop::new(16, 15),
            RandomHorizontalFlip::default(),
            RandomVerticalFlip::new(0.3)?,
            ToTensor,
            normal.clone()
        )
    );
    check!(
        (8, 9),
        (RandomCrop::new(8, 9).padding(Pad::new([4, 3, 2, 1]).fill(77.0)), RandomHorizontalFlip::default(), ToTensor)
    );
    check!((5, 30), (RandomCrop::new(9, 9).pad_if_needed(true), CenterCrop::square(7), ToTensor));
    check!((5, 6), (Pad::new([1, 2, 3, 4]).fill(3.0), ToTensor, normal.clone()));
    check!((5, 6), (CenterCrop::new(9, 3), ToTensor));

    // Odd batches: none, a view, too small, not bytes.
    let crop = OnBatch((RandomCrop::new(2, 3), RandomVerticalFlip::default(), ToTensor));
    let bytes = |dims: [usize; 4]| Tensor::ones(dims, DType::U8);
    assert_eq!(crop.apply(bytes([0, 3, 4, 4])?)?.dims(), [0, 3, 2, 3]);
    assert_eq!(crop.apply(bytes([4, 4, 3, 2])?.permute([3, 2, 1, 0])?)?.dims(), [2, 3, 2, 3]);
    assert!(crop.apply(bytes([1, 3, 1, 4])?).is_err() && crop.apply(Tensor::ones([3, 4, 4], DType::U8)?).is_err());
    assert!(crop.apply(Tensor::ones([1, 3, 4, 4], Device::Cpu)?).is_err());
    Ok(())
}
