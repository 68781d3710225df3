//! Segments: which rows of a packed matrix belong to which prompt.

/// A run of rows: positions `first ..+ len` of one prompt, belonging to one item (a cell of a pair) of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub item: usize,
    pub prompt: usize,
    pub first: usize,
    pub len: usize,
}

/// Rows of all segments together.
pub fn n_rows(segments: &[Segment]) -> usize {
    segments.iter().map(|s| s.len).sum()
}

/// (prompt, position) of every row.
pub fn places(segments: &[Segment]) -> Vec<(usize, usize)> {
    segments.iter().flat_map(|s| (s.first..s.first + s.len).map(|p| (s.prompt, p))).collect()
}

pub(super) fn first_row(segments: &[Segment], index: usize) -> usize {
    n_rows(&segments[..index])
}

/// The rows of `segments` that `live` keeps.
pub(super) fn living_rows(segments: &[Segment], live: &[Segment]) -> Vec<u32> {
    let mut rows = Vec::with_capacity(n_rows(live));
    let mut at = 0;
    for (s, l) in segments.iter().zip(live) {
        rows.extend((at + s.len - l.len..at + s.len).map(|r| r as u32));
        at += s.len;
    }
    rows
}
