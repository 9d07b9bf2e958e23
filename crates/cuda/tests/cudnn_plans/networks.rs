//! The convolutions of well-known networks, each shape once.

use kiln_backend::Conv2d;

/// A convolution layer with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    pub x: [usize; 4],
    pub w: [usize; 4],
    pub rule: Conv2d,
}

impl Layer {
    pub fn y(&self) -> [usize; 4] {
        let [h, w] = self.rule.output([self.x[2], self.x[3]], [self.w[2], self.w[3]]).expect("the filter fits");
        [self.x[0], self.w[0], h, w]
    }
}

/// Layers one after the other, each of square filters that keep the size or divide it by the stride.
struct Network {
    batch: usize,
    channels: usize,
    size: usize,
    layers: Vec<Layer>,
}

impl Network {
    fn new(batch: usize, channels: usize, size: usize) -> Network {
        Network { batch, channels, size, layers: Vec::new() }
    }

    fn add(&mut self, channels: usize, taps: usize, stride: usize, groups: usize) {
        let rule = Conv2d { stride: [stride; 2], padding: [taps / 2; 2], dilation: [1; 2], groups };
        let x = [self.batch, self.channels, self.size, self.size];
        let layer = Layer { x, w: [channels, self.channels / groups, taps, taps], rule };
        if !self.layers.contains(&layer) {
            self.layers.push(layer);
        }
        (self.channels, self.size) = (channels, layer.y()[2]);
    }
}

/// LeCun et al., 1998, as `kiln_models::LeNet`: 28×28, 5×5 filters without padding.
pub fn lenet(batch: usize) -> Vec<Layer> {
    let layer = |x, w| Layer { x, w, rule: Conv2d::default() };
    vec![layer([batch, 1, 28, 28], [6, 1, 5, 5]), layer([batch, 6, 12, 12], [16, 6, 5, 5])]
}

/// Simonyan & Zisserman, 2014, configuration D.
pub fn vgg16(batch: usize) -> Vec<Layer> {
    let mut network = Network::new(batch, 3, 224);
    for (width, count) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        (0..count).for_each(|_| network.add(width, 3, 1, 1));
        network.size /= 2;
    }
    network.layers
}

/// He et al., 2015, with the stride in the 3×3 convolution as torchvision has it.
fn resnet(batch: usize, blocks: [usize; 4], bottleneck: bool) -> Vec<Layer> {
    let mut network = Network::new(batch, 3, 224);
    network.add(64, 7, 2, 1);
    network.size /= 2;
    for (stage, count) in blocks.into_iter().enumerate() {
        let width = 64 << stage;
        for block in 0..count {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let (channels, size) = (network.channels, network.size);
            let out = if bottleneck { 4 * width } else { width };
            if bottleneck {
                network.add(width, 1, 1, 1);
                network.add(width, 3, stride, 1);
                network.add(out, 1, 1, 1);
            } else {
                network.add(width, 3, stride, 1);
                network.add(width, 3, 1, 1);
            }
            if stride > 1 || channels != out {
                (network.channels, network.size) = (channels, size);
                network.add(out, 1, stride, 1);
            }
        }
    }
    network.layers
}

pub fn resnet18(batch: usize) -> Vec<Layer> {
    resnet(batch, [2, 2, 2, 2], false)
}

pub fn resnet50(batch: usize) -> Vec<Layer> {
    resnet(batch, [3, 4, 6, 3], true)
}

/// Sandler et al., 2018: the depthwise convolutions. Those of 1×1 around them are like ResNet-50's.
pub fn mobilenet_v2(batch: usize) -> Vec<Layer> {
    let mut network = Network::new(batch, 3, 224);
    network.add(32, 3, 2, 1);
    for (expansion, channels, count, stride) in
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    {
        for block in 0..count {
            let hidden = expansion * network.channels;
            if expansion > 1 {
                network.add(hidden, 1, 1, 1);
            }
            network.add(hidden, 3, if block == 0 { stride } else { 1 }, hidden);
            network.add(channels, 1, 1, 1);
        }
    }
    network.layers.retain(|layer| layer.rule.groups > 1);
    network.layers
}

/// What the suite against the CPU convolves (`tests/against_cpu/convolution.rs`), and what has been trouble elsewhere.
pub fn odd() -> Vec<Layer> {
    let layer =
        |x, w, stride, padding, dilation, groups| Layer { x, w, rule: Conv2d { stride, padding, dilation, groups } };
    let one = [1, 1];
    vec![
        layer([2, 3, 8, 9], [4, 3, 3, 3], one, [1, 1], one, 1),
        layer([2, 3, 8, 9], [4, 3, 3, 3], one, [0, 0], one, 1),
        layer([1, 5, 6, 7], [3, 5, 1, 1], one, [0, 0], one, 1),
        layer([2, 5, 6, 7], [9, 5, 1, 1], [2, 3], [0, 0], one, 1),
        layer([2, 2, 9, 7], [3, 2, 5, 3], one, [2, 0], one, 1),
        layer([2, 3, 9, 8], [4, 3, 3, 3], [2, 2], [1, 1], one, 1),
        layer([2, 3, 9, 8], [4, 3, 2, 3], [3, 1], [0, 2], one, 1),
        layer([1, 3, 9, 10], [4, 3, 3, 3], one, [1, 3], [2, 3], 1),
        layer([2, 2, 11, 9], [2, 2, 3, 2], [2, 3], [3, 1], [3, 1], 1),
        layer([2, 4, 6, 5], [6, 2, 3, 3], one, [1, 1], one, 2),
        layer([2, 6, 5, 6], [6, 1, 3, 3], one, [1, 1], one, 6),
        layer([1, 3, 7, 6], [12, 1, 3, 2], [2, 1], [0, 0], [1, 2], 3),
        layer([3, 1, 8, 8], [5, 1, 3, 3], one, [0, 0], one, 1),
        layer([3, 4, 5, 5], [1, 4, 3, 3], one, [1, 1], one, 1),
        layer([2, 3, 4, 5], [7, 3, 4, 5], one, [0, 0], one, 1),
        layer([2, 8, 1, 1], [5, 8, 3, 3], one, [1, 1], one, 1),
        layer([2, 17, 13, 15], [21, 17, 3, 3], one, [1, 1], one, 1),
        // Groups of odd widths, and one wide filter.
        layer([4, 21, 14, 14], [35, 3, 3, 3], one, [1, 1], one, 7),
        layer([4, 126, 14, 14], [126, 42, 3, 3], one, [1, 1], one, 3),
        layer([1, 8, 40, 40], [8, 8, 31, 31], one, [15, 15], one, 1),
    ]
}
