//! Batches that arrive on the copy stream: none is overwritten too early, none is read too early, memory is reused, and
//! threads do not wait for each other.
//!
//! Needs a device, as `against_cpu` does; only a simulated one can tell what runs concurrently.

mod child;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use child::{child, child_with_report, profiler};
use kiln_backend::*;
use kiln_cuda::CudaBackend;
use parking_lot::Mutex;

const SIZES: [usize; 3] = [300_000, 40_000, 1_500_000];

/// Memory figures are those of the device, whoever uses it.
static ALONE: Mutex<()> = Mutex::new(());

fn device() -> Option<&'static CudaBackend> {
    match kiln_cuda::backend(0) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(std::env::var_os("KILN_REQUIRE_DEVICE").is_none(), "{error}");
            None
        }
    }
}

/// `x + number`, on the device, and what is in it.
fn add(on: &dyn Backend, x: &dyn Buffer, number: f64) -> Box<dyn Buffer> {
    let layout = Layout::contiguous(Shape::new(&[x.len()]).unwrap());
    let mut out = on.alloc(DType::F32, x.len()).unwrap();
    let (x, to) = (View { buffer: x, layout: &layout }, ViewMut { buffer: &mut *out, layout: &layout });
    on.binary(
        BinaryArgs { op: BinaryOp::Add, a: Operand::Tensor(x), b: Operand::Scalar(Scalar::Float(number)), out: to }
            .checked()
            .unwrap(),
    )
    .unwrap();
    out
}

fn values(on: &dyn Backend, x: &dyn Buffer) -> Vec<f32> {
    f32::read_vec(x.len(), |bytes| on.download(x, 0, bytes)).unwrap()
}

fn batch(step: usize, size: usize) -> Vec<f32> {
    (0..size).map(|i| ((i * 31 + step * 977) % 4096) as f32).collect()
}

#[test]
fn batches_travel_beside_the_work_and_share_memory() {
    let _alone = ALONE.lock();
    let Some(device) = device() else { return };
    let before = device.memory_stats().allocated;
    let steps = 12;
    // Results are read at the end, so nothing waits in between; inputs are dropped while work on them is queued.
    let mut results = Vec::new();
    // The first memory that batches arrive in was another tensor's, which queued work reads.
    for size in SIZES {
        let layout = Layout::contiguous(Shape::new(&[size]).unwrap());
        let mut read = device.alloc(DType::F32, size).unwrap();
        let to = ViewMut { buffer: &mut *read, layout: &layout };
        device.arange(Arange { start: Scalar::Float(0.0), step: Scalar::Float(31.0) }, to).unwrap();
        results.push((0, size, add(device, &*read, 0.0)));
    }
    for step in 0..steps {
        for size in SIZES {
            let x = device.adopt(HostVec::F32(batch(step, size))).unwrap();
            let y = add(device, &*x, 1.0);
            drop(x);
            results.push((step, size, add(device, &*y, step as f64)));
        }
    }
    for (size, (.., result)) in SIZES.into_iter().zip(results.drain(..SIZES.len())) {
        let want: Vec<f32> = (0..size).map(|i| i as f32 * 31.0).collect();
        assert!(values(device, &*result) == want, "{size} elements before all batches");
    }
    for (step, size, result) in &results {
        let want: Vec<f32> = batch(*step, *size).iter().map(|v| v + 1.0 + *step as f32).collect();
        assert!(values(device, &**result) == want, "step {step}, {size} elements");
    }
    // What has arrived and was dropped is no tensor's memory any more.
    let allocated = results.iter().map(|(_, size, _)| size * 4).sum::<usize>();
    assert!((allocated..allocated + allocated / 20).contains(&(device.memory_stats().allocated - before)));
    drop(results);
    assert_eq!(device.memory_stats().allocated, before);

    if std::env::var_os("KILN_CUDA_NO_MEMORY_CACHING").is_some_and(|value| value == "1") {
        return;
    }
    // A loop that keeps nothing asks the driver for no memory after its first steps, and what is kept for the next
    // batches does not count as in use.
    device.reset_peak_memory();
    let mut asked = Vec::new();
    for step in 0..steps {
        let x = device.adopt(HostVec::F32(batch(step, SIZES[0]))).unwrap();
        assert!(values(device, &*add(device, &*x, 0.0)) == batch(step, SIZES[0]), "step {step}");
        asked.push(device.memory_stats().system_allocations);
    }
    assert_eq!(asked[1], asked[steps - 1]);
    // A batch and what is computed of it; a block may be up to a MiB larger than what was asked for.
    let (peak, least) = (device.memory_stats().peak_allocated - before, SIZES[0] * 4);
    assert!((2 * least..=2 * (least + (1 << 20))).contains(&peak), "{peak} bytes");

    // Idle memory goes back with the rest.
    device.synchronize().unwrap();
    device.empty_cache();
    let stats = device.memory_stats();
    assert_eq!(stats.allocated, before);
    assert!(stats.reserved <= 2 << 20, "{stats:?}"); // the segment of the device's own record
}

