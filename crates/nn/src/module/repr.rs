//! Printing a module as PyTorch does (`torch.nn.Module.__repr__`).

use std::fmt::{self, Write};

use super::{
    Module,
    tree::{ModuleTree, Part},
};

fn repr(module: &dyn ModuleTree) -> String {
    let extra = module.extra_repr();
    let mut lines: Vec<String> = extra.lines().map(str::to_owned).collect();
    let mut children: Vec<(String, String)> = Vec::new();
    module.visit(&mut |name, part| match part {
        Part::Module(child) => children.push((name.to_owned(), repr(child))),
        Part::Parameter(parameter) if module.folds_equal_children() => {
            let (dtype, dims) = (parameter.dtype().torch_name(), parameter.dims());
            let size: Vec<String> = dims.iter().map(ToString::to_string).collect();
            lines.push(format!("({name}): Parameter containing: [torch.{dtype} of size {}]", size.join("x")));
        }
        _ => {}
    });
    let mut out = format!("{}(", module.type_name());
    if children.is_empty() && lines.len() == 1 && !extra.is_empty() {
        out += &lines[0];
    } else {
        lines.extend(child_lines(&children, module.folds_equal_children()));
        for line in &lines {
            out += "\n  ";
            out += &line.replace('\n', "\n  ");
        }
        if !lines.is_empty() {
            out.push('\n');
        }
    }
    out.push(')');
    out
}

/// One text per child; with `fold`, neighbors with equal text are merged to `(0-2): 3 x …`.
fn child_lines(children: &[(String, String)], fold: bool) -> Vec<String> {
    let same = |a: &(String, String), b: &(String, String)| fold && a.1 == b.1;
    let line = |run: &[(String, String)]| match run {
        [] => String::new(),
        [(name, text)] => format!("({name}): {text}"),
        [(first, text), .., (last, _)] => {
            let mut line = String::new();
            // Writing to a string cannot fail.
            let _ = write!(line, "({first}-{last}): {} x {text}", run.len());
            line
        }
    };
    children.chunk_by(same).map(line).collect()
}

macro_rules! display {
    ($($ty:ty)*) => {$(
        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&repr(self.as_tree()))
            }
        }
        impl fmt::Debug for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&repr(self.as_tree()))
            }
        }
    )*};
}
display!(dyn ModuleTree + '_ dyn Module + '_);
