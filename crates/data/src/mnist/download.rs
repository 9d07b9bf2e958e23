//! Fetching data sets: resumed where a connection broke, checked before they are used, put in place whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use flate2::read::MultiGzDecoder;
use kiln_tensor::{Error, Result};
use sha2::{Digest, Sha256};
use ureq::{
    Agent,
    http::{Response, header},
};

use super::{MnistKind, PIXELS, find::names};

/// How often one address is tried before the next.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(250);
/// Room for headers, and for a packed file that is no smaller than its contents.
const SLACK: u64 = 1 << 16;

/// Downloads the images' and labels' files of a split into `folder`; returns their paths.
pub(super) fn split<K: MnistKind>(folder: &Path, train: bool, mirrors: &[String]) -> Result<[PathBuf; 2]> {
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let (which, names) = (usize::from(!train), names(train));
    let count = K::COUNTS[which] as u64;
    let fetch = |file: usize, bytes: u64| {
        let target = folder.join(format!("{}.gz", names[file]));
        let download = Download { target, mirrors, sha256: K::SHA256[which][file], most: bytes + SLACK };
        download.run()
    };
    Ok([fetch(0, count * PIXELS as u64)?, fetch(1, count)?])
}

/// One file, packed by gzip.
struct Download<'a> {
    target: PathBuf,
    mirrors: &'a [String],
    /// Of the unpacked contents: mirrors pack them differently.
    sha256: &'a str,
    /// The most bytes that the file can have, packed or unpacked: a bound on what a server can make us store.
    most: u64,
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Passing(String),
    /// This address does not have the file.
    Lasting(String),
    /// This machine's fault.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Local(error)
    }
}

impl Download<'_> {
    fn run(&self) -> Result<PathBuf> {
        if self.target.is_file() {
            return Ok(self.target.clone());
        }
        let agent = agent();
        let mut failures = Vec::new();
        for mirror in self.mirrors {
            let url = format!("{}/{}", mirror.trim_end_matches('/'), self.name());
            match self.try_mirror(&agent, &url) {
                Ok(()) => return Ok(self.target.clone()),
                Err(Failure::Local(error)) => return Err(error),
                Err(Failure::Passing(reason) | Failure::Lasting(reason)) => failures.push(format!("{url}: {reason}")),
            }
        }
        if failures.is_empty() {
            failures.push("no address is known".into());
        }
        let folder = self.target.parent().unwrap_or(Path::new(".")).display();
        let message = format!("cannot be downloaded ({}); put it into {folder} yourself", failures.join("; "));
        Err(Error::file(&self.target, message))
    }

    fn name(&self) -> String {
        self.target.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What has come so far. It stays when we give up, so that the next run goes on from it.
    fn part(&self) -> PathBuf {
        self.target.with_file_name(format!("{}.part", self.name()))
    }

    fn try_mirror(&self, agent: &Agent, url: &str) -> Result<(), Failure> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            match self.attempt(agent, url) {
                Err(Failure::Passing(_)) if attempt < ATTEMPTS => {}
                done => return done,
            }
            thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    fn attempt(&self, agent: &Agent, url: &str) -> Result<(), Failure> {
        let part = self.part();
        let have = match fs::metadata(&part) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(Error::io(part, error).into()),
        };
        let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        let response = request.call().map_err(|error| Failure::Passing(error.to_string()))?;
        let resumed = match response.status().as_u16() {
            200 => false,
            206 if have > 0 && range_start(&response) == Some(have) => true,
            // There is nothing after what we have: it is the whole file, or not this file at all.
            416 if have > 0 => return self.finish(true),
            206 => {
                self.discard()?;
                return Err(Failure::Passing("the server sent another range than asked for".into()));
            }
            status @ (408 | 425 | 429 | 500..=599) => return Err(Failure::Passing(format!("HTTP status {status}"))),
            status => return Err(Failure::Lasting(format!("HTTP status {status}"))),
        };
        self.receive(response, if resumed { have } else { 0 })?;
        self.finish(resumed)
    }

    /// Writes the body behind the first `have` bytes of the part.
    fn receive(&self, response: Response<ureq::Body>, have: u64) -> Result<(), Failure> {
        let part = self.part();
        let local = |error| Failure::Local(Error::io(&part, error));
        let expected: Option<u64> = field(&response, header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
        let mut out = OpenOptions::new().write(true).create(true).truncate(false).open(&part).map_err(local)?;
        out.set_len(have).map_err(local)?;
        io::Seek::seek(&mut out, io::SeekFrom::Start(have)).map_err(local)?;
        let room = self.most.saturating_sub(have);
        let mut body = response.into_body().into_reader().take(room + 1);
        let (mut buffer, mut received) = (vec![0; 1 << 16], 0u64);
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Passing(format!("the connection broke: {error}"))),
            };
            out.write_all(&buffer[..count]).map_err(local)?;
            received += count as u64;
        }
        if received > room {
            self.discard()?;
            return Err(Failure::Lasting(format!("the file there is longer than {} bytes", self.most)));
        }
        match expected {
            Some(expected) if received < expected => {
                Err(Failure::Passing(format!("the connection broke after {received} of {expected} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Checks what has come and puts it in its place. The bytes checked are those written: another process
    /// that downloads the same file may still be writing the part.
    fn finish(&self, resumed: bool) -> Result<(), Failure> {
        let part = self.part();
        let bytes = fs::read(&part).map_err(|error| Error::io(&part, error))?;
        if let Err(reason) = self.check(&bytes) {
            self.discard()?;
            // The beginning may have come from another server or another version of the file.
            return Err(if resumed { Failure::Passing(reason) } else { Failure::Lasting(reason) });
        }
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let aside = self.target.with_file_name(format!("{}.{}-{unique}.tmp", self.name(), process::id()));
        let placed = write_synced(&aside, &bytes).and_then(|()| fs::rename(&aside, &self.target));
        if let Err(error) = placed {
            let _ = fs::remove_file(&aside);
            return Err(Error::io(&self.target, error).into());
        }
        self.discard()?;
        Ok(())
    }

    fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let mut unpacked = MultiGzDecoder::new(bytes).take(self.most);
        let mut hash = Sha256::new();
        io::copy(&mut unpacked, &mut hash).map_err(|error| format!("not a whole gzip file: {error}"))?;
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != self.sha256 {
            return Err(format!("wrong contents: SHA-256 {found}, expected {}", self.sha256));
        }
        Ok(())
    }

    fn discard(&self) -> Result<()> {
        match fs::remove_file(self.part()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(self.part(), error)),
            _ => Ok(()),
        }
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        // What has come by then is kept, and the next attempt goes on from it.
        .timeout_recv_body(Some(Duration::from_secs(600)))
        .build();
    config.into()
}

fn field(response: &Response<ureq::Body>, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// The first number of `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response<ureq::Body>) -> Option<u64> {
    let range = field(response, header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
