"""Faults in collectives between devices."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "collective_too_early", "a collective does not wait for the work that computes its values",
        "crates/cuda/src/nccl/mod.rs",
        "        unsafe { ready.awaited_by(context, lane)? };\n",
        "",
        ["what_does_not_wait"],
        suite="nccl",
    ),
    Mutation(
        "collective_not_awaited", "the optimizer does not wait for the averages",
        "crates/cuda/src/nccl/mod.rs",
        "        unsafe { self.done.awaited_by(context, self.device.stream.raw()) }",
        "        Ok(())",
        ["what_does_not_wait"],
        suite="nccl",
    ),
    Mutation(
        "bucket_given_back", "memory is handed out while a collective uses it",
        "crates/distributed/src/nccl/mod.rs",
        "        let tensors = [Some(output), input];",
        "        drop((output, input));\n        let tensors = [None, None];",
        ["what_does_not_wait"],
        suite="nccl",
    ),
    Mutation(
        "dropped_collective", "nobody waits for a collective whose handle was dropped, and its memory is free",
        "crates/distributed/src/nccl/mod.rs",
        "        let _ = self.order();",
        "",
        ["what_does_not_wait"],
        suite="nccl",
    ),
    Mutation(
        "collective_hang_unseen", "a call that hangs in NCCL is taken for one that has returned",
        "crates/distributed/src/nccl/watch.rs",
        "self.push(text, End::Starting)",
        "self.push(text, End::Unmarked)",
        ["a_call_that_hangs"],
        suite="nccl",
    ),
    Mutation(
        "collective_leave_unseen", "ranks that MPI connects do not hear that another has left NCCL",
        "crates/distributed/src/nccl/control.rs",
        "self.0.peers().left(Kind::LeftNccl)",
        "None",
        ["ranks_of_mpiexec_end"],
        suite="nccl",
    ),
]
