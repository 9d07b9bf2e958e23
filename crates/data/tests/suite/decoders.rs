//! Decoding of image files against Pillow, with a small image in every format and kind
//! (`tests/golden/make_decoders.py`): complete, truncated anywhere, and damaged.

#![cfg(feature = "images")]

use std::{collections::BTreeMap, fs, io::Read, path::PathBuf};

use crate::checkout;
use kiln_data::transforms::Image;
use kiln_tensor::ErrorKind;
use serde::Deserialize;

fn folder() -> PathBuf {
    checkout::path("tests/golden/decoders")
}

#[derive(Deserialize)]
struct Golden {
    /// Height, width, channels and the pixels, packed by zlib and in hexadecimal digits.
    images: Vec<(usize, usize, usize, String)>,
    files: BTreeMap<String, usize>,
}

/// Each file's name and contents, and the image that Pillow makes of it.
fn golden() -> Vec<(String, Vec<u8>, Image)> {
    let golden: Golden = serde_json::from_str(&fs::read_to_string(folder().join("want.json")).unwrap()).unwrap();
    let image = |&(height, width, channels, ref hex): &(usize, usize, usize, String)| {
        let packed: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        let mut pixels = Vec::new();
        flate2::read::ZlibDecoder::new(&packed[..]).read_to_end(&mut pixels).unwrap();
        Image::new(height, width, channels, pixels).unwrap()
    };
    let images: Vec<Image> = golden.images.iter().map(image).collect();
    let file = |(name, index): (String, usize)| (fs::read(folder().join(&name)).unwrap(), name, images[index].clone());
    golden.files.into_iter().map(file).map(|(bytes, name, image)| (name, bytes, image)).collect()
}

/// How far bytes may be from Pillow's: decoders of lossy formats round differently, mostly where colors are interpolated.
fn tolerance(name: &str) -> u8 {
    match name {
        "rgb420.jpeg" | "progressive.jpeg" | "restarts.jpeg" | "thumbnail.jpeg" => 6,
        name if name.ends_with(".jpeg") => 2,
        name if name.starts_with("lossy") => 1,
        _ => 0,
    }
}

#[test]
fn every_format_decodes_as_pillows() {
    let files = golden();
    assert!(files.len() > 70);
    let mut wrong = Vec::new();
    for (name, bytes, want) in files {
        let got = match Image::decode(&bytes) {
            Ok(got) => got,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let size = |image: &Image| (image.height(), image.width(), image.channels());
        if size(&got) != size(&want) {
            wrong.push(format!("{name}: {got:?}, not {want:?}"));
            continue;
        }
        let apart = got.pixels().iter().zip(want.pixels()).map(|(a, b)| a.abs_diff(*b)).max();
        if apart > Some(tolerance(&name)) {
            let at = got.pixels().iter().zip(want.pixels()).position(|(a, b)| a != b).unwrap_or_default();
            let (a, b) = (&got.pixels()[at..], &want.pixels()[at..]);
            wrong.push(format!(
                "{name}: {apart:?} apart; first at {at}: {:?}, not {:?}",
                &a[..6.min(a.len())],
                &b[..6.min(b.len())]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file that is cut decodes to the whole image, where only what follows the pixels is missing, or not at all.
#[test]
fn cut_files_are_errors_or_whole() {
    let mut wrong = Vec::new();
    for (name, bytes, _) in golden() {
        let whole = Image::decode(&bytes).unwrap();
        // The last number of a text may be cut to a smaller one, which nobody can tell.
        let len = if name.starts_with("text") { bytes.len() - 4 } else { bytes.len() };
        // Everywhere in headers and at the end, and at many places between.
        for cut in (0..len).filter(|cut| cut % 23 == 0 || *cut < 70 || cut + 50 > bytes.len()) {
            let Ok(image) = Image::decode(&bytes[..cut]) else { continue };
            if image != whole || (name.ends_with(".jpeg") && cut < bytes.len()) {
                wrong.push(format!("{name} of {} bytes, cut to {cut}", bytes.len()));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// No change of a byte makes a decoder panic, or an image of another number of bytes than its size says.
#[test]
fn damaged_files_never_panic() {
    for (name, bytes, _) in golden() {
        // Every byte of the headers and some of the rest.
        let places = (0..bytes.len().min(64)).chain((64..bytes.len()).step_by(149));
        for at in places {
            for value in [0, 0xff, bytes[at] ^ 1] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                match Image::decode(&damaged) {
                    Ok(image) => {
                        assert_eq!(image.pixels().len(), image.height() * image.width() * image.channels(), "{name}");
                    }
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
            }
        }
    }
}

#[test]
fn errors_name_the_file_and_say_that_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, _) in golden() {
        // Of an animation the first frame is whole.
        if name.starts_with("animation") {
            continue;
        }
        let path = folder.path().join(&name);
        fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let error = Image::open(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::File { path, .. } if path.ends_with(&name)), "{error}");
        let text = error.to_string();
        assert!(text.contains("cut short") || text.contains("damaged"), "{text}");
    }
}
