//! Files with wrong sizes and decompression bombs are refused within bounded memory. Every case runs in a separate
//! process, whose peak memory is measured: in one process, tests would mask each other's peaks.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compress, Compression, FlushCompress};
use kiln_data::{
    CIFAR10, ImageFolder, idx,
    transforms::{Image, ImageLimits},
};
use support::{gzip, idx as encode};

/// What reading any of these files may reserve beyond its own length.
const MOST_KB: u64 = 40 << 10;

/// The most memory that this process has asked for so far, in kB, where the system tells: whether it was used or not.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// Reads a file in another process; returns what it says, and by how many kB its peak has grown.
fn read_elsewhere(how: &str, path: &Path) -> (String, u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "read_one", "--ignored", "--nocapture", "--test-threads", "1"]);
    let output = command.env("KILN_TEST_READ", how).env("KILN_TEST_FILE", path).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{how} {path:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.split_once("grown by ")).unwrap_or_else(|| panic!("{text}"));
    (line.1.to_owned(), line.1.split(' ').next().unwrap().parse().unwrap())
}

#[test]
#[ignore = "run by the other tests"]
fn read_one() {
    let (how, path) =
        (std::env::var("KILN_TEST_READ").unwrap(), PathBuf::from(std::env::var_os("KILN_TEST_FILE").unwrap()));
    let start = peak();
    let said = match &*how {
        "idx" => idx::read(path).map(|idx| format!("{} bytes", idx.data.len())),
        "image" => Image::open(path).map(|image| format!("{image:?}")),
        "limited" => Image::open_with(path, ImageLimits::default().memory(1 << 20)).map(|image| format!("{image:?}")),
        "unlimited" => Image::open_with(path, ImageLimits::unlimited()).map(|image| format!("{image:?}")),
        "folder" => ImageFolder::new(path).map(|data| format!("{} samples", data.samples().len())),
        "cifar" => CIFAR10::test().root(path).load().map(|data| format!("{} labels", data.labels().len())),
        how => panic!("{how}"),
    };
    let said = said.unwrap_or_else(|error| format!("Error: {error}"));
    println!("grown by {} kB: {said}", peak() - start);
}

/// A name, the file, and a part of what is said of it.
type Case = (&'static str, Vec<u8>, &'static str);

fn check(how: &str, cases: impl IntoIterator<Item = Case>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, want) in cases {
        let path = folder.path().join(name);
        fs::write(&path, &bytes).unwrap();
        let (said, grown) = read_elsewhere(how, &path);
        assert!(said.contains(want) && said.contains(name), "{said}");
        let most = MOST_KB + (bytes.len() >> 10) as u64;
        assert!(grown < most, "{name}: {grown} kB for a file of {} bytes", bytes.len());
    }
}

#[test]
fn idx_files() {
    // 64 MiB of zeros after three images: only what the header declares is unpacked.
    let endless = bomb(&encode(&[3, 28, 28], &[0; 3 * 28 * 28]), 64, Wrapper::Gzip);
    assert!(endless.len() < 100_000);
    // 300 MB of zeros, as declared, in 300 kB.
    let zeros = bomb(&encode(&[300, 1 << 10, 1 << 10], &[]), 300, Wrapper::Gzip);
    // As much as may be there is not reserved before it comes.
    let few = gzip(&encode(&[60, 1 << 10, 1 << 10], &[0; 100]));
    check(
        "idx",
        [
            ("header-idx3", encode(&[u32::MAX; 3], &[0; 100]), "declares"),
            ("short-idx3", encode(&[2_000_000, 28, 28], &[0; 100]), "cut short"),
            ("short-idx3.gz", gzip(&encode(&[2_000_000, 28, 28], &[0; 100])), "cut short"),
            ("zeros-idx3.gz", zeros, "read_with_limit"),
            ("few-idx3.gz", few, "cut short"),
            ("bomb-idx3.gz", endless, "goes on after"),
        ],
    );
}

