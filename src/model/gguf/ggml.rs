//! ggml's tensor types and how each block of them widens to float32.
//!
//! The formulas and the order of their roundings are those of `gguf.quants` (the reference implementation in Python,
//! <https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/quants.py>), so that the results are the same bit for
//! bit: products and sums are rounded one by one, never fused.

use half::{bf16, f16};
use std::fmt::Write;

/// Numbers in a super-block of the K types.
const K: usize = 256;

/// The tensor types that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

use GgmlType::*;

/// `(id, type, name, numbers in a block, bytes of a block)`; ids of `enum ggml_type`.
const READABLE: [(u32, GgmlType, &str, usize, usize); 11] = [
    (0, F32, "F32", 1, 4),
    (1, F16, "F16", 1, 2),
    (30, BF16, "BF16", 1, 2),
    (8, Q8_0, "Q8_0", 32, 34),
    (2, Q4_0, "Q4_0", 32, 18),
    (3, Q4_1, "Q4_1", 32, 20),
    (6, Q5_0, "Q5_0", 32, 22),
    (7, Q5_1, "Q5_1", 32, 24),
    (12, Q4K, "Q4_K", K, 144),
    (13, Q5K, "Q5_K", K, 176),
    (14, Q6K, "Q6_K", K, 210),
];

/// Names of the other ids, for messages.
const OTHERS: [(u32, &str); 24] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (4, "Q4_2 (withdrawn)"),
    (5, "Q4_3 (withdrawn)"),
];

impl GgmlType {
    pub fn from_id(id: u32) -> Option<Self> {
        READABLE.iter().find(|r| r.0 == id).map(|r| r.1)
    }

    /// A name for any id, readable or not.
    pub fn describe(id: u32) -> String {
        match OTHERS.iter().find(|o| o.0 == id) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("number {id}, which patchwave has not heard of"),
        }
    }

    pub fn all_names() -> String {
        READABLE.iter().fold(String::new(), |mut list, r| {
            let _ = write!(list, "{}{}", if list.is_empty() { "" } else { ", " }, r.2);
            list
        })
    }

    fn row(self) -> &'static (u32, GgmlType, &'static str, usize, usize) {
        &READABLE[READABLE.iter().position(|r| r.1 == self).unwrap_or(0)]
    }

    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Numbers in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        (self.row().3, self.row().4)
    }

    /// Widens whole blocks: `out` has exactly as many numbers as `bytes` packs.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            F32 => each(bytes, out, |b: &[u8; 4], o: &mut [f32; 1]| o[0] = f32::from_le_bytes(*b)),
            F16 => each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = half(b, 0)),
            BF16 => each(bytes, out, |b: &[u8; 2], o: &mut [f32; 1]| o[0] = bf16::from_le_bytes(*b).to_f32()),
            Q8_0 => each(bytes, out, q8_0),
            Q4_0 => each(bytes, out, q4_0),
            Q4_1 => each(bytes, out, q4_1),
            Q5_0 => each(bytes, out, q5_0),
            Q5_1 => each(bytes, out, q5_1),
            Q4K => each(bytes, out, q4_k),
            Q5K => each(bytes, out, q5_k),
            Q6K => each(bytes, out, q6_k),
        }
    }
}

fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn(&[u8; B], &mut [f32; N])) {
    let (blocks, rest) = bytes.as_chunks::<B>();
    let (numbers, odd) = out.as_chunks_mut::<N>();
    assert!(blocks.len() == numbers.len() && rest.is_empty() && odd.is_empty(), "not whole blocks");
    for (block, numbers) in blocks.iter().zip(numbers) {
        widen(block, numbers);
    }
}

/// The float16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// w = q · d
fn q8_0(b: &[u8; 34], out: &mut [f32; 32]) {
    let d = half(b, 0);
    for (o, q) in out.iter_mut().zip(&b[2..]) {
        *o = f32::from(*q as i8) * d;
    }
}

/// The 32 four-bit numbers of 16 bytes: low halves first, then high halves.
fn nibbles(qs: &[u8]) -> impl Iterator<Item = u8> {
    qs.iter().map(|q| q & 15).chain(qs.iter().map(|q| q >> 4))
}

/// w = d · (q − 8)
fn q4_0(b: &[u8; 18], out: &mut [f32; 32]) {
    let d = half(b, 0);
    for (o, q) in out.iter_mut().zip(nibbles(&b[2..])) {
        *o = d * (f32::from(q) - 8.0);
    }
}

/// w = d · q + m
fn q4_1(b: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (o, q) in out.iter_mut().zip(nibbles(&b[4..])) {
        *o = d * f32::from(q) + m;
    }
}

/// The 32 five-bit numbers whose high bits are the 32 bits of `high`.
fn five_bits(high: &[u8], qs: &[u8]) -> impl Iterator<Item = u8> {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    nibbles(qs).zip(0..).map(move |(q, i)| q | ((high >> i & 1) as u8) << 4)
}

/// w = d · (q − 16)
fn q5_0(b: &[u8; 22], out: &mut [f32; 32]) {
    let d = half(b, 0);
    for (o, q) in out.iter_mut().zip(five_bits(&b[2..6], &b[6..])) {
        *o = d * (f32::from(q) - 16.0);
    }
}

/// w = d · q + m
fn q5_1(b: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half(b, 0), half(b, 2));
    for (o, q) in out.iter_mut().zip(five_bits(&b[4..8], &b[8..])) {
        *o = d * f32::from(q) + m;
    }
}

/// The scale and the minimum of group `j` (of 8) from 12 bytes: six bits each; groups 4 to 7 have their upper two bits
/// in the spare bits of groups 0 to 3.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// w = (d · scale) · q − (dmin · min), groups of 32
fn q4_k(b: &[u8; 144], out: &mut [f32; K]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let qs = &b[16 + j / 2 * 32..];
        for (o, q) in out.iter_mut().zip(qs) {
            *o = scale * f32::from(q >> (j % 2 * 4) & 15) - min;
        }
    }
}

/// As Q4_K with a fifth bit: bit j of byte i belongs to number i of group j.
fn q5_k(b: &[u8; 176], out: &mut [f32; K]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    let high = &b[16..48];
    for (j, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], j);
        let (scale, min) = (d * scale, dmin * min);
        let qs = &b[48 + j / 2 * 32..];
        for ((o, q), high) in out.iter_mut().zip(qs).zip(high) {
            *o = scale * f32::from(q >> (j % 2 * 4) & 15 | (high >> j & 1) << 4) - min;
        }
    }
}

/// w = (d · scale) · (q − 32), groups of 16. Each half of the block has 64 bytes of low nibbles (32 numbers from the low
/// halves of the first 32 bytes, 32 from the second 32, then the high halves alike) and 32 bytes of two high bits.
fn q6_k(b: &[u8; 210], out: &mut [f32; K]) {
    let d = half(b, 208);
    for (i, o) in out.iter_mut().enumerate() {
        let (part, quarter, k) = (i / 128, i / 32 % 4, i % 32);
        let low = b[part * 64 + quarter % 2 * 32 + k] >> (quarter / 2 * 4) & 15;
        let high = b[128 + part * 32 + k] >> (quarter * 2) & 3;
        let scale = d * f32::from(b[192 + i / 16] as i8);
        *o = scale * (f32::from(low | high << 4) - 32.0);
    }
}
