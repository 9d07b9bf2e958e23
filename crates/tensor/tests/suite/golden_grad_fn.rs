//! Names of `grad_fn` against PyTorch (`tests/golden/autograd.json`).

use crate::common::golden;
use kiln_tensor::{
    ClassLoss, ClassLossInput, DType, Device, Ellipsis, NewAxis, PointwiseLossKind, Reduction, Result, Tensor, step,
};

/// The tensors that the expressions name. All of floats require gradients, except `c` and `target`.
struct Scope {
    x: Tensor,
    y: Tensor,
    s: Tensor,
    m: Tensor,
    v: Tensor,
    u: Tensor,
    z: Tensor,
    b: Tensor,
    d: Tensor,
    w: Tensor,
    bias: Tensor,
    one: Tensor,
    c: Tensor,
    target: Tensor,
    labels: Tensor,
    i: Tensor,
    indices: Tensor,
    mask: Tensor,
}

impl Scope {
    fn new() -> Result<Scope> {
        let leaf = |dims: &[usize]| Tensor::rand(dims, Device::Cpu)?.requires_grad_(true);
        Ok(Scope {
            x: leaf(&[3, 4])?,
            y: leaf(&[3, 4])?,
            s: leaf(&[3, 3])?,
            m: leaf(&[4, 2])?,
            v: leaf(&[4])?,
            u: leaf(&[4])?,
            z: leaf(&[])?,
            b: leaf(&[2, 3, 4])?,
            d: leaf(&[2, 4, 5])?,
            w: leaf(&[2, 4])?,
            bias: leaf(&[2])?,
            one: leaf(&[1, 3, 1])?,
            c: leaf(&[3, 4])?.detach(),
            target: leaf(&[3, 4])?.detach(),
            labels: Tensor::new([0i64, 1, 2], Device::Cpu)?,
            i: Tensor::new([0i64, 2], Device::Cpu)?,
            indices: Tensor::zeros([3, 2], DType::I64)?,
            mask: Tensor::rand([3, 4], Device::Cpu)?.gt(0.5)?,
        })
    }

    fn class_loss(&self, target: &Tensor, input: ClassLossInput, reduction: Reduction, smooth: f64) -> Result<Tensor> {
        let rule = ClassLoss { input, reduction, ignore_index: -100, label_smoothing: smooth };
        self.x.class_loss(target, None, &rule)
    }

    fn pointwise_loss(&self, kind: PointwiseLossKind, reduction: Reduction) -> Result<Tensor> {
        self.x.pointwise_loss(kind, &self.target, None, None, reduction)
    }
}