fn be(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn le16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let body = [&kind[..], data].concat();
        file.extend((data.len() as u32).to_be_bytes());
        file.extend(&body);
        file.extend(crc32fast::hash(&body).to_be_bytes());
    }
    file
}

/// A header and so many mebibytes of zeros, compressed without the hundreds of megabytes that they are: as a mebibyte that is
/// repeated.
fn bomb(header: &[u8], mebibytes: usize, wrapper: Wrapper) -> Vec<u8> {
    let block = |bytes: &[u8]| {
        let mut out = Vec::with_capacity(bytes.len() + 100);
        let mut compress = Compress::new(Compression::best(), false);
        // What follows a full flush refers to nothing before it.
        compress.compress_vec(bytes, &mut out, FlushCompress::Full).unwrap();
        assert_eq!(compress.total_in(), bytes.len() as u64);
        out
    };
    let zeros = vec![0; 1 << 20];
    // The last block is empty.
    let packed = [block(header), block(&zeros).repeat(mebibytes), vec![3, 0]].concat();
    match wrapper {
        Wrapper::Gzip => {
            let mut sum = crc32fast::Hasher::new();
            sum.update(header);
            (0..mebibytes).for_each(|_| sum.update(&zeros));
            let len = (header.len() + (mebibytes << 20)) as u32;
            let start = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
            [&start[..], &packed, &sum.finalize().to_le_bytes(), &len.to_le_bytes()].concat()
        }
        Wrapper::Zlib => {
            assert!(header.is_empty());
            // Adler-32 of zeros: their number, and 1.
            let sum = ((((mebibytes as u32) << 20) % 65_521) << 16) | 1;
            [&[0x78, 0xda][..], &packed, &sum.to_be_bytes()].concat()
        }
    }
}

