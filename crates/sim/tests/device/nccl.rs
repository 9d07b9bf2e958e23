//! NCCL between the devices of one process: results, rules of groups, order with other streams, mistakes.
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_sim::api::context::{cuCtxSetCurrent, cuDevicePrimaryCtxRetain};
use kiln_sim::api::device::cuInit;
use kiln_sim::api::event::{cuEventCreate, cuEventQuery, cuEventRecord};
use kiln_sim::api::memory::cuMemAlloc_v2;
use kiln_sim::api::nccl::*;
use kiln_sim::api::stream::{cuStreamCreate, cuStreamSynchronize, cuStreamWaitEvent};
use kiln_sim::api::transfer::{cuMemcpyDtoH_v2, cuMemcpyHtoD_v2};
use kiln_sim::{Kind, NcclStatus, Profile, Session, Status};

use crate::common::ok;

const F32: i32 = 7;
const SUM: i32 = 0;

fn fine(status: NcclStatus) {
    assert_eq!(status, NcclStatus::SUCCESS);
}

fn session(devices: usize) -> Session {
    let session = Session::new(Profile { devices, ..Profile::default() });
    // SAFETY: it takes no pointer.
    ok(unsafe { cuInit(0) });
    session
}

fn id() -> UniqueId {
    let mut id = UniqueId([0; 128]);
    // SAFETY: writes the id.
    fine(unsafe { ncclGetUniqueId(&raw mut id) });
    id
}

/// One rank: a device with two streams.
struct Rank {
    rank: usize,
    comm: usize,
    stream: usize,
    other: usize,
}

impl Rank {
    /// Makes the device the thread's, and joins the others.
    fn join(id: UniqueId, rank: usize, ranks: usize) -> Rank {
        Rank::enter(rank);
        let mut this = Rank { rank, comm: 0, stream: 0, other: 0 };
        // SAFETY: every pointer is to a variable of its type, here and below.
        unsafe {
            ok(cuStreamCreate(&raw mut this.stream, 1));
            ok(cuStreamCreate(&raw mut this.other, 1));
            fine(ncclCommInitRank(&raw mut this.comm, ranks as i32, id, rank as i32));
        }
        this
    }

    fn enter(rank: usize) {
        let mut context = 0;
        // SAFETY: as above.
        unsafe {
            ok(cuDevicePrimaryCtxRetain(&raw mut context, rank as i32));
            ok(cuCtxSetCurrent(context));
        }
    }

    fn upload(&self, values: &[f32]) -> u64 {
        let mut address = 0;
        // SAFETY: as above.
        unsafe {
            ok(cuMemAlloc_v2(&raw mut address, 4 * values.len()));
            ok(cuMemcpyHtoD_v2(address, values.as_ptr() as usize, 4 * values.len()));
            // The copy is in the default stream, for which the streams of the ranks do not wait.
            ok(cuStreamSynchronize(0));
        }
        address
    }

    fn sum(&self, at: u64, count: usize, stream: usize) -> NcclStatus {
        // SAFETY: the memory has as many elements.
        unsafe { ncclAllReduce(at, at, count, F32, SUM, self.comm, stream) }
    }

    fn read(&self, at: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0f32; count];
        // SAFETY: as above.
        unsafe {
            ok(cuStreamSynchronize(self.stream));
            ok(cuMemcpyDtoH_v2(values.as_mut_ptr() as usize, at, 4 * count));
        }
        values
    }

    /// Lets one stream wait for what is in another.
    fn after(&self, first: usize, then: usize) {
        let mut event = 0;
        // SAFETY: as above.
        unsafe {
            ok(cuEventCreate(&raw mut event, 2));
            ok(cuEventRecord(event, first));
            ok(cuStreamWaitEvent(then, event, 0));
        }
    }
}

/// Runs the ranks as threads.
fn ranks(count: usize, body: impl Fn(Rank) + Sync) {
    let id = id();
    thread::scope(|scope| {
        for rank in 0..count {
            let body = &body;
            scope.spawn(move || body(Rank::join(id, rank, count)));
        }
    });
}

