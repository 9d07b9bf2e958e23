//! `Image::save`: files of every format are read back, and read by Pillow.

use std::{path::Path, process::Command};

use kiln_data::transforms::Image;
use kiln_tensor::{ErrorKind, Result};

/// Smooth colors with some detail, which JPEG and a palette keep well.
fn image(height: usize, width: usize, channels: usize) -> Image {
    let value = |i: usize| {
        let (y, x, c) = (i / channels / width, i / channels % width, i % channels);
        (100.0 + 80.0 * (x as f64 / 9.0 + c as f64).sin() + 60.0 * (y as f64 / 7.0 - c as f64).cos()) as u8
    };
    Image::new(height, width, channels, (0..height * width * channels).map(value).collect()).unwrap()
}

/// Formats, and how far their bytes may be from the originals at most and on average.
const FORMATS: [(&str, u8, f64); 11] = [
    ("png", 0, 0.0),
    ("bmp", 0, 0.0),
    ("tif", 0, 0.0),
    ("TIFF", 0, 0.0),
    ("webp", 0, 0.0),
    ("ppm", 0, 0.0),
    ("pgm", 0, 0.0),
    ("pnm", 0, 0.0),
    ("jpg", 40, 3.0),
    ("jpeg", 40, 3.0),
    ("gif", 60, 8.0),
];

/// Sizes below, at and beyond the blocks, rows and bytes of formats.
const SIZES: [(usize, usize); 5] = [(1, 1), (8, 8), (5, 7), (33, 20), (64, 129)];

fn check(got: &Image, want: &Image, (ending, most, mean): (&str, u8, f64)) {
    // These are always read as color.
    let always_color = matches!(ending, "bmp" | "webp" | "gif");
    let want = if always_color { want.clone().to_rgb() } else { want.clone() };
    assert_eq!((got.height(), got.width(), got.channels()), (want.height(), want.width(), want.channels()), "{ending}");
    let apart: Vec<u8> = got.pixels().iter().zip(want.pixels()).map(|(a, b)| a.abs_diff(*b)).collect();
    assert!(apart.iter().all(|&d| d <= most), "{ending} {got:?}: {:?} apart", apart.iter().max());
    let sum: f64 = apart.iter().map(|&d| f64::from(d)).sum();
    assert!(sum <= mean * apart.len() as f64, "{ending} {got:?}: {} apart on average", sum / apart.len() as f64);
}

#[test]
fn every_format_is_read_back() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    for (height, width) in SIZES {
        for channels in [1, 3] {
            let original = image(height, width, channels);
            for format in FORMATS {
                let path = folder.path().join(format!("image.{}", format.0));
                original.save(&path)?;
                check(&Image::open(&path)?, &original, format);
            }
        }
    }
    Ok(())
}

/// JPEG's blocks of one value keep it to the last bit, and its extremes.
#[test]
fn jpeg_keeps_flat_colors() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flat.jpg");
    for value in [0, 1, 127, 128, 200, 255] {
        Image::new(9, 17, 1, vec![value; 9 * 17])?.save(&path)?;
        assert!(Image::open(&path)?.pixels().iter().all(|&got| got.abs_diff(value) <= 1), "{value}");
    }
    // Noise has long codes, and bytes that look like markers.
    let noise = (0..64u64 * 64 * 3).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    Image::new(64, 64, 3, noise)?.save(&path)?;
    assert_eq!(Image::open(&path)?.pixels().len(), 64 * 64 * 3);
    Ok(())
}

#[test]
fn what_cannot_be_written_is_an_error_that_names_the_file() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let original = image(4, 4, 3);
    for name in ["image.xyz", "image"] {
        let error = original.save(folder.path().join(name)).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::File { path, .. } if path.ends_with(name)), "{error}");
    }
    let error = original.save(folder.path().join("missing/image.png")).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io { .. }), "{error}");
    let empty = Image::new(0, 4, 3, vec![])?;
    let long = Image::new(1, 70_000, 1, vec![0; 70_000])?;
    for (ending, ..) in FORMATS {
        let path = folder.path().join(format!("empty.{ending}"));
        assert!(empty.save(&path).unwrap_err().to_string().contains("no pixels"), "{ending}");
        assert!(!path.exists());
    }
    for ending in ["jpg", "gif", "webp"] {
        assert!(long.save(folder.path().join(format!("long.{ending}"))).is_err(), "{ending}");
    }
    Ok(())
}

/// `pip install pillow`, then `cargo test -p kiln-data --test suite encoders -- --ignored`; `KILN_PYTHON` names another
/// Python than `python3`.
#[test]
#[ignore = "needs Python with Pillow"]
fn pillow_reads_them() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let python = std::env::var("KILN_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = "import sys; from PIL import Image; image = Image.open(sys.argv[1]); image.load(); \
                  image.convert('RGB').save(sys.argv[2])";
    for (height, width) in SIZES {
        for channels in [1, 3] {
            let original = image(height, width, channels);
            for format in FORMATS {
                let path = folder.path().join(format!("image.{}", format.0));
                let copy = folder.path().join("copy.png");
                original.save(&path)?;
                let status = Command::new(&python).args(["-c", script]).args([&*path, Path::new(&copy)]).status();
                assert!(status.unwrap().success(), "{}", format.0);
                check(&Image::open(&copy)?, &original.clone().to_rgb(), format);
            }
        }
    }
    Ok(())
}
