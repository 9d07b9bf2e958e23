//! The functions of cuDNN, under their own names and with the library's own rules.
use std::ffi::{c_char, c_int, c_void};

use crate::dnn::calls::{Answer, ConvAddresses, ConvDescriptors, FusedArguments};
use crate::dnn::descriptor::{self, Activation, Descriptor, Filter, Moves, Sort, Tensor};
use crate::dnn::heuristic::Choice;
use crate::dnn::problem::Direction;
use crate::dnn::{DnnStatus, Refusal, bad, put};
use crate::world::{self, CURRENT, World};

use super::stream::known;

/// The version that is simulated, as `cudnnGetVersion` tells it: 9.0, the oldest that the framework takes.
const VERSION: usize = 90_000;

fn call(name: &'static str, body: impl FnOnce(&mut World) -> Result<(), Refusal>) -> DnnStatus {
    world::with(|world| {
        world.collect_hits();
        world.report.called(name);
        match body(world) {
            Ok(()) => DnnStatus::SUCCESS,
            Err(Refusal(status, why)) => {
                world.dnn.last_error = why.to_string();
                world.report.refusals.insert(format!("{name} returned {status:?}: {why}"));
                status
            }
        }
    })
}

/// Defines functions of the library: arguments, and what each does with the world.
macro_rules! library {
    ($(fn $name:ident($world:ident $(, $argument:ident: $kind:ty)*) $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of cuDNN.")]
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($argument: $kind),*) -> DnnStatus {
                call(stringify!($name), |$world: &mut World| {
                    #[allow(dead_code, reason = "not every function has a use for its name")]
                    const NAME: &str = stringify!($name);
                    // SAFETY: the pointers are what the library's manual asks of a caller; null is looked for.
                    #[allow(unused_unsafe, reason = "not every function has pointers")]
                    unsafe { $body }
                })
            }
        )*
    };
}

