//! MPI communicators: the calls made by the communication thread, with error codes converted to text.

use std::{
    ffi::{c_int, c_void},
    marker::PhantomData,
};

use kiln_tensor::DType;

use super::library::{self as lib, Count, Handle, Library, Status};
use crate::{
    collective::{CollectiveKind, ReduceOp},
    notes::NOTE,
};

/// A communicator for collectives, and another for notes between ranks. Stays on the thread that created it.
pub(super) struct Communicator {
    library: Library,
    collectives: Handle,
    notes: Handle,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) local_rank: usize,
    pub(super) local_size: usize,
    /// Whether MPI was initialized here, and must be finalized here.
    started: bool,
    stays_on_its_thread: PhantomData<*const ()>,
}

/// A call that was started. Its memory is read and written until [`Communicator::test`] says that it has completed.
pub(super) struct Request(Handle);

const NOTE_TAG: c_int = 1;

impl Communicator {
    /// Initializes MPI, unless the program has.
    ///
    /// # Errors
    /// If the library is missing or does not start, was finalized before, or may not be called from this thread.
    pub(super) fn start() -> Result<Communicator, String> {
        let library = Library::open()?;
        let (mut initialized, mut finalized, mut level) = (0, 0, 0);
        // SAFETY: these may be called at any time, and write a number each.
        unsafe {
            (library.initialized)(&raw mut initialized);
            (library.finalized)(&raw mut finalized);
        }
        if finalized != 0 {
            return Err("it was ended in this process, and cannot be started again; keep the process group".into());
        }
        let needed = if initialized == 0 { lib::THREAD_FUNNELED } else { lib::THREAD_SERIALIZED };
        // SAFETY: the command line may be left out; a number is written.
        let code = unsafe {
            match initialized {
                0 => (library.init_thread)(std::ptr::null_mut(), std::ptr::null_mut(), needed, &raw mut level),
                _ => (library.query_thread)(&raw mut level),
            }
        };
        if code != 0 {
            return Err(format!("MPI_Init_thread failed: {}", library.error_text(code)));
        }
        if level < needed {
            return Err(format!(
                "{} offers thread level {level}, and Kiln, which calls it from a thread of its own, needs {needed} ({}); a \
                 program that starts MPI itself asks for it in MPI_Init_thread",
                library.version(),
                if needed == lib::THREAD_FUNNELED { "MPI_THREAD_FUNNELED" } else { "MPI_THREAD_SERIALIZED" },
            ));
        }
        let mut this = Communicator {
            library,
            collectives: lib::COMM_WORLD,
            notes: lib::COMM_WORLD,
            rank: 0,
            size: 0,
            local_rank: 0,
            local_size: 0,
            started: initialized == 0,
            stays_on_its_thread: PhantomData,
        };
        this.make().map_err(|reason| format!("{}: {reason}", this.library.version()))?;
        Ok(this)
    }

    fn make(&mut self) -> Result<(), String> {
        let (mut collectives, mut notes, mut local) = (lib::COMM_WORLD, lib::COMM_WORLD, lib::COMM_WORLD);
        let lib = &self.library;
        let place = |comm: Handle| -> Result<(usize, usize), String> {
            let (mut rank, mut size) = (0, 0);
            // SAFETY: a communicator that exists; a number is written by each.
            unsafe {
                self.check("MPI_Comm_rank", (lib.comm_rank)(comm, &raw mut rank))?;
                self.check("MPI_Comm_size", (lib.comm_size)(comm, &raw mut size))?;
            }
            Ok((usize::try_from(rank).unwrap_or(0), usize::try_from(size).unwrap_or(0)))
        };
        // SAFETY: MPI is started, all ranks make the same calls here, and handles are written to places that live.
        let (local_rank, local_size) = unsafe {
            self.check("MPI_Comm_set_errhandler", (lib.comm_set_errhandler)(lib::COMM_WORLD, lib::ERRORS_RETURN))?;
            self.check("MPI_Comm_dup", (lib.comm_dup)(lib::COMM_WORLD, &raw mut collectives))?;
            self.check("MPI_Comm_dup", (lib.comm_dup)(lib::COMM_WORLD, &raw mut notes))?;
            let split =
                (lib.comm_split_type)(lib::COMM_WORLD, lib::COMM_TYPE_SHARED, 0, lib::INFO_NULL, &raw mut local);
            self.check("MPI_Comm_split_type", split)?;
            for comm in [collectives, notes] {
                self.check("MPI_Comm_set_errhandler", (lib.comm_set_errhandler)(comm, lib::ERRORS_RETURN))?;
            }
            let place = place(local)?;
            self.check("MPI_Comm_free", (lib.comm_free)(&raw mut local))?;
            place
        };
        let (rank, size) = place(collectives)?;
        (self.collectives, self.notes) = (collectives, notes);
        (self.rank, self.size, self.local_rank, self.local_size) = (rank, size, local_rank, local_size);
        Ok(())
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), String> {
        if code == 0 { Ok(()) } else { Err(format!("{call} failed: {}", self.library.error_text(code))) }
    }

