//! The targets of `tests/fuzz` under libFuzzer, with a count of what each input allocates.
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

#[path = "../../tests/fuzz/targets/mod.rs"]
pub mod targets;

/// The system's allocator, which counts.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size.saturating_sub(layout.size()), Relaxed);
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        unsafe { System.dealloc(old, layout) }
    }
}

/// Runs one input, and checks what it allocated in all against what its target may.
pub fn run(name: &str, input: &[u8]) {
    let target = targets::target(name);
    let before = ALLOCATED.load(Relaxed);
    (target.run)(input);
    let allocated = ALLOCATED.load(Relaxed) - before;
    let (base, each) = target.allocates;
    let most = base + each * input.len();
    // What is made once for a thread is not the input's.
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let first = RUNS.fetch_add(1, Relaxed) == 0;
    assert!(first || allocated <= most, "{name}: {allocated} bytes allocated for {} of input", input.len());
}
