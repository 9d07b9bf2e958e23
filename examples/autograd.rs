//! PyTorch's autograd tutorial
//! (<https://docs.pytorch.org/tutorials/beginner/basics/autogradqs_tutorial.html>), step by step.
//!
//! ```text
//! cargo run --release --example autograd
//! ```

use clap::Parser;
use kiln::{autograd, nn::functional::binary_cross_entropy_with_logits, prelude::*};

/// Goes through PyTorch's autograd tutorial, and prints the same: gradient functions, the graph of a loss, gradients.
#[derive(Parser)]
struct Args {}

fn main() -> kiln::Result<()> {
    Args::parse();
    // # Tensors, functions and the computational graph
    let device = Device::cuda_if_available();
    let x = Tensor::ones(5, device)?; // input tensor
    let y = Tensor::zeros(3, device)?; // expected output
    let w = Tensor::randn([5, 3], device)?.requires_grad_(true)?;
    let b = Tensor::randn(3, device)?.requires_grad_(true)?;
    let z = x.matmul(&w)?.add(&b)?;
    let loss = binary_cross_entropy_with_logits(&z, &y)?;

    println!("Gradient function for z = {}", name_of(&z));
    println!("Gradient function for loss = {}", name_of(&loss));
    print!("{}", autograd::graph_text(&loss));

    // # Computing gradients
    println!("{}", shown(w.grad()));
    loss.backward_retain_graph()?;
    println!("{}", shown(w.grad()));
    println!("{}", shown(b.grad()));
    loss.backward()?;
    println!("after a second call: {}", shown(b.grad()));
    // The graph is freed now. Python prints this as an exception.
    if let Err(error) = loss.backward() {
        println!("{error}");
    }

    // # Disabling gradient tracking
    let z = x.matmul(&w)?.add(&b)?;
    println!("{}", truth(z.requires_grad()));
    let z = no_grad(|| x.matmul(&w)?.add(&b))?;
    println!("{}", truth(z.requires_grad()));

    let z = x.matmul(&w)?.add(&b)?;
    let z_det = z.detach();
    println!("{}", truth(z_det.requires_grad()));

    // # Tensor gradients and Jacobian products
    let inp = Tensor::eye(5, device)?.requires_grad_(true)?;
    let out = inp.add(1)?.pow(2)?;
    println!("{}", name_of(&out));
    let retain = autograd::BackwardOptions::retain_graph();
    out.backward_with(&inp.ones_like()?, retain)?;
    println!("First call\n{}", shown(inp.grad()));
    out.backward_with(&inp.ones_like()?, retain)?;
    println!("\nSecond call\n{}", shown(inp.grad()));
    if let Some(grad) = inp.grad() {
        grad.zero_()?;
    }
    out.backward_with(&inp.ones_like()?, retain)?;
    println!("\nCall after zeroing gradients\n{}", shown(inp.grad()));

    // # Gradients accumulate until they are zeroed
    let x = Tensor::ones([2, 2], device)?.requires_grad_(true)?;
    let y = x.sum(())?;
    for _ in 0..3 {
        y.backward_retain_graph()?;
        println!("{}", shown(x.grad()));
    }
    x.zero_grad();
    println!("{}", shown(x.grad()));
    y.backward()?;
    println!("{}", shown(x.grad()));
    Ok(())
}

fn name_of(tensor: &Tensor) -> String {
    tensor.grad_fn().map_or_else(|| "None".to_owned(), |grad_fn| format!("<{}>", grad_fn.name()))
}

fn shown(grad: Option<Tensor>) -> String {
    grad.map_or_else(|| "None".to_owned(), |grad| grad.to_string())
}

fn truth(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}
