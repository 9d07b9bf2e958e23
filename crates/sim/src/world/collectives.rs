//! Collectives as operations of streams: they begin when they are first in their stream, and end when all ranks have begun.
use super::World;
use crate::kind::Kind;
use crate::nccl::compute;
use crate::nccl::work::Collective;
use crate::status::Status;
use crate::stream_id::StreamId;
use crate::work::Work;

impl World {
    /// Does the next part of a collective, and returns whether that is the last: then its result can be written.
    pub(super) fn ends(&mut self, collective: &mut Collective, device: usize) -> bool {
        let link = collective.link.clone();
        if link.is_aborted() || link.has_left() {
            if link.has_left() {
                let text = format!("`{}` has a communicator that was destroyed", collective.call);
                self.report.find(Kind::Collective, text);
            }
            collective.result = None;
            return true;
        }
        let Some(number) = collective.number else {
            let (reads, _) = collective.ranges();
            let read = reads.iter().map(|range| {
                let bytes = (range.end - range.begin) as usize;
                let is_live = self.memory.find(range.begin, bytes).is_some_and(|one| one.is_for(device));
                // SAFETY: live memory, which nothing else accesses while the lock is held. What is not, is reported when
                // the collective ends.
                let values = is_live.then(|| unsafe { std::slice::from_raw_parts(range.begin as *const u8, bytes) });
                values.map_or_else(|| vec![0xff; bytes], <[u8]>::to_vec)
            });
            let values = read.collect::<Vec<_>>().concat();
            collective.number = Some(link.begin(collective.call, values));
            // The next look ends it, if all the others have begun.
            return false;
        };
        match link.end(number) {
            Ok(values) => {
                collective.result = values.and_then(|values| compute::result(collective, &values));
                true
            }
            Err(calls) => {
                let calls: Vec<String> =
                    calls.iter().enumerate().map(|(rank, call)| format!("rank {rank} {call}")).collect();
                let text = format!("ranks call different collectives as number {number}: {}", calls.join(", "));
                self.report.find(Kind::Collective, text);
                false
            }
        }
    }

    /// Whether other ranks wait for one of this process.
    pub fn sees_others_waiting(&self) -> bool {
        self.nccl.comms.values().any(|comm| comm.link.is_awaited())
    }

    /// Does what other ranks wait for, as the device does it without the host; `false` if there was nothing to do.
    pub fn work_for_others(&mut self) -> bool {
        let awaited: Vec<usize> =
            self.nccl.comms.iter().filter(|(_, comm)| comm.link.is_awaited()).map(|(handle, _)| *handle).collect();
        for &comm in &awaited {
            let of_comm = |work: &Work| matches!(work, Work::Collective(one) if one.comm == comm);
            let pending = self.streams.pending().filter(|operation| of_comm(&operation.work));
            let first = pending.min_by_key(|operation| operation.serial).map(|operation| operation.moment);
            // It may have to wait again.
            let _ = first.map(|moment| self.run_until(moment));
        }
        !awaited.is_empty()
    }

    /// Waits for the collectives of a communicator; `None` if some of them wait for other ranks.
    pub fn finish_collectives(&mut self, comm: usize) -> Option<()> {
        loop {
            let of_comm = |work: &Work| matches!(work, Work::Collective(one) if one.comm == comm);
            let Some(operation) = self.streams.pending().find(|operation| of_comm(&operation.work)) else {
                return Some(());
            };
            let moment = operation.moment;
            match self.run_until(moment) {
                Err(Status::BLOCKED) => return None,
                // The device has failed, and what was queued is gone.
                _ if !self.streams.is_done(moment) => return Some(()),
                _ => {}
            }
        }
    }

    /// Waits for a stream with collectives in it.
    pub fn finish_waiting(&mut self, stream: StreamId) -> Result<(), Status> {
        let has_any = self.streams.pending().any(|operation| matches!(operation.work, Work::Collective(_)));
        if has_any { self.wait_stream(stream) } else { Ok(()) }
    }
}
