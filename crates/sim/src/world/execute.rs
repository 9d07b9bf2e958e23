//! The execution of queued operations, and what is checked when one runs: its addresses, what orders it after earlier ones,
//! and whether what it reads was written.
use super::World;
use crate::engine::{self, Range};
use crate::history::Touch;
use crate::kind::Kind;
use crate::memory::Home;
use crate::status::Status;
use crate::stream::Operation;
use crate::work::{self, Work};

impl World {
    pub(super) fn execute(&mut self, mut operation: Operation) {
        self.unwatch();
        let device = self.streams.device(operation.moment.stream);
        if let Work::Collective(collective) = &mut operation.work
            && !self.ends(collective, device)
        {
            self.streams.put_back(operation);
            return self.watch();
        }
        let (reads, writes, first_reads) = match &mut operation.work {
            Work::Kernel(work) => {
                let seed = self.streams.draw();
                self.report.kernel(&operation.name);
                let (live, foreign) = self.memory.ranges(device);
                let outcome = work.run([&live, &foreign], &self.profile, seed);
                for fault in outcome.faults {
                    let ([bx, by, bz], [tx, ty, tz]) = (fault.block, fault.thread);
                    let place =
                        format!("kernel `{}`, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})", operation.name);
                    self.report.find(fault.kind, format!("{place}: {}", fault.text));
                    if fault.fatal {
                        self.sticky[device] = Some(sticky_status(fault.kind));
                    }
                }
                if self.profile.faults.kernel.fails() {
                    self.sticky[device] = Some(Status::ILLEGAL_ADDRESS);
                }
                (outcome.reads, outcome.writes, Some(outcome.first_reads))
            }
            other => {
                let (reads, writes) = other.ranges();
                self.perform(&operation.name, &mut operation.work, device);
                (reads, writes, None)
            }
        };
        self.compare(&operation, &reads, &writes);
        let first_reads = first_reads.as_ref().unwrap_or(&reads);
        self.look_for_unwritten(&operation.name, first_reads);
        self.report.accounted(&operation.name, &operation.work, first_reads, &writes);
        writes.into_iter().for_each(|range| self.written.insert(range));
        if !matches!(operation.work, Work::Mark(_)) {
            self.report.executed(&operation.name);
        }
        self.streams.finish(operation.moment);
        if self.sticky[device].is_some() {
            self.streams.abandon(device);
        }
        self.watch();
    }

