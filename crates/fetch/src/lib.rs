//! Downloads over HTTP: resumed after a broken connection, verified by SHA-256, and moved into place atomically.

#![forbid(unsafe_code)]
#![cfg(feature = "ureq")]

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
use kiln_backend::{Error, Result};
use sha2::{Digest, Sha256};
use ureq::{
    Agent,
    http::{Response, header},
};

/// Attempts per URL before the next one is tried.
const ATTEMPTS: u32 = 4;
/// The pause before the second attempt; it doubles with each further one.
const PAUSE: Duration = Duration::from_millis(250);

/// A file to download.
#[derive(Clone, Debug)]
pub struct Download<'a> {
    /// Where the file goes. Until it is complete, the part that has arrived is beside it, as `NAME.part`.
    pub target: PathBuf,
    /// URLs, in the order in which they are tried.
    pub urls: Vec<String>,
    /// The SHA-256 of the contents in lowercase hexadecimal digits, or a prefix of it.
    pub sha256: &'a str,
    /// Whether the sum is that of the contents uncompressed by gzip (mirrors compress differently).
    pub packed: bool,
    /// The maximum size of the file, compressed or not: a bound on what a server can make us store.
    pub most: u64,
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may succeed.
    Transient(String),
    /// This URL does not have the file.
    Permanent(String),
    /// A failure of this machine.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Local(error)
    }
}

impl Download<'_> {
    /// Downloads the file unless it exists; returns its path.
    ///
    /// # Errors
    /// If no URL has the file, or its contents differ; the message names each URL with its reason, and where to put the
    /// file by hand. Also if the file cannot be written.
    pub fn run(&self) -> Result<PathBuf> {
        if let Some(parent) = self.target.parent() {
            fs::create_dir_all(parent).map_err(|error| Error::io(parent, error))?;
        }
        if self.target.is_file() {
            return Ok(self.target.clone());
        }
        let agent = agent();
        let mut failures = Vec::new();
        for url in &self.urls {
            match self.try_url(&agent, url) {
                Ok(()) => return Ok(self.target.clone()),
                Err(Failure::Local(error)) => return Err(error),
                Err(Failure::Transient(reason) | Failure::Permanent(reason)) => {
                    failures.push(format!("{url}: {reason}"));
                }
            }
        }
        if failures.is_empty() {
            failures.push("no URL is known".into());
        }
        let folder = self.target.parent().unwrap_or(Path::new(".")).display();
        let message = format!("cannot be downloaded ({}); put it into {folder} yourself", failures.join("; "));
        Err(Error::file(&self.target, message))
    }

    fn name(&self) -> String {
        self.target.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file for the bytes received so far. It stays after a failure, so that the next run resumes from it.
    fn part(&self) -> PathBuf {
        self.target.with_file_name(format!("{}.part", self.name()))
    }

    fn try_url(&self, agent: &Agent, url: &str) -> Result<(), Failure> {
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            match self.attempt(agent, url) {
                Err(Failure::Transient(_)) if attempt < ATTEMPTS => {}
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
        let response = request.call().map_err(|error| Failure::Transient(error.to_string()))?;
        let resumed = match response.status().as_u16() {
            200 => false,
            206 if have > 0 && range_start(&response) == Some(have) => true,
            // The server has nothing after the bytes already here: they are the whole file, or not this file at all.
            416 if have > 0 => return self.finish(true),
            206 => {
                self.discard()?;
                return Err(Failure::Transient("the server sent a different range than requested".into()));
            }
            status @ (408 | 425 | 429 | 500..=599) => return Err(Failure::Transient(format!("HTTP status {status}"))),
            status => return Err(Failure::Permanent(format!("HTTP status {status}"))),
        };
        self.receive(response, if resumed { have } else { 0 })?;
        self.finish(resumed)
    }

    /// Writes the body after the first `have` bytes of the part.
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
                Err(error) => return Err(Failure::Transient(format!("the connection broke: {error}"))),
            };
            out.write_all(&buffer[..count]).map_err(local)?;
            received += count as u64;
        }
        if received > room {
            self.discard()?;
            return Err(Failure::Permanent(format!("the file is longer than {} bytes", self.most)));
        }
        match expected {
            Some(expected) if received < expected => {
                Err(Failure::Transient(format!("the connection broke after {received} of {expected} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Verifies the download and moves it into place. Exactly the bytes that were verified are written, because another
    /// process that downloads the same file may still be writing the part.
    fn finish(&self, resumed: bool) -> Result<(), Failure> {
        let part = self.part();
        let bytes = fs::read(&part).map_err(|error| Error::io(&part, error))?;
        if let Err(reason) = self.check(&bytes) {
            self.discard()?;
            // The first part may be from another server or another version of the file.
            return Err(if resumed { Failure::Transient(reason) } else { Failure::Permanent(reason) });
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
        let mut hash = Sha256::new();
        if self.packed {
            let mut unpacked = MultiGzDecoder::new(bytes).take(self.most);
            io::copy(&mut unpacked, &mut hash).map_err(|error| format!("not a complete gzip file: {error}"))?;
        } else {
            hash.update(bytes);
        }
        let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if self.sha256.is_empty() || !found.starts_with(self.sha256) {
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
        // The bytes received so far are kept, and the next attempt resumes from there.
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
