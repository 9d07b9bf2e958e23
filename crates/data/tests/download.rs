//! Downloads against a local server that serves, truncates, corrupts and refuses on command.

mod support;

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use kiln_data::{Dataset, MnistBuilder, MnistKind, MnistLike, Origin};
use kiln_tensor::{ErrorKind, Result};
use sha2::{Digest, Sha256};
use support::{gzip, images_and_labels};

/// Twenty training images; their checksums are those of `support::images_and_labels(20)`.
struct Tiny;

impl MnistKind for Tiny {
    const NAME: &'static str = "TinyMNIST";
    const CLASSES: &'static [&'static str] = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    const COUNTS: [usize; 2] = [20, 0];
    const MIRRORS: &'static [&'static str] = &[];
    const SHA256: [[&'static str; 2]; 2] = [[IMAGES_SHA256, LABELS_SHA256], ["", ""]];
}
const IMAGES_SHA256: &str = "4b2dfc4f1bff8fb167e4849e2ee81f03900770b287db0db8640939633076a582";
const LABELS_SHA256: &str = "be5713d8829571e59f34b543f7eeb521b1207d313487555fc3ab72f4165083f4";
const IMAGES: &str = "train-images-idx3-ubyte.gz";
const LABELS: &str = "train-labels-idx1-ubyte.gz";

/// What the server does with a request for the images. Labels, and images when the list is empty, are
/// served in full or from the byte that is asked for.
#[derive(Clone)]
enum Deed {
    /// Promises everything (or the rest) and closes the connection after so many bytes.
    Cut(usize),
    /// Ignores the range and sends the whole.
    Whole,
    /// Says that it sends the range, but begins elsewhere.
    OtherRange,
    Status(u16),
    /// Sends these bytes instead.
    Body(Vec<u8>),
    Hangup,
}

struct Server {
    address: String,
    /// Of each request: the path, and from which byte on it asks.
    requests: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Server {
    fn start(deeds: impl IntoIterator<Item = Deed>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/data/", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut deeds) = (requests.clone(), deeds.into_iter().collect::<VecDeque<_>>());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some((path, from)) = request(&stream) else { continue };
                seen.lock().unwrap().push((path.clone(), from));
                let [images, labels] = images_and_labels(20).map(|file| gzip(&file));
                let deed = if path.ends_with(IMAGES) { deeds.pop_front() } else { None };
                let file = if path.ends_with(IMAGES) { images } else { labels };
                // The client may hang up on us, which is its right.
                let _ = answer(&stream, deed, &file, from as usize);
            }
        });
        Server { address, requests }
    }

    /// From which bytes on the images were asked for.
    fn asked(&self) -> Vec<u64> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(path, _)| path == &format!("/data/{IMAGES}")).map(|&(_, from)| from).collect()
    }
}

fn request(stream: &TcpStream) -> Option<(String, u64)> {
    let (mut path, mut from) = (None, 0);
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?.to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(rest) = line.strip_prefix("get ") {
            path = rest.split(' ').next().map(str::to_string);
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok()?;
        }
    }
    Some((path?, from))
}

fn answer(mut stream: &TcpStream, deed: Option<Deed>, file: &[u8], from: usize) -> std::io::Result<()> {
    let head = |status: u16, len: usize, extra: &str| {
        format!("HTTP/1.1 {status} x\r\nContent-Length: {len}\r\nConnection: close\r\n{extra}\r\n")
    };
    let range = |from: usize| format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
    match deed {
        Some(Deed::Hangup) => Ok(()),
        Some(Deed::Status(status)) => stream.write_all(head(status, 0, "").as_bytes()),
        Some(Deed::Body(body)) => {
            stream.write_all(head(200, body.len(), "").as_bytes())?;
            stream.write_all(&body)
        }
        Some(Deed::OtherRange) => {
            stream.write_all(head(206, file.len() - from + 1, &range(from - 1)).as_bytes())?;
            stream.write_all(&file[from - 1..])
        }
        _ if from > 0 && from >= file.len() => stream.write_all(head(416, 0, "").as_bytes()),
        deed => {
            let from = if matches!(deed, Some(Deed::Whole)) { 0 } else { from };
            let (status, extra) = if from > 0 { (206, range(from)) } else { (200, String::new()) };
            let rest = &file[from..];
            stream.write_all(head(status, rest.len(), &extra).as_bytes())?;
            let sent = if let Some(Deed::Cut(bytes)) = deed { bytes.min(rest.len()) } else { rest.len() };
            stream.write_all(&rest[..sent])
        }
    }
}

fn builder(root: &Path, mirrors: &[&str]) -> MnistBuilder<Tiny> {
    MnistLike::<Tiny>::train().root(root).download(true).mirrors(mirrors.iter().copied())
}

