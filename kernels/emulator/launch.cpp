// launch.cpp: kernels by name, and grids of blocks.
#include <stdio.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <unordered_map>

#include "block.h"
#include "checker.h"
#include "fiber.h"

namespace emu {

namespace {

struct Build {
    Thunk run = nullptr;
};
struct KernelEntry {
    std::string name;
    Build fast, checked;
    u32 max_threads, max_shared;
    std::vector<u32> argument_bytes;
};

std::unordered_map<std::string, KernelEntry>& kernels() {
    static std::unordered_map<std::string, KernelEntry> all;
    return all;
}

// Blocks and checkers are large: they are kept for the next launch.
template <class T> class Pool {
  public:
    std::unique_ptr<T> take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (idle_.empty()) return std::make_unique<T>();
        auto one = std::move(idle_.back());
        idle_.pop_back();
        return one;
    }
    void put(std::unique_ptr<T> one) {
        std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(one));
    }

  private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<T>> idle_;
};
Pool<Block> blocks;
Pool<Checker> checkers;

int refuse(char* error, size_t error_bytes, int status, const std::string& why) {
    snprintf(error, error_bytes, "%s", why.c_str());
    return status;
}

}  // namespace

Registration::Registration(const char* name, bool checked, Thunk run, u32 max_threads, bool sm90,
                           const u32* argument_bytes, u32 arguments) {
    KernelEntry& k = kernels()[name];
    k.name = name;
    (checked ? k.checked : k.fast).run = run;
    k.max_threads = max_threads;
    k.max_shared = sm90 ? SHARED_LIMIT_SM90 : SHARED_LIMIT;
    k.argument_bytes.assign(argument_bytes, argument_bytes + arguments);
}

Block::Block() {
    // A page behind the arena and the unused ends of the stacks stay untouched and cost nothing.
    shared = (u8*)mmap(nullptr, SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stacks = (u8*)mmap(nullptr, (size_t)STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shared == MAP_FAILED || stacks == MAP_FAILED) throw std::bad_alloc();
}

static void run_block(Block& b, u32 number) {
    u32 x = b.grid_dim.x, y = b.grid_dim.y;
    b.index = {number % x, number / x % y, number / x / y};
    b.statics.clear();
    b.static_end = STATIC_SHARED_AT;
    memset(b.shared, 0xff, b.dynamic_bytes);
    if (b.checker) b.checker->begin_block(b, number);
    run_threads(b);
}

// The order in which the blocks of a grid run: a GPU promises none.
static std::vector<u32> block_order(Block& b, u32 n) {
    std::vector<u32> order(n);
    std::iota(order.begin(), order.end(), 0);
    if (b.config.order == 1) std::reverse(order.begin(), order.end());
    if (b.config.order == 2)
        for (u32 i = n; i > 1; i--) std::swap(order[i - 1], order[b.random() % i]);
    return order;
}

}  // namespace emu

using namespace emu;

const void* emu_kernel(const char* name) {
    auto it = kernels().find(name);
    return it == kernels().end() ? nullptr : &it->second;
}

int emu_launch(const void* kernel, const uint32_t grid[3], const uint32_t block_size[3], uint32_t shared_bytes,
               void** arguments, const uint32_t* argument_bytes, uint32_t n_arguments, const emu_config* config,
               char* error, size_t error_bytes) {
    const KernelEntry& k = *static_cast<const KernelEntry*>(kernel);
    Thunk run = config->check ? k.checked.run : k.fast.run;
    if (!run) return refuse(error, error_bytes, EMU_NO_SUCH_KERNEL, k.name + " was not built for this mode");
    u64 threads = (u64)block_size[0] * block_size[1] * block_size[2];
    u64 n_blocks = (u64)grid[0] * grid[1] * grid[2];
    if (threads == 0 || threads > k.max_threads) {
        return refuse(error, error_bytes, EMU_BAD_LAUNCH,
                      k.name + ": " + std::to_string(threads) + " threads in a block, but it allows 1 to " +
                          std::to_string(k.max_threads));
    }
    if (n_blocks == 0 || grid[0] > 0x7fffffff || grid[1] > 65535 || grid[2] > 65535 || n_blocks > 0xffffffff) {
        return refuse(error, error_bytes, EMU_BAD_LAUNCH, k.name + ": a grid that no device allows");
    }
    if (shared_bytes > k.max_shared) {
        return refuse(error, error_bytes, EMU_BAD_LAUNCH,
                      k.name + ": " + std::to_string(shared_bytes) + " bytes of dynamic shared memory");
    }
    if (n_arguments != k.argument_bytes.size()) {
        return refuse(error, error_bytes, EMU_BAD_LAUNCH,
                      k.name + " takes " + std::to_string(k.argument_bytes.size()) + " arguments, not " +
                          std::to_string(n_arguments));
    }
    for (u32 i = 0; i < n_arguments; i++) {
        if (argument_bytes[i] == k.argument_bytes[i]) continue;
        return refuse(error, error_bytes, EMU_BAD_LAUNCH,
                      k.name + ": argument " + std::to_string(i) + " has " + std::to_string(argument_bytes[i]) +
                          " bytes, not " + std::to_string(k.argument_bytes[i]));
    }

    auto b = blocks.take();
    std::unique_ptr<Checker> checker;
    if (config->check) {
        checker = checkers.take();
        checker->begin_launch(*config, k.name.c_str());
    }
    b->block_dim = {block_size[0], block_size[1], block_size[2]};
    b->grid_dim = {grid[0], grid[1], grid[2]};
    b->dynamic_bytes = shared_bytes;
    b->n_threads = (u32)threads;
    b->run = run;
    b->arguments = arguments;
    b->config = *config;
    b->random_state = (config->seed + 0x9E3779B97F4A7C15ull) | 1;
    b->checker = checker.get();
    b->failed = false;
    for (u32 number : block_order(*b, (u32)n_blocks)) {
        run_block(*b, number);
        if (b->failed) break;
    }
    std::string message;
    if (checker) {
        for (const std::string& r : checker->reports()) message += r + "\n";
        checkers.put(std::move(checker));
    }
    int status = message.empty() ? EMU_OK : EMU_CHECKER_REPORT;
    if (b->failed) {
        message += k.name + ": " + b->error;
        status = EMU_KERNEL_FAILED;
    }
    blocks.put(std::move(b));
    return refuse(error, error_bytes, status, message);
}