#[test]
fn page_locked_memory_is_read_directly() {
    let _alone = ALONE.lock();
    let Some(device) = device() else { return };
    let mut addresses = std::collections::BTreeSet::new();
    for step in 0..6 {
        // One of less than a page, and one above the size from which copies have a stream of their own.
        for size in [100, 50_000] {
            let wanted = batch(step, size);
            let mut memory = device.pinned(size * 4).unwrap();
            assert_eq!(memory.bytes().as_ptr().align_offset(64), 0);
            for (place, value) in memory.bytes_mut().chunks_exact_mut(4).zip(&wanted) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
            let x = device.import(DType::F32, &memory.bytes()[..size * 4]).unwrap();
            // The memory is the host's again.
            memory.bytes_mut().fill(0xff);
            assert!(values(device, &*add(device, &*x, 0.0)) == wanted, "step {step}, {size} elements");
            addresses.insert(memory.bytes().as_ptr() as usize);
        }
    }
    assert_eq!(addresses.len(), 2, "pages are locked once");
    // Many pieces at once: not all of them are kept, and the memory is as good as any afterwards.
    for step in 0..2 {
        let pieces: Vec<_> = (0..20).map(|i| (i, device.pinned(4096 * (i + 1)).unwrap())).collect();
        for (i, mut piece) in pieces {
            piece.bytes_mut().fill((i + step) as u8);
            let x = device.import(DType::U8, piece.bytes()).unwrap();
            let len = piece.bytes().len();
            assert!(len >= 4096 * (i + 1));
            drop(piece);
            let got = u8::read_vec(len, |bytes| device.download(&*x, 0, bytes)).unwrap();
            assert!(got.iter().all(|&byte| byte == (i + step) as u8), "piece {i}");
        }
    }
    // The CPU's tensors can be there.
    let memory = device.pinned(10).unwrap();
    let mut buffer = kiln_cpu::backend().unwrap().wrap(DType::U8, 10, memory).unwrap();
    assert!(buffer.is_pinned());
    buffer.host_bytes_mut().unwrap().copy_from_slice(b"0123456789");
    let x = device.import(DType::U8, buffer.host_bytes().unwrap()).unwrap();
    drop(buffer);
    assert_eq!(u8::read_vec(10, |bytes| device.download(&*x, 0, bytes)).unwrap(), b"0123456789");
    assert!(device.import(DType::F32, &[]).unwrap().is_empty());
    assert!(device.pinned(0).unwrap().bytes().len() >= 64);
}

#[test]
fn threads_upload_and_drop_beside_each_other() {
    let _alone = ALONE.lock();
    let Some(device) = device() else { return };
    let before = device.memory_stats().allocated;
    thread::scope(|scope| {
        for worker in 0..4 {
            scope.spawn(move || {
                for step in 0..8 {
                    // Sizes that share memory, and such that take several chunks.
                    let (size, step) = (SIZES[(worker + step) % 3], 10 * worker + step);
                    let x = device.adopt(HostVec::F32(batch(step, size))).unwrap();
                    let unused = device.adopt(HostVec::F32(batch(step, size))).unwrap();
                    let y = add(device, &*x, 1.0);
                    drop((x, unused));
                    let want: Vec<f32> = batch(step, size).iter().map(|value| value + 1.0).collect();
                    assert!(values(device, &*y) == want, "worker {worker}, step {step}, {size} elements");
                }
            });
        }
    });
    assert_eq!(device.memory_stats().allocated, before);
}

