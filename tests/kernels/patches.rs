//! patch.cu: rows from one matrix to another, the patch table, and what differs.

use crate::support::*;
use patchwave::backend::cuda::Precision;
use patchwave::backend::{Backend, Combine, PatchEntry, PatchSource, RowIndex};

#[test]
fn rows_are_copied_added_and_subtracted_by_index() {
    let (rows, cols) = (9, 41);
    let (src, dst) = (random(1, rows * cols), random(2, rows * cols));
    let (from, to) = ([8u32, 3, 3, 0], [1u32, 7, 2, 4]);
    for combine in [Combine::Set, Combine::Add, Combine::Subtract] {
        for (from, to) in [
            (RowIndex::List(&from), RowIndex::List(&to)),
            (RowIndex::All, RowIndex::All),
            (RowIndex::All, RowIndex::List(&to)),
        ] {
            let got = everywhere(Precision::Ffma, |gpu| {
                let (src, mut dst) = (Askew::new(gpu, &src, rows, cols), Askew::new(gpu, &dst, rows, cols));
                gpu.copy_rows(src.view(), from, dst.view_mut(), to, combine, 0.5);
                dst.read(gpu)
            });
            let mut want = wide(&dst);
            let pick = |list: RowIndex<'_>, i: usize| match list {
                RowIndex::All => i,
                RowIndex::List(l) => l[i] as usize,
            };
            let n = if let RowIndex::List(l) = to { l.len() } else { rows };
            for i in 0..n {
                for c in 0..cols {
                    let v = 0.5 * src[pick(from, i) * cols + c] as f64;
                    let out = &mut want[pick(to, i) * cols + c];
                    *out = match combine {
                        Combine::Set => v,
                        Combine::Add => *out + v,
                        Combine::Subtract => *out - v,
                    };
                }
            }
            assert_close(&got, &want, 1e-7, &format!("{combine:?}"));
        }
    }
}

/// The later of two entries that overlap wins, and only rectangles are written.
#[test]
fn the_patch_table_writes_rectangles_in_order() {
    let (rows, cols) = (10, 300);
    let (x, values) = (random(3, rows * cols), random(4, 6 * cols));
    let table = [
        PatchEntry { rows: 2..5, cols: 0..300, value: PatchSource::Row(3) },
        PatchEntry { rows: 4..9, cols: 17..270, value: PatchSource::Zero },
        PatchEntry { rows: 8..9, cols: 260..264, value: PatchSource::Row(0) },
        PatchEntry { rows: 0..0, cols: 1..5, value: PatchSource::Zero },
        PatchEntry { rows: 3..7, cols: 100..101, value: PatchSource::Row(1) },
        PatchEntry { rows: 1..5, cols: 0..33, value: PatchSource::AddRow(2) },
        PatchEntry { rows: 0..10, cols: 31..258, value: PatchSource::Scale(-1.5) },
        PatchEntry { rows: 9..10, cols: 0..1, value: PatchSource::Scale(0.0) },
    ];
    let got = everywhere(Precision::Ffma, |gpu| {
        let (mut x, values) = (Askew::new(gpu, &x, rows, cols), Askew::new(gpu, &values, 6, cols));
        gpu.patch(x.view_mut(), &table, Some(values.view()));
        gpu.patch(x.view_mut(), &[], None);
        x.read(gpu)
    });
    let mut want = x.clone();
    for e in &table {
        for r in e.rows.clone() {
            for c in e.cols.clone() {
                let x = &mut want[r * cols + c];
                let value = |first: usize| values[(first + r - e.rows.start) * cols + c];
                *x = match e.value {
                    PatchSource::Zero => 0.0,
                    PatchSource::Row(first) => value(first),
                    PatchSource::AddRow(first) => *x + value(first),
                    PatchSource::Scale(factor) => *x * factor,
                };
            }
        }
    }
    assert_eq!(got, want);
}

#[test]
fn slices_that_differ_are_found_as_numbers() {
    let (rows, heads, width) = (7, 3, 34);
    let cols = heads * width;
    let a = random(5, rows * cols);
    let mut b = a.clone();
    b[2 * cols + width + 33] += 1e-3;
    b[6 * cols] = f32::NAN;
    let mut zeros = vec![0.0; rows * cols];
    zeros[cols] = -0.0;
    zeros[3 * cols + 2 * width] = 1e-40;
    let flags = |x: &[f32], y: Option<&[f32]>| {
        everywhere(Precision::Ffma, |gpu| {
            let x = Askew::new(gpu, x, rows, cols);
            let y = y.map(|y| Askew::new(gpu, y, rows, cols));
            let flags = gpu.differs(x.view(), y.as_ref().map(|y| y.view()), heads);
            flags.into_iter().map(|f| f as u8 as f32).collect()
        })
    };
    let set = |f: Vec<f32>| f.iter().enumerate().filter(|(_, f)| **f != 0.0).map(|(i, _)| i).collect::<Vec<_>>();
    assert_eq!(set(flags(&a, Some(&b))), [2 * heads + 1, 6 * heads]);
    assert_eq!(set(flags(&zeros, None)), [3 * heads + 2]);
    assert_eq!(set(flags(&a, None)).len(), rows * heads);
}
