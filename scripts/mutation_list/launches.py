"""Faults in launch code that all operations share: images, grids, packs, copies."""

from .kinds import Mutation

MUTATIONS = [
    Mutation(
        "pack_alignment", "16 bytes at a time wherever operands begin",
        "crates/cuda/src/params/grid.rs",
        "place.address.is_multiple_of(16)",
        "place.address.is_multiple_of(1)",
        ["alignment::"],
    ),
    Mutation(
        "image_choice", "the SASS of the oldest architecture that a device can run instead of the newest",
        "crates/cuda/src/images.rs",
        "filter(|&sass| runs(capability, sass)).max()",
        "filter(|&sass| runs(capability, sass)).min()",
        ["images::"],
        "unit",
    ),
    Mutation(
        "grid_joined_dimensions", "dimensions are joined if the first operand allows it",
        "crates/cuda/src/params/grid.rs",
        "(0..N).all(|k| grid.strides[k][last] == strides[k] * extent as i64)",
        "(0..N.min(1)).all(|k| grid.strides[k][last] == strides[k] * extent as i64)",
        ["copy"],
    ),
    Mutation(
        "copy_before_last_use", "a batch is copied into memory that queued work still reads",
        "crates/cuda/src/copies.rs",
        "Used::Until(Some(unused)) => unsafe { unused.awaited_by(context, stream.own())? },",
        "Used::Until(Some(_)) => (),",
        ["batches"],
        "copies",
    ),
    Mutation(
        "work_before_copy", "work does not wait for the batch that it reads",
        "crates/cuda/src/copies.rs",
        "        unsafe { self.copied.awaited_by(&compute.context, compute.own())? };\n",
        "",
        ["batches"],
        "copies",
    ),
    Mutation(
        "unused_batch", "the memory of a batch that nobody used is handed out before the copy into it has ended",
        "crates/cuda/src/copies.rs",
        "copied: (!awaited.into_inner()).then_some(copied)",
        "copied: None",
        ["memory_of_batches"],
        "copies",
    ),
    Mutation(
        "packed_groups_alike", "packs wherever the first operand has them",
        "crates/cuda/src/params/packed_groups.rs",
        "size > 4 || !alike || !aligned",
        "size > 4 || !aligned",
        ["relu_bias_grad"],
    ),
]