#[test]
fn memory_of_batches_that_nobody_used_is_as_good_as_any() {
    let _alone = ALONE.lock();
    let Some(device) = device() else { return };
    let (before, size) = (device.memory_stats().allocated, SIZES[0]);
    for round in 0..3 {
        // More than are kept for the next batches: the others go to the allocator while copies into them are under way.
        let batches: Vec<_> = (0..12).map(|step| device.adopt(HostVec::F32(batch(step, size))).unwrap()).collect();
        // The latest first: the host has not waited for the copies into them, as it has for those whose chunks it has filled
        // again.
        batches.into_iter().rev().for_each(drop);
        let ones = device.adopt(HostVec::F32(vec![1.0; 100])).unwrap();
        let results: Vec<_> = (0..6).map(|_| add(device, &*ones, 1.0)).collect();
        let layout = Layout::contiguous(Shape::new(&[size]).unwrap());
        let filled: Vec<_> = (0..6)
            .map(|i| {
                let mut out = device.alloc(DType::F32, size).unwrap();
                let to = ViewMut { buffer: &mut *out, layout: &layout };
                device.fill(Scalar::Float(f64::from(i)), to).unwrap();
                out
            })
            .collect();
        if round == 1 {
            device.empty_cache();
        }
        assert!(results.iter().all(|result| values(device, &**result) == [2.0; 100]));
        for (i, out) in filled.iter().enumerate() {
            assert!(values(device, &**out).iter().all(|&value| value == i as f32), "round {round}, {i}");
        }
    }
    assert_eq!(device.memory_stats().allocated, before);
}

#[test]
fn a_batch_is_dropped_while_another_thread_uploads() {
    // Each takes seconds: the copy of bytes that were copied aside, and the wait for page-locked ones.
    for (delay, locked) in [("cuMemcpyHtoDAsync_v2:3000", "0"), ("cuEventSynchronize:3000", "1")] {
        child("child_drops_during_an_upload", &[("KILN_SIM_DELAY", delay), ("PAGE_LOCKED", locked)]);
    }
}

#[test]
#[ignore = "a child"]
fn child_drops_during_an_upload() {
    let device = kiln_cuda::backend(0).unwrap();
    let locked = std::env::var("PAGE_LOCKED").unwrap() == "1";
    let x = device.adopt(HostVec::F32(batch(0, SIZES[0]))).unwrap();
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let memory = device.pinned(4 * SIZES[0]).unwrap();
            begun.store(true, Ordering::SeqCst);
            if locked {
                device.import(DType::F32, memory.bytes()).unwrap();
            } else {
                device.adopt(HostVec::F32(batch(1, SIZES[0]))).unwrap();
            }
        });
        while !begun.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // Into the upload.
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        drop(x);
        let time = start.elapsed();
        assert!(time < Duration::from_secs(1), "the batch was dropped after {time:?}, when the upload was over");
    });
}

#[test]
fn the_compute_stream_waits_for_a_batch_when_it_is_first_used() {
    let settings = [("KILN_SIM_ORDER", "forward")];
    let Some((_, report)) = child_with_report("child_computes_before_a_batch_arrives", &settings) else { return };
    let ran = report.window("executed");
    let place = |name: &str| ran.iter().position(|ran| *ran == name).unwrap_or_else(|| panic!("no {name} in {ran:?}"));
    let (before, copy) = (place("binary_add_f32"), place("cuMemcpyHtoDAsync"));
    assert!(before < copy, "what does not need the batch runs before it has arrived: {ran:?}");
    assert!(ran.iter().skip(copy).any(|ran| *ran == "unary_square_f32"), "what needs it runs behind: {ran:?}");
}

