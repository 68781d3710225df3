// instrument.cpp: what -fsanitize=thread and -fsanitize=alignment make the compiler call in the instrumented build of a
// kernel. These functions are the runtime: no sanitizer's library is linked, so nothing special is asked of the linker.
// The names are the compiler's.
#include "block.h"
#include "checker.h"

using namespace emu;

static inline Checker* checker() { return current_block && current_thread ? block().checker : nullptr; }

static inline void seen(void* p, u32 bytes, const void* caller, bool write) {
    if (Checker* c = checker()) c->access(p, bytes, caller, write);
}

#define EMU_HOOK(bytes) \
    void __tsan_read##bytes(void* p) { seen(p, bytes, __builtin_return_address(0), false); } \
    void __tsan_write##bytes(void* p) { seen(p, bytes, __builtin_return_address(0), true); } \
    void __tsan_unaligned_read##bytes(void* p) { seen(p, bytes, __builtin_return_address(0), false); } \
    void __tsan_unaligned_write##bytes(void* p) { seen(p, bytes, __builtin_return_address(0), true); }

extern "C" {
EMU_HOOK(1)
EMU_HOOK(2)
EMU_HOOK(4)
EMU_HOOK(8)
EMU_HOOK(16)
void __tsan_read_range(void* p, size_t n) { seen(p, (u32)n, __builtin_return_address(0), false); }
void __tsan_write_range(void* p, size_t n) { seen(p, (u32)n, __builtin_return_address(0), true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_init() {}

// The beginning of the structures that compilers pass (ubsan_handlers.h of LLVM describes them).
struct emu_source_location {
    const char* file;
    u32 line, column;
};
struct emu_type_mismatch {
    emu_source_location location;
    const void* type;
    u8 log_alignment, kind;
};
// A GPU faults on a misaligned access of 8 or 16 bytes; x86 does not.
void __ubsan_handle_type_mismatch_v1(emu_type_mismatch* m, void* p) {
    if (Checker* c = checker()) c->misaligned(p, 1u << m->log_alignment, m->location.file, m->location.line);
}
}