/// What is around compressed data.
enum Wrapper {
    Gzip,
    Zlib,
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn png_header(width: u32, height: u32) -> (&'static [u8; 4], Vec<u8>) {
    (b"IHDR", [&be(&[width, height])[..], &[8, 2, 0, 0, 0]].concat())
}

/// A TIFF of these tags: a number, its type, its count and its value or where that is.
fn tiff(tags: &[(u16, u16, u32, u32)], data: &[u8]) -> Vec<u8> {
    let mut file = [b"II*\0", &8u32.to_le_bytes()[..], &(tags.len() as u16).to_le_bytes()].concat();
    for (tag, kind, count, value) in tags {
        file.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    file.extend([0; 4]);
    file.extend(data);
    file
}

fn webp(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let chunk = [&kind[..], &(data.len() as u32).to_le_bytes(), data, &vec![0; data.len() % 2]].concat();
    [b"RIFF", &(chunk.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &chunk].concat()
}

/// Headers of a few bytes that declare gigabytes: 60,000×60,000 pixels, or the most that the format can say.
fn huge_headers() -> Vec<Case> {
    let sof = |marker: u8| {
        [
            &[0xff, 0xd8, 0xff, marker, 0, 17, 8, 0xea, 0x60, 0xea, 0x60, 3][..],
            &[1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0],
            &[0xff, 0xd9],
        ]
        .concat()
    };
    let strip = |bits: u32, size: u32| {
        let tags = [
            (256, 4, 1, size),
            (257, 4, 1, size),
            (258, 3, 1, bits),
            (259, 3, 1, 5),
            (262, 3, 1, 1),
            (273, 4, 1, 200),
            (277, 3, 1, 1),
            (278, 4, 1, size),
            (279, 4, 1, 4),
        ];
        tiff(&tags, &[0x80, 0, 0x40, 0])
    };
    let tile = {
        let tags = [
            (256, 4, 1, 16),
            (257, 4, 1, 16),
            (258, 3, 1, 8),
            (259, 3, 1, 5),
            (262, 3, 1, 1),
            (277, 3, 1, 1),
            (322, 4, 1, 60_000),
            (323, 4, 1, 60_000),
            (324, 4, 1, 200),
            (325, 4, 1, 4),
        ];
        tiff(&tags, &[0x80, 0, 0x40, 0])
    };
    // A map of colors of a gigabyte.
    let count = {
        let tags = [
            (256, 4, 1, 4),
            (257, 4, 1, 4),
            (258, 3, 1, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 3),
            (273, 4, 1, 8),
            (277, 3, 1, 1),
            (278, 4, 1, 4),
            (279, 4, 1, 16),
            (320, 3, 500_000_000, 8),
        ];
        tiff(&tags, &[0; 16])
    };
    let vp8 = [&[0x30, 1, 0, 0x9d, 1, 0x2a][..], &le16(&[0x3fff, 0x3fff]), &[0; 40]].concat();
    let vp8l = [&[0x2f][..], &(0x3fffu32 | 0x3fff << 14).to_le_bytes(), &[0; 20]].concat();
    // A small canvas with a huge frame.
    let framed = {
        let canvas = [&b"VP8X"[..], &10u32.to_le_bytes(), &[0, 0, 0, 0, 9, 0, 0, 9, 0, 0]].concat();
        let frame = [&b"VP8 "[..], &(vp8.len() as u32).to_le_bytes(), &vp8].concat();
        [b"RIFF", &((canvas.len() + frame.len()) as u32 + 4).to_le_bytes()[..], b"WEBP", &canvas, &frame].concat()
    };
    let gif = |side: u16| {
        [
            &b"GIF89a"[..],
            &le16(&[side, side]),
            &[0x80, 0, 0, 1, 2, 3, 4, 5, 6, 0x2c, 0, 0, 0, 0],
            &le16(&[side, side]),
            &[0, 2, 2, 0x44, 1, 0, 0x3b],
        ]
        .concat()
    };
    let bmp = |bits: u8, compression: u8| {
        let header = [
            &40u32.to_le_bytes()[..],
            &60_000u32.to_le_bytes(),
            &60_000u32.to_le_bytes(),
            &[1, 0, bits, 0, compression, 0, 0, 0],
            &[0; 20],
        ]
        .concat();
        [b"BM", &[0; 8][..], &54u32.to_le_bytes(), &header].concat()
    };
    vec![
        ("baseline.jpg", sof(0xc0), "pixels"),
        ("progressive.jpg", sof(0xc2), "pixels"),
        ("header.png", png(&[png_header(60_000, 60_000), (b"IDAT", zlib(&[0; 100])), (b"IEND", vec![])]), "pixels"),
        (
            "wide.png",
            png(&[png_header(40_000_000, 1), (b"IDAT", zlib(&[0; 100])), (b"IEND", vec![])]),
            "ImageLimits::memory",
        ),
        ("strip.tiff", strip(8, 60_000), "pixels"),
        ("packed.tiff", strip(1, 13_000), "ImageLimits::memory"),
        ("tile.tiff", tile, "ImageLimits::memory"),
        ("count.tiff", count, "TIFF"),
        ("lossy.webp", webp(b"VP8 ", &vp8), "pixels"),
        ("lossless.webp", webp(b"VP8L", &vp8l), "pixels"),
        ("frame.webp", framed, "pixels"),
        ("screen.gif", gif(u16::MAX), "pixels"),
        ("smaller.gif", gif(9000), "ImageLimits::memory"),
        ("colors.bmp", bmp(24, 0), "pixels"),
        ("runs.bmp", bmp(8, 1), "pixels"),
        ("binary.ppm", b"P6 60000 60000 255\n".to_vec(), "pixels"),
        ("text.pgm", b"P2 12000 12000 255\n1 2 3".to_vec(), "ImageLimits::memory"),
        ("overflow.ppm", b"P6 4294967295 4294967295 255\n".to_vec(), "pixels"),
    ]
}

#[test]
fn headers_of_images_reserve_nothing() {
    check("image", huge_headers());
}

/// Without bounds a header's memory may be reserved, and what does not exist is an error, never an abort.
#[test]
fn without_limits_too_they_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("overflow.ppm", b"P6 4294967295 4294967295 255\n".to_vec()),
        ("header.png", png(&[png_header(0x7fff_ffff, 0x7fff_ffff), (b"IDAT", zlib(&[0; 100])), (b"IEND", vec![])])),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let (said, _) = read_elsewhere("unlimited", &path);
        assert!(said.contains("out of memory on cpu") && said.contains(name), "{said}");
    }
}

/// Profiles, texts and other chunks that unpack to gigabytes are not needed for pixels, and not unpacked.
#[test]
fn chunks_of_png_are_no_bombs() {
    // A profile of 300 MB in 300 kB; twice packed it would be smaller still.
    let bomb = bomb(&[], 300, Wrapper::Zlib);
    let pixels = zlib(&[[0u8].as_slice(), &[7; 6]].concat().repeat(2));
    let named = |name: &[u8]| [name, &bomb].concat();
    let file = png(&[
        png_header(2, 2),
        (b"iCCP", named(b"profile\0\0")),
        (b"zTXt", named(b"text\0\0")),
        (b"iTXt", named(b"text\0\x01\0\0\0")),
        (b"eXIf", vec![0; 4 << 20]),
        (b"IDAT", pixels),
        (b"IEND", vec![]),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.png");
    fs::write(&path, &file).unwrap();
    let (said, grown) = read_elsewhere("image", &path);
    assert!(said.contains("Image(2×2, 3 channels)"), "{said}");
    assert!(grown < MOST_KB + 2 * (file.len() >> 10) as u64, "{grown} kB for {} bytes", file.len());
    // More pixels than the header declares are not unpacked either.
    let file = png(&[png_header(2, 2), (b"IDAT", bomb), (b"IEND", vec![])]);
    fs::write(&path, &file).unwrap();
    let (_, grown) = read_elsewhere("image", &path);
    assert!(grown < MOST_KB, "{grown} kB");
}

/// The caller's own budget.
#[test]
fn limits_can_be_set() {
    // A little more than the budget below.
    let image = Image::new(600, 600, 3, vec![7; 600 * 600 * 3]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for ending in ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"] {
        let path = folder.path().join(format!("large.{ending}"));
        image.save(&path).unwrap();
        let (said, grown) = read_elsewhere("limited", &path);
        assert!(said.contains("Error") && said.contains("ImageLimits::memory"), "{ending}: {said}");
        assert!(grown < MOST_KB);
        let (said, grown) = read_elsewhere("image", &path);
        assert!(said.contains("Image(600×600, 3 channels)"), "{ending}: {said}");
        assert!(grown < MOST_KB, "{ending}: {grown} kB");
        let few = ImageLimits::default().pixels(600 * 600 - 1);
        assert!(Image::open_with(&path, few).unwrap_err().to_string().contains("ImageLimits::pixels"));
        assert!(Image::open_with(&path, few.pixels(600 * 600)).is_ok());
    }
}

/// A frame of an animation holds no frames: who nests them by the million finds no recursion.
#[test]
fn frames_in_frames() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nested.webp");
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    let depth = 400_000u32;
    for level in 0..depth {
        file.extend([&b"ANMF"[..], &((depth - level) * 24).to_le_bytes(), &[0; 16]].concat());
    }
    let len = file.len() as u32 - 8;
    file[4..8].copy_from_slice(&len.to_le_bytes());
    fs::write(&path, &file).unwrap();
    let (said, _) = read_elsewhere("image", &path);
    assert!(said.contains("damaged WebP"), "{said}");
}

#[test]
fn batches_of_cifar() {
    let folder = tempfile::tempdir().unwrap();
    let batch = folder.path().join("test_batch.bin");
    // Two gigabytes that take no room on disk.
    fs::File::create(&batch).unwrap().set_len(2 << 30).unwrap();
    let (said, grown) = read_elsewhere("cifar", folder.path());
    assert!(said.contains("too many") && said.contains("test_batch.bin") && grown < MOST_KB, "{said}");
}