#[test]
fn chunks_that_the_device_has_read_are_used_again() {
    // Of a loop that waits for its results the first step makes all that it needs; one that runs ahead makes more.
    for (wait, least, most) in [("1", 3, 3), ("0", 4, 21)] {
        let Some((_, report)) = child_with_report("child_uploads", &[("WAIT", wait)]) else { return };
        let made = report.count("pinned allocations");
        assert!((least..=most).contains(&made), "{made} with WAIT={wait}");
    }
}

#[test]
#[ignore = "a child"]
fn child_uploads() {
    let device = kiln_cuda::backend(0).unwrap();
    let wait = std::env::var("WAIT").unwrap() == "1";
    let steps = 30;
    let results: Vec<_> = (0..steps)
        .map(|step| {
            // One through a large chunk, one through a small one.
            let [x, label] = [SIZES[1], 100].map(|size| device.adopt(HostVec::F32(batch(step, size))).unwrap());
            let result = (add(device, &*x, 1.0), add(device, &*label, 1.0));
            if wait {
                device.synchronize().unwrap();
            }
            result
        })
        .collect();
    for (step, (x, label)) in results.iter().enumerate() {
        for (result, size) in [(x, SIZES[1]), (label, 100)] {
            let want: Vec<f32> = batch(step, size).iter().map(|value| value + 1.0).collect();
            assert!(values(device, &**result) == want, "step {step}, {size} elements");
        }
    }
}

#[test]
#[ignore = "a child"]
fn child_computes_before_a_batch_arrives() {
    let device = kiln_cuda::backend(0).unwrap();
    let x = device.adopt(HostVec::F32(vec![1.0; 100])).unwrap();
    device.synchronize().unwrap();
    profiler("cuProfilerStart");
    // The next batch is on its way while this one is computed, as in a training loop.
    let next = device.adopt(HostVec::F32(batch(3, SIZES[0]))).unwrap();
    assert_eq!(values(device, &*add(device, &*x, 1.0)), [2.0; 100]);
    let layout = Layout::contiguous(Shape::new(&[SIZES[0]]).unwrap());
    let mut out = device.alloc(DType::F32, SIZES[0]).unwrap();
    let (from, to) = (View { buffer: &*next, layout: &layout }, ViewMut { buffer: &mut *out, layout: &layout });
    device.unary(UnaryArgs { op: UnaryOp::Square, x: from, out: to }.checked().unwrap()).unwrap();
    let want: Vec<f32> = batch(3, SIZES[0]).iter().map(|value| value * value).collect();
    assert!(values(device, &*out) == want);
    profiler("cuProfilerStop");
}

#[test]
fn events_time_the_work_between_them() {
    let _alone = ALONE.lock();
    let Some(device) = device() else { return };
    let [start, middle, end] = [(); 3].map(|()| kiln_cuda::Event::new(device).unwrap());
    // An event that was not recorded is at no time.
    assert!(start.elapsed_time(&end).unwrap_err().to_string().contains("cuEventElapsedTime"));
    let x = device.adopt(HostVec::F32(vec![1.0; 1 << 20])).unwrap();
    start.record().unwrap();
    let once = add(device, &*x, 1.0);
    middle.record().unwrap();
    let others: Vec<_> = (0..20).map(|_| add(device, &*x, 1.0)).collect();
    end.record().unwrap();
    // It waits for the device.
    let [first, second, both] = [(&start, &middle), (&middle, &end), (&start, &end)].map(|(from, to)| {
        let milliseconds = from.elapsed_time(to).unwrap();
        assert!(milliseconds > 0.0, "{milliseconds} ms");
        milliseconds
    });
    assert!(
        second > first && (first + second - both).abs() <= 0.01 * both + 0.002,
        "{first} and {second} ms of {both}"
    );
    drop((once, others));
    // Recorded again, an event is at another time.
    start.record().unwrap();
    assert!(end.elapsed_time(&start).unwrap() >= 0.0);
}
