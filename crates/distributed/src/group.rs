//! Process groups: the collectives, on tensors.

use std::fmt;

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor};

use crate::{Collective, ReduceOp};

/// Processes that work together, each with a rank. All of them call the same collectives in the same order, from any
/// thread; a collective on one rank waits for the same one on the others, at most for the group's timeout.
///
/// Tensors are changed in place. After an error that concerns other ranks the group is of no more use, and all ranks get an
/// error.
#[located(site)]
pub trait ProcessGroup: Send + Sync + fmt::Debug {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// This process's number among those on the same machine.
    fn local_rank(&self) -> usize;

    /// What the group communicates through.
    fn engine(&self) -> &'static str;

    /// The device of this process: the GPU with the number of the [`local_rank`](ProcessGroup::local_rank) if it is usable,
    /// else the CPU.
    fn device(&self) -> Device {
        Device::cuda(self.local_rank()).unwrap_or(Device::Cpu)
    }

    /// Begins a collective. Its tensors are left alone until it has been waited for.
    ///
    /// # Errors
    /// The tensors do not fit, or the group has failed.
    fn start(&self, call: Collective) -> Result<Work>;

    /// Gives the group up: collectives that are under way and later ones are errors with this reason, on all ranks that can
    /// be told.
    fn abort(&self, reason: &str);

    /// Gives `tensor` the values that it has on rank `root`.
    ///
    /// # Errors
    /// There is no such rank, another rank calls something else or fails, or it takes longer than the timeout.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        self.start(Collective::broadcast(tensor, root))?.wait()
    }

    /// Replaces `tensor` by the combination of all ranks' values. Half precision is added up in `f32`.
    ///
    /// # Errors
    /// As [`broadcast`](ProcessGroup::broadcast), or the dtype has no such combination.
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<()> {
        self.start(Collective::all_reduce(tensor, op))?.wait()
    }

    /// [`all_reduce`](ProcessGroup::all_reduce) that is only begun, PyTorch's `async_op=True`.
    ///
    /// # Errors
    /// As [`start`](ProcessGroup::start).
    fn all_reduce_async(&self, tensor: &Tensor, op: ReduceOp) -> Result<Work> {
        self.start(Collective::all_reduce(tensor, op))
    }

    /// Fills `output` with the `input`s of all ranks, one after the other: PyTorch's `all_gather_into_tensor`.
    ///
    /// # Errors
    /// As [`broadcast`](ProcessGroup::broadcast), or the output does not hold as many elements.
    fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<()> {
        self.start(Collective::all_gather(output, input))?.wait()
    }

    /// Fills `output` with the combination of this rank's part of the `input`s, of which rank `i` has the `i`-th: PyTorch's
    /// `reduce_scatter_tensor`.
    ///
    /// # Errors
    /// As [`all_reduce`](ProcessGroup::all_reduce), or the input does not have as many elements.
    fn reduce_scatter(&self, output: &Tensor, input: &Tensor, op: ReduceOp) -> Result<()> {
        self.start(Collective::reduce_scatter(output, input, op))?.wait()
    }

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`broadcast`](ProcessGroup::broadcast).
    fn barrier(&self) -> Result<()> {
        self.start(Collective::barrier())?.wait()
    }
}

impl dyn ProcessGroup + '_ {
    /// Whether this is rank 0, which prints and writes files for all.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// Calls `f` on rank 0 alone, and returns on all ranks when it is done: for what is written once, as a checkpoint. If it
    /// fails, that is an error on all ranks.
    ///
    /// # Errors
    /// That of `f`, which other ranks get as text; those of a collective.
    #[track_caller]
    pub fn on_main<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let done = self.is_main().then(f);
        let message = match &done {
            Some(Err(error)) => error.to_string(),
            _ => String::new(),
        };
        let told = self.broadcast_text(&message);
        match done {
            Some(Err(error)) => Err(error),
            done => match told? {
                message if message.is_empty() => Ok(done.and_then(Result::ok)),
                message => Err(Error::argument("on_main", format!("rank 0 failed: {message}"))),
            },
        }
    }

    /// The sums of numbers over all ranks, in `f64`: for losses and counts of right answers.
    ///
    /// # Errors
    /// Those of a collective.
    #[track_caller]
    pub fn sums(&self, numbers: &[f64]) -> Result<Vec<f64>> {
        let tensor = Tensor::from_slice(numbers, numbers.len(), self.device())?;
        self.start(Collective::all_reduce(&tensor, ReduceOp::Sum).named("sums of numbers"))?.wait()?;
        tensor.to_vec()
    }

    /// Rank 0's text, on all ranks.
    fn broadcast_text(&self, text: &str) -> Result<String> {
        let send = |bytes: &[u8], name: &str| {
            let tensor = Tensor::from_bytes(bytes, DType::U8, bytes.len(), self.device())?;
            self.start(Collective::broadcast(&tensor, 0).named(name))?.wait()?;
            tensor.to_vec::<u8>()
        };
        let length = send(&(text.len() as u64).to_le_bytes(), "length of a text")?;
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(length, 0);
        let bytes = if length == 0 { bytes } else { send(&bytes, "text")? };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The texts of all ranks, by rank.
    pub(crate) fn gather_texts(&self, text: &str, name: &str) -> Result<Vec<String>> {
        let gather = |bytes: &[u8], name: &str| {
            let input = Tensor::from_bytes(bytes, DType::U8, bytes.len(), self.device())?;
            let output = Tensor::from_bytes(
                &vec![0; bytes.len() * self.size()],
                DType::U8,
                bytes.len() * self.size(),
                self.device(),
            )?;
            self.start(Collective::all_gather(&output, &input).named(name))?.wait()?;
            output.to_vec::<u8>()
        };
        let lengths = gather(&(text.len() as u64).to_le_bytes(), &format!("length of {name}"))?;
        let length = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default()) as usize;
        let lengths: Vec<usize> = lengths.chunks_exact(8).map(length).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0).max(1);
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(longest, 0);
        let all = gather(&bytes, name)?;
        let texts = all.chunks_exact(longest).zip(lengths);
        Ok(texts.map(|(bytes, length)| String::from_utf8_lossy(&bytes[..length.min(longest)]).into_owned()).collect())
    }
}

/// A collective that was begun.
#[must_use = "a collective that nobody waits for may fail unnoticed"]
pub struct Work(Box<dyn Pending>);

/// What an engine knows of a collective that was begun.
pub trait Pending: Send {
    /// Whether it is done or has failed.
    fn is_completed(&mut self) -> bool;

    /// Makes later work of this process wait for it: the host, or the device's queue.
    ///
    /// # Errors
    /// It failed.
    fn wait(self: Box<Self>) -> Result<()>;
}

/// Done when it is begun.
struct Done;

impl Pending for Done {
    fn is_completed(&mut self) -> bool {
        true
    }

    fn wait(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[located(site)]
impl Work {
    /// For engines.
    pub fn new(pending: impl Pending + 'static) -> Work {
        Work(Box::new(pending))
    }

    /// One that is done.
    pub fn done() -> Work {
        Work::new(Done)
    }

    /// Whether it is done or has failed, without waiting.
    pub fn is_completed(&mut self) -> bool {
        self.0.is_completed()
    }

    /// Waits until the tensors are as the collective leaves them. On a GPU the device's queue waits, not the host.
    ///
    /// # Errors
    /// The collective failed; the message names rank, collective and tensor.
    pub fn wait(self) -> Result<()> {
        self.0.wait()
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}