/// Downloads through a server that does these deeds; checks that what came is right and nothing else stays.
#[track_caller]
fn succeeds(deeds: Vec<Deed>, asked: &[u64]) {
    let (temp, server) = (tempfile::tempdir().unwrap(), Server::start(deeds));
    let data = builder(temp.path(), &[&server.address]).load().unwrap();
    whole(&data, temp.path());
    assert_eq!(server.asked(), asked);
}

#[track_caller]
fn whole(data: &MnistLike<Tiny>, root: &Path) {
    assert_eq!((data.len(), data.origin(), data.is_subset()), (20, Origin::Given, false));
    assert_eq!(data.images(), &images_and_labels(20)[0][16..]);
    assert_eq!(files(root), [IMAGES, LABELS]);
}

fn files(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("TinyMNIST/raw")).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn failure(root: &Path, mirrors: &[&str]) -> String {
    let error = builder(root, mirrors).load().map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::File { path, .. } if path.ends_with(IMAGES)), "{error}");
    error.to_string()
}

#[test]
fn checksums_of_the_fixture() {
    let hex = |bytes: &[u8]| Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let [images, labels] = images_and_labels(20);
    assert_eq!([hex(&images), hex(&labels)], [IMAGES_SHA256, LABELS_SHA256]);
}

#[test]
fn downloads_once() -> Result<()> {
    let (temp, server) = (tempfile::tempdir().unwrap(), Server::start([]));
    whole(&builder(temp.path(), &[&server.address]).load()?, temp.path());
    whole(&builder(temp.path(), &[&server.address]).load()?, temp.path());
    assert_eq!(server.requests.lock().unwrap().len(), 2);
    Ok(())
}

#[test]
fn resumes_where_the_connection_broke() {
    succeeds(vec![Deed::Cut(100), Deed::Cut(50)], &[0, 100, 150]);
    succeeds(vec![Deed::Hangup, Deed::Cut(0), Deed::Cut(7)], &[0, 0, 0, 7]);
}

#[test]
fn a_server_without_ranges_starts_again() {
    succeeds(vec![Deed::Cut(100), Deed::Whole], &[0, 100]);
    succeeds(vec![Deed::Cut(100), Deed::OtherRange], &[0, 100, 0]);
}

#[test]
fn passing_errors_are_tried_again() {
    succeeds(vec![Deed::Status(503), Deed::Status(429)], &[0, 0, 0]);
}

#[test]
fn a_later_run_goes_on() -> Result<()> {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::start([Deed::Cut(40), Deed::Status(404)]);
    assert!(failure(temp.path(), &[&server.address]).contains("404"));
    assert_eq!(files(temp.path()), [format!("{IMAGES}.part")]);
    whole(&builder(temp.path(), &[&server.address]).load()?, temp.path());
    assert_eq!(server.asked(), [0, 40, 40]);
    Ok(())
}

#[test]
fn a_part_left_behind() -> Result<()> {
    let [images, _] = images_and_labels(20).map(|file| gzip(&file));
    // Whole already: killed before it was put in its place. Longer than the file, or of another file.
    for (part, asked) in [
        (images.clone(), vec![images.len() as u64]),
        (vec![1; images.len() + 5], vec![images.len() as u64 + 5, 0]),
        (vec![1; 30], vec![30, 0]),
    ] {
        let (temp, server) = (tempfile::tempdir().unwrap(), Server::start([]));
        let raw = temp.path().join("TinyMNIST/raw");
        fs::create_dir_all(&raw).unwrap();
        fs::write(raw.join(format!("{IMAGES}.part")), part).unwrap();
        whole(&builder(temp.path(), &[&server.address]).load()?, temp.path());
        assert_eq!(server.asked(), asked);
    }
    Ok(())
}

#[test]
fn wrong_contents_are_never_used() -> Result<()> {
    let other = gzip(&images_and_labels(19)[0]);
    let bomb = gzip(&vec![0; 64 << 20]);
    for (body, text) in [
        (other, "wrong contents: SHA-256"),
        (bomb, "wrong contents: SHA-256"),
        (b"<html>hotel wifi</html>".to_vec(), "gzip"),
        (vec![7; 200_000], "longer than"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let bad = Server::start([Deed::Body(body.clone())]);
        let error = failure(temp.path(), &[&bad.address]);
        assert!(error.contains(text) && error.contains(&bad.address), "{error}");
        assert!(files(temp.path()).is_empty());
        // A mirror that has the right file helps.
        let (bad, good) = (Server::start([Deed::Body(body)]), Server::start([]));
        whole(&builder(temp.path(), &[&bad.address, &good.address]).load()?, temp.path());
    }
    Ok(())
}

#[test]
fn offline_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    // A port that nobody listens at.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}");
    let error = failure(temp.path(), &[&address]);
    assert!(error.contains(&address) && error.contains("put it into"), "{error}");
}
