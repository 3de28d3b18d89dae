//! Derives training graphs from small ONNX files, and checks them against an interpreter with 64-bit floats.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]
#![expect(clippy::type_complexity, reason = "tables of cases are read by their columns")]

mod bad_models;
mod build;
mod files;
mod interpret;
mod maps;
mod operators;
mod rules;
mod spatial;
mod windows;

/// A small generator of numbers that look random (Marsaglia's xorshift), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Uniform in [0, 1).
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` numbers between −1 and 1.
    fn vector(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| 2.0 * self.uniform() - 1.0).collect()
    }
}