type Line = (&'static str, fn(&Scope) -> Result<Tensor>);

/// A copy changed in place.
fn changed(x: &Tensor, change: impl FnOnce(&Tensor) -> Result<()>) -> Result<Tensor> {
    let copy = x.copy()?;
    change(&copy)?;
    Ok(copy)
}

fn first(parts: Result<Vec<Tensor>>) -> Result<Tensor> {
    parts.map(|parts| parts[0].clone())
}

macro_rules! lines {
    ($($python:literal => |$e:ident| $call:expr;)*) => { &[$(($python, |$e| $call),)*] };
}

const ARITHMETIC: &[Line] = lines! {
    "x" => |e| Ok(e.x.clone());
    "x.detach()" => |e| Ok(e.x.detach());
    "x.data" => |e| Ok(e.x.detach());
    "x + y" => |e| &e.x + &e.y;
    "x + 1" => |e| &e.x + 1;
    "1 + x" => |e| 1 + &e.x;
    "x + c" => |e| &e.x + &e.c;
    "c + c" => |e| &e.c + &e.c;
    "x - y" => |e| &e.x - &e.y;
    "x - 1" => |e| &e.x - 1;
    "1 - x" => |e| 1 - &e.x;
    "x * y" => |e| &e.x * &e.y;
    "x * 2" => |e| &e.x * 2;
    "2 * x" => |e| 2 * &e.x;
    "x / y" => |e| &e.x / &e.y;
    "x / 2" => |e| &e.x / 2;
    "1 / x" => |e| 1 / &e.x;
    "-x" => |e| -&e.x;
    "x ** 2" => |e| e.x.pow(2);
    "x ** 2.0" => |e| e.x.pow(2.0);
    "x ** y" => |e| e.x.pow(&e.y);
    "2 ** x" => |e| Tensor::full((), 2, Device::Cpu)?.pow(&e.x);
    "x ** 0" => |e| e.x.pow(0);
    "x % 2" => |e| &e.x % 2;
    "x // 2" => |e| e.x.floor_divide(2);
    "x.pow(2)" => |e| e.x.pow(2);
    "x.square()" => |e| e.x.square();
    "torch.max(x, y)" => |e| e.x.maximum(&e.y);
    "torch.min(x, y)" => |e| e.x.minimum(&e.y);
    "torch.maximum(x, y)" => |e| e.x.maximum(&e.y);
    "torch.minimum(x, y)" => |e| e.x.minimum(&e.y);
    "x == y" => |e| e.x.eq(&e.y);
    "x > 0" => |e| e.x.gt(0);
    "torch.where(mask, x, y)" => |e| e.mask.where_cond(&e.x, &e.y);
    "torch.where(mask, x, 0.0)" => |e| e.mask.where_cond(&e.x, 0.0);
    "x.relu()" => |e| e.x.relu();
    "torch.relu(x)" => |e| e.x.relu();
    "F.relu(x)" => |e| e.x.relu();
    "F.relu(x, inplace=False)" => |e| e.x.relu();
    "x.sigmoid()" => |e| e.x.sigmoid();
    "x.tanh()" => |e| e.x.tanh();
    "F.gelu(x)" => |e| e.x.gelu();
    "F.gelu(x, approximate='tanh')" => |e| e.x.gelu_tanh();
    "F.silu(x)" => |e| e.x.silu();
    "F.elu(x)" => |e| e.x.elu(1.0);
    "F.leaky_relu(x)" => |e| e.x.leaky_relu(0.01);
    "F.softplus(x)" => |e| e.x.softplus();
    "x.exp()" => |e| e.x.exp();
    "x.log()" => |e| e.x.log();
    "x.log1p()" => |e| e.x.log1p();
    "x.sqrt()" => |e| e.x.sqrt();
    "x.rsqrt()" => |e| e.x.rsqrt();
    "x.reciprocal()" => |e| e.x.reciprocal();
    "x.sin()" => |e| e.x.sin();
    "x.cos()" => |e| e.x.cos();
    "x.abs()" => |e| e.x.abs();
    "x.neg()" => |e| e.x.neg();
    "x.sign()" => |e| e.x.sign();
    "x.floor()" => |e| e.x.floor();
    "x.round()" => |e| e.x.round();
    "x.clamp(0, 1)" => |e| e.x.clamp(0, 1);
    "x.clamp(min=0)" => |e| e.x.clamp_min(0);
    "x.clamp(min=y)" => |e| e.x.clamp_min(&e.y);
    "F.dropout(x, 0.5)" => |e| e.x.dropout(0.5, true);
    "F.dropout(x, 0.5, training=False)" => |e| e.x.dropout(0.5, false);
    "F.dropout(x, 0.0)" => |e| e.x.dropout(0.0, true);
    "x.to(torch.float64)" => |e| e.x.to_dtype(DType::F64);
    "x.to(torch.float32)" => |e| e.x.to_dtype(DType::F32);
    "x.double()" => |e| e.x.to_dtype(DType::F64);
    "x.float()" => |e| e.x.to_dtype(DType::F32);
    "x.half()" => |e| e.x.to_dtype(DType::F16);
    "x.to(torch.int64)" => |e| e.x.to_dtype(DType::I64);
    "x.clone()" => |e| e.x.copy();
    "x.requires_grad_()" => |e| e.x.clone().requires_grad_(true);
    "torch.zeros_like(x)" => |e| e.x.zeros_like();
    "torch.ones(2, requires_grad=True)" => |_e| Tensor::ones(2, Device::Cpu)?.requires_grad_(true);
};

const REDUCING: &[Line] = lines! {
    "x.sum()" => |e| e.x.sum(());
    "x.sum(0)" => |e| e.x.sum(0);
    "x.sum((0, 1))" => |e| e.x.sum([0, 1]);
    "x.sum(dim=1, keepdim=True)" => |e| e.x.sum_keepdim(1);
    "x.mean()" => |e| e.x.mean(());
    "x.mean(0)" => |e| e.x.mean(0);
    "x.mean(dim=(0, 1))" => |e| e.x.mean([0, 1]);
    "x.prod()" => |e| e.x.prod(());
    "x.prod(0)" => |e| e.x.prod(0);
    "x.var()" => |e| e.x.var((), 1.0);
    "x.var(0)" => |e| e.x.var(0, 1.0);
    "x.std()" => |e| e.x.std((), 1.0);
    "x.std(0)" => |e| e.x.std(0, 1.0);
    "x.max()" => |e| e.x.max(());
    "x.min()" => |e| e.x.min(());
    "x.max(0)" => |e| Ok(e.x.max_dim(0)?.0);
    "x.min(0)" => |e| Ok(e.x.min_dim(0)?.0);
    "x.max(0).values" => |e| Ok(e.x.max_dim(0)?.0);
    "x.amax(0)" => |e| e.x.amax(0);
    "x.amin()" => |e| e.x.amin(());
    "x.argmax()" => |e| e.x.argmax(());
    "x.norm()" => |e| e.x.norm(2, ());
    "x.norm(p=1)" => |e| e.x.norm(1, ());
    "x.norm(dim=1)" => |e| e.x.norm(2, 1);
    "torch.norm(x)" => |e| e.x.norm(2, ());
    "torch.linalg.norm(x)" => |e| e.x.norm(2, ());
    "torch.linalg.vector_norm(x)" => |e| e.x.norm(2, ());
    "x.logsumexp(1)" => |e| e.x.logsumexp(1);
    "x.cumsum(0)" => |e| e.x.cumsum(0);
    "x.softmax(1)" => |e| e.x.softmax(1);
    "F.softmax(x, dim=1)" => |e| e.x.softmax(1);
    "F.log_softmax(x, dim=1)" => |e| e.x.log_softmax(1);
    "x.sort()" => |e| Ok(e.x.sort(-1, false)?.0);
    "x.sort().values" => |e| Ok(e.x.sort(-1, false)?.0);
    "x.topk(2)" => |e| Ok(e.x.topk(2, -1, true)?.0);
    "s.trace()" => |e| e.s.trace();
};

const SHAPING: &[Line] = lines! {
    "x.view(4, 3)" => |e| e.x.view([4, 3]);
    "x.view(-1)" => |e| e.x.view(-1);
    "x.reshape(4, 3)" => |e| e.x.reshape([4, 3]);
    "x.reshape(3, 4)" => |e| e.x.reshape([3, 4]);
    "x.t().reshape(3, 4)" => |e| e.x.t()?.reshape([3, 4]);
    "x.t().reshape(-1)" => |e| e.x.t()?.reshape(-1);
    "x.flatten()" => |e| e.x.flatten(0, -1);
    "b.flatten(1)" => |e| e.b.flatten(1, -1);
    "v.flatten()" => |e| e.v.flatten(0, -1);
    "x.t().flatten()" => |e| e.x.t()?.flatten(0, -1);
    "x.t()" => |e| e.x.t();
    "x.mT" => |e| e.x.mt();
    "v.t()" => |e| e.v.t();
    "x.transpose(0, 1)" => |e| e.x.transpose(0, 1);
    "x.permute(1, 0)" => |e| e.x.permute([1, 0]);
    "x.contiguous()" => |e| e.x.contiguous();
    "x.t().contiguous()" => |e| e.x.t()?.contiguous();
    "x.squeeze()" => |e| e.x.squeeze(());
    "one.squeeze(0)" => |e| e.one.squeeze(0);
    "one.squeeze((0, 2))" => |e| e.one.squeeze([0, 2]);
    "x.unsqueeze(0)" => |e| e.x.unsqueeze(0);
    "x.expand(2, 3, 4)" => |e| e.x.expand([2, 3, 4]);
    "z.expand(2)" => |e| e.z.expand(2);
    "torch.broadcast_to(v, (3, 4))" => |e| e.v.broadcast_to([3, 4]);
    "torch.cat([x, y])" => |e| Tensor::cat(&[&e.x, &e.y], 0);
    "torch.stack([x, y])" => |e| Tensor::stack(&[&e.x, &e.y], 0);
    "x.chunk(2)" => |e| first(e.x.chunk(2, 0));
    "x.split(2)" => |e| first(e.x.split(2, 0));
    "x.split([1, 2])" => |e| first(e.x.split([1, 2], 0));
    "x.unbind(0)" => |e| first(e.x.unbind(0));
    "x[0]" => |e| e.x.i(0);
    "x[0, 1]" => |e| e.x.i((0, 1));
    "x[:, 1]" => |e| e.x.i((.., 1));
    "x[1:]" => |e| e.x.i(1..);
    "x[:]" => |e| e.x.i(..);
    "x[...]" => |e| e.x.i(Ellipsis);
    "x[:, ::2]" => |e| e.x.i((.., step(.., 2)));
    "x[None]" => |e| e.x.i(NewAxis);
    "x[..., 0]" => |e| e.x.i((Ellipsis, 0));
    "x[i]" => |e| e.x.i(&e.i);
    "x[:, i]" => |e| e.x.i((.., &e.i));
    "x[mask]" => |e| e.x.i(&e.mask);
    "x.select(0, 1)" => |e| e.x.select(0, 1);
    "x.narrow(1, 0, 2)" => |e| e.x.narrow(1, 0, 2);
    "x.index_select(0, i)" => |e| e.x.index_select(0, &e.i);
    "x.gather(1, I)" => |e| e.x.gather(1, &e.indices);
    "x.take_along_dim(I, 1)" => |e| e.x.take_along_dim(&e.indices, 1);
    "x.scatter(1, I[:, :1], y)" => |e| e.x.scatter(1, &e.indices.narrow(1, 0, 1)?, &e.y);
    "x.scatter(1, I[:, :1], 1.0)" => |e| e.x.scatter(1, &e.indices.narrow(1, 0, 1)?, 1.0);
    "x.scatter_add(1, I, y)" => |e| e.x.scatter_add(1, &e.indices, &e.y);
    "x.masked_fill(mask, 0.0)" => |e| e.x.masked_fill(&e.mask, 0.0);
    "x.masked_select(mask)" => |e| e.x.masked_select(&e.mask);
    "x.flip(0)" => |e| e.x.flip(0);
    "x.roll(1, 0)" => |e| e.x.roll(1, 0);
    "x.roll(1)" => |e| e.x.roll(1, ());
    "x.repeat(2, 1)" => |e| e.x.repeat([2, 1]);
    "x.tril()" => |e| e.x.tril(0);
    "x.triu()" => |e| e.x.triu(0);
    "s.diag()" => |e| e.s.diag(0);
    "v.diag()" => |e| e.v.diag(0);
    "s.diagonal()" => |e| e.s.diagonal(0, 0, 1);
    "F.one_hot(i)" => |e| e.i.one_hot(-1);
};

const PRODUCTS: &[Line] = lines! {
    "x @ m" => |e| e.x.matmul(&e.m);
    "x @ v" => |e| e.x.matmul(&e.v);
    "v @ m" => |e| e.v.matmul(&e.m);
    "v @ u" => |e| e.v.matmul(&e.u);
    "b @ d" => |e| e.b.matmul(&e.d);
    "b @ m" => |e| e.b.matmul(&e.m);
    "x @ d" => |e| e.x.matmul(&e.d);
    "b @ v" => |e| e.b.matmul(&e.v);
    "b @ b.transpose(1, 2)" => |e| e.b.matmul(&e.b.transpose(1, 2)?);
    "torch.matmul(x, m)" => |e| e.x.matmul(&e.m);
    "torch.mm(x, m)" => |e| e.x.mm(&e.m);
    "torch.bmm(b, d)" => |e| e.b.bmm(&e.d);
    "torch.mv(x, v)" => |e| e.x.mv(&e.v);
    "torch.dot(v, u)" => |e| e.v.dot(&e.u);
    "torch.outer(v, u)" => |e| e.v.outer(&e.u);
    "torch.einsum('ij,jk->ik', x, m)" => |e| Tensor::einsum("ij,jk->ik", &[&e.x, &e.m]);
    "torch.einsum('bij,bjk->bik', b, d)" => |e| Tensor::einsum("bij,bjk->bik", &[&e.b, &e.d]);
    "torch.einsum('ij->ji', x)" => |e| Tensor::einsum("ij->ji", &[&e.x]);
    "torch.einsum('ii->i', s)" => |e| Tensor::einsum("ii->i", &[&e.s]);
    "torch.einsum('ii->', s)" => |e| Tensor::einsum("ii->", &[&e.s]);
    "torch.einsum('i,j->ij', v, u)" => |e| Tensor::einsum("i,j->ij", &[&e.v, &e.u]);
    "F.linear(x, W)" => |e| e.x.linear(&e.w, None);
    "F.linear(x, W, bias)" => |e| e.x.linear(&e.w, Some(&e.bias));
    "F.linear(v, W)" => |e| e.v.linear(&e.w, None);
    "F.linear(v, W, bias)" => |e| e.v.linear(&e.w, Some(&e.bias));
    "F.linear(b, W)" => |e| e.b.linear(&e.w, None);
    "F.linear(b, W, bias)" => |e| e.b.linear(&e.w, Some(&e.bias));
    "F.binary_cross_entropy_with_logits(x, target)" => |e| e.pointwise_loss(PointwiseLossKind::BceWithLogits, Reduction::Mean);
    "F.mse_loss(x, target)" => |e| e.pointwise_loss(PointwiseLossKind::Mse, Reduction::Mean);
    "F.mse_loss(x, target, reduction='none')" => |e| e.pointwise_loss(PointwiseLossKind::Mse, Reduction::None);
    "F.l1_loss(x, target)" => |e| e.pointwise_loss(PointwiseLossKind::L1, Reduction::Mean);
    "F.cross_entropy(x, labels)" => |e| e.class_loss(&e.labels, ClassLossInput::Logits, Reduction::Mean, 0.0);
    "F.cross_entropy(x, labels, label_smoothing=0.1)" => |e| e.class_loss(&e.labels, ClassLossInput::Logits, Reduction::Mean, 0.1);
    "F.cross_entropy(x, target)" => |e| e.class_loss(&e.target, ClassLossInput::Logits, Reduction::Mean, 0.0);
    "F.cross_entropy(x, labels, reduction='none')" => |e| e.class_loss(&e.labels, ClassLossInput::Logits, Reduction::None, 0.0);
    "F.cross_entropy(x, labels, reduction='sum')" => |e| e.class_loss(&e.labels, ClassLossInput::Logits, Reduction::Sum, 0.0);
    "F.nll_loss(x, labels)" => |e| e.class_loss(&e.labels, ClassLossInput::LogProbs, Reduction::Mean, 0.0);
    "F.nll_loss(x, labels, reduction='none')" => |e| e.class_loss(&e.labels, ClassLossInput::LogProbs, Reduction::None, 0.0);
};

const IN_PLACE: &[Line] = lines! {
    "x.clone().add_(1)" => |e| changed(&e.x, |t| t.add_(1));
    "x.clone().mul_(2)" => |e| changed(&e.x, |t| t.mul_(2));
    "x.clone().sub_(y)" => |e| changed(&e.x, |t| t.sub_(&e.y));
    "x.clone().div_(2)" => |e| changed(&e.x, |t| t.div_(2));
    "x.clone().zero_()" => |e| changed(&e.x, Tensor::zero_);
    "x.clone().fill_(1.0)" => |e| changed(&e.x, |t| t.fill_(1.0));
    "x.clone().copy_(y)" => |e| changed(&e.x, |t| t.copy_(&e.y));
    "x.clone().clamp_(0, 1)" => |e| changed(&e.x, |t| t.clamp_(0, 1));
    "x.clone().masked_fill_(mask, 0.0)" => |e| changed(&e.x, |t| t.masked_fill_(&e.mask, 0.0));
    "x.clone().t_()" => |e| {
        let mut t = e.x.copy()?;
        t.t_()?;
        Ok(t)
    };
    "x.clone().detach_()" => |e| Ok(e.x.copy()?.detach());
    "torch.zeros(3, 4).add_(x)" => |e| {
        let t = Tensor::zeros([3, 4], Device::Cpu)?;
        t.add_(&e.x)?;
        Ok(t)
    };
    "torch.zeros(3, 4).copy_(x)" => |e| {
        let t = Tensor::zeros([3, 4], Device::Cpu)?;
        t.copy_(&e.x)?;
        Ok(t)
    };
};

/// Names that are others in Kiln: PyTorch's composes these of several operations and shows the last one, where
/// Kiln has one; and the last three, of operations that it writes otherwise.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("2 ** x", "PowBackward1"),
    ("F.cross_entropy(x, labels, label_smoothing=0.1)", "NllLossBackward0"),
    ("F.cross_entropy(x, target)", "CrossEntropyBackward0"),
    ("F.dropout(x, 0.5)", "NativeDropoutBackward0"),
    ("F.l1_loss(x, target)", "L1LossBackward0"),
    ("F.linear(b, W)", "ViewBackward0"),
    ("F.linear(b, W, bias)", "ViewBackward0"),
    ("F.linear(v, W)", "ViewBackward0"),
    ("F.linear(v, W, bias)", "ViewBackward0"),
    ("b @ b.transpose(1, 2)", "BmmBackward0"),
    ("b @ d", "BmmBackward0"),
    ("b @ m", "BmmBackward0"),
    ("b @ v", "SqueezeBackward1"),
    ("v @ m", "SqueezeBackward1"),
    ("x // 2", "DivBackward2"),
    ("x @ d", "BmmBackward0"),
    ("x.clone().t_()", "TBackward0"),
];

