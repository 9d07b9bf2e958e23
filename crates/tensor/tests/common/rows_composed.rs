//! Rows of products and of changes of shape that are composed of other operations, as `rows.rs` describes them.

macro_rules! composed_rows {
    ($expand:ident) => {
        $expand! {
            addmm {
                golden |x, a| x[0].addmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_PRODUCT Any |x| x[0].addmm(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addmm(y, x, r.scalar(), r.scalar()));
            }
            addmv {
                golden |x, a| x[0].addmv(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient VECTOR_AND_PRODUCT Any |x| x[0].addmv(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addmv(y, x, r.scalar(), r.scalar()));
            }
            baddbmm {
                golden |x, a| x[0].baddbmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient BATCH_AND_PRODUCT Any |x| x[0].baddbmm(&x[1], &x[2], 1, 2.0);
                random |x, y, r| one_of(cube(x, r).baddbmm(&cube(y, r), &cube(x, r), r.scalar(), r.scalar()));
            }
            addbmm {
                golden |x, a| x[0].addbmm(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_BATCHES Any |x| x[0].addbmm(&x[1], &x[2], 0.5, 1);
                random |x, y, r| one_of(x.addbmm(&cube(y, r), &cube(x, r), r.scalar(), r.scalar()));
            }
            addr {
                golden |x, a| x[0].addr(&x[1], &x[2], factor(a, "beta"), factor(a, "alpha"))?;
                gradient MATRIX_AND_VECTORS Any |x| x[0].addr(&x[1], &x[2], 0.5, 2.0);
                random |x, y, r| one_of(x.addr(&y.flatten_all()?, &y.flatten_all()?, r.scalar(), r.scalar()));
            }
            addcmul {
                golden |x, a| x[0].addcmul(&x[1], &x[2], factor(a, "value"))?;
                gradient THREE Any |x| x[0].addcmul(&x[1], &x[2], 0.5);
                random |x, y, r| one_of(x.addcmul(y, x, r.scalar()));
            }
            addcdiv {
                golden |x, a| x[0].addcdiv(&x[1], &x[2], factor(a, "value"))?;
                gradient THREE Positive |x| x[0].addcdiv(&x[1], &x[2], 0.5);
                random |x, y, r| one_of(x.addcdiv(y, x, r.scalar()));
            }
            inner {
                golden |x, _a| x[0].inner(&x[1])?;
                gradient INNER Any |x| x[0].inner(&x[1]);
                random |x, y, r| one_of(if r.flag() { x.inner(x) } else { x.inner(y) });
            }
            tensordot {
                golden |x, a| match a.get("dims").unwrap() {
                    serde_json::Value::Array(pairs) => {
                        let list = |i: usize| serde_json::from_value(pairs[i].clone()).unwrap();
                        x[0].tensordot(&x[1], kiln_tensor::Contraction::Pairs(list(0), list(1)))?
                    }
                    count => x[0].tensordot(&x[1], count.as_u64().unwrap() as usize)?,
                };
                gradient INNER_CUBES Any |x| x[0].tensordot(&x[1], ([0, 2], [1, 0]));
                random |x, y, r| one_of(if r.flag() { x.tensordot(x, ([0], [r.int()])) } else { x.tensordot(y, r.below(3)) });
            }
            kron {
                golden |x, _a| x[0].kron(&x[1])?;
                gradient INNER Any |x| x[0].kron(&x[1]);
                random |x, y, _r| one_of(x.kron(y));
            }
            cross {
                golden |x, a| x[0].cross(&x[1], a.int("dim").unwrap_or(-1))?;
                gradient PAIRS_OF_VECTORS Any |x| x[0].cross(&x[1], -1);
                random |x, _y, r| {
                    let (a, b) = (r.tensor_of(x.dtype(), &[2, 3]), r.tensor_of(x.dtype(), &[1, 3]));
                    one_of(if r.flag() { a.cross(&b, r.dim()) } else { x.cross(&b, r.dim()) })
                };
            }
            vecdot {
                golden |x, a| x[0].vecdot(&x[1], a.int("dim").unwrap_or(-1))?;
                gradient PAIRS_OF_VECTORS Any |x| x[0].vecdot(&x[1], -1);
                random |x, y, r| one_of(x.vecdot(y, r.dim()));
            }
            matrix_power {
                golden |x, a| match a.int("n").unwrap() {
                    n if n < 0 => return Err(crate::suite::lacks("inverse matrices")),
                    n => x[0].matrix_power(n as u32)?,
                };
                gradient SQUARES Unit |x| x[0].matrix_power(3);
                random |x, _y, r| {
                    let square = r.tensor_of(x.dtype(), &[2, 2]);
                    one_of(if r.flag() { x.matrix_power(2) } else { square.matrix_power(r.below(6) as u32) })
                };
            }
            dist {
                golden |x, a| x[0].dist(&x[1], a.float("p").unwrap_or(2.0))?;
                gradient PAIRS_OF_VECTORS Distinct |x| x[0].dist(&x[1], 2.0);
                random |x, y, r| one_of(x.dist(y, r.float()));
            }
            cdist {
                golden |x, a| {
                    a.get("compute_mode");
                    x[0].cdist(&x[1], a.float("p").unwrap_or(2.0))?
                };
                gradient PAIRS_OF_LISTS Distinct |x| x[0].cdist(&x[1], 2.0);
                gradient PAIRS_OF_LISTS Distinct |x| x[0].cdist(&x[1], 1.0);
                random |x, y, r| one_of(if r.flag() { x.cdist(x, r.float()) } else { x.cdist(y, r.float()) });
            }
            atleast_1d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_1d)?;
                gradient ANY Any |x| x[0].atleast_1d();
                random |x, _y, _r| one_of(x.atleast_1d());
            }
            atleast_2d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_2d)?;
                gradient ANY Any |x| x[0].atleast_2d();
                random |x, _y, _r| one_of(x.atleast_2d());
            }
            atleast_3d {
                golden |x, _a| each_of(x, kiln_tensor::Tensor::atleast_3d)?;
                gradient ANY Any |x| x[0].atleast_3d();
                random |x, _y, _r| one_of(x.atleast_3d());
            }
            hstack {
                golden |x, _a| kiln_tensor::Tensor::hstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::hstack(x);
                random |x, y, r| one_of(Tensor::hstack(&[x, if r.flag() { x } else { y }]));
            }
            vstack {
                golden |x, _a| kiln_tensor::Tensor::vstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::vstack(x);
                random |x, y, r| one_of(Tensor::vstack(&[x, if r.flag() { x } else { y }]));
            }
            dstack {
                golden |x, _a| kiln_tensor::Tensor::dstack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::dstack(x);
                random |x, y, r| one_of(Tensor::dstack(&[x, if r.flag() { x } else { y }]));
            }
            column_stack {
                golden |x, _a| kiln_tensor::Tensor::column_stack(x)?;
                gradient TWO_EQUAL Any |x| Tensor::column_stack(x);
                random |x, y, r| one_of(Tensor::column_stack(&[x, if r.flag() { x } else { y }]));
            }
            ravel {
                golden |x, _a| x[0].ravel()?;
                gradient ANY Any |x| x[0].ravel();
                random |x, _y, _r| one_of(x.ravel());
            }
            tile {
                golden |x, a| x[0].tile(a.ints("dims"))?;
                gradient MATRIX Any |x| x[0].tile([2]);
                gradient MATRIX Any |x| x[0].tile([2, 1, 2]);
                random |x, _y, r| one_of(x.tile(r.extents()));
            }
            broadcast_tensors {
                golden |x, _a| kiln_tensor::Tensor::broadcast_tensors(x)?;
                gradient PAIRS Any |x| joined(Tensor::broadcast_tensors(x)?);
                random |x, y, _r| Tensor::broadcast_tensors(&[x, y]);
            }
            block_diag {
                golden |x, _a| kiln_tensor::Tensor::block_diag(x)?;
                gradient TWO_MATRICES Any |x| Tensor::block_diag(x);
                gradient UNEQUAL_VECTORS Any |x| Tensor::block_diag(x);
                random |x, y, _r| one_of(Tensor::block_diag(&[x, y, x]));
            }
            cartesian_prod {
                golden |x, _a| kiln_tensor::Tensor::cartesian_prod(x)?;
                gradient UNEQUAL_VECTORS Any |x| Tensor::cartesian_prod(x);
                random |x, y, _r| one_of(Tensor::cartesian_prod(&[x, y]));
            }
            combinations {
                golden |x, a| x[0].combinations(a.size("r").unwrap_or(2), a.flag("with_replacement"))?;
                gradient VECTOR Any |x| x[0].combinations(2, false);
                gradient VECTOR Any |x| x[0].combinations(2, true);
                random |x, _y, r| one_of(x.combinations(r.below(4), r.flag()));
            }
            tensor_split {
                golden |x, a| x[0].tensor_split(splits(x, a), a.int("dim").unwrap_or(0))?;
                gradient CUBE Any |x| joined(x[0].tensor_split(3, -1)?);
                gradient CUBE Any |x| joined(x[0].tensor_split([1, -1], -1)?);
                random |x, _y, r| if r.flag() { x.tensor_split(r.size(), r.dim()) } else { x.tensor_split([r.int(), r.int()], r.dim()) };
            }
            hsplit {
                golden |x, a| x[0].hsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].hsplit([1])?);
                random |x, _y, r| if r.flag() { x.hsplit(r.size()) } else { x.hsplit([r.int()]) };
            }
            vsplit {
                golden |x, a| x[0].vsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].vsplit(2)?);
                random |x, _y, r| if r.flag() { x.vsplit(r.size()) } else { x.vsplit([r.int()]) };
            }
            dsplit {
                golden |x, a| x[0].dsplit(splits(x, a))?;
                gradient CUBE Any |x| joined(x[0].dsplit(2)?);
                random |x, _y, r| if r.flag() { x.dsplit(r.size()) } else { x.dsplit([r.int()]) };
            }
            rot90 {
                golden |x, a| {
                    let dims = a.ints("dims");
                    let dims = if dims.is_empty() { [0, 1] } else { [dims[0], dims[1]] };
                    x[0].rot90(a.int("k").unwrap_or(1), dims)?
                };
                gradient CUBE Any |x| x[0].rot90(1, [0, 2]);
                gradient CUBE Any |x| x[0].rot90(-1, [0, 1]);
                random |x, _y, r| one_of(x.rot90(r.int(), [r.dim(), r.dim()]));
            }
            fliplr {
                golden |x, _a| x[0].fliplr()?;
                gradient CUBE Any |x| x[0].fliplr();
                random |x, _y, _r| one_of(x.fliplr());
            }
            flipud {
                golden |x, _a| x[0].flipud()?;
                gradient CUBE Any |x| x[0].flipud();
                random |x, _y, _r| one_of(x.flipud());
            }
            unfold {
                golden |x, a| x[0].unfold(a.int("dimension").unwrap(), a.size("size").unwrap(), a.size("step").unwrap())?;
                gradient CUBE Any |x| x[0].unfold(2, 3, 1);
                gradient CUBE Any |x| x[0].unfold(-1, 2, 2);
                random |x, _y, r| one_of(x.unfold(r.dim(), r.below(4), r.size()));
            }
            pixel_shuffle {
                golden |x, a| x[0].pixel_shuffle(a.size("upscale_factor").unwrap())?;
                gradient PIXELS Any |x| x[0].pixel_shuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).pixel_shuffle(r.below(3)));
            }
            pixel_unshuffle {
                golden |x, a| x[0].pixel_unshuffle(a.size("downscale_factor").unwrap())?;
                gradient PIXELS Any |x| x[0].pixel_unshuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).pixel_unshuffle(r.below(3)));
            }
            interpolate {
                golden |x, a| interpolated(&x[0], a, interpolate_mode(a))?;
                gradient SIGNALS_ALONE Any |x| x[0].interpolate(&[8], InterpolateMode::Linear { align_corners: false });
                gradient IMAGES_ALONE Any |x| x[0].interpolate(&[3, 7], InterpolateMode::Cubic { align_corners: true });
                gradient IMAGES_ALONE Any |x| x[0].interpolate(&[2], InterpolateMode::Area);
                gradient VOLUMES_ALONE Any |x| x[0].interpolate(&[2, 4, 3], InterpolateMode::NearestExact);
                gradient IMAGES_ALONE Any |x| x[0].interpolate(&[2], InterpolateMode::CubicAntialias { align_corners: false });
                random |x, _y, r| {
                    let (dims, size, mode) = (1 + r.below(3), [r.below(4), r.below(4), r.below(4)], interpolate_mode(r));
                    one_of(spatial(dims, x, r).interpolate(&size[..if r.flag() { 1 } else { dims }], mode))
                };
            }
            grid_sample {
                golden |x, a| x[0].grid_sample(a.tensor("grid", x).unwrap_or(&x[1]), grid_options(a))?;
                gradient IMAGES_AND_PLACES Any |x| x[0].grid_sample(&x[1].mul(0.6)?, GridSample::default());
                gradient IMAGES_AND_PLACES Any |x| {
                    let options = GridSample { padding_mode: GridPadding::Border, align_corners: true, ..GridSample::default() };
                    x[0].grid_sample(&x[1].mul(0.6)?, options)
                };
                gradient IMAGES_AND_PLACES Any |x| {
                    let (mode, padding_mode) = (GridMode::Bicubic, GridPadding::Reflection);
                    x[0].grid_sample(&x[1].mul(0.6)?, GridSample { mode, padding_mode, align_corners: false })
                };
                gradient VOLUMES_AND_PLACES Any |x| {
                    x[0].grid_sample(&x[1].mul(0.6)?, GridSample { align_corners: true, ..GridSample::default() })
                };
                gradient VOLUMES_AND_PLACES Any |x| {
                    x[0].grid_sample(&x[1], GridSample { mode: GridMode::Nearest, ..GridSample::default() })
                };
                random |x, y, r| one_of(grid_sample(x, y, r));
            }
            affine_grid {
                golden |x, a| {
                    let size: Vec<usize> = a.ints("size").iter().map(|&n| n as usize).collect();
                    x[0].affine_grid(&size, a.flag("align_corners"))?
                };
                gradient AFFINE_MAPS Any |x| x[0].affine_grid(&[2, 1, 2, 3], true);
                gradient AFFINE_MAPS_3D Any |x| x[0].affine_grid(&[1, 2, 2, 1, 3], false);
                random |x, _y, r| {
                    let dims = 2 + r.below(2);
                    let maps = if r.flag() { x.clone() } else { r.tensor_of(x.dtype(), &[2, dims, dims + 1]) };
                    let size = [2, r.below(3), r.below(4), r.below(4), r.below(4)];
                    one_of(maps.affine_grid(&size[..dims + 2], r.flag()))
                };
            }
            embedding_bag {
                golden |x, a| embedding_bag(x, a)?;
                gradient ROWS Any |x| {
                    let options = BagOptions { mode: BagMode::Sum, padding_idx: Some(3), ..BagOptions::default() };
                    x[0].embedding_bag(&numbers(&[2, 0, 2, 3], [2, 2]), None, &options)
                };
                gradient ROWS Any |x| {
                    x[0].embedding_bag(&numbers(&[2, 0, 2, 3], [4]), Some(&numbers(&[0, 1, 1], [3])), &BagOptions::default())
                };
                gradient ROWS Distinct |x| {
                    let options = BagOptions { mode: BagMode::Max, include_last_offset: true, ..BagOptions::default() };
                    x[0].embedding_bag(&numbers(&[2, 0, 2, 3], [4]), Some(&numbers(&[0, 3, 3, 4], [4])), &options)
                };
                gradient ROWS_AND_WEIGHTS Any |x| {
                    let weights = Some(&x[1]);
                    let options = BagOptions { mode: BagMode::Sum, per_sample_weights: weights, ..BagOptions::default() };
                    x[0].embedding_bag(&numbers(&[2, 0, 2, 3], [4]), Some(&numbers(&[0, 3], [2])), &options)
                };
                random |x, y, r| one_of(embedding_bag(x, y, r));
            }
            interpolate_by {
                gradient SIGNALS_ALONE Any |x| x[0].interpolate_by(&[1.7], InterpolateMode::Nearest);
                gradient IMAGES_ALONE Any |x| x[0].interpolate_by(&[0.6, 2.0], InterpolateMode::Linear { align_corners: true });
                gradient VOLUMES_ALONE Any |x| x[0].interpolate_by(&[1.5], InterpolateMode::Linear { align_corners: false });
                random |x, _y, r| {
                    let (dims, factors, mode) = (1 + r.below(3), [r.float(), r.float(), r.float()], interpolate_mode(r));
                    one_of(spatial(dims, x, r).interpolate_by(&factors[..if r.flag() { 1 } else { dims }], mode))
                };
            }
            im2col {
                golden |x, a| x[0].im2col(sliding_window(a))?;
                gradient IMAGES Any |x| x[0].im2col(SlidingWindow { padding: [1, 0], stride: [2, 1], ..SlidingWindow::new([2, 3]) });
                gradient IMAGES Any |x| x[0].im2col(SlidingWindow { dilation: [2, 1], ..SlidingWindow::new([2, 2]) });
                random |x, _y, r| one_of(spatial(2, x, r).im2col(sliding_window(r)));
            }
            col2im {
                golden |x, a| x[0].col2im(sizes(a, "output_size", 1), sliding_window(a))?;
                gradient BLOCKS Any |x| {
                    x[0].col2im([3, 4], SlidingWindow { padding: [1, 0], stride: [2, 1], ..SlidingWindow::new([2, 3]) })
                };
                random |x, _y, r| {
                    let (images, window) = (spatial(2, x, r), sliding_window(r));
                    let blocks = images.im2col(window).unwrap_or_else(|_| x.clone());
                    let size = match *images.dims() {
                        [.., h, w] if r.below(4) > 0 => [h, w],
                        _ => [r.below(3), r.below(3)],
                    };
                    one_of(blocks.col2im(size, window))
                };
            }
            pdist {
                golden |x, a| x[0].pdist(a.float("p").unwrap_or(2.0))?;
                gradient ROWS Any |x| apart(&x[0])?.pdist(2.0);
                gradient ROWS Any |x| apart(&x[0])?.pdist(1.5);
                random |x, _y, r| one_of(x.pdist(r.float()));
            }
            channel_shuffle {
                golden |x, a| x[0].channel_shuffle(a.size("groups").unwrap())?;
                gradient PIXELS Any |x| x[0].channel_shuffle(2);
                random |x, _y, r| one_of(spatial(2, x, r).channel_shuffle(r.below(4)));
            }
        }
    };
}
