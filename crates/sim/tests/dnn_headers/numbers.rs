//! The numbers and names that the simulator has from NVIDIA's headers.
use std::process::Command;
use std::{env, fs};

use kiln_sim::types::*;
use kiln_sim::{DnnStatus, KINDS};

use crate::libraries::{exported, simulator, wheels};

/// Names of the library's enums with the numbers that the simulator has for them.
const NUMBERS: [(&str, u32); 57] = [
    ("CUDNN_STATUS_SUCCESS", DnnStatus::SUCCESS.0),
    ("CUDNN_STATUS_NOT_INITIALIZED", DnnStatus::NOT_INITIALIZED.0),
    ("CUDNN_STATUS_BAD_PARAM", DnnStatus::BAD_PARAM.0),
    ("CUDNN_STATUS_BAD_PARAM_NULL_POINTER", DnnStatus::NULL_POINTER.0),
    ("CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER", DnnStatus::MISALIGNED_POINTER.0),
    ("CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED", DnnStatus::NOT_FINALIZED.0),
    ("CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE", DnnStatus::BAD_ATTRIBUTE_TYPE.0),
    ("CUDNN_STATUS_NOT_SUPPORTED", DnnStatus::NOT_SUPPORTED.0),
    ("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", DnnStatus::ALLOC_FAILED.0),
    ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", DnnStatus::DEVICE_ALLOCATION_FAILED.0),
    ("CUDNN_STATUS_EXECUTION_FAILED", DnnStatus::EXECUTION_FAILED.0),
    ("CUDNN_DATA_FLOAT", 0),
    ("CUDNN_DATA_DOUBLE", 1),
    ("CUDNN_DATA_HALF", 2),
    ("CUDNN_DATA_BFLOAT16", 9),
    ("CUDNN_DATA_INT32", 4),
    ("CUDNN_DATA_BOOLEAN", 11),
    ("CUDNN_CONVOLUTION", 0),
    ("CUDNN_CROSS_CORRELATION", 1),
    ("CUDNN_POINTWISE_ADD", 0),
    ("CUDNN_POINTWISE_MUL", 1),
    ("CUDNN_POINTWISE_DIV", 6),
    ("CUDNN_POINTWISE_SUB", 9),
    ("CUDNN_POINTWISE_EXP", 13),
    ("CUDNN_POINTWISE_LOG", 15),
    ("CUDNN_POINTWISE_IDENTITY", 21),
    ("CUDNN_POINTWISE_CMP_GE", 303),
    ("CUDNN_POINTWISE_GEN_INDEX", 501),
    ("CUDNN_POINTWISE_BINARY_SELECT", 601),
    ("CUDNN_POINTWISE_RELU_FWD", 100),
    ("CUDNN_POINTWISE_RELU_BWD", 200),
    ("CUDNN_REDUCE_TENSOR_ADD", 0),
    ("CUDNN_REDUCE_TENSOR_MAX", 3),
    ("CUDNN_HEUR_MODE_A", 3),
    ("CUDNN_HEUR_MODE_FALLBACK", 2),
    ("CUDNN_NUMERICAL_NOTE_TENSOR_CORE", 0),
    ("CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS", 1),
    ("CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION", 2),
    ("CUDNN_NUMERICAL_NOTE_FFT", 3),
    ("CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC", 4),
    ("CUDNN_NUMERICAL_NOTE_WINOGRAD", 5),
    ("CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION", 0),
    ("CUDNN_BEHAVIOR_NOTE_SUPPORTS_CUDA_GRAPH_NATIVE_API", 3),
    ("CUDNN_TYPE_HANDLE", HANDLE),
    ("CUDNN_TYPE_DATA_TYPE", DATA_TYPE),
    ("CUDNN_TYPE_BOOLEAN", BOOLEAN),
    ("CUDNN_TYPE_INT64", INT64),
    ("CUDNN_TYPE_FLOAT", FLOAT),
    ("CUDNN_TYPE_DOUBLE", DOUBLE),
    ("CUDNN_TYPE_VOID_PTR", POINTER),
    ("CUDNN_TYPE_CONVOLUTION_MODE", CONVOLUTION_MODE),
    ("CUDNN_TYPE_HEUR_MODE", HEURISTIC_MODE),
    ("CUDNN_TYPE_NUMERICAL_NOTE", NUMERICAL_NOTE),
    ("CUDNN_TYPE_POINTWISE_MODE", POINTWISE_MODE),
    ("CUDNN_TYPE_BACKEND_DESCRIPTOR", DESCRIPTOR),
    ("CUDNN_TYPE_BEHAVIOR_NOTE", BEHAVIOR_NOTE),
    ("CUDNN_TYPE_REDUCTION_OPERATOR_TYPE", REDUCTION_OPERATOR_TYPE),
];

/// A C program that states what the simulator takes the headers to say, and refers to every function that it has.
#[test]
fn numbers_and_names_are_those_of_the_headers() {
    let Some([dnn, toolkit]) = wheels() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut text = String::from("#include <cudnn.h>\n#include <stddef.h>\n");
    let mut hold = |claim: String| text += &format!("_Static_assert({claim}, \"{claim}\");\n");
    for (name, number) in NUMBERS {
        hold(format!("{name} == {number}"));
    }
    for (kind, name, _, attributes) in KINDS {
        hold(format!("CUDNN_BACKEND_{name} == {}", *kind as u32));
        for (name, number, ..) in *attributes {
            hold(format!("CUDNN_ATTR_{name} == {number}"));
        }
    }
    text += "const void *functions[] = {\n";
    exported().iter().for_each(|name| text += &format!("    (const void *)&{name},\n"));
    text += "};\nint main(void) {\n";
    text += "    for (unsigned i = 0; i < sizeof functions / sizeof *functions; ++i) if (!functions[i]) return 1;\n";
    text += "    cudnnBackendDescriptor_t tensor;\n";
    text += "    if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_TENSOR_DESCRIPTOR, &tensor)) return 2;\n";
    text += "    return cudnnGetVersion() < 90000 || cudnnBackendDestroyDescriptor(tensor);\n}\n";
    let (source, program) = (folder.path().join("names.c"), folder.path().join("names"));
    fs::write(&source, text).unwrap();
    let mut command = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    command.arg(&source).arg("-w");
    [&dnn, &toolkit].iter().for_each(|wheel| _ = command.arg("-I").arg(wheel.join("include")));
    let library = simulator();
    command.arg(&library).arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    let output = command.arg("-o").arg(&program).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Command::new(&program).status().unwrap().success());
}
