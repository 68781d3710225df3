//! A capture holds one batch and no more, however many prompts there are: counted by the allocator.

mod support;

use patchwave::capture::{Asked, Hook, Plan, SafetensorsFile, StoreAs, WhichRun, capture};
use patchwave::engine::Site;
use patchwave::sweep::Limits;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a count of what is held and of the most that was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn ten_times_the_prompts_take_no_more_memory() {
    let model = support::load(support::random_spec(2), 2);
    let hooks = [Hook::Logits].into_iter().chain([Site::ResidPost, Site::MlpPost, Site::Q].map(Hook::Site)).collect();
    let asked = Asked {
        runs: vec![WhichRun::Clean, WhichRun::Corrupted],
        hooks,
        layers: None,
        positions: None,
        store_as: StoreAs::Float32,
    };
    let limits = Limits { max_rows: 40, cache_bytes: 1 << 20 };
    let folder = tempfile::tempdir().unwrap();
    let peak_and_file = |n: usize| {
        let pairs = support::random_pairs(5, n, model.spec.d_vocab);
        let plan = Plan::new(&model.spec, &pairs, asked.clone(), vec![]).unwrap();
        let path = folder.path().join(n.to_string());
        let store = Box::new(SafetensorsFile::create(&path, &plan).unwrap());
        let before = HELD.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        capture(&model, &pairs, &plan, store, limits, &mut |_| ControlFlow::Continue(())).unwrap();
        let held = MOST.load(Ordering::Relaxed) - before;
        let on_disk = std::fs::metadata(&path).unwrap().len() as usize;
        std::fs::remove_file(path).unwrap();
        (held, on_disk)
    };
    // Once, for what is allocated once.
    peak_and_file(40);
    let (few, small) = peak_and_file(40);
    let (many, large) = peak_and_file(400);
    assert!(large > 9 * small && large > 1_000_000, "{small} and {large} bytes on disk");
    assert!(many < few + (large - small) / 10, "40 pairs held {few} bytes, 400 pairs {many}, for a file of {large}");
}
