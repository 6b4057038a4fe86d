//! libFuzzer with the target that `CORACLE_FUZZ_TARGET` names: `fuzz/run` sets it.
#![no_main]
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

#[path = "../../tests/fuzz/targets/mod.rs"]
mod targets;

use targets::Target;

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

static TARGET: OnceLock<&Target> = OnceLock::new();

fn chosen() -> &'static Target {
    let name = std::env::vars().find(|(name, _)| name == "CORACLE_FUZZ_TARGET").expect("CORACLE_FUZZ_TARGET is set").1;
    targets::target(&name)
}

/// Bytes that are allocated meanwhile.
fn allocated_by(run: impl FnOnce()) -> usize {
    let before = ALLOCATED.load(Relaxed);
    run();
    ALLOCATED.load(Relaxed) - before
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let target = TARGET.get_or_init(chosen);
    let (base, each) = target.allocates;
    let most = base + each * input.len();
    let mut allocated = allocated_by(|| (target.run)(input));
    if allocated > most {
        // What is made once, and what other threads do, is not an input's.
        allocated = allocated_by(|| (target.run)(input));
    }
    assert!(allocated <= most, "{}: {allocated} bytes allocated for {} of input", target.name, input.len());
});
