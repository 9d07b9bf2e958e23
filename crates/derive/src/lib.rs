//! kiln-derive