    /// Starts a collective: `input` is read and `output` written; if `input` is null, `output` is both. `count` is the
    /// number of elements of the smaller one.
    ///
    /// # Safety
    /// The memory has these elements of `dtype`, lives, and is not accessed by anyone else until the request has
    /// completed.
    pub(super) unsafe fn begin(
        &self,
        kind: CollectiveKind,
        dtype: DType,
        input: *const u8,
        output: *mut u8,
        count: usize,
    ) -> Result<Request, String> {
        let lib = &self.library;
        let mut request = lib::REQUEST_NULL;
        let elements = Count::try_from(count).map_err(|_| format!("{count} elements"))?;
        // Data that are only moved are moved as bytes.
        let bytes = Count::try_from(count * dtype.size()).map_err(|_| format!("{count} elements"))?;
        let input: *const c_void = if input.is_null() { lib::IN_PLACE } else { input.cast() };
        let output: *mut c_void = output.cast();
        // SAFETY: by this function's contract; the request is written to a place that lives.
        let (call, code) = unsafe {
            match kind {
                CollectiveKind::Barrier => ("MPI_Ibarrier", (lib.ibarrier)(self.collectives, &raw mut request)),
                CollectiveKind::Broadcast { root } => {
                    let root = c_int::try_from(root).map_err(|_| format!("rank {root}"))?;
                    ("MPI_Ibcast", (lib.ibcast)(output, bytes, lib::BYTE, root, self.collectives, &raw mut request))
                }
                CollectiveKind::AllGather => {
                    let (byte, comm) = (lib::BYTE, self.collectives);
                    let code = (lib.iallgather)(input, bytes, byte, output, bytes, byte, comm, &raw mut request);
                    ("MPI_Iallgather", code)
                }
                CollectiveKind::AllReduce(op) => {
                    let (dtype, op) = (datatype(dtype)?, operation(op));
                    let code = (lib.iallreduce)(input, output, elements, dtype, op, self.collectives, &raw mut request);
                    ("MPI_Iallreduce", code)
                }
                CollectiveKind::ReduceScatter(op) => {
                    let (dtype, op, comm) = (datatype(dtype)?, operation(op), self.collectives);
                    let code = (lib.ireduce_scatter_block)(input, output, elements, dtype, op, comm, &raw mut request);
                    ("MPI_Ireduce_scatter_block", code)
                }
            }
        };
        self.check(call, code)?;
        Ok(Request(request))
    }

    /// Whether a request has completed; lets the library make progress on it.
    pub(super) fn test(&self, request: &mut Request) -> Result<bool, String> {
        let (mut done, mut status) = (0, Status::default());
        // SAFETY: a request of this communicator, which the library sets to null when it is done.
        let code = unsafe { (self.library.test)(&raw mut request.0, &raw mut done, &raw mut status) };
        self.check("MPI_Test", code)?;
        Ok(done != 0)
    }

    /// Sends a note to a rank, without waiting for its reception.
    pub(super) fn send_note(&self, to: usize, note: Vec<u8>) {
        let (Ok(to), Ok(length)) = (c_int::try_from(to), c_int::try_from(note.len())) else { return };
        let mut request = lib::REQUEST_NULL;
        // The library may read it as long as the process lives. There are few notes.
        let note = Vec::leak(note);
        // SAFETY: the memory is never freed nor written again. It is no error here if the rank has exited.
        unsafe {
            let note: *const c_void = note.as_ptr().cast();
            (self.library.isend)(note, length, lib::BYTE, to, NOTE_TAG, self.notes, &raw mut request);
        }
    }

    /// A note that has arrived, with its sender.
    pub(super) fn next_note(&self) -> Option<(usize, Vec<u8>)> {
        let (mut there, mut status) = (0, Status::default());
        let mut note = vec![0u8; NOTE];
        // SAFETY: the memory holds the longest note; a message that was probed is received without waiting.
        let code = unsafe {
            let probed = (self.library.iprobe)(lib::ANY_SOURCE, NOTE_TAG, self.notes, &raw mut there, &raw mut status);
            if probed != 0 || there == 0 {
                return None;
            }
            let (from, length) = (status.source, NOTE as c_int);
            (self.library.recv)(
                note.as_mut_ptr().cast(),
                length,
                lib::BYTE,
                from,
                NOTE_TAG,
                self.notes,
                &raw mut status,
            )
        };
        let from = usize::try_from(status.source).ok().filter(|from| *from < self.size)?;
        (code == 0).then_some((from, note))
    }

    /// Finalizes MPI, if it was initialized here. All ranks must call it.
    pub(super) fn finalize(self) {
        if self.started {
            // SAFETY: no request of this process is left, and nothing of MPI is called after it.
            unsafe { (self.library.finalize)() };
        }
    }

    /// The library's name and version.
    pub(super) fn version(&self) -> String {
        self.library.version()
    }
}

fn datatype(dtype: DType) -> Result<Handle, String> {
    match dtype {
        DType::F32 => Ok(lib::FLOAT),
        DType::F64 => Ok(lib::DOUBLE),
        DType::I64 => Ok(lib::INT64),
        DType::I32 => Ok(lib::INT32),
        DType::U8 => Ok(lib::UINT8),
        other => Err(format!("MPI does not reduce {other}")),
    }
}

fn operation(op: ReduceOp) -> Handle {
    match op {
        // The worker divides by the number of ranks.
        ReduceOp::Sum | ReduceOp::Mean => lib::SUM,
        ReduceOp::Min => lib::MIN,
        ReduceOp::Max => lib::MAX,
    }
}