library! {
    fn cudnnCreate(world, out: *mut usize) {
        if out.is_null() {
            return Err(bad("a null pointer for an answer"));
        }
        let ready = world.initialized && CURRENT.with_borrow(|stack| stack.last().is_some_and(|context| *context != 0));
        if !ready {
            return Err(Refusal(DnnStatus::NOT_INITIALIZED, "there is no current context"));
        }
        world.asked_to_refuse("create", 0)?;
        if !world.lazy_memory(NAME) {
            return Err(Refusal(DnnStatus::DEVICE_ALLOCATION_FAILED, "there is no memory for the library"));
        }
        let handle = world.handle();
        world.dnn.handles.insert(handle, 0);
        put(out, handle)
    }

    fn cudnnDestroy(world, handle: usize) {
        if handle != 0 {
            world.dnn_stream(NAME, handle)?;
            world.dnn.handles.remove(&handle);
        }
        Ok(())
    }

    fn cudnnSetStream(world, handle: usize, stream: usize) {
        world.dnn_stream(NAME, handle)?;
        known(world, stream).map_err(|_| bad("no stream (any more)"))?;
        world.dnn.handles.insert(handle, stream);
        Ok(())
    }

    fn cudnnCreateTensorDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Tensor)
    }

    fn cudnnDestroyTensorDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Tensor, desc)
    }

    fn cudnnSetTensorNdDescriptor(
        world, desc: usize, data: c_int, rank: c_int, dims: *const c_int, strides: *const c_int
    ) {
        world.descriptor(NAME, Sort::Tensor, desc)?;
        let rank = descriptor::tensor_rank(rank)?;
        let (dims, strides) = (world.numbers(NAME, dims, rank)?, world.numbers(NAME, strides, rank)?);
        let tensor = Tensor::new(data, &dims, &strides)?;
        *world.descriptor(NAME, Sort::Tensor, desc)? = Descriptor::Tensor(Some(tensor));
        Ok(())
    }

    fn cudnnCreateFilterDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Filter)
    }

    fn cudnnDestroyFilterDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Filter, desc)
    }

    fn cudnnSetFilterNdDescriptor(
        world, desc: usize, data: c_int, format: c_int, rank: c_int, dims: *const c_int
    ) {
        world.descriptor(NAME, Sort::Filter, desc)?;
        let rank = descriptor::filter_rank(rank)?;
        let filter = Filter::new(data, format, &world.numbers(NAME, dims, rank)?)?;
        *world.descriptor(NAME, Sort::Filter, desc)? = Descriptor::Filter(Some(filter));
        Ok(())
    }

    fn cudnnCreateConvolutionDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Convolution)
    }

    fn cudnnDestroyConvolutionDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Convolution, desc)
    }

    fn cudnnSetConvolutionNdDescriptor(
        world, desc: usize, axes: c_int, padding: *const c_int, stride: *const c_int, dilation: *const c_int,
        mode: c_int, compute: c_int
    ) {
        world.convolution(NAME, desc)?;
        let axes = descriptor::axes(axes)?;
        let padding = world.numbers(NAME, padding, axes)?;
        let (stride, dilation) = (world.numbers(NAME, stride, axes)?, world.numbers(NAME, dilation, axes)?);
        let moves = Moves::new([&padding, &stride, &dilation], mode, compute)?;
        world.convolution(NAME, desc)?.moves = Some(moves);
        Ok(())
    }

    fn cudnnSetConvolutionGroupCount(world, desc: usize, groups: c_int) {
        world.convolution(NAME, desc)?.set_groups(groups)
    }

    fn cudnnSetConvolutionMathType(world, desc: usize, math: c_int) {
        world.convolution(NAME, desc)?.set_math(math)
    }

    fn cudnnGetConvolutionNdForwardOutputDim(
        world, desc: usize, tensor: usize, filter: usize, rank: c_int, dims: *mut c_int
    ) {
        let (tensor, filter) = (world.tensor(NAME, tensor)?, world.filter(NAME, filter)?);
        let convolution = world.convolution(NAME, desc)?;
        let (output, told) = descriptor::output(&tensor, &filter, convolution, rank.max(0) as usize);
        if dims.is_null() || rank > tensor.dims.len() as c_int {
            return Err(bad("no room for the extents, or more room than there are"));
        }
        // Two are always written.
        for (i, extent) in output.iter().enumerate() {
            dims.add(i).write(*extent);
        }
        told
    }

    fn cudnnCreateActivationDescriptor(world, out: *mut usize) {
        world.create_descriptor(out, Sort::Activation)
    }

    fn cudnnDestroyActivationDescriptor(world, desc: usize) {
        world.destroy_descriptor(NAME, Sort::Activation, desc)
    }

    fn cudnnSetActivationDescriptor(world, desc: usize, mode: c_int, nan: c_int, _coefficient: f64) {
        world.descriptor(NAME, Sort::Activation, desc)?;
        let activation = Activation::new(mode, nan)?;
        *world.descriptor(NAME, Sort::Activation, desc)? = Descriptor::Activation(Some(activation));
        Ok(())
    }

    fn cudnnConvolutionBiasActivationForward(
        world, handle: usize, alpha: *const c_void, x_desc: usize, x: u64, w_desc: usize, w: u64,
        convolution: usize, algorithm: u32, workspace: u64, bytes: usize, scale: *const c_void, z_desc: usize,
        z: u64, bias_desc: usize, bias: u64, activation: usize, y_desc: usize, y: u64
    ) {
        let of = ConvDescriptors { x: x_desc, w: w_desc, y: y_desc, convolution };
        let at = ConvAddresses { x, w, y, workspace: (workspace, bytes) };
        let fused = FusedArguments { z_desc, bias_desc, activation, z, bias };
        world.convolve(NAME, Direction::Forward, handle, of, at, algorithm, [alpha, scale], Some(fused))
    }
}