#[test]
fn collectives_compute_what_they_say() {
    let session = session(3);
    ranks(3, |this| {
        let Rank { rank, comm, stream, .. } = this;
        let own: Vec<f32> = (0..6).map(|i| (i + 10 * rank) as f32).collect();
        // SAFETY: the memory has as many elements, in all calls.
        unsafe {
            let at = this.upload(&own);
            fine(this.sum(at, 6, stream));
            assert_eq!(this.read(at, 6), [30., 33., 36., 39., 42., 45.]);
            let (at, out) = (this.upload(&own), this.upload(&[0.0; 18]));
            fine(ncclAllGather(at, out, 6, F32, comm, stream));
            assert_eq!(this.read(out, 18)[5..8], [5., 10., 11.]);
            fine(ncclBroadcast(at, at, 6, F32, 2, comm, stream));
            assert_eq!(this.read(at, 2), [20., 21.]);
            let (at, part) = (this.upload(&own), this.upload(&[0.0; 2]));
            // The greatest, the mean.
            fine(ncclReduceScatter(at, part, 2, F32, 2, comm, stream));
            assert_eq!(this.read(part, 2), [20.0 + 2.0 * rank as f32, 21.0 + 2.0 * rank as f32]);
            fine(ncclAllReduce(at, at, 6, F32, 4, comm, stream));
            assert!((this.read(at, 1)[0] - 10.0).abs() < 1e-5);
            // Nothing of nothing; and what no header allows.
            fine(ncclAllReduce(at, at, 0, F32, SUM, comm, stream));
            assert_eq!(ncclAllReduce(at, at, 6, 99, SUM, comm, stream), NcclStatus::INVALID_ARGUMENT);
            assert_eq!(ncclBroadcast(at, at, 6, F32, 3, comm, stream), NcclStatus::INVALID_ARGUMENT);
            fine(ncclCommDestroy(comm));
        }
    });
    assert!(session.findings().is_empty(), "{:?}", session.findings());
}

/// One thread has all ranks: it must join, and call, within groups.
#[test]
fn one_thread_has_several_ranks_in_groups() {
    let session = session(2);
    let id = id();
    let (mut comms, mut streams, mut memory) = ([0; 2], [0; 2], [0; 2]);
    // SAFETY: every pointer is to a variable of its type.
    unsafe {
        fine(ncclGroupStart());
        for rank in 0..2 {
            Rank::enter(rank);
            ok(cuStreamCreate(&raw mut streams[rank], 1));
            fine(ncclCommInitRank(&raw mut comms[rank], 2, id, rank as i32));
            assert_eq!(comms[rank], 0, "it joins at the end of the group");
        }
        fine(ncclGroupEnd());
        let rank = |rank: usize| Rank { rank, comm: comms[rank], stream: streams[rank], other: streams[rank] };
        fine(ncclGroupStart());
        for (at, memory) in memory.iter_mut().enumerate() {
            Rank::enter(at);
            *memory = rank(at).upload(&[1.0 + at as f32]);
            fine(rank(at).sum(*memory, 1, streams[at]));
        }
        fine(ncclGroupEnd());
        for (at, memory) in memory.into_iter().enumerate() {
            Rank::enter(at);
            assert_eq!(rank(at).read(memory, 1), [3.0]);
        }
        comms.into_iter().for_each(|comm| fine(ncclCommAbort(comm)));
    }
    assert!(session.findings().is_empty(), "{:?}", session.findings());
}

#[test]
fn what_is_not_ordered_after_a_collective_is_found() {
    for ordered in [true, false] {
        let session = session(2);
        ranks(2, |this| {
            let (at, copy) = (this.upload(&[1.0; 4]), this.upload(&[0.0; 4]));
            fine(this.sum(at, 4, this.stream));
            if ordered {
                this.after(this.stream, this.other);
            }
            // SAFETY: the memory has as many bytes.
            unsafe {
                ok(kiln_sim::api::transfer::cuMemcpyDtoDAsync_v2(copy, at, 16, this.other));
                ok(cuStreamSynchronize(this.other));
                ok(cuStreamSynchronize(this.stream));
                fine(ncclCommDestroy(this.comm));
            }
        });
        let findings = session.findings();
        assert_eq!(findings.iter().filter(|one| one.kind == Kind::Unordered).count(), usize::from(!ordered) * 2);
    }
}

