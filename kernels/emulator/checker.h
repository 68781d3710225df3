// checker.h: the race, bounds, initialisation and alignment checker of one launch.
//
// Every thread t has a vector clock: clock[t][u] is the last moment of thread u that happened before what t does now.
// Every 2 bytes of memory remember who wrote them last, at which moment of that thread, and who has read them since. An
// access is a race when what it conflicts with is not in the accessing thread's past. Barriers join clocks.
#pragma once
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "block.h"
#include "memory.h"

namespace emu {

enum : u32 { GRAIN = 2 };  // bytes that share a shadow cell

// Who writes to shared memory.
enum Writer : u8 { A_STORE, CP_ASYNC, TENSOR_COPY };

class Checker {
  public:
    Checker();

    void begin_launch(const emu_config& config, const char* kernel);
    void begin_block(const Block& b, u32 number);

    // The threads (by number) have met at a barrier: each now has the others' past as its own.
    void join(const std::vector<u32>& threads);

    // A load or store of the kernel, wherever it goes.
    void access(const void* p, u32 bytes, const void* caller, bool write);
    void misaligned(const void* p, u32 alignment, const char* file, u32 line);

    void shared_read(u64 at, u32 bytes, u32 thread, const void* caller, bool by_wgmma = false);
    void shared_write(u64 at, u32 bytes, u32 thread, const void* caller, Writer by);
    void copy_has_landed(u64 at, u32 bytes, u32 thread);
    void tensor_copy_has_landed(u64 at, u32 bytes);

    // What a thread knows of the others, at this moment; what it does next is later.
    std::vector<u32> clock_of(u32 thread);
    // From now on it knows what `clock` says, too; both may be empty.
    void learn(u32 thread, const std::vector<u32>& clock);
    static void merge(std::vector<u32>& into, const std::vector<u32>& clock);
    void global_access(const void* p, u32 bytes, u32 thread, const void* caller, bool write);

    // One line each; empty where nothing was found.
    const std::vector<std::string>& reports() const { return reports_; }

  private:
    // A moment of a thread of the block.
    struct Moment {
        u32 clock;
        u16 thread;
    };
    struct SharedCell {
        u32 block;  // the cell is about this block; otherwise it was never written
        Moment writer;
        Writer by;
        bool under_way;  // a copy not yet waited for
        u8 n_readers;
        Moment reader[3];
    };
    struct GlobalMoment {
        u32 block, clock;
        u16 thread;
    };
    struct GlobalCell {
        u32 launch;
        bool written, read;
        GlobalMoment writer, first_reader, last_reader;
    };

    u32* clock(u32 thread) { return &clocks_[(size_t)thread * n_threads_]; }
    Moment now(u32 thread) { return {clock(thread)[thread], (u16)thread}; }
    bool is_past(Moment m, u32 thread) { return clock(thread)[m.thread] >= m.clock; }
    bool is_past(const GlobalMoment& m, u32 thread) {
        return m.block == block_number_ && clock(thread)[m.thread] >= m.clock;
    }
    bool in_bounds(u64 at, u32 bytes) const;
    GlobalCell* cells_of_page(uintptr_t page);
    void report(const char* kind, const void* caller, u32 thread, u32 other, const void* p);

    const Block* block_ = nullptr;
    std::string kernel_;
    u32 n_threads_ = 0, block_number_ = 0, block_tag_ = 0, launch_ = 0;
    std::vector<u32> clocks_;  // [n_threads, n_threads]
    std::vector<SharedCell> shared_;
    std::unordered_map<uintptr_t, std::vector<GlobalCell>> global_;
    uintptr_t last_page_ = 0;
    GlobalCell* last_cells_ = nullptr;
    Allocations allocations_;
    std::vector<std::string> reports_;
    std::unordered_set<std::string> seen_;
};

}  // namespace emu