/// The three functions of each direction, which take what they read (`a`, `b`) and what they write (`c`) in the same
/// places; after these names, the same ones as images, weights and images again.
macro_rules! directions {
    ($($direction:ident ($a:ident $a_at:ident, $b:ident $b_at:ident, $c:ident $c_at:ident)
        [$x:ident $x_at:ident, $w:ident $w_at:ident, $y:ident $y_at:ident] $heuristic:ident $search:ident $run:ident;)*) => {
        library! {$(
            fn $heuristic(
                world, handle: usize, $a: usize, $b: usize, convolution: usize, $c: usize, requested: c_int,
                returned: *mut c_int, choices: *mut Choice
            ) {
                let of = ConvDescriptors { x: $x, w: $w, y: $y, convolution };
                world.heuristic(NAME, Direction::$direction, handle, of, Answer { requested, returned, choices })
            }

            fn $search(
                world, handle: usize, $a: usize, $a_at: u64, $b: usize, $b_at: u64, convolution: usize, $c: usize,
                $c_at: u64, requested: c_int, returned: *mut c_int, choices: *mut Choice, workspace: u64, bytes: usize
            ) {
                let of = ConvDescriptors { x: $x, w: $w, y: $y, convolution };
                let at = ConvAddresses { x: $x_at, w: $w_at, y: $y_at, workspace: (workspace, bytes) };
                world.search(NAME, Direction::$direction, handle, of, at, Answer { requested, returned, choices })
            }

            fn $run(
                world, handle: usize, alpha: *const c_void, $a: usize, $a_at: u64, $b: usize, $b_at: u64,
                convolution: usize, algorithm: u32, workspace: u64, bytes: usize, beta: *const c_void, $c: usize,
                $c_at: u64
            ) {
                let of = ConvDescriptors { x: $x, w: $w, y: $y, convolution };
                let at = ConvAddresses { x: $x_at, w: $w_at, y: $y_at, workspace: (workspace, bytes) };
                world.convolve(NAME, Direction::$direction, handle, of, at, algorithm, [alpha, beta], None)
            }
        )*}
    };
}

directions! {
    Forward (x x_at, w w_at, y y_at) [x x_at, w w_at, y y_at] cudnnGetConvolutionForwardAlgorithm_v7
        cudnnFindConvolutionForwardAlgorithmEx cudnnConvolutionForward;
    Data (w w_at, y y_at, x x_at) [x x_at, w w_at, y y_at] cudnnGetConvolutionBackwardDataAlgorithm_v7
        cudnnFindConvolutionBackwardDataAlgorithmEx cudnnConvolutionBackwardData;
    Filter (x x_at, y y_at, w w_at) [x x_at, w w_at, y y_at] cudnnGetConvolutionBackwardFilterAlgorithm_v7
        cudnnFindConvolutionBackwardFilterAlgorithmEx cudnnConvolutionBackwardFilter;
}

/// `cudnnGetVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetVersion() -> usize {
    VERSION
}

/// `cudnnGetCudartVersion` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetCudartVersion() -> usize {
    world::with(|world| world.profile.libraries().unsigned_abs() as usize)
}

/// `cudnnGetLastErrorString` of cuDNN.
///
/// # Safety
/// There is room for as many bytes as are said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudnnGetLastErrorString(message: *mut c_char, room: usize) {
    let text = world::with(|world| std::mem::take(&mut world.dnn.last_error));
    if message.is_null() || room == 0 {
        return;
    }
    let count = text.len().min(room - 1);
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), message, count);
        message.add(count).write(0);
    }
}

/// `cudnnGetErrorString` of cuDNN.
#[unsafe(no_mangle)]
pub extern "C" fn cudnnGetErrorString(status: u32) -> *const c_char {
    let text = match status {
        0 => c"CUDNN_STATUS_SUCCESS",
        1001 => c"CUDNN_STATUS_NOT_INITIALIZED",
        2000 => c"CUDNN_STATUS_BAD_PARAM",
        3000 => c"CUDNN_STATUS_NOT_SUPPORTED",
        4004 => c"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        4003 => c"CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        5000 => c"CUDNN_STATUS_EXECUTION_FAILED",
        _ => c"CUDNN_UNKNOWN_STATUS",
    };
    text.as_ptr()
}
