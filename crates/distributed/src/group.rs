//! Process groups: collectives on tensors.

use std::fmt;

use kiln_derive::located;
use kiln_tensor::{DType, Device, Error, Result, Tensor};

use crate::collective::{Collective, ReduceOp};

/// Processes that work together, each with a rank. All of them call the same collectives in the same order, from any
/// thread; a collective on one rank waits for the same one on the others, at most for the group's timeout.
///
/// Tensors are changed in place. After an error that involves other ranks the group cannot be used any more, and all
/// ranks get an error.
#[located(site)]
pub trait ProcessGroup: Send + Sync + fmt::Debug {
    /// This process's rank, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// This process's rank among those on the same machine.
    fn local_rank(&self) -> usize;

    /// The library that the group communicates with.
    fn engine(&self) -> &'static str;

    /// The device of this process: the GPU whose index is the [`local_rank`](ProcessGroup::local_rank) if it is usable,
    /// else the CPU.
    fn device(&self) -> Device {
        Device::cuda(self.local_rank()).unwrap_or(Device::Cpu)
    }

    /// Starts a collective. Its tensors must not be used until it has been waited for.
    ///
    /// # Errors
    /// If the tensors do not fit, or the group has failed.
    fn start(&self, call: Collective) -> Result<Work>;

    /// Aborts the group: running and later collectives are errors with this reason, on all ranks that can be reached.
    fn abort(&self, reason: &str);

    /// Gives `tensor` the values that it has on rank `root`.
    ///
    /// # Errors
    /// If there is no such rank, another rank calls something else or fails, or the timeout expires.
    fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<()> {
        self.start(Collective::broadcast(tensor, root))?.wait()
    }

    /// Replaces `tensor` by the combination of all ranks' values. Half precision is summed in `f32`.
    ///
    /// # Errors
    /// Those of [`broadcast`](ProcessGroup::broadcast); or if the dtype does not support the combination.
    fn all_reduce(&self, tensor: &Tensor, op: ReduceOp) -> Result<()> {
        self.start(Collective::all_reduce(tensor, op))?.wait()
    }

    /// Starts an [`all_reduce`](ProcessGroup::all_reduce) without waiting for it: PyTorch's `async_op=True`.
    ///
    /// # Errors
    /// Those of [`start`](ProcessGroup::start).
    fn all_reduce_async(&self, tensor: &Tensor, op: ReduceOp) -> Result<Work> {
        self.start(Collective::all_reduce(tensor, op))
    }

    /// Fills `output` with the concatenated `input`s of all ranks: PyTorch's `all_gather_into_tensor`.
    ///
    /// # Errors
    /// Those of [`broadcast`](ProcessGroup::broadcast); or if the output does not have as many elements.
    fn all_gather(&self, output: &Tensor, input: &Tensor) -> Result<()> {
        self.start(Collective::all_gather(output, input))?.wait()
    }

    /// Fills `output` with the combination of one part of all ranks' `input`s, rank `i` with the `i`-th part: PyTorch's
    /// `reduce_scatter_tensor`.
    ///
    /// # Errors
    /// Those of [`all_reduce`](ProcessGroup::all_reduce); or if the input does not have as many elements.
    fn reduce_scatter(&self, output: &Tensor, input: &Tensor, op: ReduceOp) -> Result<()> {
        self.start(Collective::reduce_scatter(output, input, op))?.wait()
    }

    /// Waits until all ranks have called it.
    ///
    /// # Errors
    /// Those of [`broadcast`](ProcessGroup::broadcast).
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

    /// Calls `f` on rank 0 only, and returns on all ranks when it is done: for files that are written once, such as a
    /// checkpoint. If it fails, all ranks get an error.
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

    /// The sums of numbers over all ranks, in `f64`: for losses and counts of correct predictions.
    ///
    /// # Errors
    /// Those of a collective.
    #[track_caller]
    pub fn sums(&self, numbers: &[f64]) -> Result<Vec<f64>> {
        let tensor = Tensor::from_slice(numbers, numbers.len(), self.device())?;
        self.start(Collective::all_reduce(&tensor, ReduceOp::Sum).named("sums of numbers"))?.wait()?;
        tensor.to_vec()
    }

    /// Sends rank 0's text to all ranks.
    pub(crate) fn broadcast_text(&self, text: &str) -> Result<String> {
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

    /// Gathers the texts of all ranks, in rank order.
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

/// A collective that was started.
#[must_use = "a collective that nobody waits for may fail unnoticed"]
pub struct Work(Box<dyn Pending>);

/// An engine's handle of a collective that was started.
pub trait Pending: Send {
    /// Whether it has completed or failed.
    fn is_completed(&mut self) -> bool;

    /// Makes later work of this process wait for it: the host, or the device's queue.
    ///
    /// # Errors
    /// If it failed.
    fn wait(self: Box<Self>) -> Result<()>;
}

/// A collective that has completed when it is started.
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
    /// Wraps an engine's handle.
    pub fn new(pending: impl Pending + 'static) -> Work {
        Work(Box::new(pending))
    }

    /// A collective that has completed.
    pub fn done() -> Work {
        Work::new(Done)
    }

    /// Whether it has completed or failed, without waiting.
    pub fn is_completed(&mut self) -> bool {
        self.0.is_completed()
    }

    /// Waits until the collective has completed. On a GPU the device's queue waits, not the host.
    ///
    /// # Errors
    /// If the collective failed; the message names rank, collective and tensor.
    pub fn wait(self) -> Result<()> {
        self.0.wait()
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}
