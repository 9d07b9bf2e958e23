//! Packed lanes are those of the source, zeros stand for those that do not exist, and nothing is written around them.

use super::reference::{Elem, Rng};
use crate::gemm::{
    kernel::{Kernel, PackArgs},
    kernels,
    source::Float,
};

const GUARD: i64 = 7;

/// Packs into panels of `panel` lanes, the last one of `last`, from a source in which lanes (or else steps) are contiguous.
fn check<T: Elem + Float>(kern: &Kernel<T>, [k, lanes]: [usize; 2], [panel, last]: [usize; 2], lanes_contiguous: bool) {
    let mut rng = Rng((k * 1000 + lanes) as u64);
    // What lies beyond the lanes and steps is no zero either.
    let gap = 5;
    let stride = if lanes_contiguous { lanes + gap } else { k + gap };
    let source: Vec<T> = (0..stride * k.max(lanes)).map(|_| T::make(1 + rng.next(8) as i64)).collect();
    let (k_stride, lane_stride) = if lanes_contiguous { (stride, 1) } else { (1, stride) };
    let panels = lanes.div_ceil(panel);
    let len = k * (panel * (panels - 1) + last);
    let mut packed = vec![T::make(GUARD); len + 64];
    let args = PackArgs {
        src: source.as_ptr(),
        k,
        lanes,
        k_stride: k_stride as isize,
        lane_stride: lane_stride as isize,
        dst: packed.as_mut_ptr(),
        panel,
        last,
    };
    // SAFETY: the source has all lanes and steps, there is room for all panels, and the kernel runs on this machine.
    unsafe { (kern.pack_lanes)(&args) };
    let what = format!("{}: {lanes} lanes of {k} steps, panels of {panel} and {last}", kern.name);
    for (p, step) in (0..panels).flat_map(|p| (0..k).map(move |step| (p, step))) {
        let width = if p + 1 < panels { panel } else { last };
        for j in 0..width {
            let lane = p * panel + j;
            let want = if lane < lanes { source[step * k_stride + lane * lane_stride].value() } else { 0.0 };
            let got = packed[p * panel * k + step * width + j].value();
            assert_eq!(got, want, "{what}, lane {lane}, step {step}, contiguous: {lanes_contiguous}");
        }
    }
    assert!(packed[len..].iter().all(|x| x.value() == T::make(GUARD).value()), "{what}: written past the end");
}

fn all<T: Elem + Float>() {
    for kern in kernels::available::<T>() {
        for (k, lanes) in (1..10).flat_map(|k| (1..80).map(move |lanes| (k, lanes))) {
            // Lanes in panels of two vectors, of which the last may be one; rows in tiles of each height.
            let pair = 2 * kern.lanes;
            let last = if (lanes - 1) % pair < kern.lanes { kern.lanes } else { pair };
            check(kern, [k, lanes], [pair, last], true);
            check(kern, [k, lanes], [pair, last], false);
            for &height in kern.heights {
                check(kern, [k, lanes], [height, kern.height((lanes - 1) % height + 1)], true);
            }
        }
    }
}

#[test]
fn packed_lanes_are_those_of_the_source() {
    all::<f32>();
    all::<f64>();
}
