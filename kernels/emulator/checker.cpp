// checker.cpp: see checker.h.
#include "checker.h"

#include <dlfcn.h>
#include <stdio.h>

namespace emu {

enum : uintptr_t { PAGE = 4096 };

Checker::Checker() : shared_(SHARED_BYTES / GRAIN) {}

void Checker::begin_launch(const emu_config& config, const char* kernel) {
    kernel_ = kernel;
    launch_++;
    allocations_ = allocations_of(config.device);
    reports_.clear();
    seen_.clear();
    if (global_.size() > 4096) global_.clear();  // 16 MiB of device memory; the cells of old launches say nothing
    last_cells_ = nullptr;
}

void Checker::begin_block(const Block& b, u32 number) {
    block_ = &b;
    block_number_ = number;
    block_tag_++;
    n_threads_ = b.n_threads;
    clocks_.assign((size_t)n_threads_ * n_threads_, 0);
    for (u32 t = 0; t < n_threads_; t++) clock(t)[t] = 1;
}

void Checker::join(const std::vector<u32>& threads) {
    std::vector<u32> all(n_threads_, 0);
    for (u32 t : threads)
        for (u32 u = 0; u < n_threads_; u++) all[u] = max(all[u], clock(t)[u]);
    for (u32 t : threads) {
        memcpy(clock(t), all.data(), n_threads_ * sizeof(u32));
        clock(t)[t]++;
    }
}

std::vector<u32> Checker::clock_of(u32 thread) {
    std::vector<u32> copy(clock(thread), clock(thread) + n_threads_);
    clock(thread)[thread]++;
    return copy;
}

void Checker::learn(u32 thread, const std::vector<u32>& other) {
    for (u32 u = 0; u < other.size(); u++) clock(thread)[u] = max(clock(thread)[u], other[u]);
}

void Checker::merge(std::vector<u32>& into, const std::vector<u32>& other) {
    if (into.size() < other.size()) into.resize(other.size());
    for (u32 u = 0; u < other.size(); u++) into[u] = max(into[u], other[u]);
}

// ---- shared memory ----

static const char* read_too_early(Writer by) {
    return by == TENSOR_COPY ? "read before the tensor copy has been waited for"
                             : "read before cp.async has been waited for";
}
static const char* written_too_early(Writer by) {
    return by == TENSOR_COPY ? "write over a tensor copy under way" : "write over a cp.async under way";
}

bool Checker::in_bounds(u64 at, u32 bytes) const {
    return at + bytes <= block_->dynamic_bytes || (at >= STATIC_SHARED_AT && at + bytes <= block_->static_end);
}

void Checker::shared_read(u64 at, u32 bytes, u32 thread, const void* caller, bool by_wgmma) {
    const void* p = block_->shared + at;
    if (!in_bounds(at, bytes)) return report("shared memory read out of bounds", caller, thread, thread, p);
    for (u64 i = at / GRAIN; i < (at + bytes + GRAIN - 1) / GRAIN; i++) {
        SharedCell& c = shared_[i];
        if (c.block != block_tag_) {
            report("read of uninitialised shared memory", caller, thread, thread, p);
            continue;
        }
        if (by_wgmma && c.by != TENSOR_COPY) {
            // gpu.cuh has no fence.proxy.async, which would allow it.
            report("wgmma reads what no tensor copy has brought", caller, thread, c.writer.thread, p);
        }
        if (c.under_way) report(read_too_early(c.by), caller, thread, c.writer.thread, p);
        else if (!is_past(c.writer, thread)) {
            report("race: read after unsynchronised write", caller, thread, c.writer.thread, p);
        }
        // A reader whose read is in this thread's past is spoken for by this thread.
        u32 slot = 0;
        while (slot < c.n_readers && c.reader[slot].thread != thread && !is_past(c.reader[slot], thread)) slot++;
        if (slot == 3) slot = (thread * 7 + (u32)at) % 3;
        else if (slot == c.n_readers) c.n_readers++;
        c.reader[slot] = now(thread);
    }
}

void Checker::shared_write(u64 at, u32 bytes, u32 thread, const void* caller, Writer by) {
    const void* p = block_->shared + at;
    if (!in_bounds(at, bytes)) return report("shared memory write out of bounds", caller, thread, thread, p);
    for (u64 i = at / GRAIN; i < (at + bytes + GRAIN - 1) / GRAIN; i++) {
        SharedCell& c = shared_[i];
        if (c.block == block_tag_) {
            if (c.under_way) report(written_too_early(c.by), caller, thread, c.writer.thread, p);
            else if (!is_past(c.writer, thread)) {
                report("race: write after unsynchronised write", caller, thread, c.writer.thread, p);
            }
            for (u32 r = 0; r < c.n_readers; r++) {
                if (is_past(c.reader[r], thread)) continue;
                report("race: write after unsynchronised read", caller, thread, c.reader[r].thread, p);
                break;
            }
        }
        c = SharedCell{block_tag_, now(thread), by, by != A_STORE, 0, {}};
    }
}

void Checker::copy_has_landed(u64 at, u32 bytes, u32 thread) {
    for (u64 i = at / GRAIN; i < (at + bytes + GRAIN - 1) / GRAIN; i++) {
        shared_[i].under_way = false;
        shared_[i].writer = now(thread);
    }
}

// The moment of its writing stays that of its issue: who waits at the copy's mbarrier has it in the past.
void Checker::tensor_copy_has_landed(u64 at, u32 bytes) {
    for (u64 i = at / GRAIN; i < (at + bytes + GRAIN - 1) / GRAIN; i++) shared_[i].under_way = false;
}

// ---- global memory ----

Checker::GlobalCell* Checker::cells_of_page(uintptr_t page) {
    if (last_cells_ && page == last_page_) return last_cells_;
    auto& cells = global_[page];
    if (cells.empty()) cells.resize(PAGE / GRAIN);
    last_page_ = page;
    return last_cells_ = cells.data();
}

void Checker::global_access(const void* p, u32 bytes, u32 thread, const void* caller, bool write) {
    uintptr_t start;
    Allocation* a = find_allocation(allocations_, p, bytes, &start);
    if (!a) {
        const char* what = write ? "device memory write out of bounds" : "device memory read out of bounds";
        return report(what, caller, thread, thread, p);
    }
    for (uintptr_t at = (uintptr_t)p / GRAIN * GRAIN; at < (uintptr_t)p + bytes; at += GRAIN) {
        if (u8* written = a->written.get()) {
            u8& flag = written[(at - start) / GRAIN];
            if (!write && !flag) report("read of uninitialised device memory", caller, thread, thread, p);
            flag |= write;
        }
        GlobalCell& c = cells_of_page(at / PAGE)[at % PAGE / GRAIN];
        if (c.launch != launch_) {
            c = GlobalCell{};
            c.launch = launch_;
        }
        auto race = [&](const GlobalMoment& m, const char* within, const char* between) {
            if (!is_past(m, thread)) report(m.block == block_number_ ? within : between, caller, thread, m.thread, p);
        };
        if (c.written) {
            race(c.writer, "race: device memory access after unsynchronised write",
                 "race between blocks: access after write");
        }
        GlobalMoment moment{block_number_, clock(thread)[thread], (u16)thread};
        if (write) {
            if (c.read) {
                const char* within = "race: device memory write after unsynchronised read";
                race(c.first_reader, within, "race between blocks: write after read");
                race(c.last_reader, within, "race between blocks: write after read");
            }
            c.written = true;
            c.read = false;
            c.writer = moment;
        } else {
            if (!c.read || is_past(c.first_reader, thread)) c.first_reader = moment;
            c.last_reader = moment;
            c.read = true;
        }
    }
}

// ---- both ----

void Checker::access(const void* p, u32 bytes, const void* caller, bool write) {
    u64 at = (u64)(static_cast<const u8*>(p) - block_->shared);
    u32 thread = current_thread->number;
    if (at < SHARED_BYTES) {
        if (write) shared_write(at, bytes, thread, caller, A_STORE);
        else shared_read(at, bytes, thread, caller);
    } else if (is_device_memory(p)) {
        global_access(p, bytes, thread, caller, write);
    } else {
        return;  // the thread's own stack, or the emulator's
    }
    bool power_of_two = (bytes & (bytes - 1)) == 0;
    if (power_of_two && bytes <= 16 && (uintptr_t)p % bytes) report("misaligned access", caller, thread, thread, p);
}

static std::string address(const Block& b, const void* p) {
    char text[40];
    u64 at = (u64)(static_cast<const u8*>(p) - b.shared);
    if (at < SHARED_BYTES) snprintf(text, sizeof text, "shared+0x%llx", at);
    else snprintf(text, sizeof text, "device+0x%llx", device_offset(p));
    return text;
}

void Checker::misaligned(const void* p, u32 alignment, const char* file, u32 line) {
    u64 at = (u64)(static_cast<const u8*>(p) - block_->shared);
    if (at >= SHARED_BYTES && !is_device_memory(p)) return;
    std::string where = std::string(file) + ":" + std::to_string(line);
    if (!seen_.insert("misaligned " + where).second) return;
    reports_.push_back(kernel_ + ": misaligned access: " + address(*block_, p) + " is not a multiple of " +
                       std::to_string(alignment) + ", at " + where);
}

// File and line of a return address, by addr2line where it is installed.
static std::string source_of(const void* caller) {
    Dl_info info;
    if (!dladdr(caller, &info) || !info.dli_fname) return "an unknown place";
    unsigned long at = (unsigned long)((const u8*)caller - (const u8*)info.dli_fbase) - 1;
    char command[600], line[400] = "";
    snprintf(command, sizeof command, "addr2line -e '%s' 0x%lx 2>/dev/null", info.dli_fname, at);
    if (FILE* f = popen(command, "r")) {
        bool found = fgets(line, sizeof line, f) && line[0] != '?';
        pclose(f);
        line[strcspn(line, "\n")] = 0;
        if (found) return line;
    }
    snprintf(line, sizeof line, "%s+0x%lx", info.dli_fname, at);
    return line;
}

void Checker::report(const char* kind, const void* caller, u32 thread, u32 other, const void* p) {
    char key[120];
    snprintf(key, sizeof key, "%s %p", kind, caller);
    if (reports_.size() >= 20 || !seen_.insert(key).second) return;
    std::string line = kernel_ + ": " + kind + ": " + address(*block_, p) + ", thread " + std::to_string(thread);
    if (other != thread) line += " against " + std::to_string(other);
    char where[80];
    snprintf(where, sizeof where, ", block (%u,%u,%u), at ", block_->index.x, block_->index.y, block_->index.z);
    reports_.push_back(line + where + source_of(caller));
}

}  // namespace emu