/// Expressions for things that `kiln-tensor` does not have.
const ABSENT: &[&str] = &[
    // Modules are in kiln-nn.
    "torch.nn.*",
    "torch.addmm(bias, x, m)",
    "x.T",
    "F.binary_cross_entropy(x, target)",
    "F.smooth_l1_loss(x, target)",
    "F.huber_loss(x, target)",
    "F.layer_norm(x, (4,))",
    "F.embedding(i, x)",
    // In place.
    "x.clone().neg_()",
    "x.clone().exp_()",
    "x.clone().relu_()",
    "x.clone().pow_(2)",
    "x.clone().squeeze_()",
];

fn is_absent(expression: &str) -> bool {
    ABSENT.iter().any(|&name| name.strip_suffix('*').map_or(name == expression, |start| expression.starts_with(start)))
}

#[test]
fn nodes_are_named_as_in_pytorch() {
    let file = golden::json("autograd.json");
    let scope = Scope::new().unwrap();
    let lines: Vec<Line> = [ARITHMETIC, REDUCING, SHAPING, PRODUCTS, IN_PLACE].concat();
    let mut failures = Vec::new();
    for (expression, want) in file["grad_fns"].as_object().unwrap() {
        let Some((_, call)) = lines.iter().find(|(python, _)| python == expression) else {
            if !is_absent(expression) {
                failures.push(format!("{expression}: no line for it"));
            }
            continue;
        };
        let got = match call(&scope) {
            Ok(tensor) => tensor.grad_fn().map(|node| node.name().to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let (got, want) = (got.as_deref().unwrap_or("none"), want.as_str().unwrap_or("none"));
        let other = OTHER_NAMES.iter().find(|(python, _)| python == expression).map(|(_, name)| *name);
        match other {
            Some(other) if other == want => failures.push(format!("{expression}: {want} is no exception")),
            _ if got != other.unwrap_or(want) => failures.push(format!("{expression}: {got}, expected {want}")),
            _ => {}
        }
    }
    assert!(failures.is_empty(), "{} names differ:\n{}", failures.len(), failures.join("\n"));
}