    /// Executes an operation other than a kernel.
    fn perform(&mut self, name: &str, work: &mut Work, device: usize) {
        let (reads, writes) = work.ranges();
        // Copies may cross devices; computations may only use the memory of one.
        let computes =
            matches!(work, Work::Product(_) | Work::Convolution(_) | Work::Attention(_) | Work::Collective(_));
        let usable = |range: &&Range| {
            let found = self.memory.find(range.begin, (range.end - range.begin) as usize);
            found.is_some_and(|one| !computes || one.is_for(device))
        };
        if let Some(range) = reads.iter().chain(&writes).find(|range| !usable(range)) {
            let place = match self.memory.before(range.begin) {
                Some(allocation) if range.end <= allocation.end() => "memory of another device".to_string(),
                Some(allocation) => format!(
                    "byte {} to {} of an allocation of {} bytes",
                    range.begin - allocation.begin,
                    range.end - allocation.begin,
                    allocation.bytes
                ),
                None => "which has been freed, or never was memory".to_string(),
            };
            let text = format!("`{name}` uses {:#x} to {:#x}, {place}", range.begin, range.end);
            self.report.find(Kind::IllegalAddress, text);
            self.sticky[device] = Some(Status::ILLEGAL_ADDRESS);
            return;
        }
        // Tensor cores read channels that come last by 16 bytes.
        if let Work::Convolution(convolution) = &*work
            && let problem = &convolution.problem
            && problem.channels_last()
            && !(problem.images()[0].dims[1] * problem.data.bytes()).is_multiple_of(16)
        {
            self.streams.delay += self.profile.faults.slow_channels;
        }
        match work {
            // SAFETY: the ranges in the arena are live, and nothing else accesses it while the lock is held; pageable
            // memory is used before the call that names it returns.
            Work::Copy { from, to, bytes } => unsafe { work::copy(from, to, *bytes) },
            // SAFETY: as above.
            Work::Fill { to, pattern, width, bytes } => unsafe { work::fill(*to, *pattern, *width, *bytes) },
            // SAFETY: as above.
            Work::Product(_) | Work::Convolution(_) | Work::Attention(_) if self.profile.no_values => unsafe {
                for Range { begin, end } in writes {
                    std::ptr::write_bytes(begin as *mut u8, 0, (end - begin) as usize);
                }
            },
            // SAFETY: as above.
            Work::Product(product) => unsafe { crate::blas::compute::run(product) },
            // SAFETY: as above; the addresses were checked to be aligned for their elements.
            Work::Convolution(convolution) => unsafe { crate::dnn::compute::run(convolution) },
            // SAFETY: as above.
            Work::Attention(attention) => unsafe { crate::dnn::attention::compute::run(attention) },
            // SAFETY: as above.
            Work::Collective(collective) => unsafe { collective.write() },
            Work::Free(address) => {
                if let Some(allocation) = self.memory.free(*address) {
                    self.forget(Range { begin: allocation.begin, end: allocation.end() });
                }
            }
            Work::Mark(Some(event)) => {
                let now = self.streams.executed + self.streams.delay;
                if let Some(event) = self.events.get_mut(event) {
                    event.ran_at = Some(now);
                }
            }
            // SAFETY: the program promised that the function takes this pointer. It must not call the driver, which
            // CUDA forbids too.
            Work::Call { function, data } => unsafe { function(*data as *mut std::ffi::c_void) },
            Work::Mark(None) | Work::Allocate(_) | Work::Kernel(_) => {}
        }
    }

    /// Reports earlier operations on the same bytes that are not ordered before this one.
    fn compare(&mut self, operation: &Operation, reads: &[Range], writes: &[Range]) {
        let touch = Touch { moment: operation.moment, name: operation.name.clone() };
        for (ranges, write) in [(reads, false), (writes, true)] {
            for range in ranges {
                let Some(conflict) = self.history.access(*range, write, &touch, &operation.clock) else { continue };
                let verb = |wrote: bool| if wrote { "writes" } else { "reads" };
                let text = format!(
                    "`{}` in stream {:#x} {} {:#x}, which `{}` in stream {:#x} {}, and nothing orders the two",
                    touch.name,
                    touch.moment.stream,
                    verb(write),
                    conflict.at,
                    conflict.earlier.name,
                    conflict.earlier.moment.stream,
                    verb(conflict.earlier_wrote)
                );
                self.report.find(Kind::Unordered, text);
                break;
            }
        }
    }

    /// Reports reads of device memory that was never written.
    fn look_for_unwritten(&mut self, name: &str, reads: &[Range]) {
        if !engine::records() {
            return;
        }
        for range in reads {
            let Some(at) = self.written.gap(*range) else { continue };
            let Some(allocation) = self.memory.find(at, 1).filter(|one| one.home == Home::Device) else { continue };
            let text = format!(
                "`{name}` reads byte {} of an allocation of {} bytes, which nobody has written",
                at - allocation.begin,
                allocation.bytes
            );
            self.report.find(Kind::Uninitialized, text);
            return;
        }
    }
}

fn sticky_status(kind: Kind) -> Status {
    match kind {
        Kind::IllegalAddress | Kind::SharedBounds => Status::ILLEGAL_ADDRESS,
        Kind::Misaligned => Status::MISALIGNED_ADDRESS,
        Kind::Trap => Status::ASSERT,
        _ => Status::LAUNCH_FAILED,
    }
}
