//! The exchange without MPI: all ranks connect to rank 0 by TCP, at the address that the launcher states. It carries NCCL's
//! id, and notes; rank 0 passes notes on.

use std::{
    env,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use kiln_backend::Communicator;
use parking_lot::Mutex;

use super::control::{Control, LOOK, leave_with_all};
use crate::{
    error::DistributedError,
    launch::Launch,
    notes::{Kind, NOTE, Note, Peers, Status},
};

/// Bytes of a greeting, and of the answer to it.
const GREETING: usize = 256;
/// How long somebody who connects has to say who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long ranks have to print what has happened to them.
const GRACE: Duration = Duration::from_millis(200);
/// Longer than any text of a rank.
const MAX_TEXT: u32 = 1 << 20;

/// One rank's connections.
pub(super) struct Star {
    rank: usize,
    size: usize,
    /// To all others for rank 0, to rank 0 for the others.
    lines: Vec<Option<Mutex<TcpStream>>>,
    peers: Peers,
    status: OnceLock<Status>,
    /// This rank has begun to leave.
    leaving: Mutex<bool>,
    timeout: Duration,
}

/// Where rank 0 listens. `torchrun` itself listens at its port, for its own store: the next one is taken then.
fn place(launch: &Launch) -> Result<(String, u16), DistributedError> {
    let Some((host, port)) = launch.master.clone() else {
        return Err(DistributedError::Rendezvous(
            "MASTER_ADDR, the address of rank 0, is not set; torchrun sets it".into(),
        ));
    };
    if let Ok(text) = env::var("KILN_MASTER_PORT") {
        let wrong = |_| DistributedError::Rendezvous(format!("KILN_MASTER_PORT={text} is not a port"));
        return Ok((host, text.parse().map_err(wrong)?));
    }
    let taken = env::var("TORCHELASTIC_USE_AGENT_STORE").is_ok_and(|value| value == "True");
    Ok((host, if taken { port.checked_add(1).unwrap_or(port - 1) } else { port }))
}

fn padded(text: &str) -> [u8; GREETING] {
    let mut bytes = [0; GREETING];
    let length = text.len().min(GREETING);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

fn read_padded(line: &mut TcpStream) -> io::Result<String> {
    let mut bytes = [0; GREETING];
    line.read_exact(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
}

impl Star {
    /// Connects all ranks.
    ///
    /// # Errors
    /// If not all have come in time: which are missing, and where they were awaited.
    pub(super) fn meet(launch: &Launch, timeout: Duration) -> Result<Star, DistributedError> {
        let (rank, size) = (launch.rank, launch.size);
        let (host, port) = place(launch)?;
        let deadline = Instant::now() + timeout;
        // Another run may use the port: its ranks are not ours.
        let run = env::var("TORCHELASTIC_RUN_ID").or_else(|_| env::var("SLURM_JOB_ID")).unwrap_or_default();
        let mut lines: Vec<Option<TcpStream>> = (0..size).map(|_| None).collect();
        if rank == 0 {
            Star::gather(&mut lines, &host, port, &run, deadline)?;
        } else {
            lines[0] = Some(Star::connect(rank, size, &host, port, &run, deadline)?);
        }
        let lines = lines.into_iter().map(|line| line.map(Mutex::new)).collect();
        let (peers, leaving) = (Peers::new(rank, size), Mutex::default());
        Ok(Star { rank, size, lines, peers, status: OnceLock::new(), leaving, timeout })
    }

    fn gather(
        lines: &mut [Option<TcpStream>],
        host: &str,
        port: u16,
        run: &str,
        deadline: Instant,
    ) -> Result<(), DistributedError> {
        let size = lines.len();
        let failed = |what: &str, error: &io::Error| {
            DistributedError::Rendezvous(format!("rank 0 {what} port {port} ({host}): {error}"))
        };
        let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|error| failed("cannot listen at", &error))?;
        listener.set_nonblocking(true).map_err(|error| failed("cannot wait at", &error))?;
        while lines.iter().skip(1).any(Option::is_none) {
            match listener.accept() {
                Ok((line, _)) => {
                    // A process that is no rank of this run is turned away, and the wait goes on.
                    let _ = Star::greet(line, lines, size, run);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(LOOK),
                Err(error) => return Err(failed("cannot accept connections at", &error)),
            }
            if Instant::now() > deadline {
                let missing: Vec<String> =
                    (1..size).filter(|&rank| lines[rank].is_none()).map(|rank| rank.to_string()).collect();
                return Err(DistributedError::Rendezvous(format!(
                    "rank 0 of {size} waits at port {port} ({host}), and rank {} did not come in time",
                    missing.join(", ")
                )));
            }
        }
        for line in lines.iter_mut().flatten() {
            line.write_all(&padded("welcome")).map_err(|error| failed("cannot answer at", &error))?;
        }
        Ok(())
    }

    fn greet(mut line: TcpStream, lines: &mut [Option<TcpStream>], size: usize, run: &str) -> io::Result<()> {
        line.set_nonblocking(false)?;
        line.set_read_timeout(Some(PATIENCE))?;
        line.set_nodelay(true)?;
        let greeting = read_padded(&mut line)?;
        let mut words = greeting.splitn(4, ' ');
        let (known, theirs, rank, their_run) = (words.next(), words.next(), words.next(), words.next());
        if known != Some("kiln") || their_run != Some(run) {
            return line.write_all(&padded("another run listens here"));
        }
        let rank = rank.and_then(|rank| rank.parse::<usize>().ok()).filter(|rank| (1..size).contains(rank));
        match rank {
            _ if theirs != Some(&size.to_string()) => line
                .write_all(&padded(&format!("this is a group of {size}, and {} are expected", theirs.unwrap_or("?")))),
            Some(rank) if lines[rank].is_none() => {
                lines[rank] = Some(line);
                Ok(())
            }
            _ => line.write_all(&padded("there is a process with this rank already")),
        }
    }

    fn connect(
        rank: usize,
        size: usize,
        host: &str,
        port: u16,
        run: &str,
        deadline: Instant,
    ) -> Result<TcpStream, DistributedError> {
        let mut reason = String::from("no answer");
        while Instant::now() < deadline {
            let all = (host, port).to_socket_addrs();
            let addresses = all.as_ref().map_or_else(|_| Vec::new(), |all| all.clone().collect());
            if let Err(error) = all {
                reason = error.to_string();
            }
            for address in addresses {
                let mut line = match TcpStream::connect_timeout(&address, PATIENCE) {
                    Ok(line) => line,
                    Err(error) => {
                        reason = error.to_string();
                        continue;
                    }
                };
                let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
                let greeting = padded(&format!("kiln {size} {rank} {run}"));
                let answer = (|| {
                    line.set_nodelay(true)?;
                    // It answers when all have come.
                    line.set_read_timeout(Some(left))?;
                    line.write_all(&greeting)?;
                    read_padded(&mut line)
                })();
                match answer {
                    Ok(answer) if answer == "welcome" => return Ok(line),
                    Ok(answer) if !answer.starts_with("another run") => {
                        let text = format!("rank {rank} of {size}: rank 0 ({host}:{port}) says: {answer}");
                        return Err(DistributedError::Rendezvous(text));
                    }
                    Ok(answer) => reason = answer,
                    Err(error) => reason = error.to_string(),
                }
            }
            thread::sleep(LOOK * 5);
        }
        let text = format!("rank {rank} of {size} does not reach rank 0 at {host}:{port} in time: {reason}");
        Err(DistributedError::Rendezvous(text))
    }

    /// Sends a note to a rank, by way of rank 0.
    fn send(&self, to: usize, from: usize, note: &[u8]) {
        let line = self.lines[if self.rank == 0 { to } else { 0 }].as_ref();
        let numbers = [to, from, note.len()].map(|number| (number as u32).to_le_bytes());
        let bytes = [&numbers.concat(), note].concat();
        // If the rank is gone, the thread that reads from it notices.
        let _ = line.map(|line| line.lock().write_all(&bytes));
    }

    fn send_all(&self, kind: Kind, calls: u64, text: &str) {
        let note = Note { kind, calls, text: text.to_owned() }.bytes();
        self.peers.others().for_each(|to| self.send(to, self.rank, &note));
    }

    /// Reads what comes over a line until its end.
    fn read(self: &Arc<Star>, other: usize, mut line: TcpStream) {
        loop {
            let mut head = [0; 12];
            let mut note = Vec::new();
            let got = line.read_exact(&mut head).and_then(|()| {
                note.resize((u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize).min(NOTE), 0);
                line.read_exact(&mut note)
            });
            if got.is_err() {
                return self.is_gone(other);
            }
            let [to, from] = [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
            let (to, from) = (to as usize, from as usize);
            if from >= self.size || to >= self.size {
                continue;
            }
            if to == self.rank {
                self.receive(from, &note);
            } else if self.rank == 0 {
                self.send(to, from, &note);
            }
        }
    }

    /// A connection has ended: a process is gone, or has left.
    fn is_gone(&self, other: usize) {
        const REASON: &str = "its process has ended, or its connection";
        if self.peers.has_left(other) || *self.leaving.lock() {
            return;
        }
        let note = Note { kind: Kind::Failed, calls: 0, text: REASON.into() };
        if self.rank == 0 {
            // The others have no connection with it.
            let bytes = note.bytes();
            (1..self.size).filter(|to| *to != other).for_each(|to| self.send(to, other, &bytes));
        }
        self.peers.receive(other, note);
    }

    fn receive(&self, from: usize, note: &[u8]) {
        let mut note = note.to_vec();
        note.resize(NOTE, 0);
        let Some(note) = Note::read(&note) else { return };
        if note.kind == Kind::Query {
            let text = self.status.get().map_or_else(|| "is joining the group".into(), |status| status());
            self.send(from, self.rank, &Note { kind: Kind::Status, calls: 0, text }.bytes());
        }
        self.peers.receive(from, note);
    }
}

/// A connected rank, whose threads live as long as the process.
pub(super) struct ByTcp(pub(super) Arc<Star>);

impl Control for ByTcp {
    fn share(&self, text: &str) -> Result<String, DistributedError> {
        let star = &self.0;
        let failed = |error: io::Error| {
            let (rank, size) = (star.rank, star.size);
            DistributedError::Rendezvous(format!("rank {rank} of {size}: the exchange with rank 0 has ended: {error}"))
        };
        if star.rank == 0 {
            let bytes = [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
            for line in star.lines.iter().flatten() {
                line.lock().write_all(&bytes).map_err(failed)?;
            }
            return Ok(text.to_owned());
        }
        let Some(line) = &star.lines[0] else { return Ok(String::new()) };
        let mut line = line.lock();
        line.set_read_timeout(Some(star.timeout)).map_err(failed)?;
        let mut length = [0; 4];
        line.read_exact(&mut length).map_err(failed)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_TEXT {
            return Err(failed(io::Error::other(format!("a text of {length} bytes"))));
        }
        let mut text = vec![0; length as usize];
        line.read_exact(&mut text).map_err(failed)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn begin(&self, status: Status) {
        let star = &self.0;
        let _ = star.status.set(status);
        for (other, line) in star.lines.iter().enumerate() {
            let Some(line) = line else { continue };
            let Ok(line) = line.lock().try_clone() else { continue };
            let _ = line.set_read_timeout(None);
            let this = star.clone();
            // If no thread can be started, the rank counts as silent.
            let _ = thread::Builder::new().name("kiln-notes".into()).spawn(move || this.read(other, line));
        }
    }

    fn failure(&self) -> Option<String> {
        self.0.peers.failure()
    }

    fn left(&self) -> Option<(usize, u64)> {
        self.0.peers.left(Kind::Left)
    }

    fn fail(&self, reason: &str) {
        self.0.send_all(Kind::Failed, 0, reason);
    }

    fn ask(&self) -> String {
        self.0.peers.ask(|| self.0.send_all(Kind::Query, 0, ""), || thread::sleep(LOOK))
    }

    fn leave_failed(&self) {
        *self.0.leaving.lock() = true;
        thread::sleep(GRACE);
    }

    fn leave(&self, calls: u64, communicator: Arc<dyn Communicator>) {
        // Rank 0 stays until all have left, since all notes go by way of it.
        self.0.send_all(Kind::Left, calls, "");
        if !leave_with_all(&self.0.peers, Kind::Left, &*communicator) {
            return self.leave_failed();
        }
        *self.0.leaving.lock() = true;
    }
}
