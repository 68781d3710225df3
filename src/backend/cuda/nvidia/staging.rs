//! Uploads through pinned memory: the numbers are copied into one of two halves of a buffer that the GPU reads by itself,
//! so that the caller's memory is free again at once and reading a file overlaps with the bus.

use super::api::{Api, EVENT_DISABLE_TIMING};
use crate::backend::cuda::DriverError;
use cudarc::driver::sys::{CUevent, CUstream};
use std::ffi::c_void;

/// Bytes of one half.
const HALF: usize = 16 << 20;
/// Pieces begin at multiples of this.
const ALIGN: usize = 256;

/// Which bytes of the two halves are taken next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    half: usize,
    used: usize,
}

impl Cursor {
    /// Room for a piece of at most `wanted` bytes: its offset in the buffer, its length, and whether it begins the other
    /// half, so that what is still being read there must be waited for.
    fn take(&mut self, wanted: usize, half_bytes: usize) -> (usize, usize, bool) {
        let switched = self.used >= half_bytes;
        if switched {
            *self = Cursor { half: 1 - self.half, used: 0 };
        }
        let offset = self.half * half_bytes + self.used;
        let len = wanted.min(half_bytes - self.used);
        self.used = (self.used + len).next_multiple_of(ALIGN).min(half_bytes);
        (offset, len, switched)
    }
}

/// The buffer. Its functions want the device's context to be current.
pub(super) struct Staging {
    memory: *mut u8,
    cursor: Cursor,
    /// When the GPU had read each half the last time it was left.
    read: [CUevent; 2],
    left: [bool; 2],
}

impl Staging {
    /// None where the system gives no pinned memory: uploads then take the slow way.
    pub fn new(api: &Api) -> Option<Staging> {
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: a pointer to a local.
        if unsafe { (api.host_alloc)(&mut memory, 2 * HALF, 0) } != 0 || memory.is_null() {
            return None;
        }
        let nothing = [std::ptr::null_mut(); 2];
        let mut staging = Staging { memory: memory.cast(), cursor: Cursor::default(), read: nothing, left: [false; 2] };
        for event in &mut staging.read {
            // SAFETY: a pointer to a handle.
            if unsafe { (api.event_create)(event, EVENT_DISABLE_TIMING) } != 0 {
                staging.free(api);
                return None;
            }
        }
        Some(staging)
    }

    /// Copies `from` to the device, in order with the stream.
    ///
    /// # Safety
    /// `to ..+ from.len()` is device memory.
    pub unsafe fn upload(&mut self, api: &Api, stream: CUstream, to: u64, from: &[u8]) -> Result<(), DriverError> {
        let mut done = 0;
        while done < from.len() {
            let before = self.cursor;
            let (offset, len, switched) = self.cursor.take(from.len() - done, HALF);
            if switched {
                // SAFETY: events and stream are alive.
                api.check(unsafe { (api.event_record)(self.read[before.half], stream) }, "an upload")?;
                self.left[before.half] = true;
                if self.left[self.cursor.half] {
                    // SAFETY: as above.
                    api.check(unsafe { (api.event_synchronize)(self.read[self.cursor.half]) }, "an upload")?;
                }
            }
            let piece = &from[done..done + len];
            // SAFETY: `offset ..+ len` lies inside the buffer, and the GPU has read what was there.
            let code = unsafe {
                let at = self.memory.add(offset);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), at, len);
                (api.copy_to_device)(to + done as u64, at.cast(), len, stream)
            };
            api.check(code, "an upload")?;
            done += len;
        }
        Ok(())
    }

    /// Gives the memory back. The stream has come to rest.
    pub fn free(&mut self, api: &Api) {
        // SAFETY: both were made by `new`, and this is the last use of them.
        unsafe {
            for event in std::mem::replace(&mut self.read, [std::ptr::null_mut(); 2]) {
                if !event.is_null() {
                    (api.event_destroy)(event);
                }
            }
            (api.host_free)(std::mem::replace(&mut self.memory, std::ptr::null_mut()).cast());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that uploads of these lengths are cut into.
    fn pieces(lengths: &[usize], half: usize) -> Vec<(usize, usize, bool)> {
        let mut cursor = Cursor::default();
        let mut pieces = Vec::new();
        for length in lengths {
            let mut left = *length;
            while left > 0 {
                let piece = cursor.take(left, half);
                left -= piece.1;
                pieces.push(piece);
            }
        }
        pieces
    }

    #[test]
    fn small_uploads_lie_side_by_side() {
        assert_eq!(pieces(&[10, 300, 1], 1024), [(0, 10, false), (256, 300, false), (768, 1, false)]);
    }

    #[test]
    fn a_large_upload_alternates_between_the_halves() {
        assert_eq!(pieces(&[2500], 1024), [(0, 1024, false), (1024, 1024, true), (0, 452, true)]);
    }

    #[test]
    fn a_half_that_is_nearly_full_takes_what_fits() {
        assert_eq!(pieces(&[1000, 30, 5], 1024), [(0, 1000, false), (1024, 30, true), (1280, 5, false)]);
        assert_eq!(pieces(&[700, 600], 1024), [(0, 700, false), (768, 256, false), (1024, 344, true)]);
    }
}