/// Waits, outside of the driver, until both ranks have come here.
fn meet(come: &AtomicUsize) {
    come.fetch_add(1, Ordering::SeqCst);
    let started = Instant::now();
    while come.load(Ordering::SeqCst) < 2 {
        assert!(started.elapsed() < Duration::from_secs(30), "the other rank does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A rank's device works for the others although its host waits for nothing.
#[test]
fn the_device_needs_no_host() {
    let session = session(2);
    let come = AtomicUsize::new(0);
    ranks(2, |this| {
        let at = this.upload(&[1.0; 4]);
        fine(this.sum(at, 4, this.stream));
        if this.rank == 0 {
            assert_eq!(this.read(at, 1), [2.0]);
        }
        meet(&come);
    });
    assert!(session.findings().is_empty(), "{:?}", session.findings());
}

#[test]
fn different_calls_never_end_and_are_found() {
    let session = session(2);
    let come = AtomicUsize::new(0);
    ranks(2, |this| {
        let at = this.upload(&[1.0; 8]);
        fine(this.sum(at, 4 + this.rank, this.stream));
        let mut event = 0;
        // SAFETY: pointers to variables.
        unsafe {
            ok(cuEventCreate(&raw mut event, 2));
            ok(cuEventRecord(event, this.stream));
            for _ in 0..50 {
                assert_eq!(cuEventQuery(event), Status::NOT_READY);
                thread::sleep(Duration::from_millis(2));
            }
            // What the first one aborts ends for both.
            meet(&come);
            fine(ncclCommAbort(this.comm));
            ok(cuStreamSynchronize(this.stream));
        }
    });
    let findings = session.findings();
    let text = "rank 0 ncclAllReduce (sum) of 4 f32, rank 1 ncclAllReduce (sum) of 5 f32";
    assert!(findings.iter().any(|one| one.kind == Kind::Collective && one.text.contains(text)), "{findings:?}");
}

#[test]
fn a_rank_that_is_gone_is_an_error_of_the_others() {
    let session = session(2);
    ranks(2, |this| {
        // SAFETY: pointers to variables.
        unsafe {
            if this.rank == 1 {
                return fine(ncclCommAbort(this.comm));
            }
            let at = this.upload(&[1.0; 4]);
            // It may be noticed at once, or later.
            let _ = this.sum(at, 4, this.stream);
            let (mut code, started) = (NcclStatus::SUCCESS, Instant::now());
            while code == NcclStatus::SUCCESS && started.elapsed() < Duration::from_secs(5) {
                fine(ncclCommGetAsyncError(this.comm, &raw mut code));
            }
            assert_eq!(code, NcclStatus::REMOTE_ERROR);
            assert_eq!(this.sum(at, 4, this.stream), NcclStatus::REMOTE_ERROR);
            fine(ncclCommAbort(this.comm));
            ok(cuStreamSynchronize(this.stream));
        }
    });
    assert!(session.findings().is_empty(), "{:?}", session.findings());
}

#[test]
fn two_ranks_on_one_device_are_refused() {
    let _session = session(2);
    let id = id();
    let mut comms = [0; 2];
    Rank::enter(0);
    // SAFETY: pointers to variables.
    unsafe {
        fine(ncclGroupStart());
        fine(ncclCommInitRank(&raw mut comms[0], 2, id, 0));
        fine(ncclCommInitRank(&raw mut comms[1], 2, id, 1));
        assert_eq!(ncclGroupEnd(), NcclStatus::INVALID_USAGE);
        assert_eq!(ncclCommInitRank(null_mut(), 1, id, 0), NcclStatus::INVALID_ARGUMENT);
        assert_eq!(ncclCommInitRank(&raw mut comms[0], 2, id, 2), NcclStatus::INVALID_ARGUMENT);
    }
}
