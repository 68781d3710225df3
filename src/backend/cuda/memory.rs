//! Device memory: one arena of few large blocks, from which every buffer, list and weight is a piece.
//!
//! A piece may be dropped, and its place handed out again, while launches that read it are still to run: the stream
//! runs in order, so whatever writes there next comes after them.
//!
//! [`Memory::reserve`] makes room before a wave; while the arena is [closed](Memory::closed), nothing is asked of the
//! driver, and what does not fit is out of memory. So a wave allocates nothing, and one that needs more than was
//! reserved for it is cut.
//!
//! **Under the emulator's checker** ([`Driver::may_keep_memory`] is false) every piece is an allocation of the driver's
//! own, exactly as long as it was asked for, with bytes that belong to nobody on both sides, and is given back when it
//! is dropped. So an access out of a buffer's bounds, to a buffer that is gone or to a number nobody has written is
//! found as if there were no arena.

use super::driver::{DevicePtr, Driver, DriverError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pieces begin at multiples of this, as allocations of the driver do.
const ALIGN: usize = 256;
/// A block that nobody has sized is half as large as all others together, within these bounds: few blocks, little waste.
const SMALLEST_BLOCK: usize = 1 << 18;
const LARGEST_UNASKED: usize = 64 << 20;

/// The driver and the memory it has given.
pub(super) struct Memory<D: Driver> {
    pub driver: D,
    arena: Mutex<Arena>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Arena {
    /// By address; sizes in bytes.
    blocks: BTreeMap<DevicePtr, usize>,
    /// Free stretches, by address; neighbours are one, but never across blocks.
    free: BTreeMap<DevicePtr, usize>,
    /// Bytes that pieces were denied while the arena was closed: the next reservation asks for as much more.
    denied: usize,
}

impl Arena {
    /// The shortest free stretch that is long enough: long ones stay whole for what needs them.
    fn take(&mut self, bytes: usize) -> Option<DevicePtr> {
        let fits = self.free.iter().filter(|(_, len)| **len >= bytes);
        let (at, len) = fits.min_by_key(|(_, len)| **len).map(|(at, len)| (*at, *len))?;
        self.free.remove(&at);
        if len > bytes {
            self.free.insert(at.offset(bytes), len - bytes);
        }
        Some(at)
    }

    fn give_back(&mut self, at: DevicePtr, mut bytes: usize) {
        let mut start = at;
        let is_block_start = |at: DevicePtr| self.blocks.contains_key(&at);
        let before = self.free.range(..at).next_back().map(|(before, len)| (*before, *len));
        if let Some((before, len)) = before.filter(|(b, len)| b.offset(*len) == at && !is_block_start(at)) {
            (start, bytes) = (before, bytes + len);
        }
        let end = start.offset(bytes);
        if let Some(len) = self.free.get(&end).copied().filter(|_| !is_block_start(end)) {
            self.free.remove(&end);
            bytes += len;
        }
        self.free.insert(start, bytes);
    }

    fn add_block(&mut self, at: DevicePtr, bytes: usize) {
        self.blocks.insert(at, bytes);
        self.free.insert(at, bytes);
    }

    /// Blocks that hold no piece, taken out of the arena.
    fn take_idle(&mut self) -> Vec<DevicePtr> {
        let idle: Vec<DevicePtr> =
            self.blocks.iter().filter(|(at, bytes)| self.free.get(at) == Some(bytes)).map(|(at, _)| *at).collect();
        for at in &idle {
            self.blocks.remove(at);
            self.free.remove(at);
        }
        idle
    }

    fn longest_free(&self) -> usize {
        self.free.values().copied().max().unwrap_or(0)
    }
}

impl<D: Driver> Memory<D> {
    pub fn new(driver: D) -> Arc<Self> {
        Arc::new(Memory { driver, arena: Mutex::default(), closed: AtomicBool::new(false) })
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `len` numbers with undefined contents.
    pub fn numbers<T>(self: &Arc<Self>, len: usize) -> Result<Device<D>, DriverError> {
        let too_many = DriverError::OutOfMemory { bytes: usize::MAX };
        let wanted = len.checked_mul(size_of::<T>()).filter(|b| *b <= usize::MAX / 2).ok_or(too_many)?.max(4);
        let (ptr, bytes) = if self.driver.may_keep_memory() {
            let bytes = wanted.next_multiple_of(ALIGN);
            (self.piece(bytes)?, bytes)
        } else {
            (self.driver.alloc(wanted)?, wanted)
        };
        Ok(Device { memory: self.clone(), ptr, len, bytes })
    }

    fn piece(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
        let mut arena = self.arena();
        if let Some(at) = arena.take(bytes) {
            return Ok(at);
        }
        if self.closed.load(Ordering::Relaxed) {
            arena.denied = arena.denied.saturating_add(bytes);
            return Err(DriverError::OutOfMemory { bytes });
        }
        let all: usize = arena.blocks.values().sum();
        self.grow(&mut arena, bytes, (all / 2).clamp(SMALLEST_BLOCK, LARGEST_UNASKED))?;
        arena.take(bytes).ok_or(DriverError::OutOfMemory { bytes })
    }

    /// One more block, of at least `bytes` and, where there is room, `better`. A full device first gets back what holds
    /// no piece.
    fn grow(&self, arena: &mut Arena, bytes: usize, better: usize) -> Result<(), DriverError> {
        let better = better.max(bytes).next_multiple_of(ALIGN);
        let full = |result: &Result<DevicePtr, DriverError>| matches!(result, Err(DriverError::OutOfMemory { .. }));
        let mut size = better;
        let mut block = self.driver.alloc(size);
        if full(&block) {
            self.release_idle(arena);
            block = self.driver.alloc(size);
        }
        if full(&block) && bytes < better {
            size = bytes;
            block = self.driver.alloc(size);
        }
        arena.add_block(block?, size);
        Ok(())
    }

    fn release_idle(&self, arena: &mut Arena) {
        for block in arena.take_idle() {
            // SAFETY: no piece of it is left.
            unsafe { self.driver.free(block) }
        }
    }

    /// Room for pieces of `bytes` altogether, in one stretch. To be called between waves.
    pub fn reserve(&self, bytes: usize) -> Result<(), DriverError> {
        if !self.driver.may_keep_memory() {
            return Ok(());
        }
        let mut arena = self.arena();
        let bytes = bytes.saturating_add(arena.denied).checked_next_multiple_of(ALIGN).filter(|b| *b <= usize::MAX / 2);
        let bytes = bytes.ok_or(DriverError::OutOfMemory { bytes: usize::MAX })?;
        if arena.longest_free() < bytes {
            // Otherwise what was reserved for smaller waves would stay beside what replaces it.
            self.release_idle(&mut arena);
            self.grow(&mut arena, bytes, bytes)?;
        }
        arena.denied = 0;
        Ok(())
    }

    /// Does `work` with what memory there is.
    pub fn closed<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Reopen<'a>(&'a AtomicBool);
        impl Drop for Reopen<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        self.closed.store(true, Ordering::Relaxed);
        let _reopen = Reopen(&self.closed);
        work()
    }

    fn give_back(&self, ptr: DevicePtr, bytes: usize) {
        if self.driver.may_keep_memory() {
            self.arena().give_back(ptr, bytes);
        } else {
            // SAFETY: the buffer that owned it is being dropped, and launches on the stream have run.
            unsafe { self.driver.free(ptr) }
        }
    }
}

impl<D: Driver> Drop for Memory<D> {
    fn drop(&mut self) {
        // Every buffer holds the memory alive, so none is left.
        let arena = std::mem::take(self.arena.get_mut().unwrap_or_else(PoisonError::into_inner));
        for block in arena.blocks.into_keys() {
            // SAFETY: no piece of it is left.
            unsafe { self.driver.free(block) }
        }
    }
}

/// A piece of device memory.
pub struct Device<D: Driver> {
    memory: Arc<Memory<D>>,
    ptr: DevicePtr,
    /// Numbers.
    len: usize,
    bytes: usize,
}

impl<D: Driver> Device<D> {
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Numbers it was asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<D: Driver> Drop for Device<D> {
    fn drop(&mut self) {
        self.memory.give_back(self.ptr, self.bytes);
    }
}

impl<D: Driver> std::fmt::Debug for Device<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} numbers at {:#x}", self.len, self.ptr.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::driver::{Arguments, Launch, MatrixMap, TensorMap};
    use crate::backend::cuda::images::Capability;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// A device of nothing but addresses, with room for so many bytes.
    #[derive(Default)]
    struct Addresses {
        room: usize,
        next: AtomicUsize,
        taken: Mutex<BTreeMap<DevicePtr, usize>>,
        allocations: AtomicUsize,
    }

    impl Driver for Addresses {
        type Function = ();
        type Event = ();
        fn device(&self) -> String {
            "addresses".to_owned()
        }

        fn capability(&self) -> Capability {
            Capability { major: 8, minor: 0 }
        }

        fn multiprocessors(&self) -> usize {
            1
        }

        fn tensor_map(&self, of: &MatrixMap) -> Result<TensorMap, DriverError> {
            Err(DriverError::TensorMap(*of))
        }
        fn alloc(&self, bytes: usize) -> Result<DevicePtr, DriverError> {
            self.allocations.fetch_add(1, Ordering::Relaxed);
            let mut taken = self.taken.lock().unwrap();
            if taken.values().sum::<usize>() + bytes > self.room {
                return Err(DriverError::OutOfMemory { bytes });
            }
            // Blocks lie side by side, as they may on a device.
            let at = DevicePtr(256 + self.next.fetch_add(bytes.next_multiple_of(ALIGN), Ordering::Relaxed) as u64);
            taken.insert(at, bytes);
            Ok(at)
        }
        unsafe fn free(&self, ptr: DevicePtr) {
            self.taken.lock().unwrap().remove(&ptr).expect("a block");
        }
        unsafe fn copy_to_device(&self, _: DevicePtr, _: &[u8]) -> Result<(), DriverError> {
            Ok(())
        }
        unsafe fn copy_from_device(&self, _: &mut [u8], _: DevicePtr) -> Result<(), DriverError> {
            Ok(())
        }
        unsafe fn fill_zero(&self, _: DevicePtr, _: usize) -> Result<(), DriverError> {
            Ok(())
        }
        fn function(&self, _: &'static str, _: &'static str) -> Result<(), DriverError> {
            Ok(())
        }
        unsafe fn launch(&self, _: &(), _: Launch, _: Arguments) -> Result<(), DriverError> {
            Ok(())
        }
        fn synchronize(&self) -> Result<(), DriverError> {
            Ok(())
        }
        fn record(&self) -> Result<(), DriverError> {
            Ok(())
        }
        fn elapsed(&self, _: &(), _: &()) -> Result<Duration, DriverError> {
            Ok(Duration::ZERO)
        }
    }

    fn memory(room: usize) -> Arc<Memory<Addresses>> {
        Memory::new(Addresses { room, ..Addresses::default() })
    }

    fn allocations(memory: &Memory<Addresses>) -> usize {
        memory.driver.allocations.load(Ordering::Relaxed)
    }

    #[test]
    fn pieces_never_overlap_and_come_together_again() {
        let memory = memory(1 << 30);
        let mut pieces: Vec<Device<Addresses>> = Vec::new();
        let mut state = 1u64;
        for _ in 0..4000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let draw = (state >> 33) as usize;
            if draw % 5 < 3 || pieces.is_empty() {
                let new = memory.numbers::<u8>(1 + draw % 70_000).unwrap();
                let end = |d: &Device<Addresses>| d.ptr().0 + d.bytes as u64;
                assert!(new.ptr().0 % ALIGN as u64 == 0 && new.bytes >= new.len());
                assert!(pieces.iter().all(|p| end(p) <= new.ptr().0 || end(&new) <= p.ptr().0));
                pieces.push(new);
            } else {
                pieces.swap_remove(draw % pieces.len());
            }
        }
        pieces.clear();
        let arena = memory.arena();
        assert_eq!(arena.free, arena.blocks, "every block is whole again");
        assert!(arena.blocks.len() < 30, "{} blocks", arena.blocks.len());
    }

    #[test]
    fn a_closed_arena_asks_nothing_of_the_driver() {
        let memory = memory(1 << 30);
        memory.reserve(1 << 20).unwrap();
        assert_eq!(allocations(&memory), 1);
        let refused = memory.closed(|| {
            let all: Vec<_> = (0..16).map(|_| memory.numbers::<u8>(1 << 16).unwrap()).collect();
            assert_eq!(all.len(), 16);
            memory.numbers::<u8>(1000)
        });
        assert_eq!(refused.unwrap_err(), DriverError::OutOfMemory { bytes: 1024 });
        assert_eq!(allocations(&memory), 1);
        // What was denied is there the next time, and when the arena is open everything is.
        memory.reserve(1 << 20).unwrap();
        assert!(memory.arena().longest_free() >= (1 << 20) + 1024);
        assert!(memory.numbers::<u8>(8 << 20).is_ok());
    }

    #[test]
    fn a_reservation_that_is_there_costs_nothing_and_a_larger_one_takes_its_place() {
        let memory = memory(5 << 20);
        memory.reserve(2 << 20).unwrap();
        memory.reserve(1 << 20).unwrap();
        assert_eq!(allocations(&memory), 1);
        memory.reserve(4 << 20).unwrap();
        assert_eq!(memory.arena().blocks.len(), 1, "two blocks would not have fitted");
    }

    #[test]
    fn a_full_device_gets_back_what_is_idle_and_then_gives_exactly_what_is_needed() {
        let memory = memory(1 << 20);
        drop(memory.numbers::<u8>(900 << 10).unwrap());
        let kept = memory.numbers::<u8>(1 << 20).unwrap();
        assert!(matches!(memory.numbers::<u8>(1), Err(DriverError::OutOfMemory { .. })));
        assert!(matches!(memory.reserve(1), Err(DriverError::OutOfMemory { .. })));
        drop(kept);
        let half = memory.numbers::<u8>(1 << 19).unwrap();
        assert_eq!(half.len(), 1 << 19);
        drop(half);
        let driver = &memory.driver;
        assert!(driver.taken.lock().unwrap().values().sum::<usize>() <= 1 << 20);
    }

    #[test]
    fn absurd_sizes_are_out_of_memory() {
        let memory = memory(1 << 20);
        assert!(matches!(memory.numbers::<u64>(usize::MAX / 4), Err(DriverError::OutOfMemory { .. })));
        assert!(matches!(memory.reserve(usize::MAX), Err(DriverError::OutOfMemory { .. })));
    }
}
