//! Convolutions of volumes: C3D, R3D-18 and odd shapes, in all three directions and with a bias.

use kiln_backend::{
    Conv2dDirection::{self, *},
    Conv2dFusion::{self, *},
    Conv3d,
};
use kiln_cuda::convolution_plans::{DescribedDevice, VolumeProblem};

use crate::{Cell, FORMATS, PRECISIONS};

/// A convolution layer with its input.
struct Layer {
    x: [usize; 5],
    w: [usize; 5],
    rule: Conv3d,
}

const fn layer(x: [usize; 5], w: [usize; 5], rule: Conv3d) -> Layer {
    Layer { x, w, rule }
}

const fn moves(stride: [usize; 3], padding: [usize; 3], dilation: [usize; 3], groups: usize) -> Conv3d {
    Conv3d { stride, padding, dilation, groups }
}

const ONE: [usize; 3] = [1; 3];
const SAME: Conv3d = moves(ONE, ONE, ONE, 1);

/// Tran et al., 2015: 16 frames of 112×112, 3×3×3 filters.
const C3D: &[Layer] = &[
    layer([8, 3, 16, 112, 112], [64, 3, 3, 3, 3], SAME),
    layer([8, 64, 16, 56, 56], [128, 64, 3, 3, 3], SAME),
    layer([8, 128, 8, 28, 28], [256, 128, 3, 3, 3], SAME),
    layer([8, 256, 8, 28, 28], [256, 256, 3, 3, 3], SAME),
    layer([8, 256, 4, 14, 14], [512, 256, 3, 3, 3], SAME),
    layer([8, 512, 2, 7, 7], [512, 512, 3, 3, 3], SAME),
];

/// Tran et al., 2018, as torchvision's `r3d_18`: the stem, a block of each stage, a block and a projection that halve the size.
const R3D_18: &[Layer] = &[
    layer([8, 3, 16, 112, 112], [64, 3, 3, 7, 7], moves([1, 2, 2], [1, 3, 3], ONE, 1)),
    layer([8, 64, 16, 56, 56], [64, 64, 3, 3, 3], SAME),
    layer([8, 64, 16, 56, 56], [128, 64, 3, 3, 3], moves([2; 3], ONE, ONE, 1)),
    layer([8, 64, 16, 56, 56], [128, 64, 1, 1, 1], moves([2; 3], [0; 3], ONE, 1)),
    layer([8, 256, 4, 14, 14], [256, 256, 3, 3, 3], SAME),
    layer([8, 512, 2, 7, 7], [512, 512, 3, 3, 3], SAME),
];

/// What the suite against the CPU convolves (`tests/against_cpu/volumes.rs`).
const ODD: &[Layer] = &[
    layer([2, 3, 5, 7, 6], [4, 3, 3, 2, 4], moves([2, 1, 3], [1, 0, 2], [1, 3, 2], 1)),
    layer([1, 2, 9, 6, 8], [3, 2, 2, 3, 1], moves([1, 3, 2], [2, 1, 0], [3, 2, 1], 1)),
    layer([2, 4, 4, 5, 6], [6, 2, 1, 2, 3], moves([3, 1, 2], [0, 1, 2], [1, 2, 1], 2)),
    layer([2, 6, 5, 4, 3], [6, 1, 3, 1, 2], moves([1, 2, 1], [1, 0, 0], [2, 1, 1], 6)),
    layer([2, 3, 4, 6, 5], [4, 3, 3, 3, 3], SAME),
    layer([1, 3, 5, 4, 3], [2, 3, 5, 4, 3], moves(ONE, [0; 3], ONE, 1)),
    layer([3, 5, 2, 3, 4], [7, 5, 1, 1, 1], moves(ONE, [0; 3], ONE, 1)),
    layer([2, 13, 5, 11, 13], [17, 13, 3, 3, 2], moves(ONE, [1, 1, 0], ONE, 1)),
];

const NETWORKS: [(&str, &[Layer]); 3] = [("C3D, 8", C3D), ("R3D-18, 8", R3D_18), ("odd volumes", ODD)];

const COMPUTATIONS: [(&str, Conv2dDirection, Option<Conv2dFusion>); 4] = [
    ("forward", Forward, None),
    ("forward+bias", Forward, Some(Bias)),
    ("grad_input", GradInput, None),
    ("grad_weight", GradWeight, None),
];

pub fn rows(device: &DescribedDevice, key: &str, rows: &mut Vec<(String, Cell)>, missing: &mut Vec<String>) {
    let mut asked = |problem: &VolumeProblem| {
        let planned = device.plans(problem).unwrap_or_else(|error| panic!("{key}: {problem:?}: {error}"));
        if planned.first.is_none() {
            missing.push(format!("{key}: {problem:?}: {}", planned.reason));
        }
        planned.first
    };
    for (name, layers) in NETWORKS {
        for (precision, dtype, tf32) in PRECISIONS {
            for ((computation, direction, fusion), (format_name, format)) in
                COMPUTATIONS.iter().flat_map(|computation| FORMATS.map(|format| (*computation, format)))
            {
                let mut cell = Cell::default();
                for Layer { x, w, rule } in layers {
                    let ([n, _, size @ ..], [o, _, kernel @ ..]) = (*x, *w);
                    let [d, h, wide] = rule.output(size, kernel).expect("the filter fits");
                    let whole = VolumeProblem {
                        direction,
                        fusion,
                        dtype,
                        tf32,
                        deterministic: false,
                        benchmark: false,
                        accumulate: false,
                        alignment: 16,
                        format,
                        x: *x,
                        w: *w,
                        y: [n, o, d, h, wide],
                        rule: *rule,
                    };
                    if let Some((engine, workspace)) = asked(&whole) {
                        *cell.engines.entry(engine).or_default() += 1;
                        cell.workspace = cell.workspace.max(workspace);
                    }
                    if name != "odd volumes" {
                        continue;
                    }
                    // What must be there as well: the least alignment, the same bits each time, a sum over a batch that is cut.
                    asked(&VolumeProblem { alignment: dtype.size() as u8, ..whole });
                    asked(&VolumeProblem { deterministic: true, ..whole });
                    if direction == GradWeight {
                        asked(&VolumeProblem { accumulate: true, ..whole });
                    }
                }
                rows.push((format!("{name} | {computation} | {precision} {format_name}"), cell));
            }
        }
    }
}
